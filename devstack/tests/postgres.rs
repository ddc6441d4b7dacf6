//! The throw-away PostgreSQL: real servers over real sockets.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use storefence_devstack::{
    postgres::{AdminKind, Binaries, Cluster, ClusterOptions, DataDir, SslMode},
    process::{Signal, Spawn},
};
use tokio_postgres::{Client, NoTls};

async fn cluster(version: u32) -> Cluster {
    let binaries = tokio::task::spawn_blocking(move || Binaries::find(Some(version))).await.unwrap().unwrap();
    assert_eq!(binaries.major(), version);
    Cluster::start(ClusterOptions { binaries: Some(binaries), ..ClusterOptions::default() }).await.unwrap()
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn text(client: &Client, query: &str) -> String {
    client.query_one(query, &[]).await.unwrap().get(0)
}

/// Polls until `done`, and fails the test after ten seconds.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn alive(pid: u32) -> bool {
    // A zombie that nobody reaps (there may be no init in a container) has ended all the same.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_versions_16_and_18_with_vector_to_an_administrator_without_superuser() {
    for version in [16, 18] {
        let cluster = cluster(version).await;
        let database = cluster.create_database("retail", AdminKind::CreateRole).await.unwrap();
        let admin = connect(&database.admin_url).await;
        assert!(text(&admin, "SHOW server_version").await.starts_with(&version.to_string()));
        assert_eq!(text(&admin, "SHOW server_encoding").await, "UTF8");
        assert_eq!(text(&admin, "SELECT upper('ä')").await, "Ä");
        assert_eq!(text(&admin, "SHOW fsync").await, "off");

        let role = admin
            .query_one(
                "SELECT rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication \
                 FROM pg_roles WHERE rolname = current_user",
                &[],
            )
            .await
            .unwrap();
        let attributes: Vec<bool> = (0..5).map(|i| role.get(i)).collect();
        assert_eq!(attributes, [false, true, true, false, false]);
        admin
            .batch_execute(
                "CREATE EXTENSION vector; CREATE SCHEMA retail; CREATE ROLE reader NOLOGIN; \
                 CREATE TABLE retail.t (v vector(3)); INSERT INTO retail.t VALUES ('[1,2,3]')",
            )
            .await
            .unwrap();
        assert_eq!(text(&admin, "SELECT (v <-> '[1,2,4]')::text FROM retail.t").await, "1");
        let refused = admin.batch_execute("CREATE ROLE boss SUPERUSER").await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "42501");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superuser_administrator_is_one_and_wrong_passwords_are_refused() {
    let cluster = cluster(18).await;
    let database = cluster.create_database("retail", AdminKind::Superuser).await.unwrap();
    let admin = connect(&database.admin_url).await;
    assert_eq!(text(&admin, "SHOW is_superuser").await, "on");

    let wrong = cluster.url(&database.admin, "wrong", "retail", SslMode::Disable);
    let refused = tokio_postgres::connect(&wrong, NoTls).await.err().unwrap();
    assert_eq!(refused.code().unwrap().code(), "28P01");

    cluster.drop_database("retail").await.unwrap();
    let gone = tokio_postgres::connect(&database.admin_url, NoTls).await.err().unwrap();
    assert_eq!(gone.code().unwrap().code(), "3D000");
}

#[tokio::test(flavor = "multi_thread")]
async fn speaks_tls_and_the_proxy_cuts_connections() {
    let cluster = cluster(18).await;
    let url = cluster.superuser_url("postgres", SslMode::Require);
    let pem = std::fs::read(cluster.ca_file()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    let der = <rustls_pki_types::CertificateDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(&pem).unwrap();
    roots.add(der).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tls = tokio_postgres_rustls::MakeRustlsConnect::new(config);
    let (client, connection) = tokio_postgres::connect(&url, tls.clone()).await.unwrap();
    let connection = tokio::spawn(connection);
    assert_eq!(text(&client, "SELECT 'hello'").await, "hello");

    cluster.proxy().cut_connections();
    let _ = connection.await.unwrap();
    assert!(client.is_closed());
    let (client, connection) = tokio_postgres::connect(&url, tls.clone()).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(text(&client, "SELECT 'again'").await, "again");

    cluster.proxy().set_down(true);
    assert!(tokio_postgres::connect(&url, tls.clone()).await.is_err());
    cluster.proxy().set_down(false);
    assert!(tokio_postgres::connect(&url, tls).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn comes_back_after_a_shutdown_and_after_a_crash() {
    let mut cluster = cluster(18).await;
    let port = cluster.port();
    let client = cluster.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE kept AS SELECT 'still here' AS word").await.unwrap();
    for crash in [false, true] {
        let pid = cluster.pid().unwrap();
        if crash {
            cluster.kill().unwrap();
        } else {
            cluster.shut_down().await.unwrap();
        }
        assert!(!alive(pid));
        assert!(cluster.connect("postgres").await.is_err());
        cluster.start_up().await.unwrap();
        assert_eq!(cluster.port(), port);
        let client = cluster.connect("postgres").await.unwrap();
        assert_eq!(text(&client, "SELECT word FROM kept").await, "still here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_cluster_keeps_its_data_and_a_temporary_one_leaves_nothing() {
    let name = format!("test-cluster-{}", std::process::id());
    let named = || ClusterOptions { data: DataDir::Named(name.clone()), durable: true, ..ClusterOptions::default() };
    let cluster = Cluster::start(named()).await.unwrap();
    let directory = cluster.directory().to_owned();
    let client = cluster.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE kept AS SELECT 'kept' AS word").await.unwrap();
    assert_eq!(text(&client, "SHOW fsync").await, "on");
    cluster.stop().await.unwrap();
    let cluster = Cluster::start(named()).await.unwrap();
    let client = cluster.connect("postgres").await.unwrap();
    assert_eq!(text(&client, "SELECT word FROM kept").await, "kept");
    drop(cluster);
    assert!(directory.join("data").is_dir());
    std::fs::remove_dir_all(directory).unwrap();

    let settings = vec![(String::from("max_connections"), String::from("17"))];
    let temporary = Cluster::start(ClusterOptions { settings, ..ClusterOptions::default() }).await.unwrap();
    let client = temporary.connect("postgres").await.unwrap();
    assert_eq!(text(&client, "SHOW max_connections").await, "17");
    let (directory, socket) = (temporary.directory().to_owned(), temporary.socket_directory().to_owned());
    let pid = temporary.pid().unwrap();
    drop(temporary);
    assert!(!directory.exists() && !socket.exists() && !alive(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named_in_the_error() {
    let taken = storefence_devstack::http::bind_loopback().unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = Cluster::start(ClusterOptions { port: Some(port), ..ClusterOptions::default() }).await.unwrap_err();
    assert!(error.to_string().contains("already in use"), "{error}");
}

/// Not a test: the process that the next test kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by the_server_dies_with_its_parent"]
async fn parent_of_a_server() {
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    println!();
    println!("facts {} {}", cluster.pid().unwrap(), cluster.directory().display());
    std::future::pending::<()>().await;
}

#[test]
fn the_server_dies_with_its_parent() {
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "parent_of_a_server", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let facts = BufReader::new(parent.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .find_map(|line| line.strip_prefix("facts ").map(str::to_owned))
        .unwrap();
    let (pid, directory) = facts.split_once(' ').unwrap();
    let (pid, directory): (u32, PathBuf) = (pid.parse().unwrap(), directory.into());
    assert!(alive(pid) && directory.is_dir());
    parent.kill().unwrap();
    parent.wait().unwrap();
    eventually("the server's end", || !alive(pid));
    eventually("the removal of its files", || !directory.exists());
}

#[tokio::test]
async fn a_child_is_stopped_killed_and_logged() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let script = "trap 'echo stopping; exit 7' TERM; echo ready; while :; do sleep 0.02; done";
    let spawn = || Spawn::new("/bin/sh").args(["-c", script]).log(&log);
    let mut child = spawn().start().unwrap();
    wait_for(&log, "ready");
    assert!(child.is_running() && alive(child.pid()));
    let status = child.terminate(Duration::from_secs(10)).await.unwrap();
    assert_eq!(status.code(), Some(7));
    assert_eq!(child.log_text(), "ready\nstopping\n");

    // A process that ignores SIGTERM is killed; a suspended process continues when it is resumed.
    let mut deaf =
        Spawn::new("/bin/sh").args(["-c", "trap '' TERM; echo deaf; while :; do sleep 0.02; done"]).log(&log);
    deaf = deaf.env_clear().env("PATH", "/usr/bin:/bin");
    let mut deaf = deaf.start().unwrap();
    wait_for(&log, "deaf");
    deaf.signal(Signal::Stop);
    deaf.signal(Signal::Cont);
    let status = deaf.terminate(Duration::from_millis(200)).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));

    let missing = Spawn::new("/nonexistent/program").start().unwrap_err();
    assert!(missing.to_string().contains("/nonexistent/program"));
}

fn wait_for(log: &Path, word: &str) {
    eventually(word, || std::fs::read_to_string(log).is_ok_and(|text| text.contains(word)));
}
