//! `get_store_performance`.

mod figures;
mod insights;
mod sql;

use std::fmt::Write as _;

use futures::future::BoxFuture;
use jiff::Timestamp;
use rmcp::model::{JsonObject, Tool as Definition};
use serde_json::{Value, json};

use self::figures::{Figures, Report};
use super::{
    Caller, Code, Services, Tool, ToolError, ToolOutput,
    arguments::{Fields, malformed},
    definition, fields, kind, list, own,
    period::{FORM, Period, Window},
    stores, text,
};

const NAME: &str = "get_store_performance";

/// The figures of one store, or of all in scope, over a period.
pub struct StorePerformance(Definition);

impl Default for StorePerformance {
    fn default() -> Self {
        let input = fields([
            ("store", text("Name or store_id of one of your stores; leave it out for all of them")),
            (
                "time_period",
                text(&format!("{FORM}; 30d where neither it nor from and to are given. Days are UTC days")),
            ),
            ("from", text("First day, YYYY-MM-DD, together with to, instead of time_period")),
            ("to", text("Last day, YYYY-MM-DD, included; at most 366 days")),
        ]);
        Self(definition(
            NAME,
            "Store performance",
            "Revenue, orders, customers, units, average order, margin and returning share of one store or of all your stores \
             over a period, each against the period before and the year before; with stores, top products and categories, a \
             day series, stock-outs, and insights in words. Prefer it to SQL for questions about how a store is doing.",
            input,
            output(),
        ))
    }
}

fn output() -> Value {
    fields([
        ("stores", list("object")),
        ("period", kind("object")),
        ("figures", kind("object")),
        ("previous", kind("object")),
        ("yearBefore", kind("object")),
        ("topProducts", list("object")),
        ("topCategories", list("object")),
        ("days", list("object")),
        ("stockOuts", kind("object")),
        ("insights", list("object")),
    ])
}

impl Tool for StorePerformance {
    fn definition(&self) -> &Definition {
        &self.0
    }

    fn is_kept(&self) -> bool {
        true
    }

    fn call<'a>(
        &'a self,
        services: &'a Services,
        caller: &'a Caller,
        arguments: JsonObject,
    ) -> BoxFuture<'a, Result<ToolOutput, ToolError>> {
        Box::pin(async move {
            let mut given = Fields::new(arguments);
            let store = given.text("store", "the name or id of a store as a string")?;
            // To the second: what the answer calls the end of the period is exactly what was asked of the database.
            let now = Timestamp::now();
            let period = period(&mut given, Timestamp::from_second(now.as_second()).unwrap_or(now))?;
            let store = store.map(|text| stores::chosen(caller, &text)).transpose()?.flatten();
            let document = own::document(services, caller, NAME, &sql::statement(&period, store)).await?;
            let report: Report = serde_json::from_value(document.clone()).map_err(|error| {
                tracing::error!(correlation_id = %caller.correlation, %error, "the figures cannot be read");
                ToolError::new(Code::Internal, "the figures could not be read")
            })?;
            Ok(render(&period, &report, &document))
        })
    }
}

fn period(fields: &mut Fields, now: Timestamp) -> Result<Period, ToolError> {
    let name = fields.text("time_period", FORM)?;
    let day = "a day YYYY-MM-DD";
    match (name, fields.text("from", day)?, fields.text("to", day)?) {
        (None, None, None) => Period::named("30d", now),
        (Some(name), None, None) => Period::named(&name, now),
        (None, Some(from), Some(to)) => Period::days(&from, &to, now),
        (Some(name), from, to) => {
            let (field, value) = if from.is_some() { ("from", from) } else { ("to", to) };
            let form = format!("either time_period (which is {name:?}) or from and to, not both,");
            Err(malformed(field, &json!(value), &form))
        }
        (None, from, _) => {
            let missing = if from.is_none() { "from" } else { "to" };
            let message = format!("{missing} is missing; {day} is expected, since from and to belong together");
            Err(ToolError::new(Code::Validation, message))
        }
    }
}

fn shown(window: Window) -> Value {
    json!({"from": window.from.to_string(), "to": window.to.to_string()})
}

/// The lists pass as the database wrote them.
fn render(period: &Period, report: &Report, document: &Value) -> ToolOutput {
    let windows = &report.windows;
    let compared = |window: Window, before: &Figures| json!({"period": shown(window), "figures": before.json(), "changePercent": windows.current.against(before), "changePoints": windows.current.points(before)});
    let insights = insights::insights(report);
    let structured = json!({
        "stores": document["stores"],
        "period": {"name": period.name, "from": period.current.from.to_string(), "to": period.current.to.to_string()},
        "figures": windows.current.json(),
        "previous": compared(period.previous, &windows.previous),
        "yearBefore": compared(period.year_before, &windows.year_before),
        "topProducts": document["products"], "topCategories": document["categories"], "days": document["days"],
        "stockOuts": {"count": report.stock_out_count, "items": document["stockOuts"]},
        "insights": insights,
    });
    ToolOutput { structured: structured.to_string(), text: lines(period, report, &insights) }
}

fn lines(period: &Period, report: &Report, insights: &[Value]) -> String {
    let mut out = String::new();
    let names: Vec<_> = report.stores.iter().map(|store| store.name.as_str()).collect();
    let _ =
        writeln!(out, "{} from {} to {}: {}", period.name, period.current.from, period.current.to, names.join(", "));
    let _ = writeln!(out, "figure\tnow\tperiod before\tyear before");
    let all = [&report.windows.current, &report.windows.previous, &report.windows.year_before].map(Figures::json);
    for figure in ["revenue", "orders", "customers", "units", "averageOrder", "marginPercent", "returningPercent"] {
        let cells: Vec<_> = all.iter().map(|figures| figures[figure].to_string()).collect();
        let _ = writeln!(out, "{figure}\t{}", cells.join("\t"));
    }
    for (title, sellers) in [("top products", &report.products), ("top categories", &report.categories)] {
        let list: Vec<_> =
            sellers.iter().map(|seller| format!("{} {}", seller.name, figures::round(seller.revenue))).collect();
        let _ = writeln!(out, "{title}: {}", list.join("; "));
    }
    let sentences: Vec<_> = insights.iter().filter_map(|insight| insight["text"].as_str()).collect();
    let _ = write!(out, "{}", sentences.join("\n"));
    out
}
