//! No secret is in what PostgreSQL reports about itself: bodies of functions, settings, statements that run or ran,
//! comments and statistics, as a superuser reads them while tenants are made, rotated and asked.

mod harness;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD},
};
use harness::{World, poll, spec, store};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use storefence_tenancy::{credentials::ContextKey, resource::ROTATE_ANNOTATION};

/// Everything that is text in the catalogs, as one text each.
const PLACES: [(&str, &str); 8] = [
    ("pg_proc", "SELECT string_agg(prosrc || coalesce(pg_get_function_sqlbody(oid), ''), E'\\n') FROM pg_proc"),
    ("pg_settings", "SELECT string_agg(concat_ws(' ', name, setting, boot_val, reset_val), E'\\n') FROM pg_settings"),
    ("pg_db_role_setting", "SELECT string_agg(setconfig::text, E'\\n') FROM pg_db_role_setting"),
    (
        "pg_stat_activity",
        "SELECT string_agg(concat_ws(' ', application_name, query), E'\\n') FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
    ),
    (
        "comments",
        "SELECT string_agg(description, E'\\n') FROM (SELECT description FROM pg_description UNION ALL SELECT description FROM pg_shdescription) d",
    ),
    (
        "pg_statistic",
        "SELECT string_agg(concat_ws(' ', stavalues1::text, stavalues2::text, stavalues3::text, stavalues4::text, stavalues5::text), E'\\n') FROM pg_statistic",
    ),
    ("pg_prepared_statements", "SELECT string_agg(statement, E'\\n') FROM pg_prepared_statements"),
    ("pg_views and rules", "SELECT string_agg(pg_get_viewdef(oid), E'\\n') FROM pg_class WHERE relkind IN ('v', 'm')"),
];

/// The same of the extension that keeps statements, where the server has it.
const STATEMENTS: (&str, &str) = ("pg_stat_statements", "SELECT string_agg(query, E'\\n') FROM pg_stat_statements");

/// Lines that were found, by place.
type Seen = BTreeMap<&'static str, BTreeSet<String>>;

fn has(seen: &Seen, place: &str, word: &str) -> bool {
    seen.get(place).is_some_and(|lines| lines.iter().any(|line| line.contains(word)))
}

/// What must not stand anywhere: each form of each secret, and where it comes from.
#[derive(Default)]
struct Secrets(BTreeMap<String, String>);

impl Secrets {
    /// A secret as text, and what a careless statement or log makes of it.
    fn text(&mut self, name: &str, text: &str) {
        self.0.insert(text.to_owned(), format!("{name} as it is"));
        self.bytes(name, text.as_bytes());
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) {
        for (form, engine) in [
            ("base64", &BASE64_STANDARD),
            ("base64 without padding", &BASE64_STANDARD_NO_PAD),
            ("base64 for URLs", &BASE64_URL_SAFE),
            ("base64 for URLs without padding", &BASE64_URL_SAFE_NO_PAD),
        ] {
            self.0.insert(engine.encode(bytes), format!("{name} in {form}"));
        }
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.insert(hex.to_uppercase(), format!("{name} in hex"));
        self.0.insert(hex, format!("{name} in hex"));
        // As PostgreSQL prints bytea with bytea_output = escape.
        let escaped: String = bytes
            .iter()
            .map(|byte| match byte {
                b'\\' => "\\\\".to_owned(),
                0x20..=0x7e => char::from(*byte).to_string(),
                _ => format!("\\{byte:03o}"),
            })
            .collect();
        self.0.insert(escaped, format!("{name} raw"));
    }

    /// Everything in the vault so far.
    fn of_the_vault(&mut self, world: &World) {
        for name in world.vault.names() {
            for version in world.vault.versions(&name) {
                if name.contains("-db-") {
                    let url = url::Url::parse(&version.value).unwrap();
                    self.text(&name, url.password().unwrap());
                } else {
                    let key = ContextKey::from_base64(&version.value).unwrap();
                    self.text(&name, &version.value);
                    self.bytes(&name, &BASE64_STANDARD.decode(&version.value).unwrap());
                    self.bytes(&format!("{name}, inner pad"), &key.pads().inner);
                    self.bytes(&format!("{name}, outer pad"), &key.pads().outer);
                }
            }
        }
    }

    fn look_for(&self, seen: &Seen) {
        for place in seen.keys() {
            for (form, name) in &self.0 {
                assert!(!has(seen, place, form), "{place} has {name}");
            }
        }
    }
}

/// Whole statements in what the server shows of its sessions, and the extension that keeps them, where it is installed.
async fn keep_statements(world: &mut World) -> bool {
    world.execute("ALTER SYSTEM SET track_activity_query_size = '100kB'").await;
    let available = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_stat_statements'";
    let available = world.text(available).await != "0";
    if available {
        world.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'").await;
        world.execute("ALTER SYSTEM SET pg_stat_statements.track = 'all'").await;
    }
    world.cluster.shut_down().await.unwrap();
    world.cluster.start_up().await.unwrap();
    if available {
        world.execute("CREATE EXTENSION pg_stat_statements SCHEMA pg_catalog").await;
    }
    available
}

/// Adds what is new in each place to what was seen before.
async fn look(session: &tokio_postgres::Client, seen: &mut Seen, statements: bool) {
    for (place, query) in PLACES.into_iter().chain(statements.then_some(STATEMENTS)) {
        let found: Option<String> = session.query_one(query, &[]).await.unwrap().get(0);
        seen.entry(place).or_default().extend(found.unwrap_or_default().lines().map(str::to_owned));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_stands_in_the_catalogs() {
    let mut world = World::start().await;
    let statements = keep_statements(&mut world).await;
    let session = world.sql().await;
    let mut seen = Seen::new();

    let operator = world.operator_with(&["--resync", "300ms"]).await;
    let mut zava = spec("zava", &[("Seattle", store(1, 1))]);
    zava["rotation"] = json!({"period": "720h", "overlap": "1s"});
    world.apply("retail", "zava", zava).await;
    world.apply("retail", "contoso", spec("contoso", &[("Downtown", store(2, 1))])).await;
    let mut secrets = Secrets::default();
    secrets.text("the administrator's password", &world.database.admin_password);
    secrets.text("the client's secret", world.app.secret.as_deref().unwrap());
    // Created, rotated, damaged and repaired, under observation throughout.
    for round in 0..3 {
        for name in ["zava", "contoso"] {
            let ready = poll(async || {
                look(&session, &mut seen, statements).await;
                let tenant = world.get("retail", name).await?;
                (harness::condition_of(&tenant, "Ready")?.status == "True").then_some(())
            });
            assert!(ready.await.is_some(), "{}", operator.log());
        }
        // Keys of two tenants are enough for a histogram.
        world.execute("ANALYZE").await;
        look(&session, &mut seen, statements).await;
        secrets.of_the_vault(&world);
        let login = world.login("contoso").await;
        let no_password = format!("ALTER ROLE {login} PASSWORD NULL");
        let spoilt = format!(
            "SELECT (rolpassword IS NULL AND NOT EXISTS (SELECT FROM fence.context_keys))::text FROM pg_authid WHERE rolname = '{login}'"
        );
        // Held in the middle of the statements that set a password and a key; again where the operator was quicker.
        let lock = world.sql().await;
        loop {
            world.execute(&format!("{no_password}; DELETE FROM fence.context_keys")).await;
            lock.batch_execute("BEGIN; LOCK TABLE fence.context_keys IN SHARE ROW EXCLUSIVE MODE").await.unwrap();
            if world.text(&spoilt).await == "true" {
                break;
            }
            lock.batch_execute("ROLLBACK").await.unwrap();
        }
        let patch = json!({"metadata": {"annotations": {ROTATE_ANNOTATION: format!("round-{round}")}}});
        world.tenants("retail").patch("zava", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        let held = poll(async || {
            // A pass that had seen the keys before sets the password alone, in no time.
            if world.text(&spoilt).await == "false" {
                let _ = session.batch_execute(&no_password).await;
            }
            look(&session, &mut seen, statements).await;
            has(&seen, "pg_stat_activity", "PASSWORD '").then_some(())
        });
        assert!(held.await.is_some(), "{}", operator.log());
        drop(lock);
        let rotated = poll(async || {
            look(&session, &mut seen, statements).await;
            let last = world.get("retail", "zava").await?.status?.last_rotation?.annotation?;
            (last == format!("round-{round}")).then_some(())
        });
        assert!(rotated.await.is_some(), "{}", operator.log());
    }
    world.execute("ANALYZE").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    look(&session, &mut seen, statements).await;
    secrets.of_the_vault(&world);
    assert!(secrets.0.len() > 100, "{} forms", secrets.0.len());
    // What is searched is there: the fence's functions, and the operator's statements.
    for (place, word) in [
        ("pg_proc", "visible"),
        ("pg_db_role_setting", "statement_timeout"),
        ("pg_stat_activity", "storefence-operator"),
        ("pg_stat_activity", "fence.context_keys"),
        ("comments", "storefence RetailTenant"),
        ("pg_stat_statements", "fence.context_keys"),
        ("pg_statistic", "Downtown"),
    ] {
        assert!(!seen.contains_key(place) || has(&seen, place, word), "{place} without {word}");
    }
    secrets.look_for(&seen);

    // Column statistics of a table are for who may read it: a superuser, and no login.
    let statistics = "SELECT count(*) FROM pg_stats WHERE schemaname IN ('fence', 'retail')";
    assert_ne!(world.text(statistics).await, "0", "analysed");
    let login = world.log_in("contoso").await.unwrap();
    assert_eq!(login.query_one(statistics, &[]).await.unwrap().get::<_, i64>(0), 0);
}
