//! The one statement behind `get_store_performance`.

use uuid::Uuid;

use super::super::{
    own::{store_is, timestamp},
    period::{Period, Window},
};

/// Most products, categories and stock-outs in an answer.
const TOP: u32 = 10;

fn window(name: &str, window: Window) -> String {
    format!("('{name}', {}, {})", timestamp(window.from), timestamp(window.to))
}

/// All figures of a period and of the two that it is compared with, as one document.
pub fn statement(period: &Period, store: Option<Uuid>) -> String {
    let spans = [
        window("current", period.current),
        window("previous", period.previous),
        window("yearBefore", period.year_before),
    ]
    .join(", ");
    let (from, to) = (timestamp(period.current.from), timestamp(period.current.to));
    let (orders, stores, stock) =
        (store_is("o.store_id", store), store_is("s.store_id", store), store_is("v.store_id", store));
    format!(
        "WITH span (name, lo, hi) AS (VALUES {spans}),
sold AS MATERIALIZED (
    SELECT w.name, o.order_id, o.store_id, o.customer_id, o.order_date
      FROM span w JOIN retail.orders o ON o.order_date >= w.lo AND o.order_date < w.hi AND {orders}),
line AS MATERIALIZED (
    SELECT x.name, x.order_id, x.store_id, x.order_date, i.product_id, i.quantity, i.total_amount,
           i.quantity * p.cost AS cost, p.category_id
      FROM sold x JOIN retail.order_items i ON i.store_id = x.store_id AND i.order_id = x.order_id
      JOIN retail.products p ON p.product_id = i.product_id),
known AS MATERIALIZED (
    SELECT o.customer_id, min(o.order_date) AS since FROM retail.orders o
     WHERE o.customer_id IN (SELECT x.customer_id FROM sold x) AND {orders} GROUP BY o.customer_id)
SELECT json_build_object(
    'windows', (SELECT json_object_agg(w.name, json_build_object(
        'orders', (SELECT count(*) FROM sold x WHERE x.name = w.name),
        'customers', (SELECT count(DISTINCT x.customer_id) FROM sold x WHERE x.name = w.name),
        'returning', (SELECT count(DISTINCT x.customer_id) FROM sold x JOIN known k USING (customer_id) WHERE x.name = w.name AND k.since < w.lo),
        'revenue', coalesce(l.revenue, 0), 'units', coalesce(l.units, 0), 'cost', coalesce(l.cost, 0)))
      FROM span w LEFT JOIN (SELECT name, sum(total_amount) AS revenue, sum(quantity) AS units, sum(cost) AS cost FROM line GROUP BY name) l USING (name)),
    'stores', (SELECT coalesce(json_agg(r ORDER BY r.revenue DESC, r.name), '[]') FROM (
        SELECT s.store_name AS name, s.store_id AS \"storeId\",
               coalesce(sum(l.total_amount) FILTER (WHERE l.name = 'current'), 0) AS revenue,
               count(DISTINCT l.order_id) FILTER (WHERE l.name = 'current') AS orders,
               coalesce(sum(l.total_amount) FILTER (WHERE l.name = 'previous'), 0) AS \"previousRevenue\",
               coalesce(sum(l.total_amount) FILTER (WHERE l.name = 'yearBefore'), 0) AS \"yearBeforeRevenue\"
          FROM retail.stores s LEFT JOIN line l ON l.store_id = s.store_id WHERE {stores} GROUP BY s.store_name, s.store_id) r),
    'products', (SELECT coalesce(json_agg(r ORDER BY r.revenue DESC, r.name), '[]') FROM (
        SELECT p.product_name AS name, p.sku, l.revenue, l.units, l.previous AS \"previousRevenue\", l.year_before AS \"yearBeforeRevenue\" FROM (
            SELECT product_id, sum(total_amount) FILTER (WHERE name = 'current') AS revenue, sum(quantity) FILTER (WHERE name = 'current') AS units,
                   coalesce(sum(total_amount) FILTER (WHERE name = 'previous'), 0) AS previous,
                   coalesce(sum(total_amount) FILTER (WHERE name = 'yearBefore'), 0) AS year_before
              FROM line GROUP BY product_id) l
          JOIN retail.products p USING (product_id) WHERE l.revenue IS NOT NULL ORDER BY l.revenue DESC, p.product_name LIMIT {TOP}) r),
    'categories', (SELECT coalesce(json_agg(r ORDER BY r.revenue DESC, r.name), '[]') FROM (
        SELECT c.category_name AS name, l.revenue, l.units, l.previous AS \"previousRevenue\", l.year_before AS \"yearBeforeRevenue\" FROM (
            SELECT category_id, sum(total_amount) FILTER (WHERE name = 'current') AS revenue, sum(quantity) FILTER (WHERE name = 'current') AS units,
                   coalesce(sum(total_amount) FILTER (WHERE name = 'previous'), 0) AS previous,
                   coalesce(sum(total_amount) FILTER (WHERE name = 'yearBefore'), 0) AS year_before
              FROM line GROUP BY category_id) l
          JOIN retail.categories c USING (category_id) WHERE l.revenue IS NOT NULL ORDER BY l.revenue DESC, c.category_name LIMIT {TOP}) r),
    'categoryMover', (SELECT row_to_json(r) FROM (
        SELECT c.category_name AS name, l.revenue, l.previous AS \"previousRevenue\" FROM (
            SELECT category_id, coalesce(sum(total_amount) FILTER (WHERE name = 'current'), 0) AS revenue,
                   coalesce(sum(total_amount) FILTER (WHERE name = 'previous'), 0) AS previous
              FROM line GROUP BY category_id) l
          JOIN retail.categories c USING (category_id) ORDER BY abs(l.revenue - l.previous) DESC, c.category_name LIMIT 1) r),
    'days', (SELECT coalesce(json_agg(json_build_object('date', d.day, 'revenue', coalesce(l.current, 0), 'orders', coalesce(n.orders, 0),
            'previousRevenue', coalesce(l.previous, 0), 'yearBeforeRevenue', coalesce(l.year_before, 0)) ORDER BY d.day), '[]')
      FROM (SELECT g::date AS day, g::date - ({from} AT TIME ZONE 'UTC')::date AS place
              FROM generate_series({from} AT TIME ZONE 'UTC', ({to} - interval '1 microsecond') AT TIME ZONE 'UTC', interval '1 day') g) d
      LEFT JOIN (SELECT (i.order_date AT TIME ZONE 'UTC')::date - (w.lo AT TIME ZONE 'UTC')::date AS place,
                        sum(i.total_amount) FILTER (WHERE name = 'current') AS current,
                        sum(i.total_amount) FILTER (WHERE name = 'previous') AS previous,
                        sum(i.total_amount) FILTER (WHERE name = 'yearBefore') AS year_before
                   FROM line i JOIN span w USING (name) GROUP BY 1) l USING (place)
      LEFT JOIN (SELECT (order_date AT TIME ZONE 'UTC')::date AS day, count(*) AS orders FROM sold WHERE name = 'current' GROUP BY 1) n USING (day)),
    'stockOutCount', (SELECT count(*) FROM retail.inventory v WHERE v.stock_level = 0 AND {stock}),
    'stockOuts', (SELECT coalesce(json_agg(r ORDER BY r.\"unitsSold\" DESC, r.name, r.store), '[]') FROM (
        SELECT s.store_name AS store, p.product_name AS name, p.sku, coalesce(l.units, 0) AS \"unitsSold\"
          FROM retail.inventory v JOIN retail.stores s ON s.store_id = v.store_id JOIN retail.products p ON p.product_id = v.product_id
          LEFT JOIN (SELECT store_id, product_id, sum(quantity) AS units FROM line WHERE name = 'current' GROUP BY 1, 2) l
                 ON l.store_id = v.store_id AND l.product_id = v.product_id
         WHERE v.stock_level = 0 AND {stock} ORDER BY coalesce(l.units, 0) DESC, p.product_name, s.store_name LIMIT {TOP}) r))"
    )
}
