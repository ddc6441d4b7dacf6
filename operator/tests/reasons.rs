//! Reasons of conditions that no other suite meets, each provoked, reported with a reason of the closed list, and gone when
//! its cause is.

mod harness;

use std::time::{Duration, Instant};

use harness::{World, condition_of, poll, spec, store};
use serde_json::Value;
use storefence_devstack::key_vault::{Effect, FaultRule, Operation};

/// What stands in the way of a new tenant.
enum Trouble {
    /// Each call of this kind meets it.
    Vault(Operation, Effect),
    /// The spec names a vault that the configuration lacks.
    OtherVault,
    /// The database, by one statement; the other takes it back.
    Database(&'static str, &'static str),
    /// The server's list of who may connect does not let the logins in.
    Logins,
}

/// Reason, the condition beside `Ready` that has it, words of the message, and the trouble.
fn reasons() -> Vec<(&'static str, &'static str, &'static [&'static str], Trouble)> {
    let bad = Effect::Status(400, "BadParameter".into());
    vec![
        ("KeyVaultThrottled", "SecretsReady", &["throttl"], Trouble::Vault(Operation::Get, Effect::Throttle(2))),
        ("KeyVaultError", "SecretsReady", &["sf-"], Trouble::Vault(Operation::Set, bad)),
        ("KeyVaultNotConfigured", "SecretsReady", &["'nowhere'", "configuration"], Trouble::OtherVault),
        (
            "DatabaseError",
            "DatabaseReady",
            &["not today", "P0001"],
            Trouble::Database(
                "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today'; END $$; \
                 CREATE TRIGGER refuse BEFORE INSERT ON fence.tenants FOR EACH ROW EXECUTE FUNCTION public.refuse()",
                "DROP TRIGGER refuse ON fence.tenants; DROP FUNCTION public.refuse()",
            ),
        ),
        ("LoginProbeFailed", "DatabaseReady", &["is refused", "Key Vault"], Trouble::Logins),
    ]
}

impl Trouble {
    async fn begin(&self, world: &World, spec: &mut Value) {
        match self {
            Self::Vault(operation, effect) => {
                world.vault.inject(FaultRule::new(effect.clone()).on(*operation).always());
            }
            Self::OtherVault => spec["keyVaultRef"]["name"] = "nowhere".into(),
            Self::Database(statement, _) => world.execute(statement).await,
            Self::Logins => {
                let path = world.cluster.directory().join("data/pg_hba.conf");
                let rules = std::fs::read_to_string(&path).unwrap();
                std::fs::write(&path, format!("host all \"/^sf_\" all reject\n{rules}")).unwrap();
                world.execute("SELECT pg_reload_conf()").await;
            }
        }
    }

    async fn end(&self, world: &World) {
        match self {
            Self::Vault(..) => world.vault.clear_faults(),
            Self::OtherVault => {
                let config = std::fs::read_to_string(world.directory.path().join("config.yaml")).unwrap();
                world.write("config.yaml", &format!("{config}- name: nowhere\n  url: {}\n", world.vault.url()));
            }
            Self::Database(_, repair) => world.execute(repair).await,
            Self::Logins => {
                let path = world.cluster.directory().join("data/pg_hba.conf");
                let rules = std::fs::read_to_string(&path).unwrap();
                std::fs::write(&path, rules.split_once('\n').unwrap().1).unwrap();
                world.execute("SELECT pg_reload_conf()").await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reason_is_told_where_it_belongs_and_goes_with_its_cause() {
    let world = World::start().await;
    let operator = world.operator().await;
    // The database is migrated, whatever comes.
    world.apply("retail", "first", spec("first", &[("Seattle", store(1, 1))])).await;
    world.ready("retail", "first").await;
    for ((reason, area, words, trouble), number) in reasons().into_iter().zip(2..) {
        let name = reason.to_lowercase();
        let mut spec = spec(&name, &[("Seattle", store(number, 1))]);
        trouble.begin(&world, &mut spec).await;
        world.apply("retail", &name, spec).await;
        let tenant = world.condition("retail", &name, "Ready", "False", reason).await;
        for type_ in ["Ready", area] {
            let condition = condition_of(&tenant, type_).unwrap();
            assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", reason), "{type_}");
            let told = words.iter().all(|word| condition.message.contains(word));
            assert!(told, "{reason} {type_}: {}", condition.message);
        }
        assert_eq!(tenant.status.unwrap().credentials, None, "{reason}: it is not served");
        let metric = format!("storefence_operator_reconcile_total{{reason=\"{reason}\"}}");
        assert!(operator.metric(&metric).await >= 1.0, "{metric}");
        trouble.end(&world).await;
        world.ready("retail", &name).await;
        world.log_in(&name).await.unwrap_or_else(|error| panic!("{reason}: {error}\n{}", operator.log()));
        let events = world.events("retail", &name).await;
        assert!(events.contains(&reason.to_owned()) && events.contains(&"Reconciled".to_owned()), "{events:?}");
    }
}

/// A migration that is not the one of this version: nothing is done with the database, and the object says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_fails_is_told_and_tried_again() {
    let world = World::start().await;
    let operator = world.operator().await;
    world.apply("retail", "zava", spec("zava", &[("Seattle", store(1, 1))])).await;
    world.ready("retail", "zava").await;
    assert!(operator.stop().await.success());
    world.execute("UPDATE fence.schema_history SET checksum = '\\x00'::bytea || checksum WHERE version = 2").await;
    let _operator = world.operator().await;
    let tenant = world.condition("retail", "zava", "Ready", "False", "MigrationFailed").await;
    for type_ in ["Ready", "DatabaseReady"] {
        let condition = condition_of(&tenant, type_).unwrap();
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "MigrationFailed"), "{type_}");
        assert!(condition.message.contains("migration 2"), "{}", condition.message);
    }
    assert!(tenant.status.unwrap().credentials.is_some(), "what is in force stays in force");
    world.execute("UPDATE fence.schema_history SET checksum = substr(checksum, 2) WHERE version = 2").await;
    world.ready("retail", "zava").await;
}

/// As long as the vault asked for, and not a call sooner, from whatever tenant.
#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_says_when_is_not_asked_before() {
    let world = World::start().await;
    let operator = world.operator().await;
    world.apply("retail", "first", spec("first", &[("Seattle", store(1, 1))])).await;
    world.ready("retail", "first").await;
    let asked_for = Duration::from_secs(6);
    world.vault.inject(FaultRule::new(Effect::Throttle(asked_for.as_secs())).on(Operation::Get).always());
    let begun = Instant::now();
    world.apply("retail", "zava", spec("zava", &[("Seattle", store(2, 1))])).await;
    world.condition("retail", "zava", "SecretsReady", "False", "KeyVaultThrottled").await;
    let calls = async || {
        use Operation::{Get, GetDeleted, ListVersions, Set, Update};
        [Get, GetDeleted, ListVersions, Set, Update].map(|operation| world.vault.calls(operation)).iter().sum::<u64>()
    };
    // What was under way when the answer came has come to its end.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = calls().await;
    world.vault.clear_faults();
    // Another tenant, and a change of this one: no reason to ask sooner.
    world.apply("retail", "contoso", spec("contoso", &[("Downtown", store(3, 1))])).await;
    world.apply("retail", "zava", spec("zava", &[("Seattle", store(2, 1)), ("Redmond", store(2, 2))])).await;
    let asked = poll(async || (calls().await > before).then(|| begun.elapsed())).await.unwrap();
    assert!(asked >= asked_for, "asked again after {asked:?}\n{}", operator.log());
    for name in ["zava", "contoso"] {
        world.ready("retail", name).await;
    }
    let metric = "storefence_operator_key_vault_calls_total{operation=\"get\",outcome=\"throttled\"}";
    assert!(operator.metric(metric).await >= 1.0);
}
