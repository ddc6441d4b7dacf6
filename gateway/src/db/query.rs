//! What a caller's request asks of the database, and how PostgreSQL describes and refuses it.

use std::time::Duration;

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// PostgreSQL's name of its type.
    #[serde(rename = "type")]
    pub kind: String,
}

/// What a statement may use.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most rows.
    pub max_rows: u32,
    /// Most bytes.
    pub max_bytes: u32,
    /// The server's own limit.
    pub timeout: Duration,
}

/// PostgreSQL's complaint about a statement, reduced to what concerns the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sqlstate}: {message}")]
pub struct StatementError {
    /// SQLSTATE.
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
    /// Where in the caller's statement, in characters from 1.
    pub position: Option<u32>,
}

/// A search for products by meaning.
#[derive(Clone, Debug)]
pub struct Search {
    /// The vector of what is sought.
    pub vector: Vec<f32>,
    /// The model that made it; only vectors of the same one are compared.
    pub model: String,
    /// Words that products are to hold, for a hybrid search.
    pub words: Option<String>,
    /// Least cosine, from -1 to 1.
    pub min_similarity: f64,
}

/// What runs inside the fence, by which of its entry points.
#[derive(Clone, Copy, Debug)]
pub enum Call<'a> {
    /// A SELECT, by `fence.run_query`.
    Select(&'a str),
    /// A SELECT that gathers many rows into few, by `fence.run_report`.
    Report(&'a str),
    /// By `fence.search_products`.
    Search(&'a Search),
    /// The hash of a SELECT's plan, by `fence.plan_hash`.
    Plan(&'a str),
}

impl<'a> Call<'a> {
    /// The text that positions in errors belong to.
    #[must_use]
    pub const fn sql(&self) -> &'a str {
        match self {
            Self::Select(sql) | Self::Report(sql) => sql,
            Self::Search(_) | Self::Plan(_) => "",
        }
    }

    /// The same without parallel workers.
    #[must_use]
    pub const fn serial(self) -> Self {
        match self {
            Self::Report(sql) => Self::Select(sql),
            other => other,
        }
    }

    /// What it is, for traces.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Select(_) | Self::Report(_) => "SELECT",
            Self::Search(_) => "search_products",
            Self::Plan(_) => "plan",
        }
    }
}
