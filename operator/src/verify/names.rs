//! Names in statements, as PostgreSQL reads them.

use crate::quote::ident;

/// Words that may not stand as the name of a role or a table without quotes (PostgreSQL 18, appendix C, reserved).
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "binary",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "group",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "intersect",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "natural",
    "none",
    "not",
    "notnull",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "outer",
    "overlaps",
    "placing",
    "primary",
    "public",
    "references",
    "returning",
    "right",
    "select",
    "session_user",
    "similar",
    "some",
    "symmetric",
    "system_user",
    "table",
    "tablesample",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
];

/// Whether a name, or two with a dot between them, may stand in a statement as it is.
pub fn is_plain(name: &str) -> bool {
    let plain = |part: &str| {
        let mut bytes = part.bytes();
        bytes.next().is_some_and(|first| first.is_ascii_lowercase() || first == b'_')
            && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            && !RESERVED.contains(&part)
    };
    name == "PUBLIC" || name.split('.').all(plain)
}

/// A single name, in quotes where it needs them. `PUBLIC` is everybody, and no name.
pub fn quoted(name: &str) -> String {
    if name == "PUBLIC" || is_plain(name) && !name.contains('.') {
        return name.to_owned();
    }
    ident(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_need_no_quotes_get_into_statements() {
        for name in ["PUBLIC", "fence_reader", "retail.orders", "_x", "sf_0123456789ab_a"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["", "x; DROP TABLE y", "Mallory", "a b", "retail.", "1x", "a\"b", "x--", "ä", "user", "public"] {
            assert!(!is_plain(name), "{name}");
        }
    }

    #[test]
    fn a_name_that_needs_quotes_gets_them() {
        for (name, expected) in [
            ("PUBLIC", "PUBLIC"),
            ("mallory", "mallory"),
            ("Retail-Ops@contoso.com", "\"Retail-Ops@contoso.com\""),
            ("user", "\"user\""),
            ("a.b", "\"a.b\""),
            ("a\"b", "\"a\"\"b\""),
        ] {
            assert_eq!(quoted(name), expected);
        }
    }
}
