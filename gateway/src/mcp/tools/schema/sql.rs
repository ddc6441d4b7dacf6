//! The catalog queries. They run inside the fence as its reader and name only what the reader may select from.

/// The version of the schema: the newest state of each catalog row that describes it. Statistics are not part of it.
pub const VERSION: &str = "(SELECT encode(sha256(convert_to(string_agg(v, ',' ORDER BY v), 'UTF8')), 'hex') FROM (
    SELECT 't' || c.oid || ':' || c.xmin FROM pg_class c WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'retail')
    UNION ALL
    SELECT 'c' || a.attrelid || ':' || a.attnum || ':' || a.xmin FROM pg_attribute a
      JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'v', 'm')
     WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'retail') AND a.attnum > 0
    UNION ALL
    SELECT 'd' || d.objoid || ':' || d.objsubid || ':' || d.xmin FROM pg_description d
      JOIN pg_class c ON c.oid = d.objoid AND d.classoid = (SELECT oid FROM pg_class WHERE relname = 'pg_class' AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'pg_catalog'))
     WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'retail')
    UNION ALL
    SELECT 'k' || k.oid || ':' || k.xmin FROM pg_constraint k
     WHERE k.connamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'retail')
) s (v))";

/// Tables, columns, keys and relationships.
const TABLES: &str = "(SELECT coalesce(json_agg(json_build_object(
    'name', c.relname,
    'comment', obj_description(c.oid, 'pg_class'),
    'columns', (
        SELECT json_agg(json_build_object(
            'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'nullable', NOT a.attnotnull,
            'default', pg_get_expr(d.adbin, d.adrelid), 'comment', col_description(c.oid, a.attnum)) ORDER BY a.attnum)
          FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    'keys', (
        SELECT coalesce(json_agg(json_build_object(
            'primary', k.contype = 'p',
            'columns', (SELECT json_agg(a.attname ORDER BY u.n) FROM unnest(k.conkey) WITH ORDINALITY u (num, n)
                          JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num)) ORDER BY k.contype, k.conname), '[]')
          FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u')),
    'relationships', (
        SELECT coalesce(json_agg(json_build_object(
            'columns', (SELECT json_agg(a.attname ORDER BY u.n) FROM unnest(k.conkey) WITH ORDINALITY u (num, n)
                          JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num),
            'table', r.relname,
            'references', (SELECT json_agg(a.attname ORDER BY u.n) FROM unnest(k.confkey) WITH ORDINALITY u (num, n)
                             JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num)) ORDER BY k.conname), '[]')
          FROM pg_constraint k JOIN pg_class r ON r.oid = k.confrelid
         WHERE k.conrelid = c.oid AND k.contype = 'f' AND r.relnamespace = c.relnamespace AND has_table_privilege(r.oid, 'SELECT'))
    ) ORDER BY c.relname), '[]')
  FROM pg_class c
 WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'retail')
   AND c.relkind IN ('r', 'p', 'v', 'm') AND has_table_privilege(c.oid, 'SELECT'))";

/// Version and tables in one document.
pub fn schema() -> String {
    format!("SELECT json_build_object('version', {VERSION}, 'tables', {TABLES})")
}

/// What the fence shows a scope: the version of the schema, of policies and of the fence's own functions, and the stores
/// that are both in the signed context and still the tenant's.
pub fn pulse() -> String {
    format!(
        "SELECT json_build_object('schema', {VERSION},
    'fence', (SELECT encode(sha256(convert_to(string_agg(v, ',' ORDER BY v), 'UTF8')), 'hex') FROM (
        SELECT 'p' || p.oid || ':' || p.xmin FROM pg_policy p
          JOIN pg_class c ON c.oid = p.polrelid AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'retail')
        UNION ALL
        SELECT 'f' || f.oid || ':' || f.xmin FROM pg_proc f
         WHERE f.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'fence')) s (v)),
    'stores', (SELECT json_agg(s ORDER BY s) FROM unnest(fence.visible_stores()) s))"
    )
}
