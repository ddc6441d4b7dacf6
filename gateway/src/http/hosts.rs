//! Host and Origin allow-lists, on by default: without them a web page could reach a gateway on the user's machine or
//! network by rebinding a DNS name (MCP, Streamable HTTP, security).

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use axum::{extract::Request, response::Response};
use futures::future::{Either, Ready, ready};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header, uri::Authority};
use tower::{Layer, Service};
use url::Url;

use super::{App, errors, limits};

const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// The allow-lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    hosts: Vec<HostPattern>,
    origins: Vec<OriginPattern>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct HostPattern {
    name: String,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct OriginPattern {
    scheme: String,
    host: String,
    port: Option<u16>,
}

/// An entry that is neither a host nor an origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not {1}")]
pub struct InvalidEntry(String, &'static str);

impl Allowed {
    /// The public URL's own host and origin, and the given ones. With a loopback URL, all names of loopback are equal.
    ///
    /// # Errors
    /// [`InvalidEntry`].
    pub fn new(public: &Url, hosts: &[String], origins: &[String]) -> Result<Self, InvalidEntry> {
        let own = public.host_str().unwrap_or_default().to_ascii_lowercase();
        let mut allowed = Self { hosts: Vec::new(), origins: Vec::new() };
        if LOOPBACK.contains(&own.as_str()) {
            for name in LOOPBACK {
                allowed.hosts.push(HostPattern { name: name.to_owned(), port: None });
                for scheme in ["http", "https"] {
                    allowed.origins.push(OriginPattern {
                        scheme: scheme.to_owned(),
                        host: name.to_owned(),
                        port: None,
                    });
                }
            }
        } else {
            allowed.hosts.push(HostPattern { name: own, port: public.port_or_known_default() });
            allowed.origins.extend(origin(public.as_str()));
        }
        for entry in hosts {
            let authority: Authority = entry.parse().map_err(|_| InvalidEntry(entry.clone(), "a host or host:port"))?;
            allowed.hosts.push(HostPattern { name: authority.host().to_ascii_lowercase(), port: authority.port_u16() });
        }
        for entry in origins {
            let parsed = origin(entry).ok_or_else(|| InvalidEntry(entry.clone(), "an origin such as https://host"))?;
            allowed.origins.push(parsed);
        }
        Ok(allowed)
    }

    fn host(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let mut named = headers.get_all(header::HOST).iter();
        let authority = match (named.next(), named.next()) {
            (Some(host), None) => host.to_str().ok().and_then(|text| text.parse::<Authority>().ok()),
            // HTTP/2 sends it in :authority.
            (None, _) => uri.authority().cloned(),
            _ => None,
        };
        let Some(authority) = authority else { return false };
        // If the target itself names a host (absolute form, or :authority beside a Host), both must be the same: a
        // proxy in front may have checked either.
        if uri.authority().is_some_and(|target| !is_same(target, &authority)) {
            return false;
        }
        let name = authority.host();
        // Behind TLS termination the port in Host is the public one or missing; if missing, it is the scheme's default.
        self.hosts.iter().any(|pattern| {
            let port = authority.port_u16();
            pattern.name.eq_ignore_ascii_case(name)
                && (pattern.port.is_none()
                    || pattern.port == port
                    || (port.is_none() && matches!(pattern.port, Some(80 | 443))))
        })
    }

    fn origin(&self, headers: &HeaderMap) -> bool {
        headers.get_all(header::ORIGIN).iter().all(|value| self.is_origin(value))
    }

    /// Whether pages of this origin may send requests.
    #[must_use]
    pub fn is_origin(&self, value: &HeaderValue) -> bool {
        let sent = value.to_str().ok().and_then(origin);
        sent.is_some_and(|sent| {
            self.origins.iter().any(|pattern| {
                let port = pattern.port.is_none() || pattern.port == sent.port;
                pattern.scheme == sent.scheme && pattern.host == sent.host && port
            })
        })
    }
}

/// Whether two authorities are the same host and port; a missing port is the scheme's default.
fn is_same(one: &Authority, other: &Authority) -> bool {
    let ports = match (one.port_u16(), other.port_u16()) {
        (None, None) => true,
        (Some(port), None) | (None, Some(port)) => matches!(port, 80 | 443),
        (one, other) => one == other,
    };
    ports && one.host().eq_ignore_ascii_case(other.host())
}

fn origin(text: &str) -> Option<OriginPattern> {
    let url = Url::parse(text).ok()?;
    let host = url.host_str()?.to_ascii_lowercase();
    Some(OriginPattern { scheme: url.scheme().to_owned(), host, port: url.port_or_known_default() })
}

/// Refuses a request whose URL is too long, or whose Host or Origin is not on the list. A layer rather than a
/// middleware function, which would box each request and clone the inner service.
#[derive(Clone)]
pub struct Check(pub Arc<App>);

/// The inner service.
#[derive(Clone)]
pub struct Checked<S> {
    app: Arc<App>,
    inner: S,
}

impl<S> Layer<S> for Check {
    type Service = Checked<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Checked { app: self.0.clone(), inner }
    }
}

impl<S: Service<Request, Response = Response>> Service<Request> for Checked<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match refusal(&self.app.allowed, &request) {
            Some(response) => Either::Right(ready(Ok(response))),
            None => Either::Left(self.inner.call(request)),
        }
    }
}

fn refusal(allowed: &Allowed, request: &Request) -> Option<Response> {
    if limits::is_too_long(request.uri()) {
        return Some(errors::plain(StatusCode::URI_TOO_LONG));
    }
    if !allowed.host(request.uri(), request.headers()) || !allowed.origin(request.headers()) {
        tracing::warn!(
            host = ?request.headers().get(header::HOST), origin = ?request.headers().get(header::ORIGIN),
            "refused a request: its Host or Origin is not allowed"
        );
        return Some(errors::plain(StatusCode::FORBIDDEN));
    }
    None
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Uri, header};

    use super::Allowed;

    fn ask(allowed: &Allowed, host: &'static str, origin: Option<&'static str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static(host));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        }
        allowed.host(&Uri::from_static("/mcp"), &headers) && allowed.origin(&headers)
    }

    #[test]
    fn a_public_gateway_answers_to_its_own_name() {
        let public = "https://gateway.example".parse().expect("URL");
        let extra = ["storefence-gateway.retail.svc:8080".to_owned()];
        let allowed = Allowed::new(&public, &extra, &["https://app.example".to_owned()]).expect("lists");
        for (host, origin, expected) in [
            ("gateway.example", None, true),
            ("GATEWAY.example:443", None, true),
            ("gateway.example:8443", None, false),
            ("storefence-gateway.retail.svc:8080", None, true),
            ("localhost", None, false),
            ("evil.example", None, false),
            ("gateway.example.evil.example", None, false),
            ("gateway.example", Some("https://gateway.example"), true),
            ("gateway.example", Some("https://app.example:443"), true),
            ("gateway.example", Some("http://app.example"), false),
            ("gateway.example", Some("https://evil.example"), false),
            ("gateway.example", Some("null"), false),
        ] {
            assert_eq!(ask(&allowed, host, origin), expected, "{host} {origin:?}");
        }
    }

    #[test]
    fn a_target_that_names_a_host_names_the_same_one() {
        let public = "https://gateway.example".parse().expect("URL");
        let extra = ["other.example".to_owned()];
        let allowed = Allowed::new(&public, &extra, &[]).expect("lists");
        for (target, host, expected) in [
            ("/mcp", "gateway.example", true),
            ("https://gateway.example/mcp", "gateway.example", true),
            ("https://GATEWAY.example:443/mcp", "gateway.example", true),
            ("https://evil.example/mcp", "gateway.example", false),
            ("https://other.example/mcp", "gateway.example", false),
            ("https://gateway.example:8443/mcp", "gateway.example", false),
            ("https://gateway.example/mcp", "evil.example", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            assert_eq!(allowed.host(&Uri::from_static(target), &headers), expected, "{target} {host}");
        }
        assert!(allowed.host(&Uri::from_static("https://gateway.example/mcp"), &HeaderMap::new()), ":authority alone");
        assert!(!allowed.host(&Uri::from_static("https://evil.example/mcp"), &HeaderMap::new()));
    }

    #[test]
    fn a_local_gateway_answers_to_all_names_of_loopback() {
        let allowed = Allowed::new(&"http://127.0.0.1:8080".parse().expect("URL"), &[], &[]).expect("lists");
        assert!(ask(&allowed, "localhost:8080", Some("http://localhost:3000")));
        assert!(ask(&allowed, "[::1]:1", None));
        assert!(!ask(&allowed, "evil.example", None));
        assert!(!ask(&allowed, "127.0.0.1:8080", Some("http://evil.example")));
    }
}
