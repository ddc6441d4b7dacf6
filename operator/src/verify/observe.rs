//! Reads the catalogs into a [`Snapshot`].

use sqlx::{Connection, postgres::PgConnection};

use super::{Snapshot, VerifyError, level, strays::strays};

/// One statement, so one moment. Every list comes sorted; a role that was dropped shows as its number.
const SNAPSHOT: &str = r#"
WITH ours AS (
    SELECT oid, rolname FROM pg_roles WHERE rolname IN ('retail_owner', 'fence_owner', 'fence_reader', 'fence_runner', 'fence_login', 'retail_loader')
), creators AS (
    SELECT oid FROM pg_roles WHERE rolname ~ '^fence_creator_[0-9]{2}$'
), reader AS (
    SELECT oid FROM pg_roles WHERE rolname IN ('fence_reader', 'fence_runner')
), fenced AS (
    SELECT oid FROM pg_namespace
     WHERE nspname IN ('retail', 'fence', 'views_retail')
        OR nspname LIKE 'views\_%' AND nspowner = (SELECT oid FROM pg_roles WHERE rolname = 'fence_reader')
), logins AS (
    SELECT l.login::text AS login, r.oid FROM fence.logins l LEFT JOIN pg_roles r ON r.rolname = l.login
), vector AS (
    SELECT extnamespace AS oid FROM pg_extension WHERE extname = 'vector'
), rels AS (
    SELECT c.*, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
       AND (n.oid IN (SELECT oid FROM fenced)
            OR n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
               -- whatever the readers can read, were it by a grant to PUBLIC; what extensions ship is theirs
               AND (c.relkind <> 'S' AND EXISTS (SELECT FROM reader r WHERE has_schema_privilege(r.oid, n.oid, 'USAGE')
                                                      AND has_any_column_privilege(r.oid, c.oid, 'SELECT'))
                        AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
                    OR EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee IN (SELECT oid FROM reader))
                    OR EXISTS (SELECT FROM pg_attribute t, aclexplode(t.attacl) a
                                WHERE t.attrelid = c.oid AND a.grantee IN (SELECT oid FROM reader))))
)
SELECT json_build_object(
    'database', current_database(),
    'observer', current_user,
    'database_acl', (SELECT coalesce(json_agg(json_build_object('grantee', g.grantee, 'privilege', g.privilege, 'grantable', g.grantable) ORDER BY g.*), '[]')
        FROM pg_database d, LATERAL (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END AS grantee, a.privilege_type AS privilege, a.is_grantable AS grantable
                                       FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE a.grantee <> d.datdba) g
       WHERE d.datname = current_database()),
    'vector_schema', (SELECT nspname FROM pg_namespace WHERE oid = (SELECT oid FROM vector)),
    'schemas', (SELECT json_agg(json_build_object('name', n.nspname, 'owner', pg_get_userbyid(n.nspowner), 'acl', (
            SELECT coalesce(json_agg(json_build_object('grantee', g.grantee, 'privilege', g.privilege, 'grantable', g.grantable) ORDER BY g.*), '[]')
              FROM (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END AS grantee, a.privilege_type AS privilege, a.is_grantable AS grantable
                      FROM aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a WHERE a.grantee <> n.nspowner) g)) ORDER BY n.nspname)
        FROM pg_namespace n WHERE n.nspname = 'public' OR n.oid IN (SELECT oid FROM fenced UNION ALL SELECT oid FROM vector)),
    'relations', (SELECT coalesce(json_agg(json_build_object(
            'schema', c.nspname, 'name', c.relname, 'kind', c.relkind, 'owner', pg_get_userbyid(c.relowner),
            'rls', c.relrowsecurity, 'force', c.relforcerowsecurity,
            'acl', (SELECT coalesce(json_agg(json_build_object('grantee', g.grantee, 'privilege', g.privilege, 'grantable', g.grantable) ORDER BY g.*), '[]')
                      FROM (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END AS grantee, a.privilege_type AS privilege, a.is_grantable AS grantable
                              FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner) g),
            'column_acl', (SELECT coalesce(json_agg(json_build_object('grantee', g.grantee, 'privilege', g.privilege, 'grantable', g.grantable) ORDER BY g.*), '[]')
                      FROM (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END AS grantee, format('%s (%I)', a.privilege_type, t.attname) AS privilege, a.is_grantable AS grantable
                              FROM pg_attribute t, aclexplode(t.attacl) a WHERE t.attrelid = c.oid) g),
            'hooks', (SELECT coalesce(json_agg(h ORDER BY h), '[]') FROM (
                        SELECT 'trigger ' || tgname AS h FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal
                        UNION ALL SELECT 'rule ' || rulename FROM pg_rewrite WHERE ev_class = c.oid AND rulename <> '_RETURN') x),
            'columns', (SELECT coalesce(json_agg(quote_ident(t.attname) ORDER BY t.attnum), '[]') FROM pg_attribute t
                         WHERE t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped),
            'options', coalesce(to_json(c.reloptions), '[]'),
            'definition', CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END,
            'approximate', (SELECT coalesce(json_agg(x.relname ORDER BY x.relname), '[]') FROM pg_index i
                              JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
                             WHERE i.indrelid = c.oid AND m.amname NOT IN ('btree', 'hash', 'gist', 'gin', 'spgist', 'brin'))
        ) ORDER BY c.nspname, c.relname), '[]') FROM rels c),
    'policies', (SELECT coalesce(json_agg(json_build_object(
            'table', c.nspname || '.' || c.relname, 'name', p.polname, 'permissive', p.polpermissive, 'command', p.polcmd,
            'roles', (SELECT json_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(r) END ORDER BY 1) FROM unnest(p.polroles) r),
            'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid)
        ) ORDER BY c.nspname, c.relname, p.polname), '[]') FROM pg_policy p JOIN rels c ON c.oid = p.polrelid),
    'functions', (SELECT coalesce(json_agg(json_build_object(
            'schema', n.nspname, 'name', p.proname, 'arguments', pg_get_function_identity_arguments(p.oid),
            'owner', pg_get_userbyid(p.proowner), 'language', l.lanname, 'definer', p.prosecdef,
            'result', coalesce(pg_get_function_result(p.oid), ''),
            'attributes', array_remove(ARRAY[CASE WHEN p.proisstrict THEN 'STRICT' END, CASE WHEN p.proleakproof THEN 'LEAKPROOF' END,
                CASE WHEN p.prokind <> 'f' THEN 'kind ' || p.prokind::text END, CASE WHEN p.prosupport <> 0 THEN 'SUPPORT ' || p.prosupport::regproc::text END,
                CASE WHEN p.provariadic <> 0 THEN 'VARIADIC' END, CASE WHEN p.pronargdefaults > 0 THEN 'DEFAULTS ' || pg_get_expr(p.proargdefaults, 0) END,
                CASE WHEN p.protrftypes IS NOT NULL THEN 'TRANSFORM' END], NULL),
            'volatility', p.provolatile, 'parallel', p.proparallel, 'settings', coalesce(to_json(p.proconfig), '[]'),
            'body', encode(sha256(convert_to(coalesce(p.prosrc, ''), 'UTF8')), 'hex'),
            'acl', (SELECT coalesce(json_agg(json_build_object('grantee', g.grantee, 'privilege', g.privilege, 'grantable', g.grantable) ORDER BY g.*), '[]')
                      FROM (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END AS grantee, a.privilege_type AS privilege, a.is_grantable AS grantable
                              FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a) g)
        ) ORDER BY n.nspname, p.proname, p.oid), '[]')
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
       WHERE n.oid IN (SELECT oid FROM fenced)
          OR n.nspname NOT IN ('pg_catalog', 'information_schema') AND p.prosecdef
             AND EXISTS (SELECT FROM reader r WHERE has_function_privilege(r.oid, p.oid, 'EXECUTE'))),
    'default_acl', (SELECT coalesce(json_agg(e ORDER BY e), '[]') FROM (
            SELECT format('%s: %s%s: %s=%s', pg_get_userbyid(d.defaclrole), coalesce(n.nspname || '.', ''), d.defaclobjtype,
                          CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END, a.privilege_type) AS e
              FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace, aclexplode(d.defaclacl) a
             WHERE d.defaclrole IN (SELECT oid FROM ours) OR a.grantee IN (SELECT oid FROM ours UNION ALL SELECT oid FROM logins)
                OR n.oid IN (SELECT oid FROM fenced) AND a.grantee = 0) x),
    'roles', (SELECT json_agg(json_build_object('name', r.rolname, 'attributes', array_remove(ARRAY[
            CASE WHEN r.rolsuper THEN 'SUPERUSER' END, CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END, CASE WHEN r.rolcreaterole THEN 'CREATEROLE' END,
            CASE WHEN r.rolcreatedb THEN 'CREATEDB' END, CASE WHEN r.rolreplication THEN 'REPLICATION' END, CASE WHEN r.rolcanlogin THEN 'LOGIN' END,
            CASE WHEN r.rolinherit THEN 'INHERIT' END], NULL)) ORDER BY r.rolname)
        FROM pg_roles r WHERE r.rolsuper OR r.rolbypassrls OR r.oid IN (SELECT oid FROM ours UNION ALL SELECT oid FROM creators UNION ALL SELECT oid FROM logins)),
    'memberships', (SELECT coalesce(json_agg(json_build_object('role', pg_get_userbyid(m.roleid), 'member', pg_get_userbyid(m.member),
            'admin', m.admin, 'inherit', m.inherit, 'set', m.set, 'grantors', m.grantors) ORDER BY 1), '[]')
        FROM (SELECT roleid, member, bool_or(admin_option) AS admin, bool_or(inherit_option) AS inherit, bool_or(set_option) AS set,
                     array_agg(pg_get_userbyid(grantor)::text ORDER BY pg_get_userbyid(grantor)) AS grantors
                FROM pg_auth_members GROUP BY roleid, member) m
       WHERE m.roleid IN (SELECT oid FROM ours UNION ALL SELECT oid FROM creators)
          OR m.member IN (SELECT oid FROM ours UNION ALL SELECT oid FROM logins)
          -- what a creator has by having made a login goes without saying
          OR m.member IN (SELECT oid FROM creators)
             AND (m.inherit OR m.set OR NOT m.admin OR pg_get_userbyid(m.roleid) !~ '^sf_[0-9a-f]{12}_[ab]$')),
    'logins', (SELECT coalesce(json_agg(json_build_object('login', l.login, 'dependencies', (
            SELECT count(*) FROM pg_shdepend s WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = l.oid)) ORDER BY l.login), '[]') FROM logins l),
    'settings', (SELECT coalesce(json_agg(json_build_object('role', CASE s.setrole WHEN 0 THEN NULL ELSE pg_get_userbyid(s.setrole) END, 'setting', c) ORDER BY 1), '[]')
        FROM pg_db_role_setting s, unnest(s.setconfig) c
       WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
         AND (s.setrole = 0 OR s.setrole IN (SELECT oid FROM logins))),
    'open_builtins', (SELECT coalesce(json_agg(p.oid::regprocedure::text ORDER BY p.oid::regprocedure::text), '[]')
        FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY ($1) AND (p.proname <> 'ts_rewrite' OR p.pronargs = 2)
         AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0)),
    'extensions', (SELECT coalesce(json_agg(e ORDER BY e), '[]') FROM (
            SELECT 'extension ' || extname AS e FROM pg_extension WHERE extname IN ('dblink', 'tablefunc', 'postgres_fdw', 'file_fdw', 'adminpack', 'xml2')
            UNION ALL SELECT 'language ' || lanname FROM pg_language WHERE NOT lanpltrusted AND lanname NOT IN ('internal', 'c')) x)
)::text
"#;

/// Reads everything in one read-only transaction.
pub async fn observe(connection: &mut PgConnection) -> Result<Snapshot, VerifyError> {
    let mut transaction = connection.begin().await?;
    // pg_get_expr leaves out schemas that are on the search path, and quotes every name where the server is set to
    sqlx::raw_sql(
        "SET TRANSACTION READ ONLY; SET LOCAL search_path = pg_catalog; SET LOCAL quote_all_identifiers = off",
    )
    .execute(&mut *transaction)
    .await?;
    let outcome = async {
        let text: String = sqlx::query_scalar(SNAPSHOT).bind(level::names()).fetch_one(&mut *transaction).await?;
        let snapshot: Snapshot = serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(Snapshot { strays: strays(&mut transaction, level::names()).await?, ..snapshot })
    };
    let outcome: Result<Snapshot, sqlx::Error> = outcome.await;
    transaction.rollback().await?;
    match outcome {
        Ok(snapshot) => Ok(snapshot),
        // no schema or table, no right to read it, no pgvector
        Err(error)
            if error
                .as_database_error()
                .and_then(|error| error.code())
                .is_some_and(|code| ["3F000", "42P01", "42501"].contains(&&*code)) =>
        {
            let role = sqlx::query_scalar("SELECT current_user::text").fetch_one(connection).await?;
            Err(VerifyError::NoFence { role })
        }
        Err(error) => Err(error.into()),
    }
}
