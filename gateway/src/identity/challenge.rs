//! The `WWW-Authenticate` header (RFC 6750, RFC 9728). Its texts are fixed: a library's details about a token would
//! help attackers.

use http::HeaderValue;

/// What the challenge asks of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// No token was sent.
    Token,
    /// The token that was sent is not accepted.
    AnotherToken,
    /// The token is valid but grants too little.
    MoreScope,
}

/// The header's value. `metadata` and `scopes` come from the configuration and contain no quotes.
#[must_use]
pub fn header(ask: Ask, metadata: &str, scopes: &[String]) -> HeaderValue {
    let error = match ask {
        Ask::Token => "",
        Ask::AnotherToken => r#"error="invalid_token", error_description="The access token is not accepted", "#,
        Ask::MoreScope => r#"error="insufficient_scope", "#,
    };
    let scope = if scopes.is_empty() { String::new() } else { format!(r#", scope="{}""#, scopes.join(" ")) };
    let text = format!(r#"Bearer {error}resource_metadata="{metadata}"{scope}"#);
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("Bearer"))
}

#[cfg(test)]
mod tests {
    use super::{Ask, header};

    #[test]
    fn shapes() {
        let scopes = ["api://x/Retail.Query".to_owned()];
        assert_eq!(
            header(Ask::Token, "https://g/.well-known/x", &scopes),
            r#"Bearer resource_metadata="https://g/.well-known/x", scope="api://x/Retail.Query""#
        );
        assert!(
            header(Ask::AnotherToken, "m", &[]).to_str().expect("text").starts_with(r#"Bearer error="invalid_token","#)
        );
        assert_eq!(header(Ask::MoreScope, "m", &[]), r#"Bearer error="insufficient_scope", resource_metadata="m""#);
    }
}
