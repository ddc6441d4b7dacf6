//! The authority's documents and endpoints.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    Endpoint, Fault, Shared, TokenRequest, TokenVersion,
    clients::{self, Refusal, refuse},
    principals,
    sign_in::{self, BaseUrl},
};

/// Names that stand for every tenant. Their documents speak of `{tenantid}`.
pub(super) const MULTI_TENANT: [&str; 3] = ["common", "organizations", "consumers"];

pub(super) fn router(shared: Arc<Shared>) -> Router {
    // What clients in a browser ask for. The pages and `/_standin` are not among it: any site could sign in by itself.
    let open = Router::new()
        .route("/.well-known/oauth-authorization-server/{tid}/v2.0", get(authorization_server))
        .route("/{tid}/v2.0/.well-known/openid-configuration", get(configuration_v2))
        .route("/{tid}/.well-known/openid-configuration", get(configuration_v1))
        .route("/{tid}/discovery/v2.0/keys", get(keys_v2))
        .route("/{tid}/discovery/keys", get(keys_v1))
        .route("/{tid}/oauth2/v2.0/token", post(token))
        .route("/{tid}/oauth2/v2.0/register", post(sign_in::register))
        .layer(middleware::from_fn(sign_in::open_to_browsers));
    Router::new()
        .merge(open)
        .merge(sign_in::pages())
        .layer(Extension(BaseUrl(shared.issuers.authority.as_str().into())))
        .route("/common/discovery/instance", get(instance))
        .route("/_standin/token", post(standin_token))
        .with_state(shared)
}

/// Counts the request and plays the endpoint's fault, if there is one that replaces the answer.
pub(super) async fn begin(shared: &Shared, endpoint: Endpoint, tid: &str) -> Result<(), Response> {
    let fault = {
        let mut state = shared.lock();
        *state.counts.entry((endpoint, tid.to_owned())).or_default() += 1;
        state.faults.get(&endpoint).cloned()
    };
    match fault {
        None => {}
        Some(Fault::Slow(delay)) => tokio::time::sleep(delay).await,
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Status(code)) => {
            return Err(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR).into_response());
        }
        Some(Fault::Body(kind, body)) => return Err(([(header::CONTENT_TYPE, kind)], body).into_response()),
    }
    let known = MULTI_TENANT.contains(&tid) || shared.lock().tenants.contains(tid);
    if known {
        return Ok(());
    }
    Err(answer_refusal(refuse(90_002, "invalid_tenant", 400, format!("Tenant '{tid}' not found."))))
}

async fn configuration(shared: &Shared, tid: &str, version: TokenVersion) -> Response {
    if let Err(response) = begin(shared, Endpoint::Configuration, tid).await {
        return response;
    }
    let base = &shared.issuers.authority;
    let issuer_tid = if MULTI_TENANT.contains(&tid) { "{tenantid}" } else { tid };
    let (keys, oauth) = match version {
        TokenVersion::V1 => ("discovery/keys", "oauth2"),
        TokenVersion::V2 => ("discovery/v2.0/keys", "oauth2/v2.0"),
    };
    let mut document = json!({
        "issuer": shared.issuers.issuer(issuer_tid, version),
        "token_endpoint": format!("{base}/{tid}/{oauth}/token"),
        "authorization_endpoint": format!("{base}/{tid}/{oauth}/authorize"),
        "jwks_uri": format!("{base}/{tid}/{keys}"),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        "response_modes_supported": ["query"],
        "response_types_supported": ["code"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "claims_supported": ["sub", "iss", "aud", "exp", "iat", "nonce", "preferred_username", "name", "tid", "ver"],
        "tenant_region_scope": "NA",
        "cloud_instance_name": "storefence.standin",
    });
    if version == TokenVersion::V2 && !shared.lock().sign_in.is_strict() {
        merge(&mut document, offers(base, tid));
    }
    cached(document)
}

/// What both kinds of metadata say about signing people in. The real Entra ID offers no registration.
fn offers(base: &str, tid: &str) -> Value {
    json!({
        "registration_endpoint": format!("{base}/{tid}/oauth2/v2.0/register"),
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported":
            ["none", "client_secret_post", "private_key_jwt", "client_secret_basic"],
        "authorization_response_iss_parameter_supported": true,
    })
}

fn merge(document: &mut Value, more: Value) {
    if let (Value::Object(document), Value::Object(more)) = (document, more) {
        document.extend(more);
    }
}

/// RFC 8414 metadata. Its issuer is the one that the path names, also where that stands for every tenant: clients compare.
pub(super) async fn authorization_server(
    State(shared): State<Arc<Shared>>,
    Extension(base_url): Extension<BaseUrl>,
    Path(tid): Path<String>,
) -> Response {
    if let Err(response) = begin(&shared, Endpoint::Configuration, &tid).await {
        return response;
    }
    if shared.lock().sign_in.is_strict() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let base = &base_url.0;
    let mut document = json!({
        "issuer": base_url.issuer(&tid),
        "token_endpoint": format!("{base}/{tid}/oauth2/v2.0/token"),
        "authorization_endpoint": format!("{base}/{tid}/oauth2/v2.0/authorize"),
        "jwks_uri": format!("{}/{tid}/discovery/v2.0/keys", shared.issuers.authority),
        "response_modes_supported": ["query"],
        "response_types_supported": ["code"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
    });
    merge(&mut document, offers(base, &tid));
    cached(document)
}

async fn configuration_v2(State(shared): State<Arc<Shared>>, Path(tid): Path<String>) -> Response {
    configuration(&shared, &tid, TokenVersion::V2).await
}

async fn configuration_v1(State(shared): State<Arc<Shared>>, Path(tid): Path<String>) -> Response {
    configuration(&shared, &tid, TokenVersion::V1).await
}

async fn keys_v2(State(shared): State<Arc<Shared>>, Path(tid): Path<String>) -> Response {
    keys(&shared, &tid, TokenVersion::V2).await
}

async fn keys_v1(State(shared): State<Arc<Shared>>, Path(tid): Path<String>) -> Response {
    keys(&shared, &tid, TokenVersion::V1).await
}

async fn keys(shared: &Shared, tid: &str, version: TokenVersion) -> Response {
    if let Err(response) = begin(shared, Endpoint::Keys, tid).await {
        return response;
    }
    let published = shared.lock().keys.published(tid);
    let keys: Vec<Value> = published
        .iter()
        .map(|key| match version {
            // The v1.0 key set says nothing about issuers.
            TokenVersion::V1 => key.jwk(),
            TokenVersion::V2 => key.published(&shared.issuers.authority),
        })
        .collect();
    cached(json!({"keys": keys}))
}

fn cached(document: Value) -> Response {
    ([(header::CACHE_CONTROL, "max-age=86400, private")], Json(document)).into_response()
}

/// Tells libraries that this host is an authority and has no other names.
async fn instance(State(shared): State<Arc<Shared>>, Query(query): Query<HashMap<String, String>>) -> Response {
    let host = shared.issuers.authority.trim_start_matches("https://");
    let endpoint = query.get("authorization_endpoint").map(String::as_str).unwrap_or_default();
    let tid =
        endpoint.strip_prefix(&shared.issuers.authority).and_then(|path| path.split('/').nth(1)).unwrap_or("common");
    Json(json!({
        "tenant_discovery_endpoint": format!("{}/{tid}/v2.0/.well-known/openid-configuration", shared.issuers.authority),
        "api-version": "1.1",
        "metadata": [{"preferred_network": host, "preferred_cache": host, "aliases": [host]}],
    }))
    .into_response()
}

pub(super) async fn token(
    State(shared): State<Arc<Shared>>,
    Path(tid): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Err(response) = begin(&shared, Endpoint::Token, &tid).await {
        return response;
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("application/x-www-form-urlencoded") {
        let text = "The request body must be application/x-www-form-urlencoded.";
        return answer_refusal(refuse(900_144, "invalid_request", 400, text));
    }
    let form: HashMap<String, String> = url::form_urlencoded::parse(&body).into_owned().collect();
    let answer = match sign_in::grant(&shared, &tid, &form) {
        Some(answer) => answer,
        None => clients::grant(&shared, &tid, &form).map(|token| {
            json!({
                "token_type": "Bearer",
                "expires_in": clients::LIFETIME,
                "ext_expires_in": clients::LIFETIME,
                "access_token": token,
            })
        }),
    };
    match answer {
        Ok(body) => {
            ([(header::CACHE_CONTROL, "no-store, no-cache"), (header::PRAGMA, "no-cache")], Json(body)).into_response()
        }
        Err(refusal) => answer_refusal(refusal),
    }
}

fn answer_refusal(refusal: Refusal) -> Response {
    let Refusal { number, error, status, text } = refusal;
    let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    let (trace, correlation) = (Uuid::new_v4(), Uuid::new_v4());
    let description =
        format!("AADSTS{number}: {text} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {now}");
    let body = json!({
        "error": error,
        "error_description": description,
        "error_codes": [number],
        "timestamp": now,
        "trace_id": trace,
        "correlation_id": correlation,
        "error_uri": format!("https://login.microsoftonline.com/error?code={number}"),
    });
    (StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), Json(body)).into_response()
}

/// The body of `POST /_standin/token`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StandinRequest {
    tenant_id: Option<String>,
    principal: Option<String>,
    version: Option<u8>,
    #[serde(default)]
    claims: Map<String, Value>,
    #[serde(default)]
    header: Map<String, Value>,
    expires_in: Option<i64>,
}

async fn standin_token(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    match standin_request(&body) {
        Ok(request) => match shared.issue(&request) {
            Ok(token) => Json(json!({
                "token_type": "Bearer",
                "expires_in": request.expires_in,
                "access_token": token,
            }))
            .into_response(),
            Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        },
        Err(message) => problem(StatusCode::BAD_REQUEST, &message),
    }
}

fn standin_request(body: &[u8]) -> Result<TokenRequest, String> {
    let asked: StandinRequest = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let mut request = match (&asked.principal, &asked.tenant_id) {
        (Some(name), _) => {
            let principal = principals::find(name).ok_or_else(|| format!("there is no sample principal '{name}'"))?;
            TokenRequest::principal(principal)
        }
        (None, Some(tenant_id)) => TokenRequest::user(tenant_id),
        (None, None) => return Err(String::from("tenantId or principal is required")),
    };
    if let Some(tenant_id) = asked.tenant_id {
        request.tenant_id = tenant_id;
    }
    // Null stays in the map: it removes a default claim when the token is made.
    request.claims.extend(asked.claims);
    request.header.extend(asked.header);
    if let Some(seconds) = asked.expires_in {
        request.expires_in = seconds;
    }
    match asked.version {
        None | Some(2) => Ok(request),
        Some(1) => Ok(request.v1()),
        Some(other) => Err(format!("version {other} is neither 1 nor 2")),
    }
}

fn problem(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"error": "invalid_request", "error_description": message}))).into_response()
}
