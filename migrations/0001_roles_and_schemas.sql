-- Roles, schemas and what PUBLIC loses.
--
-- Roles belong to the whole cluster, migrations to one database: another database of the same cluster may have created
-- them already, or may be creating them now. Nothing below takes a role over whose attributes are not the expected ones.
--
-- retail_owner   owns schema retail. FORCE ROW LEVEL SECURITY and no policy of its own: it sees no row.
-- fence_owner    owns schema fence: keys, mapping tables and the functions that read them.
-- fence_reader   holds SELECT on retail under the policies, and runs the users' SQL. Nobody logs in as it.
-- fence_login    the group of all tenant logins. One entry in each ACL instead of 10,000: ACLs are scanned on every call.
-- retail_loader  writes the rows of retail. Grant it to the chain's own loading jobs, never to a tenant's login.

DO $do$
BEGIN
    IF NOT (SELECT r.rolsuper OR pg_has_role(current_user, d.datdba, 'USAGE')
              FROM pg_roles r, pg_database d
             WHERE r.rolname = current_user AND d.datname = current_database()) THEN
        RAISE EXCEPTION 'role % does not own database %', current_user, current_database()
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('ALTER DATABASE %I OWNER TO %I', current_database(), current_user);
    END IF;
END $do$;

DO $do$
DECLARE
    wanted text;
    actual pg_roles%ROWTYPE;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['retail_owner', 'fence_owner', 'fence_reader', 'fence_login', 'retail_loader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', wanted);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- created by a migration of another database in this very moment
            END;
        END IF;
        SELECT * INTO STRICT actual FROM pg_roles WHERE rolname = wanted;
        IF actual.rolcanlogin OR actual.rolsuper OR actual.rolcreatedb OR actual.rolcreaterole
           OR actual.rolreplication OR actual.rolbypassrls OR actual.rolinherit THEN
            RAISE EXCEPTION 'role % exists with attributes that Storefence does not give it', wanted
                USING ERRCODE = 'invalid_role_specification',
                      HINT = format('ALTER ROLE %I NOLOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', wanted);
        END IF;
    END LOOP;
END $do$;

-- What an administrator that is not superuser needs. INHERIT on fence_reader must stay off: the readers' policies would
-- then apply to the administrator too, and ask it for a signed context.
DO $do$
DECLARE
    wanted record;
BEGIN
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        RETURN;
    END IF;
    FOR wanted IN
        SELECT * FROM (VALUES ('retail_owner', true), ('fence_owner', true), ('retail_loader', true), ('fence_reader', false)) v (name, inherits)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_auth_members m
                        WHERE m.roleid = wanted.name::regrole AND m.member = (SELECT oid FROM pg_roles WHERE rolname = current_user)
                          AND m.set_option AND m.inherit_option = wanted.inherits) THEN
            IF NOT pg_has_role(current_user, wanted.name, 'MEMBER WITH ADMIN OPTION') THEN
                RAISE EXCEPTION 'role % has no ADMIN option on role %', current_user, wanted.name
                    USING ERRCODE = 'insufficient_privilege',
                          HINT = format('GRANT retail_owner, fence_owner, retail_loader, fence_reader, fence_login TO %I WITH ADMIN OPTION', current_user);
            END IF;
            EXECUTE format('GRANT %I TO %I WITH SET TRUE, INHERIT %s', wanted.name, current_user,
                           CASE WHEN wanted.inherits THEN 'TRUE' ELSE 'FALSE' END);
        END IF;
    END LOOP;
    IF NOT pg_has_role(current_user, 'fence_login', 'MEMBER WITH ADMIN OPTION') THEN
        RAISE EXCEPTION 'role % has no ADMIN option on role fence_login', current_user
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('GRANT fence_login TO %I WITH ADMIN OPTION', current_user);
    END IF;
END $do$;

-- pgvector is not a trusted extension: without superuser the server's operator must have allowed it. It may live in any schema.
DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'vector') THEN
        IF NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector') THEN
            RAISE EXCEPTION 'extension vector (pgvector) is not installed on this server'
                USING ERRCODE = 'feature_not_supported',
                      HINT = 'Install pgvector 0.8 or later beside the server.';
        END IF;
        BEGIN
            IF to_regnamespace('public') IS NULL THEN
                CREATE SCHEMA extensions;
                CREATE EXTENSION vector WITH SCHEMA extensions;
            ELSE
                CREATE EXTENSION vector WITH SCHEMA public;
            END IF;
        EXCEPTION WHEN OTHERS THEN
            RAISE EXCEPTION 'extension vector (pgvector) could not be created in database %: %', current_database(), SQLERRM
                USING ERRCODE = SQLSTATE,
                      HINT = 'Let a superuser run CREATE EXTENSION vector in this database; on Azure Database for PostgreSQL add VECTOR to azure.extensions.';
        END;
    END IF;
END $do$;

-- A login would otherwise be able to leave temporary tables behind in a pooled connection (TEMP), or to shadow names (CREATE).
DO $do$
BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    -- who logs in and then acts as the owner would not get in any more: the setting comes after the door
    IF session_user <> current_user AND NOT has_database_privilege(session_user, current_database(), 'CONNECT') THEN
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), session_user);
    END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO fence_login', current_database());
    EXECUTE format('GRANT CREATE ON DATABASE %I TO retail_owner, fence_owner', current_database());
    IF to_regnamespace('public') IS NOT NULL THEN
        REVOKE CREATE ON SCHEMA public FROM PUBLIC;
    END IF;
END $do$;

-- REVOKE answers with a mere warning where it has no right to: look at the result.
DO $do$
BEGIN
    IF EXISTS (SELECT FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
                WHERE d.datname = current_database() AND a.grantee = 0)
       OR EXISTS (SELECT FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
                   WHERE n.nspname = 'public' AND a.grantee = 0 AND a.privilege_type = 'CREATE') THEN
        RAISE EXCEPTION 'PUBLIC keeps privileges on database % or on schema public', current_database()
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Run the migration as the owner of the database, or revoke them as the role that granted them.';
    END IF;
END $do$;

-- Schema fence was created by the migrator, which keeps its history in it.
CREATE SCHEMA IF NOT EXISTS fence;
ALTER SCHEMA fence OWNER TO fence_owner;
ALTER TABLE IF EXISTS fence.schema_history OWNER TO fence_owner;
CREATE SCHEMA retail AUTHORIZATION retail_owner;
DO $do$
BEGIN
    EXECUTE format('REVOKE CREATE ON DATABASE %I FROM retail_owner, fence_owner', current_database());
END $do$;

SET LOCAL ROLE fence_owner;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON ROUTINES FROM PUBLIC;
COMMENT ON SCHEMA fence IS 'Storefence''s own: who may see which stores, and the only entry points of the tenants'' logins.';
GRANT USAGE ON SCHEMA fence TO fence_login, fence_reader, retail_owner;
RESET ROLE;
SET LOCAL ROLE retail_owner;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON ROUTINES FROM PUBLIC;
COMMENT ON SCHEMA retail IS 'Sales data of all chains. Every row belongs to a store or to a tenant; row-level security decides who sees it.';
-- fence_login may name the tables, so that a statement can be described without running it; it can read none of them.
GRANT USAGE ON SCHEMA retail TO fence_login, fence_reader, fence_owner, retail_loader;
RESET ROLE;
SET LOCAL ROLE fence_reader;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON ROUTINES FROM PUBLIC;
RESET ROLE;
