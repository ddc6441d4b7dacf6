//! Ways to tamper with the fence, as superuser: the statement, its undoing, and the objects that verify must name, each once.

/// With the views and the role that reads them.
pub const OF_VIEWS: &[(&str, &str, &[&str])] = &[
    (
        "ALTER VIEW views_retail.orders OWNER TO CURRENT_USER",
        "ALTER VIEW views_retail.orders OWNER TO fence_reader",
        &["view views_retail.orders"],
    ),
    (
        "ALTER VIEW views_retail.product_description_embeddings RESET (security_barrier)",
        "ALTER VIEW views_retail.product_description_embeddings SET (security_barrier)",
        &["view views_retail.product_description_embeddings"],
    ),
    (
        "ALTER VIEW views_retail.orders SET (security_invoker)",
        "ALTER VIEW views_retail.orders RESET (security_invoker)",
        &["view views_retail.orders"],
    ),
    (
        "CREATE OR REPLACE VIEW views_retail.tenants AS SELECT tenant_key, tenant_id, upper(display_name) AS display_name FROM retail.tenants",
        "CREATE OR REPLACE VIEW views_retail.tenants AS SELECT tenant_key, tenant_id, display_name FROM retail.tenants",
        &["view views_retail.tenants"],
    ),
    (
        "DROP VIEW views_retail.stores",
        "SET ROLE fence_reader; CREATE VIEW views_retail.stores AS SELECT store_id, tenant_key, store_name, display_name, is_online FROM retail.stores; \
         GRANT SELECT ON views_retail.stores TO fence_runner; RESET ROLE",
        &["view views_retail.stores"],
    ),
    (
        "CREATE INDEX near ON retail.products USING hnsw ((ARRAY[cost]::vector(1)) vector_l2_ops)",
        "DROP INDEX retail.near",
        &["view views_retail.products"],
    ),
    (
        "CREATE VIEW views_retail.keys AS SELECT * FROM fence.context_keys; GRANT SELECT ON views_retail.keys TO fence_runner",
        "DROP VIEW views_retail.keys",
        &["view views_retail.keys"],
    ),
    (
        "GRANT SELECT ON views_retail.orders TO PUBLIC",
        "REVOKE SELECT ON views_retail.orders FROM PUBLIC",
        &["view views_retail.orders"],
    ),
    (
        "GRANT SELECT ON retail.orders TO fence_runner",
        "REVOKE SELECT ON retail.orders FROM fence_runner",
        &["table retail.orders"],
    ),
    (
        "GRANT USAGE ON SCHEMA retail TO fence_runner",
        "REVOKE USAGE ON SCHEMA retail FROM fence_runner",
        &["schema retail"],
    ),
    (
        "GRANT CREATE ON SCHEMA views_retail TO fence_runner",
        "REVOKE CREATE ON SCHEMA views_retail FROM fence_runner",
        &["schema views_retail"],
    ),
    (
        "CREATE TABLE public.copy AS SELECT 1 AS a; GRANT SELECT ON public.copy TO fence_runner",
        "DROP TABLE public.copy",
        &["table public.copy"],
    ),
    ("ALTER ROLE fence_runner BYPASSRLS", "ALTER ROLE fence_runner NOBYPASSRLS", &["role fence_runner"]),
    (
        "GRANT retail_loader TO fence_runner",
        "REVOKE retail_loader FROM fence_runner",
        &["membership of fence_runner in retail_loader"],
    ),
    (
        "CREATE FUNCTION views_retail.upper(text) RETURNS text LANGUAGE sql AS 'SELECT $1'",
        "DROP FUNCTION views_retail.upper",
        &["function views_retail.upper(text)"],
    ),
];

/// With what no table, policy or grant of ours shows.
pub const ELSEWHERE: &[(&str, &str, &[&str])] = &[
    (
        "ALTER FUNCTION fence.accept(text) STRICT",
        "ALTER FUNCTION fence.accept(text) CALLED ON NULL INPUT",
        &["function fence.accept(context text)"],
    ),
    (
        "ALTER FUNCTION fence.visible_stores() LEAKPROOF",
        "ALTER FUNCTION fence.visible_stores() NOT LEAKPROOF",
        &["function fence.visible_stores()"],
    ),
    (
        "ALTER FUNCTION pg_catalog.textregexeq(text, text) LEAKPROOF",
        "ALTER FUNCTION pg_catalog.textregexeq(text, text) NOT LEAKPROOF",
        &["function textregexeq(text,text)"],
    ),
    (
        "CREATE FUNCTION public.same(text, text) RETURNS boolean LANGUAGE sql LEAKPROOF AS 'SELECT true'",
        "DROP FUNCTION public.same",
        &["function public.same(text,text)"],
    ),
    (
        "ALTER FUNCTION pg_catalog.textlike(text, text) SECURITY DEFINER",
        "ALTER FUNCTION pg_catalog.textlike(text, text) SECURITY INVOKER",
        &["function textlike(text,text)"],
    ),
    (
        "CREATE FUNCTION pg_catalog.door() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM retail.orders'",
        "DROP FUNCTION pg_catalog.door",
        &["function door()"],
    ),
    (
        "CREATE FUNCTION public.door() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM retail.orders'; ALTER EXTENSION vector ADD FUNCTION public.door()",
        "ALTER EXTENSION vector DROP FUNCTION public.door(); DROP FUNCTION public.door",
        &["function public.door()"],
    ),
    (
        "SET allow_system_table_mods = on; CREATE VIEW pg_catalog.doors AS SELECT * FROM retail.orders; RESET allow_system_table_mods",
        "SET allow_system_table_mods = on; DROP VIEW pg_catalog.doors; RESET allow_system_table_mods",
        &["view pg_catalog.doors"],
    ),
    (
        "CREATE VIEW public.doors AS SELECT * FROM views_retail.orders; GRANT SELECT ON public.doors TO PUBLIC; ALTER EXTENSION vector ADD VIEW public.doors",
        "ALTER EXTENSION vector DROP VIEW public.doors; DROP VIEW public.doors",
        &["view public.doors"],
    ),
    (
        "GRANT EXECUTE ON FUNCTION pg_read_binary_file(text) TO PUBLIC",
        "REVOKE EXECUTE ON FUNCTION pg_read_binary_file(text) FROM PUBLIC",
        &["function pg_read_binary_file(text)"],
    ),
    (
        "GRANT EXECUTE ON FUNCTION pg_ls_dir(text) TO fence_runner",
        "REVOKE EXECUTE ON FUNCTION pg_ls_dir(text) FROM fence_runner",
        &["function pg_ls_dir(text)"],
    ),
    ("GRANT SELECT ON pg_statistic TO PUBLIC", "REVOKE SELECT ON pg_statistic FROM PUBLIC", &["table pg_statistic"]),
    (
        "GRANT SELECT (rolpassword) ON pg_authid TO fence_reader",
        "REVOKE SELECT (rolpassword) ON pg_authid FROM fence_reader",
        &["table pg_authid"],
    ),
    (
        "GRANT CREATE ON SCHEMA pg_catalog TO PUBLIC",
        "REVOKE CREATE ON SCHEMA pg_catalog FROM PUBLIC",
        &["schema pg_catalog"],
    ),
    (
        "CREATE FUNCTION public.u(uuid) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 1'; CREATE CAST (uuid AS integer) WITH FUNCTION public.u(uuid)",
        "DROP CAST (uuid AS integer); DROP FUNCTION public.u",
        &["cast (pg_catalog.uuid AS integer)"],
    ),
    (
        "CREATE FUNCTION public.u(uuid, uuid) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true'; CREATE OPERATOR pg_catalog.=== (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = public.u)",
        "DROP OPERATOR pg_catalog.=== (uuid, uuid); DROP FUNCTION public.u",
        &["operator pg_catalog.===(pg_catalog.uuid,pg_catalog.uuid)"],
    ),
    (
        "CREATE OPERATOR CLASS public.other FOR TYPE uuid USING hash AS OPERATOR 1 =, FUNCTION 1 uuid_hash(uuid)",
        "DROP OPERATOR FAMILY public.other USING hash",
        &["operator class public.other USING hash"],
    ),
    (
        "GRANT SET ON PARAMETER log_statement TO fence_login",
        "REVOKE SET ON PARAMETER log_statement FROM fence_login",
        &["parameter log_statement"],
    ),
    ("ALTER ROLE fence_runner SET work_mem = '1GB'", "ALTER ROLE fence_runner RESET work_mem", &["role fence_runner"]),
    (
        "ALTER ROLE fence_reader IN DATABASE retail SET row_security = off",
        "ALTER ROLE fence_reader IN DATABASE retail RESET row_security",
        &["role fence_reader"],
    ),
    ("CREATE PUBLICATION everything FOR ALL TABLES", "DROP PUBLICATION everything", &["publication everything"]),
];

/// Tampering that verify's remedy undoes, as a superuser.
pub const UNDONE_BY_SUPERUSER: &[&str] = &[
    "ALTER FUNCTION pg_catalog.textregexeq(text, text) LEAKPROOF",
    "ALTER FUNCTION pg_catalog.textlike(text, text) SECURITY DEFINER",
    "CREATE FUNCTION pg_catalog.door() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT 1::bigint'",
    "CREATE VIEW public.doors AS SELECT * FROM views_retail.orders; GRANT SELECT ON public.doors TO PUBLIC; ALTER EXTENSION vector ADD VIEW public.doors",
    "GRANT EXECUTE ON FUNCTION pg_read_binary_file(text) TO PUBLIC",
    "GRANT SELECT ON pg_statistic TO PUBLIC",
    "GRANT SELECT (rolpassword) ON pg_authid TO fence_reader",
    "GRANT SET ON PARAMETER log_statement TO fence_login",
    "ALTER ROLE fence_runner SET work_mem = '1GB'",
    "ALTER ROLE fence_reader IN DATABASE retail SET row_security = off",
    "CREATE PUBLICATION everything FOR ALL TABLES",
];

/// Worth a look: the object that verify names, what makes it, and what takes it away.
pub const NOTICED: &[(&str, &str, &str)] = &[
    (
        "event trigger watch",
        "CREATE FUNCTION public.watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION public.watch()",
        "DROP EVENT TRIGGER watch; DROP FUNCTION public.watch",
    ),
    ("publication changes", "CREATE PUBLICATION changes FOR TABLE retail.orders", "DROP PUBLICATION changes"),
    (
        "function pg_catalog.lower(character varying)",
        "CREATE FUNCTION pg_catalog.lower(character varying) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1::text'",
        "DROP FUNCTION pg_catalog.lower(character varying)",
    ),
    // This server has no pg_stat_statements; its view is what counts.
    (
        "extension pg_stat_statements",
        "CREATE VIEW public.pg_stat_statements AS SELECT 'SELECT 1'::text AS query; GRANT SELECT ON public.pg_stat_statements TO PUBLIC; ALTER EXTENSION vector ADD VIEW public.pg_stat_statements",
        "ALTER EXTENSION vector DROP VIEW public.pg_stat_statements; DROP VIEW public.pg_stat_statements",
    ),
];

/// Tampering that a statement undoes: the one that verify prints does, as the administrator.
pub const UNDONE: &[&str] = &[
    "ALTER VIEW views_retail.product_description_embeddings RESET (security_barrier)",
    "ALTER VIEW views_retail.orders SET (security_invoker)",
    "CREATE OR REPLACE VIEW views_retail.tenants AS SELECT tenant_key, tenant_id, upper(display_name) AS display_name FROM retail.tenants",
    "DROP VIEW views_retail.stores",
    "REVOKE SELECT ON views_retail.inventory FROM fence_runner",
    "GRANT SELECT ON views_retail.orders TO fence_login",
    "REVOKE USAGE ON SCHEMA views_retail FROM fence_runner",
    "REVOKE EXECUTE ON FUNCTION fence.run_query FROM fence_login",
    "GRANT SELECT ON retail.orders TO fence_runner",
    "ALTER FUNCTION fence.accept(text) STRICT",
    "ALTER FUNCTION fence.run_report STRICT",
];
