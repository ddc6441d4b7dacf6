//! Functions that take or return OIDs of the server's own objects, from `pg_proc` of PostgreSQL 16 and 18: each is
//! refused, or listed here with the reason why it may be called.

use anyhow::{Result, ensure};
use storefence_gateway::gate::check;

use super::planner::{cluster, reader};

/// Types that name objects of the server, that only the server itself makes, or that input and output functions use.
const TYPES: &str = "'oid', 'oid[]', 'oidvector', 'cstring', 'internal', 'regproc', 'regprocedure', 'regoper', 'regoperator', \
    'regclass', 'regcollation', 'regtype', 'regtype[]', 'regrole', 'regnamespace', 'regconfig', 'regdictionary', 'aclitem', \
    'aclitem[]', 'xid', 'xid8', 'cid', 'tid', 'name', 'name[]', 'pg_snapshot', 'txid_snapshot', 'trigger', 'event_trigger', \
    'language_handler', 'fdw_handler', 'index_am_handler', 'table_am_handler', 'tsm_handler', 'refcursor', 'pg_node_tree'";

const HARMLESS: [(&str, &str); 33] = [
    ("age", "of points in time; that of a transaction needs its number"),
    ("bernoulli", "TABLESAMPLE"),
    ("bpchar", "text"),
    ("convert", "bytes of another encoding; encodings are public"),
    ("convert_from", "as above"),
    ("convert_to", "as above"),
    ("current_schema", "the same for everybody: pg_catalog"),
    ("current_schemas", "the same for everybody: the search path"),
    ("current_user", "the same for everybody: the reader"),
    ("int8", "the number itself"),
    ("json_to_tsvector", "text search by the name of a configuration; no name comes back"),
    ("jsonb_to_tsvector", "as above"),
    ("length", "of a text"),
    ("like", "of a text"),
    ("max", "of what the caller has"),
    ("min", "of what the caller has"),
    ("name", "text"),
    ("notlike", "of a text"),
    ("oid", "the number itself"),
    ("pg_column_size", "of what the caller has"),
    ("phraseto_tsquery", "as json_to_tsvector"),
    ("plainto_tsquery", "as json_to_tsvector"),
    ("substring", "of a text"),
    ("system", "TABLESAMPLE"),
    ("text", "text"),
    ("to_ascii", "encodings are public"),
    ("to_tsquery", "as json_to_tsvector"),
    ("to_tsvector", "as json_to_tsvector"),
    ("ts_headline", "as json_to_tsvector"),
    ("varchar", "text"),
    ("version", "public"),
    ("websearch_to_tsquery", "as json_to_tsvector"),
    ("encode", "of bytes"),
];

async fn walk(version: u32) -> Result<()> {
    let cluster = cluster(version, 4 * 1024 * 1024).await?;
    let (client, _) = reader(&cluster).await?;
    // Also functions that name the login: those without arguments that return a text.
    let sql = format!(
        "SELECT DISTINCT p.proname::text FROM pg_proc p WHERE p.prokind IN ('f', 'a', 'w')
            AND has_function_privilege('fence_reader', p.oid, 'EXECUTE') AND p.pronamespace::regnamespace::text <> 'fence'
            AND (EXISTS (SELECT FROM unnest(string_to_array(trim(p.proargtypes::text), ' ')::oid[] || p.prorettype
                    || coalesce(p.proallargtypes, '{{}}')) t(type) WHERE t.type::regtype::text IN ({TYPES})))"
    );
    let rows = client.query(sql.as_str(), &[]).await?;
    ensure!(rows.len() > 1_000, "{} functions", rows.len());
    let mut passed = Vec::new();
    for row in rows {
        let name: String = row.get(0);
        if HARMLESS.iter().any(|(harmless, _)| *harmless == name) {
            continue;
        }
        // As called, quoted, in attribute notation, and with the catalogue's schema.
        for text in
            [format!("SELECT \"{name}\" (a)"), format!("SELECT (a).\"{name}\""), format!("SELECT x.\"{name}\"(a)")]
        {
            if check(&text).is_ok() {
                passed.push(text);
            }
        }
        if name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            && check(&format!("SELECT {name}(a)")).is_ok()
        {
            passed.push(name);
        }
    }
    ensure!(passed.is_empty(), "PostgreSQL {version}: {}", passed.join(", "));
    cluster.stop().await?;
    Ok(())
}

#[tokio::test]
async fn catalogue_functions_of_16_are_refused() -> Result<()> {
    walk(16).await
}

#[tokio::test]
async fn catalogue_functions_of_18_are_refused() -> Result<()> {
    walk(18).await
}

/// All ways to name the current user, as keywords and as functions.
#[test]
fn who_is_logged_in_is_not_told() {
    for name in ["session_user", "system_user", "current_catalog"] {
        for text in
            [format!("SELECT {name}"), format!("SELECT {}::text", name.to_uppercase()), format!("SELECT \"{name}\"()")]
        {
            assert!(check(&text).is_err(), "{text}");
        }
    }
    for text in [
        "SELECT current_query()",
        "SELECT getpgusername()",
        "SELECT current_database()",
        "SELECT getdatabaseencoding()",
    ] {
        assert!(check(text).is_err(), "{text}");
    }
}
