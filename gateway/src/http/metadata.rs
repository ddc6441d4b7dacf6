//! OAuth 2.0 Protected Resource Metadata (RFC 9728).
//!
//! The document of a tenant's endpoint is made from its path alone, so existing and missing tenants look the same.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use serde_json::json;
use storefence_tenancy::TenantId;
use url::Url;

use super::{App, errors};
use crate::{
    identity::{TokenSettings, authority::Authority},
    tenants::watch::Tenants,
};

/// The content of the documents.
pub struct Metadata {
    /// The URL that clients use, without a trailing slash.
    public: String,
    scopes: Vec<String>,
    authorization_server: Option<Url>,
    authority: Authority,
    tenants: Arc<Tenants>,
}

impl Metadata {
    /// `authorization_server` overrides the one derived from authority and directories.
    #[must_use]
    pub fn new(public: &Url, tokens: &TokenSettings, authorization_server: Option<Url>, tenants: Arc<Tenants>) -> Self {
        let TokenSettings { scopes, authority, .. } = tokens.clone();
        let public = public.as_str().trim_end_matches('/').to_owned();
        Self { public, scopes, authorization_server, authority, tenants }
    }

    /// The URL of an endpoint's document.
    #[must_use]
    pub fn url(&self, tenant: Option<&str>) -> String {
        match tenant.and_then(|tenant| tenant.parse::<TenantId>().ok()) {
            Some(tenant) => format!("{}/.well-known/oauth-protected-resource/{tenant}/mcp", self.public),
            None => format!("{}/.well-known/oauth-protected-resource/mcp", self.public),
        }
    }

    /// The scopes to request.
    #[must_use]
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    fn document(&self, path: &str) -> Response {
        // A single directory is named, so that single-tenant registrations work. Several are not named, since the
        // document is public and the directory follows from the account.
        let server = self.authorization_server.as_ref().map(|url| url.as_str().trim_end_matches('/').to_owned());
        let server = server.unwrap_or_else(|| match self.tenants.load().directories().as_slice() {
            [only] => self.authority.v2_issuer(*only),
            _ => self.authority.organizations(),
        });
        let document = json!({
            "resource": format!("{}{path}", self.public),
            "authorization_servers": [server],
            "scopes_supported": self.scopes,
            "bearer_methods_supported": ["header"],
            "resource_name": "Storefence",
        });
        errors::body(StatusCode::OK, &document)
    }
}

/// The document of `/mcp`, at both of its paths.
pub async fn root(State(app): State<Arc<App>>) -> Response {
    app.metadata.document("/mcp")
}

/// The document of `/{tenantId}/mcp`.
pub async fn of_tenant(State(app): State<Arc<App>>, Path(tenant): Path<String>) -> Response {
    match tenant.parse::<TenantId>() {
        Ok(tenant) => app.metadata.document(&format!("/{tenant}/mcp")),
        Err(_) => errors::plain(StatusCode::NOT_FOUND),
    }
}
