//! What happens to a database in its life, with the real binary: who its administrator is, who holds locks in it, when it
//! takes no writes, and when it is dropped and made anew.

mod harness;

use std::time::{Duration, Instant};

use harness::{World, condition_of, poll, spec, store};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use storefence_tenancy::{
    RetailTenant,
    credentials::{Slot, login_role_name},
};

const RESYNC: [&str; 2] = ["--resync", "300ms"];

async fn apply(world: &World) {
    world.apply("retail", "zava", spec("zava", &[("Seattle", store(1, 1))])).await;
}

fn message(tenant: &RetailTenant, type_: &str) -> String {
    condition_of(tenant, type_).unwrap().message.clone()
}

/// Hands the database to another administrator, whose login and password these are.
fn administered_by(world: &World, login: &str) {
    let (admin, password) = (&world.database.admin, &world.database.admin_password);
    let encoded = login.replace('@', "%40").replace(' ', "%20");
    let url = world
        .database
        .admin_tls_url
        .replace(&format!("{admin}:{password}@"), &format!("{encoded}:only-for-this-test@"));
    world.write_config(&url);
}

/// Everything that an administrator does: migrating twice, a tenant's whole life, and looking at the fence.
async fn administers(world: &World, label: &str) {
    let (code, stdout, stderr) = world.run(&["migrate"]);
    assert!(code == Some(0) && stdout.contains("applied"), "{label}: {stdout}{stderr}");
    let (code, stdout, stderr) = world.run(&["migrate"]);
    assert!(code == Some(0) && stdout.contains("up to date"), "{label}: {stdout}{stderr}");
    let operator = world.operator_with(&RESYNC).await;
    apply(world).await;
    world.ready("retail", "zava").await;
    let session = world.log_in("zava").await.unwrap_or_else(|error| panic!("{label}: {error}\n{}", operator.log()));
    let (code, stdout, stderr) = world.run(&["verify", "--database", "retail"]);
    assert!(code == Some(0) && !stdout.contains("UNSAFE"), "{label}: {stdout}{stderr}");
    world.delete("retail", "zava").await;
    world.gone("retail", "zava").await;
    assert!(session.query("SELECT 1", &[]).await.is_err(), "{label}: its session has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_may_have_any_name() {
    for name in ["RetailAdmin", "Retail-Ops@contoso.com"] {
        let world = World::start().await;
        world
            .execute(&format!(
                "CREATE ROLE \"{name}\" LOGIN CREATEROLE PASSWORD 'only-for-this-test'; ALTER DATABASE retail OWNER TO \"{name}\""
            ))
            .await;
        administered_by(&world, name);
        administers(&world, name).await;
    }
}

/// As companies have it whose people come by logins of their own and work as one role: they inherit nothing, and become it
/// when they log in.
#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_may_act_as_another_role() {
    let world = World::start().await;
    world
        .execute(
            "CREATE ROLE \"Retail Owner\" CREATEROLE; ALTER DATABASE retail OWNER TO \"Retail Owner\"; \
             CREATE ROLE ops LOGIN NOINHERIT PASSWORD 'only-for-this-test'; GRANT \"Retail Owner\" TO ops; \
             ALTER ROLE ops SET role = 'Retail Owner'",
        )
        .await;
    administered_by(&world, "ops");
    administers(&world, "SET role").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_server_and_administrator_change_nothing() {
    let world = World::start().await;
    let admin = &world.database.admin;
    world.execute("ALTER SYSTEM SET quote_all_identifiers = on").await;
    world
        .execute(&format!(
            "SELECT pg_reload_conf(); ALTER ROLE {admin} NOINHERIT; \
             ALTER ROLE {admin} SET row_security = off; ALTER ROLE {admin} SET search_path = nowhere; \
             ALTER ROLE {admin} SET bytea_output = escape; ALTER ROLE {admin} SET default_transaction_isolation = serializable"
        ))
        .await;
    administers(&world, "settings").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_way_of_the_first_migration_is_named_with_the_way_out() {
    let world = World::start().await;
    world.execute("CREATE SCHEMA retail; CREATE TABLE retail.theirs (x int)").await;
    let (code, _, stderr) = world.run(&["migrate"]);
    assert!(code == Some(1) && stderr.contains("ALTER SCHEMA retail RENAME TO"), "{stderr}");
    world.execute("ALTER SCHEMA retail RENAME TO theirs; CREATE SCHEMA fence; CREATE TABLE fence.theirs (x int)").await;
    let (code, _, stderr) = world.run(&["migrate"]);
    assert!(code == Some(1) && stderr.contains("ALTER SCHEMA fence RENAME TO"), "{stderr}");
    world.execute("DROP SCHEMA fence CASCADE").await;

    // Usage without the right to pass it on: the server answers the migration's GRANT with a mere warning.
    let admin = &world.database.admin;
    world
        .execute(&format!(
            "DROP EXTENSION IF EXISTS vector; CREATE SCHEMA \"Extensions\"; CREATE EXTENSION vector SCHEMA \"Extensions\"; \
             GRANT USAGE ON SCHEMA \"Extensions\" TO {admin}"
        ))
        .await;
    let (code, _, stderr) = world.run(&["migrate"]);
    assert_eq!(code, Some(1), "{stderr}");
    let grant = stderr.split("GRANT USAGE").nth(1).unwrap_or_else(|| panic!("no GRANT named: {stderr}"));
    world.execute(&format!("GRANT USAGE{}", grant.trim_end().trim_end_matches(')'))).await;
    administers(&world, "pgvector elsewhere").await;
}

/// What docs/database.md says of loading jobs.
#[tokio::test(flavor = "multi_thread")]
async fn a_loading_job_gets_in_with_the_documented_grants() {
    let world = World::start().await;
    assert_eq!(world.run(&["migrate"]).0, Some(0));
    let page = include_str!("../../docs/database.md");
    let block = page.split("```sql\n").find(|block| block.contains("retail_loader TO nightly_load")).unwrap();
    let grants = block.split("```").next().unwrap();
    let (client, connection) = tokio_postgres::connect(&world.database.admin_url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(grants).await.unwrap();
    let password = grants.split('\'').nth(1).unwrap();
    let url = world.cluster.url("nightly_load", password, "retail", storefence_devstack::postgres::SslMode::Disable);
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("CONNECT");
    tokio::spawn(connection);
    client
        .batch_execute(
            "CREATE TEMPORARY TABLE loading (tenant_id text, display_name text); \
             INSERT INTO retail.tenants (tenant_id, display_name) VALUES ('zava', 'Zava')",
        )
        .await
        .unwrap();
}

/// The former text of migrations that were changed after they had shipped.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_ran_a_former_text_goes_on() {
    let world = World::start().await;
    assert_eq!(world.run(&["migrate"]).0, Some(0));
    let former = "UPDATE fence.schema_history SET checksum = CASE version \
        WHEN 1 THEN '\\xa75d183c291f6a4e0b4a41cc1691cd71251b2c3d3764794c59844d8144b58df6c51d4e4333b37346e758de8d3f56fd26'::bytea \
        ELSE '\\xa73feae490ae4b60b4749114dda58be53a6a61c93dca7bc112bbce91a1c30698a716b14330dde8511ae0faebcbd6420b'::bytea END \
        WHERE version IN (1, 12)";
    world.execute(former).await;
    let (code, stdout, stderr) = world.run(&["migrate"]);
    assert!(code == Some(0) && stdout.contains("up to date"), "{stdout}{stderr}");
    // Of its own version only.
    world.execute("UPDATE fence.schema_history SET checksum = (SELECT checksum FROM fence.schema_history WHERE version = 12) WHERE version = 1").await;
    let (code, _, stderr) = world.run(&["migrate"]);
    assert!(code == Some(1) && stderr.contains("migration 1 "), "{stderr}");
}

/// Somebody reads for hours, as pg_dump does, while a migration wants the table for itself.
#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_while_a_migration_waits_for_a_reader() {
    let world = World::start().await;
    assert_eq!(world.run(&["migrate"]).0, Some(0));
    world.execute("DELETE FROM fence.schema_history WHERE version = 14").await;
    let reader = world.sql().await;
    reader.batch_execute("BEGIN; LOCK TABLE fence.context_keys IN ACCESS SHARE MODE").await.unwrap();
    let operator = world.operator_with(&RESYNC).await;
    apply(&world).await;
    // What a call does with this table, for as long as the operator tries.
    let caller = world.sql().await;
    let (began, mut longest, mut calls) = (Instant::now(), Duration::ZERO, 0_u32);
    while began.elapsed() < Duration::from_secs(12) {
        let call = Instant::now();
        caller.query("SELECT count(*) FROM fence.context_keys", &[]).await.unwrap();
        longest = longest.max(call.elapsed());
        calls += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(longest < Duration::from_millis(2500), "a call waited {longest:?}");
    assert!(calls > 100, "{calls} calls");
    let tenant = world.condition("retail", "zava", "Ready", "False", "MigrationFailed").await;
    let told = message(&tenant, "DatabaseReady");
    let pid: i32 = reader.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    assert!(told.contains("migration 14") && told.contains(&format!("session {pid} ")), "{told}");
    reader.batch_execute("COMMIT").await.unwrap();
    world.ready("retail", "zava").await;
    assert_eq!(
        world.text("SELECT count(*) FROM fence.schema_history WHERE version = 14").await,
        "1",
        "{}",
        operator.log()
    );
}

/// The same for what the operator repairs: a policy, and row-level security, want the table for themselves.
#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_while_a_repair_waits_for_a_reader() {
    let world = World::start().await;
    let operator = world.operator_with(&RESYNC).await;
    apply(&world).await;
    world.ready("retail", "zava").await;
    let reader = world.sql().await;
    reader.batch_execute("BEGIN; LOCK TABLE retail.orders IN ACCESS SHARE MODE").await.unwrap();
    world.execute("UPDATE pg_class SET relforcerowsecurity = false WHERE oid = 'retail.orders'::regclass").await;
    let caller = world.sql().await;
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    while began.elapsed() < Duration::from_secs(12) {
        let call = Instant::now();
        caller.query("SELECT count(*) FROM retail.orders", &[]).await.unwrap();
        longest = longest.max(call.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(longest > Duration::from_millis(500), "the repair was never tried: {longest:?}\n{}", operator.log());
    assert!(longest < Duration::from_millis(2500), "a call waited {longest:?}");
    reader.batch_execute("COMMIT").await.unwrap();
    let repaired = poll(async || {
        let force = "SELECT relforcerowsecurity FROM pg_class WHERE oid = 'retail.orders'::regclass";
        (world.text(force).await == "true").then_some(())
    });
    assert!(repaired.await.is_some(), "{}", operator.log());
    world.ready("retail", "zava").await;
}

async fn recreate(world: &World) {
    world.cluster.drop_database("retail").await.unwrap();
    let postgres = world.cluster.connect("postgres").await.unwrap();
    postgres.batch_execute(&format!("CREATE DATABASE retail OWNER {}", world.database.admin)).await.unwrap();
    world.execute("CREATE EXTENSION IF NOT EXISTS vector").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_made_anew_is_migrated_and_filled_by_the_operator_that_runs() {
    let world = World::start().await;
    let operator = world.operator_with(&RESYNC).await;
    apply(&world).await;
    world.ready("retail", "zava").await;
    let former = world.login("zava").await;
    recreate(&world).await;
    let served = poll(async || {
        let client = world.sql().await;
        let enabled = client.query_one("SELECT enabled FROM fence.tenants", &[]).await.ok()?;
        enabled.get::<_, bool>(0).then_some(())
    });
    assert!(served.await.is_some(), "{}", operator.log());
    world.ready("retail", "zava").await;
    let login = world.login("zava").await;
    assert_ne!(login, former, "another database, another salt");
    world.log_in("zava").await.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    let logins =
        "SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles WHERE rolname LIKE 'sf\\_%' AND rolcanlogin";
    assert_eq!(world.text(logins).await, login, "no login under a former salt");
    let salt = world.sql().await.query_one("SELECT value FROM fence.settings WHERE name = 'role_salt'", &[]).await;
    let salt: Vec<u8> = salt.unwrap().get(0);
    assert_eq!(login, login_role_name(&salt, &"zava".parse().unwrap(), Slot::A));
    // The status is written after the database.
    let told = poll(async || {
        let status = world.get("retail", "zava").await?.status?;
        (status.credentials?.slots.first()?.login == login).then_some(())
    });
    assert!(told.await.is_some(), "{:?}", world.get("retail", "zava").await);
    // Also where another one was restored in its place, whose salt is its own.
    world.execute("DELETE FROM fence.tenants; UPDATE fence.settings SET value = sha256(value)").await;
    let again = poll(async || {
        let found = world.login("zava").await;
        (!found.is_empty() && found != login).then_some(found)
    });
    let again = again.await.unwrap_or_else(|| panic!("{}", operator.log()));
    world.ready("retail", "zava").await;
    let only = poll(async || (world.text(logins).await == again).then_some(()));
    assert!(only.await.is_some(), "{}", world.text(logins).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_database_is_gone_can_be_let_go() {
    let world = World::start().await;
    let _operator = world.operator_with(&RESYNC).await;
    apply(&world).await;
    world.ready("retail", "zava").await;
    world.cluster.drop_database("retail").await.unwrap();
    world.delete("retail", "zava").await;
    let told = poll(async || {
        let tenant = world.get("retail", "zava").await?;
        let message = condition_of(&tenant, "Ready")?.message.clone();
        message.contains("deletionPolicy to Retain").then_some(())
    });
    assert!(told.await.is_some(), "{:#?}", world.get("retail", "zava").await);
    let secrets = world.vault.names();
    assert!(
        secrets.iter().all(|name| world.vault.versions(name).iter().all(|version| !version.enabled)),
        "no reason to wait"
    );
    let patch = json!({"spec": {"deletionPolicy": "Retain"}});
    world.tenants("retail").patch("zava", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    world.gone("retail", "zava").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_takes_no_writes_is_named_as_such() {
    let mut world = World::start().await;
    let operator = world.operator_with(&RESYNC).await;
    apply(&world).await;
    world.ready("retail", "zava").await;
    // As a managed server does when its disk is full.
    world.execute("ALTER SYSTEM SET default_transaction_read_only = on").await;
    world.execute("SELECT pg_reload_conf()").await;
    let tenant = world.condition("retail", "zava", "Ready", "False", "DatabaseReadOnly").await;
    assert!(message(&tenant, "DatabaseReady").contains("default_transaction_read_only"), "{tenant:#?}");
    assert!(operator.metric("storefence_operator_circuit_open{backend=\"database\",name=\"retail\"}").await == 0.0);
    let (code, _, stderr) = world.run(&["migrate"]);
    assert!(code == Some(1) && stderr.contains("read-only"), "{stderr}");
    let superuser = world.sql().await;
    superuser.batch_execute("SET default_transaction_read_only = off").await.unwrap();
    superuser.batch_execute("ALTER SYSTEM RESET default_transaction_read_only").await.unwrap();
    world.execute("SELECT pg_reload_conf()").await;
    world.ready("retail", "zava").await;

    // A standby answers all that a pass asks, and no call.
    world.execute("ALTER SYSTEM SET wal_level = replica").await;
    world.cluster.shut_down().await.unwrap();
    world.cluster.start_up().await.unwrap();
    world.ready("retail", "zava").await;
    world.cluster.shut_down().await.unwrap();
    std::fs::write(world.cluster.directory().join("data/standby.signal"), "").unwrap();
    world.cluster.start_up().await.unwrap();
    let tenant = world.condition("retail", "zava", "Ready", "False", "DatabaseReadOnly").await;
    assert!(message(&tenant, "DatabaseReady").contains("standby"), "{tenant:#?}");
    world.sql().await.query("SELECT pg_promote()", &[]).await.unwrap();
    world.ready("retail", "zava").await;
}
