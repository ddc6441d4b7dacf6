-- Search by meaning without reading every vector. A vector of 6 KB lies out of line, in four pieces: fetching it takes ten
-- times as long as comparing it. The sign of each number fits into 192 bytes beside the row, and the share of signs in which
-- two vectors differ grows with the angle between them. So the signs choose whom to compare, the vectors decide.

-- Adding the column writes the table anew, and with it the HNSW index, which is slow when its graph does not fit into memory.
DO $do$
DECLARE
    vector_schema name := (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector');
BEGIN
    IF pg_size_bytes(current_setting('maintenance_work_mem')) < 536870912
       AND pg_table_size('retail.product_description_embeddings') > pg_size_bytes(current_setting('maintenance_work_mem')) THEN
        SET LOCAL maintenance_work_mem = '512MB';
    END IF;
    SET LOCAL ROLE retail_owner;
    EXECUTE format('ALTER TABLE retail.product_description_embeddings ADD COLUMN description_bits bit(1536) '
                   'GENERATED ALWAYS AS (%I.binary_quantize(description_embedding)::bit(1536)) STORED', vector_schema);
    RESET ROLE;
END $do$;
SET LOCAL ROLE retail_owner;
COMMENT ON COLUMN retail.product_description_embeddings.description_bits IS 'Signs of the embedding, by which the search chooses whom to compare.';
RESET ROLE;

SET LOCAL ROLE fence_owner;
-- just for the replacement of the reader's own function below
GRANT CREATE ON SCHEMA fence TO fence_reader;
RESET ROLE;

-- The products nearest to a vector, each as one line of JSON, the best first. Similarity is the cosine, in percent.
--  signs         Ten times as many products as are wanted, at least 200, are those whose signs differ least from the wanted
--                ones; their vectors are compared. A chain that has no more products than that gets an exact answer, and
--                nobody gets fewer products than there are.
--  own products  above 1,000,000 the HNSW index chooses them: reading all signs takes too long there. It
--                finds fewer of the nearest (half of twenty for 225,000 of 500,000 products). A filter starves a plain index scan,
--                which stops after ef_search neighbours, most of them other tenants', so the scan goes on until there are
--                enough; where it gave up early (hnsw.max_scan_tuples), the signs choose. Left alone the planner would
--                sort: of a policy it knows no more than that a tenant has an average share. reltuples comes first because
--                a table without so many rows needs no counting.
--  query_words   not null: hybrid. Products that hold all the words are candidates too, below the threshold or not, and
--                the order is by reciprocal rank fusion (Cormack et al., 2009; k = 60).
-- Plans are generic: a new plan for each vector took as long as a third of the search in a small chain.
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
    found       integer := 0;
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
    IF (SELECT reltuples FROM pg_class WHERE oid = 'product_description_embeddings'::regclass) > 1000000
       AND (SELECT count(*) FROM (SELECT FROM product_description_embeddings LIMIT 1000001) own) > 1000000 THEN
        SET LOCAL hnsw.ef_search = 400;
        SET LOCAL hnsw.iterative_scan = 'relaxed_order';
        SET LOCAL enable_sort = off;
        SELECT (array_agg(n.product_id ORDER BY n.distance, n.product_id))[:candidates],
               (array_agg(n.distance ORDER BY n.distance, n.product_id))[:candidates], count(*)
          INTO ids, distances, found
          FROM (SELECT e.product_id, e.description_embedding <=> wanted AS distance
                  FROM product_description_embeddings e
                 WHERE e.model = model_name
                 ORDER BY e.description_embedding <=> wanted
                 LIMIT compared) n;
        SET LOCAL enable_sort = DEFAULT;
    END IF;
    IF found < compared THEN
        SELECT array_agg(n.product_id), array_agg(n.distance) INTO ids, distances
          FROM (SELECT c.product_id, c.description_embedding <=> wanted AS distance
                  FROM (SELECT e.product_id, e.description_embedding
                          FROM product_description_embeddings e
                         WHERE e.model = model_name
                         ORDER BY e.description_bits <~> wanted_bits
                         LIMIT compared) c
                 ORDER BY 2, 1
                 LIMIT candidates) n;
    END IF;
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
