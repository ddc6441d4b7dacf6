//! Redirect URIs: which ones a public client may register, and which request matches a registered one.

use url::{Host, Url};

/// A redirect URI as it was written, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RedirectUri {
    text: String,
    url: Url,
}

impl RedirectUri {
    /// Accepts what a public client can keep to itself: HTTPS, or HTTP to the machine it runs on (RFC 8252 section 7.3).
    /// Schemes of an application's own are refused: any other application can claim them.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        // The parser corrects what it can. A URI that needs correcting would not compare equal with itself.
        let as_written =
            text.len() <= 2000 && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\');
        let uri = Self { text: text.to_owned(), url };
        (plain && as_written && (uri.url.scheme() == "https" || uri.is_loopback())).then_some(uri)
    }

    /// Whether it leads back to the machine that the browser runs on. Entra ID takes `localhost` beside the addresses.
    fn is_loopback(&self) -> bool {
        self.url.scheme() == "http"
            && match self.url.host() {
                Some(Host::Ipv4(address)) => address == std::net::Ipv4Addr::LOCALHOST,
                Some(Host::Ipv6(address)) => address == std::net::Ipv6Addr::LOCALHOST,
                Some(Host::Domain(name)) => name == "localhost",
                None => false,
            }
    }

    /// Whether Entra ID would register it: 256 characters at most, and never the address `[::1]`.
    pub(super) fn is_registrable(&self) -> bool {
        self.text.len() <= 256 && !matches!(self.url.host(), Some(Host::Ipv6(_)))
    }

    /// Whether a request may use `other` where this one is registered: letter by letter the same, but for the port of a
    /// loopback URI, which the client's machine gives out anew each time.
    pub(super) fn covers(&self, other: &Self) -> bool {
        if self.text == other.text {
            return true;
        }
        let same = |part: fn(&Url) -> Option<&str>| part(&self.url) == part(&other.url);
        self.is_loopback()
            && other.is_loopback()
            && same(Url::host_str)
            && same(Url::query)
            && self.url.path() == other.url.path()
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Host and port as a person reads them.
    pub(super) fn host(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        self.url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// The URI with an answer in its query.
    pub(super) fn with(&self, answer: &[(&str, &str)]) -> String {
        let mut url = self.url.clone();
        url.query_pairs_mut().extend_pairs(answer);
        url.into()
    }
}

#[cfg(test)]
mod tests {
    use super::RedirectUri;

    #[test]
    fn registered_are_https_and_this_machine() {
        for good in [
            "https://vscode.dev/redirect",
            "http://127.0.0.1/",
            "http://127.0.0.1:33418/",
            "http://localhost:8000/callback",
            "http://[::1]:1/",
        ] {
            assert!(RedirectUri::parse(good).is_some(), "{good}");
        }
        for bad in [
            "http://example.com/",
            "http://127.0.0.1.example.com/",
            "http://127.0.0.2/",
            "http://localhost.example.com/",
            "http://user@127.0.0.1/",
            "https://user:word@example.com/",
            "https://example.com/#fragment",
            "https://example.com/ x",
            "https:\\\\example.com",
            "javascript:alert(1)",
            "data:text/html,x",
            "vscode://callback",
            "/callback",
            "",
        ] {
            assert!(RedirectUri::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn only_the_port_of_this_machine_may_differ() {
        let uri = |text| RedirectUri::parse(text).unwrap();
        for (registered, asked) in [
            ("https://vscode.dev/redirect", "https://vscode.dev/redirect"),
            ("http://127.0.0.1/", "http://127.0.0.1:49152/"),
            ("http://127.0.0.1:33418/", "http://127.0.0.1/"),
            ("http://[::1]/cb", "http://[::1]:9/cb"),
            ("http://localhost/cb?a=1", "http://localhost:9/cb?a=1"),
        ] {
            assert!(uri(registered).covers(&uri(asked)), "{registered} {asked}");
        }
        for (registered, asked) in [
            ("https://vscode.dev/redirect", "https://vscode.dev/redirect/"),
            ("https://vscode.dev/redirect", "https://vscode.dev:8443/redirect"),
            ("https://vscode.dev/redirect", "https://vscode.dev/redirect?x=1"),
            ("https://vscode.dev/redirect", "https://VSCODE.dev/redirect"),
            ("http://127.0.0.1/", "http://127.0.0.1:49152/other"),
            ("http://127.0.0.1/", "http://127.0.0.1:49152/?x=1"),
            ("http://127.0.0.1/", "http://localhost:49152/"),
            ("http://127.0.0.1/", "http://[::1]:49152/"),
            ("https://127.0.0.1/", "https://127.0.0.1:49152/"),
        ] {
            assert!(!uri(registered).covers(&uri(asked)), "{registered} {asked}");
        }
    }

    #[test]
    fn answers_are_added_and_encoded() {
        let uri = RedirectUri::parse("http://127.0.0.1:9/cb?a=1").unwrap();
        assert_eq!(
            uri.with(&[("code", "x&y"), ("state", "ä b")]),
            "http://127.0.0.1:9/cb?a=1&code=x%26y&state=%C3%A4+b"
        );
        assert_eq!(uri.host(), "127.0.0.1:9");
    }
}
