-- The plan of a statement as a hash, for the gateway's log of slow statements: whether it has changed since yesterday is
-- what an operator wants to know first.

SET LOCAL ROLE fence_owner;
-- just for the creation of the reader's own function below
GRANT CREATE ON SCHEMA fence TO fence_reader;
RESET ROLE;

-- Only the gateway may call it (the users' SQL runs as the reader, which may not), and it tells only the gateway, and only
-- a hash: the shape of a plan follows from statistics of rows that the caller must not know of.
--  VOLATILE      EXPLAIN is refused elsewhere. The transaction is read-only, the reader holds SELECT alone.
--  OPEN ... FOR  a cursor takes one statement only, and with EXPLAIN's options in parentheses none of the statement's own
--                words can be another option.
--  COSTS OFF     node types, join types, tables and indexes are hashed. Constants and estimates are not, so the same plan
--                of another day has the same hash.
DO $do$
DECLARE
    vector_schema name := (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector');
BEGIN
    SET LOCAL ROLE fence_reader;
    EXECUTE format($sql$
CREATE FUNCTION fence.plan_hash(context text, query text) RETURNS TABLE (line text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, retail%s, pg_temp
AS $fn$
DECLARE
    explained refcursor;
    plan      jsonb;
BEGIN
    PERFORM fence.accept(context);
    OPEN explained NO SCROLL FOR EXECUTE 'EXPLAIN (FORMAT JSON, COSTS OFF) ' || query;
    FETCH explained INTO plan;
    line := json_build_object('plan', encode(sha256(convert_to(jsonb_build_array(
        jsonb_path_query_array(plan, 'strict $.**."Node Type"'),
        jsonb_path_query_array(plan, 'strict $.**."Join Type"'),
        jsonb_path_query_array(plan, 'strict $.**."Relation Name"'),
        jsonb_path_query_array(plan, 'strict $.**."Index Name"'))::text, 'UTF8')), 'hex'))::text;
    RETURN NEXT;
END $fn$
    $sql$, CASE WHEN vector_schema IN ('pg_catalog', 'retail') THEN '' ELSE format(', %I', vector_schema) END);
    COMMENT ON FUNCTION fence.plan_hash(text, text) IS 'SHA-256 of the shape of a statement''s plan, as JSON; for the gateway alone.';
    -- not even the owner: the users' SQL runs as it
    REVOKE ALL ON FUNCTION fence.plan_hash(text, text) FROM PUBLIC, fence_reader;
    GRANT EXECUTE ON FUNCTION fence.plan_hash(text, text) TO fence_login;
    RESET ROLE;
END $do$;

SET LOCAL ROLE fence_owner;
REVOKE CREATE ON SCHEMA fence FROM fence_reader;
RESET ROLE;
