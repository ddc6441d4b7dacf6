//! verify reports each kind of tampering, exactly it, and nothing about an intact fence.

mod support;
mod tampering;

use sqlx::{Connection, PgConnection};
use storefence_operator::verify::{self, Deviation, Expectations, ProtectedTable, Severity};
use support::{WORLDS, World, flight::Session, in_world, options};
use tampering::{ELSEWHERE, NOTICED, OF_VIEWS, UNDONE, UNDONE_BY_SUPERUSER};

/// Tampering as superuser, its undoing, and the objects that verify must name, each once. `{login}` stands for a tenant's login.
const TAMPERING: &[(&str, &str, &[&str])] = &[
    // policies
    (
        "DROP POLICY fence_read ON retail.orders",
        "CREATE POLICY fence_read ON retail.orders FOR SELECT TO fence_reader USING (store_id = ANY ((SELECT fence.visible_stores())::uuid[]))",
        &["policy fence_read on retail.orders"],
    ),
    (
        "ALTER POLICY fence_read ON retail.orders USING (true)",
        "ALTER POLICY fence_read ON retail.orders USING (store_id = ANY ((SELECT fence.visible_stores())::uuid[]))",
        &["policy fence_read on retail.orders"],
    ),
    (
        "ALTER POLICY fence_read ON retail.products USING (tenant_key >= (SELECT fence.tenant_key()))",
        "ALTER POLICY fence_read ON retail.products USING (tenant_key = (SELECT fence.tenant_key()))",
        &["policy fence_read on retail.products"],
    ),
    (
        "ALTER POLICY fence_read ON retail.customers TO PUBLIC",
        "ALTER POLICY fence_read ON retail.customers TO fence_reader",
        &["policy fence_read on retail.customers"],
    ),
    (
        "CREATE POLICY extra ON retail.stores FOR SELECT USING (true)",
        "DROP POLICY extra ON retail.stores",
        &["policy extra on retail.stores"],
    ),
    // row-level security and ownership
    (
        "ALTER TABLE retail.orders NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE retail.orders FORCE ROW LEVEL SECURITY",
        &["table retail.orders"],
    ),
    (
        "ALTER TABLE retail.inventory DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE retail.inventory ENABLE ROW LEVEL SECURITY",
        &["table retail.inventory"],
    ),
    (
        "ALTER TABLE retail.orders OWNER TO retail_loader",
        "ALTER TABLE retail.orders OWNER TO retail_owner; GRANT ALL ON retail.orders TO retail_owner; GRANT SELECT, INSERT, UPDATE, DELETE ON retail.orders TO retail_loader",
        &[
            "table retail.orders",
            "table retail.orders",
            "table retail.orders",
            "table retail.orders",
            "table retail.orders",
        ],
    ),
    ("ALTER SCHEMA fence OWNER TO CURRENT_USER", "ALTER SCHEMA fence OWNER TO fence_owner", &["schema fence"]),
    (
        "ALTER SEQUENCE fence.ticket_seq OWNER TO retail_owner",
        "ALTER SEQUENCE fence.ticket_seq OWNER TO fence_owner",
        &["sequence fence.ticket_seq"],
    ),
    // privileges
    (
        "GRANT TRUNCATE ON retail.orders TO fence_reader",
        "REVOKE TRUNCATE ON retail.orders FROM fence_reader",
        &["table retail.orders"],
    ),
    (
        "GRANT SELECT ON retail.orders TO {login}",
        "REVOKE SELECT ON retail.orders FROM {login}",
        &["login {login}", "table retail.orders"],
    ),
    (
        "GRANT SELECT (email) ON retail.customers TO fence_login",
        "REVOKE SELECT (email) ON retail.customers FROM fence_login",
        &["table retail.customers"],
    ),
    ("GRANT SELECT ON retail.orders TO PUBLIC", "REVOKE SELECT ON retail.orders FROM PUBLIC", &["table retail.orders"]),
    (
        "REVOKE SELECT ON retail.orders FROM fence_reader",
        "GRANT SELECT ON retail.orders TO fence_reader",
        &["table retail.orders"],
    ),
    (
        "GRANT SELECT ON fence.context_keys TO fence_reader",
        "REVOKE SELECT ON fence.context_keys FROM fence_reader",
        &["table fence.context_keys"],
    ),
    (
        "GRANT USAGE ON SEQUENCE fence.ticket_seq TO fence_reader",
        "REVOKE USAGE ON SEQUENCE fence.ticket_seq FROM fence_reader",
        &["sequence fence.ticket_seq"],
    ),
    (
        "GRANT TEMPORARY ON DATABASE retail TO PUBLIC",
        "REVOKE TEMPORARY ON DATABASE retail FROM PUBLIC",
        &["database retail"],
    ),
    ("GRANT CREATE ON SCHEMA public TO PUBLIC", "REVOKE CREATE ON SCHEMA public FROM PUBLIC", &["schema public"]),
    (
        "GRANT CREATE ON SCHEMA fence TO fence_reader",
        "REVOKE CREATE ON SCHEMA fence FROM fence_reader",
        &["schema fence"],
    ),
    (
        "GRANT EXECUTE ON FUNCTION fence.run_query TO fence_reader",
        "REVOKE EXECUTE ON FUNCTION fence.run_query FROM fence_reader",
        &["function fence.run_query(context text, query text, max_rows integer, max_bytes integer)"],
    ),
    (
        "GRANT EXECUTE ON FUNCTION fence.visible_stores TO PUBLIC",
        "REVOKE EXECUTE ON FUNCTION fence.visible_stores FROM PUBLIC",
        &["function fence.visible_stores()"],
    ),
    (
        "ALTER DEFAULT PRIVILEGES FOR ROLE retail_owner IN SCHEMA retail GRANT SELECT ON TABLES TO fence_reader",
        "ALTER DEFAULT PRIVILEGES FOR ROLE retail_owner IN SCHEMA retail REVOKE SELECT ON TABLES FROM fence_reader",
        &["default privileges"],
    ),
    (
        "ALTER DEFAULT PRIVILEGES FOR ROLE fence_owner GRANT EXECUTE ON ROUTINES TO PUBLIC",
        "ALTER DEFAULT PRIVILEGES FOR ROLE fence_owner REVOKE EXECUTE ON ROUTINES FROM PUBLIC",
        &["default privileges of fence_owner"],
    ),
    // roles
    ("ALTER ROLE fence_reader BYPASSRLS", "ALTER ROLE fence_reader NOBYPASSRLS", &["role fence_reader"]),
    ("ALTER ROLE fence_owner LOGIN", "ALTER ROLE fence_owner NOLOGIN", &["role fence_owner"]),
    ("ALTER ROLE {login} SUPERUSER", "ALTER ROLE {login} NOSUPERUSER", &["login {login}"]),
    ("ALTER ROLE {login} CREATEROLE", "ALTER ROLE {login} NOCREATEROLE", &["login {login}"]),
    ("CREATE ROLE backup BYPASSRLS", "DROP ROLE backup", &["role backup"]),
    ("ALTER ROLE {login} SET role = 'fence_reader'", "ALTER ROLE {login} RESET role", &["login {login}"]),
    ("ALTER DATABASE retail SET row_security = off", "ALTER DATABASE retail RESET row_security", &["database retail"]),
    // memberships
    ("GRANT retail_owner TO {login}", "REVOKE retail_owner FROM {login}", &["membership of {login} in retail_owner"]),
    (
        "GRANT fence_login TO {login} WITH SET TRUE",
        "GRANT fence_login TO {login} WITH SET FALSE",
        &["membership of {login} in fence_login"],
    ),
    (
        "GRANT pg_read_all_data TO {login}",
        "REVOKE pg_read_all_data FROM {login}",
        &["membership of {login} in pg_read_all_data"],
    ),
    (
        "GRANT retail_loader TO fence_reader",
        "REVOKE retail_loader FROM fence_reader",
        &["membership of fence_reader in retail_loader"],
    ),
    (
        "CREATE ROLE stranger; GRANT retail_loader TO stranger",
        "DROP ROLE stranger",
        &["membership of stranger in retail_loader"],
    ),
    (
        "CREATE ROLE stranger LOGIN; GRANT fence_login TO stranger",
        "DROP ROLE stranger",
        &["membership of stranger in fence_login"],
    ),
    // functions
    (
        "ALTER FUNCTION fence.run_query SECURITY INVOKER",
        "ALTER FUNCTION fence.run_query SECURITY DEFINER",
        &["function fence.run_query(context text, query text, max_rows integer, max_bytes integer)"],
    ),
    (
        "ALTER FUNCTION fence.run_query VOLATILE",
        "ALTER FUNCTION fence.run_query STABLE",
        &["function fence.run_query(context text, query text, max_rows integer, max_bytes integer)"],
    ),
    (
        "ALTER FUNCTION fence.visible_stores SET search_path = public, pg_catalog",
        "ALTER FUNCTION fence.visible_stores SET search_path = pg_catalog, pg_temp",
        &["function fence.visible_stores()"],
    ),
    (
        "CREATE FUNCTION fence.extra() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "DROP FUNCTION fence.extra",
        &["function fence.extra()"],
    ),
    (
        "CREATE FUNCTION public.door() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM retail.orders'",
        "DROP FUNCTION public.door",
        &["function public.door()"],
    ),
    // things that should not be there
    (
        "CREATE VIEW retail.all_orders AS SELECT * FROM retail.orders; GRANT SELECT ON retail.all_orders TO fence_reader",
        "DROP VIEW retail.all_orders",
        &["view retail.all_orders"],
    ),
    (
        "CREATE TABLE public.copy AS SELECT 1 AS a; GRANT SELECT ON public.copy TO fence_reader",
        "DROP TABLE public.copy",
        &["table public.copy"],
    ),
    (
        "CREATE RULE spy AS ON INSERT TO retail.orders DO ALSO NOTIFY spy",
        "DROP RULE spy ON retail.orders",
        &["table retail.orders"],
    ),
];

/// The same of the roles that make the logins, which are there where the administrator is not superuser.
const TAMPERING_WITH_CREATORS: &[(&str, &str, &[&str])] = &[
    ("ALTER ROLE fence_creator_07 LOGIN", "ALTER ROLE fence_creator_07 NOLOGIN", &["role fence_creator_07"]),
    ("ALTER ROLE fence_creator_07 BYPASSRLS", "ALTER ROLE fence_creator_07 NOBYPASSRLS", &["role fence_creator_07"]),
    (
        "GRANT fence_creator_07 TO {login} WITH INHERIT FALSE",
        "REVOKE fence_creator_07 FROM {login}",
        &["membership of {login} in fence_creator_07"],
    ),
    (
        "CREATE ROLE stranger LOGIN; GRANT fence_creator_07 TO stranger",
        "DROP ROLE stranger",
        &["membership of stranger in fence_creator_07"],
    ),
    (
        "GRANT retail_owner TO fence_creator_07",
        "REVOKE retail_owner FROM fence_creator_07",
        &["membership of fence_creator_07 in retail_owner"],
    ),
    (
        "GRANT {login} TO fence_creator_63 WITH SET TRUE",
        "REVOKE {login} FROM fence_creator_63",
        &["membership of fence_creator_63 in {login}"],
    ),
    (
        "GRANT CONNECT ON DATABASE retail TO fence_creator_07",
        "REVOKE CONNECT ON DATABASE retail FROM fence_creator_07",
        &["database retail"],
    ),
];

#[test]
fn postgres_18_superuser() {
    in_world(WORLDS[0], whole);
}

#[test]
fn postgres_18_createrole() {
    in_world(WORLDS[1], whole);
}

#[test]
fn postgres_16_superuser() {
    in_world(WORLDS[2], whole);
}

#[test]
fn postgres_16_createrole() {
    in_world(WORLDS[3], whole);
}

async fn whole(world: World) {
    let mut connection = PgConnection::connect_with(&options(&world.database.admin_url)).await.unwrap();
    let tenant = world.provision("1-north", 2).await;
    world.provision("2-south", 2).await;
    let expectations = Expectations::default();
    assert_eq!(verify::check(&mut connection, &expectations).await.unwrap(), [], "{}: an intact fence", world.label);

    let superuser = world.superuser().await;
    let login = &tenant.logins[0];
    let mut problems = Vec::new();
    let with_creators = if world.label.contains("Superuser") { &[][..] } else { TAMPERING_WITH_CREATORS };
    for (tamper, repair, objects) in TAMPERING.iter().chain(OF_VIEWS).chain(ELSEWHERE).chain(with_creators) {
        superuser
            .batch_execute(&tamper.replace("{login}", login))
            .await
            .unwrap_or_else(|error| panic!("{tamper}: {error:?}"));
        let found: Vec<Deviation> = verify::check(&mut connection, &expectations).await.unwrap();
        let named: Vec<String> = found.iter().map(|deviation| deviation.object.clone()).collect();
        let expected: Vec<String> = objects.iter().map(|object| object.replace("{login}", login)).collect();
        if named != expected {
            problems.push(format!("{tamper}: {found:#?}"));
        }
        for deviation in &found {
            assert!(!deviation.remedy.is_empty() && deviation.found != deviation.expected, "{deviation:?}");
            assert_eq!(deviation.severity, Severity::Unsafe);
        }
        superuser
            .batch_execute(&repair.replace("{login}", login))
            .await
            .unwrap_or_else(|error| panic!("{repair}: {error:?}"));
        let left = verify::check(&mut connection, &expectations).await.unwrap();
        assert_eq!(left, [], "{}: after {repair}", world.label);
    }
    assert!(problems.is_empty(), "{}:\n{}", world.label, problems.join("\n"));

    remedies(&world, &mut connection).await;
    unlimited_temporary_files(&world, &mut connection, login).await;
    replaced_functions(&world, &mut connection).await;
    unknown_tables_are_denied_and_reported(&world, &mut connection).await;
    allowed_by_configuration(&world, &mut connection).await;
    if world.label.contains("Superuser") {
        protected_tables(&world, &mut connection).await;
    }
    // a role without any rights learns what is missing
    let mut stranger = PgConnection::connect_with(&options(&tenant.url(&world))).await.unwrap();
    assert_eq!(verify::check(&mut stranger, &expectations).await.unwrap_err().reason(), "FenceMissing");
}

async fn remedies(world: &World, connection: &mut PgConnection) {
    let superuser = world.superuser().await;
    let as_administrator = UNDONE.iter().map(|tamper| (tamper, &world.admin));
    for (tamper, who) in as_administrator.chain(UNDONE_BY_SUPERUSER.iter().map(|tamper| (tamper, &superuser))) {
        superuser.batch_execute(tamper).await.unwrap();
        let found = verify::check(connection, &Expectations::default()).await.unwrap();
        assert_eq!(found.len(), 1, "{tamper}: {found:#?}");
        let remedy = &found[0].remedy;
        who.batch_execute(remedy).await.unwrap_or_else(|error| panic!("{remedy}: {error:?}"));
        let left = verify::check(connection, &Expectations::default()).await.unwrap();
        assert_eq!(left, [], "{}: after {remedy}", world.label);
    }
    for (object, made, undone) in NOTICED {
        superuser.batch_execute(made).await.unwrap_or_else(|error| panic!("{made}: {error:?}"));
        let found = verify::check(connection, &Expectations::default()).await.unwrap();
        let named: Vec<_> = found.iter().map(|deviation| (deviation.object.as_str(), deviation.severity)).collect();
        assert_eq!(named, [(*object, Severity::Notice)], "{}", world.label);
        superuser.batch_execute(undone).await.unwrap();
    }
    if world.label.contains("18") {
        let login = "CREATE FUNCTION public.watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; \
                     CREATE EVENT TRIGGER watch ON login EXECUTE FUNCTION public.watch()";
        superuser.batch_execute(login).await.unwrap();
        let found = verify::check(connection, &Expectations::default()).await.unwrap();
        assert_eq!((found.len(), found[0].severity), (1, Severity::Unsafe), "{found:#?}");
        superuser.batch_execute(&found[0].remedy).await.unwrap();
        assert_eq!(verify::check(connection, &Expectations::default()).await.unwrap(), []);
        superuser.batch_execute("DROP EVENT TRIGGER watch; DROP FUNCTION public.watch").await.unwrap();
    }
}

/// A function that trusts the plain setting: seen by its body.
async fn replaced_functions(world: &World, connection: &mut PgConnection) {
    let superuser = world.superuser().await;
    let original: String =
        superuser.query_one("SELECT pg_get_functiondef('fence.visible_stores'::regproc)", &[]).await.unwrap().get(0);
    superuser
        .batch_execute(
            "CREATE OR REPLACE FUNCTION fence.visible_stores() RETURNS uuid[] LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED \
             SET search_path = pg_catalog, pg_temp AS $$ BEGIN RETURN string_to_array(current_setting('fence.context', true), ',')::uuid[]; END $$",
        )
        .await
        .unwrap();
    let found = verify::check(connection, &Expectations::default()).await.unwrap();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].found.starts_with("SHA-256 of the body"), "{found:#?}");
    superuser.batch_execute(&original).await.unwrap();
    assert_eq!(verify::check(connection, &Expectations::default()).await.unwrap(), []);
}

/// Nothing can be read because of it, so it is worth a look and no more.
async fn unlimited_temporary_files(world: &World, connection: &mut PgConnection, login: &str) {
    let superuser = world.superuser().await;
    superuser.batch_execute(&format!("ALTER ROLE {login} RESET temp_file_limit")).await.unwrap();
    let found = verify::check(connection, &Expectations::default()).await.unwrap();
    let [notice] = &found[..] else { panic!("{found:#?}") };
    assert_eq!((notice.severity, notice.found.as_str()), (Severity::Notice, "1 logins without temp_file_limit"));
    let remedy = format!("GRANT SET ON PARAMETER temp_file_limit TO {}", world.database.admin);
    assert!(notice.remedy.contains(&remedy), "{}", notice.remedy);
    for (limit, reset) in [
        ("ALTER DATABASE retail SET temp_file_limit = '1GB'", "ALTER DATABASE retail RESET temp_file_limit"),
        (&format!("ALTER ROLE {login} SET temp_file_limit = '1GB'"), "SELECT 1"),
    ] {
        superuser.batch_execute(limit).await.unwrap();
        assert_eq!(verify::check(connection, &Expectations::default()).await.unwrap(), [], "{limit}");
        superuser.batch_execute(reset).await.unwrap();
    }
}

async fn unknown_tables_are_denied_and_reported(world: &World, connection: &mut PgConnection) {
    world
        .superuser()
        .await
        .batch_execute("SET ROLE retail_owner; CREATE TABLE retail.notes (store_id uuid, note text)")
        .await
        .unwrap();
    let found = verify::check(connection, &Expectations::default()).await.unwrap();
    assert_eq!(
        found.iter().map(|deviation| (deviation.object.as_str(), deviation.severity)).collect::<Vec<_>>(),
        [("table retail.notes", Severity::Notice)]
    );
    let tenant = world.provision("3-west", 1).await;
    let refusal = Session::open(world, &tenant)
        .await
        .call(&tenant, &tenant.first(1), "SELECT * FROM retail.notes")
        .await
        .unwrap_err();
    // as one that does not exist
    assert_eq!(refusal.code, "42P01");
    world.superuser().await.batch_execute("DROP TABLE retail.notes").await.unwrap();
}

async fn allowed_by_configuration(world: &World, connection: &mut PgConnection) {
    let superuser = world.superuser().await;
    superuser
        .batch_execute("CREATE ROLE loading LOGIN; GRANT retail_loader TO loading; CREATE ROLE dumps BYPASSRLS")
        .await
        .unwrap();
    let expectations = Expectations {
        loaders: ["loading".to_owned()].into(),
        bypass_rls: ["dumps".to_owned()].into(),
        ..Expectations::default()
    };
    assert_eq!(verify::check(connection, &expectations).await.unwrap(), []);
    assert_eq!(verify::check(connection, &Expectations::default()).await.unwrap().len(), 2);
    superuser.batch_execute("DROP ROLE loading; DROP ROLE dumps").await.unwrap();
}

async fn protected_tables(world: &World, connection: &mut PgConnection) {
    let tenant = world.provision("4-east", 2).await;
    world.superuser().await.batch_execute(
        "CREATE SCHEMA crm; CREATE TABLE crm.visits (store_id uuid, visitor text); CREATE TABLE crm.segments (tenant int, segment text); \
         INSERT INTO crm.visits SELECT store_id, 'visitor of ' || store_name FROM retail.stores; INSERT INTO crm.segments SELECT tenant_key, tenant_id FROM retail.tenants",
    ).await.unwrap();
    let tables: Vec<ProtectedTable> =
        ["crm.visits:store=store_id", "crm.segments:tenant=tenant"].map(|text| text.parse().unwrap()).into();
    let expectations = Expectations { protected: tables.clone(), ..Expectations::default() };
    let missing = verify::check(connection, &expectations).await.unwrap();
    assert_eq!(
        missing.iter().map(|deviation| deviation.object.clone()).collect::<Vec<_>>(),
        tables.iter().map(|table| format!("protected table {table}")).collect::<Vec<_>>()
    );
    for _ in 0..2 {
        for table in &tables {
            verify::protect(connection, table).await.unwrap();
        }
        assert_eq!(verify::check(connection, &expectations).await.unwrap(), []);
    }
    let mut session = Session::open(world, &tenant).await;
    let visits = session.call(&tenant, &tenant.first(1), "SELECT visitor FROM crm.visits").await.unwrap();
    assert_eq!(visits, [format!("{{\"visitor\":\"visitor of {}\"}}", tenant.stores[0].1)]);
    assert_eq!(
        session.call(&tenant, &tenant.first(1), "SELECT segment FROM crm.segments").await.unwrap(),
        ["{\"segment\":\"4-east\"}"]
    );
    assert_eq!(session.call(&tenant, &tenant.first(1), "SELECT ctid FROM crm.visits").await.unwrap_err().code, "42703");
    let unlisted = session.call(&tenant, &tenant.first(1), "SELECT 1 FROM crm.nothing").await.unwrap_err();
    assert_eq!(unlisted.code, "42501");
    let superuser = world.superuser().await;
    // The view is as wide as its table was when it was made, and a barrier where an index would reveal hidden rows.
    let changes = [
        "ALTER TABLE crm.visits ADD COLUMN \"Hour of day\" int",
        "CREATE INDEX near ON crm.visits USING hnsw ((ARRAY[length(visitor)]::vector(1)) vector_l2_ops)",
    ];
    for (change, severity) in changes.into_iter().zip([Severity::Missing, Severity::Unsafe]) {
        superuser.batch_execute(change).await.unwrap();
        let found = verify::check(connection, &expectations).await.unwrap();
        assert_eq!(found.len(), 1, "{change}: {found:#?}");
        assert_eq!((found[0].object.as_str(), found[0].severity), ("view views_crm.visits", severity), "{change}");
        assert!(tables[0].concerns(&found[0]));
        verify::protect(connection, &tables[0]).await.unwrap();
        assert_eq!(verify::check(connection, &expectations).await.unwrap(), [], "{change}");
    }
    let hours =
        session.call(&tenant, &tenant.first(1), "SELECT \"Hour of day\" AS h FROM \"crm\".visits").await.unwrap();
    assert_eq!(hours, ["{\"h\":null}"]);
    superuser.batch_execute("ALTER TABLE crm.visits NO FORCE ROW LEVEL SECURITY").await.unwrap();
    assert_eq!(verify::check(connection, &expectations).await.unwrap()[0].object, "table crm.visits");
    superuser.batch_execute("ALTER TABLE crm.visits FORCE ROW LEVEL SECURITY").await.unwrap();
    // Listed no longer.
    assert_eq!(verify::withdraw(connection, &tables[1..]).await.unwrap(), ["crm.visits"]);
    let one = Expectations { protected: tables[1..].to_vec(), ..Expectations::default() };
    assert_eq!(verify::check(connection, &one).await.unwrap(), []);
    let gone = session.call(&tenant, &tenant.first(1), "SELECT visitor FROM crm.visits").await.unwrap_err();
    assert_eq!(gone.code, "42501");
    superuser.batch_execute("DROP SCHEMA crm CASCADE").await.unwrap();
}
