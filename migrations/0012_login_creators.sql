-- Roles that make the tenants' logins in the administrator's place, each a share of them.
--
-- PostgreSQL makes whoever creates a role a member of it, and walks through all roles that somebody is a member of to see
-- whether he may change one of them. An administrator that made the logins of 1,000 tenants itself so takes 40 ms for the
-- statements of the next one, where a creator with its sixty-fourth of them takes 3 ms. A tenant's creator follows from its
-- tenantId (`Creator::of` in the operator).
--
-- They can do no more than the administrator, who alone may act as them: create roles, change those that they created, and
-- make these members of fence_login. They have none of its privileges (INHERIT FALSE, SET FALSE), and no other ones.
-- A superuser pays nothing for the roles that it made, and needs none. Where another administrator of the cluster has made
-- them, this one has none, and makes its logins itself.

DO $do$
DECLARE
    creator name;
    actual  pg_roles%ROWTYPE;
BEGIN
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        RETURN;
    END IF;
    FOR number IN 0..63 LOOP
        creator := 'fence_creator_' || lpad(number::text, 2, '0');
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = creator) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT CREATEROLE NOSUPERUSER NOCREATEDB NOREPLICATION NOBYPASSRLS', creator);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- created by a migration of another database in this very moment
            END;
        END IF;
        CONTINUE WHEN NOT pg_has_role(current_user, creator, 'MEMBER WITH ADMIN OPTION');
        SELECT * INTO STRICT actual FROM pg_roles WHERE rolname = creator;
        IF actual.rolcanlogin OR actual.rolsuper OR actual.rolcreatedb OR NOT actual.rolcreaterole
           OR actual.rolreplication OR actual.rolbypassrls OR actual.rolinherit THEN
            RAISE EXCEPTION 'role % exists with attributes that Storefence does not give it', creator
                USING ERRCODE = 'invalid_role_specification',
                      HINT = format('ALTER ROLE %I NOLOGIN NOINHERIT CREATEROLE NOSUPERUSER NOCREATEDB NOREPLICATION NOBYPASSRLS', creator);
        END IF;
        IF NOT EXISTS (SELECT FROM pg_auth_members m
                        WHERE m.roleid = creator::regrole AND m.member = (SELECT oid FROM pg_roles WHERE rolname = current_user) AND m.set_option) THEN
            EXECUTE format('GRANT %I TO %I WITH SET TRUE, INHERIT FALSE', creator, current_user);
        END IF;
        EXECUTE format('GRANT fence_login TO %I WITH ADMIN TRUE, INHERIT FALSE, SET FALSE', creator);
    END LOOP;
END $do$;
