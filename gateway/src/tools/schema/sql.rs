//! The catalog queries. They run inside the fence as its runner and name only what the runner may select from: views. What a
//! view cannot say of itself, its comments, keys and defaults, is that of the table of the same name.

/// The version of the schema: the newest state of each catalog row that describes it. Statistics are not part of it.
pub const VERSION: &str = "(SELECT encode(sha256(convert_to(string_agg(v, ',' ORDER BY v), 'UTF8')), 'hex') FROM (
    SELECT 't' || c.oid || ':' || c.xmin FROM pg_class c WHERE c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('retail', 'views_retail'))
    UNION ALL
    SELECT 'c' || a.attrelid || ':' || a.attnum || ':' || a.xmin FROM pg_attribute a
      JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'v', 'm')
     WHERE c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('retail', 'views_retail')) AND a.attnum > 0
    UNION ALL
    SELECT 'd' || d.objoid || ':' || d.objsubid || ':' || d.xmin FROM pg_description d
      JOIN pg_class c ON c.oid = d.objoid AND d.classoid = (SELECT oid FROM pg_class WHERE relname = 'pg_class' AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'pg_catalog'))
     WHERE c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('retail', 'views_retail'))
    UNION ALL
    SELECT 'k' || k.oid || ':' || k.xmin FROM pg_constraint k
     WHERE k.connamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('retail', 'views_retail'))
) s (v))";

/// Tables, columns, keys and relationships: of what the runner may read, as the table behind it says. A key or relationship is
/// described where all its columns are in the view. In a database that is not migrated yet the table is read itself.
const TABLES: &str = "(SELECT coalesce(json_agg(json_build_object(
    'name', v.relname,
    'comment', obj_description(c.oid, 'pg_class'),
    'columns', (
        SELECT json_agg(json_build_object(
            'name', s.attname, 'type', format_type(s.atttypid, s.atttypmod), 'nullable', NOT coalesce(a.attnotnull, false),
            'default', pg_get_expr(d.adbin, d.adrelid), 'comment', col_description(c.oid, a.attnum)) ORDER BY s.attnum)
          FROM pg_attribute s
          LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = s.attname AND a.attnum > 0 AND NOT a.attisdropped
          LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE s.attrelid = v.oid AND s.attnum > 0 AND NOT s.attisdropped),
    'keys', (
        SELECT coalesce(json_agg(json_build_object('primary', k.contype = 'p', 'columns', n.names) ORDER BY k.contype, k.conname), '[]')
          FROM pg_constraint k, LATERAL (
              SELECT json_agg(a.attname ORDER BY u.n) AS names, bool_and(s.attname IS NOT NULL) AS shown
                FROM unnest(k.conkey) WITH ORDINALITY u (num, n)
                JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num
                LEFT JOIN pg_attribute s ON s.attrelid = v.oid AND s.attname = a.attname) n
         WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u') AND n.shown),
    'relationships', (
        SELECT coalesce(json_agg(json_build_object('columns', n.names, 'table', r.relname, 'references', f.names) ORDER BY k.conname), '[]')
          FROM pg_constraint k
          JOIN pg_class t ON t.oid = k.confrelid AND t.relnamespace = c.relnamespace
          JOIN pg_class r ON r.relname = t.relname AND r.relnamespace = v.relnamespace AND has_table_privilege(r.oid, 'SELECT'),
          LATERAL (
              SELECT json_agg(a.attname ORDER BY u.n) AS names, bool_and(s.attname IS NOT NULL) AS shown
                FROM unnest(k.conkey) WITH ORDINALITY u (num, n)
                JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num
                LEFT JOIN pg_attribute s ON s.attrelid = v.oid AND s.attname = a.attname) n,
          LATERAL (
              SELECT json_agg(a.attname ORDER BY u.n) AS names, bool_and(s.attname IS NOT NULL) AS shown
                FROM unnest(k.confkey) WITH ORDINALITY u (num, n)
                JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num
                LEFT JOIN pg_attribute s ON s.attrelid = r.oid AND s.attname = a.attname) f
         WHERE k.conrelid = c.oid AND k.contype = 'f' AND n.shown AND f.shown)
    ) ORDER BY v.relname), '[]')
  FROM pg_class v
  JOIN pg_class c ON c.relname = v.relname AND c.relkind IN ('r', 'p', 'v', 'm')
   AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'retail')
 WHERE v.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('retail', 'views_retail'))
   AND v.relkind IN ('r', 'p', 'v', 'm') AND has_table_privilege(v.oid, 'SELECT'))";

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
          JOIN pg_class c ON c.oid = p.polrelid AND c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('retail', 'views_retail'))
        UNION ALL
        SELECT 'f' || f.oid || ':' || f.xmin FROM pg_proc f
         WHERE f.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'fence')) s (v)),
    'stores', (SELECT json_agg(s ORDER BY s) FROM unnest(fence.visible_stores()) s))"
    )
}
