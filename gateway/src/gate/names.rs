//! Names that a statement may not use, and why.

use std::{collections::HashSet, sync::LazyLock};

/// Why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A system catalog, or a function that reads one.
    Catalog,
    /// It reaches beyond the statement: locks, sleeps, signals, files, sequences, settings.
    SideEffect,
    /// A function of PostgreSQL's own machinery: input and output functions of types, support functions of indexes and
    /// aggregates, validators.
    Internal,
    /// It names a login or the database.
    Session,
    /// It runs SQL from a string, which the gate cannot see into.
    SqlInText,
}

impl Why {
    /// The sentence for the caller, after the name.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Catalog => "belongs to the system catalogs, which are not available here",
            Self::SideEffect => "can affect others or the server and is not available here",
            Self::Internal => {
                "is a function of PostgreSQL's own machinery and is not available here; to convert a value, cast it"
            }
            Self::Session => "names a login or the database, which are not shown here; whoami says who you are",
            Self::SqlInText => "runs SQL from a string and is not available here",
        }
    }
}

/// `pg_…` names belong to the server; these few are harmless and useful to an analyst.
const PG_ALLOWED: [&str; 3] = ["pg_typeof", "pg_size_pretty", "pg_column_size"];

/// Functions that take or return OIDs of the server's own objects, or values that only the server can make. Where an
/// OID can be passed in, a name may come back: `array_in('{…}', 4096, -1)` reads an array of roles. The list holds what
/// PUBLIC may call in `pg_proc` of PostgreSQL 16 and 18; a test compares. They are refused only where they are called:
/// `name_of` may be a column.
const INTERNAL: &str = include_str!("internal.txt");

/// The same by suffix, for other versions and for extensions.
const INTERNAL_ENDINGS: [&str; 12] = [
    "_in",
    "_out",
    "_recv",
    "_send",
    "_validator",
    "handler",
    "_support",
    "sortsupport",
    "skipsupport",
    "_transfn",
    "_finalfn",
    "_typanalyze",
];

/// Words that name the login or the database. `current_user` is the same role for everybody, so it reveals nothing.
const SESSION: [&str; 3] = ["session_user", "system_user", "current_catalog"];

fn is_internal(name: &str) -> bool {
    static NAMES: LazyLock<HashSet<&'static str>> = LazyLock::new(|| INTERNAL.split_whitespace().collect());
    INTERNAL_ENDINGS.iter().any(|ending| name.ends_with(ending)) || NAMES.contains(name)
}

/// PostgreSQL's aggregates by name or, for families of them, by prefix.
const AGGREGATES: [&str; 20] = [
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "array_agg",
    "string_agg",
    "json_agg",
    "jsonb_agg",
    "json_object_agg",
    "jsonb_object_agg",
    "bool_and",
    "bool_or",
    "every",
    "mode",
    "corr",
    "variance",
    "bit_and",
    "bit_or",
    "any_value",
];
const AGGREGATE_FAMILIES: [&str; 6] = ["stddev", "var_", "covar_", "regr_", "percentile_", "range_agg"];

/// Whether a function of this name is an aggregate.
#[must_use]
pub fn is_aggregate(name: &str) -> bool {
    AGGREGATES.contains(&name) || AGGREGATE_FAMILIES.iter().any(|family| name.starts_with(family))
}

/// Types that turn names of the server's objects into OIDs and back, and make comments and privileges readable. With an
/// underscore before it, the name is that of the array type; with `in` and the like after it, that of the type's input
/// function.
const CATALOG_TYPES: [&str; 12] = [
    "aclitem",
    "regclass",
    "regcollation",
    "regconfig",
    "regdictionary",
    "regnamespace",
    "regoper",
    "regoperator",
    "regproc",
    "regprocedure",
    "regrole",
    "regtype",
];

const CATALOG: [&str; 37] = [
    "information_schema",
    "to_regclass",
    "to_regcollation",
    "to_regnamespace",
    "to_regoper",
    "to_regoperator",
    "to_regproc",
    "to_regprocedure",
    "to_regrole",
    "to_regtype",
    "to_regtypemod",
    "aclcontains",
    "acldefault",
    "aclexplode",
    "aclinsert",
    "aclremove",
    "hash_aclitem",
    "hash_aclitem_extended",
    "makeaclitem",
    "col_description",
    "obj_description",
    "shobj_description",
    "oidvectortypes",
    "satisfies_hash_partition",
    "row_security_active",
    "current_setting",
    "inet_client_addr",
    "inet_client_port",
    "inet_server_addr",
    "inet_server_port",
    "mxid_age",
    "txid_current_snapshot",
    "txid_snapshot_xip",
    "txid_snapshot_xmax",
    "txid_snapshot_xmin",
    "txid_status",
    "txid_visible_in_snapshot",
];

/// Catalogue functions whose names are also used for columns: refused only where they are called.
const CATALOG_CALLS: [&str; 1] = ["format_type"];

const SIDE_EFFECT: [&str; 32] = [
    "set_config",
    // The seed outlives the rollback: one caller would choose the next one's random numbers.
    "setseed",
    // They read the newest version of a row regardless of policies.
    "currtid",
    "currtid2",
    "nextval",
    "currval",
    "setval",
    "lastval",
    "txid_current",
    "txid_current_if_assigned",
    "lo_close",
    "lo_creat",
    "lo_create",
    "lo_export",
    "lo_from_bytea",
    "lo_get",
    "lo_import",
    "lo_lseek",
    "lo_lseek64",
    "lo_open",
    "lo_put",
    "lo_tell",
    "lo_tell64",
    "lo_truncate",
    "lo_truncate64",
    "lo_unlink",
    "loread",
    "lowrite",
    "brin_summarize_new_values",
    "brin_summarize_range",
    "brin_desummarize_range",
    "gin_clean_pending_list",
];

/// A type of [`CATALOG_TYPES`], its array, or a function that converts it to or from text or bytes.
fn of_catalog_type(name: &str) -> bool {
    let plain = name.trim_start_matches('_');
    let functions = ["in", "out", "recv", "send", "eq"].iter().filter_map(|function| plain.strip_suffix(function));
    std::iter::once(plain).chain(functions).any(|name| CATALOG_TYPES.contains(&name))
}

/// Whether an identifier (lower case if unquoted) is refused. `called` says whether a parenthesis follows.
#[must_use]
pub fn refused(name: &str, called: bool) -> Option<Why> {
    if let Some(rest) = name.strip_prefix("pg_") {
        if PG_ALLOWED.contains(&name) {
            return None;
        }
        let acts = [
            "advisory",
            "try_advisory",
            "sleep",
            "notify",
            "logical",
            "terminate",
            "cancel",
            "read",
            "ls_",
            "stat_file",
        ];
        let acts = acts.iter().any(|prefix| rest.starts_with(prefix));
        return Some(if acts { Why::SideEffect } else { Why::Catalog });
    }
    if SIDE_EFFECT.contains(&name) {
        return Some(Why::SideEffect);
    }
    let to_xml = ["_to_xml", "_to_xmlschema", "_to_xml_and_xmlschema"].iter().any(|suffix| name.ends_with(suffix));
    if to_xml || name == "ts_stat" || name.starts_with("dblink") || name == "crosstab" || name == "connectby" {
        return Some(Why::SqlInText);
    }
    if SESSION.contains(&name) || (called && name == "current_database") {
        return Some(Why::Session);
    }
    if called && is_internal(name) {
        return Some(Why::Internal);
    }
    let asks_rights = name.starts_with("has_") && name.ends_with("_privilege");
    let called = called && CATALOG_CALLS.contains(&name);
    (asks_rights || called || CATALOG.contains(&name) || of_catalog_type(name)).then_some(Why::Catalog)
}
