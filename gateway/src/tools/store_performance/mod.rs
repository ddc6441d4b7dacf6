//! `get_store_performance`.

mod figures;
mod insights;
mod sql;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use storefence_tenancy::resource::ToolName;

use self::{
    figures::{Changes, Day, Figures, Points, Report, Seller, Shown, StockOut},
    insights::{Insight, insights},
};
use super::{
    Caller, Code, Services, ToolError,
    arguments::malformed,
    own,
    period::{FORM, Period, Window},
    stores,
    typed::TypedTool,
};

const NAME: &str = ToolName::GetStorePerformance.as_str();
const DAY: &str = "a day YYYY-MM-DD";

/// The figures of one store, or of all in scope, over a period.
pub struct StorePerformance;

#[derive(Deserialize, JsonSchema)]
pub struct Arguments {
    #[schemars(
        description = "Name or store_id of one of your stores; leave it out for all of them",
        extend("x-form" = "the name or id of a store as a string")
    )]
    store: Option<String>,
    #[schemars(
        description = format!("{FORM}; 30d where neither it nor from and to are given. Days are UTC days"),
        extend("x-form" = FORM)
    )]
    time_period: Option<String>,
    #[schemars(
        description = "First day, YYYY-MM-DD, together with to, instead of time_period",
        extend("x-form" = DAY)
    )]
    from: Option<String>,
    #[schemars(description = "Last day, YYYY-MM-DD, included; at most 366 days", extend("x-form" = DAY))]
    to: Option<String>,
}

/// In the order of the text: what a reader wants first, then the lists.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Performance {
    period: Named,
    figures: Shown,
    previous: Compared,
    year_before: Compared,
    insights: Vec<Insight>,
    stores: Vec<Seller>,
    top_products: Vec<Seller>,
    top_categories: Vec<Seller>,
    stock_outs: StockOuts,
    days: Vec<Day>,
}

/// A period by its name.
#[derive(Serialize, JsonSchema)]
struct Named {
    name: String,
    from: String,
    to: String,
}

#[derive(Serialize, JsonSchema)]
struct Times {
    from: String,
    to: String,
}

/// Another window, and how the period changed against it.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Compared {
    period: Times,
    figures: Shown,
    change_percent: Changes,
    change_points: Points,
}

/// How many products are out of stock, counted per store, and those that sold most.
#[derive(Serialize, JsonSchema)]
struct StockOuts {
    count: u64,
    items: Vec<StockOut>,
}

impl TypedTool for StorePerformance {
    const NAME: &'static str = NAME;
    const TITLE: &'static str = "Store performance";
    const DESCRIPTION: &'static str = "Revenue, orders, customers, units, average order, margin and returning share of one store or of all your stores \
         over a period, each against the period before and the year before; with stores, top products and categories, a \
         day series, stock-outs, and insights in words. Prefer it to SQL for questions about how a store is doing.";
    const REST: &'static str = "ask for one store or a shorter period, or aggregate with execute_sales_query";
    const IS_CACHED: bool = true;
    type Answer = Performance;
    type Arguments = Arguments;

    async fn run(&self, services: &Services, caller: &Caller, arguments: Arguments) -> Result<Performance, ToolError> {
        // To the second: what the answer calls the end of the period is exactly what was asked of the database.
        let now = Timestamp::now();
        let period = arguments.period(Timestamp::from_second(now.as_second()).unwrap_or(now))?;
        let store = arguments.store.map(|text| stores::chosen(caller, &text)).transpose()?.flatten();
        let document = own::document(services, caller, NAME, &sql::statement(&period, store)).await?;
        let report: Report = serde_json::from_value(document).map_err(|error| {
            tracing::error!(correlation_id = %caller.correlation, %error, "the figures cannot be read");
            ToolError::new(Code::Internal, "the figures could not be read")
        })?;
        Ok(Performance::new(period, report))
    }
}

impl Arguments {
    fn period(&self, now: Timestamp) -> Result<Period, ToolError> {
        match (&self.time_period, &self.from, &self.to) {
            (None, None, None) => Period::named("30d", now),
            (Some(name), None, None) => Period::named(name, now),
            (None, Some(from), Some(to)) => Period::days(from, to, now),
            (Some(name), from, to) => {
                let (field, value) = if from.is_some() { ("from", from) } else { ("to", to) };
                let form = format!("either time_period (which is {name:?}) or from and to, not both,");
                Err(malformed(field, &json!(value), &form))
            }
            (None, from, _) => {
                let missing = if from.is_none() { "from" } else { "to" };
                let message = format!("{missing} is missing; {DAY} is expected, since from and to belong together");
                Err(ToolError::new(Code::Validation, message))
            }
        }
    }
}

impl Performance {
    fn new(period: Period, report: Report) -> Self {
        let current = report.windows.current;
        let compared = |window: Window, before: &Figures| Compared {
            period: Times { from: window.from.to_string(), to: window.to.to_string() },
            figures: before.shown(),
            change_percent: current.against(before),
            change_points: current.points(before),
        };
        Self {
            figures: current.shown(),
            previous: compared(period.previous, &report.windows.previous),
            year_before: compared(period.year_before, &report.windows.year_before),
            insights: insights(&report),
            stores: report.stores,
            top_products: report.products,
            top_categories: report.categories,
            stock_outs: StockOuts { count: report.stock_out_count, items: report.stock_outs },
            days: report.days,
            period: Named {
                name: period.name,
                from: period.current.from.to_string(),
                to: period.current.to.to_string(),
            },
        }
    }
}
