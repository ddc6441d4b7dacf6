//! A query as the data path takes it, its columns, and PostgreSQL's error about it.

use std::time::Duration;

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Column {
    /// Name as the statement gives it; names may repeat.
    pub name: String,
    /// PostgreSQL's name of its type.
    #[serde(rename = "type")]
    pub kind: String,
}

/// Limits of one statement.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most rows.
    pub max_rows: u32,
    /// Most bytes of rows.
    pub max_bytes: u32,
    /// `statement_timeout` at the server.
    pub timeout: Duration,
}

/// PostgreSQL's error about a statement, without what does not concern the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sqlstate}: {message}")]
pub struct StatementError {
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
    /// Position in the caller's statement, in characters from 1.
    pub position: Option<u32>,
}

/// A search for products by meaning.
#[derive(Clone, Debug)]
pub struct Search {
    /// Vector of the text that is searched for.
    pub vector: Vec<f32>,
    /// The model that made the vector; only vectors of the same model are compared.
    pub model: String,
    /// Words that products must contain, for a hybrid search.
    pub words: Option<String>,
    /// Least cosine similarity, from -1 to 1.
    pub min_similarity: f64,
}

/// A query, with the entry point of the fence that runs it.
#[derive(Clone, Copy, Debug)]
pub enum Call<'a> {
    /// A SELECT, by `fence.run_query`.
    Select(&'a str),
    /// A SELECT that aggregates many rows into few, by `fence.run_report`.
    Report(&'a str),
    /// A search, by `fence.search_products`.
    Search(&'a Search),
    /// The hash of a SELECT's plan, by `fence.plan_hash`.
    Plan(&'a str),
}

impl<'a> Call<'a> {
    /// The caller's text, to which positions in errors belong; empty where there is none.
    #[must_use]
    pub const fn sql(&self) -> &'a str {
        match self {
            Self::Select(sql) | Self::Report(sql) => sql,
            Self::Search(_) | Self::Plan(_) => "",
        }
    }

    /// The same query without parallel workers.
    #[must_use]
    pub const fn serial(self) -> Self {
        match self {
            Self::Report(sql) => Self::Select(sql),
            other => other,
        }
    }

    /// Name of the operation in traces.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Select(_) | Self::Report(_) => "SELECT",
            Self::Search(_) => "search_products",
            Self::Plan(_) => "plan",
        }
    }
}
