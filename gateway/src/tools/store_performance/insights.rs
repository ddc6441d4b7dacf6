//! What stands out, in words, each with the figures behind it. Only what the figures say: no causes.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::figures::{Report, Seller, change, percent, round};

/// A change of less than this many percent is not worth a sentence.
const NOTABLE: f64 = 1.0;

/// A sentence.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Insight {
    /// The sentence.
    pub text: String,
    /// The figures that it follows from.
    #[schemars(with = "std::collections::BTreeMap<String, f64>")]
    pub figures: Value,
}

/// The sentences, the most important first.
#[must_use]
pub fn insights(report: &Report) -> Vec<Insight> {
    let now = &report.windows.current;
    if now.orders == 0 {
        return vec![insight("There are no orders in this period.", json!({"orders": 0}))];
    }
    let mut found = Vec::new();
    let (previous, year_before) = (&report.windows.previous, &report.windows.year_before);
    // With a year as the period the two comparisons are one.
    let twice = previous == year_before;
    let compared = [("the period before", previous), ("the year before", year_before)];
    for (what, before) in compared.into_iter().skip(usize::from(twice)) {
        if let Some(change) = change(now.revenue, before.revenue) {
            let text = format!("Revenue {} against {what}.", moved(change));
            let figures =
                json!({"revenue": round(now.revenue), "before": round(before.revenue), "changePercent": change});
            found.push(insight(&text, figures));
        }
    }
    found.extend(orders_or_size(report));
    found.extend(leader("category", &report.categories, now.revenue));
    found.extend(leader("store", &report.stores, now.revenue).filter(|_| report.stores.len() > 1));
    found.extend(report.category_mover.as_ref().and_then(|most| mover("category", most)));
    // Every store in scope is among them, whether it sold or not.
    let by = |store: &&Seller| (store.revenue - store.previous_revenue).abs();
    let store = report.stores.iter().max_by(|a, b| by(a).total_cmp(&by(b))).filter(|_| report.stores.len() > 1);
    found.extend(store.and_then(|most| mover("store", most)));
    if let Some(share) = now.returning_percent() {
        let text = format!("{share} % of the customers had bought before this period.");
        found.push(insight(&text, json!({"returningCustomers": now.returning, "customers": now.customers})));
    }
    if let Some(best) =
        report.days.iter().max_by(|a, b| a.revenue.total_cmp(&b.revenue)).filter(|_| report.days.len() > 1)
    {
        let text = format!("The best day was {}.", best.date);
        found.push(insight(&text, json!({"date": best.date, "revenue": round(best.revenue)})));
    }
    found.extend(stock(report));
    found
}

fn insight(text: &str, figures: Value) -> Insight {
    Insight { text: text.to_owned(), figures }
}

fn moved(percent: f64) -> String {
    match percent {
        change if change >= NOTABLE => format!("rose by {change} %"),
        change if change <= -NOTABLE => format!("fell by {} %", -change),
        _ => "hardly changed".to_owned(),
    }
}

/// Whether more orders or larger ones moved the revenue.
#[allow(clippy::cast_precision_loss)]
fn orders_or_size(report: &Report) -> Option<Insight> {
    let (now, before) = (&report.windows.current, &report.windows.previous);
    let orders = change(now.orders as f64, before.orders as f64)?;
    let (size, size_before) = (now.average_order()?, before.average_order()?);
    let average = change(size, size_before)?;
    let text = format!("Orders {}, the average order {} against the period before.", moved(orders), moved(average));
    let figures = json!({"orders": now.orders, "ordersBefore": before.orders, "averageOrder": size, "averageOrderBefore": size_before});
    Some(insight(&text, figures))
}

fn leader(what: &str, sellers: &[Seller], total: f64) -> Option<Insight> {
    let first = sellers.first().filter(|first| first.revenue > 0.0)?;
    let share = percent(first.revenue, total)?;
    let text = format!("{} is the strongest {what} with {share} % of the revenue.", first.name);
    Some(insight(&text, json!({what: first.name, "revenue": round(first.revenue), "sharePercent": share})))
}

/// What to say of the one whose revenue moved most.
fn mover(what: &str, most: &Seller) -> Option<Insight> {
    let how = match change(most.revenue, most.previous_revenue) {
        Some(change) if change.abs() < NOTABLE => return None,
        Some(change) => moved(change),
        None if most.revenue > 0.0 => "sold nothing in the period before".to_owned(),
        None => return None,
    };
    let text = format!("{} moved most among the {}: it {how}.", most.name, plural(what));
    let figures = json!({what: most.name, "revenue": round(most.revenue), "before": round(most.previous_revenue)});
    Some(insight(&text, figures))
}

fn plural(what: &str) -> &str {
    if what == "category" { "categories" } else { "stores" }
}

fn stock(report: &Report) -> Option<Insight> {
    let first = report.stock_outs.first()?;
    let count = report.stock_out_count;
    let noun = if count == 1 { "product is" } else { "products are" };
    let sold = match first.units_sold {
        0 => "none of the listed ones sold in this period".to_owned(),
        units => format!("{} in {} sold most of them ({units} units in this period)", first.name, first.store),
    };
    let text = format!("{count} {noun} out of stock, counted per store; {sold}.");
    Some(insight(
        &text,
        json!({"stockOuts": count, "product": first.name, "store": first.store, "unitsSold": first.units_sold}),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Report, insights};

    fn report(orders: u64) -> Report {
        let window = |orders: u64, revenue: f64| json!({"orders": orders, "customers": orders, "returning": 1, "revenue": revenue, "units": orders, "cost": 1});
        let seller = |name: &str, revenue: f64, before: f64| json!({"name": name, "revenue": revenue, "previousRevenue": before});
        let day = |date: &str, revenue: f64| json!({"date": date, "revenue": revenue, "orders": 1, "previousRevenue": 0, "yearBeforeRevenue": 0});
        serde_json::from_value(json!({
            "windows": {"current": window(orders, 120.0), "previous": window(8, 100.0), "yearBefore": window(0, 0.0)},
            "stores": [seller("Seattle", 120.0, 100.0)],
            "products": [],
            "categories": [seller("A", 80.0, 20.0), seller("B", 40.0, 80.0)],
            "categoryMover": seller("A", 80.0, 20.0),
            "days": [day("2026-01-01", 20.0), day("2026-01-02", 100.0)],
            "stockOutCount": 2,
            "stockOuts": [{"store": "Seattle", "name": "Drill", "sku": "x", "unitsSold": 3}],
        }))
        .expect("a report")
    }

    #[test]
    fn sentences_follow_from_the_figures() {
        let found = insights(&report(4));
        let texts: Vec<_> = found.iter().map(|insight| insight.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "Revenue rose by 20 % against the period before.",
                "Orders fell by 50 %, the average order rose by 140 % against the period before.",
                "A is the strongest category with 66.67 % of the revenue.",
                "A moved most among the categories: it rose by 300 %.",
                "25 % of the customers had bought before this period.",
                "The best day was 2026-01-02.",
                "2 products are out of stock, counted per store; Drill in Seattle sold most of them (3 units in this period).",
            ]
        );
        assert_eq!(found[0].figures, json!({"revenue": 120.0, "before": 100.0, "changePercent": 20.0}));
    }

    #[test]
    fn what_moved_most_may_be_new_or_gone() {
        let said = |revenue: f64, before: f64| {
            let mut report = report(4);
            report.category_mover =
                serde_json::from_value(json!({"name": "C", "revenue": revenue, "previousRevenue": before}))
                    .expect("one");
            let found = insights(&report);
            found
                .iter()
                .map(|insight| insight.text.as_str())
                .find(|text| text.contains("moved most"))
                .map(str::to_owned)
        };
        assert_eq!(said(0.0, 90.0).as_deref(), Some("C moved most among the categories: it fell by 100 %."));
        let new = "C moved most among the categories: it sold nothing in the period before.";
        assert_eq!(said(90.0, 0.0).as_deref(), Some(new));
        assert_eq!((said(90.0, 90.1), said(0.0, 0.0)), (None, None));
    }

    #[test]
    fn nothing_sold_is_one_sentence() {
        let found = insights(&report(0));
        assert_eq!(
            found.iter().map(|insight| insight.text.as_str()).collect::<Vec<_>>(),
            ["There are no orders in this period."]
        );
    }
}
