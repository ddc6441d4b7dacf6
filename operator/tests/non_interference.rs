//! Hidden rows do not change what a statement answers, errors included: a set of statements, then every row of other stores and
//! other tenants changed, then the same statements again.
//!
//! Planner settings make an index over vectors the cheapest plan wherever it may be used at all, as it is by itself in a large
//! table. Lines are compared in the order of their text: that of rows without ORDER BY is none of the statement's.

mod support;

use support::{
    Tenant, WORLDS, World,
    flight::{Answer, Session},
    in_world,
};

const VECTOR: &str = "(SELECT array_agg(CASE WHEN g = 7 THEN 1 ELSE 0.02 END ORDER BY g)::real[]::vector FROM generate_series(1, 1536) g)";

/// `{hidden}`: a store of the other tenant; `{vector}`: a vector; `{near}`: one as a constant.
const STATEMENTS: &[&str] = &[
    "SELECT count(*) FROM retail.orders",
    "SELECT * FROM orders",
    "SELECT store_id, count(*), sum(total_amount) FROM order_items GROUP BY 1",
    "SELECT s.store_name, o.* FROM retail.orders o JOIN retail.stores s USING (store_id)",
    "SELECT c.email, count(o.order_id) FROM customers c LEFT JOIN orders o USING (customer_id) GROUP BY 1",
    "SELECT email FROM customers WHERE email LIKE 'c1%' OR email ~ 'Zq'",
    "SELECT count(*) FROM customers WHERE primary_store_id = '{hidden}'",
    "SELECT min(email), max(email), mode() WITHIN GROUP (ORDER BY email), percentile_disc(0.5) WITHIN GROUP (ORDER BY email) FROM customers",
    "SELECT email::int FROM customers",
    "SELECT count(*) FROM customers WHERE primary_store_id = '{hidden}' AND email::int > 0",
    "SELECT 1 / (CASE WHEN primary_store_id = '{hidden}' THEN 0 ELSE 1 END) FROM customers",
    "SELECT (SELECT email::int FROM customers WHERE primary_store_id = '{hidden}' LIMIT 1) IS NULL",
    "SELECT order_id FROM orders ORDER BY order_date, order_id LIMIT 5",
    "SELECT row_number() OVER (ORDER BY order_id), rank() OVER (ORDER BY order_date) FROM orders",
    "SELECT product_name, rank() OVER (ORDER BY base_price DESC) FROM products",
    "SELECT DISTINCT store_id FROM inventory ORDER BY 1",
    "SELECT x.n, e.product_id FROM products p JOIN product_description_embeddings e USING (product_id), LATERAL (SELECT count(*) n FROM order_items i WHERE i.product_id = p.product_id) x",
    "SELECT product_id FROM product_description_embeddings ORDER BY description_embedding <=> {near} LIMIT 10",
    "SELECT product_id FROM retail.product_description_embeddings ORDER BY description_embedding <=> {vector} LIMIT 40",
    "SELECT count(*) FROM (SELECT e.product_id FROM product_description_embeddings e WHERE (e.model <> '' OR (SELECT count(*) FROM order_items a, order_items b WHERE a.product_id = e.product_id) >= 0) \
      ORDER BY e.description_embedding <=> {near} LIMIT 40) x",
    "SELECT s.store_name, n.product_id FROM stores s, LATERAL (SELECT product_id FROM product_description_embeddings e ORDER BY e.description_embedding <=> {near} LIMIT 3) n",
    "WITH n AS MATERIALIZED (SELECT product_id, description_embedding <=> {near} AS d FROM product_description_embeddings ORDER BY 2 LIMIT 20) SELECT count(*), max(d) FROM n",
    "SELECT count(*) FROM (SELECT 1 FROM product_description_embeddings ORDER BY description_embedding <-> {near} LIMIT 20) x",
    "SELECT min(ctid), max(ctid) FROM orders",
    "SELECT age(xmin), count(*) FROM orders GROUP BY 1",
    "SELECT DISTINCT tableoid::regclass FROM orders",
    "SELECT count(*) FROM orders TABLESAMPLE SYSTEM (50) REPEATABLE (3)",
    "SELECT count(*) FROM customers TABLESAMPLE BERNOULLI (50) REPEATABLE (3)",
    "SELECT currtid2('orders', '(0,1)'::tid)",
    "SELECT currtid2('retail.orders', '(0,1)'::tid)",
    "SELECT count(*) FROM pg_stats WHERE tablename IN ('orders', 'customers', 'products')",
    "SELECT tablename, attname, n_distinct FROM pg_stats WHERE schemaname IN ('retail', 'views_retail')",
    "SELECT (o).order_id, to_jsonb(o) FROM orders o",
    "SELECT count(*) FROM retail.customers WHERE 'a' ~ email",
    "SELECT string_agg(email, ',' ORDER BY email), json_agg(c ORDER BY customer_id) FROM customers c",
    "SELECT tenant_id, display_name FROM tenants",
    "SELECT category_name FROM categories UNION ALL SELECT type_name FROM product_types",
    "SELECT count(*) FROM orders o WHERE NOT EXISTS (SELECT FROM order_items i WHERE i.order_id = o.order_id)",
];

/// Every row that the scope does not see becomes another one, is gone, or has company. The other tenant's products move next to
/// the vectors that are asked for.
const CHANGED: &str = "
    UPDATE retail.customers SET email = 'zzz' || email, first_name = 'changed' WHERE primary_store_id <> '{own}';
    DELETE FROM retail.order_items WHERE store_id <> '{own}' AND quantity > 1;
    INSERT INTO retail.orders (store_id, customer_id, order_date)
        SELECT store_id, customer_id, order_date - interval '900 days' FROM retail.orders, generate_series(1, 3) WHERE store_id <> '{own}';
    UPDATE retail.inventory SET stock_level = stock_level + 100 WHERE store_id <> '{own}';
    UPDATE retail.stores SET store_name = 'changed ' || store_name WHERE store_id <> '{own}';
    UPDATE retail.products SET base_price = base_price + 1000, product_name = 'changed ' || product_name WHERE tenant_key <> {tenant};
    UPDATE retail.categories SET category_name = 'changed' WHERE tenant_key <> {tenant};
    UPDATE retail.tenants SET display_name = 'changed' WHERE tenant_key <> {tenant};
    UPDATE retail.product_description_embeddings SET description_embedding = {vector}, model = 'changed' WHERE tenant_key <> {tenant};
    ANALYZE";

#[test]
fn postgres_18_superuser() {
    in_world(WORLDS[0], whole);
}

#[test]
fn postgres_18_createrole() {
    in_world(WORLDS[1], whole);
}

#[test]
fn postgres_16_superuser() {
    in_world(WORLDS[2], whole);
}

#[test]
fn postgres_16_createrole() {
    in_world(WORLDS[3], whole);
}

async fn whole(world: World) {
    let (tenant, other) = (world.provision("1-north", 3).await, world.provision("2-south", 3).await);
    world.fill().await;
    let superuser = world.superuser().await;
    // Products enough for an index to give fewer than there are, as different as those of a real catalogue, and an index of the
    // kind that the view has to keep away.
    superuser
        .batch_execute(
            "INSERT INTO retail.products (tenant_key, sku, product_name, category_id, type_id, cost, base_price)
                 SELECT tenant_key, 'more-' || g, 'thing ' || g, category_id, type_id, 1, 2 FROM retail.product_types, generate_series(1, 150) g;
             INSERT INTO retail.product_description_embeddings (product_id, tenant_key, description_embedding, model, content_hash)
                 SELECT p.product_id, p.tenant_key, (SELECT array_agg((hashint4(d * 7919 + p.n::int)::bigint & 255)::real / 255 ORDER BY d)::real[]::vector
                                                       FROM generate_series(1, 1536) d), 'm', ''
                   FROM (SELECT *, row_number() OVER (ORDER BY sku, tenant_key) AS n FROM retail.products WHERE sku LIKE 'more-%') p;
             CREATE INDEX near ON retail.product_description_embeddings USING hnsw (description_embedding vector_cosine_ops);
             ANALYZE",
        )
        .await
        .unwrap();
    let near: String = superuser.query_one(&format!("SELECT quote_literal({VECTOR}::text)"), &[]).await.unwrap().get(0);
    let ask = |text: &str| {
        text.replace("{hidden}", &other.stores[0].0.to_string())
            .replace("{near}", &format!("{near}::vector"))
            .replace("{vector}", VECTOR)
    };
    let mut session = Session::open(&world, &tenant).await;
    let settings = "SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off";
    session.client.batch_execute(settings).await.unwrap();
    let before = answers(&mut session, &tenant, &ask).await;
    assert!(before.iter().filter(|(_, answer)| answer.as_ref().is_ok_and(|lines| !lines.is_empty())).count() > 40);
    for refused in ["min(ctid)", "age(xmin)", "tableoid", "TABLESAMPLE", "currtid2"] {
        assert!(before.iter().all(|(statement, answer)| !statement.contains(refused) || answer.is_err()), "{refused}");
    }

    let change = CHANGED
        .replace("{own}", &tenant.stores[0].0.to_string())
        .replace("{tenant}", &tenant.tenant_key.to_string())
        .replace("{vector}", VECTOR);
    superuser.batch_execute(&change).await.unwrap();
    let after = answers(&mut session, &tenant, &ask).await;
    for ((statement, before), (_, after)) in before.iter().zip(&after) {
        assert_eq!(before, after, "{}: {statement}", world.label);
    }

    // Without the barrier the index answers, and the very same comparison shows it.
    superuser
        .batch_execute("ALTER VIEW views_retail.product_description_embeddings RESET (security_barrier)")
        .await
        .unwrap();
    let open = answers(&mut session, &tenant, &ask).await;
    let differ = after.iter().zip(&open).filter(|(after, open)| after.1 != open.1).count();
    assert!(differ > 0, "{}: the index is not used without the barrier either", world.label);
}

/// What each statement answers, by both functions that run statements.
async fn answers(session: &mut Session, tenant: &Tenant, ask: &impl Fn(&str) -> String) -> Vec<(String, Answer)> {
    let mut answers = Vec::new();
    for entry in ["run_query", "run_report"] {
        session.entry = entry;
        for statement in STATEMENTS {
            let answer = session.call(tenant, &tenant.first(1), &ask(statement)).await;
            let sorted = answer.map(|mut lines| {
                lines.sort();
                lines
            });
            answers.push((format!("{entry}: {statement}"), sorted));
        }
    }
    answers
}
