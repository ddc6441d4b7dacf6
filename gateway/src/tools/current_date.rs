//! `get_current_utc_date`: what "today" means.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Caller, Services, ToolError, typed::TypedTool};

/// Returns the date.
pub struct CurrentDate;

#[derive(Deserialize, JsonSchema)]
pub struct Arguments {}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Now {
    date: String,
    date_time: String,
}

impl TypedTool for CurrentDate {
    const NAME: &'static str = "get_current_utc_date";
    const TITLE: &'static str = "Current UTC date";
    const DESCRIPTION: &'static str = "Returns the current date and time in UTC. Call it before resolving words such as today, this month or last quarter.";
    type Answer = Now;
    type Arguments = Arguments;

    async fn run(&self, _: &Services, _: &Caller, _: Arguments) -> Result<Now, ToolError> {
        let date_time = format!("{:.3}", Timestamp::now());
        Ok(Now { date: date_time[..10].to_owned(), date_time })
    }
}
