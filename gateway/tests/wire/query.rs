//! `execute_sales_query` and its neighbours: rows, shapes, limits, errors.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::mcp_client::Revision;

use crate::{Tests, world::World};

pub fn tests(tests: &mut Tests) {
    tests.add("rows_of_the_callers_stores_in_both_revisions", own_rows);
    tests.add("columns_are_named_and_numbers_exact", shapes);
    tests.add("answers_are_cut_at_rows_and_bytes", cuts);
    tests.add("answers_are_cut_to_what_a_model_can_hold", budget);
    tests.add("errors_concern_the_callers_statement_only", errors);
    tests.add("details_hints_and_contexts_stay_inside", details);
    tests.add("the_gate_refuses_and_names_the_word", gate);
    tests.add("analyst_statements_run_whole", analyst);
    tests.add("small_tools", small_tools);
    tests.add("a_slow_statement_ends_in_time_and_at_the_server", slow);
    tests.add("a_statement_leaves_nothing_behind", clean);
}

async fn own_rows(world: Arc<World>) -> Result<()> {
    let sql =
        "SELECT s.store_name, count(*) FROM orders o JOIN retail.stores s USING (store_id) GROUP BY 1 ORDER BY 1;";
    for revision in Revision::ALL {
        for (principal, expected) in [
            ("seattle-manager", json!([["Seattle", 7]])),
            ("redmond-manager", json!([["Redmond", 5]])),
            ("puget-sound-regional", json!([["Redmond", 5], ["Seattle", 7]])),
            ("claim-user", json!([["Redmond", 5], ["Seattle", 7]])),
            ("head-office", json!([["Online", 3], ["Redmond", 5], ["Seattle", 7]])),
            ("contoso-head-office", json!([["Downtown", 2], ["Harbor", 4]])),
            ("contoso-downtown-manager", json!([["Downtown", 2]])),
        ] {
            let client = world.client(world.token(principal)?, "/mcp", revision);
            let answer = client.call_tool("execute_sales_query", json!({"postgresql_query": sql})).await?;
            ensure!(answer.structured()["rows"] == expected, "{revision:?} {principal}: {}", answer.message);
            ensure!(answer.result()["isError"] == json!(false), "{}", answer.message);
            let text = answer.result()["content"][0]["text"].as_str().unwrap_or_default();
            ensure!(text.starts_with("store_name\tcount\n"), "{text}");
        }
    }
    Ok(())
}

async fn shapes(world: Arc<World>) -> Result<()> {
    let names = |answer: &Value| answer["columns"].as_array().cloned().unwrap_or_default();
    let none = world
        .query(
            "head-office",
            "SELECT store_id, store_name AS \"Name of store\", 1.5 AS n, NULL AS x FROM retail.stores WHERE false",
        )
        .await?;
    ensure!(
        names(none.structured())
            == [
                json!({"name": "store_id", "type": "uuid"}),
                json!({"name": "Name of store", "type": "text"}),
                json!({"name": "n", "type": "numeric"}),
                json!({"name": "x", "type": "text"}),
            ],
        "{}",
        none.message
    );
    ensure!(none.structured()["rows"] == json!([]) && none.structured()["rowCount"] == json!(0));
    let sql = "SELECT 9007199254740993 AS a, 12345678901234567890.123456789012345678 AS a, 'NaN'::numeric, 'Infinity'::float8, \
               ARRAY[1,2], '{\"k\": [1,\n 2]}'::json, now() IS NOT NULL, E'tab\\t\"quote\"' AS t, '[1,2]'::vector AS v";
    // Twice: the second time the columns come from the cached description.
    for _ in 0..2 {
        let client = world.client_as("head-office")?;
        let request = client
            .request("tools/call", json!({"name": "execute_sales_query", "arguments": {"postgresql_query": sql}}));
        let text = request.send().await?.text().await?;
        ensure!(text.contains(r#"["9007199254740993","12345678901234567890.123456789012345678","NaN","Infinity",[1,2],{"k": [1,  2]},true,"tab\t\"quote\"","[1,2]"]"#), "{text}");
        let value: Value = serde_json::from_str(&text)?;
        let columns = names(&value["result"]["structuredContent"]);
        ensure!(columns[0] == json!({"name": "a", "type": "int8"}) && columns[1]["name"] == "a", "{columns:?}");
        ensure!(columns[4]["type"] == "int4[]" && columns[8]["type"] == "vector", "{columns:?}");
    }
    Ok(())
}

async fn cuts(world: Arc<World>) -> Result<()> {
    let rows = world.query("head-office", "SELECT g FROM generate_series(1, 1000) g").await?;
    let rows = rows.structured();
    ensure!(
        rows["rowCount"] == json!(50) && rows["truncated"] == json!(true) && rows["rows"][49] == json!([50]),
        "{rows}"
    );
    let bytes = world.query("head-office", "SELECT repeat('x', 30000) FROM generate_series(1, 10)").await?;
    let bytes = bytes.structured();
    ensure!(bytes["truncated"] == json!(true) && bytes["rowCount"] == json!(2), "{}", bytes["rowCount"]);
    let exact = world.query("head-office", "SELECT g FROM generate_series(1, 50) g").await?;
    ensure!(exact.structured()["truncated"] == json!(false));
    Ok(())
}

/// Rows that exceed a model's context are left out of both forms, which say how many and how to get them; vectors and
/// binary values are shortened unless cast to text.
async fn budget(world: Arc<World>) -> Result<()> {
    const TOKENS: usize = 2_000;
    let gateway = world.another_gateway("answer-tokens", &["--answer-tokens", &TOKENS.to_string()]).await?;
    let client = world.client_of(&gateway, "head-office")?;
    let ask = async |sql: &str| client.call_tool("execute_sales_query", json!({"postgresql_query": sql})).await;
    let answer = ask("SELECT g, repeat('x', 250) AS x FROM generate_series(1, 40) g").await?;
    let (said, text) = (answer.structured(), answer.result()["content"][0]["text"].as_str().unwrap_or_default());
    let count = said["rowCount"].as_u64().context("a count")?;
    ensure!((10..30).contains(&count) && said["truncated"] == json!(true), "{said}");
    ensure!(said["rows"].as_array().is_some_and(|rows| rows.len() as u64 == count), "{said}");
    ensure!(said["leftOut"]["rows"] == json!(40 - count), "{said}");
    let note = said["note"].as_str().context("a note")?;
    let due = format!("{} rows are left out", 40 - count);
    ensure!(
        note.contains(&due) && note.contains("LIMIT") && text.ends_with(&format!("({count} rows; {note})")),
        "{text}"
    );
    ensure!(
        said.to_string().len().max(text.len()) <= TOKENS * 3,
        "{} and {} bytes",
        said.to_string().len(),
        text.len()
    );
    ensure!(text.lines().count() as u64 == count + 2, "{text}");

    let vector = "array_fill(0.5::real, ARRAY[1536])::vector";
    let shown = ask(&format!("SELECT {vector} AS v, decode(repeat('ab', 500), 'hex') AS b")).await?;
    let row = shown.structured()["rows"][0].clone();
    ensure!(row[0] == "[0.5,0.5,0.5,… 1536 elements, cast to text for all]", "{row}");
    ensure!(row[1].as_str().is_some_and(|text| text.ends_with("… 500 bytes, cast to text for all")), "{row}");
    let cast =
        ask("SELECT array_fill(0.5::real, ARRAY[100])::vector::text AS v, decode(repeat('ab', 500), 'hex')::text AS b");
    let row = cast.await?.structured()["rows"][0].clone();
    ensure!(
        row[0].as_str().is_some_and(|text| text.len() == 401) && row[1].as_str().is_some_and(|text| text.len() == 1002),
        "{row}"
    );
    let cells = ask("SELECT E'a\\tb' AS a, E'c\\nd\\u2028e' AS b").await?;
    let text = cells.result()["content"][0]["text"].as_str().unwrap_or_default();
    ensure!(text == "a\tb\n\"a\\tb\"\t\"c\\nd\\u2028e\"\n(1 row)", "{text}");
    Ok(())
}

async fn errors(world: Arc<World>) -> Result<()> {
    let fenced = "```sql\nSELECT store_name AS `name` FROM retail.stores WHERE store_name <> \u{2018}it\u{2019}s\u{2019};\n```\n";
    let answer = world.query("seattle-manager", fenced).await?;
    ensure!(answer.structured()["columns"][0]["name"] == "name", "{}", answer.message);
    for (sql, code, sqlstate, position, words) in [
        ("SELECT nope FROM retail.stores", "DATABASE_ERROR", "42703", json!(8), "\"nope\""),
        ("SELECT 'ü', nope FROM retail.stores", "DATABASE_ERROR", "42703", json!(13), "\"nope\""),
        ("SELECT * FROM retail.nothing", "DATABASE_ERROR", "42P01", json!(15), "retail.nothing"),
        ("SELECT 1 +", "DATABASE_ERROR", "42601", json!(11), "syntax error"),
        ("SELECT 1) q; SELECT 1 FROM (SELECT 1", "VALIDATION_ERROR", "", json!(12), "one statement"),
        (
            "SELECT g FROM generate_series(1,5) g) q UNION ALL SELECT * FROM (SELECT 1",
            "VALIDATION_ERROR",
            "",
            json!(37),
            "closed where none is open",
        ),
        (
            "SELECT 1/(count(*) - count(*)) FROM retail.orders",
            "DATABASE_ERROR",
            "22012",
            Value::Null,
            "division by zero",
        ),
        (
            "WITH d AS (DELETE FROM retail.orders RETURNING 1) SELECT count(*) FROM d",
            "VALIDATION_ERROR",
            "",
            json!(12),
            "only reads",
        ),
        // Written as models write it: positions refer to their own text, and questions about tables are answered.
        ("```sql\n\u{feff}SELECT\u{a0}nope FROM retail.stores\n```", "DATABASE_ERROR", "42703", json!(16), "\"nope\""),
        ("SHOW TABLES", "VALIDATION_ERROR", "", json!(1), "stores"),
        ("\\d", "VALIDATION_ERROR", "", json!(1), "the tables are"),
        ("DESCRIBE orders", "VALIDATION_ERROR", "", json!(1), "get_multiple_table_schemas"),
        ("SELECT * FROM information_schema.tables", "VALIDATION_ERROR", "", json!(15), "the tables are"),
        ("SELECT * FROM nothing", "DATABASE_ERROR", "42P01", json!(15), "get_multiple_table_schemas"),
        ("SELECT * FROM retail.stores FOR UPDATE", "", "", Value::Null, ""),
    ] {
        let answer = world.query("seattle-manager", sql).await?;
        let error = answer.structured();
        ensure!(answer.is_tool_error(), "{sql}: {}", answer.message);
        ensure!(code.is_empty() || error["code"] == code, "{sql}: {error}");
        ensure!(sqlstate.is_empty() || error["sqlstate"] == sqlstate, "{sql}: {error}");
        ensure!(position.is_null() || error["position"] == position, "{sql}: {error}");
        let text = answer.message.to_string();
        ensure!(error["message"].as_str().unwrap_or_default().contains(words), "{sql}: {error}");
        for inside in ["fence", "run_query", "sf_", "PL/pgSQL", "visible_stores"] {
            ensure!(!text.contains(inside), "{sql} tells of {inside}: {text}");
        }
    }
    Ok(())
}

/// PostgreSQL's details beside the primary message, which are meant for administrators, do not reach the caller.
async fn details(world: Arc<World>) -> Result<()> {
    let database = world.superuser().await?;
    let mut beside = (0, 0, 0);
    for sql in [
        "SELECT '{\"a\":'::json",
        "SELECT '{\"a\" 1}'::jsonb -> 'a'",
        "SELECT no_such_function('x')",
        "SELECT store_nam FROM retail.stores",
        "SELECT '(1'::point, '{1'::int[]",
        "SELECT '2026-13-45'::date",
        "SELECT 'x' || 1 / 0",
        "SELECT to_timestamp('x', 'YYYY-MM-DD')",
        "SELECT json_object('{a,b,c}')",
        "SELECT sum(store_name) FROM retail.stores",
    ] {
        let error = database.query(sql, &[]).await.err().context(sql)?;
        let error = error.as_db_error().context(sql)?;
        let answer = world.query("head-office", sql).await?;
        ensure!(answer.is_tool_error() && answer.structured()["sqlstate"] == error.code().code(), "{}", answer.message);
        let text = answer.message.to_string();
        ensure!(text.contains(&json!(error.message()).to_string().replace('"', "")[..8]), "{sql}: {text}");
        for (said, count) in
            [(error.detail(), &mut beside.0), (error.hint(), &mut beside.1), (error.where_(), &mut beside.2)]
        {
            let Some(said) = said else { continue };
            *count += 1;
            // As encoded in JSON, without the surrounding quotes.
            let said = json!(said).to_string();
            let said = &said[1..said.len() - 1];
            ensure!(!text.contains(said), "{sql} tells {said}: {text}");
            for line in said.split("\\n").filter(|line| line.len() > 12) {
                ensure!(!text.contains(line), "{sql} tells {line}: {text}");
            }
        }
    }
    ensure!(beside.0 >= 2 && beside.1 >= 2 && beside.2 >= 1, "these statements have too little beside: {beside:?}");
    Ok(())
}

async fn gate(world: Arc<World>) -> Result<()> {
    for (sql, word) in [
        ("SELECT pg_sleep(1)", "pg_sleep"),
        ("SELECT pg_advisory_lock(1)", "pg_advisory_lock"),
        ("SELECT query_to_xml('SELECT 1', true, false, '')", "query_to_xml"),
        ("SELECT * FROM information_schema.tables", "information_schema"),
        ("SELECT * FROM fence.tenants", "fence"),
        ("EXPLAIN SELECT 1", "explain"),
        ("SELECT set_config('a.b', 'c', false)", "set_config"),
    ] {
        let answer = world.query("head-office", sql).await?;
        let error = answer.structured();
        ensure!(
            error["code"] == "VALIDATION_ERROR" && error["message"].as_str().unwrap_or_default().contains(word),
            "{error}"
        );
    }
    Ok(())
}

/// Each statement not only passes the gate but runs.
async fn analyst(world: Arc<World>) -> Result<()> {
    let corpus = include_str!("../data/analyst.sql");
    let statements: Vec<_> = corpus.split("\n-- next\n").map(str::trim).filter(|text| !text.is_empty()).collect();
    ensure!(statements.len() >= 100, "{} statements", statements.len());
    let mut failed = Vec::new();
    for sql in &statements {
        let answer = world.query("head-office", sql).await?;
        // Passes the gate. Sampling works on blocks, which hold rows of all tenants, so a view cannot be sampled.
        if sql.contains("TABLESAMPLE") {
            ensure!(answer.structured()["sqlstate"] == "0A000", "{sql}: {}", answer.message);
            continue;
        }
        if !answer.status.is_success()
            || answer.is_tool_error()
            || answer.structured()["columns"].as_array().is_none_or(Vec::is_empty)
        {
            failed.push(format!("{sql}\n  {}", answer.message));
        }
    }
    ensure!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), statements.len(), failed.join("\n"));
    Ok(())
}

async fn small_tools(world: Arc<World>) -> Result<()> {
    let client = world.client_as("claim-user")?;
    let stores = client.call_tool("list_stores", json!({})).await?;
    let stores = stores.structured();
    let names: Vec<_> = stores["stores"].as_array().into_iter().flatten().map(|store| store["name"].clone()).collect();
    ensure!(
        names == ["Redmond", "Seattle"] && stores["tenantId"] == "zava" && stores["role"] == "StoreManager",
        "{stores}"
    );
    let date = client.call_tool("get_current_utc_date", json!({})).await?;
    let date = date.structured();
    let time: jiff::Timestamp = date["dateTime"].as_str().unwrap_or_default().parse()?;
    ensure!(
        (jiff::Timestamp::now().as_second() - time.as_second()).abs() < 5
            && date["dateTime"].to_string().contains(date["date"].as_str().unwrap_or("?"))
    );
    let more = client.call_tool("get_current_utc_date", json!({"zone": "CET"})).await?;
    let said = more.structured();
    ensure!(!more.is_tool_error() && said["ignoredArguments"] == json!(["zone"]) && said["date"].is_string(), "{said}");
    Ok(())
}

async fn slow(world: Arc<World>) -> Result<()> {
    let running =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'storefence-gateway' AND state = 'active'";
    for sql in [
        "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t",
    ] {
        let started = Instant::now();
        let answer = world.query("seattle-manager", sql).await?;
        let error = answer.structured();
        ensure!(error["code"] == "QUERY_TIMEOUT", "{error}");
        ensure!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        let database = world.superuser().await?;
        crate::world::until("nothing runs on", Duration::from_secs(2), || async {
            Ok(database.query_one(running, &[]).await?.get::<_, i64>(0) == 0)
        })
        .await?;
    }
    Ok(())
}

/// The same connection remains usable after errors, and no setting of a statement survives it.
async fn clean(world: Arc<World>) -> Result<()> {
    for sql in ["SELECT 1/0", "SELECT nope", "SELECT * FROM retail.stores FOR UPDATE"] {
        world.query("seattle-manager", sql).await?;
        ensure!(world.rows("seattle-manager", "SELECT count(*) FROM retail.orders").await? == json!([[7]]));
        ensure!(world.rows("redmond-manager", "SELECT count(*) FROM retail.orders").await? == json!([[5]]));
    }
    let database = world.superuser().await?;
    let prepared = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'storefence-gateway' AND query LIKE '%retail.orders%'";
    ensure!(
        database.query_one(prepared, &[]).await?.get::<_, i64>(0) == 0,
        "a user's statement shows in pg_stat_activity"
    );
    Ok(())
}
