//! Every statement of the corpus against the fence alone: no gateway, no lexical gate, at both levels.
//!
//! As three roles of two tenants, on every supported server and administrator. What the fence alone cannot refuse is
//! listed below with the reason, and shown to be harmless to others; the gateway's own tests refuse it.

mod support;

use std::{collections::BTreeSet, time::Duration};

use serde::Deserialize;
use sqlx::{Connection, PgConnection};
use storefence_devstack::postgres::{AdminKind, SslMode};
use storefence_operator::verify::{self, Level};
use storefence_tenancy::scope::StoreSet;
use support::{
    Tenant, World, connect,
    flight::{Answer, Session},
    in_world, options,
    oracle::Oracle,
};

/// A statement of the corpus.
#[derive(Debug, Deserialize)]
struct Attack {
    name: String,
    sql: String,
    expect: Expectation,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Expectation {
    OwnRowsOnly,
    Blocked,
    NoEffect,
}

/// `blocked` in the corpus, answered by the fence at the standard level, with the reason why that harms nobody else.
/// The gateway's lexical gate refuses the text.
const ANSWERED: [(&str, &str); 7] = [
    ("stat_activity_peers", "the view answers '<insufficient privilege>' for every peer: the reader is not their role"),
    ("stat_get_activity_peers", "the function under the view, likewise"),
    ("backend_activity_fn", "likewise"),
    ("advisory_session", "a built-in that only a superuser can revoke; fence.ticket() releases the lock"),
    ("wal_bomb", "a built-in that only a superuser can revoke"),
    ("cpu_regex", "these versions of PostgreSQL answer it at once"),
    ("wide_rows", "cut at the byte cap"),
];

/// `blocked` in the corpus, and answered: built-ins that everybody may call. They name and count what the
/// server has, tenants' logins and addresses of rows among it, and show no row. The gateway's lexical gate refuses them.
const CATALOGUE: [&str; 17] = [
    "shobj_description",
    "obj_description",
    "col_description",
    "format_type",
    "aclitem_names",
    "makeaclitem",
    "acldefault",
    "hash_aclitem",
    "regrole_array",
    "regrole_input",
    "to_regoper",
    "txid_snapshot",
    "txid_assigned",
    "txid_status",
    "xact_status",
    "multixact_age",
    "setseed_chosen",
];

/// Those of [`CATALOGUE`] whose functions the strict level revokes.
const CATALOGUE_STRICT: [&str; 1] = ["setseed_chosen"];

/// What is left of [`ANSWERED`] at the strict level.
const ANSWERED_STRICT: [&str; 2] = ["cpu_regex", "wide_rows"];

/// `own-rows-only` in the corpus, and refused at the strict level because of the built-ins in them.
const REFUSED_STRICT: [&str; 8] = [
    "guc_forge_cte",
    "hnsw_settings",
    "guc_forge_xml",
    "guc_forge_lateral",
    "search_path_shadow",
    "debug_print_plan",
    "xml_schema",
    "ts_stat",
];

/// `own-rows-only` in the corpus, and refused: what they ask for a table has and a view has not.
/// Or they name the tables in SQL that stands in a string, where no name is changed.
const REFUSED_BY_VIEWS: [(&str, &str); 9] = [
    ("base_ctid", "42703"),
    ("guc_forge_xml", "42501"),
    ("debug_print_plan", "42501"),
    ("xml_schema", "42501"),
    ("ts_stat", "42501"),
    ("search_path_shadow", "42P01"),
    ("tablesample_system", "0A000"),
    ("tablesample_bernoulli", "0A000"),
    ("rt_tsm_repeat", "0A000"),
];

/// Statements that run until somebody stops them.
const ENDLESS: [&str; 6] =
    ["sleep", "timeout_off_then_sleep", "timeout_off_pg16", "cpu_regex", "cpu_cross", "temp_files"];

/// What later calls see: rows of every table, and the settings that a statement could have left behind. (A setting that
/// PostgreSQL does not know reads as NULL before its first use in a session and as '' ever after: nullif. pgvector's
/// own has its default from when the library was first needed.)
const PROBE: &str = "SELECT (SELECT count(*) FROM retail.orders) o, (SELECT count(*) FROM retail.order_items) i, \
    (SELECT string_agg(email, ',' ORDER BY email) FROM retail.customers) c, (SELECT string_agg(store_name, ',' ORDER BY store_name) FROM retail.stores) s, \
    (SELECT count(*) FROM retail.products) p, (SELECT sum(stock_level) FROM retail.inventory) n, current_user, current_setting('role') r, \
    current_setting('search_path') sp, current_setting('statement_timeout') st, current_setting('work_mem') wm, current_setting('row_security') rs, \
    nullif(current_setting('app.current_rls_user_id', true), '') au, current_setting('default_transaction_read_only') ro, \
    nullif(coalesce(nullif(current_setting('hnsw.ef_search', true), ''), '40'), '40') ef, (SELECT count(*) FROM pg_class WHERE relpersistence = 't') t";

/// More of it, by functions that the strict level revokes.
const PROBE_STANDARD: &str = ", (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) l, \
    (SELECT count(*) FROM pg_cursors WHERE is_holdable) h";

fn corpus() -> Vec<Attack> {
    const FILES: [&str; 3] = [
        include_str!("../../tests/attacks/sql.jsonl"),
        include_str!("../../tests/attacks/more.jsonl"),
        include_str!("../../tests/attacks/views.jsonl"),
    ];
    FILES.iter().flat_map(|file| file.lines()).map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn postgres_18_superuser() {
    in_world((18, AdminKind::Superuser), whole_corpus);
}

#[test]
fn postgres_18_createrole() {
    in_world((18, AdminKind::CreateRole), whole_corpus);
}

#[test]
fn postgres_18_strict() {
    in_world((18, AdminKind::CreateRole), whole_corpus_at_the_strict_level);
}

#[test]
fn postgres_16_strict() {
    in_world((16, AdminKind::CreateRole), whole_corpus_at_the_strict_level);
}

#[test]
fn postgres_16_superuser() {
    in_world((16, AdminKind::Superuser), whole_corpus);
}

#[test]
fn postgres_16_createrole() {
    in_world((16, AdminKind::CreateRole), whole_corpus);
}

/// The other entry point that runs the users' statements.
#[test]
fn postgres_18_reports() {
    in_world((18, AdminKind::CreateRole), |world| corpus_at(world, Level::Standard, "run_report"));
}

#[test]
fn postgres_16_reports() {
    in_world((16, AdminKind::Superuser), |world| corpus_at(world, Level::Standard, "run_report"));
}

/// A broken fence must not pass: otherwise the suite proves nothing.
#[test]
fn a_broken_fence_is_noticed() {
    const SOME: [&str; 4] = ["base_join", "base_or_true", "leaky_exists_fk", "hmac_stolen_token"];
    in_world((18, AdminKind::Superuser), |world| async move {
        let tenants = [world.provision("1-north", 4).await, world.provision("2-south", 4).await];
        world.fill().await;
        let mut bench = Bench::new(&world, &tenants, "whole", 1, 1, Level::Standard).await;
        assert_eq!(bench.failures(&SOME).await, Vec::<String>::new());
        outside(&world, &tenants).await.unwrap();
        let login = &tenants[1].logins[0];
        let condition = "USING (store_id = ANY ((SELECT fence.visible_stores())::uuid[]))";
        let original: String = world
            .admin
            .query_one("SELECT pg_get_functiondef('fence.visible_stores'::regproc)", &[])
            .await
            .unwrap()
            .get(0);
        // what is broken, how, how it is repaired, and whether statements through the fence show it or only those outside
        let breaks = [
            ("policy dropped", "DROP POLICY fence_read ON retail.stores".to_owned(), format!("CREATE POLICY fence_read ON retail.stores FOR SELECT TO fence_reader {condition}"), true),
            ("policy true", "ALTER POLICY fence_read ON retail.stores USING (true)".to_owned(), format!("ALTER POLICY fence_read ON retail.stores {condition}"), true),
            ("row-level security off", "ALTER TABLE retail.stores DISABLE ROW LEVEL SECURITY".to_owned(), "ALTER TABLE retail.stores ENABLE ROW LEVEL SECURITY".to_owned(), true),
            ("reader BYPASSRLS", "ALTER ROLE fence_reader BYPASSRLS".to_owned(), "ALTER ROLE fence_reader NOBYPASSRLS".to_owned(), true),
            ("reader member of the loader", "GRANT retail_loader TO fence_reader WITH INHERIT TRUE".to_owned(), "REVOKE retail_loader FROM fence_reader".to_owned(), true),
            ("function trusts the setting", "CREATE OR REPLACE FUNCTION fence.visible_stores() RETURNS uuid[] LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp \
               AS $$ SELECT array_agg(store_id) FROM fence.tenant_stores WHERE current_setting('fence.context', true) ~ '[*]' OR current_setting('fence.context', true) LIKE '%' || store_id || '%' $$".to_owned(), original, true),
            ("FORCE removed", "ALTER TABLE retail.stores NO FORCE ROW LEVEL SECURITY".to_owned(), "ALTER TABLE retail.stores FORCE ROW LEVEL SECURITY".to_owned(), false),
            ("login member of the owner", format!("GRANT retail_owner TO {login} WITH INHERIT TRUE"), format!("REVOKE retail_owner FROM {login}"), false),
            ("login member of the loader", format!("GRANT retail_loader TO {login} WITH INHERIT TRUE"), format!("REVOKE retail_loader FROM {login}"), false),
            ("login may read a table", format!("GRANT SELECT ON retail.stores TO {login}"), format!("REVOKE SELECT ON retail.stores FROM {login}"), false),
        ];
        for (name, tamper, mend, through) in breaks {
            world.admin.batch_execute(&tamper).await.unwrap();
            let failed = bench.failures(&SOME).await;
            let outside_failed = outside(&world, &tenants).await.is_err();
            assert!(if through { !failed.is_empty() } else { outside_failed }, "{name}: not noticed");
            world.admin.batch_execute(&mend).await.unwrap();
            assert_eq!(bench.failures(&SOME).await, Vec::<String>::new(), "{name}: not mended");
            outside(&world, &tenants).await.unwrap();
        }
    });
}

/// What holds outside of `run_query`: a login reads no table by itself, and even the owner of the tables sees no row.
async fn outside(world: &World, tenants: &[Tenant; 2]) -> Result<(), String> {
    let tables = [
        "stores",
        "customers",
        "orders",
        "order_items",
        "inventory",
        "products",
        "categories",
        "product_types",
        "tenants",
        "product_description_embeddings",
    ];
    let owner = world.superuser().await;
    owner.batch_execute("SET ROLE retail_owner").await.unwrap();
    for table in tables {
        let query = format!("SELECT count(*) FROM retail.{table}");
        for tenant in tenants {
            match connect(&tenant.url(world)).await.unwrap().query_one(&query, &[]).await {
                Err(error) if error.code().is_some_and(|code| code.code() == "42501") => {}
                outcome => return Err(format!("{query} as login: {outcome:?}")),
            }
        }
        let rows: i64 = owner.query_one(&query, &[]).await.unwrap().get(0);
        if rows > 0 {
            return Err(format!("the owner sees {rows} rows of {table}"));
        }
    }
    Ok(())
}

async fn whole_corpus(world: World) {
    corpus_at(world, Level::Standard, "run_query").await;
}

async fn whole_corpus_at_the_strict_level(world: World) {
    let url = world.cluster.superuser_url(&world.database.name, SslMode::Disable);
    let mut superuser = PgConnection::connect_with(&options(&url)).await.unwrap();
    verify::harden(&mut superuser).await.unwrap();
    superuser.close().await.unwrap();
    corpus_at(world, Level::Strict, "run_query").await;
}

async fn corpus_at(world: World, level: Level, entry: &'static str) {
    let tenants = [world.provision("1-north", 4).await, world.provision("2-south", 4).await];
    world.fill().await;
    outside(&world, &tenants).await.unwrap();
    let mut failures = Vec::new();
    let mut answered = BTreeSet::new();
    for me in 0..2 {
        for (role, stores) in [("manager", 1), ("regional", 2), ("whole", 4)] {
            let mut bench = Bench::new(&world, &tenants, role, me, stores, level).await;
            bench.session.entry = entry;
            for attack in corpus() {
                if let Err(problem) = bench.attack(&attack).await {
                    failures.push(format!("{} as {role} of tenant {}: {problem}", attack.name, me + 1));
                }
            }
            answered.append(&mut bench.answered);
        }
    }
    for name in answered_at(level) {
        if !answered.contains(name) {
            failures.push(format!("{name} is refused: it needs no exception"));
        }
    }
    assert!(failures.is_empty(), "{}: {} failures\n{}", world.label, failures.len(), failures.join("\n"));
}

/// The SQLSTATE that a view refuses this attack with.
fn refused_by_views(name: &str) -> Option<&'static str> {
    REFUSED_BY_VIEWS.iter().find(|(known, _)| *known == name).map(|(_, code)| *code)
}

/// Names of the exceptions.
fn answered_at(level: Level) -> Vec<&'static str> {
    let mut names: Vec<_> = match level {
        Level::Standard => ANSWERED.iter().map(|(name, _)| *name).collect(),
        Level::Strict => ANSWERED_STRICT.into(),
    };
    names.extend(CATALOGUE.into_iter().filter(|name| level == Level::Standard || !CATALOGUE_STRICT.contains(name)));
    names
}

/// One principal that attacks, and a colleague whose calls follow on the same connection.
struct Bench<'w> {
    tenant: &'w Tenant,
    other: &'w Tenant,
    scope: StoreSet,
    colleague: StoreSet,
    session: Session,
    level: Level,
    probe: String,
    oracle: Oracle,
    /// Words that stand in hidden rows only.
    hidden: Vec<String>,
    /// A context signed for another connection.
    stolen: String,
    /// The connection that it was signed for, and one of the other tenant: open peers to look at and to attack.
    peers: [Session; 2],
    expected_probe: Answer,
    /// Names of the exceptions that were made use of.
    answered: BTreeSet<String>,
}

impl<'w> Bench<'w> {
    async fn new(world: &World, tenants: &'w [Tenant; 2], role: &str, me: usize, stores: usize, level: Level) -> Self {
        let (tenant, other) = (&tenants[me], &tenants[1 - me]);
        let scope = if stores == tenant.stores.len() { StoreSet::All } else { tenant.first(stores) };
        let oracle = Oracle::new(world, &format!("oracle_{me}_{role}"), tenant, &scope).await;
        let hidden = tenant
            .stores
            .iter()
            .filter(|store| !scope.contains(&store.0))
            .chain(&other.stores)
            .flat_map(|(id, name)| [id.to_string(), name.clone()])
            .chain([format!("category of Zq-{}", other.id)])
            .collect();
        let peers = [Session::open(world, tenant).await, Session::open(world, other).await];
        let stolen = peers[0].context(tenant, &StoreSet::All);
        let colleague = StoreSet::Some([tenant.stores[3].0].into());
        let mut session = Session::open(world, tenant).await;
        // Locks and cursors of a session cannot be looked at where they cannot be made.
        let probe = match level {
            Level::Standard => [PROBE, PROBE_STANDARD].concat(),
            Level::Strict => PROBE.to_owned(),
        };
        let expected_probe = session.call(tenant, &colleague, &probe).await;
        assert!(
            expected_probe.as_ref().is_ok_and(|lines| lines[0].contains(&tenant.stores[3].1)),
            "{expected_probe:?}"
        );
        Self {
            tenant,
            other,
            scope,
            colleague,
            session,
            level,
            probe,
            oracle,
            hidden,
            stolen,
            peers,
            expected_probe,
            answered: BTreeSet::new(),
        }
    }

    async fn failures(&mut self, names: &[&str]) -> Vec<String> {
        let mut failed = Vec::new();
        for attack in corpus().iter().filter(|attack| names.contains(&attack.name.as_str())) {
            if self.attack(attack).await.is_err() {
                failed.push(attack.name.clone());
            }
        }
        failed
    }

    async fn attack(&mut self, attack: &Attack) -> Result<(), String> {
        let endless = ENDLESS.contains(&attack.name.as_str());
        self.session.deadline = Duration::from_millis(if endless { 700 } else { 20_000 });
        if endless {
            self.session.client.batch_execute("SET statement_timeout = '400ms'").await.unwrap();
        }
        // "own role" stands for every role that one could hope to become
        let roles: &[&str] = if attack.sql.contains("{{own_role}}") {
            &["fence_reader", "fence_owner", "retail_owner", "retail_loader", "{{own_login}}", "{{other_login}}"]
        } else {
            &[""]
        };
        for role in roles {
            let sql = attack
                .sql
                .replace("{{own_role}}", role)
                .replace("{{own_login}}", &self.tenant.logins[0])
                .replace("{{other_login}}", &self.other.logins[0])
                .replace("{{own_store}}", &format!("'{}'::uuid", self.tenant.stores[0].0))
                .replace("{{hidden_store}}", &format!("'{}'::uuid", self.other.stores[0].0))
                .replace("@@STOLEN@@", &self.stolen)
                // the corpus was written for numbered tenants: ours are called 1-north and 2-south
                .replace(
                    "'^v1.1.1','v1|1|2'",
                    &format!(
                        "'{}','v1|1|{}'",
                        "^v1.1.".to_owned() + &self.tenant.id.as_str()[..1],
                        &self.other.id.as_str()[..1]
                    ),
                );
            let answer = self.session.call(self.tenant, &self.scope, &sql).await;
            self.check(attack, &sql, &answer).await?;
            self.session.reopen_if_closed().await;
        }
        if endless {
            self.session.client.batch_execute("RESET statement_timeout").await.unwrap();
        }
        if self.peers.iter().any(|peer| peer.client.is_closed()) {
            return Err("a peer's connection was ended".to_owned());
        }
        let probe = self.session.call(self.tenant, &self.colleague, &self.probe).await;
        if probe != self.expected_probe {
            return Err(format!(
                "the next call differs: {}, before {}",
                head(&format!("{probe:?}")),
                head(&format!("{:?}", self.expected_probe))
            ));
        }
        Ok(())
    }

    async fn check(&mut self, attack: &Attack, sql: &str, answer: &Answer) -> Result<(), String> {
        let text = match answer {
            Ok(lines) => lines.join("\n"),
            Err(refusal) => refusal.message.clone(),
        };
        if let Some(word) = self.hidden.iter().find(|word| text.contains(word.as_str()) && !sql.contains(word.as_str()))
        {
            return Err(format!("{word} of a hidden row in the answer: {}", head(&text)));
        }
        match (attack.expect, answer) {
            (Expectation::OwnRowsOnly, answer)
                if self.level == Level::Strict && REFUSED_STRICT.contains(&attack.name.as_str()) =>
            {
                match answer {
                    Err(refusal) if refusal.code == "42501" => Ok(()),
                    answer => Err(format!("not refused: {}", head(&format!("{answer:?}")))),
                }
            }
            (Expectation::OwnRowsOnly, answer) if refused_by_views(&attack.name).is_some() => match answer {
                Err(refusal) if Some(refusal.code.as_str()) == refused_by_views(&attack.name) => Ok(()),
                answer => Err(format!("not refused: {}", head(&format!("{answer:?}")))),
            },
            (Expectation::OwnRowsOnly, _) => {
                let sorted = |answer: Answer| {
                    answer
                        .map(|mut lines| {
                            lines.sort();
                            lines
                        })
                        .map_err(|refusal| refusal.code)
                };
                let (seen, due) = (sorted(answer.clone()), sorted(self.oracle.answer(sql).await));
                if seen == due {
                    Ok(())
                } else {
                    Err(format!("answer {}, oracle {}", head(&format!("{seen:?}")), head(&format!("{due:?}"))))
                }
            }
            (Expectation::Blocked, Ok(lines)) => {
                if answered_at(self.level).contains(&attack.name.as_str()) {
                    self.answered.insert(attack.name.clone());
                    Ok(())
                } else {
                    Err(format!("answered: {}", head(&lines.join("\n"))))
                }
            }
            (Expectation::Blocked, Err(_)) | (Expectation::NoEffect, _) => Ok(()),
        }
    }
}

fn head(text: &str) -> &str {
    text.char_indices().nth(300).map_or(text, |(end, _)| &text[..end])
}
