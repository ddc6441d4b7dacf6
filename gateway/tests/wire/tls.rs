//! TLS on the public listener, with certificates that change on disk.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustls::{
    ClientConfig, ProtocolVersion, SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::json;
use storefence_devstack::{mcp_client::McpClient, mcp_client::Revision, tls::Leaf};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{
    Tests,
    world::{Gateway, World, until},
};

pub fn tests(tests: &mut Tests) {
    tests.add("tls_is_served_and_certificates_are_reloaded", reloaded);
    tests.add("certificates_that_cannot_be_used_stop_the_start", refused);
}

/// A directory like a mounted Secret: files are links to `..data/NAME`, and `..data` is a link that is swapped.
struct Mount(PathBuf);

impl Mount {
    fn new(directory: PathBuf, leaf: &Leaf) -> Result<Self> {
        std::fs::create_dir(&directory)?;
        let mount = Self(directory);
        mount.put("first", &leaf.certificate_pem, &leaf.key_pem)?;
        for name in ["tls.crt", "tls.key"] {
            symlink(Path::new("..data").join(name), mount.0.join(name))?;
        }
        Ok(mount)
    }

    fn put(&self, version: &str, certificate: &str, key: &str) -> Result<()> {
        std::fs::create_dir(self.0.join(version))?;
        std::fs::write(self.0.join(version).join("tls.crt"), certificate)?;
        std::fs::write(self.0.join(version).join("tls.key"), key)?;
        let next = self.0.join("..next");
        symlink(version, &next)?;
        Ok(std::fs::rename(next, self.0.join("..data"))?)
    }

    fn file(&self, name: &str) -> Result<String> {
        Ok(self.0.join(name).to_str().context("a path")?.to_owned())
    }
}

fn address(gateway: &Gateway) -> Result<String> {
    Ok(gateway.url.strip_prefix("https://").context("an https URL")?.to_owned())
}

/// The leaf that is served, and the negotiated protocol.
async fn handshake(
    world: &World,
    gateway: &Gateway,
    protocols: &[&str],
    versions: &[&'static SupportedProtocolVersion],
) -> Result<(CertificateDer<'static>, Option<String>, Option<ProtocolVersion>)> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(world.authority.der().clone())?;
    let mut config =
        ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address(gateway)?).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1")?, stream).await?;
    let (_, session) = stream.get_ref();
    let leaf = session.peer_certificates().and_then(<[_]>::first).context("a certificate")?.clone().into_owned();
    let agreed = session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
    Ok((leaf, agreed, session.protocol_version()))
}

fn der(leaf: &Leaf) -> Result<CertificateDer<'static>> {
    Ok(CertificateDer::from_pem_slice(leaf.certificate_pem.as_bytes())?)
}

async fn reloaded(world: Arc<World>) -> Result<()> {
    let (first, second, third) =
        (world.authority.issue(&["one"])?, world.authority.issue(&["two"])?, world.authority.issue(&["three"])?);
    let mount = Mount::new(world.path("tls"), &first)?;
    let (certificate, key) = (mount.file("tls.crt")?, mount.file("tls.key")?);
    let args = ["--tls-cert", &certificate, "--tls-key", &key, "--client-timeout", "2"];
    let gateway = world.another_gateway("tls", &args).await?;

    let both: &[_] = &[&rustls::version::TLS13, &rustls::version::TLS12];
    for (offered, agreed) in
        [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"][..], Some("http/1.1")), (&[][..], None)]
    {
        let (leaf, protocol, version) = handshake(&world, &gateway, offered, both).await?;
        ensure!(leaf == der(&first)? && protocol.as_deref() == agreed, "{offered:?}: {protocol:?}");
        ensure!(version == Some(ProtocolVersion::TLSv1_3), "{version:?}");
    }
    let (.., version) = handshake(&world, &gateway, &[], &[&rustls::version::TLS12]).await?;
    ensure!(version == Some(ProtocolVersion::TLSv1_2), "{version:?}");

    // Calls over both protocols; the connections stay open for the rest of the test.
    let client = world.client_of(&gateway, "head-office")?;
    let older = reqwest::Client::builder()
        .http1_only()
        .add_root_certificate(reqwest::Certificate::from_pem(world.authority.pem().as_bytes())?);
    let url = format!("{}/mcp", gateway.url);
    let older = McpClient::new(older.build()?, url, Some(world.token("head-office")?), Revision::V2025_11_25);
    let served = async || -> Result<()> {
        for client in [&client, &older] {
            let answer = client.call_tool("get_current_utc_date", json!({})).await?;
            ensure!(answer.status == 200 && !answer.is_tool_error(), "{}", answer.message);
        }
        Ok(())
    };
    served().await?;
    // Plain text on the same port, a handshake that never comes, one that stops: no answer, and the connection is
    // closed.
    for bytes in [&b"GET /mcp HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"", b"\x16\x03\x01\x02"] {
        let mut stream = TcpStream::connect(address(&gateway)?).await?;
        stream.write_all(bytes).await?;
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(8), stream.read_to_end(&mut answer)).await;
        ensure!(ended.is_ok(), "still connected after {bytes:?}");
        ensure!(!answer.starts_with(b"HTTP"), "plain text was answered");
    }
    let shed = world.metric(&gateway, "storefence_slow_clients_total{waiting_for=\"handshake\"}").await?;
    ensure!(shed >= 2.0, "{shed} handshakes were shed");

    let serves = async |leaf: &Leaf| -> Result<()> {
        let expected = der(leaf)?;
        until("the certificate is in use", Duration::from_secs(10), || async {
            served().await?;
            Ok(handshake(&world, &gateway, &["h2"], both).await?.0 == expected)
        })
        .await
    };
    let current = async || world.metric(&gateway, "storefence_tls_certificate_current").await;
    mount.put("second", &second.certificate_pem, &second.key_pem)?;
    serves(&second).await?;
    ensure!(current().await? == 1.0);
    let expiry = world.metric(&gateway, "storefence_tls_certificate_expiry_timestamp_seconds").await?;
    ensure!(expiry > jiff::Timestamp::now().as_second() as f64, "{expiry}");

    // Broken in three ways; the last good certificate stays in use.
    for (name, certificate, key) in [
        ("no-pem", "rubbish", second.key_pem.as_str()),
        ("no-key", third.certificate_pem.as_str(), ""),
        ("no-pair", third.certificate_pem.as_str(), second.key_pem.as_str()),
    ] {
        let before = world.metric(&gateway, "storefence_tls_certificate_reloads_total{outcome=\"error\"}").await?;
        mount.put(name, certificate, key)?;
        until("the gateway has seen it", Duration::from_secs(10), || async {
            served().await?;
            let now = world.metric(&gateway, "storefence_tls_certificate_reloads_total{outcome=\"error\"}").await?;
            Ok(now > before)
        })
        .await?;
        ensure!(current().await? == 0.0, "{name}: the broken pair counts as current");
        ensure!(handshake(&world, &gateway, &["h2"], both).await?.0 == der(&second)?, "{name}: another certificate");
    }
    let log = std::fs::read_to_string(gateway.child.log_path().context("a log")?)?;
    ensure!(log.contains("the last good one stays in use") && log.contains("--tls-cert"), "the log says nothing");
    mount.put("third", &third.certificate_pem, &third.key_pem)?;
    serves(&third).await?;
    ensure!(current().await? == 1.0);
    Ok(())
}

async fn refused(world: Arc<World>) -> Result<()> {
    let (one, two) = (world.authority.issue(&["one"])?, world.authority.issue(&["two"])?);
    let write = |name: &str, text: &str| -> Result<String> {
        let path = world.path(name);
        std::fs::write(&path, text)?;
        Ok(path.to_str().context("a path")?.to_owned())
    };
    let (certificate, key) = (write("one.crt", &one.certificate_pem)?, write("one.key", &one.key_pem)?);
    let (other, rubbish) = (write("two.key", &two.key_pem)?, write("rubbish.pem", "rubbish")?);
    let config = world.path("config.yaml");
    let config = config.to_str().context("a path")?;
    for (args, words) in [
        (&["--tls-cert", &certificate][..], "--tls-key is not given"),
        (&["--tls-key", &key][..], "--tls-cert is not given"),
        (&["--tls-cert", &certificate, "--tls-key", "/nonexistent"][..], "STOREFENCE_TLS_KEY"),
        (&["--tls-cert", &rubbish, "--tls-key", &key][..], "STOREFENCE_TLS_CERT"),
        (&["--tls-cert", &certificate, "--tls-key", &other][..], "do not go together"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_storefence-gateway"));
        command.env_clear().env("AZURE_CLIENT_SECRET", "x").env("KUBECONFIG", world.path("kubeconfig"));
        command.args(["run", "--credential", "client-secret", "--azure-tenant-id", "x", "--azure-client-id", "x"]);
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--config", config]);
        command.args(["--public-url", "https://localhost:1", "--audience", "x", "--scope", "api://x/y"]).args(args);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2) && text.contains(words), "{args:?}: {output:?}");
    }
    Ok(())
}
