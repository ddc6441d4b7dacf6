-- The search asks no approximate index any more. Which of a tenant's products an HNSW index gives depends on the vectors of
-- all tenants, so an answer taken from it counts products that the caller must not know of; and at 225,000 of 500,000 products
-- it found 54 % of the nearest twenty. The signs of the own products choose, however many these are, and depend on nothing else.

SET LOCAL ROLE fence_owner;
-- just for the replacement of the reader's own function below
GRANT CREATE ON SCHEMA fence TO fence_reader;
RESET ROLE;

-- The products nearest to a vector, each as one line of JSON, the best first. Similarity is the cosine, in percent.
--  signs         Ten times as many products as are wanted, at least 200, are those whose signs differ least from the wanted
--                ones; their vectors are compared. A tenant that has no more products than that gets an exact answer, and
--                nobody gets fewer products than there are.
--  query_words   not null: hybrid. Products that hold all the words are candidates too, below the threshold or not, and
--                the order is by reciprocal rank fusion (Cormack et al., 2009; k = 60).
-- Plans are generic: a new plan for each vector took as long as a third of the search for a small tenant.
-- Only vectors of the same model are compared. Row-level security limits products to the tenant, stock to the scope's stores.
-- VOLATILE, since SET LOCAL is refused elsewhere: the text of every statement is fixed here, so there is nothing that
-- read-only execution would have to keep from writing, and fence_reader holds SELECT alone.
DO $do$
DECLARE
    vector_schema name := (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector');
BEGIN
    SET LOCAL ROLE fence_reader;
    -- whoever replaces a function must be able to execute it
    GRANT EXECUTE ON FUNCTION fence.search_products(text, real[], text, text, double precision, integer) TO fence_reader;
    EXECUTE format($sql$
CREATE OR REPLACE FUNCTION fence.search_products(context text, query_vector real[], model_name text, query_words text, min_similarity double precision, max_rows integer)
RETURNS TABLE (line text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, retail%s, pg_temp
AS $fn$
DECLARE
    wanted      vector;
    wanted_bits bit(1536);
    words       tsquery;
    candidates  integer;
    compared    integer;
    ids         uuid[];
    distances   double precision[];
    with_words  boolean[];
BEGIN
    PERFORM fence.accept(context);
    SET LOCAL plan_cache_mode = 'force_generic_plan';
    wanted := query_vector::vector;
    wanted_bits := binary_quantize(wanted)::bit(1536);
    words := websearch_to_tsquery('english', query_words);
    max_rows := least(greatest(max_rows, 1), 100);
    -- fusing ranks needs more than what is shown in the end
    candidates := CASE WHEN words IS NULL THEN max_rows ELSE 200 END;
    compared := greatest(200, 10 * candidates);
    SELECT array_agg(n.product_id), array_agg(n.distance) INTO ids, distances
      FROM (SELECT c.product_id, c.description_embedding <=> wanted AS distance
              FROM (SELECT e.product_id, e.description_embedding
                      FROM product_description_embeddings e
                     WHERE e.model = model_name
                     ORDER BY e.description_bits <~> wanted_bits, e.product_id
                     LIMIT compared) c
             ORDER BY 2, 1
             LIMIT candidates) n;
    IF words IS NOT NULL THEN
        WITH near AS (
            SELECT u.product_id, u.distance, u.place FROM unnest(ids, distances) WITH ORDINALITY u (product_id, distance, place)
        ), worded AS (
            SELECT e.product_id, e.description_embedding <=> wanted AS distance, e.place
              FROM (SELECT w.product_id, w.description_embedding,
                           row_number() OVER (ORDER BY ts_rank_cd(w.search_document, words) DESC, w.product_id) AS place
                      FROM product_description_embeddings w
                     WHERE w.model = model_name AND w.search_document @@ words
                     ORDER BY place LIMIT candidates) e
        ), best AS (
            SELECT product_id, coalesce(n.distance, w.distance) AS distance, w.product_id IS NOT NULL AS has_words,
                   row_number() OVER (ORDER BY coalesce(1.0 / (60 + n.place), 0) + coalesce(1.0 / (60 + w.place), 0) DESC,
                                               coalesce(n.distance, w.distance), product_id) AS place
              FROM near n FULL JOIN worded w USING (product_id)
             WHERE w.product_id IS NOT NULL OR 1 - n.distance >= min_similarity
        )
        SELECT array_agg(b.product_id ORDER BY b.place), array_agg(b.distance ORDER BY b.place), array_agg(b.has_words ORDER BY b.place)
          INTO ids, distances, with_words
          FROM best b WHERE b.place <= max_rows;
    END IF;
    RETURN QUERY
    SELECT row_to_json(product)::text
      FROM (SELECT p.product_id, p.sku, p.product_name, c.category_name, t.type_name, p.product_description, p.base_price,
                   round((100 * (1 - b.distance))::numeric, 1) AS similarity_percent, coalesce(b.has_words, false) AS has_words,
                   s.stock_level, s.stores
              FROM unnest(ids, distances, with_words) WITH ORDINALITY b (product_id, distance, has_words, place)
              JOIN products p USING (product_id)
              JOIN categories c USING (category_id)
              JOIN product_types t USING (type_id)
              LEFT JOIN LATERAL (
                  SELECT coalesce(sum(h.stock_level), 0) AS stock_level,
                         coalesce(json_agg(json_build_array(h.store_name, h.stock_level) ORDER BY h.place) FILTER (WHERE h.place <= 10), '[]') AS stores
                    FROM (SELECT st.store_name, i.stock_level, row_number() OVER (ORDER BY i.stock_level DESC, st.store_name) AS place
                            FROM inventory i JOIN stores st USING (store_id)
                           WHERE i.product_id = b.product_id AND i.stock_level > 0) h) s ON true
             WHERE b.has_words IS NOT NULL OR 1 - b.distance >= min_similarity
             ORDER BY b.place) product;
END $fn$
    $sql$, CASE WHEN vector_schema IN ('pg_catalog', 'retail') THEN '' ELSE format(', %I', vector_schema) END);
    REVOKE ALL ON FUNCTION fence.search_products(text, real[], text, text, double precision, integer) FROM PUBLIC, fence_reader;
    RESET ROLE;
END $do$;

SET LOCAL ROLE fence_owner;
REVOKE CREATE ON SCHEMA fence FROM fence_reader;
RESET ROLE;

-- Nothing reads it any more, and each vector that is written has to enter it. Whoever wants one for statements of their own, as
-- a role that sees all rows, makes it again; the callers' view over the vectors is a barrier that no index's order passes.
SET LOCAL ROLE retail_owner;
DROP INDEX IF EXISTS retail.product_description_embeddings_hnsw_idx;
RESET ROLE;
