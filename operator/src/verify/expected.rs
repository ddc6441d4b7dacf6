//! What the migrations make, as values.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::{Level, ProtectedTable};
use crate::migrate::MIGRATIONS;

/// What a check may take for granted about this database beyond what the migrations make.
#[derive(Clone, Debug, Default)]
pub struct Expectations {
    /// Administrators besides the role that looks: they may be members of the fence's roles.
    pub administrators: BTreeSet<String>,
    /// Roles that load rows of `retail`: they may be members of `retail_loader`.
    pub loaders: BTreeSet<String>,
    /// Roles that may ignore row-level security although they are not superuser: backups, replication.
    pub bypass_rls: BTreeSet<String>,
    /// The tenant's own tables behind the fence's policies.
    pub protected: Vec<ProtectedTable>,
    /// The hardening level that the database should have.
    pub level: Level,
}

/// Tables of `retail` whose rows belong to a store, with the column that says to which.
pub const STORE_TABLES: [(&str, &str); 5] = [
    ("stores", "store_id"),
    ("customers", "primary_store_id"),
    ("orders", "store_id"),
    ("order_items", "store_id"),
    ("inventory", "store_id"),
];

/// Tables of `retail` whose rows belong to a tenant.
pub const TENANT_TABLES: [&str; 5] =
    ["tenants", "categories", "product_types", "products", "product_description_embeddings"];

/// Tables of `fence`.
pub const FENCE_TABLES: [&str; 6] =
    ["settings", "tenants", "tenant_stores", "logins", "context_keys", "schema_history"];

pub const SEQUENCES: [(&str, &str); 2] = [("fence", "ticket_seq"), ("retail", "tenants_tenant_key_seq")];

/// Roles that nobody logs in as.
pub const ROLES: [&str; 6] =
    ["retail_owner", "fence_owner", "fence_reader", "fence_runner", "fence_login", "retail_loader"];

/// How the schema of the callers' views begins; the schema of the tables follows.
pub const VIEWS_OF: &str = "views_";

/// What callers see of a table of `retail`: the view of the same name in `views_retail`.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedView {
    /// Name of the table and of its view.
    pub name: &'static str,
    /// The view's columns, each a column of the table, separated by commas.
    pub columns: &'static str,
    /// Whether it is a security barrier, which no index's order passes.
    pub barrier: bool,
}

/// All views of schema `views_retail`.
pub const VIEWS: [ExpectedView; 10] = [
    view("tenants", "tenant_key, tenant_id, display_name"),
    view("stores", "store_id, tenant_key, store_name, display_name, is_online"),
    view("categories", "category_id, tenant_key, category_name"),
    view("product_types", "type_id, tenant_key, category_id, type_name"),
    view(
        "products",
        "product_id, tenant_key, sku, product_name, category_id, type_id, cost, base_price, product_description",
    ),
    view("customers", "customer_id, primary_store_id, first_name, last_name, email, phone, created_at"),
    view("orders", "order_id, store_id, customer_id, order_date"),
    view(
        "order_items",
        "order_item_id, order_id, store_id, product_id, quantity, unit_price, discount_percent, discount_amount, total_amount",
    ),
    view("inventory", "store_id, product_id, stock_level, updated_at"),
    ExpectedView {
        name: "product_description_embeddings",
        columns: "product_id, tenant_key, description_embedding, model, content_hash, updated_at, search_document, description_bits",
        barrier: true,
    },
];

const fn view(name: &'static str, columns: &'static str) -> ExpectedView {
    ExpectedView { name, columns, barrier: false }
}

/// A function of the fence.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedFunction {
    /// Name in schema `fence`.
    pub name: &'static str,
    /// Argument types.
    pub arguments: &'static str,
    /// Result type, as PostgreSQL prints it.
    pub result: &'static str,
    pub owner: &'static str,
    /// `pg_proc.provolatile`.
    pub volatility: &'static str,
    /// `pg_proc.proparallel`.
    pub parallel: &'static str,
    /// The only roles with EXECUTE, beside the owner.
    pub grantees: &'static [&'static str],
    /// Whether the owner keeps EXECUTE.
    pub owner_executes: bool,
    /// The schemas of its search path: `{vector}` stands for pgvector's.
    pub search_path: &'static str,
}

impl ExpectedFunction {
    /// The settings that the function runs with (`pg_proc.proconfig`), where pgvector's schema is this one with a comma before
    /// it, or nothing.
    #[must_use]
    pub fn settings(&self, vector: &str) -> String {
        let search_path = format!("search_path={}", self.search_path.replace("{vector}", vector));
        // How reports of few stores are planned (migration 0011).
        if self.name == "run_report" { search_path + ", random_page_cost=1.1" } else { search_path }
    }
}

/// All functions of schema `fence`.
pub const FUNCTIONS: [ExpectedFunction; 9] = [
    ExpectedFunction {
        name: "visible_stores",
        arguments: "",
        result: "uuid[]",
        owner: "fence_owner",
        volatility: "s",
        parallel: "r",
        grantees: &["fence_reader", "fence_runner"],
        owner_executes: true,
        search_path: "pg_catalog, pg_temp",
    },
    ExpectedFunction {
        name: "tenant_key",
        arguments: "",
        result: "integer",
        owner: "fence_owner",
        volatility: "s",
        parallel: "r",
        grantees: &["fence_reader", "fence_runner"],
        owner_executes: true,
        search_path: "pg_catalog, pg_temp",
    },
    ExpectedFunction {
        name: "accept",
        arguments: "context text",
        result: "void",
        owner: "fence_owner",
        volatility: "s",
        parallel: "r",
        grantees: &["fence_reader", "fence_runner"],
        owner_executes: true,
        search_path: "pg_catalog, pg_temp",
    },
    ExpectedFunction {
        name: "over_views",
        arguments: "statement text",
        result: "text",
        owner: "fence_owner",
        volatility: "s",
        parallel: "r",
        grantees: &["fence_runner"],
        owner_executes: true,
        search_path: "pg_catalog, pg_temp",
    },
    ExpectedFunction {
        name: "ticket",
        arguments: "OUT ticket bigint, OUT pid integer, OUT epoch bigint",
        result: "record",
        owner: "fence_owner",
        volatility: "v",
        parallel: "u",
        grantees: &["fence_login"],
        owner_executes: true,
        search_path: "pg_catalog, pg_temp",
    },
    ExpectedFunction {
        name: "run_query",
        arguments: "context text, query text, max_rows integer, max_bytes integer",
        result: "TABLE(line text)",
        owner: "fence_runner",
        volatility: "s",
        parallel: "u",
        grantees: &["fence_login"],
        owner_executes: false,
        search_path: "pg_catalog, views_retail{vector}, pg_temp",
    },
    ExpectedFunction {
        name: "run_report",
        arguments: "context text, query text, max_rows integer, max_bytes integer",
        result: "TABLE(line text)",
        owner: "fence_runner",
        volatility: "s",
        parallel: "u",
        grantees: &["fence_login"],
        owner_executes: false,
        search_path: "pg_catalog, views_retail{vector}, pg_temp",
    },
    ExpectedFunction {
        name: "search_products",
        arguments: "context text, query_vector real[], model_name text, query_words text, min_similarity double precision, max_rows integer",
        result: "TABLE(line text)",
        owner: "fence_reader",
        volatility: "v",
        parallel: "u",
        grantees: &["fence_login"],
        owner_executes: false,
        search_path: "pg_catalog, retail{vector}, pg_temp",
    },
    ExpectedFunction {
        name: "plan_hash",
        arguments: "context text, query text",
        result: "TABLE(line text)",
        owner: "fence_runner",
        volatility: "v",
        parallel: "u",
        grantees: &["fence_login"],
        owner_executes: false,
        search_path: "pg_catalog, views_retail{vector}, pg_temp",
    },
];

/// Settings that the operator may keep for a login. Others could change what the fence's statements do.
pub const LOGIN_SETTINGS: [&str; 12] = [
    "search_path",
    "statement_timeout",
    "transaction_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "work_mem",
    "temp_file_limit",
    "max_parallel_workers_per_gather",
    "hash_mem_multiplier",
    "jit",
    "application_name",
];

/// Settings that nobody may keep for the whole database or for all roles.
pub const FORBIDDEN_SETTINGS: [&str; 6] = [
    "role",
    "row_security",
    "session_authorization",
    "session_preload_libraries",
    "local_preload_libraries",
    // fence.ticket() draws from a sequence
    "default_transaction_read_only",
];

/// SHA-256 of the body of a function as the migrations ship it, hexadecimal: the last definition counts.
pub fn body_hash(function: &str) -> Option<String> {
    let start = format!("CREATE FUNCTION fence.{function}(");
    let replacement = format!("CREATE OR REPLACE FUNCTION fence.{function}(");
    let body = MIGRATIONS.iter().rev().find_map(|(_, _, sql)| {
        let definition = sql.rsplit_once(&replacement).or_else(|| sql.rsplit_once(&start))?.1;
        Some(definition.split_once("AS $fn$")?.1.split_once("$fn$")?.0)
    })?;
    Some(Sha256::digest(body.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The condition of a policy on rows that belong to a store, as PostgreSQL prints it.
pub fn store_condition(column: &str) -> String {
    format!("({column} = ANY (( SELECT fence.visible_stores() AS visible_stores)::uuid[]))")
}

/// The condition of a policy on rows that belong to a tenant, as PostgreSQL prints it.
pub fn tenant_condition(column: &str) -> String {
    format!("({column} = ( SELECT fence.tenant_key() AS tenant_key))")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_views_are_those_that_the_migration_makes() {
        let (_, _, sql) = MIGRATIONS.iter().find(|(version, ..)| *version == 18).unwrap();
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let made = squeezed(sql);
        for ExpectedView { name, columns, barrier } in VIEWS {
            assert!(made.contains(&squeezed(&format!("('{name}', {barrier}, '{columns}')"))), "{name}");
        }
        assert_eq!(VIEWS.len(), STORE_TABLES.len() + TENANT_TABLES.len());
    }

    #[test]
    fn every_function_is_found_in_the_migrations() {
        let hashes: BTreeSet<_> = FUNCTIONS.iter().map(|function| body_hash(function.name).unwrap()).collect();
        assert_eq!(hashes.len(), FUNCTIONS.len());
        assert_eq!(body_hash("no_such_function"), None);
    }
}
