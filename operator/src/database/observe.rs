//! Reads what the database holds of one tenant: one statement, index lookups only, whatever the number of tenants.

use sqlx::types::Json;
use uuid::Uuid;

use super::{Database, DatabaseError, TenantLock};
use crate::plan::{
    desired::{Desired, PRIVILEGED_SETTINGS},
    state::DatabaseState,
};

const OBSERVE: &str = r"
WITH me AS (SELECT t.tenant_key, t.tenant_id, t.display_name FROM retail.tenants t WHERE t.tenant_id = $1),
     role AS (SELECT r.* FROM pg_catalog.pg_roles r WHERE r.rolname = ANY ($3)),
     -- asked of the memberships themselves: pg_has_role() would walk through all that the administrator is a member of
     creator AS (SELECT c.oid FROM pg_catalog.pg_roles c JOIN pg_catalog.pg_auth_members m ON m.roleid = c.oid
                   JOIN pg_catalog.pg_roles a ON a.oid = m.member
                  WHERE c.rolname = $5 AND a.rolname = current_user AND m.set_option LIMIT 1)
SELECT json_build_object(
  'tenant', (SELECT json_build_object('display_name', me.display_name) FROM me),
  'fence', (SELECT json_build_object('owner_uid', f.owner_uid, 'enabled', f.enabled) FROM fence.tenants f WHERE f.tenant_id = $1),
  'retail_stores', (
    SELECT coalesce(json_object_agg(s.store_id, json_build_object('tenant', t.tenant_id, 'name', s.store_name, 'display_name', s.display_name)), '{}')
      FROM (SELECT unnest($2::uuid[]) UNION SELECT x.store_id FROM retail.stores x WHERE x.tenant_key = (SELECT tenant_key FROM me)) ids (store_id)
      JOIN retail.stores s USING (store_id) JOIN retail.tenants t USING (tenant_key)),
  'fence_stores', (
    SELECT coalesce(json_object_agg(s.store_id, json_build_object('tenant', t.tenant_id, 'name', s.store_name)), '{}')
      FROM (SELECT unnest($2::uuid[]) UNION SELECT x.store_id FROM fence.tenant_stores x WHERE x.tenant_key = (SELECT tenant_key FROM me)) ids (store_id)
      JOIN fence.tenant_stores s USING (store_id) JOIN fence.tenants t USING (tenant_key)),
  'roles', (
    SELECT coalesce(json_object_agg(r.rolname, json_build_object(
        'attributes', json_build_object(
            'login', r.rolcanlogin, 'inherit', r.rolinherit, 'superuser', r.rolsuper, 'createdb', r.rolcreatedb,
            'createrole', r.rolcreaterole, 'replication', r.rolreplication, 'bypassrls', r.rolbypassrls,
            'expires', r.rolvaliduntil IS NOT NULL AND r.rolvaliduntil <> 'infinity'),
        'connection_limit', r.rolconnlimit,
        'by_creator', EXISTS (SELECT FROM pg_catalog.pg_auth_members m
                               WHERE m.roleid = r.oid AND m.member = (SELECT oid FROM creator) AND m.admin_option),
        'comment', pg_catalog.shobj_description(r.oid, 'pg_authid'),
        'memberships', (
            SELECT coalesce(json_agg(json_build_object(
                'group', m.roleid::regrole::text, 'grantor', m.grantor::regrole::text,
                'admin', m.admin_option, 'inherit', m.inherit_option, 'set', m.set_option)), '[]')
              FROM pg_catalog.pg_auth_members m WHERE m.member = r.oid),
        'members', (
            SELECT coalesce(json_agg(json_build_object('name', m.member::regrole::text, 'grantor', m.grantor::regrole::text)), '[]')
              FROM pg_catalog.pg_auth_members m
             WHERE m.roleid = r.oid AND (m.inherit_option OR m.set_option) AND m.member <> (SELECT a.oid FROM pg_catalog.pg_roles a WHERE a.rolname = current_user)),
        'dependents', (
            SELECT coalesce(json_agg(json_build_object(
                'what', CASE s.deptype WHEN 'o' THEN 'owner of ' WHEN 'a' THEN 'privileges for ' ELSE 'named by ' END
                        || CASE WHEN s.dbid IN (0, here.oid) THEN pg_catalog.pg_describe_object(s.classid, s.objid, s.objsubid)
                                ELSE coalesce('something in database ' || (SELECT b.datname FROM pg_catalog.pg_database b WHERE b.oid = s.dbid), 'something') END,
                'grant', CASE WHEN s.deptype = 'a' AND s.dbid = here.oid AND s.objsubid = 0 THEN coalesce(
                    (SELECT format('ALL ON %s %I.%I', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, n.nspname, c.relname)
                       FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                      WHERE s.classid = 'pg_class'::regclass AND c.oid = s.objid AND pg_has_role(c.relowner, 'USAGE')
                        AND NOT EXISTS (SELECT FROM aclexplode(c.relacl) x WHERE x.grantee = r.oid AND x.grantor <> c.relowner)),
                    (SELECT format('ALL ON SCHEMA %I', n.nspname) FROM pg_catalog.pg_namespace n
                      WHERE s.classid = 'pg_namespace'::regclass AND n.oid = s.objid AND pg_has_role(n.nspowner, 'USAGE')
                        AND NOT EXISTS (SELECT FROM aclexplode(n.nspacl) x WHERE x.grantee = r.oid AND x.grantor <> n.nspowner)),
                    (SELECT format('ALL ON ROUTINE %s', p.oid::regprocedure) FROM pg_catalog.pg_proc p
                      WHERE s.classid = 'pg_proc'::regclass AND p.oid = s.objid AND pg_has_role(p.proowner, 'USAGE')
                        AND NOT EXISTS (SELECT FROM aclexplode(p.proacl) x WHERE x.grantee = r.oid AND x.grantor <> p.proowner))
                  ) END)), '[]')
              FROM pg_catalog.pg_shdepend s, (SELECT b.oid FROM pg_catalog.pg_database b WHERE b.datname = current_database()) here
             WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = r.oid),
        'settings', (
            SELECT coalesce(json_object_agg(split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)), '{}')
              FROM pg_catalog.pg_db_role_setting d, unnest(d.setconfig) c WHERE d.setrole = r.oid AND d.setdatabase = 0),
        'database_settings', (
            SELECT coalesce(json_agg(b.datname), '[]')
              FROM pg_catalog.pg_db_role_setting d JOIN pg_catalog.pg_database b ON b.oid = d.setdatabase WHERE d.setrole = r.oid))), '{}')
      FROM role r),
  'logins', (
    SELECT coalesce(json_object_agg(l.login, json_build_object('tenant', t.tenant_id, 'slot', l.slot)), '{}')
      FROM (SELECT unnest($3::name[]) UNION SELECT x.login FROM fence.logins x WHERE x.tenant_key = (SELECT tenant_key FROM me)) names (login)
      JOIN fence.logins l USING (login) JOIN fence.tenants t USING (tenant_key)),
  'keys', (
    SELECT coalesce(json_object_agg(k.kid, json_build_object(
        'fingerprint', encode(sha256(k.ipad || k.opad), 'hex'), 'not_after', floor(extract(epoch FROM k.not_after))::bigint)), '{}')
      FROM fence.context_keys k WHERE k.tenant_key = (SELECT tenant_key FROM me)),
  'may_set', (
    SELECT coalesce(json_agg(p.name), '[]') FROM unnest($4::text[]) p (name)
     WHERE has_parameter_privilege(p.name, 'SET')),
  'has_creator', EXISTS (SELECT FROM creator),
  'salt', (SELECT encode(x.value, 'hex') FROM fence.settings x WHERE x.name = 'role_salt'))
";

impl Database {
    /// Reads the tenant's state.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn observe(&self, lock: &mut TenantLock, desired: &Desired) -> Result<DatabaseState, DatabaseError> {
        let stores: Vec<Uuid> = desired.stores.keys().copied().collect();
        let roles: Vec<String> = desired.roles.values().map(|role| role.name.clone()).collect();
        let privileged: Vec<String> = PRIVILEGED_SETTINGS.iter().map(ToString::to_string).collect();
        let query = sqlx::query_scalar::<_, Json<DatabaseState>>(OBSERVE)
            .bind(desired.tenant_id.as_str())
            .bind(stores)
            .bind(roles)
            .bind(privileged)
            .bind(&desired.creator);
        let Json(state) = self.within("observe", query.fetch_one(lock.connection()?)).await?;
        self.recognise(state.salt.as_deref())?;
        Ok(state)
    }
}
