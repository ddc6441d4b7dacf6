-- Statements that gather: sums, counts, groupings over many rows. PostgreSQL plans no parallel workers for a cursor that is
-- read row by row, as run_query reads its own.

SET LOCAL ROLE fence_owner;
-- just for the creation of the reader's own function below
GRANT CREATE ON SCHEMA fence TO fence_reader;
RESET ROLE;

-- The same answer as run_query for the same arguments, line for line. What differs is the plan, which may be parallel, and
-- what is done beyond the cut: run_query stops there, this one computes the rows up to max_rows without keeping them.
--  OPEN, CLOSE    the text as it came must be one statement that reads, planned but not run: EXECUTE alone would take several.
--                 Errors of names and syntax are raised here, with positions that are the user's own.
--  (query)        such a text has balanced parentheses and ends outside of strings and block comments, so that the line feed
--                 and the parenthesis behind it end what it is inside: a subquery, which sees nothing around it. A text
--                 with a semicolon at its end is refused as a syntax error; the gateway cuts it off.
--  fence_row.*    the whole row, whatever its columns are called.
-- Each line costs its bytes; a row too wide to be made into JSON costs more than there are. From the first row on that goes
-- beyond the rows or the bytes nothing is kept but one line that says so.
DO $do$
DECLARE
    -- so that the vector operators are found wherever pgvector lives
    vector_schema name := (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector');
BEGIN
    SET LOCAL ROLE fence_reader;
    EXECUTE format($sql$
CREATE FUNCTION fence.run_report(context text, query text, max_rows integer, max_bytes integer) RETURNS TABLE (line text)
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, retail%s, pg_temp
AS $fn$
DECLARE
    answer refcursor;
BEGIN
    -- a statement that reads no table needs a valid context too
    PERFORM fence.accept(context);
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
    $sql$, CASE WHEN vector_schema IN ('pg_catalog', 'retail') THEN '' ELSE format(', %I', vector_schema) END);
    COMMENT ON FUNCTION fence.run_report(text, text, integer, integer) IS 'What run_query answers, by a plan that may use parallel workers; for statements that gather many rows into few.';
    -- not even the owner: the users' SQL runs as it
    REVOKE ALL ON FUNCTION fence.run_report(text, text, integer, integer) FROM PUBLIC, fence_reader;
    GRANT EXECUTE ON FUNCTION fence.run_report(text, text, integer, integer) TO fence_login;
    RESET ROLE;
END $do$;

SET LOCAL ROLE fence_owner;
REVOKE CREATE ON SCHEMA fence FROM fence_reader;
RESET ROLE;
