//! Errors of tools, as the model and the person behind it read them.

use serde_json::{Value, json};
use uuid::Uuid;

/// The closed list of codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The arguments or the statement are not acceptable as they stand.
    Validation,
    /// The caller may not see what was asked for.
    Authorization,
    /// The statement ran too long.
    Timeout,
    /// PostgreSQL refused the statement.
    Database,
    /// Too many calls at once; it helps to come back.
    RateLimited,
    /// Something behind the gateway is away.
    Unavailable,
    /// The gateway itself failed.
    Internal,
}

impl Code {
    const ALL: [Self; 7] = [
        Self::Validation,
        Self::Authorization,
        Self::Timeout,
        Self::Database,
        Self::RateLimited,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The code of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == name)
    }

    /// The code on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Validation => "VALIDATION_ERROR",
            Self::Authorization => "AUTHORIZATION_ERROR",
            Self::Timeout => "QUERY_TIMEOUT",
            Self::Database => "DATABASE_ERROR",
            Self::RateLimited => "RATE_LIMITED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Internal => "MCP_ERROR",
        }
    }
}

/// The fields of an error in `structuredContent`; no answer has one of them.
#[cfg(test)]
pub const FIELDS: [&str; 7] =
    ["code", "message", "sqlstate", "position", "retryAfterSeconds", "suggestions", "correlationId"];

/// An error of a tool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ToolError {
    /// What kind.
    pub code: Code,
    /// What is wrong and what to do about it.
    pub message: String,
    /// SQLSTATE of the database's answer.
    pub sqlstate: Option<String>,
    /// Where in the caller's statement, in characters from 1.
    pub position: Option<u32>,
    /// Valid names near the one that does not exist.
    pub suggestions: Vec<String>,
    /// When to come back.
    pub retry_after_seconds: Option<u64>,
    /// Finds the call in the log, where somebody else has to help.
    pub correlation: Option<Uuid>,
}

impl ToolError {
    /// An error without a place.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let (message, suggestions) = (message.into(), Vec::new());
        Self {
            code,
            message,
            sqlstate: None,
            position: None,
            suggestions,
            retry_after_seconds: None,
            correlation: None,
        }
    }

    /// For `structuredContent`.
    #[must_use]
    pub fn structured(&self) -> Value {
        let mut value = json!({"code": self.code.as_str(), "message": self.sentence()});
        if let Some(id) = &self.correlation {
            value["correlationId"] = json!(id);
        }
        if let Some(sqlstate) = &self.sqlstate {
            value["sqlstate"] = json!(sqlstate);
        }
        if let Some(position) = self.position {
            value["position"] = json!(position);
        }
        if let Some(seconds) = self.retry_after_seconds {
            value["retryAfterSeconds"] = json!(seconds);
        }
        if !self.suggestions.is_empty() {
            value["suggestions"] = json!(self.suggestions);
        }
        value
    }

    fn sentence(&self) -> String {
        match &self.correlation {
            Some(id) => format!("{} (correlation ID {id})", self.message),
            None => self.message.clone(),
        }
    }

    /// For `content`.
    #[must_use]
    pub fn text(&self) -> String {
        let place = self.position.map(|at| format!(" (at character {at})")).unwrap_or_default();
        let state = self.sqlstate.as_ref().map(|state| format!(" [{state}]")).unwrap_or_default();
        let near = match self.suggestions.as_slice() {
            [] => String::new(),
            names => format!("; did you mean {}?", names.join(", ")),
        };
        format!("{}: {}{near}{place}{state}", self.code.as_str(), self.sentence())
    }
}
