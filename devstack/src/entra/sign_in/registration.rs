//! Dynamic client registration (RFC 7591), for public clients.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Client, redirect::RedirectUri};
use crate::entra::{Endpoint, Shared, routes::begin};

/// Most clients at a time, and most redirect URIs of one.
const MOST_CLIENTS: usize = 1000;
const MOST_URIS: usize = 10;
const GRANTS: [&str; 2] = ["authorization_code", "refresh_token"];

/// What a client says about itself, as far as it matters here. Other members are ignored, as the RFC asks.
#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    redirect_uris: Vec<String>,
    token_endpoint_auth_method: Option<String>,
    grant_types: Option<Vec<String>>,
    response_types: Option<Vec<String>>,
    client_name: Option<String>,
    application_type: Option<String>,
    scope: Option<String>,
}

pub(in crate::entra) async fn register(
    State(shared): State<Arc<Shared>>,
    Path(tid): Path<String>,
    body: Bytes,
) -> Response {
    if let Err(response) = begin(&shared, Endpoint::Registration, &tid).await {
        return response;
    }
    if shared.lock().sign_in.is_strict() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let answer = serde_json::from_slice::<Metadata>(&body)
        .map_err(|error| ("invalid_client_metadata", error.to_string()))
        .and_then(|metadata| accept(&metadata, &mut shared.lock().sign_in.clients));
    let (status, body) = match answer {
        Ok(body) => (StatusCode::CREATED, body),
        Err((error, text)) => (StatusCode::BAD_REQUEST, json!({"error": error, "error_description": text})),
    };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

fn accept(
    metadata: &Metadata,
    clients: &mut std::collections::HashMap<String, Client>,
) -> Result<Value, (&'static str, String)> {
    let invalid = |text: &str| Err(("invalid_client_metadata", text.to_owned()));
    let uris: Vec<RedirectUri> = metadata.redirect_uris.iter().map_while(|uri| RedirectUri::parse(uri)).collect();
    if uris.is_empty() || uris.len() > MOST_URIS || uris.len() < metadata.redirect_uris.len() {
        let text =
            format!("redirect_uris holds 1 to {MOST_URIS} URIs, each https, or http to 127.0.0.1, [::1] or localhost");
        return Err(("invalid_redirect_uri", text));
    }
    // A client that would have a secret gets none, and the answer says so: RFC 7591 lets the server replace what was asked for.
    let method = metadata.token_endpoint_auth_method.as_deref().unwrap_or("none");
    if !["none", "client_secret_basic", "client_secret_post"].contains(&method) {
        return invalid("only public clients are registered: token_endpoint_auth_method 'none'");
    }
    let asked =
        |list: &Option<Vec<String>>, word: &str| list.as_ref().is_none_or(|list| list.iter().any(|w| w == word));
    if !asked(&metadata.grant_types, GRANTS[0]) || !asked(&metadata.response_types, "code") {
        return invalid(
            "only the authorization-code flow is offered: grant_types holds authorization_code, response_types code",
        );
    }
    let refreshes = metadata.grant_types.is_some() && asked(&metadata.grant_types, GRANTS[1]);
    let name: String =
        metadata.client_name.as_deref().unwrap_or("An application without a name").chars().take(100).collect();
    if clients.len() >= MOST_CLIENTS {
        return invalid("too many clients are registered: start the stack again");
    }
    let id = Uuid::new_v4().to_string();
    let client = Client { id: id.clone(), secret: None, name: name.clone(), redirect_uris: uris, refreshes };
    clients.insert(id.clone(), client);
    Ok(json!({
        "client_id": id,
        "client_id_issued_at": jiff::Timestamp::now().as_second(),
        "client_name": name,
        "redirect_uris": metadata.redirect_uris,
        "grant_types": if refreshes { &GRANTS[..] } else { &GRANTS[..1] },
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        "application_type": metadata.application_type.as_deref().unwrap_or("native"),
        "scope": metadata.scope.as_deref().unwrap_or_default(),
    }))
}
