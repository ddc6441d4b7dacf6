-- Search for products by meaning: an entry point of its own, which takes the vector as a bind value.

SET LOCAL ROLE retail_owner;
ALTER TABLE retail.product_description_embeddings ADD COLUMN search_document tsvector NOT NULL DEFAULT ''::tsvector;
COMMENT ON COLUMN retail.product_description_embeddings.search_document IS 'Words of the embedded text, for the full-text half of a hybrid search.';
RESET ROLE;

SET LOCAL ROLE fence_owner;
-- just for the creation of the reader's own function below
GRANT CREATE ON SCHEMA fence TO fence_reader;
RESET ROLE;

-- The products nearest to a vector, each as one line of JSON, the best first. Similarity is the cosine, in percent.
--  up to 5,000 own products   exact: all distances, over a materialized list of them
--  more                       HNSW. A filter starves a plain index scan: it stops after ef_search neighbours, most of which
--                             are other tenants'. So the scan goes on until there are enough; and where it gave up early
--                             (hnsw.max_scan_tuples), the exact search does the rest. Never fewer products than there are.
--  query_words not null       hybrid: products that hold all the words are candidates too, below the threshold or not, and
--                             the order is by reciprocal rank fusion (Cormack et al., 2009; k = 60).
-- Only vectors of the same model are compared. Row-level security limits products to the tenant, stock to the scope's stores.
-- VOLATILE, since SET LOCAL is refused elsewhere: the text of every statement is fixed here, so there is nothing that
-- read-only execution would have to keep from writing, and fence_reader holds SELECT alone.
DO $do$
DECLARE
    vector_schema name := (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector');
BEGIN
    SET LOCAL ROLE fence_reader;
    EXECUTE format($sql$
CREATE FUNCTION fence.search_products(context text, query_vector real[], model_name text, query_words text, min_similarity double precision, max_rows integer)
RETURNS TABLE (line text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, retail%s, pg_temp
AS $fn$
DECLARE
    wanted     vector;
    words      tsquery;
    candidates integer;
    ids        uuid[];
    distances  double precision[];
BEGIN
    PERFORM fence.accept(context);
    wanted := query_vector::vector;
    words := websearch_to_tsquery('english', query_words);
    max_rows := least(greatest(max_rows, 1), 100);
    -- fusing ranks needs more than what is shown in the end
    candidates := CASE WHEN words IS NULL THEN max_rows ELSE 200 END;
    IF (SELECT count(*) FROM (SELECT FROM product_description_embeddings e WHERE e.model = model_name LIMIT 5001) own) > 5000 THEN
        SET LOCAL hnsw.ef_search = 100;
        SET LOCAL hnsw.iterative_scan = 'relaxed_order';
        SELECT array_agg(n.product_id), array_agg(n.distance) INTO ids, distances
          FROM (SELECT e.product_id, e.description_embedding <=> wanted AS distance
                  FROM product_description_embeddings e
                 WHERE e.model = model_name
                 ORDER BY e.description_embedding <=> wanted
                 LIMIT candidates) n;
    END IF;
    IF coalesce(cardinality(ids), 0) < candidates THEN
        WITH own AS MATERIALIZED (
            SELECT e.product_id, e.description_embedding FROM product_description_embeddings e WHERE e.model = model_name
        )
        SELECT array_agg(n.product_id), array_agg(n.distance) INTO ids, distances
          FROM (SELECT o.product_id, o.description_embedding <=> wanted AS distance
                  FROM own o ORDER BY 2, 1 LIMIT candidates) n;
    END IF;
    RETURN QUERY
    WITH near AS (
        SELECT u.product_id, u.distance, row_number() OVER (ORDER BY u.distance, u.product_id) AS place
          FROM unnest(ids, distances) u (product_id, distance)
    ), worded AS MATERIALIZED (
        SELECT e.product_id, e.description_embedding <=> wanted AS distance,
               row_number() OVER (ORDER BY ts_rank_cd(e.search_document, words) DESC, e.product_id) AS place
          FROM product_description_embeddings e
         WHERE words IS NOT NULL AND e.model = model_name AND e.search_document @@ words
         ORDER BY place LIMIT candidates
    ), best AS (
        SELECT product_id, coalesce(n.distance, w.distance) AS distance, w.product_id IS NOT NULL AS has_words,
               coalesce(1.0 / (60 + n.place), 0) + coalesce(1.0 / (60 + w.place), 0) AS score
          FROM near n FULL JOIN worded w USING (product_id)
         WHERE w.product_id IS NOT NULL OR 1 - n.distance >= min_similarity
         ORDER BY CASE WHEN words IS NULL THEN NULL ELSE -(coalesce(1.0 / (60 + n.place), 0) + coalesce(1.0 / (60 + w.place), 0)) END,
                  coalesce(n.distance, w.distance), product_id
         LIMIT max_rows
    )
    SELECT row_to_json(product)::text
      FROM (SELECT p.product_id, p.sku, p.product_name, c.category_name, t.type_name, p.product_description, p.base_price,
                   round((100 * (1 - b.distance))::numeric, 1) AS similarity_percent, b.has_words, s.stock_level, s.stores
              FROM best b
              JOIN products p USING (product_id)
              JOIN categories c USING (category_id)
              JOIN product_types t USING (type_id)
              LEFT JOIN LATERAL (
                  SELECT coalesce(sum(h.stock_level), 0) AS stock_level,
                         coalesce(json_agg(json_build_array(h.store_name, h.stock_level) ORDER BY h.place) FILTER (WHERE h.place <= 10), '[]') AS stores
                    FROM (SELECT st.store_name, i.stock_level, row_number() OVER (ORDER BY i.stock_level DESC, st.store_name) AS place
                            FROM inventory i JOIN stores st USING (store_id)
                           WHERE i.product_id = b.product_id AND i.stock_level > 0) h) s ON true
             ORDER BY CASE WHEN words IS NULL THEN NULL ELSE -b.score END, b.distance, b.product_id) product;
END $fn$
    $sql$, CASE WHEN vector_schema IN ('pg_catalog', 'retail') THEN '' ELSE format(', %I', vector_schema) END);
    COMMENT ON FUNCTION fence.search_products(text, real[], text, text, double precision, integer) IS 'Products of the tenant nearest to a vector, as JSON, one per line.';
    -- not even the owner: the users' SQL runs as it
    REVOKE ALL ON FUNCTION fence.search_products(text, real[], text, text, double precision, integer) FROM PUBLIC, fence_reader;
    GRANT EXECUTE ON FUNCTION fence.search_products(text, real[], text, text, double precision, integer) TO fence_login;
    RESET ROLE;
END $do$;

SET LOCAL ROLE fence_owner;
REVOKE CREATE ON SCHEMA fence FROM fence_reader;
RESET ROLE;
