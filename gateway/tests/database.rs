//! The gateway's PostgreSQL client against a real server, with TLS in front of it, and against a misbehaving one.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use storefence_devstack::{
    postgres::{AdminKind, Cluster, ClusterOptions, Database, Proxy, SslMode},
    tls::Authority,
};
use storefence_gateway::{
    db::uri,
    trust::{
        self, Trust,
        tls::{self, Verify, certificates},
    },
};
use storefence_pgwire::{Reply, Wire, WireError, field};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// Connects as the gateway would with this URI and these trust roots.
async fn connect(uri: &str, roots: Option<&std::path::Path>) -> Result<Wire, WireError> {
    let roots = roots.map(|path| certificates(path).expect("roots")).unwrap_or_default();
    let uri = uri.split("&sslrootcert").next().unwrap_or_default();
    let (config, verify) = uri::parse(uri, !roots.is_empty()).expect("a URI");
    let tls = tls::connector(verify.unwrap_or(Verify::ChainAndName), &roots).expect("TLS").config;
    Wire::connect(&config, &tls).await
}

async fn world() -> Result<(Cluster, Database)> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cluster = Cluster::start(ClusterOptions::default()).await?;
    let database = cluster.create_database("wire", AdminKind::CreateRole).await?;
    Ok((cluster, database))
}

#[tokio::test]
async fn sslmode_lets_in_whom_it_should_and_nobody_else() -> Result<()> {
    let (cluster, database) = world().await?;
    let (clear, secure, ca) = (&database.admin_url, &database.admin_tls_url, cluster.ca_file());
    let encrypted = "SELECT current_user";
    for (uri, roots) in [(clear, None), (secure, Some(ca))] {
        let mut wire = connect(uri, roots).await.with_context(|| uri.clone())?;
        ensure!(wire.query(encrypted).await?.as_deref() == Some(database.admin.as_str()), "{uri}");
    }
    let other = tempfile::NamedTempFile::new()?;
    Authority::new()?.write_pem(other.path())?;
    let refused = |result: Result<Wire, WireError>, what: &str| match result {
        Err(WireError::Tls(problem)) => {
            println!("{what}: {problem}");
            Ok(())
        }
        Err(error) => anyhow::bail!("{what}: {error}"),
        Ok(_) => anyhow::bail!("{what}: let in"),
    };
    refused(connect(secure, Some(other.path())).await, "another authority")?;
    refused(connect(secure, None).await, "the system's authorities alone")?;
    let elsewhere = secure.replace("@127.0.0.1:", "@elsewhere.example:") + "&hostaddr=127.0.0.1";
    refused(connect(&elsewhere.replace("&sslrootcert", "&unused"), Some(ca)).await, "another name")?;
    // Only the chain is verified, then neither chain nor name.
    connect(&elsewhere.replace("verify-full", "verify-ca"), Some(ca)).await.context("verify-ca")?;
    connect(&elsewhere.replace("verify-full", "require"), Some(ca)).await.context("require with a root")?;
    refused(connect(&secure.replace("verify-full", "require"), Some(other.path())).await, "require, another root")?;
    connect(&elsewhere.replace("verify-full", "require"), None).await.context("require")?;
    connect(&secure.replace("verify-full", "prefer"), None).await.context("prefer")?;
    // The server itself has no TLS here: clients that do not require it connect.
    let clear = clear.split('?').next().unwrap_or_default();
    let bare = connect(&format!("{clear}?sslmode=require"), None).await;
    if cluster.binaries().major() > 0 && bare.is_err() {
        refused(bare, "a server without TLS")?;
        connect(&format!("{clear}?sslmode=prefer"), None).await.context("prefer without TLS")?;
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_has_its_own_code() -> Result<()> {
    let (cluster, database) = world().await?;
    for mode in [SslMode::Disable, SslMode::Require] {
        let uri = cluster.url(&database.admin, "wrong", &database.name, mode);
        let error = connect(&uri, None).await.err().context("let in")?;
        ensure!(error.sqlstate() == Some("28P01"), "{error}");
        ensure!(!error.to_string().contains("wrong"), "{error}");
    }
    let nobody = cluster.url("nobody", "x", &database.name, SslMode::Disable);
    ensure!(connect(&nobody, None).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_group_is_done_to_its_first_mistake_and_the_connection_serves_on() -> Result<()> {
    let (_cluster, database) = world().await?;
    let mut wire = connect(&database.admin_url, None).await?;
    wire.parse("one", "", "SELECT n::text, NULL, repeat('x', 3) FROM generate_series(1, 3) n", &[])?;
    wire.call("one", "", &[])?;
    wire.parse("two", "", "SELECT 1/(n - 2) FROM generate_series(1, 3) n", &[])?;
    wire.call("two", "", &[])?;
    wire.parse("three", "", "SELECT 1", &[])?;
    wire.call("three", "", &[])?;
    wire.sync();
    let mut seen = Vec::new();
    let end = wire
        .group(|label, reply| {
            if let Reply::Row(row) = reply {
                seen.push((label, field(row, 0)?.map(str::to_owned)));
                if label == "one" {
                    assert_eq!((field(row, 1)?, field(row, 2)?), (None, Some("xxx")));
                    assert!(field(row, 3).is_err());
                }
            }
            Ok(())
        })
        .await?;
    let (label, error) = end.failed.context("no mistake")?;
    ensure!((label, error.sqlstate.as_str()) == ("two", "22012"), "{label}: {error}");
    ensure!(seen.iter().filter(|(label, _)| *label == "one").count() == 3, "{seen:?}");
    ensure!(seen.iter().all(|(label, _)| *label != "three"), "{seen:?}");
    // An error message as long as the statement that it is about.
    let error = wire.query("SELECT repeat('y', 30000000)::int").await.err().context("a number")?;
    ensure!(error.sqlstate() == Some("22P02"), "{}", error.to_string().len());
    ensure!(error.to_string().len() < 100_000);
    // Notices belong to no result.
    wire.query("DO $$ BEGIN FOR i IN 1..100 LOOP RAISE WARNING 'notice %', i; END LOOP; END $$").await?;
    ensure!(wire.query("SELECT 7").await?.as_deref() == Some("7"));
    // Rows beyond the requested number are not read.
    let error = wire.query("SELECT repeat('z', 3000000)").await.err().context("3 MB")?;
    ensure!(matches!(error, WireError::Protocol(_)) && wire.is_closed(), "{error}");
    Ok(())
}

#[tokio::test]
async fn an_end_while_nobody_calls_is_noticed() -> Result<()> {
    let (cluster, database) = world().await?;
    for uri in [&database.admin_url, &database.admin_tls_url] {
        let mut wire = connect(uri, Some(cluster.ca_file())).await?;
        let pid = wire.query("SELECT pg_backend_pid()").await?.context("a pid")?;
        ensure!(!wire.is_gone());
        let superuser = cluster.connect(&database.name).await?;
        superuser.batch_execute(&format!("SELECT pg_terminate_backend({pid})")).await?;
        let noticed = async {
            while !wire.is_gone() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), noticed).await.context("not noticed")?;
        ensure!(wire.query("SELECT 1").await.is_err());
    }
    Ok(())
}

/// An expiring authority is replaced by appending the next one: new connections are accepted with the same
/// configuration. An unreadable file leaves the last good one in force.
#[tokio::test]
async fn a_root_that_is_appended_is_trusted() -> Result<()> {
    let (cluster, database) = world().await?;
    let next = Authority::new()?;
    let backend = std::net::SocketAddr::from(([127, 0, 0, 1], cluster.port()));
    let proxy = Proxy::start(backend, &next).await?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::copy(cluster.ca_file(), file.path())?;

    let trust = Arc::new(Trust::open(Some(file.path().to_owned()))?);
    let uri = database.admin_tls_url.split("&sslrootcert").next().unwrap_or_default();
    let elsewhere = uri.replace(&format!(":{}/", cluster.proxy().addr().port()), &format!(":{}/", proxy.addr().port()));
    ensure!(elsewhere != uri, "{uri}");
    let (former, verify) = uri::parse(uri, true)?;
    let (later, _) = uri::parse(&elsewhere, true)?;
    let tls = trust.connector(verify.context("TLS")?)?;
    Wire::connect(&former, &tls).await?;
    ensure!(matches!(Wire::connect(&later, &tls).await, Err(WireError::Tls(_))), "not trusted yet");

    let following = tokio::spawn(trust::follow([("retail".to_owned(), trust.clone())].into()));
    let other = tempfile::NamedTempFile::new()?;
    next.write_pem(other.path())?;
    let both = std::fs::read_to_string(cluster.ca_file())? + &std::fs::read_to_string(other.path())?;
    std::fs::write(file.path(), &both)?;
    let trusted = async {
        while Wire::connect(&later, &tls).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), trusted).await.context("the second root is not picked up")?;
    Wire::connect(&former, &tls).await?;
    following.abort();

    std::fs::write(file.path(), "none")?;
    ensure!(trust.read_again().is_err(), "no certificate");
    Wire::connect(&later, &tls).await?;
    std::fs::copy(other.path(), file.path())?;
    ensure!(trust.read_again()?, "changed");
    ensure!(matches!(Wire::connect(&former, &tls).await, Err(WireError::Tls(_))), "a root that is taken out");
    ensure!(!trust.read_again()?, "as before");
    Ok(())
}

#[tokio::test]
async fn a_cancel_ends_the_statement_and_a_drop_the_session() -> Result<()> {
    let (cluster, database) = world().await?;
    for uri in [&database.admin_url, &database.admin_tls_url] {
        let uri = uri.split("&sslrootcert").next().unwrap_or_default();
        let (config, verify) = uri::parse(uri, true)?;
        let roots = certificates(cluster.ca_file())?;
        let tls = tls::connector(verify.unwrap_or(Verify::ChainAndName), &roots)?.config;
        let mut wire = Wire::connect(&config, &tls).await?;
        let pid = wire.query("SELECT pg_backend_pid()").await?.context("a pid")?;
        let cancel = wire.cancel();
        let superuser = cluster.connect(&database.name).await?;
        let sleeping = async {
            let running = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND query LIKE '%sleep%'");
            while superuser.query_one(&running, &[]).await?.get::<_, i64>(0) == 0 {}
            cancel.send(&config, &tls).await?;
            anyhow::Ok(())
        };
        let (ended, sent) = futures::join!(wire.query("SELECT pg_sleep(60)"), sleeping);
        sent?;
        ensure!(ended.err().context("slept")?.sqlstate() == Some("57014"));
        ensure!(wire.query("SELECT 1").await?.as_deref() == Some("1"));
        drop(wire);
        let left = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
        let gone = async {
            while superuser.query_one(&left, &[]).await?.get::<_, i64>(0) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.context("the session stays")??;
    }
    Ok(())
}

/// A server that sends these messages, one after each message of the client.
async fn scripted(words: Vec<Vec<u8>>) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut heard = vec![0; 10_000];
            for word in &words {
                if !matches!(stream.read(&mut heard).await, Ok(1..)) || stream.write_all(word).await.is_err() {
                    break;
                }
            }
        }
    });
    Ok(format!("postgresql://u:p@127.0.0.1:{port}/d?sslmode=disable"))
}

#[tokio::test]
async fn a_server_that_misbehaves_gets_no_further() -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ok = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x02Z\0\0\0\x05I".to_vec();
    for word in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        b"R\0\0\0\x03".to_vec(),
        b"R\xff\xff\xff\xff".to_vec(),
        b"D\0\0\0\x0a\0\x01\0\0\0\0".to_vec(),
        // SCRAM without its mechanisms; Kerberos.
        b"R\0\0\0\x0a\0\0\0\x0a\0\0".to_vec(),
        b"R\0\0\0\x08\0\0\0\x02".to_vec(),
        b"R\0\0\0\x0c\0\0\0\x0cv=x=".to_vec(),
        b"R\0\0".to_vec(),
        Vec::new(),
    ] {
        let uri = scripted(vec![word.clone()]).await?;
        ensure!(connect(&uri, None).await.is_err(), "{word:?}");
    }
    for answer in [
        &b"2\0\0\0\x04"[..],
        b"1\0\0\0\x042\0\0\0\x04Z\0\0\0\x05I",
        b"1\0\0\0\x042\0\0\0\x04D\0\0\0\x0a\0\x02\0\0\0\0C\0\0\0\x05\0Z\0\0\0\x05I",
        b"1\0\0\0\x042\0\0\0\x04D\0\0\0\x0b\0\x01\0\0\0\x01\xffC\0\0\0\x05\0Z\0\0\0\x05I",
        b"1\0\0\0\x042\0\0\0\x04D\0\0\0\x0a\0\x01\0\0\0",
    ] {
        let uri = scripted(vec![ok.clone(), answer.to_vec()]).await?;
        let mut wire = connect(&uri, None).await?;
        ensure!(wire.query("SELECT 1").await.is_err() && wire.is_closed(), "{answer:?}");
    }
    let good = b"1\0\0\0\x042\0\0\0\x04D\0\0\0\x0b\0\x01\0\0\0\x017C\0\0\0\x05\0Z\0\0\0\x05I";
    let uri = scripted(vec![ok, good.to_vec()]).await?;
    ensure!(connect(&uri, None).await?.query("SELECT 7").await?.as_deref() == Some("7"));
    Ok(())
}
