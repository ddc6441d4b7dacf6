//! The whole corpus of hostile SQL, through the gateway as a real client sends it: three roles of two tenants, both
//! PostgreSQL versions, both kinds of administrator.
//!
//! `own-rows-only`: the rows are those of an oracle, or the gate refuses the statement. `blocked`: an error with a stable
//! code. `no-effect`: the next 50 calls of other principals on the same connection answer as before.
//! `operator/tests/fence_attacks.rs` runs the same corpus against the fence alone, without the gate.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::{
    entra::principals,
    mcp_client::{Answer, McpClient, Revision},
    postgres::AdminKind,
    stack::{DatabaseSource, StackOptions},
};
use storefence_tenancy::{
    context::{self, Ticket},
    credentials::ContextKey,
    scope::StoreSet,
};
use storefence_tests::{
    Oracle, Shared, answered,
    damage::{Damage, unseen_in_rows},
};
use uuid::Uuid;

/// The statements that the project began with, what was found since, and what the gate alone refuses: those take gigabytes
/// of a server's memory where no gate is before it, so they are sent to no other suite's.
const CORPUS: [&str; 4] = [
    include_str!("../attacks/sql.jsonl"),
    include_str!("../attacks/more.jsonl"),
    include_str!("../attacks/views.jsonl"),
    include_str!("../attacks/gate.jsonl"),
];
const CODES: [&str; 4] = ["VALIDATION_ERROR", "DATABASE_ERROR", "QUERY_TIMEOUT", "AUTHORIZATION_ERROR"];
const TIMEOUT: Duration = Duration::from_secs(1);
/// The promise is the tenant's timeout plus one second; the rest is for a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(4);

/// `own-rows-only` that asks for what a table has and a view has not, and what it is refused with.
const REFUSED_BY_VIEWS: [(&str, &str); 4] = [
    ("base_ctid", "42703"),
    ("tablesample_system", "0A000"),
    ("tablesample_bernoulli", "0A000"),
    ("rt_tsm_repeat", "0A000"),
];
/// `blocked` that these versions of PostgreSQL answer at once, without a row of anybody.
const HARMLESS: [&str; 1] = ["cpu_regex"];
/// `blocked` that is answered within the caps, cut: the corpus means the bytes, and the cap holds them.
const CUT: [&str; 1] = ["wide_rows"];

/// Answers the same for a caller as long as nothing of anybody else's call is left behind.
const PROBE: &str = "SELECT (SELECT count(*) FROM orders), (SELECT sum(total_amount) FROM order_items),
    (SELECT string_agg(store_name, ',' ORDER BY store_name) FROM stores), (SELECT count(*) FROM customers),
    (SELECT count(*) FROM products), (SELECT sum(stock_level) FROM inventory)";

/// Damage that lets foreign rows through, and its repair.
const SEEN_IN_ROWS: [(&str, &str, &str); 3] = [
    (
        "policy dropped",
        "DROP POLICY fence_read ON retail.stores",
        "CREATE POLICY fence_read ON retail.stores FOR SELECT TO fence_reader USING (store_id = ANY ((SELECT fence.visible_stores())::uuid[]))",
    ),
    (
        "row-level security off",
        "ALTER TABLE retail.stores DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE retail.stores ENABLE ROW LEVEL SECURITY",
    ),
    ("the reader bypasses", "ALTER ROLE fence_reader BYPASSRLS", "ALTER ROLE fence_reader NOBYPASSRLS"),
];

struct Caller {
    name: &'static str,
    tenant: &'static str,
    client: McpClient,
    stores: Vec<Uuid>,
    oracle: Oracle,
    hidden: Vec<String>,
    probe: Value,
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_18_createrole() -> Result<()> {
    corpus(18, AdminKind::CreateRole).await
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_18_superuser() -> Result<()> {
    corpus(18, AdminKind::Superuser).await
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_16_createrole() -> Result<()> {
    corpus(16, AdminKind::CreateRole).await
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_16_superuser() -> Result<()> {
    corpus(16, AdminKind::Superuser).await
}

/// A suite that a broken fence passes would prove nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_fence_is_noticed() -> Result<()> {
    let shared = shared(18, AdminKind::Superuser).await?;
    let callers = callers(&shared).await?;
    let admin = shared.stack.cluster().context("a cluster of our own")?.connect("retail").await?;
    let names = ["base_or_true", "base_join", "leaky_exists_fk"];
    let failures = async || {
        let mut failed = 0;
        for attack in parsed()?.iter().filter(|attack| names.contains(&attack["name"].as_str().unwrap_or_default())) {
            for me in 0..callers.len() {
                failed += usize::from(attacked(&shared, &callers, me, attack).await.is_err());
            }
        }
        anyhow::Ok(failed)
    };
    ensure!(failures().await? == 0, "whole at first");
    for (what, damage, repair) in SEEN_IN_ROWS {
        admin.batch_execute(damage).await.context(what)?;
        let noticed = failures().await?;
        admin.batch_execute(repair).await.context(what)?;
        ensure!(noticed > 0, "{what}: not noticed");
    }
    // Damage that no answer shows is found by `verify`, with which every run ends.
    whole(&shared).await?;
    for Damage { what, statement, repair } in unseen_in_rows(&admin).await? {
        admin.batch_execute(&statement).await.context(what)?;
        let noticed = whole(&shared).await.is_err_and(|error| format!("{error:#}").contains("the fence differs"));
        admin.batch_execute(&repair).await.context(what)?;
        ensure!(noticed, "{what}: not noticed");
        whole(&shared).await.context(what)?;
    }
    ensure!(failures().await? == 0, "whole again");
    shared.stop().await;
    Ok(())
}

/// The statements, each with the number of calls that are looked at after it: fifty after those that came with the claim.
/// What a connection keeps shows in the first ones, and fifty after our own as well would take four minutes more.
fn parsed() -> Result<Vec<Value>> {
    let mut attacks = Vec::new();
    for (file, later) in CORPUS.iter().zip([50, 6, 6, 2]) {
        for line in file.lines() {
            let mut attack: Value = serde_json::from_str(line)?;
            attack["later"] = json!(if attack["expect"] == "no-effect" { later } else { 2 });
            attacks.push(attack);
        }
    }
    Ok(attacks)
}

async fn shared(version: u32, admin: AdminKind) -> Result<Shared> {
    Shared::start(|options| {
        options.database = DatabaseSource::Start { version: Some(version), admin };
        options.manifests = StackOptions::examples()?;
        for (_, manifest) in &mut options.manifests {
            if manifest.contains("tenantId: contoso") {
                // Contoso has no regional manager of its own; a short timeout keeps endless statements short.
                manifest.push_str(
                    "    - {name: north, role: RegionalManager, claim: {name: department, value: north}, stores: [Harbor, Airport]}\n  gateway: {statementTimeout: 1s}\n",
                );
            }
            *manifest = manifest.replace("statementTimeout: 5s", "statementTimeout: 1s");
        }
        // The fence is damaged here on purpose; the operator must not repair it meanwhile.
        options.operator_env.push(("STOREFENCE_RESYNC".into(), "24h".into()));
        // "The same connection" is the only one.
        options.gateway_env.push(("STOREFENCE_POOL_PER_TENANT".into(), "1".into()));
        Ok(())
    })
    .await
}

async fn callers(shared: &Shared) -> Result<Vec<Caller>> {
    let north = json!({"department": "north", "oid": "00000000-0000-4000-8000-00000000a0a0"});
    let mut callers = Vec::new();
    for (name, tenant, claims, stores) in [
        ("seattle-manager", "zava", json!({}), &["Seattle"][..]),
        (
            "puget-sound-regional",
            "zava",
            json!({}),
            &["Seattle", "Bellevue", "Tacoma", "Everett", "Redmond", "Kirkland"],
        ),
        ("head-office", "zava", json!({}), &[]),
        ("contoso-downtown-manager", "contoso", json!({}), &["Downtown"]),
        ("contoso-downtown-manager", "contoso", north, &["Harbor", "Airport"]),
        ("contoso-head-office", "contoso", json!({}), &[]),
    ] {
        let rows = shared
            .database
            .query("SELECT store_id, store_name, tenant_key, tenant_id FROM retail.stores JOIN retail.tenants USING (tenant_key)", &[])
            .await?;
        let (mut seen, mut hidden, mut key) = (Vec::new(), Vec::new(), 0);
        for row in &rows {
            let (id, store, own): (Uuid, String, bool) = (row.get(0), row.get(1), row.get::<_, &str>(3) == tenant);
            if own && (stores.is_empty() || stores.contains(&store.as_str())) {
                key = row.get(2);
                seen.push(id);
            } else {
                // Names of stores are ordinary words; the ids are not.
                hidden.push(id.to_string());
            }
        }
        let cluster = shared.stack.cluster().context("a cluster of our own")?;
        let oracle = Oracle::new(cluster, "retail", &format!("oracle_{}", callers.len()), key, &seen).await?;
        let revision = if callers.len() % 2 == 0 { Revision::V2026_07_28 } else { Revision::V2025_11_25 };
        let client = shared.client_with(Some(shared.token(name, claims)?), "/mcp", revision);
        let probe = ask(&client, PROBE).await?.structured()["rows"].clone();
        ensure!(probe[0][0].as_i64() > Some(0), "{name}: {probe}");
        callers.push(Caller { name, tenant, client, stores: seen, oracle, hidden, probe });
    }
    Ok(callers)
}

async fn ask(client: &McpClient, sql: &str) -> Result<Answer> {
    Ok(client.call_tool("execute_sales_query", json!({"postgresql_query": sql})).await?)
}

async fn corpus(version: u32, admin: AdminKind) -> Result<()> {
    let shared = shared(version, admin).await?;
    let callers = callers(&shared).await?;
    let attacks = parsed()?;
    ensure!(attacks.len() >= 294, "the corpus has {} statements", attacks.len());
    let (mut failures, mut compared) = (Vec::new(), 0);
    for attack in &attacks {
        for me in 0..callers.len() {
            match attacked(&shared, &callers, me, attack).await {
                Ok(rows) => compared += usize::from(rows),
                Err(error) => failures.push(format!("{} as {}: {error:#}", attack["name"], callers[me].name)),
            }
        }
    }
    println!("{} statements as {} callers, {compared} answers compared with the oracle", attacks.len(), callers.len());
    ensure!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    ensure!(compared >= 50, "the gate refuses nearly everything: only {compared} answers were compared");
    whole(&shared).await?;
    shared.stop().await;
    Ok(())
}

/// Fails a run whose fence differs from the one that ships, even where no row shows the difference: what the run shows
/// would say nothing about the fence that ships.
async fn whole(shared: &Shared) -> Result<()> {
    let verified = shared.stack.run_operator(&["verify", "--database", "retail"]).await;
    verified.map(drop).context("the fence differs from the one that ships")
}

/// One statement as one caller. True when rows were compared with the oracle's.
async fn attacked(shared: &Shared, callers: &[Caller], me: usize, attack: &Value) -> Result<bool> {
    let caller = &callers[me];
    let sql = filled_in(shared, callers, me, attack["sql"].as_str().context("sql")?).await?;
    let begun = Instant::now();
    let answer = ask(&caller.client, &sql).await?;
    ensure!(begun.elapsed() < TIMEOUT + PATIENCE, "took {:?}", begun.elapsed());
    ensure!(answer.status == 200, "HTTP {}: {}", answer.status, answer.message);
    let text = answer.message.to_string();
    if let Some(word) = caller.hidden.iter().find(|word| text.contains(word.as_str()) && !sql.contains(word.as_str())) {
        anyhow::bail!("{word} of a hidden row in the answer");
    }
    let code = answer.structured()["code"].as_str().unwrap_or_default();
    ensure!(!answer.is_tool_error() || CODES.contains(&code), "code {code}");
    let (expect, name) = (attack["expect"].as_str().unwrap_or_default(), attack["name"].as_str().unwrap_or_default());
    let by_views = REFUSED_BY_VIEWS.iter().find(|(known, _)| *known == name);
    let compared = expect == "own-rows-only" && code != "VALIDATION_ERROR" && by_views.is_none();
    match expect {
        "own-rows-only" if by_views.is_some() => {
            let seen = answer.structured()["sqlstate"].as_str();
            ensure!(code == "VALIDATION_ERROR" || seen == by_views.map(|(_, due)| *due), "{seen:?}: {text}");
        }
        "blocked" if CUT.contains(&name) => ensure!(answer.structured()["truncated"] == json!(true), "not cut"),
        "blocked" if HARMLESS.contains(&name) => ensure!(answered(&answer)?.rows == [[json!(false)]], "{text}"),
        "blocked" => ensure!(answer.is_tool_error(), "answered: {}", &text[..text.len().min(300)]),
        "own-rows-only" if compared => compare(caller, &sql, &answer).await?,
        _ => {}
    }
    let calls = attack["later"].as_u64().and_then(|calls| usize::try_from(calls).ok()).context("later")?;
    let others: Vec<&Caller> = callers.iter().filter(|other| other.tenant == caller.tenant).collect();
    for call in 0..calls {
        let other = others[call % others.len()];
        unharmed(other).await?;
    }
    Ok(compared)
}

/// The next call of somebody is answered as before. A second is little for a machine that runs other suites as well, so three
/// of many thousand calls may be late. What a statement has left behind makes more of them late, and the second call, too.
async fn unharmed(other: &Caller) -> Result<()> {
    static LATE: AtomicUsize = AtomicUsize::new(0);
    let mut answer = ask(&other.client, PROBE).await?;
    // Late is the statement, the connection, or the permit.
    let late = ["QUERY_TIMEOUT", "UNAVAILABLE", "RATE_LIMITED"]
        .contains(&answer.structured()["code"].as_str().unwrap_or_default());
    if late && LATE.fetch_add(1, Ordering::Relaxed) < 3 {
        println!("a call of {} was late: {}", other.name, answer.message);
        answer = ask(&other.client, PROBE).await?;
    }
    ensure!(answer.structured()["rows"] == other.probe, "the next call of {} differs: {}", other.name, answer.message);
    Ok(())
}

async fn compare(caller: &Caller, sql: &str, answer: &Answer) -> Result<()> {
    let sql = sql.trim().trim_end_matches(';');
    match caller.oracle.answer(sql).await? {
        Err(code) => {
            let seen = answer.structured()["sqlstate"].as_str().unwrap_or("an answer");
            ensure!(seen == code, "{seen}, the oracle fails with {code}");
        }
        Ok(due) => {
            let answered = answered(answer)?;
            let sorted = |rows: &[Vec<Value>]| {
                let mut lines: Vec<String> = rows.iter().map(|row| json!(row).to_string()).collect();
                lines.sort_unstable();
                lines
            };
            let (seen, due) = (sorted(&answered.rows), sorted(&due));
            if answered.truncated {
                let foreign = seen.iter().find(|line| due.binary_search(line).is_err());
                ensure!(foreign.is_none() && seen.len() < due.len(), "cut to other rows: {foreign:?}");
            } else {
                ensure!(seen == due, "{} rows, the oracle has {}", seen.len(), due.len());
            }
        }
    }
    Ok(())
}

async fn filled_in(shared: &Shared, callers: &[Caller], me: usize, sql: &str) -> Result<String> {
    let caller = &callers[me];
    let other = callers.iter().find(|other| other.tenant != caller.tenant).context("another tenant")?;
    let mut sql = sql
        .replace("{{own_store}}", &format!("'{}'::uuid", caller.stores[0]))
        .replace("{{hidden_store}}", &format!("{}::uuid", format_args!("'{}'", other.stores[0])));
    for (placeholder, tenant) in
        [("{{own_login}}", caller.tenant), ("{{own_role}}", caller.tenant), ("{{other_login}}", other.tenant)]
    {
        if sql.contains(placeholder) {
            sql = sql.replace(placeholder, &login(shared, tenant).await?);
        }
    }
    if sql.contains("@@STOLEN@@") {
        sql = sql.replace("@@STOLEN@@", &stolen(shared, caller.tenant).await?);
    }
    Ok(sql)
}

async fn login(shared: &Shared, tenant: &str) -> Result<String> {
    let object = shared.stack.get("default", tenant).await?.context("the tenant")?;
    let login = object.data["status"]["credentials"]["slots"][0]["login"].as_str().context("a login")?;
    Ok(login.to_owned())
}

/// A context that the real key signed for another connection of the same tenant.
async fn stolen(shared: &Shared, tenant: &str) -> Result<String> {
    let secret = |name: String| Ok::<_, anyhow::Error>(shared.stack.key_vault().secret(&name).context(name)?.value);
    let key = ContextKey::from_base64(&secret(format!("sf-{tenant}-context-1"))?)?;
    // The server itself listens without TLS behind the proxy.
    let uri: url::Url = secret(format!("sf-{tenant}-db-a"))?.parse()?;
    let port = shared.stack.cluster().context("a cluster of our own")?.port();
    let plain = format!(
        "postgresql://{}:{}@127.0.0.1:{port}{}",
        uri.username(),
        uri.password().unwrap_or_default(),
        uri.path()
    );
    let (client, connection) = tokio_postgres::connect(&plain, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let row = client.query_one("SELECT ticket, pid, epoch FROM fence.ticket()", &[]).await?;
    let ticket = Ticket { ticket: row.get(0), pid: row.get(1), epoch: row.get(2) };
    connection.abort();
    Ok(context::sign(&key, 1, &tenant.parse()?, ticket, ticket.epoch + 30, &StoreSet::All))
}

/// The sample principals are what this suite calls them.
#[test]
fn principals_exist() {
    for name in
        ["seattle-manager", "puget-sound-regional", "head-office", "contoso-downtown-manager", "contoso-head-office"]
    {
        assert!(principals::find(name).is_some(), "{name}");
    }
}
