//! Questions at the sample's full scale, against the same statements with explicit filters as a superuser, whom no
//! policy concerns.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};
use storefence_tenancy::scope::StoreSet;
use tokio_postgres::Client;
use uuid::{Uuid, uuid};

use super::Settings;
use crate::{
    flight::{Plain, Session, Tenant},
    load::closed,
    report::{Aim, Kind, Report, Row},
    wire::{Wire, query},
    world::World,
};

const SEATTLE: Uuid = uuid!("f47ac10b-58cc-4372-a567-0e02b2c3d479");
const ROUND: Duration = Duration::from_millis(400);

/// Loads the sample at its full scale, and measures that.
pub async fn seed(world: &World, report: &mut Report) -> Result<()> {
    println!("loading Zava's data");
    let begun = Instant::now();
    world.stack.run_operator(&["seed", "--database", "retail", "--tenant", "zava", "--scale", "zava"]).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let client = superuser(world).await?;
    let items: i64 = client.query_one("SELECT count(*) FROM retail.order_items", &[]).await?.get(0);
    ensure!(items.abs_diff(490_000) < 10_000, "{items} order items");
    report.add(Row::absolute("seed.zava", "seed at scale zava", "s", Aim::AtMost(60.0), &[seconds]));
    client.batch_execute("VACUUM ANALYZE").await?;
    Ok(())
}

async fn superuser(world: &World) -> Result<Client> {
    let client = world.cluster.connect(&world.database.name).await?;
    // As on the gateway's connections: it would cost these statements more than it gives.
    client.batch_execute("SET jit = off").await?;
    Ok(client)
}

struct Question {
    id: &'static str,
    what: &'static str,
    /// Whose question it is.
    principal: &'static str,
    stores: StoreSet,
    /// As the user writes it.
    sql: String,
    /// Whether it makes few rows of many.
    gathers: bool,
    /// With filters.
    explicit: String,
    kind: Kind,
    aim: Aim,
}

pub async fn run(world: &World, settings: Settings, report: &mut Report) -> Result<()> {
    let tenant = Tenant::of(&world.stack, "zava")?;
    let admin = superuser(world).await?;
    let order =
        format!("SELECT order_id::text FROM retail.orders WHERE store_id = '{SEATTLE}' ORDER BY order_id LIMIT 1");
    let order: String = admin.query_one(&order, &[]).await?.get(0);
    for question in questions(&order) {
        let stores = question.stores.clone();
        let fenced = match question.gathers {
            true => Session::gathering(&tenant, stores, &question.sql).await?,
            false => Session::open(&tenant, stores, &question.sql).await?,
        };
        let mut fenced = vec![fenced];
        let mut plain = vec![Plain::new(superuser(world).await?, &question.explicit)];
        let serial = superuser(world).await?;
        serial.batch_execute("SET max_parallel_workers_per_gather = 0").await?;
        let mut serial = vec![Plain::new(serial, &question.explicit)];
        let request = query(world.url(), &world.token(question.principal)?, &question.sql)?;
        let mut gateway = vec![Wire::connect(world.url(), request).await?];
        let (mut direct, mut against_serial, mut whole) = (Vec::new(), Vec::new(), Vec::new());
        // A first round to warm caches up, which does not count.
        for round in 0..=settings.rounds {
            let fenced_ms = median(&mut fenced).await?;
            let plain_ms = median(&mut plain).await?;
            let serial_ms = median(&mut serial).await?;
            let gateway_ms = median(&mut gateway).await?;
            if round > 0 {
                direct.push((fenced_ms, plain_ms));
                against_serial.push((fenced_ms, serial_ms));
                whole.push((gateway_ms, plain_ms));
            }
        }
        ensure!(
            fenced[0].received.0 == plain[0].rows,
            "{}: {} rows, not {}",
            question.id,
            fenced[0].received.0,
            plain[0].rows
        );
        let Question { id, what, kind, aim, .. } = question;
        let row = |suffix: &str, how: &str, against: &str, aim, rounds: &[(f64, f64)]| {
            Row::pairs(kind, &format!("zava.{id}{suffix}"), &format!("{what}{how}"), against, "ms", aim, rounds)
        };
        report.add(row("", "", "explicit filters, no RLS", aim, &direct));
        report.add(row(".serial", "", "the same without parallel workers", Aim::Smaller, &against_serial));
        report.add(row(".gateway", ", through the gateway", "explicit filters, no RLS", Aim::Smaller, &whole));
    }
    Ok(())
}

async fn median<C: crate::load::Caller>(callers: &mut Vec<C>) -> Result<f64> {
    let (load, back) = closed(std::mem::take(callers), ROUND).await?;
    *callers = back;
    Ok(load.ms(0.5))
}

fn questions(order: &str) -> Vec<Question> {
    let (from, to) = last_quarter(Timestamp::now().to_zoned(TimeZone::UTC).date());
    let seattle = || StoreSet::Some([SEATTLE].into());
    let top = |items: &str, orders: &str, products: &str| {
        format!(
            "SELECT p.product_name, sum(i.total_amount) AS revenue FROM retail.order_items i \
             JOIN retail.orders o USING (store_id, order_id) JOIN retail.products p USING (product_id) \
             WHERE o.order_date >= timestamptz '{from}T00:00Z' AND o.order_date < timestamptz '{to}T00:00Z'{items}{orders}{products} \
             GROUP BY p.product_name ORDER BY revenue DESC LIMIT 10"
        )
    };
    let own = "store_id IN (SELECT store_id FROM retail.stores s JOIN retail.tenants t USING (tenant_key) WHERE t.tenant_id = 'zava')";
    vec![
        Question {
            id: "top10",
            what: "top 10 products by revenue last quarter, Seattle",
            principal: "seattle-manager",
            stores: seattle(),
            sql: top("", "", ""),
            gathers: true,
            explicit: top(
                &format!(" AND i.store_id = '{SEATTLE}'"),
                &format!(" AND o.store_id = '{SEATTLE}'"),
                " AND p.tenant_key = (SELECT tenant_key FROM retail.tenants WHERE tenant_id = 'zava')",
            ),
            kind: Kind::Ratio,
            aim: Aim::AtMost(1.2),
        },
        Question {
            id: "count.seattle",
            what: "count of orders, Seattle",
            principal: "seattle-manager",
            stores: seattle(),
            sql: "SELECT count(*) FROM retail.orders".to_owned(),
            gathers: true,
            explicit: format!("SELECT count(*) FROM retail.orders WHERE store_id = '{SEATTLE}'"),
            kind: Kind::Ratio,
            aim: Aim::AtMost(1.3),
        },
        Question {
            id: "count.all",
            what: "count of orders, head office",
            principal: "head-office",
            stores: StoreSet::All,
            sql: "SELECT count(*) FROM retail.orders".to_owned(),
            gathers: true,
            explicit: format!("SELECT count(*) FROM retail.orders WHERE {own}"),
            kind: Kind::Ratio,
            aim: Aim::AtMost(1.3),
        },
        Question {
            id: "point",
            what: "point lookup by key",
            principal: "seattle-manager",
            stores: seattle(),
            gathers: false,
            sql: format!("SELECT order_date FROM retail.orders WHERE order_id = '{order}'"),
            explicit: format!(
                "SELECT order_date FROM retail.orders WHERE order_id = '{order}' AND store_id = '{SEATTLE}'"
            ),
            kind: Kind::Difference,
            aim: Aim::AtMost(0.3),
        },
    ]
}

/// First day of the quarter before this day's, and of this day's.
fn last_quarter(day: Date) -> (Date, Date) {
    let to = jiff::civil::date(day.year(), (day.month() - 1) / 3 * 3 + 1, 1);
    (to.saturating_sub(3.months()), to)
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn quarters() {
        assert_eq!(last_quarter(date(2026, 2, 3)), (date(2025, 10, 1), date(2026, 1, 1)));
        assert_eq!(last_quarter(date(2026, 12, 31)), (date(2026, 7, 1), date(2026, 10, 1)));
        assert!(questions("x").iter().all(|question| question.sql != question.explicit));
    }
}
