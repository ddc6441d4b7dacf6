//! `fence.run_report`: the answers of `fence.run_query`, by plans that may be parallel.

mod support;

use storefence_devstack::postgres::AdminKind;
use storefence_tenancy::scope::StoreSet;
use support::{
    Tenant, World,
    flight::{Answer, Session},
    in_world,
};

/// Statements that both answer, whatever is strange about them.
const SAME: [&str; 24] = [
    "SELECT 1",
    "SELECT",
    "SELECT 1 AS fence_row, 2 AS line, 3 AS q",
    "SELECT 1 AS a, 2 AS a, 'x'",
    "SELECT NULL, NULL::int, 'unknown'",
    "SELECT count(*) FROM orders",
    "SELECT store_id, count(*), sum(total_amount) FROM orders JOIN order_items USING (order_id, store_id) GROUP BY 1 ORDER BY 1",
    "SELECT s.store_name, o.* FROM orders o JOIN stores s USING (store_id) ORDER BY o.order_id DESC",
    "SELECT order_id FROM orders ORDER BY order_id LIMIT 5 OFFSET 2",
    "(SELECT 1) UNION ALL (SELECT 2) ORDER BY 1 DESC",
    "VALUES (1, 'a'), (2, 'b')",
    "TABLE stores ORDER BY store_name",
    "WITH x AS (SELECT count(*) AS n FROM customers) SELECT n, n::text FROM x",
    "SELECT 1 -- a comment at the end",
    "SELECT 1 /* a comment */ -- and ) another",
    "SELECT ')' AS \"a)\", $$ ) $$ AS b, E'\\')' AS c, '--' AS d",
    "SELECT 1 WHERE false",
    "SELECT g FROM generate_series(1, 3) g ORDER BY g DESC",
    "SELECT ROW(1, 'x') AS r, ARRAY[1, 2] AS a, 'NaN'::numeric AS n, '{\"k\": 1}'::jsonb AS j",
    "SELECT json_agg(s.store_name ORDER BY s.store_name) FROM stores s",
    "SELECT DISTINCT email FROM customers ORDER BY 1",
    "SELECT x.n FROM (SELECT 1 AS n) x, LATERAL (SELECT x.n + 1) y",
    "SELECT rank() OVER (ORDER BY order_id) FROM orders ORDER BY 1",
    "SELECT repeat('x', 3000) FROM generate_series(1, 3)",
];

/// Statements that both refuse with the same error.
const REFUSED: [(&str, &str); 14] = [
    ("SELECT 1; SELECT 2", "42P11"),
    ("SELECT 1) AS a; SELECT (SELECT 2", "42601"),
    ("SELECT 1) AS fence_row) AS x, (SELECT (SELECT 2", "42601"),
    ("SELECT 1 /*", "42601"),
    ("SELECT 'open", "42601"),
    ("SELECT 1 AS a) --", "42601"),
    ("SELECT $1", "42P02"),
    ("SELECT fence_row FROM stores", "42703"),
    ("SELECT nothing FROM stores", "42703"),
    ("SELECT 1/0", "22012"),
    ("EXPLAIN SELECT 1", "0A000"),
    ("DELETE FROM orders", "42P11"),
    ("SELECT * FROM stores FOR UPDATE", "42501"),
    ("WITH x AS (DELETE FROM orders RETURNING 1) SELECT * FROM x", "42501"),
];

async fn both(session: &mut Session, tenant: &Tenant, query: &str, rows: i32, bytes: i32) -> [Answer; 2] {
    let mut answers = Vec::new();
    for entry in ["run_query", "run_report"] {
        session.entry = entry;
        let context = session.context(tenant, &StoreSet::All);
        answers.push(session.call_with(&context, query, rows, bytes).await);
    }
    answers.try_into().unwrap()
}

#[test]
fn answers_are_those_of_run_query_on_18() {
    in_world((18, AdminKind::CreateRole), same);
}

#[test]
fn answers_are_those_of_run_query_on_16() {
    in_world((16, AdminKind::CreateRole), same);
}

async fn same(world: World) {
    let tenant = world.provision("1-north", 4).await;
    world.fill().await;
    let session = &mut Session::open(&world, &tenant).await;
    for query in SAME {
        for (rows, bytes) in [(1_000, 1 << 20), (3, 1 << 20), (2, 1 << 20), (0, 1 << 20), (1_000, 3_100), (1_000, 1)] {
            let [query_answer, report_answer] = both(session, &tenant, query, rows, bytes).await;
            assert!(query_answer.is_ok(), "{query}: {query_answer:?}");
            assert_eq!(query_answer, report_answer, "{query} cut at {rows} rows and {bytes} bytes");
        }
    }
    for (query, code) in REFUSED {
        let [query_answer, report_answer] = both(session, &tenant, query, 10, 1_000).await;
        assert_eq!(query_answer, report_answer, "{query}");
        assert_eq!(report_answer.unwrap_err().code, code, "{query}");
    }
    // behind a row that is cut away nothing comes back, however small
    let gap = "SELECT repeat('x', CASE g WHEN 2 THEN 200000 ELSE 1 END) AS x FROM generate_series(1, 4) g";
    let [query_answer, report_answer] = both(session, &tenant, gap, 10, 1_000).await;
    assert_eq!(query_answer, Ok(vec![r#"{"x":"x"}"#.to_owned(), "!truncated".to_owned()]));
    assert_eq!(query_answer, report_answer);
    // a text that was cut off by the gateway's lexer ends without a semicolon
    session.entry = "run_report";
    assert_eq!(session.call(&tenant, &StoreSet::All, "SELECT 1;").await.unwrap_err().code, "42601");
}

/// The reason why it exists. Which plan a small table gets is made sure of by taking the cost of workers away.
#[test]
fn reports_run_in_parallel() {
    in_world((18, AdminKind::Superuser), |world| async move {
        let tenant = world.provision("1-north", 4).await;
        world.fill().await;
        let session = &mut Session::open(&world, &tenant).await;
        session
            .client
            .batch_execute(
                "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; \
                 SET min_parallel_index_scan_size = 0; SET enable_indexonlyscan = off; SET debug_parallel_query = off",
            )
            .await
            .unwrap();
        let launched = async |world: &World| -> i64 {
            // what a backend counted is reported some time after its transaction, or at its end
            let row = world
                .admin
                .query_one(
                    "SELECT pg_stat_force_next_flush() IS NULL, parallel_workers_launched FROM pg_stat_database WHERE datname = current_database()",
                    &[],
                )
                .await
                .unwrap();
            row.get(1)
        };
        let count = "SELECT count(*), sum(total_amount) FROM order_items";
        let mut seen = Vec::new();
        for entry in ["run_query", "run_report"] {
            let before = launched(&world).await;
            session.entry = entry;
            let expected = session.call(&tenant, &StoreSet::All, count).await.unwrap();
            assert_ne!(expected, vec![r#"{"count":0,"sum":null}"#.to_owned()]);
            session.client.batch_execute("SELECT pg_stat_force_next_flush(); SELECT 1").await.unwrap();
            let mut after = launched(&world).await;
            for _ in 0..20 {
                if after > before {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                after = launched(&world).await;
            }
            seen.push(after - before);
        }
        assert_eq!(seen[0], 0, "a cursor has no workers");
        assert!(seen[1] > 0, "a report has workers: {seen:?}");
    });
}
