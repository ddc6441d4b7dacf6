//! From the `Authorization` header to a caller with a scope, to an outsider without one, or to an answer that reveals
//! no more than it must.

use std::{collections::BTreeSet, sync::Arc};

use axum::response::Response;
use http::{HeaderMap, StatusCode, header};
use prometheus::IntCounter;
use serde_json::json;
use storefence_tenancy::{
    Claims, Scope, TenantId,
    claims::{Groups, TokenKind},
    rules::Selector,
};
use uuid::Uuid;

use super::{errors, metadata::Metadata};
use crate::{
    caller::Caller,
    identity::{
        Identity, Principal, Reject, TokenSettings,
        challenge::{self, Ask},
    },
    mcp::outsider::{Outsider, Why},
    metrics::Metrics,
    tenants::{Tenant, registry::Snapshot, watch::Tenants},
};

/// The claim with a token's scopes.
const SCOPE_CLAIM: &str = "scp";

/// Why a request is refused with a challenge: signing in again could give another token. A refusal by rules is no such
/// reason, see [`Outsider`].
#[derive(Debug)]
pub enum Denied {
    /// 401.
    Token(Reject),
    /// 403: the token lacks the scope of this API.
    Scope(Uuid),
}

/// The sender of a request with a valid token.
#[derive(Clone, Debug)]
pub enum Visitor {
    /// A caller with a scope in one tenant.
    Caller(Arc<Caller>),
    /// A caller without a scope.
    Outsider(Arc<Outsider>),
}

impl Visitor {
    #[must_use]
    pub fn principal(&self) -> &Principal {
        match self {
            Self::Caller(caller) => &caller.principal,
            Self::Outsider(outsider) => &outsider.principal,
        }
    }

    /// The id of the request in the log.
    #[must_use]
    pub fn correlation(&self) -> Uuid {
        match self {
            Self::Caller(caller) => caller.correlation,
            Self::Outsider(outsider) => outsider.correlation,
        }
    }

    /// The tenant for telemetry; outsiders have none, whatever the path names.
    #[must_use]
    pub fn tenant(&self) -> &str {
        match self {
            Self::Caller(caller) => caller.tenant.id().as_str(),
            Self::Outsider(_) => "",
        }
    }

    /// The same visitor for another message of a batch: each message has an id of its own.
    #[must_use]
    pub fn again(&self) -> Self {
        match self {
            Self::Outsider(_) => self.clone(),
            Self::Caller(caller) => Self::Caller(Arc::new(Caller {
                principal: caller.principal.clone(),
                tenant: caller.tenant.clone(),
                scope: caller.scope.clone(),
                correlation: correlation(),
            })),
        }
    }

    /// Adds the visitor to the request, where rmcp's handler finds it.
    pub fn enter(self, extensions: &mut http::Extensions) {
        match self {
            Self::Caller(caller) => drop(extensions.insert(caller)),
            Self::Outsider(outsider) => drop(extensions.insert(outsider)),
        }
    }
}

/// A new id, from this thread's generator: `Uuid::new_v4` makes a system call each time.
fn correlation() -> Uuid {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid()
}

/// The authentication layer.
pub struct Access {
    identity: Identity,
    tenants: Arc<Tenants>,
    /// The scopes of which `scp` must hold one.
    words: Vec<String>,
    metadata: Arc<Metadata>,
    metrics: Arc<Metrics>,
    accepted: IntCounter,
    granted: IntCounter,
}

impl Access {
    /// Accepts callers whom `identity` and the tenants' rules know.
    #[must_use]
    pub fn new(
        identity: Identity,
        tokens: &TokenSettings,
        tenants: Arc<Tenants>,
        metadata: Arc<Metadata>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let words = tokens.words();
        // The counters that every call needs are looked up by their labels once.
        let accepted = metrics.tokens.with_label_values(&["accepted", ""]);
        let granted = metrics.scopes.with_label_values(&["granted"]);
        Self { identity, tenants, words, metadata, metrics, accepted, granted }
    }

    /// Determines the caller and its scope. The scope is computed from the rules in force at this moment, never cached.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn visitor(&self, headers: &HeaderMap, tenant: Option<&str>) -> Result<Visitor, Denied> {
        let verified = match bearer(headers) {
            Ok(token) => {
                let snapshot = self.tenants.load_full();
                let accepts = |directory: Uuid| !snapshot.of_directory(directory).is_empty();
                self.identity.verify(token, accepts).await
            }
            Err(reject) => Err(reject),
        };
        let principal = match verified {
            Ok(principal) => {
                self.accepted.inc();
                principal
            }
            Err(reject) => {
                self.metrics.tokens.with_label_values(&["rejected", reject.reason()]).inc();
                if reject != Reject::Missing {
                    tracing::info!(reason = reject.reason(), "token rejected: {reject}");
                }
                return Err(Denied::Token(reject));
            }
        };
        let correlation = correlation();
        let claims = &principal.claims;
        // Scopes are what a user lets a client do. An application that calls on its own behalf has none: its permission
        // is the rule that names it, and without that rule it is refused below.
        if claims.kind == TokenKind::User && !self.words.iter().any(|word| claims.has_scope(word)) {
            self.metrics.scopes.with_label_values(&["InsufficientScope"]).inc();
            tracing::info!(
                correlation_id = %correlation, tid = %claims.tid, oid = %claims.oid, looked_at = SCOPE_CLAIM,
                "the token lacks the scope"
            );
            return Err(Denied::Scope(correlation));
        }
        let snapshot = self.tenants.load();
        let why = match resolve(&snapshot, claims, tenant) {
            Ok((tenant, scope)) => {
                self.granted.inc();
                return Ok(Visitor::Caller(Arc::new(Caller { principal, tenant, scope, correlation })));
            }
            Err(Unresolved::Several(tenants)) => {
                self.metrics.scopes.with_label_values(&["Ambiguous"]).inc();
                Why::Several(tenants)
            }
            Err(Unresolved::None(reasons)) => {
                self.metrics.scopes.with_label_values(&["NoRule"]).inc();
                let path_tenant = tenant.unwrap_or_default();
                let (looked_at, overage) = looked_at(&snapshot, &principal);
                let looked_at: Vec<_> = looked_at.into_iter().collect();
                tracing::info!(
                    correlation_id = %correlation, tid = %claims.tid, oid = %claims.oid, path_tenant, ?reasons,
                    looked_at = looked_at.join(", "), "no principal rule matches the token"
                );
                Why::NoRule { looked_at, overage }
            }
        };
        Ok(Visitor::Outsider(Arc::new(Outsider { principal, correlation, why })))
    }

    /// The HTTP answer.
    #[must_use]
    pub fn answer(&self, denied: Denied, tenant: Option<&str>) -> Response {
        let (status, ask, body) = match denied {
            Denied::Token(Reject::Missing) => {
                let body = json!({"error": "unauthorized", "message": "A bearer token is required"});
                (StatusCode::UNAUTHORIZED, Ask::Token, body)
            }
            Denied::Token(_) => {
                let body = json!({"error": "invalid_token", "message": "The access token is not accepted"});
                (StatusCode::UNAUTHORIZED, Ask::AnotherToken, body)
            }
            Denied::Scope(correlation) => {
                let message = format!("The access token needs the scope {}", self.words.join(" or "));
                let claims = [SCOPE_CLAIM];
                let body = json!({"error": "insufficient_scope", "message": message, "claims": claims, "correlationId": correlation});
                (StatusCode::FORBIDDEN, Ask::MoreScope, body)
            }
        };
        let mut response = errors::body(status, &body);
        let value = challenge::header(ask, &self.metadata.url(tenant), self.metadata.scopes());
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
        response
    }
}

/// The token of the only `Authorization` header. Tokens in the query or in the body are ignored.
fn bearer(headers: &HeaderMap) -> Result<&str, Reject> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Err(Reject::Missing) };
    if values.next().is_some() {
        return Err(Reject::Header);
    }
    let value = value.as_bytes();
    let space = value.iter().position(|byte| *byte == b' ').ok_or(Reject::Header)?;
    let (scheme, token) = (&value[..space], &value[space + 1..]);
    // No early exit: a loop that may stop checks one byte at a time, which would be 4 % of a call.
    let is_one = token.iter().fold(true, |so_far, byte| so_far & byte.is_ascii_graphic() & (*byte != b','));
    if !scheme.eq_ignore_ascii_case(b"bearer") || token.is_empty() || !is_one {
        return Err(Reject::Header);
    }
    std::str::from_utf8(token).map_err(|_| Reject::Header)
}

enum Unresolved {
    None(Vec<&'static str>),
    Several(Vec<TenantId>),
}

/// The tenant that the path names or, without one, the only tenant with a matching rule.
fn resolve(snapshot: &Snapshot, claims: &Claims, tenant: Option<&str>) -> Result<(Arc<Tenant>, Scope), Unresolved> {
    if let Some(named) = tenant {
        let found = named.parse::<TenantId>().ok().and_then(|id| snapshot.get(&id).cloned());
        let found = found.ok_or(Unresolved::None(vec!["UnknownTenant"]))?;
        let scope = Scope::compute(claims, &found.rules).map_err(|none| Unresolved::None(vec![none.reason()]))?;
        return Ok((found, scope));
    }
    let (mut granted, mut reasons) = (Vec::new(), Vec::new());
    for tenant in snapshot.of_directory(claims.tid) {
        match Scope::compute(claims, &tenant.rules) {
            Ok(scope) => granted.push((tenant.clone(), scope)),
            Err(none) => reasons.push(none.reason()),
        }
    }
    match granted.len() {
        0 => Err(Unresolved::None(reasons)),
        1 => granted.pop().ok_or(Unresolved::None(reasons)),
        _ => Err(Unresolved::Several(granted.into_iter().map(|(tenant, _)| tenant.id().clone()).collect())),
    }
}

/// The claims that rules of the caller's directory use. They depend on the directory alone and not on the path, so they
/// reveal nothing about whether a tenant exists.
fn looked_at(snapshot: &Snapshot, principal: &Principal) -> (BTreeSet<String>, bool) {
    let mut names = BTreeSet::from(["oid".to_owned(), "roles".to_owned()]);
    let mut by_group = false;
    for tenant in snapshot.of_directory(principal.claims.tid) {
        for rule in tenant.rules.rules() {
            match &rule.selector {
                Selector::User(_) | Selector::AppRole(_) => {}
                Selector::Application(_) => names.extend(["azp", "appid"].map(str::to_owned)),
                Selector::Group(_) => by_group = true,
                Selector::Claim { name, .. } | Selector::StoresFromClaim(name) => drop(names.insert(name.clone())),
            }
        }
    }
    if by_group {
        names.insert("groups".to_owned());
    }
    (names, by_group && principal.claims.groups == Groups::Overage)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header};

    use super::{Reject, bearer};

    #[test]
    fn one_bearer_token_in_one_header() {
        let with = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(with(&["Bearer a.b.c"]).as_deref(), Ok("a.b.c"));
        assert_eq!(with(&["bearer a.b.c"]).as_deref(), Ok("a.b.c"));
        assert_eq!(with(&[]), Err(Reject::Missing));
        for values in [
            &["Bearer a", "Bearer a"][..],
            &["Basic YTpi"],
            &["Bearer"],
            &["Bearer "],
            &["Bearer a b"],
            &["Bearer a, Bearer b"],
            &["a.b.c"],
            &["Bearer a\tb"],
            &["Bearer\ta"],
            &["Bearer  a"],
        ] {
            assert_eq!(with(values), Err(Reject::Header), "{values:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_bytes("Bearer ä".as_bytes()).expect("a value"));
        assert_eq!(bearer(&headers), Err(Reject::Header));
    }
}
