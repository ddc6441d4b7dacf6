//! Passes over a tenant that is as it should be write nothing in the database: PostgreSQL's own count of the rows that were
//! written, table by table, its catalogs among them.

mod harness;

use std::collections::BTreeMap;

use harness::{OPERATOR, Operator, World, poll, spec, store};

/// What PostgreSQL has counted so far: rows inserted, updated and deleted in every table, catalogs and those that all
/// databases share included.
async fn counted(world: &World) -> BTreeMap<String, i64> {
    // A session reports its counts when it ends; until then it may hold them back for seconds.
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'retail' AND pid <> pg_backend_pid()";
    let ended = poll(async || {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'storefence%'";
        world.execute(end).await;
        (world.text(sessions).await == "0").then_some(())
    });
    assert!(ended.await.is_some(), "sessions are left");
    let counts = "SELECT schemaname || '.' || relname, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_all_tables \
                  WHERE n_tup_ins + n_tup_upd + n_tup_del > 0";
    world.sql().await.query(counts, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn passes(operator: &Operator, more: f64) {
    let name = "storefence_operator_reconcile_total{reason=\"Reconciled\"}";
    let wanted = operator.metric(name).await + more;
    let passed = poll(async || (operator.metric(name).await >= wanted).then_some(()));
    assert!(passed.await.is_some(), "{}", operator.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn passes_over_tenants_that_are_as_they_should_be_write_no_row() {
    let world = World::start().await;
    // Its own writes of statistics are not the operator's.
    world.execute("ALTER SYSTEM SET autovacuum = off").await;
    world.execute("SELECT pg_reload_conf()").await;
    let operator = world.operator_with(&["--resync", "200ms"]).await;
    for (name, number) in [("zava", 1), ("contoso", 2)] {
        world.apply("retail", name, spec(name, &[("Seattle", store(number, 1))])).await;
        world.ready("retail", name).await;
    }
    passes(&operator, 4.0).await;
    let before = counted(&world).await;
    for table in
        ["fence.tenants", "fence.context_keys", "retail.stores", "pg_catalog.pg_authid", "pg_catalog.pg_policy"]
    {
        assert!(before.contains_key(table), "{table} was written, and is counted: {before:?}");
    }
    for name in ["zava", "contoso"] {
        world.ready("retail", name).await;
    }
    world.vault.reset_calls();
    passes(&operator, 10.0).await;
    assert_eq!(counted(&world).await, before, "{}", operator.log());
    assert_eq!(world.vault.writes(), 0);

    // The same count shows a single row.
    for name in ["zava", "contoso"] {
        world.ready("retail", name).await;
    }
    world.execute("UPDATE retail.tenants SET display_name = 'Other' WHERE tenant_id = 'zava'").await;
    let mended = poll(async || {
        let name = world.text("SELECT display_name FROM retail.tenants WHERE tenant_id = 'zava'").await;
        (name == "The zava tenant").then_some(())
    });
    assert!(mended.await.is_some(), "{}", operator.log());
    let mut after = counted(&world).await;
    let changed: Vec<String> = before.keys().filter(|table| before[*table] != after[*table]).cloned().collect();
    assert_eq!(changed, ["retail.tenants"]);
    assert_eq!(after.remove("retail.tenants").unwrap() - before["retail.tenants"], 2, "by hand, and back");

    // Nor does it write to the API, except for what was repaired: a database that was away for a moment is no news by itself.
    if world.is_stand_in("counting writes of the API") {
        passes(&operator, 2.0).await;
        world.api.counters().reset();
        passes(&operator, 10.0).await;
        assert_eq!(world.api.counters().writes(Some(OPERATOR)), 0, "{:?}", world.api.counters().all());
    }
}
