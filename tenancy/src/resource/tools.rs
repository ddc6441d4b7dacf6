//! The tools that a rule can grant one by one.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A tool that reads rows of the tenant. `whoami`, `list_stores` and `get_current_utc_date` read none and are everybody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolName {
    /// SQL of the caller's own.
    ExecuteSalesQuery,
    /// Tables, columns and valid values; the resources are its answers, too.
    GetMultipleTableSchemas,
    /// Similar, bought together, trending.
    GetProductRecommendations,
    /// A store's figures.
    GetStorePerformance,
    /// Products by meaning.
    SemanticSearchProducts,
}

impl ToolName {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 5] = [
        Self::ExecuteSalesQuery,
        Self::GetMultipleTableSchemas,
        Self::GetProductRecommendations,
        Self::GetStorePerformance,
        Self::SemanticSearchProducts,
    ];
    /// Tools that every caller of the tenant has.
    pub const EVERYBODYS: [&str; 3] = ["get_current_utc_date", "list_stores", "whoami"];

    /// The name as it stands in YAML and in `tools/list`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ExecuteSalesQuery => "execute_sales_query",
            Self::GetMultipleTableSchemas => "get_multiple_table_schemas",
            Self::GetProductRecommendations => "get_product_recommendations",
            Self::GetStorePerformance => "get_store_performance",
            Self::SemanticSearchProducts => "semantic_search_products",
        }
    }

    /// The tool of exactly this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.as_str() == name)
    }
}

impl fmt::Display for ToolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
