//! Statements that pass the gate are planned within two seconds and 256 MB, on PostgreSQL 16 and 18. The test searches
//! among generated statements that multiply. The servers run under a memory limit, in case the gate is wrong.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use storefence_devstack::postgres::{Binaries, Cluster, ClusterOptions};
use storefence_gateway::gate::{check, lexer::tokens, weight::weigh};

use super::statements::statement;

/// Number of generated statements, and the weight of the lightest that is planned: lighter ones are ordinary
/// statements.
const SEEDS: std::ops::Range<u64> = 0..2_500;
const LIGHTEST: u64 = 8_000;
/// Limits of planning: processor time, so that a busy machine changes nothing, and memory.
const TICKS: u64 = 200;
const KIBIBYTES: u64 = 256 * 1024;

pub async fn cluster(version: u32, address_space: u64) -> Result<Cluster> {
    let binaries = tokio::task::spawn_blocking(move || Binaries::find(Some(version))).await??;
    let options =
        ClusterOptions { binaries: Some(binaries), address_space: Some(address_space), ..ClusterOptions::default() };
    let cluster = Cluster::start(options).await?;
    cluster.connect("postgres").await?.batch_execute("CREATE DATABASE retail").await?;
    let admin = cluster.connect("retail").await?;
    admin.batch_execute("CREATE EXTENSION vector").await?;
    let mut files: Vec<_> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations"))?
        .map(|file| file.map(|file| file.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "sql")) {
        let sql = fs::read_to_string(file)?;
        admin.batch_execute(&format!("BEGIN;\n{sql}\n;COMMIT")).await.with_context(|| file.display().to_string())?;
    }
    Ok(cluster)
}

/// A session with the settings that callers' statements have.
pub async fn reader(cluster: &Cluster) -> Result<(tokio_postgres::Client, i32)> {
    let client = cluster.connect("retail").await?;
    client
        .batch_execute(
            "SET ROLE fence_reader; SET search_path = pg_catalog, retail, public; SET statement_timeout = '20s'",
        )
        .await?;
    let pid = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    Ok((client, pid))
}

/// Processor time in hundredths of a second, and peak memory in KiB.
fn used(pid: i32) -> Result<(u64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<_> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    let most = most.trim().trim_end_matches(" kB").parse()?;
    Ok((fields[11].parse::<u64>()? + fields[12].parse::<u64>()?, most))
}

fn weight(sql: &str) -> u64 {
    let tokens = tokens(sql).unwrap_or_default();
    weigh(sql, &tokens).map_or(0, |cost| cost.total())
}

#[derive(Default)]
struct Seen {
    planned: u32,
    refused: u32,
    failed: u32,
    ticks: u64,
    kibibytes: u64,
}

async fn planned(cluster: &Cluster, sql: &str, seen: &mut Seen) -> Result<()> {
    let (client, pid) = reader(cluster).await?;
    client.batch_execute("EXPLAIN SELECT count(*) FROM orders").await?;
    let before = used(pid)?;
    let answer = client.batch_execute(&format!("EXPLAIN {sql}")).await;
    let after = used(pid)?;
    let (ticks, kibibytes) = (after.0 - before.0, after.1 - before.1);
    seen.planned += 1;
    if let Err(error) = answer {
        // A type mismatch is the statement's own error; running out of memory or time is the gate's.
        let code = error.code().context("no answer")?.code().to_owned();
        ensure!(code.starts_with("42") || code == "0A000", "{code}: {sql}");
        seen.failed += 1;
    }
    (seen.ticks, seen.kibibytes) = (seen.ticks.max(ticks), seen.kibibytes.max(kibibytes));
    ensure!(ticks <= TICKS && kibibytes <= KIBIBYTES, "{ticks} ticks, {kibibytes} KiB, weight {}: {sql}", weight(sql));
    Ok(())
}

async fn search(version: u32) -> Result<()> {
    let cluster = cluster(version, 4 * 1024 * 1024).await?;
    let mut seen = Seen::default();
    for seed in SEEDS {
        let sql = statement(seed);
        if check(&sql).is_err() {
            seen.refused += 1;
        } else if weight(&sql) >= LIGHTEST {
            planned(&cluster, &sql, &mut seen).await.with_context(|| format!("seed {seed}"))?;
        }
    }
    println!(
        "{version}: {} planned, {} refused, {} without a plan; at most {} ms and {} MiB",
        seen.planned,
        seen.refused,
        seen.failed,
        seen.ticks * 10,
        seen.kibibytes / 1024
    );
    ensure!(seen.planned >= 100 && seen.refused >= 100 && seen.failed * 5 < seen.planned, "the search finds little");
    for sql in edges() {
        ensure!(check(&sql).is_ok(), "{:?}: {}", check(&sql), &sql[..sql.len().min(200)]);
        planned(&cluster, &sql, &mut seen).await?;
    }
    cluster.stop().await?;
    Ok(())
}

fn joined(range: std::ops::Range<u32>, between: &str, one: impl Fn(u32) -> String) -> String {
    range.map(one).collect::<Vec<_>>().join(between)
}

/// One statement just below each of the limits.
fn edges() -> Vec<String> {
    let nested = |n, inner: &str| (0..n).fold(inner.to_owned(), |sql, _| format!("SELECT a + a a FROM ({sql}) x"));
    let exists = (0..7).fold("true".to_owned(), |inner, i| {
        format!(
            "EXISTS (SELECT 1 FROM order_items t{i} WHERE t{i}.order_id = t{}.order_id AND (t{i}.quantity > {i} OR {inner}))",
            i + 1
        )
    });
    let chain = |n| joined(1..n, "", |i| format!(", c{i} AS (SELECT a FROM c{})", i - 1));
    vec![
        nested(12, "SELECT quantity a FROM order_items"),
        format!("SELECT {exists} FROM order_items t7"),
        format!("WITH c0 AS (SELECT 1 a){} SELECT * FROM c199", chain(200)),
        format!("SELECT {} FROM (SELECT order_date > now() x, order_date < now() y FROM orders) o", {
            (0..11).fold("x".to_owned(), |inner, _| format!("({inner} BETWEEN y AND true)"))
        }),
        format!("SELECT {} FROM (SELECT {} FROM order_items) q", joined(0..150, ", ", |_| "q".into()), {
            joined(0..150, ", ", |i| format!("quantity + {i} c{i}"))
        }),
        format!("SELECT 1 FROM {} WHERE {}", joined(0..9, ", ", |i| format!("order_items t{i}")), {
            joined(0..8, " AND ", |i| {
                let j = i + 1;
                format!(
                    "t{i}.store_id = t{j}.store_id AND t{i}.product_id = t{j}.product_id AND t{i}.order_id = t{j}.order_id"
                )
            })
        }),
        format!("SELECT 1 FROM order_items t0 {}", {
            joined(1..18, " ", |i| format!("JOIN order_items t{i} USING (store_id, product_id, order_id)"))
        }),
        format!("SELECT 1 FROM orders t0 {}", joined(1..24, " ", |i| format!("JOIN orders t{i} USING (store_id)"))),
        format!("SELECT 1 FROM order_items a, order_items b WHERE {}", {
            joined(0..230, " AND ", |i| format!("a.quantity + {i} = b.quantity + {}", i + 1))
        }),
        format!("SELECT {} FROM order_items", joined(0..230, ", ", |i| format!("count(DISTINCT quantity + {i})"))),
        format!(
            "SELECT {} FROM order_items",
            joined(0..200, ", ", |i| format!("sum(quantity) OVER (ORDER BY quantity + {i})"))
        ),
        format!(
            "SELECT 1 FROM orders GROUP BY CUBE ({})",
            joined(0..11, ", ", |i| format!("order_date + interval '{i} day'"))
        ),
        format!("SELECT 1 FROM order_items GROUP BY {}", joined(0..1_500, ", ", |i| format!("quantity + {i}"))),
        format!(
            "SELECT ARRAY[{}]",
            joined(0..390, ", ", |i| format!("(SELECT count(*) FROM orders WHERE order_id IS NULL AND {i} > 0)"))
        ),
        joined(0..390, " UNION ALL ", |_| "SELECT order_id FROM orders WHERE store_id IS NOT NULL".into()),
        format!("SELECT 1 FROM orders WHERE order_id IN ({})", {
            joined(0..5_000, ", ", |i| format!("'{i:08x}-0000-0000-0000-000000000000'"))
        }),
        format!(
            "SELECT * FROM ({}) x WHERE {}",
            joined(0..20, " UNION ALL ", |_| "SELECT quantity a FROM order_items".into()),
            { joined(0..180, " AND ", |i| format!("a <> {i}")) }
        ),
        joined(0..2, " UNION ", |_| {
            format!("SELECT {} FROM order_items", joined(0..300, ", ", |i| format!("quantity + {i}")))
        }),
        format!("SELECT {} FROM order_items", {
            joined(0..40, ", ", |i| {
                format!(
                    "sum(quantity) OVER (ORDER BY {})",
                    joined(0..25, ", ", |j| format!("quantity + {}", 100 * i + j))
                )
            })
        }),
        format!("SELECT {} FROM order_items", {
            joined(0..80, ", ", |i| {
                format!("array_agg(quantity ORDER BY quantity + {i}, quantity + {}, unit_price)", 7 * i)
            })
        }),
        format!("SELECT 1 FROM {} WHERE {}", joined(0..8, ", ", |i| format!("order_items t{i}")), {
            joined(0..400, " AND ", |i| {
                format!("t{}.quantity + t{}.quantity > t{}.quantity", i % 8, (3 * i + 1) % 8, (5 * i + 2) % 8)
            })
        }),
        format!("SELECT 1 FROM order_items GROUP BY GROUPING SETS ({})", {
            joined(0..300, ", ", |i| format!("(quantity + {i}, quantity + {})", i + 1))
        }),
        format!(
            "SELECT 1 FROM order_items a JOIN order_items b ON ({}) = ({})",
            { joined(0..220, ", ", |i| format!("a.quantity + {i}")) },
            joined(0..220, ", ", |i| format!("b.quantity + {i}"))
        ),
        format!(
            "WITH c AS (SELECT {} FROM order_items) SELECT 1 FROM c t0 {}",
            { joined(0..80, ", ", |i| format!("quantity + {i} c{i}")) },
            joined(1..8, " ", |i| format!("JOIN c t{i} ON t{i}.c1 = t{}.c1", i - 1))
        ),
        "SELECT 1 FROM stores WHERE store_name ~ '^(((a{1,20}){1,20}){1,20})'".to_owned(),
    ]
}

#[tokio::test]
async fn what_passes_is_planned_soon_and_small_on_16() -> Result<()> {
    search(16).await
}

#[tokio::test]
async fn what_passes_is_planned_soon_and_small_on_18() -> Result<()> {
    search(18).await
}

/// If the gate were wrong, a statement would end with an error of its own session, provided that the server's processes
/// have a memory limit.
#[tokio::test]
async fn a_limit_of_memory_holds_what_no_timeout_does() -> Result<()> {
    let cluster = cluster(18, 700 * 1024).await?;
    let levels = joined(1..20, "", |i| format!(", c{i} AS NOT MATERIALIZED (SELECT 1 FROM c{0} a, c{0} b)", i - 1));
    let bomb = format!("WITH c0 AS (VALUES (1)){levels} TABLE c19");
    ensure!(check(&bomb).is_err(), "the gate lets it through");
    let (other, _) = reader(&cluster).await?;
    let (client, _) = reader(&cluster).await?;
    let error = client.batch_execute(&format!("EXPLAIN {bomb}")).await.err().context("planned")?;
    ensure!(error.code().is_some_and(|code| code.code() == "53200"), "{error:?}");
    // Neither this session nor any other was ended.
    client.batch_execute("SELECT count(*) FROM pg_class").await?;
    other.batch_execute("SELECT 1").await?;
    cluster.stop().await?;
    Ok(())
}
