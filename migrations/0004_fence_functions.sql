-- The fence's functions. All are SECURITY DEFINER with a fixed search_path that ends in pg_temp; none is executable by
-- PUBLIC. Their text is readable by everybody (pg_proc): nothing secret stands in it. No EXCEPTION blocks: they open
-- subtransactions. No value of a context or of a key stands in a message.

SET LOCAL ROLE fence_owner;

-- Tenant of the session. session_user is the role that PostgreSQL authenticated; no statement inside the fence can change it.
CREATE FUNCTION fence.tenant_key() RETURNS integer
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $fn$
DECLARE
    result integer;
BEGIN
    SELECT t.tenant_key INTO result
      FROM fence.logins l
      JOIN fence.tenants t ON t.tenant_key = l.tenant_key
     WHERE l.login = session_user AND t.enabled;
    IF result IS NULL THEN
        RAISE EXCEPTION 'store context invalid' USING ERRCODE = 'SF001';
    END IF;
    RETURN result;
END $fn$;
COMMENT ON FUNCTION fence.tenant_key() IS 'Tenant whose login this session is; an error if there is none or it is disabled.';

-- Stores of the signed context. A context is body "." hex(HMAC-SHA-256(key, body)) with
-- body = v1|kid|tenantId|backend pid|ticket|expiry in Unix seconds|stores, stores = * or UUIDs separated by commas.
-- The setting fence.context that carries it can be read and overwritten by the users' SQL: overwriting it with anything
-- but a context signed for this very call is an error, and what was read is worthless in the next call, when the ticket has moved.
CREATE FUNCTION fence.visible_stores() RETURNS uuid[]
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $fn$
DECLARE
    raw    text := current_setting('fence.context', true);
    parts  text[];
    body   text;
    field  text[];
    signer record;
    expiry bigint;
    named  uuid[];
    result uuid[];
BEGIN
    IF raw IS NULL OR raw = '' THEN
        RAISE EXCEPTION 'store context missing' USING ERRCODE = 'SF001';
    END IF;
    -- 500 stores take 18,500 characters; splitting something huge would be work done for an attacker
    IF octet_length(raw) > 32768 THEN
        RAISE EXCEPTION 'store context malformed' USING ERRCODE = 'SF001';
    END IF;
    parts := string_to_array(raw, '.');
    body := parts[1];
    field := string_to_array(body, '|');
    IF cardinality(parts) <> 2 OR cardinality(field) <> 7 OR field[1] <> 'v1'
       OR field[2] !~ '^[1-9][0-9]{0,8}$' OR field[6] !~ '^[1-9][0-9]{0,11}$'
       OR parts[2] !~ '^[0-9a-f]{64}$' THEN
        RAISE EXCEPTION 'store context malformed' USING ERRCODE = 'SF001';
    END IF;

    SELECT t.tenant_key, t.tenant_id, k.ipad, k.opad INTO signer
      FROM fence.logins l
      JOIN fence.tenants t ON t.tenant_key = l.tenant_key
      JOIN fence.context_keys k ON k.tenant_key = l.tenant_key
     WHERE l.login = session_user AND t.enabled AND k.kid = field[2]::integer
       AND (k.not_after IS NULL OR k.not_after > transaction_timestamp());
    -- The caller chooses one side of this comparison, so neither side is the code itself: where two digests of it first
    -- differ says nothing about it. IS DISTINCT FROM: no key at all is a difference too.
    IF sha256(decode(parts[2], 'hex'))
       IS DISTINCT FROM sha256(sha256(signer.opad || sha256(signer.ipad || convert_to(body, 'UTF8')))) THEN
        RAISE EXCEPTION 'store context invalid' USING ERRCODE = 'SF001';
    END IF;

    -- authentic from here on: our own gateway wrote these fields
    IF field[3] <> signer.tenant_id THEN
        RAISE EXCEPTION 'store context invalid' USING ERRCODE = 'SF001';
    END IF;
    -- compared as text: a number that is written in another way, or that fits no integer, is not the number
    IF field[4] <> pg_backend_pid()::text OR field[5] <> currval('fence.ticket_seq')::text THEN
        RAISE EXCEPTION 'store context not for this connection' USING ERRCODE = 'SF001';
    END IF;
    -- transaction_timestamp(): a context that was in time when the call began stays valid until the call ends
    expiry := field[6]::bigint;
    IF NOT expiry BETWEEN extract(epoch FROM transaction_timestamp()) AND extract(epoch FROM transaction_timestamp()) + 60 THEN
        RAISE EXCEPTION 'store context expired' USING ERRCODE = 'SF001';
    END IF;

    IF field[7] = '*' THEN
        SELECT coalesce(array_agg(s.store_id), '{}') INTO result
          FROM fence.tenant_stores s WHERE s.tenant_key = signer.tenant_key;
        RETURN result;
    END IF;
    named := string_to_array(field[7], ',')::uuid[];
    SELECT array_agg(s.store_id) INTO result
      FROM fence.tenant_stores s WHERE s.store_id = ANY (named) AND s.tenant_key = signer.tenant_key;
    -- not one of the stores is the tenant's any more: say so, an empty answer would look like a quiet day
    IF result IS NULL THEN
        RAISE EXCEPTION 'store context invalid' USING ERRCODE = 'SF001';
    END IF;
    RETURN result;
END $fn$;
COMMENT ON FUNCTION fence.visible_stores() IS 'Stores that the signed context of this call names and that are the tenant''s; an error without a valid context.';

-- Takes the context of a call and refuses the call if it is not valid, whatever its statement reads. A function of its
-- own, so that the role which runs the users' SQL needs no right to set_config(): the strict level takes it away.
CREATE FUNCTION fence.accept(context text) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $fn$
BEGIN
    PERFORM set_config('fence.context', context, true);
    PERFORM fence.visible_stores();
END $fn$;
COMMENT ON FUNCTION fence.accept(text) IS 'First step of run_query: the signed context of this call; an error if it is not valid.';

-- First step on a new connection and last step of every flight. Locks that a statement took outlive its rollback, so they
-- are released here; the ticket moves, so the context of the call that has just ended is worth nothing.
CREATE FUNCTION fence.ticket(OUT ticket bigint, OUT pid integer, OUT epoch bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $fn$
BEGIN
    PERFORM pg_advisory_unlock_all();
    ticket := nextval('fence.ticket_seq');
    pid := pg_backend_pid();
    epoch := floor(extract(epoch FROM clock_timestamp()));
END $fn$;
COMMENT ON FUNCTION fence.ticket() IS 'Ticket for the next call on this connection, its backend process, and the server''s clock in Unix seconds.';

REVOKE ALL ON FUNCTION fence.tenant_key(), fence.visible_stores(), fence.accept(text), fence.ticket() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fence.tenant_key(), fence.visible_stores(), fence.accept(text) TO fence_reader;
GRANT EXECUTE ON FUNCTION fence.ticket() TO fence_login;
-- just for the creation of the reader's own function below
GRANT CREATE ON SCHEMA fence TO fence_reader;
RESET ROLE;

-- Runs one SELECT of a user and returns its rows as JSON text.
--  SECURITY DEFINER  SET ROLE is refused inside; current_user is the reader, so backends of the same login can be neither
--                    seen in pg_stat_activity nor cancelled.
--  STABLE            PL/pgSQL plans the statement read-only: DML, FOR UPDATE, EXPLAIN, SHOW and every other utility
--                    statement are refused, even without BEGIN READ ONLY. A cursor takes one statement only.
--  OPEN ... EXECUTE  of the text as it came: there is no surrounding statement to break out of, and error positions are the
--                    user's own. The text is a bind value: absent from pg_stat_activity and pg_prepared_statements.
--  FETCH             one row at a time: FOR would read ahead 50 rows, of up to a gigabyte each.
-- The size of a row is looked at before its JSON is made, which would need the same memory twice again. Binary forms are
-- at most about four times as long as their JSON (an array of bigint zeros), so this refuses no row that would fit.
DO $do$
DECLARE
    -- so that the vector operators are found wherever pgvector lives
    vector_schema name := (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector');
BEGIN
    SET LOCAL ROLE fence_reader;
    EXECUTE format($sql$
CREATE FUNCTION fence.run_query(context text, query text, max_rows integer, max_bytes integer) RETURNS TABLE (line text)
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, retail%s, pg_temp
AS $fn$
DECLARE
    answer     refcursor;
    answer_row record;
    rows_left  integer := max_rows;
    bytes_left bigint := max_bytes;
BEGIN
    -- a statement that reads no table needs a valid context too
    PERFORM fence.accept(context);
    OPEN answer NO SCROLL FOR EXECUTE query;
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
    $sql$, CASE WHEN vector_schema IN ('pg_catalog', 'retail') THEN '' ELSE format(', %I', vector_schema) END);
    COMMENT ON FUNCTION fence.run_query(text, text, integer, integer) IS 'Rows of one SELECT as JSON, one per line; a last line !truncated where rows or bytes were cut.';
    -- not even the owner: the users' SQL runs as it, and one run_query inside another has no use
    REVOKE ALL ON FUNCTION fence.run_query(text, text, integer, integer) FROM PUBLIC, fence_reader;
    GRANT EXECUTE ON FUNCTION fence.run_query(text, text, integer, integer) TO fence_login;
    RESET ROLE;
END $do$;

SET LOCAL ROLE fence_owner;
REVOKE CREATE ON SCHEMA fence FROM fence_reader;
RESET ROLE;
