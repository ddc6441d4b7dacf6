//! Who the operator is to a database: from a mounted file, from a Key Vault, with which TLS; and what happens when that
//! changes, or cannot be used.

mod harness;

use std::time::Duration;

use harness::{Operator, World, condition_of, poll, spec, store};

const SECRET: &str = "retail-administrator";

/// The configuration with another way to the administrator of database `retail`, and more after it.
fn config(world: &World, administrator: &str) {
    let ca = world.cluster.ca_file().display();
    let text = format!(
        "databases:\n- name: retail\n  {administrator}\n  caFile: {ca}\nkeyVaults:\n- name: main\n  url: {}\n",
        world.vault.url()
    );
    world.write("config.yaml", &text);
}

async fn apply(world: &World, name: &str, number: u64) {
    world.apply("retail", name, spec(name, &[("Seattle", store(number, 1))])).await;
}

/// Gives the administrator another password, ends its sessions, and returns its new URL.
async fn rotate(world: &World, password: &str) -> String {
    let admin = &world.database.admin;
    world.execute(&format!("ALTER ROLE {admin} PASSWORD '{password}'")).await;
    world.cluster.proxy().cut_connections();
    world.database.admin_tls_url.replace(&world.database.admin_password, password)
}

async fn reloads(operator: &Operator, outcome: &str) -> f64 {
    operator.metric(&format!("storefence_operator_configuration_reloads_total{{outcome=\"{outcome}\"}}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_in_a_key_vault_is_read_and_followed() {
    let world = World::start().await;
    config(&world, &format!("adminUrlSecret: {{keyVault: main, name: {SECRET}}}"));

    // Not there yet: reported, and the start goes on.
    let operator = world.operator_with(&["--resync", "300ms"]).await;
    apply(&world, "zava", 1).await;
    let zava = world.condition("retail", "zava", "Ready", "False", "AdministratorUnknown").await;
    let message = &condition_of(&zava, "DatabaseReady").unwrap().message;
    assert!(message.contains(SECRET) && message.contains("'retail'"), "{message}");

    world.vault.put(SECRET, "not a url: hunter2", &[]);
    let told = poll(async || {
        let zava = world.get("retail", "zava").await?;
        let message = condition_of(&zava, "DatabaseReady")?.message.clone();
        (message.contains("cannot be used") && !message.contains("hunter2")).then_some(())
    });
    assert!(told.await.is_some(), "{}", operator.log());
    world.vault.put(SECRET, &world.database.admin_tls_url, &[]);
    // A value that cannot be used is read again as one that the server refuses: soon.
    world.ready("retail", "zava").await;

    // The commands find it there as well, with the same identity.
    let (code, stdout, stderr) = world.run(&["verify", "--database", "retail"]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let (code, stdout, stderr) = world.run(&["migrate"]);
    assert!(code == Some(0) && stdout.contains("retail: up to date"), "{stdout}{stderr}");

    // Rotated: the server's 28P01 makes the operator look, long before it would have looked by itself.
    let url = rotate(&world, "another1").await;
    world.condition("retail", "zava", "Ready", "False", "DatabaseUnreachable").await;
    world.vault.put(SECRET, &url, &[]);
    world.ready("retail", "zava").await;
    apply(&world, "contoso", 2).await;
    world.ready("retail", "contoso").await;

    // The vault's absence is no reason to forget what is known.
    world.delete_secret(SECRET).await;
    harness::stays(Duration::from_millis(600), async || world.get("retail", "zava").await).await;
    assert_eq!(condition_of(&world.get("retail", "zava").await.unwrap(), "DatabaseReady").unwrap().status, "True");
    let log = std::fs::read_to_string(operator.child.log_path().unwrap()).unwrap();
    assert!(!log.contains("another1") && !log.contains("hunter2") && !log.contains(&world.database.admin_password));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_in_a_mounted_file_is_followed() {
    let world = World::start().await;
    world.write("admin-url", &format!("{}\n", world.database.admin_tls_url));
    config(&world, "adminUrlFile: admin-url");
    let operator = world.operator_with(&["--resync", "300ms"]).await;
    apply(&world, "zava", 1).await;
    world.ready("retail", "zava").await;
    let url = rotate(&world, "another2").await;
    world.condition("retail", "zava", "Ready", "False", "DatabaseUnreachable").await;
    world.write("admin-url", &url);
    world.ready("retail", "zava").await;
    assert!(reloads(&operator, "ok").await >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_leaves_the_last_good_one_in_force_and_says_so() {
    let world = World::start().await;
    let operator = world.operator().await;
    let good = std::fs::read_to_string(world.directory.path().join("config.yaml")).unwrap();
    let refused = "storefence_operator_configuration_refused";
    assert_eq!(operator.metric(refused).await, 0.0);
    for (bad, told) in [
        ("databases: [".to_owned(), "config.yaml"),
        (good.replace("adminUrl:", "adminUrlFile: missing #"), "adminUrlFile"),
        (good.replace("adminUrl:", "adminUrlSecret: {keyVault: gone, name: x} #"), "'gone'"),
        (good.replace("- name: retail", "- name: retail\n  colour: blue"), "colour"),
    ] {
        world.write("config.yaml", &bad);
        let said = poll(async || {
            let log = operator.log();
            let line = log.lines().rfind(|line| line.contains("changed configuration is not used"))?;
            line.contains(told).then_some(())
        });
        assert!(said.await.is_some(), "{told}: {}", operator.log());
        assert_eq!(operator.metric(refused).await, 1.0, "{told}");
    }
    assert_eq!(reloads(&operator, "error").await, 4.0, "each of them once");
    apply(&world, "zava", 1).await;
    world.ready("retail", "zava").await;
    world.write("config.yaml", &good);
    let back = poll(async || (operator.metric(refused).await == 0.0).then_some(()));
    assert!(back.await.is_some());
    assert_eq!(reloads(&operator, "ok").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_verified_unless_the_url_says_otherwise() {
    let world = World::start().await;
    let (url, _) = world.database.admin_tls_url.split_once('?').unwrap();
    world.write("config.yaml", &{
        let text = format!("databases:\n- name: retail\n  adminUrl: {url}\nkeyVaults:\n- name: main\n  url: ");
        text + world.vault.url() + "\n"
    });
    let _operator = world.operator().await;
    apply(&world, "zava", 1).await;
    let zava = world.condition("retail", "zava", "Ready", "False", "DatabaseUnreachable").await;
    let message = &condition_of(&zava, "DatabaseReady").unwrap().message;
    assert!(message.contains("certificate"), "nobody vouches for the server: {message}");
    config(&world, &format!("adminUrl: {url}"));
    world.ready("retail", "zava").await;
    let uri = world.vault.secret("sf-zava-db-a").unwrap().value;
    assert!(uri.ends_with("?sslmode=verify-full"), "the tenants' logins as well");

    // In the clear only where the URL asks for it.
    config(&world, &format!("adminUrl: {}", world.database.admin_url));
    let changed = poll(async || {
        let uri = world.vault.secret("sf-zava-db-a")?.value;
        uri.ends_with("?sslmode=disable").then_some(())
    });
    assert!(changed.await.is_some());
    harness::stays(Duration::from_millis(100), async || world.vault.versions("sf-zava-db-a").len()).await;
}
