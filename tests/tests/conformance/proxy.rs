//! The suite cannot send a token: this adds it, and passes everything else through as it came, Host and Origin included.

use std::sync::Arc;

use anyhow::Result;
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::Response,
};
use reqwest::{
    StatusCode,
    header::{self, HeaderMap, HeaderName},
};
use storefence_devstack::http::{self, Bind, ServerHandle};

/// Headers that belong to one connection (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_LENGTH,
];

/// A running proxy on loopback.
pub struct HeaderProxy(ServerHandle);

struct Target {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl HeaderProxy {
    /// Passes requests on to `url` with `token`.
    pub async fn start(url: &str, token: String) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        let target = Arc::new(Target { http, url: url.to_owned(), token });
        let router = Router::new().fallback(pass).with_state(target);
        Ok(Self(http::serve(Bind::loopback(), None, router).await?))
    }

    /// The endpoint as the suite is to call it: it expects to find a server on localhost.
    pub fn url(&self) -> String {
        format!("http://localhost:{}/mcp", self.0.addr().port())
    }
}

async fn pass(State(target): State<Arc<Target>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = match axum::body::to_bytes(body, 4 << 20).await {
        Ok(body) => body,
        Err(_) => return answer(StatusCode::PAYLOAD_TOO_LARGE),
    };
    let request = target.http.request(parts.method, &target.url).headers(end_to_end(&parts.headers));
    match request.bearer_auth(&target.token).body(body).send().await {
        Ok(response) => {
            let (status, headers) = (response.status(), end_to_end(response.headers()));
            // A stream ends at the gateway when the suite closes its end.
            let mut passed = Response::new(Body::from_stream(response.bytes_stream()));
            (*passed.status_mut(), *passed.headers_mut()) = (status, headers);
            passed
        }
        Err(_) => answer(StatusCode::BAD_GATEWAY),
    }
}

fn answer(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    HOP_BY_HOP.iter().for_each(|name| {
        headers.remove(name);
    });
    headers
}
