//! `fence.search_products`: exact where it can be, never short of rows, and nothing without a signed context.

mod support;

use std::{collections::HashSet, time::Duration};

use serde_json::Value;
use sqlx::{Connection, PgConnection};
use storefence_devstack::postgres::AdminKind;
use storefence_operator::{
    migrate,
    verify::{self, Expectations},
};
use storefence_tenancy::scope::StoreSet;
use support::{
    Tenant, World,
    flight::{Answer, Session, refusal, ticket},
    in_world, options,
};

/// What is asked for.
struct Ask<'a> {
    vector: Vec<f32>,
    model: &'a str,
    words: Option<&'a str>,
    min_similarity: f64,
    max_rows: i32,
}

impl Ask<'_> {
    fn nearest(vector: Vec<f32>, max_rows: i32) -> Self {
        Self { vector, model: "m", words: None, min_similarity: -1.0, max_rows }
    }
}

/// One call as the gateway makes it.
async fn search(session: &mut Session, context: &str, ask: &Ask<'_>) -> Answer {
    let client = &session.client;
    client.batch_execute("BEGIN READ ONLY").await.map_err(refusal)?;
    let found = client
        .query(
            "SELECT line FROM fence.search_products($1, $2, $3, $4, $5, $6)",
            &[&context, &ask.vector, &ask.model, &ask.words, &ask.min_similarity, &ask.max_rows],
        )
        .await;
    client.batch_execute("ROLLBACK").await.map_err(refusal)?;
    session.ticket = ticket(&session.client).await;
    Ok(found.map_err(refusal)?.iter().map(|row| row.get(0)).collect())
}

async fn rows(session: &mut Session, tenant: &Tenant, stores: &StoreSet, ask: &Ask<'_>) -> Vec<Value> {
    let context = session.context(tenant, stores);
    let lines = search(session, &context, ask).await.unwrap();
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(rows: &[Value]) -> Vec<String> {
    rows.iter().map(|row| row["product_id"].as_str().unwrap().to_owned()).collect()
}

/// A direction that lies between a few others: positions `at` and its neighbours.
fn vector(at: usize) -> Vec<f32> {
    (0..1536)
        .map(|i| {
            if i == at {
                1.0
            } else if i == at + 1 {
                0.5
            } else {
                0.01
            }
        })
        .collect()
}

/// The middle of a cluster, as SQL: numbers around zero in all dimensions, as those of texts have.
const CENTRE: &str = "CASE WHEN hashint4(-1 - (cluster * 1536 + d)) & 1 = 0 THEN 0.5 ELSE -0.5 END";

/// The middle of one of 40 clusters.
async fn centre(world: &World, cluster: i32) -> Vec<f32> {
    let centre = format!(
        "SELECT array_agg({CENTRE} ORDER BY d)::real[] FROM (SELECT $1::integer) c (cluster), generate_series(0, 1535) d"
    );
    world.admin.query_one(&centre, &[&cluster]).await.unwrap().get(0)
}

/// Gives each product of a tenant a vector in one of the clusters, the same in every run.
async fn embed(world: &World, tenant: &Tenant, model: &str) {
    let statement = format!(
        "INSERT INTO retail.product_description_embeddings \
             (product_id, tenant_key, description_embedding, model, content_hash, search_document) \
         SELECT product_id, tenant_key, \
                (SELECT array_agg({CENTRE} + (hashint4(n * 1536 + d)::bigint & 1023)::real / 1023 - 0.5 ORDER BY d)::real[] \
                   FROM generate_series(0, 1535) d), \
                $2, '', to_tsvector('english', product_name) \
           FROM (SELECT *, n % 40 AS cluster FROM (SELECT *, substr(sku, 5)::integer AS n FROM retail.products WHERE tenant_key = $1) p) p \
         ON CONFLICT (product_id) DO UPDATE SET description_embedding = excluded.description_embedding, model = excluded.model"
    );
    world.admin.execute(&statement, &[&tenant.tenant_key, &model]).await.unwrap();
}

/// Products `from` to `to`, beside those that `fill` made.
async fn products(world: &World, tenant: &Tenant, from: i32, to: i32) {
    world
        .admin
        .execute(
            "INSERT INTO retail.products (tenant_key, sku, product_name, category_id, type_id, cost, base_price) \
             SELECT tenant_key, 'sku-' || g, 'thing ' || g, category_id, type_id, 1, 2 \
               FROM retail.product_types, generate_series($2::integer, $3::integer) g WHERE tenant_key = $1",
            &[&tenant.tenant_key, &from, &to],
        )
        .await
        .unwrap();
}

/// The nearest by the administrator's own reckoning, without any index.
async fn exact(world: &World, tenant: &Tenant, ask: &Ask<'_>) -> Vec<String> {
    let statement = "SELECT product_id::text FROM (SELECT product_id, description_embedding FROM retail.product_description_embeddings \
                      WHERE tenant_key = $1 AND model = $2 OFFSET 0) e \
                     ORDER BY description_embedding <=> ($3::real[])::vector, product_id LIMIT $4";
    let rows = world
        .admin
        .query(statement, &[&tenant.tenant_key, &ask.model, &ask.vector, &i64::from(ask.max_rows)])
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[test]
fn a_small_tenant_gets_exact_results_of_its_own() {
    in_world((16, AdminKind::CreateRole), |world| async move {
        let (small, other) = (world.provision("small", 3).await, world.provision("other", 2).await);
        world.fill().await;
        products(&world, &small, 9, 10).await;
        for tenant in [&small, &other] {
            embed(&world, tenant, "m").await;
        }
        let session = &mut Session::open(&world, &small).await;
        for at in [0, 3, 700] {
            let ask = Ask::nearest(vector(at), 100);
            let found = rows(session, &small, &StoreSet::All, &ask).await;
            assert_eq!(ids(&found), exact(&world, &small, &ask).await, "{at}");
            assert_eq!(found.len(), 10, "ten products, ten rows");
            let percents: Vec<f64> = found.iter().map(|row| row["similarity_percent"].as_f64().unwrap()).collect();
            assert!(percents.is_sorted_by(|a, b| a >= b) && percents[0] <= 100.0, "{percents:?}");
        }
        let few = rows(session, &small, &StoreSet::All, &Ask::nearest(vector(3), 4)).await;
        assert_eq!(ids(&few), exact(&world, &small, &Ask::nearest(vector(3), 4)).await);
        let none = Ask { min_similarity: 0.99, ..Ask::nearest(vector(3), 10) };
        assert!(rows(session, &small, &StoreSet::All, &none).await.is_empty(), "below the threshold");
        let foreign = Ask { model: "another", ..Ask::nearest(vector(3), 10) };
        assert!(rows(session, &small, &StoreSet::All, &foreign).await.is_empty(), "of another model");
        // Words are found below the threshold, by the hybrid search alone.
        let words = Ask { min_similarity: 0.99, words: Some("thing 10"), ..Ask::nearest(vector(3), 10) };
        let found = rows(session, &small, &StoreSet::All, &words).await;
        assert_eq!(
            (found.len(), &found[0]["product_name"], &found[0]["has_words"]),
            (1, &"thing 10".into(), &true.into())
        );
        // Both kinds together: what holds the words is among the first, the rest is there too.
        let both = Ask { words: Some("thing 10"), ..Ask::nearest(vector(3), 10) };
        let found = rows(session, &small, &StoreSet::All, &both).await;
        assert_eq!((found.len(), &found[0]["product_name"]), (10, &"thing 10".into()));
    });
}

#[test]
fn stock_is_that_of_the_scope_and_products_are_the_tenants() {
    in_world((18, AdminKind::CreateRole), |world| async move {
        let (a, b) = (world.provision("a", 3).await, world.provision("b", 2).await);
        world.fill().await;
        world.admin.batch_execute("UPDATE retail.product_description_embeddings SET model = 'm'").await.unwrap();
        let session = &mut Session::open(&world, &a).await;
        let own: HashSet<String> = exact(&world, &a, &Ask::nearest(vector(0), 100)).await.into_iter().collect();
        for (scope, stores) in [(StoreSet::All, 3), (a.first(1), 1), (a.first(2), 2)] {
            let found = rows(session, &a, &scope, &Ask::nearest(vector(0), 100)).await;
            assert_eq!(ids(&found).into_iter().collect::<HashSet<_>>(), own);
            for row in &found {
                assert_eq!(row["stock_level"], 7 * stores, "{row}");
                let mut seen: Vec<&str> =
                    row["stores"].as_array().unwrap().iter().map(|store| store[0].as_str().unwrap()).collect();
                let mut expected: Vec<&str> = a.stores[..stores].iter().map(|store| store.1.as_str()).collect();
                seen.sort_unstable();
                expected.sort_unstable();
                assert_eq!(seen, expected);
            }
        }

        // No context, somebody else's, a used one, one for another tenant's stores: no row, whatever is asked.
        let ask = Ask::nearest(vector(0), 5);
        let refused = async |session: &mut Session, context: &str| {
            let refusal = search(session, context, &ask).await.unwrap_err();
            assert_eq!(refusal.code, "SF001", "{refusal:?}");
        };
        refused(session, "").await;
        refused(session, "v1|1|a|1|1|1|*.00").await;
        let used = session.context(&a, &StoreSet::All);
        search(session, &used, &ask).await.unwrap();
        refused(session, &used).await;
        let signed_for_b = session.context(&b, &StoreSet::All);
        refused(session, &signed_for_b).await;
        let stores_of_b = session.context(&a, &b.first(1));
        refused(session, &stores_of_b).await;
        // The entry point is the logins' alone: the users' SQL runs as another role, which may not enter again.
        let context = session.context(&a, &StoreSet::All);
        let nested = "SELECT * FROM fence.search_products('', '{1}'::real[], 'm', NULL, 0, 1)";
        let refusal = session.call_with(&context, nested, 10, 1_000).await.unwrap_err();
        assert_eq!(refusal.code, "42501", "{refusal:?}");
    });
}

/// Whether the tenant's searches find what the exact ones do, and as many.
async fn assert_recall(world: &World, session: &mut Session, tenant: &Tenant) {
    let (mut hits, mut wanted) = (0, 0);
    for at in 0..10 {
        let near = centre(world, at).await;
        for max_rows in [20, 100] {
            let ask = Ask::nearest(near.clone(), max_rows);
            let found: HashSet<String> = ids(&rows(session, tenant, &StoreSet::All, &ask).await).into_iter().collect();
            assert_eq!(found.len(), max_rows as usize, "fewer rows than there are");
            let expected = exact(world, tenant, &ask).await;
            hits += expected.iter().filter(|id| found.contains(*id)).count();
            wanted += expected.len();
        }
    }
    assert!(hits * 100 >= wanted * 95, "recall {hits} of {wanted}");
    println!("recall: {hits} of {wanted}");
}

/// How often the HNSW index was read, as far as the backends have reported.
async fn index_scans(superuser: &tokio_postgres::Client) -> i64 {
    let scans =
        "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'product_description_embeddings_hnsw_idx'";
    superuser.query_one(scans, &[]).await.unwrap().get(0)
}

#[test]
fn a_large_tenant_among_others_is_never_short_of_rows() {
    in_world((18, AdminKind::CreateRole), |world| async move {
        let (large, other) = (world.provision("large", 1).await, world.provision("other", 1).await);
        world.fill().await;
        world.admin.batch_execute("DELETE FROM retail.product_description_embeddings").await.unwrap();
        let superuser = world.superuser().await;
        products(&world, &large, 9, 5_100).await;
        products(&world, &other, 9, 2_000).await;
        for tenant in [&large, &other] {
            embed(&world, tenant, "m").await;
        }
        superuser
            .batch_execute(
                "SET maintenance_work_mem = '256MB'; \
                 CREATE INDEX product_description_embeddings_hnsw_idx ON retail.product_description_embeddings \
                     USING hnsw (description_embedding vector_cosine_ops); \
                 ANALYZE",
            )
            .await
            .unwrap();
        // By the signs: an index that somebody made is not asked.
        let session = &mut Session::open(&world, &large).await;
        assert_recall(&world, session, &large).await;
        assert_eq!(index_scans(&superuser).await, 0, "the index was used");

        // However many products a tenant has, and whatever the planner thinks of the index.
        session.client.batch_execute("SET enable_sort = off; SET enable_seqscan = off").await.unwrap();
        assert_recall(&world, session, &large).await;
        // A backend reports what it used when it ends.
        *session = Session::open(&world, &other).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(index_scans(&superuser).await, 0, "the index was used");
    });
}

/// A database that was at migration 9, with vectors in it.
#[test]
fn vectors_that_were_there_before_get_their_signs() {
    in_world((16, AdminKind::CreateRole), |world| async move {
        let (one, other) = (world.provision("one", 2).await, world.provision("other", 1).await);
        world.fill().await;
        for (tenant, last) in [(&one, 300), (&other, 40)] {
            products(&world, tenant, 9, last).await;
            embed(&world, tenant, "m").await;
        }
        let superuser = world.superuser().await;
        superuser
            .batch_execute(
                "DROP SCHEMA views_retail CASCADE; DROP FUNCTION fence.over_views; \
                 ALTER FUNCTION fence.run_query OWNER TO fence_reader; ALTER FUNCTION fence.run_report OWNER TO fence_reader; \
                 ALTER FUNCTION fence.plan_hash OWNER TO fence_reader; \
                 ALTER TABLE retail.product_description_embeddings DROP COLUMN description_bits; \
                 DROP INDEX retail.order_items_store_report_idx, retail.order_items_order_report_idx; \
                 DELETE FROM fence.schema_history WHERE version >= 10; \
                 CREATE TABLE before AS SELECT product_id, description_embedding, updated_at FROM retail.product_description_embeddings",
            )
            .await
            .unwrap();
        let admin = options(&world.database.admin_url);
        assert_eq!(migrate::run(&admin).await.unwrap().applied[0], 10);
        let changed = superuser
            .query_one(
                "SELECT count(*) FILTER (WHERE e.description_bits IS DISTINCT FROM binary_quantize(b.description_embedding)::bit(1536) \
                                            OR e.updated_at <> b.updated_at OR b.product_id IS NULL), count(*) \
                   FROM retail.product_description_embeddings e FULL JOIN before b USING (product_id)",
                &[],
            )
            .await
            .unwrap();
        assert_eq!((changed.get::<_, i64>(0), changed.get::<_, i64>(1)), (0, 340));
        let mut connection = PgConnection::connect_with(&admin).await.unwrap();
        assert_eq!(verify::check(&mut connection, &Expectations::default()).await.unwrap(), []);
        let session = &mut Session::open(&world, &one).await;
        let ask = Ask::nearest(centre(&world, 7).await, 100);
        let found = rows(session, &one, &StoreSet::All, &ask).await;
        // a hundred are wanted, a thousand may be compared, 300 there are: the answer is exact
        assert_eq!(ids(&found), exact(&world, &one, &ask).await);
        // A vector that changes takes its signs along.
        superuser
            .batch_execute("UPDATE retail.product_description_embeddings SET description_embedding = description_embedding * array_fill(-1, ARRAY[1536])::vector")
            .await
            .unwrap();
        let stale = "SELECT count(*) FROM retail.product_description_embeddings WHERE description_bits <> binary_quantize(description_embedding)::bit(1536)";
        assert_eq!(superuser.query_one(stale, &[]).await.unwrap().get::<_, i64>(0), 0);
    });
}
