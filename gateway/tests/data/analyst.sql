SELECT count(*) FROM retail.orders
-- next
SELECT COUNT(*) AS "Order Count" FROM retail.orders;
-- next
select store_name from retail.stores order by store_name;
-- next
SELECT * FROM retail.stores LIMIT 10;
-- next
SELECT s.store_name, count(*) AS orders FROM retail.orders o JOIN retail.stores s ON s.store_id = o.store_id GROUP BY s.store_name ORDER BY orders DESC
-- next
SELECT s.store_name, sum(oi.total_amount) AS revenue FROM retail.order_items oi JOIN retail.stores s USING (store_id) GROUP BY 1 ORDER BY 2 DESC NULLS LAST LIMIT 10
-- next
SELECT p.product_name, sum(oi.total_amount) AS revenue FROM retail.order_items oi JOIN retail.products p USING (product_id) JOIN retail.orders o USING (order_id) WHERE o.order_date >= date_trunc('quarter', now() - interval '3 months') AND o.order_date < date_trunc('quarter', now()) GROUP BY p.product_name ORDER BY revenue DESC LIMIT 10
-- next
SELECT date_trunc('month', order_date) AS month, count(*) FROM retail.orders GROUP BY 1 ORDER BY 1
-- next
SELECT to_char(order_date, 'YYYY-MM') AS month, count(*) FROM retail.orders WHERE order_date > now() - interval '12 months' GROUP BY 1 ORDER BY 1
-- next
SELECT extract(dow FROM order_date) AS weekday, count(*) FROM retail.orders GROUP BY 1 ORDER BY 1
-- next
SELECT extract(epoch FROM max(order_date) - min(order_date)) / 86400 AS days FROM retail.orders
-- next
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY unit_price) AS median FROM retail.order_items
-- next
SELECT percentile_cont(ARRAY[0.25, 0.5, 0.75]) WITHIN GROUP (ORDER BY base_price) FROM retail.products
-- next
SELECT percentile_disc(0.9) WITHIN GROUP (ORDER BY quantity) FROM retail.order_items
-- next
SELECT mode() WITHIN GROUP (ORDER BY store_id) FROM retail.orders
-- next
SELECT store_id, count(*) FILTER (WHERE order_date >= '2026-01-03') AS recent, count(*) AS total FROM retail.orders GROUP BY store_id
-- next
SELECT store_id, avg(quantity)::numeric(10,2) AS q FROM retail.order_items GROUP BY store_id HAVING avg(quantity) > 1
-- next
SELECT coalesce(s.store_name, 'All stores') AS store, count(*) FROM retail.orders o JOIN retail.stores s USING (store_id) GROUP BY ROLLUP (s.store_name)
-- next
SELECT s.store_name, date_trunc('month', o.order_date) AS m, count(*) FROM retail.orders o JOIN retail.stores s USING (store_id) GROUP BY CUBE (1, 2)
-- next
SELECT s.store_name, s.is_online, count(*), grouping(s.store_name, s.is_online) FROM retail.orders o JOIN retail.stores s USING (store_id) GROUP BY GROUPING SETS ((s.store_name), (s.is_online), ())
-- next
SELECT store_id, order_date, row_number() OVER (PARTITION BY store_id ORDER BY order_date) AS n FROM retail.orders
-- next
SELECT store_id, order_date, lag(order_date) OVER w AS before, lead(order_date, 1) OVER w AS after FROM retail.orders WINDOW w AS (PARTITION BY store_id ORDER BY order_date)
-- next
SELECT day, n, sum(n) OVER (ORDER BY day ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS running FROM (SELECT order_date::date AS day, count(*) AS n FROM retail.orders GROUP BY 1) d
-- next
SELECT day, avg(n) OVER (ORDER BY day RANGE BETWEEN interval '7 days' PRECEDING AND CURRENT ROW) FROM (SELECT date_trunc('day', order_date) AS day, count(*) AS n FROM retail.orders GROUP BY 1) d
-- next
SELECT store_name, rank() OVER (ORDER BY count(*) DESC), dense_rank() OVER (ORDER BY count(*) DESC), ntile(4) OVER (ORDER BY count(*)) FROM retail.orders JOIN retail.stores USING (store_id) GROUP BY store_name
-- next
SELECT first_value(order_date) OVER (PARTITION BY store_id ORDER BY order_date), last_value(order_date) OVER (PARTITION BY store_id ORDER BY order_date ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) FROM retail.orders
-- next
SELECT percent_rank() OVER (ORDER BY order_date), cume_dist() OVER (ORDER BY order_date) FROM retail.orders
-- next
SELECT order_date, count(*) OVER (ORDER BY order_date GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING EXCLUDE CURRENT ROW) FROM retail.orders
-- next
WITH monthly AS (SELECT date_trunc('month', order_date) AS m, count(*) AS n FROM retail.orders GROUP BY 1) SELECT m, n, n - lag(n) OVER (ORDER BY m) AS growth FROM monthly ORDER BY m
-- next
WITH a AS (WITH b AS (WITH c AS (SELECT store_id FROM retail.stores) SELECT * FROM c) SELECT * FROM b) SELECT count(*) FROM a
-- next
WITH a AS MATERIALIZED (SELECT * FROM retail.orders), b AS NOT MATERIALIZED (SELECT * FROM retail.stores) SELECT count(*) FROM a JOIN b USING (store_id)
-- next
WITH RECURSIVE days(d) AS (SELECT date '2026-01-01' UNION ALL SELECT d + 1 FROM days WHERE d < date '2026-01-31') SELECT d, (SELECT count(*) FROM retail.orders WHERE order_date::date = d) FROM days
-- next
WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t WHERE n < 10) SELECT sum(n) FROM t
-- next
WITH RECURSIVE t(n) AS (SELECT 1 UNION SELECT n + 1 FROM t WHERE n < 5) SEARCH DEPTH FIRST BY n SET ord CYCLE n SET is_cycle USING path SELECT * FROM t ORDER BY ord
-- next
SELECT d::date AS day, count(o.order_id) FROM generate_series(timestamptz '2026-01-01', '2026-01-10', interval '1 day') d LEFT JOIN retail.orders o ON date_trunc('day', o.order_date) = d GROUP BY d ORDER BY d
-- next
SELECT s.store_name, last.order_date FROM retail.stores s CROSS JOIN LATERAL (SELECT order_date FROM retail.orders o WHERE o.store_id = s.store_id ORDER BY order_date DESC LIMIT 1) last
-- next
SELECT s.store_name, x.n FROM retail.stores s LEFT JOIN LATERAL (SELECT count(*) AS n FROM retail.orders o WHERE o.store_id = s.store_id) x ON true
-- next
SELECT DISTINCT ON (store_id) store_id, order_id, order_date FROM retail.orders ORDER BY store_id, order_date DESC
-- next
SELECT DISTINCT date_part('year', order_date) FROM retail.orders
-- next
SELECT store_name FROM retail.stores WHERE store_id IN (SELECT store_id FROM retail.orders WHERE order_date > '2026-01-02')
-- next
SELECT store_name FROM retail.stores s WHERE EXISTS (SELECT 1 FROM retail.orders o WHERE o.store_id = s.store_id)
-- next
SELECT store_name FROM retail.stores s WHERE NOT EXISTS (SELECT FROM retail.inventory i WHERE i.store_id = s.store_id AND i.stock_level = 0)
-- next
SELECT store_name FROM retail.stores WHERE store_id = ANY (SELECT store_id FROM retail.orders)
-- next
SELECT store_name FROM retail.stores WHERE store_name ILIKE '%sea%' OR store_name SIMILAR TO '(Red|Belle)%' OR store_name ~* '^on.*e$'
-- next
SELECT store_name FROM retail.stores WHERE store_name IN ('Seattle', 'Redmond') AND NOT is_online
-- next
SELECT store_name FROM retail.stores WHERE length(store_name) BETWEEN 1 AND 60
-- next
SELECT store_name FROM retail.stores UNION SELECT category_name FROM retail.categories ORDER BY 1
-- next
SELECT store_id FROM retail.orders INTERSECT SELECT store_id FROM retail.stores
-- next
SELECT store_id FROM retail.stores EXCEPT ALL SELECT store_id FROM retail.inventory
-- next
(SELECT 1 AS n UNION ALL SELECT 2) ORDER BY n DESC LIMIT 1 OFFSET 1
-- next
VALUES (1, 'one'), (2, 'two')
-- next
TABLE retail.stores
-- next
SELECT * FROM (VALUES (1, 'a'), (2, 'b')) AS v(id, label) WHERE id > 1
-- next
SELECT CASE WHEN is_online THEN 'web' ELSE 'shop' END AS channel, count(*) FROM retail.stores GROUP BY 1
-- next
SELECT CASE store_name WHEN 'Seattle' THEN 1 WHEN 'Online' THEN 2 END FROM retail.stores
-- next
SELECT nullif(store_name, ''), greatest(1, 2), least(1, 2), coalesce(NULL, 'x') FROM retail.stores
-- next
SELECT string_agg(store_name, ', ' ORDER BY store_name) FROM retail.stores
-- next
SELECT array_agg(DISTINCT store_name ORDER BY store_name DESC) FROM retail.stores
-- next
SELECT (array_agg(store_name ORDER BY store_name))[1:2] FROM retail.stores
-- next
SELECT jsonb_object_agg(store_name, is_online) FROM retail.stores
-- next
SELECT jsonb_build_object('store', store_name, 'tags', jsonb_build_array(1, 'x', null)) FROM retail.stores
-- next
SELECT '{"a": {"b": [1, 2, 3]}}'::jsonb #>> '{a,b,1}' AS v, '{"a": 1}'::jsonb ? 'a' AS has, '{"a": 1}'::jsonb @> '{"a": 1}' AS contains
-- next
SELECT jsonb_path_query_array('{"a": [1, 2, 3]}', '$.a[*] ? (@ > 1)')
-- next
SELECT key, value FROM jsonb_each_text('{"a": "1", "b": "2"}')
-- next
SELECT x FROM unnest(ARRAY[3, 1, 2]) WITH ORDINALITY AS t(x, i) ORDER BY i
-- next
SELECT regexp_replace(store_name, '[aeiou]', '*', 'g'), upper(left(store_name, 3)), split_part(store_name, 'a', 1) FROM retail.stores
-- next
SELECT format('%s has %L', store_name, 'it''s') FROM retail.stores
-- next
SELECT store_name || ' (' || store_id::text || ')' FROM retail.stores
-- next
SELECT 'It''s a test; -- not a comment' AS t
-- next
SELECT E'line one\nline \'two\'\\' AS t
-- next
SELECT $$dollar 'quoted' ; text$$ AS t, $tag$with $$ inside$tag$ AS u
-- next
SELECT U&'\0041\+000042' AS t, N'national' AS n
-- next
SELECT B'1010' | B'0101' AS bits, X'1F'::int AS hex
-- next
SELECT 'first '
  'and second' AS joined
-- next
SELECT 1 -- a comment with 'quotes and pg_sleep(1)
  + 1 AS two
-- next
SELECT /* block /* nested; */ pg_sleep */ 1 AS one
-- next
-- a comment before the statement
SELECT count(*) FROM retail.customers
-- next
/* another */ SELECT 1 AS x ;;
-- next
SELECT 'Größe' AS "Größe", '日本語' AS 名前, 'naïve café ☕' AS emoji
-- next
SELECT "o"."order_id" AS "Order ""ID""" FROM "retail"."orders" AS "o" LIMIT 1
-- next
SELECT 1e3 AS a, .5 AS b, 5. AS c, 1_000_000 AS d, 0x1F AS e, 2.5e-3 AS f
-- next
SELECT -1 AS a, +2 AS b, 2 ^ 10 AS c, 7 % 3 AS d, @ -5 AS e, |/ 16 AS f, 10 / 4.0 AS g, 1 <> 2 AS h, 1 != 2 AS i
-- next
SELECT round(123.456, 2), ceil(1.2), floor(1.8), trunc(1.999, 1), sqrt(2), ln(2.718), power(2, 3), width_bucket(5, 0, 10, 5)
-- next
SELECT stddev_samp(unit_price), var_pop(unit_price), corr(unit_price, quantity), regr_slope(unit_price, quantity) FROM retail.order_items
-- next
SELECT bool_and(is_online), bool_or(is_online), every(NOT is_online) FROM retail.stores
-- next
SELECT now() AT TIME ZONE 'America/Los_Angeles' AS local, current_date AS today, localtimestamp(0) AS l
-- next
SELECT age(timestamptz '2026-02-01', '2025-12-24') AS age, make_interval(days => 10) AS i, justify_days(interval '40 days') AS j
-- next
SELECT date_bin('15 minutes', order_date, '2026-01-01') AS slot, count(*) FROM retail.orders GROUP BY slot
-- next
SELECT order_date::date - '2026-01-01'::date AS days FROM retail.orders
-- next
SELECT (order_date, store_id) < (now(), store_id) AS older FROM retail.orders
-- next
SELECT tstzrange('2026-01-01', '2026-02-01') @> order_date AS in_january FROM retail.orders
-- next
SELECT count(*) FROM retail.orders WHERE (order_date, order_date + interval '1 day') OVERLAPS (timestamptz '2026-01-01', interval '1 month')
-- next
SELECT c.first_name, c.last_name, count(o.order_id) AS n FROM retail.customers c LEFT OUTER JOIN retail.orders o USING (customer_id) GROUP BY c.customer_id, c.first_name, c.last_name ORDER BY n DESC FETCH FIRST 5 ROWS WITH TIES
-- next
SELECT c.category_name, t.type_name, avg(p.base_price) FROM retail.categories c FULL JOIN retail.product_types t USING (category_id) LEFT JOIN retail.products p USING (type_id) GROUP BY c.category_name, t.type_name
-- next
SELECT p.product_name, i.stock_level FROM retail.inventory i INNER JOIN retail.products p ON p.product_id = i.product_id WHERE i.stock_level < 10 ORDER BY i.stock_level ASC, p.product_name
-- next
SELECT s.store_name, sum(oi.quantity * oi.unit_price) - sum(oi.discount_amount) AS net FROM retail.stores s CROSS JOIN retail.order_items oi WHERE oi.store_id = s.store_id GROUP BY s.store_name
-- next
SELECT p.sku, (p.base_price - p.cost) / nullif(p.base_price, 0) AS margin FROM retail.products p ORDER BY margin DESC NULLS LAST
-- next
SELECT store_id, count(DISTINCT customer_id) AS customers, count(*)::float / nullif(count(DISTINCT customer_id), 0) AS orders_each FROM retail.orders GROUP BY store_id
-- next
WITH ranked AS (SELECT s.store_name, p.product_name, sum(oi.total_amount) AS revenue, row_number() OVER (PARTITION BY s.store_name ORDER BY sum(oi.total_amount) DESC) AS place FROM retail.order_items oi JOIN retail.stores s USING (store_id) JOIN retail.products p USING (product_id) GROUP BY s.store_name, p.product_name) SELECT * FROM ranked WHERE place <= 3
-- next
WITH first AS (SELECT customer_id, min(order_date) AS since FROM retail.orders GROUP BY customer_id), cohort AS (SELECT date_trunc('month', since) AS m, customer_id FROM first) SELECT c.m, count(DISTINCT o.customer_id) FROM cohort c JOIN retail.orders o USING (customer_id) GROUP BY c.m
-- next
SELECT to_tsvector('english', product_description) @@ plainto_tsquery('english', 'waterproof connectors') AS hit, ts_rank(to_tsvector(product_description), to_tsquery('waterproof & connector')) FROM retail.products
-- next
SELECT ts_headline('english', 'waterproof electrical connectors', to_tsquery('connector')) AS h
-- next
SELECT pg_typeof(1.5)::text AS t, pg_size_pretty(123456789::bigint) AS s
-- next
SELECT p.product_name, e.description_embedding <=> e.description_embedding AS distance FROM retail.product_description_embeddings e JOIN retail.products p USING (product_id) ORDER BY distance LIMIT 5
-- next
SELECT current_user IS NOT NULL AS u, version() IS NOT NULL AS v, random() < 2 AS r, md5('x') AS m, gen_random_uuid() IS NOT NULL AS g
-- next
SELECT count(*) AS fence, 1 AS sleep, 2 AS lock, 3 AS "delete", 4 AS update_count, 5 AS notify FROM retail.stores
-- next
SELECT ROW(1, 'a') AS r, ARRAY[[1, 2], [3, 4]] AS m
-- next
SELECT CAST('2026-01-01' AS date), '1 day'::interval, timestamptz 'now' IS NOT NULL, int4 '5'
-- next
SELECT x.a, x.b FROM ROWS FROM (generate_series(1, 2), generate_series(1, 3)) AS x(a, b)
-- next
SELECT count(*) FROM retail.orders TABLESAMPLE BERNOULLI (50) REPEATABLE (1)
-- next
SELECT encode(sha256('abc'), 'hex') AS h, decode('YWJj', 'base64') AS d
-- next
SELECT order_id FROM retail.orders WHERE order_date >= $q$2026-01-01$q$ ORDER BY order_date LIMIT (SELECT 2)
-- next
SELECT overlay('abcdef' PLACING 'X' FROM 2 FOR 3), substring('abc' FROM 2), position('b' IN 'abc'), trim(BOTH 'x' FROM 'xax'), 'abc' LIKE 'a\_c' ESCAPE '\'
-- next
WITH sales AS (SELECT date_trunc('month', o.order_date) AS month, s.store_name, p.category_id, sum(i.total_amount) AS revenue, count(DISTINCT o.order_id) AS orders, count(DISTINCT o.customer_id) AS customers FROM retail.order_items i JOIN retail.orders o USING (store_id, order_id) JOIN retail.stores s USING (store_id) JOIN retail.products p USING (product_id) GROUP BY 1, 2, 3), months AS (SELECT month, store_name, sum(revenue) AS revenue, sum(orders) AS orders, max(customers) AS customers FROM sales GROUP BY 1, 2), growth AS (SELECT month, store_name, revenue, orders, customers, lag(revenue) OVER w AS before, lag(orders) OVER w AS orders_before, avg(revenue) OVER (PARTITION BY store_name ORDER BY month ROWS 2 PRECEDING) AS moving FROM months WINDOW w AS (PARTITION BY store_name ORDER BY month)), shares AS (SELECT g.*, revenue / nullif(sum(revenue) OVER (PARTITION BY month), 0) AS share, (revenue - before) / nullif(before, 0) AS change, (orders - orders_before)::numeric / nullif(orders_before, 0) AS orders_change FROM growth g), ranked AS (SELECT *, rank() OVER (PARTITION BY month ORDER BY revenue DESC) AS place, CASE WHEN change > 0.1 THEN 'up' WHEN change < -0.1 THEN 'down' ELSE 'flat' END AS trend FROM shares) SELECT month, store_name, round(revenue, 2) AS revenue, round(100 * share, 1) AS share_percent, round(100 * change, 1) AS change_percent, round(100 * orders_change, 1) AS orders_percent, round(moving, 2) AS moving, place, trend, CASE WHEN trend = 'down' AND share < 0.05 THEN 'watch' WHEN trend = 'up' AND place <= 3 THEN 'lead' ELSE trend END AS note FROM ranked WHERE place <= 10 AND (change IS NULL OR change BETWEEN -1 AND 5) ORDER BY month, place
-- next
SELECT 'orders' AS source, count(*) AS n, min(order_date)::text AS first, max(order_date)::text AS last FROM retail.orders UNION ALL SELECT 'customers', count(*), min(created_at)::text, max(created_at)::text FROM retail.customers UNION ALL SELECT 'products', count(*), NULL, NULL FROM retail.products UNION ALL SELECT 'inventory', count(*), NULL, NULL FROM retail.inventory ORDER BY n DESC
-- next
SELECT c.first_name, c.last_name, s.store_name, t.type_name, k.category_name, sum(i.quantity) AS units, sum(i.total_amount) AS revenue, max(o.order_date) AS last, (SELECT count(*) FROM retail.orders x WHERE x.customer_id = c.customer_id AND x.store_id = o.store_id) AS orders FROM retail.customers c JOIN retail.orders o ON o.customer_id = c.customer_id JOIN retail.order_items i ON i.order_id = o.order_id AND i.store_id = o.store_id JOIN retail.stores s ON s.store_id = o.store_id JOIN retail.products p ON p.product_id = i.product_id JOIN retail.product_types t ON t.type_id = p.type_id JOIN retail.categories k ON k.category_id = t.category_id LEFT JOIN retail.inventory n ON n.product_id = p.product_id AND n.store_id = s.store_id WHERE n.stock_level > 0 AND NOT EXISTS (SELECT 1 FROM retail.orders y WHERE y.customer_id = c.customer_id AND y.order_date > o.order_date AND EXISTS (SELECT 1 FROM retail.order_items z WHERE z.order_id = y.order_id AND z.quantity > 100)) GROUP BY c.first_name, c.last_name, s.store_name, t.type_name, k.category_name, c.customer_id, o.store_id HAVING sum(i.total_amount) > 10 ORDER BY revenue DESC LIMIT 25
