//! The first call on a new connection, with few and with many tenants in the database: nothing in the fence may grow.

use std::time::{Duration, Instant};

use anyhow::Result;
use storefence_tenancy::scope::StoreSet;

use super::Settings;
use crate::{
    flight::{Session, Tenant},
    load::Caller,
    provision::Fenced,
    report::{Aim, Report, Row, median},
};

const SIZES: [usize; 3] = [10, 1_000, 5_000];
const SQL: &str = "SELECT count(*) FROM retail.orders";
/// Connections of one round at one size.
const CONNECTIONS: usize = 20;

pub async fn run(settings: Settings, report: &mut Report) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut worlds = Vec::new();
    for size in SIZES {
        println!("a database with {size} tenants");
        let fenced = Fenced::start(directory.path()).await?;
        fenced.provision(size, 20).await?;
        // One that came in the middle.
        let tenant = fenced.tenant(size / 2).await?;
        fenced.admin.batch_execute(&orders(fenced.key_of(size / 2).await?)).await?;
        worlds.push((fenced, tenant));
    }
    let mut rounds: Vec<Vec<(f64, f64)>> = vec![Vec::new(); SIZES.len()];
    for round in 0..=settings.rounds {
        for ((_, tenant), rounds) in worlds.iter().zip(&mut rounds) {
            let (mut first, mut whole) = (Vec::new(), Vec::new());
            for _ in 0..CONNECTIONS {
                let (opened, called) = once(tenant).await?;
                first.push(called.as_secs_f64() * 1e3);
                whole.push((opened + called).as_secs_f64() * 1e3);
            }
            if round > 0 {
                rounds.push((median(&first), median(&whole)));
            }
        }
    }
    for (at, size) in SIZES.into_iter().enumerate().skip(1) {
        let pairs = |pick: fn(&(f64, f64)) -> f64| -> Vec<(f64, f64)> {
            rounds[at].iter().zip(&rounds[0]).map(|(ours, few)| (pick(ours), pick(few))).collect()
        };
        let what = format!("first call on a new connection, {size} tenants in the database");
        report.add(Row::ratio(
            &format!("connect.{size}"),
            &what,
            "10 tenants",
            "ms",
            Aim::AtMost(1.2),
            &pairs(|r| r.0),
        ));
        let what = format!("the same with connecting and preparing, {size} tenants");
        report.add(Row::ratio(
            &format!("connect.whole.{size}"),
            &what,
            "10 tenants",
            "ms",
            Aim::Smaller,
            &pairs(|r| r.1),
        ));
    }
    for (fenced, _) in worlds {
        fenced.stop().await?;
    }
    Ok(())
}

/// Time to open a connection, and of its first call.
async fn once(tenant: &Tenant) -> Result<(Duration, Duration)> {
    let begun = Instant::now();
    let mut session = Session::open(tenant, StoreSet::All, SQL).await?;
    let opened = begun.elapsed();
    session.call().await?;
    Ok((opened, begun.elapsed() - opened))
}

fn orders(tenant_key: i32) -> String {
    format!(
        "INSERT INTO retail.customers (customer_id, primary_store_id, first_name, last_name, email)
         SELECT store_id, store_id, 'A', 'Customer', 'a@example.com' FROM retail.stores WHERE tenant_key = {tenant_key};
         INSERT INTO retail.orders (store_id, customer_id, order_date)
         SELECT store_id, store_id, timestamptz '2026-01-01' + g * interval '1 day' FROM retail.stores, generate_series(1, 50) g WHERE tenant_key = {tenant_key};
         ANALYZE retail.orders"
    )
}
