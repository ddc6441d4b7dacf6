//! `get_current_utc_date`.

use futures::future::BoxFuture;
use jiff::Timestamp;
use rmcp::model::{JsonObject, Tool as Definition};

use super::{Caller, Services, Tool, ToolError, ToolOutput, definition, fields, kind};

/// Tells models what "today" means.
pub struct CurrentDate(Definition);

impl Default for CurrentDate {
    fn default() -> Self {
        Self(definition(
            "get_current_utc_date",
            "Current UTC date",
            "Returns the current date and time in UTC. Call it before resolving words such as today, this month or last quarter.",
            fields([]),
            fields([("date", kind("string")), ("dateTime", kind("string"))]),
        ))
    }
}

impl Tool for CurrentDate {
    fn definition(&self) -> &Definition {
        &self.0
    }

    fn call<'a>(
        &'a self,
        _: &'a Services,
        _: &'a Caller,
        _: JsonObject,
    ) -> BoxFuture<'a, Result<ToolOutput, ToolError>> {
        Box::pin(async move {
            let now = format!("{:.3}", Timestamp::now());
            let date = &now[..10];
            Ok(ToolOutput { structured: format!(r#"{{"date":"{date}","dateTime":"{now}"}}"#), text: now.clone() })
        })
    }
}
