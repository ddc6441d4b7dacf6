//! Migrations and sample data on every supported server and administrator.

mod support;

use std::sync::Mutex;

use jiff::civil::date;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use storefence_devstack::postgres::AdminKind;
use storefence_operator::{
    migrate,
    seed::{self, Options, Scale},
    verify::{self, Expectations},
};
use support::{WORLDS, World, in_world, options, runtime};

#[test]
fn migrating_and_seeding_twice_changes_nothing() {
    std::thread::scope(|scope| {
        for world in WORLDS {
            scope.spawn(move || {
                runtime().block_on(async move { twice(World::unmigrated(world.0, world.1).await).await })
            });
        }
    });
}

async fn twice(world: World) {
    let admin = options(&world.database.admin_url);
    let report = migrate::run(&admin).await.unwrap();
    assert_eq!(report.applied, migrate::MIGRATIONS.map(|migration| migration.0), "{}", world.label);
    let again = migrate::run(&admin).await.unwrap();
    assert_eq!((again.applied, again.version), (vec![], report.version));

    let mut connection = PgConnection::connect_with(&admin).await.unwrap();
    let steps = Mutex::new(Vec::new());
    for tenant in ["zava", "contoso"] {
        let options = Options { tenant: tenant.to_owned(), scale: Scale::Small, as_of: date(2026, 6, 30) };
        let first =
            seed::run_with(&mut connection, &options, &|progress| steps.lock().unwrap().push(progress)).await.unwrap();
        assert!(first.loaded);
        let before = checksum(&mut connection).await;
        let second = seed::run_with(&mut connection, &options, &|_| panic!("nothing to load")).await.unwrap();
        assert_eq!(second, seed::Report { loaded: false, ..first });
        assert_eq!(checksum(&mut connection).await, before);
        let (orders, customers) = if tenant == "zava" { (5_000, 1_250) } else { (2_000, 500) };
        assert_eq!((first.orders, first.customers), (orders, customers));
        assert!(tenant != "zava" || (415..=425).contains(&first.products), "{first:?}");
        assert!((orders * 23 / 10..orders * 26 / 10).contains(&first.order_items), "{first:?}");
    }
    assert_eq!(
        steps.lock().unwrap().iter().filter(|step| step.table == "orders" && step.rows == step.total).count(),
        2
    );
    let other = seed::run(&mut connection, "zava", Scale::Zava).await.unwrap_err();
    assert_eq!(other.reason(), "OtherData");
    assert_eq!(seed::run(&mut connection, "fabrikam", Scale::Small).await.unwrap_err().reason(), "UnknownTenant");
    consistent(&mut connection).await;
    documented(&mut connection).await;
    indexed(&mut connection).await;
    // the same on every server: nothing is drawn from a random source
    let fingerprint: String = sqlx::query_scalar(
        "SELECT md5(string_agg(i::text || to_char(o.order_date AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') \
                || to_char(c.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), ',' ORDER BY order_item_id)) \
           FROM retail.order_items i JOIN retail.orders o USING (store_id, order_id) \
           JOIN retail.customers c USING (customer_id) JOIN retail.stores s ON s.store_id = i.store_id \
         WHERE store_name = 'Redmond'",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(fingerprint, "654ebb3d3c0c7e04c94ed2269bdac46c", "{}", world.label);
    assert_eq!(verify::check(&mut connection, &Expectations::default()).await.unwrap(), [], "{}", world.label);
}

/// Every row of every table.
async fn checksum(connection: &mut PgConnection) -> Vec<String> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'retail'::regnamespace AND relkind = 'r' ORDER BY 1",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    let mut sums = Vec::new();
    for table in tables {
        let query =
            format!("SELECT coalesce(md5(string_agg(r::text, ',' ORDER BY r::text)), '') FROM retail.{table} r");
        sums.push(sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut *connection).await.unwrap());
    }
    sums
}

/// What the constraints do not say.
async fn consistent(connection: &mut PgConnection) {
    for (what, query) in [
        (
            "an item of another tenant's product",
            "SELECT count(*) FROM retail.order_items i JOIN retail.stores s USING (store_id) JOIN retail.products p USING (product_id) WHERE p.tenant_key <> s.tenant_key",
        ),
        (
            "an order of another store's customer",
            "SELECT count(*) FROM retail.orders o JOIN retail.customers c USING (customer_id) WHERE c.primary_store_id <> o.store_id",
        ),
        (
            "an order without items",
            "SELECT count(*) FROM retail.orders o WHERE NOT EXISTS (SELECT FROM retail.order_items i WHERE i.order_id = o.order_id)",
        ),
        (
            "a wrong total",
            "SELECT count(*) FROM retail.order_items WHERE total_amount <> quantity * unit_price - discount_amount",
        ),
        (
            "a store without orders",
            "SELECT count(*) FROM retail.stores s WHERE NOT EXISTS (SELECT FROM retail.orders o WHERE o.store_id = s.store_id)",
        ),
        (
            "a product of the tenant that a store keeps no stock of",
            "SELECT count(*) FROM retail.stores s JOIN retail.products p USING (tenant_key) WHERE NOT EXISTS (SELECT FROM retail.inventory i WHERE i.store_id = s.store_id AND i.product_id = p.product_id)",
        ),
        (
            "a tenant with other stores than it has",
            "SELECT count(*) FROM retail.tenants t WHERE (SELECT count(*) FROM retail.stores s WHERE s.tenant_key = t.tenant_key) <> CASE tenant_id WHEN 'zava' THEN 8 ELSE 4 END",
        ),
        (
            "an order of somebody who is no customer yet",
            "SELECT count(*) FROM retail.orders o JOIN retail.customers c USING (customer_id) WHERE o.order_date < c.created_at",
        ),
    ] {
        let rows: i64 = sqlx::query_scalar(query).fetch_one(&mut *connection).await.unwrap();
        assert_eq!(rows, 0, "{what}");
    }
}

/// The schema tool passes the comments on to the model.
async fn documented(connection: &mut PgConnection) {
    let missing: Vec<String> = sqlx::query_scalar(
        "SELECT format('%s.%s', attrelid::regclass, attname) FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid \
          WHERE c.relnamespace IN ('retail'::regnamespace, 'fence'::regnamespace) AND c.relkind = 'r' AND attnum >= 0 AND c.relname <> 'schema_history' \
            AND col_description(attrelid, attnum) IS NULL \
         UNION ALL SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace IN ('retail'::regnamespace, 'fence'::regnamespace) AND c.relkind = 'r' \
            AND c.relname <> 'schema_history' AND obj_description(c.oid, 'pg_class') IS NULL",
    )
    .fetch_all(connection)
    .await
    .unwrap();
    assert_eq!(missing, Vec::<String>::new(), "without a comment");
}

/// Apart from keys, whose values nobody guesses, indexes start with what the policies filter by; vectors have HNSW. The one that
/// is no primary key is that of the order which an item belongs to.
async fn indexed(connection: &mut PgConnection) {
    let astray: Vec<String> = sqlx::query_scalar(
        "SELECT indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = indrelid \
           JOIN pg_class x ON x.oid = indexrelid JOIN pg_am m ON m.oid = x.relam \
           LEFT JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = indkey[0] \
          WHERE c.relnamespace = 'retail'::regnamespace AND c.relname <> 'tenants' AND NOT indisprimary AND m.amname = 'btree' \
            AND a.attname NOT IN ('tenant_key', 'store_id', 'primary_store_id') \
            AND x.relname <> 'order_items_order_report_idx'",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    assert_eq!(astray, Vec::<String>::new(), "indexes that start with something else");
    let approximate: Vec<String> = sqlx::query_scalar(
        "SELECT x.relname::text FROM pg_index JOIN pg_class x ON x.oid = indexrelid JOIN pg_am m ON m.oid = x.relam \
          WHERE m.amname IN ('hnsw', 'ivfflat')",
    )
    .fetch_all(connection)
    .await
    .unwrap();
    assert_eq!(approximate, Vec::<String>::new(), "indexes whose answers hang on the rows of all tenants");
}

#[test]
fn a_changed_or_newer_database_is_refused() {
    in_world(WORLDS[1], |world| async move {
        let admin = options(&world.database.admin_url);
        let mut connection = PgConnection::connect_with(&admin).await.unwrap();
        sqlx::raw_sql("UPDATE fence.schema_history SET checksum = sha256(checksum) WHERE version = 3")
            .execute(&mut connection)
            .await
            .unwrap();
        let error = migrate::run(&admin).await.unwrap_err();
        assert!(error.reason() == "MigrationModified" && error.to_string().contains("migration 3"), "{error}");
        // the lock is free again, also on a connection that stays
        assert_eq!(migrate::run_on(&mut connection).await.unwrap_err().reason(), "MigrationModified");
        let held: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(held, 0);
        sqlx::raw_sql("DELETE FROM fence.schema_history WHERE version = 3; INSERT INTO fence.schema_history VALUES (99, 'later', now(), true, '', 0)")
            .execute(&mut connection).await.unwrap();
        let error = migrate::run(&admin).await.unwrap_err();
        assert!(error.reason() == "DatabaseNewer" && error.to_string().contains("99"), "{error}");
        drop(connection);
        assert_eq!(
            migrate::run(&options("postgresql://nobody:x@127.0.0.1:1/none")).await.unwrap_err().reason(),
            "DatabaseUnreachable"
        );
        // the whole of it, not the one field used above: the cluster ends with it
        drop(world);
    });
}

#[test]
fn an_administrator_without_the_rights_is_told_which() {
    runtime().block_on(async {
        let world = World::unmigrated(18, AdminKind::CreateRole).await;
        let superuser = world.superuser().await;
        // pgvector is not there and cannot be created
        superuser.batch_execute("DROP EXTENSION IF EXISTS vector; CREATE TYPE public.vector").await.unwrap();
        let error = migrate::run(&options(&world.database.admin_url)).await.unwrap_err();
        assert!(
            error.reason() == "ExtensionUnavailable" && error.to_string().contains("CREATE EXTENSION vector"),
            "{error}"
        );
        superuser
            .batch_execute("DROP TYPE public.vector; CREATE SCHEMA elsewhere; CREATE EXTENSION vector SCHEMA elsewhere")
            .await
            .unwrap();
        // not the owner
        superuser.batch_execute("CREATE ROLE other LOGIN CREATEROLE PASSWORD 'x'").await.unwrap();
        let url =
            world.cluster.url("other", "x", &world.database.name, storefence_devstack::postgres::SslMode::Disable);
        let error = migrate::run(&options(&url)).await.unwrap_err();
        assert!(error.reason() == "InsufficientPrivileges", "{error}");
        // pgvector in a schema that nobody may use
        let error = migrate::run(&options(&world.database.admin_url)).await.unwrap_err();
        assert!(
            error.reason() == "InsufficientPrivileges" && error.to_string().contains("GRANT USAGE ON SCHEMA elsewhere"),
            "{error}"
        );
        superuser.batch_execute("GRANT USAGE ON SCHEMA elsewhere TO PUBLIC").await.unwrap();
        // a migration that failed left nothing: the next run goes on from there
        let report = migrate::run(&options(&world.database.admin_url)).await.unwrap();
        let rest: Vec<i64> = migrate::MIGRATIONS[1..].iter().map(|migration| migration.0).collect();
        assert_eq!(report.applied, rest);
        let tenant = world.provision("1-north", 1).await;
        let mut session = support::flight::Session::open(&world, &tenant).await;
        let distance =
            session.call(&tenant, &tenant.first(1), "SELECT '[1,0]'::vector <-> '[1,2]'::vector AS d").await.unwrap();
        assert_eq!(distance, ["{\"d\":2}"]);
        let mut connection = PgConnection::connect_with(&options(&world.database.admin_url)).await.unwrap();
        assert_eq!(verify::check(&mut connection, &Expectations::default()).await.unwrap(), []);
        // roles that another administrator made: the message says what to grant
        superuser.batch_execute("CREATE DATABASE second OWNER other").await.unwrap();
        world
            .cluster
            .connect("second")
            .await
            .unwrap()
            .batch_execute("CREATE EXTENSION IF NOT EXISTS vector")
            .await
            .unwrap();
        let second =
            options(&world.cluster.url("other", "x", "second", storefence_devstack::postgres::SslMode::Disable));
        let error = migrate::run(&second).await.unwrap_err();
        assert!(
            error.reason() == "InsufficientPrivileges" && error.to_string().contains("WITH ADMIN OPTION"),
            "{error}"
        );
        superuser
            .batch_execute(
                "GRANT retail_owner, fence_owner, retail_loader, fence_reader, fence_runner, fence_login TO other WITH ADMIN OPTION",
            )
            .await
            .unwrap();
        migrate::run(&second).await.unwrap();
    });
}

/// Roles are the cluster's, advisory locks are the database's: nothing but retrying keeps these apart.
#[test]
fn databases_of_one_cluster_are_migrated_at_once() {
    runtime().block_on(async {
        let world = World::unmigrated(18, AdminKind::Superuser).await;
        let mut urls = vec![world.database.admin_url.clone(), world.database.admin_url.clone()];
        for number in 0..4 {
            urls.push(
                world.cluster.create_database(&format!("more_{number}"), AdminKind::Superuser).await.unwrap().admin_url,
            );
        }
        let runs: Vec<_> =
            urls.into_iter().map(|url| tokio::spawn(async move { migrate::run(&options(&url)).await })).collect();
        let mut applied = 0;
        for run in runs {
            applied += run.await.unwrap().unwrap().applied.len();
        }
        // of two runs on one database, one does the work; the other waits and may see the history before or after
        assert!(applied >= 5 * migrate::MIGRATIONS.len(), "{applied}");
        let row = sqlx::query("SELECT count(*) FROM fence.schema_history")
            .fetch_one(&mut PgConnection::connect_with(&options(&world.database.admin_url)).await.unwrap())
            .await
            .unwrap();
        assert_eq!(usize::try_from(row.get::<i64, _>(0)).unwrap(), migrate::MIGRATIONS.len());
    });
}
