//! Databases that come from a backup, and statements that messages tell people to run.

mod harness;

use std::{path::PathBuf, process::Command, time::Duration};

use harness::{World, condition_of, poll, spec, store};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use storefence_tenancy::RetailTenant;

const RESYNC: [&str; 4] = ["--resync", "300ms", "--unclaimed-grace", "4s"];

async fn served(world: &World, name: &str, number: u64, policy: &str) -> RetailTenant {
    let mut spec = spec(name, &[("Seattle", store(number, 1))]);
    spec["deletionPolicy"] = policy.into();
    world.apply("retail", name, spec).await;
    world.ready("retail", name).await
}

/// Copies a stopped server's files, with their owners.
fn copy(from: PathBuf, to: PathBuf) {
    let _ = std::fs::remove_dir_all(&to);
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_that_a_backup_brings_back_are_named_and_closed() {
    let mut world = World::start().await;
    let operator = world.operator_with(&RESYNC).await;
    served(&world, "zava", 1, "Revoke").await;
    served(&world, "contoso", 2, "Revoke").await;
    served(&world, "fabrikam", 3, "Retain").await;
    world.delete("retail", "fabrikam").await;
    world.gone("retail", "fabrikam").await;
    // The first look has been, so that what is unclaimed from now on is news.
    let looked = "SELECT EXISTS (SELECT FROM fence.settings WHERE name = 'unclaimed-looked-at')";
    assert!(poll(async || (world.text(looked).await == "true").then_some(())).await.is_some());

    let (data, backup) = (world.cluster.directory().join("data"), world.cluster.directory().join("backup"));
    world.cluster.shut_down().await.unwrap();
    copy(data.clone(), backup.clone());
    world.cluster.start_up().await.unwrap();
    world.ready("retail", "zava").await;
    world.delete("retail", "contoso").await;
    world.gone("retail", "contoso").await;
    let metric = "storefence_operator_unclaimed_tenants{database=\"retail\"}";
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(operator.metric(metric).await, 0.0, "what was deleted in order is nobody's concern");

    world.cluster.shut_down().await.unwrap();
    copy(backup, data);
    world.cluster.start_up().await.unwrap();
    let state = "SELECT string_agg(tenant_id || ' ' || enabled, ',' ORDER BY tenant_id) FROM fence.tenants";
    assert_eq!(world.text(state).await, "contoso true,fabrikam true,zava true", "contoso is back");
    let named = poll(async || {
        let (code, stdout, _) = world.run(&["verify", "--database", "retail"]);
        (code == Some(1) && stdout.contains("UNSAFE tenant contoso: found open")).then_some(stdout)
    });
    let named = named.await.unwrap_or_else(|| panic!("{}", operator.log()));
    assert!(!named.contains("fabrikam") && !named.contains("tenant zava"), "{named}");
    assert_eq!(world.text(state).await, "contoso true,fabrikam true,zava true", "not before the grace is over");
    let closed = poll(async || (world.text(state).await == "contoso false,fabrikam true,zava true").then_some(()));
    assert!(closed.await.is_some(), "{}\n{}", world.text(state).await, operator.log());
    let logins = |tenant: &str| {
        format!(
            "SELECT count(*) FILTER (WHERE rolcanlogin) FROM fence.logins l JOIN pg_roles r ON r.rolname = l.login \
             JOIN fence.tenants USING (tenant_key) WHERE tenant_id = '{tenant}'"
        )
    };
    let keys =
        "SELECT count(*) FROM fence.context_keys JOIN fence.tenants USING (tenant_key) WHERE tenant_id = 'contoso'";
    let shut = poll(async || (world.text(&logins("contoso")).await == "0").then_some(()));
    assert!(shut.await.is_some(), "{}", operator.log());
    assert_eq!(world.text(keys).await, "0");
    assert_eq!(world.text(&logins("fabrikam")).await, "1", "let go with Retain");
    assert_eq!(operator.metric(metric).await, 1.0);
    let (code, stdout, _) = world.run(&["verify", "--database", "retail"]);
    assert!(code == Some(0) && stdout.contains("notice tenant contoso: found closed"), "{stdout}");
    world.ready("retail", "zava").await;
    world.log_in("zava").await.unwrap();

    // Its object again: it is served, and nobody's concern any more.
    served(&world, "contoso", 2, "Revoke").await;
    let forgotten = poll(async || (operator.metric(metric).await == 0.0).then_some(()));
    assert!(forgotten.await.is_some());
}

/// The blocks of shell commands under a heading of a page.
fn commands(page: &str, heading: &str) -> Vec<String> {
    let section = page.split(heading).nth(1).unwrap_or_else(|| panic!("no heading {heading}"));
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
    blocks.map(|block| block.lines().map(str::trim_start).collect::<Vec<_>>().join("\n")).collect()
}

/// The recipe of docs/upgrade.md, by an administrator that is not superuser, from one server to another.
#[tokio::test(flavor = "multi_thread")]
async fn dump_and_restore_without_superuser_lead_back_to_serving() {
    let old = World::start().await;
    let operator = old.operator_with(&RESYNC).await;
    served(&old, "zava", 1, "Revoke").await;
    old.execute(
        "INSERT INTO retail.categories (tenant_key, category_name) SELECT tenant_key, 'Tools ' || n FROM retail.tenants, generate_series(1, 2500) n",
    )
    .await;
    let suspend = json!({"spec": {"suspend": true}});
    old.tenants("retail").patch("zava", &PatchParams::default(), &Patch::Merge(suspend)).await.unwrap();
    old.condition("retail", "zava", "Suspended", "True", "Suspended").await;

    let new = World::start().await;
    let [dump, migrate, restore] = commands(include_str!("../../docs/upgrade.md"), "### By dump and restore")
        .try_into()
        .unwrap_or_else(|found| panic!("three blocks: {found:?}"));
    let file = old.directory.path().join("retail.sql");
    let bin = old.cluster.binaries().bin_dir().display().to_string();
    let binary = env!("CARGO_BIN_EXE_storefence-operator");
    let shell = |world: &World, line: &str| {
        let line = line
            .replace("storefence-operator", binary)
            .replace("retail.sql", file.to_str().unwrap())
            .replace("--config operator.yaml", &format!("--config {}/config.yaml", world.directory.path().display()))
            .replace("\"$OLD_URL\"", &format!("'{}'", old.database.admin_url))
            .replace("\"$NEW_URL\"", &format!("'{}'", new.database.admin_url));
        let output = world.command_in_shell(&format!("PATH='{bin}':\"$PATH\"\n{line}"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}\n{said}");
    };
    shell(&old, &dump);
    shell(&new, &migrate);
    shell(&new, &restore);
    assert_eq!(new.text("SELECT count(*) FROM retail.categories").await, "2500");
    // The operator's configuration leads to the new server; the vault is the old one's.
    let config = std::fs::read_to_string(old.directory.path().join("config.yaml")).unwrap();
    let config = config.replace(&old.database.admin_tls_url, &new.database.admin_tls_url);
    let (old_ca, new_ca) = (old.cluster.ca_file().display().to_string(), new.cluster.ca_file().display().to_string());
    old.write("config.yaml", &config.replace(&old_ca, &new_ca));
    let resume = json!({"spec": {"suspend": false}});
    old.tenants("retail").patch("zava", &PatchParams::default(), &Patch::Merge(resume)).await.unwrap();
    let served =
        poll(async || (new.text("SELECT count(*) FROM fence.tenants WHERE enabled").await == "1").then_some(()));
    assert!(served.await.is_some(), "{}", operator.log());
    let login = new.login("zava").await;
    let recorded = poll(async || {
        let credentials = old.get("retail", "zava").await?.status?.credentials?;
        (credentials.slots[0].login == login).then_some(())
    });
    assert!(recorded.await.is_some(), "{}", operator.log());
    old.ready("retail", "zava").await;
    assert!(old.vault.secret("sf-zava-db-a").unwrap().value.contains(&login));
    // Counting goes on where it was.
    new.execute("INSERT INTO retail.tenants (tenant_id, display_name) VALUES ('next', 'Next')").await;
    let (code, stdout, stderr) = new.run(&["verify", "--database", "retail"]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
}

/// Whoever a message tells to run a statement can: the administrator, or a superuser where the line says so.
#[tokio::test(flavor = "multi_thread")]
async fn what_verify_prints_can_be_run_by_who_is_told_to() {
    let world = World::start().await;
    let operator = world.operator_with(&["--resync", "1h"]).await;
    served(&world, "zava", 1, "Revoke").await;
    operator.kill();
    let login = world.login("zava").await;
    world.execute("CREATE ROLE \"Retail-Ops@contoso.com\"; CREATE ROLE \"user\"; CREATE ROLE mallory").await;
    let admin = &world.database.admin;
    for spoil in [
        "GRANT EXECUTE ON FUNCTION fence.run_query TO fence_reader".to_owned(),
        "SET ROLE fence_runner; GRANT EXECUTE ON FUNCTION fence.run_report TO \"Retail-Ops@contoso.com\"; RESET ROLE"
            .to_owned(),
        "REVOKE EXECUTE ON FUNCTION fence.run_query FROM fence_login".to_owned(),
        "ALTER DEFAULT PRIVILEGES FOR ROLE fence_reader GRANT EXECUTE ON ROUTINES TO PUBLIC".to_owned(),
        "ALTER DEFAULT PRIVILEGES FOR ROLE fence_owner GRANT EXECUTE ON ROUTINES TO PUBLIC".to_owned(),
        "GRANT retail_loader TO \"user\"".to_owned(),
        "GRANT retail_owner TO \"Retail-Ops@contoso.com\"".to_owned(),
        format!("GRANT pg_read_all_data TO {login}"),
        format!("SET ROLE {admin}; GRANT retail_loader TO mallory; RESET ROLE"),
        "ALTER ROLE fence_reader BYPASSRLS".to_owned(),
        "ALTER ROLE fence_reader CREATEDB".to_owned(),
        format!("ALTER ROLE {login} CREATEROLE"),
        format!("ALTER ROLE {login} SET row_security = off"),
        "ALTER ROLE \"Retail-Ops@contoso.com\" BYPASSRLS".to_owned(),
        "ALTER DATABASE retail SET default_transaction_read_only = off".to_owned(),
        "GRANT SELECT ON retail.orders TO \"Retail-Ops@contoso.com\"".to_owned(),
        "GRANT SELECT ON retail.orders TO PUBLIC".to_owned(),
        "GRANT TEMPORARY ON DATABASE retail TO PUBLIC".to_owned(),
        "ALTER TABLE retail.orders NO FORCE ROW LEVEL SECURITY".to_owned(),
        "CREATE POLICY \"Mine\" ON retail.orders USING (true)".to_owned(),
        "ALTER TABLE fence.context_keys OWNER TO mallory".to_owned(),
        format!("CREATE TABLE public.mine (x int); ALTER TABLE public.mine OWNER TO {login}"),
    ] {
        world.execute(&spoil).await;
        let (code, stdout, _) = world.run(&["verify", "--database", "retail"]);
        assert_eq!(code, Some(1), "{spoil}: {stdout}");
        let told: Vec<&str> = stdout.lines().filter(|line| !line.starts_with("notice")).collect();
        assert!(!told.is_empty(), "{spoil}: {stdout}");
        for line in &told {
            let remedy = line.split("; remedy: ").nth(1).unwrap().split(", or ").next().unwrap();
            match remedy
                .strip_prefix("as superuser: ")
                .or_else(|| remedy.strip_prefix("as superuser, in every database: "))
            {
                Some(statement) => world.execute(statement).await,
                None => {
                    let (client, connection) =
                        tokio_postgres::connect(&world.database.admin_url, tokio_postgres::NoTls).await.unwrap();
                    tokio::spawn(connection);
                    client.batch_execute(remedy).await.unwrap_or_else(|error| panic!("{spoil}: {remedy}: {error:?}"));
                }
            }
        }
        let (code, stdout, stderr) = world.run(&["verify", "--database", "retail"]);
        assert_eq!(code, Some(0), "{spoil}: {told:?} did not lead back: {stdout}{stderr}");
    }
    assert!(condition_of(&world.get("retail", "zava").await.unwrap(), "Ready").is_some());
}
