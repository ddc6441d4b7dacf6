//! `get_store_performance` against the administrator's sums.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_tests::Shared;

use super::administrator::{ROLES, call, near, row, rows};

/// The figures of one window, under the names of the answer.
fn window(period: &Value) -> String {
    let (from, to) = (&period["from"].as_str().unwrap_or_default(), &period["to"].as_str().unwrap_or_default());
    let inside = format!("o.order_date >= '{from}' AND o.order_date < '{to}'");
    format!(
        "SELECT (SELECT count(*) FROM orders o WHERE {inside}) AS orders,
            (SELECT count(DISTINCT customer_id) FROM orders o WHERE {inside}) AS customers,
            (SELECT count(DISTINCT customer_id) FROM orders o WHERE {inside} AND EXISTS (
                SELECT FROM orders e WHERE e.customer_id = o.customer_id AND e.order_date < '{from}')) AS \"returningCustomers\",
            coalesce(sum(i.total_amount), 0) AS revenue, coalesce(sum(i.quantity), 0) AS units,
            round(coalesce(sum(i.total_amount - i.quantity * p.cost), 0), 2) AS margin,
            round(sum(i.total_amount) / nullif(count(DISTINCT o.order_id), 0), 2) AS \"averageOrder\",
            round(100 * sum(i.total_amount - i.quantity * p.cost) / nullif(sum(i.total_amount), 0), 2) AS \"marginPercent\",
            round(100.0 * (SELECT count(DISTINCT customer_id) FROM orders o WHERE {inside} AND EXISTS (
                SELECT FROM orders e WHERE e.customer_id = o.customer_id AND e.order_date < '{from}'))
                / nullif(count(DISTINCT o.customer_id), 0), 2) AS \"returningPercent\"
         FROM orders o JOIN order_items i USING (store_id, order_id) JOIN products p USING (product_id) WHERE {inside}"
    )
}

pub async fn compared(shared: &Shared) -> Result<()> {
    let now = row(shared, &[], "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY') AS year").await?;
    let year: i32 = now["year"].as_str().unwrap_or_default().parse()?;
    let periods = [
        json!({}),
        json!({"time_period": "90d"}),
        json!({"time_period": "mtd"}),
        json!({"time_period": "ytd"}),
        json!({"time_period": format!("{}-Q3", year - 1)}),
        json!({"time_period": format!("{}-06", year - 1)}),
        json!({"from": format!("{}-02-10", year - 1), "to": format!("{}-03-20", year - 1)}),
    ];
    for (principal, stores) in ROLES {
        for arguments in &periods {
            let answer = call(shared, principal, "get_store_performance", arguments.clone()).await?;
            check(shared, stores, &answer).await.with_context(|| format!("{principal} {arguments}"))?;
        }
    }
    Ok(())
}

async fn check(shared: &Shared, stores: &[&str], answer: &Value) -> Result<()> {
    let windows = [
        (&answer["period"], &answer["figures"]),
        (&answer["previous"]["period"], &answer["previous"]["figures"]),
        (&answer["yearBefore"]["period"], &answer["yearBefore"]["figures"]),
    ];
    let mut counted = Vec::new();
    for (period, figures) in windows {
        let expected = row(shared, stores, &window(period)).await?;
        for (figure, value) in expected.as_object().into_iter().flatten() {
            ensure!(near(&figures[figure], value), "{figure} of {period}: {}, not {value}", figures[figure]);
        }
        counted.push(expected);
    }
    for (before, said) in [(&counted[1], &answer["previous"]), (&counted[2], &answer["yearBefore"])] {
        changes(&counted[0], before, said)?;
    }
    let (from, to) =
        (answer["period"]["from"].as_str().unwrap_or_default(), answer["period"]["to"].as_str().unwrap_or_default());
    let joined = format!(
        "FROM orders o JOIN order_items i USING (store_id, order_id) JOIN products p USING (product_id)
         JOIN categories c ON c.category_id = p.category_id JOIN stores s USING (store_id)
         WHERE o.order_date >= '{from}' AND o.order_date < '{to}'"
    );
    let top = |name: &str, limit: &str| {
        format!(
            "SELECT {name} AS name, sum(i.total_amount) AS revenue, sum(i.quantity) AS units, count(DISTINCT o.order_id) AS orders {joined} \
              GROUP BY {name} ORDER BY 2 DESC, 1 {limit}"
        )
    };
    for (list, name) in [("topProducts", "p.product_name"), ("topCategories", "c.category_name")] {
        let expected = rows(shared, stores, &top(name, "LIMIT 10")).await?;
        let found = answer[list].as_array().context(list)?;
        ensure!(found.len() == expected.len(), "{list}: {} of {}", found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            for field in ["name", "revenue", "units"] {
                ensure!(near(&found[field], &expected[field]), "{list} {field}: {found}, not {expected}");
            }
        }
        before(shared, stores, answer, list, name).await?;
    }
    let by_store = rows(shared, stores, &top("s.store_name", "")).await?;
    for expected in &by_store {
        let found = answer["stores"].as_array().into_iter().flatten().find(|store| store["name"] == expected["name"]);
        let found = found.with_context(|| format!("{expected} is not among the stores"))?;
        for field in ["revenue", "orders"] {
            ensure!(near(&found[field], &expected[field]), "{field}: {found}, not {expected}");
        }
    }
    before(shared, stores, answer, "stores", "s.store_name").await?;
    let by_day = format!(
        "SELECT to_char(o.order_date AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS name, sum(i.total_amount) AS revenue, count(DISTINCT o.order_id) AS orders {joined} GROUP BY 1"
    );
    let by_day = rows(shared, stores, &by_day).await?;
    for day in answer["days"].as_array().into_iter().flatten() {
        let sold = by_day.iter().find(|row| row["name"] == day["date"]);
        for field in ["revenue", "orders"] {
            let expected = sold.map_or(json!(0), |row| row[field].clone());
            ensure!(near(&day[field], &expected), "days {field}: {day}, not {expected}");
        }
    }
    let days = answer["days"].as_array().context("days")?;
    let sum: f64 = days.iter().filter_map(|day| day["revenue"].as_f64()).sum();
    ensure!((sum - answer["figures"]["revenue"].as_f64().unwrap_or(-1.0)).abs() < 0.5, "the days add up to {sum}");
    let orders: u64 = days.iter().filter_map(|day| day["orders"].as_u64()).sum();
    ensure!(json!(orders) == answer["figures"]["orders"], "the days have {orders} orders");
    let out = row(shared, stores, "SELECT count(*) AS n FROM inventory WHERE stock_level = 0").await?;
    ensure!(answer["stockOuts"]["count"] == out["n"], "{} of {out} stock-outs", answer["stockOuts"]["count"]);
    let missing = format!(
        "SELECT s.store_name AS store, p.product_name AS name, p.sku, coalesce(l.units, 0) AS \"unitsSold\"
           FROM inventory v JOIN stores s USING (store_id) JOIN products p USING (product_id)
           LEFT JOIN (SELECT store_id, product_id, sum(quantity) AS units FROM orders o JOIN order_items i USING (store_id, order_id)
                       WHERE o.order_date >= '{from}' AND o.order_date < '{to}' GROUP BY 1, 2) l USING (store_id, product_id)
          WHERE v.stock_level = 0 ORDER BY 4 DESC, 2, 1 LIMIT 10"
    );
    let missing = rows(shared, stores, &missing).await?;
    ensure!(answer["stockOuts"]["items"] == json!(missing), "{}, not {missing:?}", answer["stockOuts"]["items"]);
    Ok(())
}

/// What the answer says about a period before, from the administrator's own figures.
fn changes(now: &Value, before: &Value, said: &Value) -> Result<()> {
    let close = |said: &Value, expected: Option<f64>| match (said.as_f64(), expected) {
        (Some(said), Some(expected)) => (said - expected).abs() < 0.021,
        (None, None) => said.is_null(),
        _ => false,
    };
    for figure in ["revenue", "orders", "customers", "units", "averageOrder", "margin"] {
        let expected = now[figure].as_f64().zip(before[figure].as_f64().filter(|before| *before > 0.0));
        let expected = expected.map(|(now, before)| (now - before) / before * 100.0);
        let said = &said["changePercent"][figure];
        ensure!(close(said, expected), "change of {figure}: {said}, not {expected:?}");
    }
    for figure in ["marginPercent", "returningPercent"] {
        let expected = now[figure].as_f64().zip(before[figure].as_f64()).map(|(now, before)| now - before);
        let said = &said["changePoints"][figure];
        ensure!(close(said, expected), "points of {figure}: {said}, not {expected:?}");
    }
    Ok(())
}

/// The names of a list in the period before and a year before.
async fn before(shared: &Shared, stores: &[&str], answer: &Value, list: &str, name: &str) -> Result<()> {
    for (window, field) in [("previous", "previousRevenue"), ("yearBefore", "yearBeforeRevenue")] {
        let period = &answer[window]["period"];
        let (from, to) = (period["from"].as_str().unwrap_or_default(), period["to"].as_str().unwrap_or_default());
        let joined = format!(
            "FROM orders o JOIN order_items i USING (store_id, order_id) JOIN products p USING (product_id)
             JOIN categories c ON c.category_id = p.category_id JOIN stores s USING (store_id) WHERE o.order_date >= '{from}' AND o.order_date < '{to}'"
        );
        let sold =
            rows(shared, stores, &format!("SELECT {name} AS name, sum(i.total_amount) AS revenue {joined} GROUP BY 1"))
                .await?;
        for item in answer[list].as_array().into_iter().flatten() {
            let expected =
                sold.iter().find(|row| row["name"] == item["name"]).map_or(json!(0), |row| row["revenue"].clone());
            ensure!(near(&item[field], &expected), "{list} {field}: {item}, not {expected}");
        }
        let by_day = rows(
            shared,
            stores,
            &format!(
                "SELECT (o.order_date AT TIME ZONE 'UTC')::date - (timestamptz '{from}' AT TIME ZONE 'UTC')::date AS place,
                        sum(i.total_amount) AS revenue {joined} GROUP BY 1"
            ),
        )
        .await?;
        for (place, day) in answer["days"].as_array().into_iter().flatten().enumerate() {
            let expected =
                by_day.iter().find(|row| row["place"] == json!(place)).map_or(json!(0), |row| row["revenue"].clone());
            ensure!(near(&day[field], &expected), "days {field}: {day}, not {expected}");
        }
    }
    Ok(())
}

pub async fn one_store(shared: &Shared) -> Result<()> {
    let id = row(shared, &["Tacoma"], "SELECT store_id FROM stores").await?;
    for store in [json!("Tacoma"), json!("tacoma"), id["store_id"].clone()] {
        let arguments = json!({"store": store, "time_period": "ytd"});
        let answer = call(shared, "puget-sound-regional", "get_store_performance", arguments).await?;
        ensure!(answer["stores"].as_array().is_some_and(|stores| stores.len() == 1), "{}", answer["stores"]);
        check(shared, &["Tacoma"], &answer).await?;
    }
    Ok(())
}

pub async fn insights(shared: &Shared) -> Result<()> {
    let answer = call(shared, "head-office", "get_store_performance", json!({"time_period": "90d"})).await?;
    for (principal, stores, period) in
        ROLES.into_iter().flat_map(|(principal, stores)| ["7d", "90d", "ytd"].map(|period| (principal, stores, period)))
    {
        let answer = call(shared, principal, "get_store_performance", json!({"time_period": period})).await?;
        mover(shared, stores, &answer).await.with_context(|| format!("{principal} {period}"))?;
    }
    let insights = answer["insights"].as_array().context("insights")?;
    ensure!(insights.len() >= 4 && insights.iter().all(|insight| insight["figures"].is_object()), "{insights:?}");
    let (now, before) = (&answer["figures"]["revenue"], &answer["previous"]["figures"]["revenue"]);
    ensure!(
        insights[0]["figures"]["revenue"] == *now && insights[0]["figures"]["before"] == *before,
        "{}",
        insights[0]
    );
    Ok(())
}

/// The category that moved most, in money, is sought among all of both periods: not among those of the answer.
async fn mover(shared: &Shared, stores: &[&str], answer: &Value) -> Result<()> {
    let window = |period: &Value| {
        let (from, to) = (period["from"].as_str().unwrap_or_default(), period["to"].as_str().unwrap_or_default());
        format!("coalesce(sum(i.total_amount) FILTER (WHERE o.order_date >= '{from}' AND o.order_date < '{to}'), 0)")
    };
    let sql = format!(
        "SELECT c.category_name AS category, {} AS revenue, {} AS before FROM categories c JOIN products p USING (category_id)
           JOIN order_items i USING (product_id) JOIN orders o USING (store_id, order_id) GROUP BY 1",
        window(&answer["period"]),
        window(&answer["previous"]["period"])
    );
    let moved = |row: &Value| (row["revenue"].as_f64().unwrap_or(0.0) - row["before"].as_f64().unwrap_or(0.0)).abs();
    let most =
        rows(shared, stores, &sql).await?.into_iter().max_by(|a, b| moved(a).total_cmp(&moved(b))).context("none")?;
    let said =
        answer["insights"].as_array().into_iter().flatten().find(|insight| {
            insight["text"].as_str().is_some_and(|text| text.contains("moved most among the categories"))
        });
    if answer["figures"]["orders"] == 0 {
        return Ok(());
    }
    let figures = &said.with_context(|| format!("nothing is said of {most}"))?["figures"];
    for field in ["category", "revenue", "before"] {
        ensure!(near(&figures[field], &most[field]), "{figures}, not {most}");
    }
    Ok(())
}
