//! The strict level: what it takes away, that the fence still works, and that the check reports when it is undone.

mod support;

use sqlx::{Connection, PgConnection};
use storefence_operator::{
    migrate,
    verify::{self, Expectations, Level},
};
use storefence_tenancy::scope::StoreSet;
use support::{WORLDS, World, flight::Session, in_world, options};

#[test]
fn postgres_18() {
    in_world(WORLDS[1], strict);
}

#[test]
fn postgres_16() {
    in_world(WORLDS[3], strict);
}

async fn strict(world: World) {
    let tenant = world.provision("1-north", 2).await;
    world.fill().await;
    let statements = [
        "SELECT set_config('statement_timeout', '0', true)",
        "SELECT pg_advisory_lock(42)",
        "SELECT count(pg_advisory_xact_lock_shared(g)) FROM generate_series(1, 1000) g",
        "SELECT pg_logical_emit_message(false, 'x', 'y')",
        "SELECT pg_notify('x', 'x')",
        "SELECT pg_export_snapshot()",
        "SELECT pg_sleep(0)",
        "SELECT pg_terminate_backend(1)",
        "SELECT query FROM pg_stat_activity",
        "SELECT * FROM pg_stat_get_activity(NULL)",
        "SELECT count(*) FROM pg_locks",
        "SELECT * FROM pg_cursors",
        "SELECT query_to_xml('SELECT 1', true, false, '')",
        "SELECT word FROM ts_stat('SELECT to_tsvector(''simple'', store_name) FROM retail.stores')",
        "SELECT pg_relation_filepath('retail.orders')",
    ];
    let mut admin = PgConnection::connect_with(&options(&world.database.admin_url)).await.unwrap();
    let strict = Expectations { level: Level::Strict, ..Expectations::default() };
    let open = verify::check(&mut admin, &strict).await.unwrap();
    assert!(
        open.len() > 40 && open.iter().all(|deviation| deviation.object.starts_with("built-in function")),
        "{open:#?}"
    );

    // only a superuser can
    assert_eq!(verify::harden(&mut admin).await.unwrap_err().reason(), "InsufficientPrivileges");
    assert_eq!(verify::check(&mut admin, &strict).await.unwrap(), open);
    let mut superuser = PgConnection::connect_with(&options(
        &world.cluster.superuser_url(&world.database.name, storefence_devstack::postgres::SslMode::Disable),
    ))
    .await
    .unwrap();
    for _ in 0..2 {
        let steps = verify::harden(&mut superuser).await.unwrap();
        assert_eq!(steps, verify::harden_steps(&mut admin).await.unwrap(), "what --dry-run shows is what runs");
        assert_eq!(verify::check(&mut admin, &strict).await.unwrap(), [], "{}", world.label);
    }

    let mut session = Session::open(&world, &tenant).await;
    for statement in statements {
        let refusal = session.call(&tenant, &StoreSet::All, statement).await.expect_err(statement);
        assert_eq!(refusal.code, "42501", "{statement}: {refusal:?}");
    }
    // ordinary work goes on, for the tenant and for the administrator
    assert_eq!(
        session.call(&tenant, &tenant.first(1), "SELECT count(*) AS n FROM retail.orders").await.unwrap(),
        ["{\"n\":36}"]
    );
    assert!(migrate::run(&options(&world.database.admin_url)).await.unwrap().applied.is_empty());
    let other = world.provision("2-south", 1).await;
    assert!(
        Session::open(&world, &other)
            .await
            .call(&other, &StoreSet::All, "SELECT store_name FROM retail.stores")
            .await
            .is_ok()
    );

    // undone by an upgrade, say
    sqlx::raw_sql("GRANT EXECUTE ON FUNCTION pg_catalog.pg_notify(text, text) TO PUBLIC")
        .execute(&mut superuser)
        .await
        .unwrap();
    let found = verify::check(&mut admin, &strict).await.unwrap();
    assert_eq!(
        found.iter().map(|deviation| deviation.object.as_str()).collect::<Vec<_>>(),
        ["built-in function pg_notify(text,text)"]
    );
    assert_eq!(verify::check(&mut admin, &Expectations::default()).await.unwrap(), []);
}
