//! `get_current_utc_date`.

use futures::future::BoxFuture;
use jiff::Timestamp;
use rmcp::model::{JsonObject, Tool as Definition};
use serde_json::json;

use super::{Caller, Services, Tool, ToolError, ToolOutput, arguments::Fields, definition};

/// Tells models what "today" means.
pub struct CurrentDate(Definition);

impl Default for CurrentDate {
    fn default() -> Self {
        Self(definition(
            "get_current_utc_date",
            "Current UTC date",
            "Returns the current date and time in UTC. Call it before resolving words such as today, this month or last quarter.",
            json!({"type": "object", "properties": {}, "additionalProperties": false}),
            json!({
                "type": "object",
                "properties": {
                    "date": {"type": "string", "description": "Date, YYYY-MM-DD"},
                    "dateTime": {"type": "string", "description": "Date and time, ISO 8601, UTC"},
                },
                "required": ["date", "dateTime"],
            }),
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
        arguments: JsonObject,
    ) -> BoxFuture<'a, Result<ToolOutput, ToolError>> {
        Box::pin(async move {
            Fields::new(arguments, &[])?;
            let now = format!("{:.3}", Timestamp::now());
            let date = &now[..10];
            Ok(ToolOutput { structured: format!(r#"{{"date":"{date}","dateTime":"{now}"}}"#), text: now.clone() })
        })
    }
}
