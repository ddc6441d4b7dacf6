//! Which keys and issuers are trusted: a directory's own keys, and the authority of the configuration.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use storefence_devstack::{
    entra::{
        Entra, EntraOptions, KeyIssuer, Signing, SigningKey, TokenRequest, TokenVersion,
        principals::{self, CONTOSO_TENANT_ID, ZAVA_TENANT_ID},
    },
    http::{Bind, bind_loopback},
    process::Spawn,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    Tests,
    identity::head_office,
    identity_keys::ask,
    world::{CONTOSO, Gateway, World, ZAVA, free_port},
};

/// The clouds' authorities, and the issuers of their version 1.0 tokens:
/// <https://learn.microsoft.com/entra/identity-platform/authentication-national-cloud>.
const CLOUDS: [(&str, &str); 3] = [
    ("login.microsoftonline.com", "https://sts.windows.net"),
    ("login.microsoftonline.us", "https://sts.windows.net"),
    ("login.partner.microsoftonline.cn", "https://sts.chinacloudapi.cn"),
];

pub fn tests(tests: &mut Tests) {
    tests.add("one_key_id_in_two_directories_is_two_keys", same_key_id);
    tests.add("tokens_of_the_configured_cloud_and_of_no_other", clouds);
}

fn contoso() -> Result<TokenRequest> {
    Ok(TokenRequest::principal(principals::find("contoso-head-office").context("known")?))
}

async fn rejected(world: &World, gateway: &Gateway, reason: &str) -> Result<f64> {
    let name = format!("storefence_token_verifications_total{{outcome=\"rejected\",reason=\"{reason}\"}}");
    world.metric(gateway, &name).await
}

/// Refused by the intended check and by no other.
async fn refused(world: &World, gateway: &Gateway, what: &str, reason: &str, token: String) -> Result<()> {
    let before = rejected(world, gateway, reason).await?;
    let status = ask(world, gateway, token).await?;
    ensure!(status == 401, "{what}: {status}");
    ensure!(rejected(world, gateway, reason).await? == before + 1.0, "{what}: not for '{reason}'");
    Ok(())
}

/// Both keys are published for every directory's issuer, so only the directory distinguishes them.
async fn same_key_id(world: Arc<World>) -> Result<()> {
    let key = || Ok::<_, anyhow::Error>(Arc::new(SigningKey::generate(Some("one-and-the-same"), KeyIssuer::Template)?));
    let (of_zava, of_contoso) = (key()?, key()?);
    world.entra.add_tenant_key(ZAVA_TENANT_ID, of_zava.clone());
    world.entra.add_tenant_key(CONTOSO_TENANT_ID, of_contoso.clone());
    // The first fetch finds them.
    let gateway = world.another_gateway("key-ids", &[]).await;
    for directory in [ZAVA_TENANT_ID, CONTOSO_TENANT_ID] {
        world.entra.remove_tenant_keys(directory);
    }
    let gateway = gateway?;
    let issue =
        |request: TokenRequest, key: &Arc<SigningKey>| world.entra.issue(&request.signing(Signing::Key(key.clone())));
    ensure!(ask(&world, &gateway, issue(head_office()?, &of_zava)?).await? == 200, "zava's token by zava's key");
    ensure!(ask(&world, &gateway, issue(contoso()?, &of_contoso)?).await? == 200, "contoso's token by contoso's key");
    let crossed = issue(head_office()?, &of_contoso)?;
    refused(&world, &gateway, "zava's token by contoso's key", "signature", crossed).await?;
    let crossed = issue(contoso()?, &of_zava)?;
    refused(&world, &gateway, "contoso's token by zava's key", "signature", crossed).await
}

/// A proxy in the environment that knows one host, because the clouds' names resolve to the clouds.
async fn proxy(host: &'static str, to: SocketAddr) -> Result<(u16, tokio::task::AbortHandle)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let accepting = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await?);
                }
                if !head.starts_with(format!("CONNECT {host}:443 ").as_bytes()) {
                    return client.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
                }
                let mut server = TcpStream::connect(to).await?;
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await.map(|_| ())
            });
        }
    });
    Ok((port, accepting.abort_handle()))
}

/// One cloud's authority, and a gateway that is configured with nothing but its name.
async fn cloud(world: &World, host: &'static str, v1: &str) -> Result<(Entra, Gateway, tokio::task::AbortHandle)> {
    let listener = bind_loopback()?;
    let address = listener.local_addr()?;
    let options = EntraOptions {
        bind: Some(Bind::Listener(listener)),
        public_url: Some(format!("https://{host}")),
        sts_url: Some(v1.to_owned()),
        names: vec![host.to_owned()],
        ..EntraOptions::default()
    };
    let entra = Entra::start(&world.authority, options).await?;
    let (through, proxy) = proxy(host, address).await?;
    let (port, admin) = (free_port()?, free_port()?);
    let url = format!("http://127.0.0.1:{port}");
    let child = Spawn::new(env!("CARGO_BIN_EXE_storefence-gateway"))
        .args(["run", "--listen", &format!("127.0.0.1:{port}"), "--admin-listen", &format!("127.0.0.1:{admin}")])
        .args(["--public-url", &url, "--audience", principals::AUDIENCE, "--audience", principals::APPLICATION_ID_URI])
        .args(["--scope", principals::SCOPE, "--authority", &format!("https://{host}"), "--log-format", "json"])
        .args(["--credential", "client-secret", "--azure-tenant-id", ZAVA_TENANT_ID])
        .args(["--azure-client-id", principals::AUDIENCE, "--ca-file"])
        .arg(world.path("ca.pem"))
        .arg("--config")
        .arg(world.path("config.yaml"))
        .arg("--tenants")
        .arg(world.path("clouds"))
        .env("AZURE_CLIENT_SECRET", "unused")
        .env("HTTPS_PROXY", format!("http://127.0.0.1:{through}"))
        .log(world.path(&format!("{host}.log")))
        .start()?;
    let gateway = Gateway { child, url, admin: format!("http://127.0.0.1:{admin}") };
    world.ready(&gateway).await?;
    Ok((entra, gateway, proxy))
}

async fn clouds(world: Arc<World>) -> Result<()> {
    let tenants = world.path("clouds");
    std::fs::create_dir_all(&tenants)?;
    for tenant in [&ZAVA, &CONTOSO] {
        std::fs::write(tenants.join(format!("{}.yaml", tenant.id)), tenant.object().to_string())?;
    }
    let mut started = HashMap::new();
    for (host, v1) in CLOUDS {
        started.insert(host, cloud(&world, host, v1).await?);
    }
    for (host, v1) in CLOUDS {
        let (entra, gateway, _) = &started[host];
        ensure!(entra.issuer(ZAVA_TENANT_ID, TokenVersion::V2).starts_with(&format!("https://{host}/")));
        for request in [head_office()?, head_office()?.v1(), contoso()?] {
            let status = ask(&world, gateway, entra.issue(&request)?).await?;
            ensure!(status == 200, "{host}: {status} for {request:?}");
        }
        for (other, other_v1) in CLOUDS.into_iter().filter(|(other, _)| *other != host) {
            let foreign = &started[other].0;
            // With that cloud's key, and with our own cloud's key: the issuer is what is wrong.
            let token = foreign.issue(&head_office()?)?;
            refused(&world, gateway, &format!("{host}: of {other}"), "issuer", token).await?;
            let iss = foreign.issuer(ZAVA_TENANT_ID, TokenVersion::V2);
            let token = entra.issue(&head_office()?.claim("iss", json!(iss)))?;
            refused(&world, gateway, &format!("{host}: as if of {other}"), "issuer", token).await?;
            // The public cloud and that of the US government share the issuer of version 1.0: their keys differ.
            let reason = if v1 == other_v1 { "unknown_key" } else { "issuer" };
            let token = foreign.issue(&head_office()?.v1())?;
            refused(&world, gateway, &format!("{host}: version 1.0 of {other}"), reason, token).await?;
        }
        // The authority of all the other tests.
        let token = world.entra.issue(&head_office()?)?;
        refused(&world, gateway, &format!("{host}: of the stand-in"), "issuer", token).await?;
        let token = entra.issue(&head_office()?)?;
        refused(&world, &world.gateway, &format!("the stand-in: of {host}"), "issuer", token).await?;
    }
    for (_, (entra, gateway, proxy)) in started {
        drop(gateway);
        proxy.abort();
        tokio::time::timeout(Duration::from_secs(10), entra.shutdown()).await.context("the authority did not end")?;
    }
    Ok(())
}
