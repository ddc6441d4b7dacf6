//! Errors of tools, as the model and the person behind it read them.

use serde_json::{Value, json};

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
}

impl Code {
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
        }
    }
}

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
}

impl ToolError {
    /// An error without a place.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), sqlstate: None, position: None }
    }

    /// For `structuredContent`.
    #[must_use]
    pub fn structured(&self) -> Value {
        let mut value = json!({"code": self.code.as_str(), "message": self.message});
        if let Some(sqlstate) = &self.sqlstate {
            value["sqlstate"] = json!(sqlstate);
        }
        if let Some(position) = self.position {
            value["position"] = json!(position);
        }
        value
    }

    /// For `content`.
    #[must_use]
    pub fn text(&self) -> String {
        let place = self.position.map(|at| format!(" (at character {at})")).unwrap_or_default();
        let state = self.sqlstate.as_ref().map(|state| format!(" [{state}]")).unwrap_or_default();
        format!("{}: {}{place}{state}", self.code.as_str(), self.message)
    }
}
