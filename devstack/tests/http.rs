//! The server and the authority under every stand-in.

use std::time::Duration;

use axum::{Router, extract::ConnectInfo, routing::get};
use reqwest::{Certificate, Client, ClientBuilder, Version};
use storefence_devstack::{
    http::{self, Bind, ServerHandle},
    tls::Authority,
};

fn router() -> Router {
    Router::new()
        .route("/", get(|ConnectInfo(peer): ConnectInfo<std::net::SocketAddr>| async move { peer.ip().to_string() }))
        .route("/hang", get(std::future::pending::<()>))
        .route(
            "/slow",
            get(async || {
                tokio::time::sleep(Duration::from_millis(300)).await;
                "done"
            }),
        )
}

fn trusting(authority: &Authority) -> ClientBuilder {
    Client::builder().no_proxy().tls_certs_only([Certificate::from_pem(authority.pem().as_bytes()).unwrap()])
}

async fn start(authority: &Authority) -> ServerHandle {
    let tls = authority.server_config(&["stack.example"]).unwrap();
    http::serve(http::bind_loopback().unwrap(), Some(tls), router()).await.unwrap()
}

#[tokio::test]
async fn speaks_both_protocols_with_and_without_tls_to_those_who_trust_it() {
    let authority = Authority::new().unwrap();
    let server = start(&authority).await;
    assert_eq!(server.url(), format!("https://{}", server.addr()));
    let h2 = trusting(&authority).build().unwrap().get(server.url()).send().await.unwrap();
    assert_eq!(h2.version(), Version::HTTP_2);
    assert_eq!(h2.text().await.unwrap(), "127.0.0.1");
    let h1 = trusting(&authority).http1_only().build().unwrap().get(server.url()).send().await.unwrap();
    assert_eq!(h1.version(), Version::HTTP_11);
    for name in ["localhost", "stack.example"] {
        let client = trusting(&authority).resolve(name, server.addr()).build().unwrap();
        assert!(client.get(format!("https://{name}:{}", server.addr().port())).send().await.is_ok(), "{name}");
    }
    let other = trusting(&authority).resolve("other.example", server.addr()).build().unwrap();
    assert!(other.get(format!("https://other.example:{}", server.addr().port())).send().await.is_err());
    let stranger = trusting(&Authority::new().unwrap()).build().unwrap();
    assert!(stranger.get(server.url()).send().await.is_err(), "another authority's client");

    let plain = http::serve(Bind::loopback(), None, router()).await.unwrap();
    let client = Client::builder().no_proxy().build().unwrap();
    assert_eq!(client.get(plain.url()).send().await.unwrap().version(), Version::HTTP_11);
    let h2c = Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    assert_eq!(h2c.get(plain.url()).send().await.unwrap().version(), Version::HTTP_2);
}

#[tokio::test]
async fn shutdown_lets_short_requests_finish_and_cuts_the_others() {
    let authority = Authority::new().unwrap();
    let server = start(&authority).await;
    let client = trusting(&authority).http1_only().build().unwrap();
    let (slow, hang) = (format!("{}/slow", server.url()), format!("{}/hang", server.url()));
    let addr = server.addr();
    let slow = tokio::spawn(client.get(slow).send());
    let hang = tokio::spawn(client.get(hang).send());
    // Both requests are on their way before the server is stopped: the server answers a third one after them.
    client.get(server.url()).send().await.unwrap();
    server.shutdown().await;
    assert_eq!(slow.await.unwrap().unwrap().text().await.unwrap(), "done");
    assert!(hang.await.unwrap().is_err());
    assert!(tokio::net::TcpStream::connect(addr).await.is_err(), "the port is free");
}

#[tokio::test]
async fn can_be_cut_off_and_dropped() {
    let authority = Authority::new().unwrap();
    let server = start(&authority).await;
    let client = trusting(&authority).build().unwrap();
    let hang = tokio::spawn(client.get(format!("{}/hang", server.url())).send());
    client.get(server.url()).send().await.unwrap();
    server.cut_connections();
    assert!(hang.await.unwrap().is_err());
    client.get(server.url()).send().await.unwrap();
    server.set_down(true);
    assert!(client.get(server.url()).send().await.is_err());
    server.set_down(false);
    client.get(server.url()).send().await.unwrap();
    let hang = tokio::spawn(client.get(format!("{}/hang", server.url())).send());
    client.get(server.url()).send().await.unwrap();
    drop(server);
    assert!(hang.await.unwrap().is_err());
}
