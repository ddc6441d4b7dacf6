//! The statements behind `get_product_recommendations`.

use jiff::{Timestamp, ToSpan};

use super::{super::own, Kind};

/// How many names an ambiguous one is answered with.
const CANDIDATES: u32 = 5;

/// The columns that all kinds share, of `p` with its category and type.
const PRODUCT: &str = "p.product_id AS \"productId\", p.sku, p.product_name AS name, c.category_name AS category, t.type_name AS type, p.base_price AS price,
    (SELECT coalesce(sum(v.stock_level), 0) FROM retail.inventory v WHERE v.product_id = p.product_id) AS stock";
const JOINS: &str =
    "JOIN retail.categories c ON c.category_id = p.category_id JOIN retail.product_types t ON t.type_id = p.type_id";

/// One document: the product meant, names that could be meant, and the recommendations.
pub fn statement(kind: Kind, product: Option<&str>, most: u32, now: Timestamp) -> String {
    // An exact name wins; part of one counts where only one product has it.
    let wanted = product.map_or_else(|| "NULL::text".to_owned(), own::text);
    let items = match kind {
        Kind::Similar => similar(),
        Kind::BoughtTogether => together(),
        Kind::Trending => trending(product.is_some(), now),
    };
    let vector = match kind {
        Kind::Similar => {
            "(SELECT json_build_object('model', e.model, 'values', e.description_embedding::real[])
               FROM retail.product_description_embeddings e JOIN target x ON x.product_id = e.product_id)"
        }
        Kind::BoughtTogether | Kind::Trending => "NULL",
    };
    format!(
        "WITH asked AS (SELECT lower({wanted}) AS name),
matching AS MATERIALIZED (
    SELECT p.*, a.name IN (p.product_id::text, lower(p.sku), lower(p.product_name)) AS exact
      FROM asked a JOIN retail.products p
        ON a.name IN (p.product_id::text, lower(p.sku)) OR strpos(lower(p.product_name), a.name) > 0),
target AS MATERIALIZED (
    SELECT m.* FROM matching m
     WHERE (SELECT count(*) FROM matching x WHERE x.exact) = 1 AND m.exact
        OR (SELECT count(*) FROM matching x WHERE x.exact) = 0 AND (SELECT count(*) FROM matching) = 1)
SELECT json_build_object(
    'product', (SELECT json_build_object('productId', product_id, 'sku', sku, 'name', product_name) FROM target),
    'type', (SELECT t.type_name FROM target x JOIN retail.product_types t ON t.type_id = x.type_id),
    'price', (SELECT x.base_price FROM target x),
    'vector', {vector},
    'candidates', (SELECT coalesce(json_agg(label ORDER BY label), '[]') FROM (
        SELECT m.product_name || ' (' || m.sku || ')' AS label FROM matching m ORDER BY 1 LIMIT {CANDIDATES}) m),
    'items', (SELECT coalesce(json_agg(r ORDER BY r.score DESC, r.name, r.sku), '[]') FROM (
        {items} ORDER BY score DESC, name, sku LIMIT {most}) r))"
    )
}

/// Half for the type, three tenths for the category, the rest for the price.
fn similar() -> String {
    format!(
        "SELECT {PRODUCT}, p.type_id = x.type_id AS \"sameType\",
               round(100.0 * (p.base_price - x.base_price) / nullif(x.base_price, 0), 1) AS \"priceChange\",
               round(CASE WHEN p.type_id = x.type_id THEN 0.5 ELSE 0 END + 0.3
                   + 0.2 * coalesce(least(p.base_price, x.base_price) / nullif(greatest(p.base_price, x.base_price), 0), 1), 4) AS score
          FROM target x JOIN retail.products p ON p.category_id = x.category_id AND p.product_id <> x.product_id {JOINS}"
    )
}

/// Orders with both over the geometric mean of the orders with each: what everybody buys anyway does not come first.
fn together() -> String {
    format!(
        "SELECT {PRODUCT}, n.together, n.orders, n.score FROM (
            WITH carts AS MATERIALIZED (
                SELECT DISTINCT i.store_id, i.order_id FROM retail.order_items i WHERE i.product_id = (SELECT product_id FROM target)),
            pairs AS MATERIALIZED (
                SELECT i.product_id, count(DISTINCT i.order_id) AS together
                  FROM carts k JOIN retail.order_items i ON i.store_id = k.store_id AND i.order_id = k.order_id
                 WHERE i.product_id <> (SELECT product_id FROM target) GROUP BY i.product_id)
            SELECT q.product_id, q.together, (SELECT count(*) FROM carts) AS orders,
                   round((q.together / sqrt((SELECT count(*) FROM carts) * a.orders))::numeric, 4) AS score
              FROM pairs q JOIN (
                   SELECT i.product_id, count(DISTINCT i.order_id) AS orders FROM retail.order_items i
                    WHERE i.product_id IN (SELECT product_id FROM pairs) GROUP BY i.product_id) a USING (product_id)) n
          JOIN retail.products p USING (product_id) {JOINS}"
    )
}

/// The difference of two counts in units of its own scatter: 30 after 20 says more than 3 after 2.
fn trending(category: bool, now: Timestamp) -> String {
    let back = |days: i64| now.checked_sub((days * 24).hours()).unwrap_or(Timestamp::MIN);
    let (from, middle, to) = (own::timestamp(back(60)), own::timestamp(back(30)), own::timestamp(now));
    let among = if category { "p.category_id = (SELECT category_id FROM target)" } else { "true" };
    format!(
        "SELECT {PRODUCT}, n.now, n.before, round(((n.now - n.before) / sqrt(n.now + n.before))::numeric, 4) AS score FROM (
            SELECT i.product_id, coalesce(sum(i.quantity) FILTER (WHERE o.order_date >= {middle}), 0) AS now,
                   coalesce(sum(i.quantity) FILTER (WHERE o.order_date < {middle}), 0) AS before
              FROM retail.orders o JOIN retail.order_items i ON i.store_id = o.store_id AND i.order_id = o.order_id
             WHERE o.order_date >= {from} AND o.order_date < {to} GROUP BY i.product_id) n
          JOIN retail.products p USING (product_id) {JOINS}
         WHERE n.now > n.before AND {among} AND p.product_id IS DISTINCT FROM (SELECT product_id FROM target)"
    )
}
