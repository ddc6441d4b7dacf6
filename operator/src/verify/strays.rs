//! What an administrator's act changed outside of the fence's own schemas, by which the fence leaks all the same.

use sqlx::postgres::PgConnection;

use super::Stray;

/// Built-in functions that PostgreSQL 16 to 18 ship as LEAKPROOF, as `regprocedure` prints them.
const LEAKPROOF: &str = include_str!("leakproof.txt");

/// The newest major version whose leakproof built-ins are listed. Of a newer one only other functions can be judged.
const LISTED: i32 = 18;

/// Kind, object, what was found, and the statement that undoes it, of each. Objects below 16384 are those that PostgreSQL itself
/// made at initdb; pg_init_privs has the privileges that it gave them.
const STRAYS: &str = r"
WITH RECURSIVE ours AS (
    SELECT oid, rolname::text FROM pg_roles
     WHERE rolname IN ('retail_owner', 'fence_owner', 'fence_reader', 'fence_runner', 'fence_login', 'retail_loader')
    UNION SELECT r.oid, r.rolname FROM fence.logins l JOIN pg_roles r ON r.rolname = l.login
), shipped AS (
    SELECT oid FROM pg_namespace WHERE nspname IN ('pg_catalog', 'information_schema')
), fenced AS (
    SELECT oid FROM pg_namespace WHERE nspname IN ('retail', 'fence') OR nspname LIKE 'views\_%' AND nspowner = (SELECT oid FROM ours WHERE rolname = 'fence_reader')
), tables AS (
    SELECT c.oid, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p') AND (n.nspname IN ('retail', 'fence')
        OR EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'fence_read'))
), reads (oid) AS (
    SELECT oid FROM tables
    UNION SELECT r.ev_class FROM reads JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = reads.oid AND d.classid = 'pg_rewrite'::regclass
            JOIN pg_rewrite r ON r.oid = d.objid
), members AS (
    SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), made (classid, oid) AS (
    SELECT 'pg_class'::regclass, oid FROM pg_class WHERE relnamespace IN (SELECT oid FROM shipped) AND relkind IN ('r', 'p', 'v', 'm', 'f')
    UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace IN (SELECT oid FROM shipped) AND NOT prosecdef
    UNION ALL SELECT 'pg_operator'::regclass, oid FROM pg_operator WHERE oprnamespace IN (SELECT oid FROM shipped)
    UNION ALL SELECT 'pg_opclass'::regclass, oid FROM pg_opclass WHERE opcnamespace IN (SELECT oid FROM shipped) OR opcintype < 16384
    UNION ALL SELECT 'pg_cast'::regclass, oid FROM pg_cast WHERE castsource < 16384 AND casttarget < 16384
    UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typnamespace IN (SELECT oid FROM shipped) AND typrelid = 0 AND typelem = 0
), granted AS (
    SELECT CASE prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END AS kind, oid::regprocedure::text AS name, 'pg_proc'::regclass AS classoid, oid, 0 AS sub,
           proacl AS acl, acldefault('f', proowner) AS due
      FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proacl IS NOT NULL
    UNION ALL SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, oid::regclass::text, 'pg_class'::regclass, oid, 0, relacl, acldefault('r', relowner)
      FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relacl IS NOT NULL
    UNION ALL SELECT format('(%I)', a.attname), a.attrelid::regclass::text, 'pg_class'::regclass, a.attrelid, a.attnum, a.attacl, NULL
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = 'pg_catalog'::regnamespace AND a.attacl IS NOT NULL
    UNION ALL SELECT 'SCHEMA', nspname, 'pg_namespace'::regclass, oid, 0, nspacl, acldefault('n', nspowner)
      FROM pg_namespace WHERE oid = 'pg_catalog'::regnamespace AND nspacl IS NOT NULL
), strays (kind, object, found, remedy) AS (
    SELECT 'leakproof', 'function ' || p.oid::regprocedure, 'LEAKPROOF', format('ALTER FUNCTION %s NOT LEAKPROOF', p.oid::regprocedure)
      FROM pg_proc p WHERE p.proleakproof AND p.oid::regprocedure::text <> ALL ($1) AND p.pronamespace NOT IN (SELECT oid FROM fenced)
       AND NOT (p.oid < 16384 AND current_setting('server_version_num')::int / 10000 > $2)
    UNION ALL
    SELECT 'definer', 'function ' || p.oid::regprocedure, 'SECURITY DEFINER', CASE WHEN p.oid < 16384
           THEN format('ALTER FUNCTION %s SECURITY INVOKER', p.oid::regprocedure) ELSE format('DROP FUNCTION %s', p.oid::regprocedure) END
      FROM pg_proc p WHERE p.prosecdef AND p.pronamespace IN (SELECT oid FROM shipped)
    UNION ALL
    SELECT CASE WHEN m.classid = 'pg_proc'::regclass THEN 'function' ELSE 'made' END, i.type || ' ' || i.identity, 'made after initdb', format('DROP %s %s', upper(i.type), i.identity)
      FROM made m, pg_identify_object(m.classid, m.oid, 0) i
     WHERE m.oid >= 16384 AND NOT EXISTS (SELECT FROM members e WHERE e.classid = m.classid AND e.objid = m.oid)
    UNION ALL
    SELECT 'privilege', lower(CASE WHEN g.sub > 0 THEN 'TABLE' ELSE g.kind END) || ' ' || g.name, concat(a.privilege_type, CASE WHEN g.sub > 0 THEN ' ' || g.kind END, ' for ', coalesce(o.rolname, 'PUBLIC')),
           format('REVOKE %s ON %s %s FROM %s', a.privilege_type || CASE WHEN g.sub > 0 THEN ' ' || g.kind ELSE '' END,
                  CASE WHEN g.sub > 0 THEN 'TABLE' ELSE g.kind END, g.name, coalesce(quote_ident(o.rolname), 'PUBLIC'))
      FROM granted g LEFT JOIN pg_init_privs i ON i.classoid = g.classoid AND i.objoid = g.oid AND i.objsubid = g.sub
     -- first whose privilege it is, of few; then whether it was shipped
     CROSS JOIN LATERAL (SELECT x.* FROM aclexplode(g.acl) x WHERE x.grantee = 0 OR x.grantee IN (SELECT oid FROM ours) OFFSET 0) a
      LEFT JOIN ours o ON o.oid = a.grantee
     WHERE NOT EXISTS (SELECT FROM aclexplode(coalesce(i.initprivs, g.due)) b WHERE b.grantee = a.grantee AND b.privilege_type = a.privilege_type)
       -- the strict level leaves these to the fence itself
       AND NOT (o.rolname IS NOT DISTINCT FROM 'fence_owner' AND g.classoid = 'pg_proc'::regclass AND split_part(g.name, '(', 1) = ANY ($3))
    UNION ALL
    SELECT 'parameter', 'parameter ' || s.parname, a.privilege_type || ' for ' || coalesce(o.rolname, 'PUBLIC'),
           format('REVOKE %s ON PARAMETER %s FROM %s', a.privilege_type, s.parname, coalesce(quote_ident(o.rolname), 'PUBLIC'))
      FROM pg_parameter_acl s CROSS JOIN aclexplode(s.paracl) a LEFT JOIN ours o ON o.oid = a.grantee WHERE a.grantee = 0 OR o.oid IS NOT NULL
    UNION ALL
    SELECT 'setting', 'role ' || o.rolname, 'setting ' || c, format('ALTER ROLE %I %sRESET %s', o.rolname, CASE WHEN s.setdatabase <> 0 THEN format('IN DATABASE %I ', (SELECT d.datname FROM pg_database d WHERE d.oid = s.setdatabase)) END, split_part(c, '=', 1))
      FROM pg_db_role_setting s JOIN ours o ON o.oid = s.setrole, unnest(s.setconfig) c WHERE o.rolname NOT IN (SELECT login FROM fence.logins)
    UNION ALL
    SELECT CASE t.evtevent WHEN 'login' THEN 'login' ELSE 'ddl' END, 'event trigger ' || quote_ident(t.evtname), format('runs %s at %s', t.evtfoid::regprocedure, t.evtevent), format('ALTER EVENT TRIGGER %I DISABLE', t.evtname)
      FROM pg_event_trigger t WHERE t.evtenabled <> 'D' AND NOT EXISTS (SELECT FROM members e WHERE e.classid = 'pg_event_trigger'::regclass AND e.objid = t.oid)
    UNION ALL
    SELECT CASE WHEN bool_or(p.schemaname = 'fence') THEN 'published keys' ELSE 'published' END, 'publication ' || quote_ident(p.pubname::text),
           'sends ' || string_agg(p.schemaname || '.' || p.tablename, ', ' ORDER BY p.schemaname, p.tablename), format('DROP PUBLICATION %I', p.pubname)
      FROM pg_publication_tables p JOIN pg_namespace n ON n.nspname = p.schemaname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
     WHERE c.oid IN (SELECT oid FROM tables) GROUP BY p.pubname
    UNION ALL
    SELECT 'extension', 'view ' || c.oid::regclass, 'a view of extension ' || x.extname || ' that reads tables behind the fence', format('ALTER EXTENSION %I DROP VIEW %s; DROP VIEW %2$s', x.extname, c.oid::regclass)
      FROM reads JOIN pg_class c ON c.oid = reads.oid AND c.relkind IN ('v', 'm')
      JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e' JOIN pg_extension x ON x.oid = d.refobjid
    UNION ALL
    SELECT 'texts', 'extension pg_stat_statements', 'its view can be read by callers, and the texts of all tenants run as one role', format('REVOKE ALL ON %s FROM PUBLIC', c.oid::regclass)
      FROM pg_class c JOIN ours o ON o.rolname = 'fence_runner' WHERE c.relname = 'pg_stat_statements' AND c.relkind = 'v'
       AND has_schema_privilege(o.oid, c.relnamespace, 'USAGE') AND has_any_column_privilege(o.oid, c.oid, 'SELECT')
)
SELECT coalesce(json_agg(json_build_object('kind', kind, 'object', object, 'found', found, 'remedy', remedy) ORDER BY kind, object, found), '[]')::text FROM strays
";

/// Reads them; within the transaction of the rest, whose search path is pg_catalog alone.
pub(super) async fn strays(connection: &mut PgConnection, strict: Vec<&str>) -> Result<Vec<Stray>, sqlx::Error> {
    let leakproof: Vec<&str> = LEAKPROOF.lines().collect();
    let text: String =
        sqlx::query_scalar(STRAYS).bind(leakproof).bind(LISTED).bind(strict).fetch_one(&mut *connection).await?;
    serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()))
}
