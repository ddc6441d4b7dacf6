//! The signed context: good for one call, on one backend, for one tenant, for a minute at most; anything else is an error.

mod support;

use std::collections::HashSet;

use sha2::{Digest, Sha256};
use storefence_devstack::postgres::AdminKind;
use storefence_tenancy::{credentials::ContextKey, scope::StoreSet};
use support::{
    Tenant, World, connect,
    flight::{Refusal, Session},
    in_world,
};

const COUNT: &str = "SELECT count(*)::int AS n FROM retail.orders";

#[test]
fn postgres_18() {
    in_world((18, AdminKind::Superuser), everything);
}

#[test]
fn postgres_16_without_superuser() {
    in_world((16, AdminKind::CreateRole), everything);
}

async fn everything(world: World) {
    let north = world.provision("1-north", 4).await;
    let south = world.provision("2-south", 4).await;
    world.fill().await;
    println!("{}", world.label);
    a_valid_context_shows_its_stores(&world, &north).await;
    an_altered_context_is_an_error(&world, &north).await;
    a_context_is_for_one_call_on_one_backend(&world, &north).await;
    a_context_is_for_one_tenant(&world, &north, &south).await;
    a_context_lives_a_minute_at_most(&world, &north).await;
    numbers_have_one_spelling(&world, &north).await;
    keys_rotate(&world, &north).await;
    a_disabled_tenant_is_refused(&world, &south).await;
    the_statement_cannot_widen_its_context(&world, &north).await;
    the_statement_cannot_touch_tickets(&world, &north).await;
    a_seed_is_for_one_call(&world, &north).await;
    tickets_are_never_given_twice(&world, &north).await;
    the_login_can_do_nothing_else(&world, &north).await;
    caps_hold(&world, &north).await;
}

async fn a_valid_context_shows_its_stores(world: &World, tenant: &Tenant) {
    let mut session = Session::open(world, tenant).await;
    for (scope, expected) in [(StoreSet::All, 144), (tenant.first(1), 36), (tenant.first(3), 108)] {
        assert_eq!(session.call(tenant, &scope, COUNT).await.unwrap(), [format!("{{\"n\":{expected}}}")]);
    }
    // a trailing semicolon, duplicate names, values in the order of the columns, no columns at all
    assert_eq!(
        session.call(tenant, &StoreSet::All, "SELECT 2 AS b, 1 AS a, 3 AS b;").await.unwrap(),
        ["{\"b\":2,\"a\":1,\"b\":3}"]
    );
    assert_eq!(session.call(tenant, &StoreSet::All, "SELECT").await.unwrap(), ["{}"]);
}

async fn an_altered_context_is_an_error(world: &World, tenant: &Tenant) {
    let mut session = Session::open(world, tenant).await;
    let length = session.context(tenant, &tenant.first(1)).len();
    // truncated: from either end, at every place
    for cut in (0..length).step_by(7) {
        let context = session.context(tenant, &tenant.first(1));
        refused(&mut session, &context[..cut], "a prefix").await;
        let context = session.context(tenant, &tenant.first(1));
        refused(&mut session, &context[cut + 1..], "a suffix").await;
    }
    // edited: every byte in turn
    for place in 0..length {
        let mut bytes = session.context(tenant, &tenant.first(1)).into_bytes();
        let Some(byte) = bytes.get_mut(place) else { break };
        *byte = if *byte == b'1' { b'2' } else { b'1' };
        refused(&mut session, std::str::from_utf8(&bytes).unwrap(), "an edited byte").await;
    }
    for change in [
        (|context: &str| format!("{context}{context}")) as fn(&str) -> String,
        |context| format!("{context}.{context}"),
        |context| format!("{context}\n"),
        |context| format!(" {context}"),
        |context| context.to_uppercase(),
        |context| context.split_once('.').unwrap().0.to_owned(),
        |context| format!("{}.", context.split_once('.').unwrap().0),
        |context| format!("{}.{}", context.split_once('.').unwrap().0, "0".repeat(64)),
        |context| format!("{}{}", context, "x".repeat(40_000)),
        |_| "v1|1|1-north|1|1|9999999999|*".to_owned(),
        |_| "'; DROP TABLE x; --".to_owned(),
        |_| "v1|1 OR 1=1|1-north|1|1|9999999999|*.00".to_owned(),
        |_| String::new(),
    ] {
        let context = change(&session.context(tenant, &StoreSet::All));
        refused(&mut session, &context, "a changed context").await;
    }
    // and no context at all, even for a statement that reads nothing
    let refusal = session.call_with("", "SELECT 1", 10, 1000).await.unwrap_err();
    assert_eq!(refusal, Refusal { code: "SF001".into(), message: "store context missing".into() });
    // the connection is still good
    assert_eq!(session.call(tenant, &tenant.first(1), COUNT).await.unwrap(), ["{\"n\":36}"]);
}

async fn a_context_is_for_one_call_on_one_backend(world: &World, tenant: &Tenant) {
    let mut session = Session::open(world, tenant).await;
    let mut other = Session::open(world, tenant).await;
    let context = session.context(tenant, &StoreSet::All);
    let message = "store context not for this connection";
    // stolen: presented on another backend of the same login
    assert_eq!(refused(&mut other, &context, "stolen").await, message);
    assert!(session.call_with(&context, COUNT, 10, 1000).await.is_ok());
    // replayed: the same backend, the next call
    assert_eq!(refused(&mut session, &context, "replayed").await, message);
    // a ticket that has not been given out yet
    let mut ahead = session.ticket;
    ahead.ticket += 1;
    let context =
        storefence_tenancy::context::sign(&tenant.key, 1, &tenant.id, ahead, ahead.epoch + 30, &StoreSet::All);
    assert_eq!(refused(&mut session, &context, "ahead").await, message);
    // no ticket at all
    let client = connect(&tenant.url(world)).await.unwrap();
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let ticket = storefence_tenancy::context::Ticket { ticket: 1, pid, epoch: session.ticket.epoch };
    let context =
        storefence_tenancy::context::sign(&tenant.key, 1, &tenant.id, ticket, ticket.epoch + 30, &StoreSet::All);
    let error =
        client.query("SELECT line FROM fence.run_query($1, 'SELECT 1', 1, 100)", &[&context]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "55000");
}

async fn a_seed_is_for_one_call(world: &World, tenant: &Tenant) {
    let mut session = Session::open(world, tenant).await;
    let draw = "SELECT random() AS drawn FROM generate_series(1, 3)";
    let mut drawn = Vec::new();
    for _ in 0..2 {
        session.call(tenant, &tenant.first(1), "SELECT setseed(0.25)").await.unwrap();
        drawn.push(session.call(tenant, &tenant.first(1), draw).await.unwrap());
    }
    assert_ne!(drawn[0], drawn[1], "the next call draws from the seed of the one before");
    // in one statement the seed is the caller's own business
    let within = "SELECT setseed(0.25)::text IS NULL AS seeded, random() AS drawn";
    let first = session.call(tenant, &tenant.first(1), within).await.unwrap();
    assert_eq!(session.call(tenant, &tenant.first(1), within).await.unwrap(), first);
}

async fn a_context_is_for_one_tenant(world: &World, north: &Tenant, south: &Tenant) {
    let mut session = Session::open(world, south).await;
    // signed for the other tenant, with its key
    let context = session.context(north, &StoreSet::All);
    assert_eq!(refused(&mut session, &context, "foreign").await, "store context invalid");
    // signed with one's own key, but naming the other tenant, or only its stores
    let body = |session: &Session, tenant: &str, stores: &str| {
        let ticket = session.ticket;
        format!("v1|1|{tenant}|{}|{}|{}|{stores}", ticket.pid, ticket.ticket, ticket.epoch + 30)
    };
    let context = mac(&south.key, &body(&session, north.id.as_str(), "*"));
    assert_eq!(refused(&mut session, &context, "foreign name").await, "store context invalid");
    let context = mac(&south.key, &body(&session, south.id.as_str(), &north.stores[0].0.to_string()));
    assert_eq!(refused(&mut session, &context, "foreign store").await, "store context invalid");
    // a foreign store among own ones is dropped
    let mixed = StoreSet::Some([north.stores[0].0, south.stores[0].0].into());
    assert_eq!(session.call(south, &mixed, COUNT).await.unwrap(), ["{\"n\":36}"]);
    let names = session.call(south, &mixed, "SELECT store_name FROM retail.stores").await.unwrap();
    assert_eq!(names, [format!("{{\"store_name\":\"{}\"}}", south.stores[0].1)]);
}

async fn a_context_lives_a_minute_at_most(world: &World, tenant: &Tenant) {
    let mut session = Session::open(world, tenant).await;
    for (seconds, valid) in [(-3600, false), (-2, false), (2, true), (58, true), (63, false), (3600, false)] {
        let ticket = session.ticket;
        let context = storefence_tenancy::context::sign(
            &tenant.key,
            1,
            &tenant.id,
            ticket,
            ticket.epoch + seconds,
            &StoreSet::All,
        );
        if valid {
            session.call_with(&context, COUNT, 10, 1000).await.unwrap();
        } else {
            assert_eq!(refused(&mut session, &context, "out of time").await, "store context expired", "{seconds}");
        }
    }
    // in time when the call begins: good until it ends
    let ticket = session.ticket;
    let context =
        storefence_tenancy::context::sign(&tenant.key, 1, &tenant.id, ticket, ticket.epoch + 2, &StoreSet::All);
    let slow = "SELECT (SELECT count(*) FROM retail.stores WHERE s IS NOT NULL) AS n FROM (SELECT pg_sleep(3.1)::text AS s OFFSET 0) x";
    assert_eq!(session.call_with(&context, slow, 10, 1000).await.unwrap(), ["{\"n\":4}"]);
}

async fn numbers_have_one_spelling(world: &World, tenant: &Tenant) {
    let mut session = Session::open(world, tenant).await;
    for spelling in [
        "v1|01|T|P|N|E|*",
        "v1|+1|T|P|N|E|*",
        "v1|1|T|0P|N|E|*",
        "v1|1|T|P|0N|E|*",
        "v1|1|T|P|N|0E|*",
        "v1|1|T|P|N|E|",
        "v1|1|T|P|N|E|*|",
        "v2|1|T|P|N|E|*",
        "v1|1|T|P|N|E|**",
    ] {
        let ticket = session.ticket;
        let body = spelling
            .replace('T', tenant.id.as_str())
            .replace('P', &ticket.pid.to_string())
            .replace('N', &ticket.ticket.to_string())
            .replace('E', &(ticket.epoch + 30).to_string());
        let context = mac(&tenant.key, &body);
        let answer = session.call_with(&context, COUNT, 10, 1000).await;
        assert!(answer.is_err(), "{spelling}: {answer:?}");
    }
}

async fn keys_rotate(world: &World, tenant: &Tenant) {
    let mut session = Session::open(world, tenant).await;
    let next = ContextKey::new(rand::random());
    let sign = |session: &Session, key: &ContextKey, kid| {
        storefence_tenancy::context::sign(
            key,
            kid,
            &tenant.id,
            session.ticket,
            session.ticket.epoch + 30,
            &StoreSet::All,
        )
    };
    let context = sign(&session, &next, 2);
    assert_eq!(refused(&mut session, &context, "unknown key").await, "store context invalid");
    world.add_key(tenant, 2, &next).await;
    for (key, kid) in [(&tenant.key, 1), (&next, 2)] {
        let context = sign(&session, key, kid);
        session.call_with(&context, COUNT, 10, 1000).await.unwrap();
    }
    for (key, kid) in [(&tenant.key, 2), (&next, 1)] {
        let context = sign(&session, key, kid);
        assert_eq!(refused(&mut session, &context, "the other's number").await, "store context invalid");
    }
    let retire = "UPDATE fence.context_keys SET not_after = transaction_timestamp() + $1::int8 * interval '1 second' WHERE tenant_key = $2 AND kid = 2";
    world.admin.execute(retire, &[&60_i64, &tenant.tenant_key]).await.unwrap();
    let context = sign(&session, &next, 2);
    session.call_with(&context, COUNT, 10, 1000).await.unwrap();
    world.admin.execute(retire, &[&-1_i64, &tenant.tenant_key]).await.unwrap();
    let context = sign(&session, &next, 2);
    assert_eq!(refused(&mut session, &context, "retired").await, "store context invalid");
    world
        .admin
        .execute("DELETE FROM fence.context_keys WHERE tenant_key = $1 AND kid = 2", &[&tenant.tenant_key])
        .await
        .unwrap();
    let context = sign(&session, &next, 2);
    assert_eq!(refused(&mut session, &context, "removed").await, "store context invalid");
}

async fn a_disabled_tenant_is_refused(world: &World, tenant: &Tenant) {
    let mut session = Session::open(world, tenant).await;
    world
        .admin
        .execute("UPDATE fence.tenants SET enabled = false WHERE tenant_key = $1", &[&tenant.tenant_key])
        .await
        .unwrap();
    let context = session.context(tenant, &StoreSet::All);
    assert_eq!(refused(&mut session, &context, "disabled").await, "store context invalid");
    world
        .admin
        .execute("UPDATE fence.tenants SET enabled = true WHERE tenant_key = $1", &[&tenant.tenant_key])
        .await
        .unwrap();
    session.call(tenant, &StoreSet::All, COUNT).await.unwrap();
}

async fn the_statement_cannot_widen_its_context(world: &World, tenant: &Tenant) {
    let mut session = Session::open(world, tenant).await;
    let peer = Session::open(world, tenant).await;
    let stores =
        "(SELECT string_agg(store_name, ',' ORDER BY store_name) FROM retail.stores WHERE v IS NOT NULL OR v IS NULL)";
    let set = |value: &str| {
        format!(
            "WITH s AS MATERIALIZED (SELECT set_config('fence.context', {value}, true) AS v) SELECT {stores} AS names FROM s"
        )
    };
    let own = [format!("{{\"names\":\"{}\"}}", tenant.stores[0].1)];
    // its own context again
    assert_eq!(session.call(tenant, &tenant.first(1), &set("current_setting('fence.context')")).await.unwrap(), own);
    // every other value; a context of head office among them, signed for the peer and for this connection's last call
    let earlier = session.context(tenant, &StoreSet::All);
    session.call_with(&earlier, COUNT, 10, 1000).await.unwrap();
    let stolen = peer.context(tenant, &StoreSet::All);
    for value in [
        "''".to_owned(),
        "NULL".to_owned(),
        "'*'".to_owned(),
        format!("'{earlier}'"),
        format!("'{stolen}'"),
        "regexp_replace(current_setting('fence.context'), '[^|]*[.]', '*.')".to_owned(),
        "current_setting('fence.context') || '.'".to_owned(),
        "repeat('x', 100000)".to_owned(),
    ] {
        let answer = session.call(tenant, &tenant.first(1), &set(&value)).await;
        assert_eq!(answer.unwrap_err().code, "SF001", "{value}");
        // both orders: read first, then set; the second table is read under the new value, or not at all
        let read_first = format!(
            "SELECT (SELECT count(*) FROM retail.stores) AS a, set_config('fence.context', {value}, true) AS b, (SELECT string_agg(email, ',') FROM retail.customers) AS c"
        );
        if let Ok(lines) = session.call(tenant, &tenant.first(1), &read_first).await {
            for hidden in &tenant.stores[1..] {
                assert!(!lines[0].contains(&hidden.1), "{value}: {lines:?}");
            }
        }
    }
    // nothing of it stays
    assert_eq!(session.call(tenant, &tenant.first(1), COUNT).await.unwrap(), ["{\"n\":36}"]);
}

async fn the_statement_cannot_touch_tickets(world: &World, tenant: &Tenant) {
    let mut session = Session::open(world, tenant).await;
    for statement in [
        "SELECT nextval('fence.ticket_seq')",
        "SELECT currval('fence.ticket_seq')",
        "SELECT setval('fence.ticket_seq', 1)",
        "SELECT lastval()",
        "SELECT * FROM fence.ticket_seq",
        "SELECT * FROM fence.ticket()",
        "SELECT * FROM fence.run_query(current_setting('fence.context'), 'SELECT 1', 1, 100)",
        "DISCARD SEQUENCES",
        "SELECT query_to_xml('DISCARD SEQUENCES', true, false, '')",
        "SELECT query_to_xml('SELECT nextval(''fence.ticket_seq'')', true, false, '')",
        "SELECT * FROM fence.context_keys",
        "SELECT * FROM fence.settings",
        "SELECT * FROM fence.logins",
        "SELECT * FROM fence.schema_history",
    ] {
        let before = session.ticket.ticket;
        let refusal = session.call(tenant, &StoreSet::All, statement).await.expect_err(statement);
        assert!(!refusal.code.starts_with("SF"), "{statement}: {refusal:?}");
        assert_eq!(session.ticket.ticket, before + 1, "{statement} moved the sequence");
    }
    assert_eq!(session.call(tenant, &StoreSet::All, COUNT).await.unwrap(), ["{\"n\":144}"]);
}

async fn tickets_are_never_given_twice(world: &World, tenant: &Tenant) {
    let draws = (0..6).map(|_| {
        let url = tenant.url(world);
        tokio::spawn(async move {
            let client = connect(&url).await.unwrap();
            let statement = client.prepare("SELECT ticket FROM fence.ticket()").await.unwrap();
            let mut drawn: Vec<i64> = Vec::new();
            for _ in 0..2_500 {
                drawn.push(client.query_one(&statement, &[]).await.unwrap().get(0));
            }
            drawn
        })
    });
    let mut seen = HashSet::new();
    for draw in draws.collect::<Vec<_>>() {
        for ticket in draw.await.unwrap() {
            assert!(seen.insert(ticket), "ticket {ticket} was given twice");
        }
    }
    assert_eq!(seen.len(), 15_000);
}

async fn the_login_can_do_nothing_else(world: &World, tenant: &Tenant) {
    let client = connect(&tenant.url(world)).await.unwrap();
    for statement in [
        "SELECT * FROM retail.stores",
        "SELECT count(*) FROM retail.orders",
        "TABLE retail.tenants",
        "SELECT count(*) FROM views_retail.orders",
        "SELECT fence.over_views('')",
        "SELECT email FROM retail.customers",
        "INSERT INTO retail.tenants (tenant_id, display_name) VALUES ('x', 'x')",
        "TRUNCATE retail.orders",
        "SELECT * FROM fence.logins",
        "SELECT * FROM fence.context_keys",
        "SELECT nextval('fence.ticket_seq')",
        "SELECT currval('fence.ticket_seq')",
        "SELECT fence.visible_stores()",
        "SELECT fence.tenant_key()",
        "CREATE TEMP TABLE t (a int)",
        "CREATE SCHEMA s",
        "CREATE TABLE public.t (a int)",
        "CREATE TABLE retail.t (a int)",
        "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SET ROLE fence_login",
        "SET ROLE fence_reader",
        "SET ROLE fence_runner",
        "SET ROLE retail_loader",
        "SET ROLE retail_owner",
        "SET ROLE fence_owner",
        "GRANT fence_login TO fence_reader",
        "ALTER FUNCTION fence.ticket() SECURITY INVOKER",
    ] {
        let error = client.batch_execute(statement).await.expect_err(statement);
        assert_eq!(error.code().unwrap().code(), "42501", "{statement}");
    }
    // what it may do: name the columns of a statement without running it
    let statement = client.prepare("SELECT order_id, order_date FROM retail.orders").await.unwrap();
    assert_eq!(statement.columns().iter().map(|column| column.name()).collect::<Vec<_>>(), ["order_id", "order_date"]);
}

async fn caps_hold(world: &World, tenant: &Tenant) {
    let mut session = Session::open(world, tenant).await;
    // Huge values take a busy machine longer than a tenant's statement may.
    session.client.batch_execute("SET statement_timeout = '60s'").await.unwrap();
    session.deadline = std::time::Duration::from_secs(60);
    let mut call = async |query: &str, rows, bytes| {
        let context = session.context(tenant, &StoreSet::All);
        session.call_with(&context, query, rows, bytes).await.unwrap()
    };
    assert_eq!(call("SELECT g FROM generate_series(1, 3) g", 3, 1000).await.len(), 3);
    assert_eq!(
        call("SELECT g FROM generate_series(1, 4) g", 3, 1000).await,
        ["{\"g\":1}", "{\"g\":2}", "{\"g\":3}", "!truncated"]
    );
    assert_eq!(call("SELECT g FROM generate_series(1, 9) g", 9, 20).await, ["{\"g\":1}", "{\"g\":2}", "!truncated"]);
    assert_eq!(call("SELECT g FROM generate_series(1, 2) g", 0, 20).await, ["!truncated"]);
    assert!(call("SELECT 1 WHERE false", 1, 20).await.is_empty());
    // exactly at the cap
    assert_eq!(call("SELECT 'x' AS a", 1, 9).await, ["{\"a\":\"x\"}"]);
    // a row that is small as JSON and large in PostgreSQL's own form is not refused
    let zeros = "SELECT array_fill(0::int8, ARRAY[5000]) AS a";
    assert_eq!(call(zeros, 1, 10_010).await.len(), 1);
    assert_ne!(call(zeros, 1, 10_010).await, ["!truncated"]);
    // what looks like the mark in a row stands inside JSON
    assert_eq!(call("SELECT '!truncated'", 1, 100).await, ["{\"?column?\":\"!truncated\"}"]);
    // huge rows, at once and after small ones: cut, and not fifty of them in memory
    assert_eq!(call("SELECT repeat('x', 100000000)", 10, 100_000).await, ["!truncated"]);
    let late = "SELECT CASE WHEN g > 11 THEN repeat('x', 50000000) ELSE 'y' END AS a FROM generate_series(1, 60) g";
    assert_eq!(call(late, 100, 100_000).await.len(), 12);
    let pid = session.ticket.pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    assert!(peak < 600_000, "the backend took {peak} kB");
}

/// A context that must be refused, with one of the fence's own messages.
async fn refused(session: &mut Session, context: &str, what: &str) -> String {
    let refusal = session.call_with(context, COUNT, 10, 1000).await.expect_err(what);
    assert_eq!(refusal.code, "SF001", "{what}: {refusal:?}");
    let known = ["missing", "malformed", "invalid", "expired", "not for this connection"]
        .map(|end| format!("store context {end}"));
    assert!(known.contains(&refusal.message), "{what}: {refusal:?}");
    refusal.message
}

/// Any body with a right signature: what only a faulty gateway would make.
fn mac(key: &ContextKey, body: &str) -> String {
    let pads = key.pads();
    let inner = Sha256::new().chain_update(pads.inner).chain_update(body).finalize();
    let outer = Sha256::new().chain_update(pads.outer).chain_update(inner).finalize();
    format!("{body}.{}", outer.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}
