-- Callers name views, never tables.
--
-- fence_runner   runs the users' SQL from now on, inside the fence's functions. It owns no table and no view, may read the
--                views of the schemas views_…, and has no right on schema retail. Nobody logs in as it.
-- fence_reader   owns the views. What a view reads is checked with its owner's rights and under its owner's policies, so the
--                rows are those of the policies on the tables, as before.
--
-- A row's address, the transaction that wrote it and TABLESAMPLE count the rows of others; a view has none of them. The names
-- of the tables stay as they are: what loads or administers them does not change. fence.over_views() reads retail.orders in
-- a statement as views_retail.orders.

DO $do$
DECLARE
    actual pg_roles%ROWTYPE;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'fence_runner') THEN
        BEGIN
            CREATE ROLE fence_runner NOLOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- created by a migration of another database in this very moment
        END;
    END IF;
    SELECT * INTO STRICT actual FROM pg_roles WHERE rolname = 'fence_runner';
    IF actual.rolcanlogin OR actual.rolsuper OR actual.rolcreatedb OR actual.rolcreaterole
       OR actual.rolreplication OR actual.rolbypassrls OR actual.rolinherit THEN
        RAISE EXCEPTION 'role fence_runner exists with attributes that Storefence does not give it'
            USING ERRCODE = 'invalid_role_specification',
                  HINT = 'ALTER ROLE fence_runner NOLOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS';
    END IF;
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
       AND NOT EXISTS (SELECT FROM pg_auth_members m
                        WHERE m.roleid = 'fence_runner'::regrole AND m.member = (SELECT oid FROM pg_roles WHERE rolname = current_user)
                          AND m.set_option AND NOT m.inherit_option) THEN
        IF NOT pg_has_role(current_user, 'fence_runner', 'MEMBER WITH ADMIN OPTION') THEN
            RAISE EXCEPTION 'role % has no ADMIN option on role fence_runner', current_user
                USING ERRCODE = 'insufficient_privilege',
                      HINT = format('GRANT fence_runner TO %I WITH ADMIN OPTION', current_user);
        END IF;
        EXECUTE format('GRANT fence_runner TO %I WITH SET TRUE, INHERIT FALSE', current_user);
    END IF;
END $do$;

CREATE SCHEMA views_retail AUTHORIZATION fence_reader;

-- A plain view has the plans of its table. A view over vectors is a security barrier: an approximate index (HNSW, IVFFlat)
-- gives neighbours of all tenants before the policy looks at them, and what is missing counts the hidden ones. No order of an
-- index passes a barrier.
DO $do$
DECLARE
    item record;
    vector_schema name := (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector');
BEGIN
    IF NOT has_schema_privilege('fence_runner', vector_schema, 'USAGE') THEN
        BEGIN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO fence_runner', vector_schema);
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE EXCEPTION 'schema % of extension vector cannot be used', vector_schema
                USING ERRCODE = 'insufficient_privilege',
                      HINT = format('GRANT USAGE ON SCHEMA %I TO PUBLIC', vector_schema);
        END;
    END IF;
    SET LOCAL ROLE fence_reader;
    COMMENT ON SCHEMA views_retail IS 'What callers see of schema retail. Their statements name these views, whether they write retail.orders or orders.';
    GRANT USAGE ON SCHEMA views_retail TO fence_login, fence_runner;
    FOR item IN
        SELECT * FROM (VALUES
            ('tenants',       false, 'tenant_key, tenant_id, display_name'),
            ('stores',        false, 'store_id, tenant_key, store_name, display_name, is_online'),
            ('categories',    false, 'category_id, tenant_key, category_name'),
            ('product_types', false, 'type_id, tenant_key, category_id, type_name'),
            ('products',      false, 'product_id, tenant_key, sku, product_name, category_id, type_id, cost, base_price, product_description'),
            ('customers',     false, 'customer_id, primary_store_id, first_name, last_name, email, phone, created_at'),
            ('orders',        false, 'order_id, store_id, customer_id, order_date'),
            ('order_items',   false, 'order_item_id, order_id, store_id, product_id, quantity, unit_price, discount_percent, discount_amount, total_amount'),
            ('inventory',     false, 'store_id, product_id, stock_level, updated_at'),
            ('product_description_embeddings', true, 'product_id, tenant_key, description_embedding, model, content_hash, updated_at, search_document, description_bits')
        ) v (relation, barrier, columns)
    LOOP
        EXECUTE format('CREATE VIEW views_retail.%I %s AS SELECT %s FROM retail.%I',
                       item.relation, CASE WHEN item.barrier THEN 'WITH (security_barrier)' END, item.columns, item.relation);
        EXECUTE format('GRANT SELECT ON views_retail.%I TO fence_runner', item.relation);
    END LOOP;
    RESET ROLE;
END $do$;

SET LOCAL ROLE fence_runner;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON ROUTINES FROM PUBLIC;
RESET ROLE;

SET LOCAL ROLE fence_owner;
-- The statement of a user with the views' schemas in place of the tables': retail.orders becomes views_retail.orders, inside
-- of no string, comment or other name. It decides which name stands for what and nothing about rights: a text that it
-- misreads is refused for want of a right, or names a relation that is not there.
--  parts      What stands between strings, quoted names and comments, and these. Of a string with a tag ($a$) it knows nothing.
--  names      In retail every name is a view's, so that one which does not exist is said not to exist; elsewhere those that have
--             a view, since the schema of an extension has its types and functions too. A database's name may stand before it.
--  aliased    An alias or a common table expression has the schema's name: then only what follows FROM or JOIN is the schema.
CREATE FUNCTION fence.over_views(statement text) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $fn$
DECLARE
    schemas text;
    names   text;
    parts   text[];
    kinds   boolean[];
    behind  text := '()';
    result  text := '';
BEGIN
    SELECT string_agg(s, '|'),
           string_agg(CASE WHEN s = 'retail' THEN s ELSE concat(s, '(?="?\s*\.\s*"?(?:', (
               SELECT string_agg(c.relname, '|') FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind = 'v'), ')(?![\w$]))') END, '|')
      INTO schemas, names
      FROM pg_namespace n, substr(n.nspname, 7) s
     WHERE n.nspname LIKE 'views\_%' AND n.nspowner = (SELECT r.oid FROM pg_roles r WHERE r.rolname = 'fence_reader');
    IF schemas IS NULL OR statement !~* schemas THEN
        RETURN statement;
    END IF;
    SELECT array_agg(coalesce(t[1], t[2], t[3]) ORDER BY n), array_agg(CASE WHEN t[1] IS NOT NULL THEN true WHEN t[2] IS NOT NULL THEN false END ORDER BY n)
      INTO parts, kinds
      FROM regexp_matches(statement, concat($re$((?:[^'"$/e-]|e(?!'))+)|("(?:$re$, names, $re$)"(?=\s*\.)(?!\s*\.\s*"?(?:$re$, schemas, $re$)"?\s*\.))|(\me'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n\r]*|/\*(?:[^*]|\*+[^*/])*\*+/|\$\$(?:[^$]|\$[^$])*\$\$|.)$re$),
               'gi') WITH ORDINALITY u (t, n);
    IF EXISTS (SELECT FROM unnest(parts, kinds) u (part, kind) WHERE kind AND part ~* concat('\m(?:', schemas, ')\M(?!\s*\.)')) THEN
        behind := '(\m(?:from|join|only|table)\s+)';
    END IF;
    names := concat(behind, '\m(', names, ')\M(\s*\.)(?!\s*"?(?:', schemas, ')"?\s*\.)');
    FOR i IN 1..cardinality(parts) LOOP
        result := result || CASE WHEN kinds[i] THEN regexp_replace(parts[i], names, '\1views_\2\3', 'gi')
                                 WHEN NOT kinds[i] THEN '"views_' || substr(parts[i], 2)
                                 ELSE parts[i] END;
    END LOOP;
    RETURN result;
END $fn$;
COMMENT ON FUNCTION fence.over_views(text) IS 'A user''s statement with the names of the views in place of the tables''.';
REVOKE ALL ON FUNCTION fence.over_views(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fence.over_views(text), fence.tenant_key(), fence.visible_stores(), fence.accept(text) TO fence_runner;
-- CREATE just for the functions below
GRANT USAGE, CREATE ON SCHEMA fence TO fence_runner;
RESET ROLE;

SET LOCAL ROLE fence_reader;
DROP FUNCTION fence.run_query(text, text, integer, integer), fence.run_report(text, text, integer, integer), fence.plan_hash(text, text);
RESET ROLE;

-- As in 0004, 0008 and 0009, where the reasons stand, but for the owner, the search path, and the names in the statement.
DO $do$
DECLARE
    vector_schema name := (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector');
    search_path text := 'pg_catalog, views_retail' || CASE WHEN vector_schema IN ('pg_catalog', 'views_retail') THEN '' ELSE format(', %I', vector_schema) END || ', pg_temp';
BEGIN
    SET LOCAL ROLE fence_runner;
    EXECUTE format($sql$
CREATE FUNCTION fence.run_query(context text, query text, max_rows integer, max_bytes integer) RETURNS TABLE (line text)
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = %s
AS $fn$
DECLARE
    answer     refcursor;
    answer_row record;
    rows_left  integer := max_rows;
    bytes_left bigint := max_bytes;
BEGIN
    -- a statement that reads no table needs a valid context too
    PERFORM fence.accept(context);
    OPEN answer NO SCROLL FOR EXECUTE fence.over_views(query);
    LOOP
        FETCH answer INTO answer_row;
        EXIT WHEN NOT FOUND;
        IF rows_left <= 0 OR pg_catalog.pg_column_size(answer_row) > 4 * bytes_left + 8192 THEN
            line := '!truncated';
            RETURN NEXT;
            EXIT;
        END IF;
        line := pg_catalog.row_to_json(answer_row)::pg_catalog.text;
        bytes_left := bytes_left - pg_catalog.octet_length(line);
        IF bytes_left < 0 THEN
            line := '!truncated';
            RETURN NEXT;
            EXIT;
        END IF;
        rows_left := rows_left - 1;
        RETURN NEXT;
    END LOOP;
END $fn$
    $sql$, search_path);
    COMMENT ON FUNCTION fence.run_query(text, text, integer, integer) IS 'Rows of one SELECT as JSON, one per line; a last line !truncated where rows or bytes were cut.';
    EXECUTE format($sql$
CREATE FUNCTION fence.run_report(context text, query text, max_rows integer, max_bytes integer) RETURNS TABLE (line text)
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = %s SET random_page_cost = 1.1
AS $fn$
DECLARE
    answer refcursor;
BEGIN
    -- a statement that reads no table needs a valid context too
    PERFORM fence.accept(context);
    query := fence.over_views(query);
    OPEN answer NO SCROLL FOR EXECUTE query;
    CLOSE answer;
    RETURN QUERY EXECUTE pg_catalog.concat($wrap$
        SELECT CASE WHEN place <= $1 AND spent <= $2 THEN line ELSE '!truncated' END
          FROM (SELECT line, cost, pg_catalog.sum(cost) OVER so_far AS spent, pg_catalog.row_number() OVER so_far AS place
                  FROM (SELECT line, coalesce(pg_catalog.octet_length(line), $2 + 1) AS cost
                          FROM (SELECT CASE WHEN pg_catalog.pg_column_size(fence_row.*) <= 4 * $2 + 8192
                                            THEN pg_catalog.row_to_json(fence_row.*)::pg_catalog.text END AS line
                                  FROM ($wrap$, query, $wrap$
                                       ) AS fence_row
                                 LIMIT $1 + 1) AS made) AS weighed
                WINDOW so_far AS (ROWS UNBOUNDED PRECEDING)) AS counted
         WHERE spent - cost <= $2
    $wrap$) USING max_rows::bigint, max_bytes::bigint;
END $fn$
    $sql$, search_path);
    COMMENT ON FUNCTION fence.run_report(text, text, integer, integer) IS 'What run_query answers, by a plan that may use parallel workers; for statements that gather many rows into few.';
    EXECUTE format($sql$
CREATE FUNCTION fence.plan_hash(context text, query text) RETURNS TABLE (line text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = %s
AS $fn$
DECLARE
    explained refcursor;
    plan      jsonb;
BEGIN
    PERFORM fence.accept(context);
    OPEN explained NO SCROLL FOR EXECUTE 'EXPLAIN (FORMAT JSON, COSTS OFF) ' || fence.over_views(query);
    FETCH explained INTO plan;
    line := json_build_object('plan', encode(sha256(convert_to(jsonb_build_array(
        jsonb_path_query_array(plan, 'strict $.**."Node Type"'),
        jsonb_path_query_array(plan, 'strict $.**."Join Type"'),
        jsonb_path_query_array(plan, 'strict $.**."Relation Name"'),
        jsonb_path_query_array(plan, 'strict $.**."Index Name"'))::text, 'UTF8')), 'hex'))::text;
    RETURN NEXT;
END $fn$
    $sql$, search_path);
    COMMENT ON FUNCTION fence.plan_hash(text, text) IS 'SHA-256 of the shape of a statement''s plan, as JSON; for the gateway alone.';
    -- not even the owner: the users' SQL runs as it, and one run_query inside another has no use
    REVOKE ALL ON FUNCTION fence.run_query(text, text, integer, integer), fence.run_report(text, text, integer, integer), fence.plan_hash(text, text) FROM PUBLIC, fence_runner;
    GRANT EXECUTE ON FUNCTION fence.run_query(text, text, integer, integer), fence.run_report(text, text, integer, integer), fence.plan_hash(text, text) TO fence_login;
    RESET ROLE;
END $do$;

SET LOCAL ROLE fence_owner;
REVOKE CREATE ON SCHEMA fence FROM fence_runner;
RESET ROLE;
