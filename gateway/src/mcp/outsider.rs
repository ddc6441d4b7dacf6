//! A caller with a valid token who matches no rule, or who matches several tenants at an endpoint that names none.
//!
//! Outsiders connect like anybody else, because a refusal by HTTP status reaches no reader: on a 403 clients ask for
//! another scope and open the browser again, or end the session. Outsiders see only `whoami`, which reports what was
//! checked and what to do about it; everything else is refused with the same text. Nothing here depends on whether a
//! tenant exists.

use std::sync::Arc;

use jiff::Timestamp;
use rmcp::{
    ErrorData,
    model::{CallToolResult, ContentBlock},
};
use serde_json::{Value, json};
use storefence_tenancy::TenantId;
use uuid::Uuid;

use super::revision::Client;
use crate::{identity::Principal, tools::Code};

/// The one tool that outsiders have.
pub const TOOL: &str = "whoami";

/// Why there is no scope.
#[derive(Debug)]
pub enum Why {
    /// No rule matches. An unknown tenant gives the same reason.
    NoRule {
        /// The claims that were checked.
        looked_at: Vec<String>,
        /// Whether group membership is unknown and would have mattered.
        overage: bool,
    },
    /// Several tenants match and the path names none.
    Several(Vec<TenantId>),
}

/// A caller without a scope.
#[derive(Debug)]
pub struct Outsider {
    pub principal: Arc<Principal>,
    /// The id of the log line with the reason.
    pub correlation: Uuid,
    /// Why there is no scope.
    pub why: Why,
}

impl Outsider {
    /// The problem and the remedy, in one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let id = self.correlation;
        match &self.why {
            Why::NoRule { looked_at, overage: false } => format!(
                "No rule grants your account access here: of the token these claims were looked at: {}; ask your platform team \
                 for a rule that matches one of them, and give them the correlation ID {id}.",
                looked_at.join(", ")
            ),
            Why::NoRule { looked_at, overage: true } => format!(
                "No rule grants your account access here: of the token these claims were looked at: {}, and it lists no groups \
                 because you are in more groups than a token holds; ask your platform team for an app role instead, and give \
                 them the correlation ID {id}.",
                looked_at.join(", ")
            ),
            Why::Several(_) => format!(
                "Your account may use several tenants, so connect to the endpoint of one of them: {} (correlation ID {id}).",
                self.endpoints().join(", ")
            ),
        }
    }

    /// The same for the instructions of `initialize` and `server/discover`.
    #[must_use]
    pub fn instructions(&self) -> String {
        format!("{} Until then {TOOL} is the only tool here, and it says the same.", self.sentence())
    }

    fn endpoints(&self) -> Vec<String> {
        match &self.why {
            Why::Several(tenants) => tenants.iter().map(|tenant| format!("/{tenant}/mcp")).collect(),
            Why::NoRule { .. } => Vec::new(),
        }
    }

    fn details(&self) -> Value {
        let mut details = json!({"message": self.sentence(), "correlationId": self.correlation});
        match &self.why {
            Why::NoRule { looked_at, .. } => details["claims"] = json!(looked_at),
            Why::Several(_) => details["endpoints"] = json!(self.endpoints()),
        }
        details
    }

    /// The refusal of a request that is no tool call.
    #[must_use]
    pub fn error(&self) -> ErrorData {
        ErrorData::invalid_params(self.sentence(), Some(self.details()))
    }

    /// The refusal of a tool.
    #[must_use]
    pub fn refused(&self, client: Client) -> CallToolResult {
        let mut details = self.details();
        details["code"] = json!(Code::Authorization.as_str());
        let text = format!("{}: {}", Code::Authorization.as_str(), self.sentence());
        let mut result = CallToolResult::error(vec![ContentBlock::text(text)]);
        result.structured_content = client.has_structured_content().then_some(details);
        result
    }

    /// The answer of `whoami`.
    #[must_use]
    pub fn whoami(&self, client: Client) -> CallToolResult {
        let claims = &self.principal.claims;
        let expires = i64::try_from(self.principal.expires()).unwrap_or(i64::MAX);
        let expires = Timestamp::from_second(expires).unwrap_or(Timestamp::MAX).to_string();
        let mut details = self.details();
        details["directoryId"] = json!(claims.tid);
        details["objectId"] = json!(claims.oid);
        details["rules"] = json!([]);
        details["stores"] = json!([]);
        details["tools"] = json!([TOOL]);
        details["expires"] = json!(expires);
        let text = format!(
            "{} You are {} in the directory {}; stores: none; tools: {TOOL}; token until {expires}",
            self.sentence(),
            claims.oid,
            claims.tid
        );
        let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
        result.structured_content = client.has_structured_content().then_some(details);
        result
    }
}
