//! The authorization endpoint: what it accepts, and what the person decided.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Extension,
    body::Bytes,
    extract::{Path, RawQuery, State},
    http::{HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};

use super::{AuthorizationRequest, BaseUrl, Code, SignIn, page, redirect::RedirectUri, scope::Scope};
use crate::entra::{
    Endpoint, Shared,
    clients::{Refusal, refuse},
    principals::{self, Principal},
    routes::{MULTI_TENANT, begin},
};

/// Where a refusal goes: to the person, as long as nobody proved to be a client of ours, else to the client.
enum Refused {
    Page(Refusal),
    Client { to: RedirectUri, state: Option<String>, refusal: Refusal },
}

pub(super) async fn ask(
    State(shared): State<Arc<Shared>>,
    Extension(base_url): Extension<BaseUrl>,
    Path(tid): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    if let Err(response) = begin(&shared, Endpoint::Authorize, &tid).await {
        return response;
    }
    let parameters = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let checked = check(&shared.lock().sign_in, &tid, parameters);
    match checked.map_err(|refused| *refused) {
        Ok(request) => {
            let people = people(&tid);
            let shown = (request.client.name.clone(), request.redirect_uri.host());
            let handle = shared.lock().sign_in.requests.insert(request);
            html(StatusCode::OK, page::sign_in(&shown.0, &shown.1, &people, &handle))
        }
        Err(Refused::Page(refusal)) => refused_page(&refusal),
        Err(Refused::Client { to, state, refusal }) => {
            answer(issuer(&shared, &base_url, &tid), &to, state.as_deref(), Err(&refusal))
        }
    }
}

/// The form of the sign-in page. Its name for the request is good once, and no other site can read it.
pub(super) async fn decide(
    State(shared): State<Arc<Shared>>,
    Extension(base_url): Extension<BaseUrl>,
    Path(tid): Path<String>,
    body: Bytes,
) -> Response {
    if let Err(response) = begin(&shared, Endpoint::Authorize, &tid).await {
        return response;
    }
    let form: HashMap<String, String> = url::form_urlencoded::parse(&body).into_owned().collect();
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let request = shared.lock().sign_in.requests.take(field("request")).filter(|request| request.tid == tid);
    let Some(request) = request else {
        let text =
            "This page was used already, or is older than ten minutes. Go back to the application and sign in again.";
        return refused_page(&refuse(165_000, "invalid_request", 400, text));
    };
    let (to, state) = (request.redirect_uri.clone(), request.state.clone());
    let person = people(&tid).into_iter().find(|person| person.name == field("principal"));
    let Some(principal) = person else {
        let refusal = refuse(65_004, "access_denied", 403, "User declined to consent to access the app.");
        return answer(issuer(&shared, &base_url, &tid), &to, state.as_deref(), Err(&refusal));
    };
    let code = shared.lock().sign_in.codes.insert(Code { request, principal, family: None });
    answer(issuer(&shared, &base_url, &tid), &to, state.as_deref(), Ok(&code))
}

/// Who can sign in at a tenant's endpoint.
fn people(tid: &str) -> Vec<&'static Principal> {
    let every = MULTI_TENANT.contains(&tid);
    principals::all().iter().filter(|person| every || person.tenant_id == tid).collect()
}

/// What redirects carry as `iss` (RFC 9207). Entra ID does not advertise it.
fn issuer(shared: &Shared, base_url: &BaseUrl, tid: &str) -> Option<String> {
    (!shared.lock().sign_in.is_strict()).then(|| base_url.issuer(tid))
}

/// Sends the browser back to the client with a code or an error, and with the issuer if there is one.
fn answer(issuer: Option<String>, to: &RedirectUri, state: Option<&str>, code: Result<&str, &Refusal>) -> Response {
    let description;
    let mut pairs = match code {
        Ok(code) => vec![("code", code)],
        Err(refusal) => {
            description = format!("AADSTS{}: {}", refusal.number, refusal.text);
            vec![("error", refusal.error), ("error_description", description.as_str())]
        }
    };
    pairs.extend(state.map(|state| ("state", state)));
    pairs.extend(issuer.as_deref().map(|issuer| ("iss", issuer)));
    match HeaderValue::from_str(&to.with(&pairs)) {
        Ok(location) => {
            let no_store = HeaderValue::from_static("no-store");
            (StatusCode::SEE_OTHER, [(header::LOCATION, location), (header::CACHE_CONTROL, no_store)]).into_response()
        }
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}

fn check(sign_in: &SignIn, tid: &str, parameters: Vec<(String, String)>) -> Result<AuthorizationRequest, Box<Refused>> {
    let all = |name: &str| parameters.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect();
    let once = |name: &str| -> Result<Option<&str>, Refusal> {
        let values: Vec<&str> = all(name);
        match values.as_slice() {
            [] | [""] => Ok(None),
            [value] => Ok(Some(*value)),
            _ => {
                let text = format!("The parameter '{name}' is duplicated.");
                Err(refuse(9_000_411, "invalid_request", 400, text))
            }
        }
    };
    let required = |name: &str| {
        once(name)?.ok_or_else(|| {
            let text = format!("The request body must contain the following parameter: '{name}'.");
            refuse(900_144, "invalid_request", 400, text)
        })
    };

    let id = required("client_id").map_err(Refused::Page)?;
    let client = sign_in.clients.get(id).ok_or_else(|| {
        let text = format!("Application with identifier '{id}' was not found in the directory '{tid}'.");
        Refused::Page(refuse(700_016, "unauthorized_client", 400, text))
    })?;
    let asked = required("redirect_uri").map_err(Refused::Page)?;
    let redirect_uri =
        RedirectUri::parse(asked).filter(|asked| client.redirect_uris.iter().any(|uri| uri.covers(asked)));
    let redirect_uri = redirect_uri.ok_or_else(|| {
        let text = format!(
            "The redirect URI '{asked}' specified in the request does not match the redirect URIs configured for the \
             application '{id}'."
        );
        Refused::Page(refuse(50_011, "invalid_request", 400, text))
    })?;

    // From here on the client gets the error. A state that is not there once is not sent back.
    let state = once("state").ok().flatten().map(str::to_owned);
    let told = |refusal| Box::new(Refused::Client { to: redirect_uri.clone(), state: state.clone(), refusal });
    let invalid = |number, text: &str| told(refuse(number, "invalid_request", 400, text));
    once("state").map_err(told)?;
    let kind = required("response_type").map_err(told)?;
    if kind != "code" {
        let text = format!("The provided value for the input parameter 'response_type' is not allowed: '{kind}'.");
        return Err(told(refuse(700_054, "unsupported_response_type", 400, text)));
    }
    if once("response_mode").map_err(told)?.is_some_and(|mode| mode != "query") {
        return Err(invalid(70_007, "Only the response_mode 'query' is offered here."));
    }
    let challenge = once("code_challenge").map_err(told)?;
    let Some(challenge) = challenge else {
        return Err(invalid(9_002_325, "Proof Key for Code Exchange is required: 'code_challenge' is missing."));
    };
    if once("code_challenge_method").map_err(told)? != Some("S256") {
        return Err(invalid(501_491, "Only the code_challenge_method 'S256' is offered."));
    }
    let is_digest = challenge.len() == 43 && challenge.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if !is_digest {
        return Err(invalid(501_491, "The 'code_challenge' is not the base64url form of a SHA-256."));
    }
    let resource = once("resource").map_err(told)?;
    sign_in.refuse_resource(resource).map_err(told)?;
    let scope = required("scope").map_err(told)?;
    let scope = Scope::parse(scope, resource, &sign_in.resources).map_err(told)?;
    match once("prompt").map_err(told)? {
        None | Some("login" | "select_account" | "consent") => {}
        Some("none") => {
            let text = "Session information is not sufficient for single-sign-on.";
            return Err(told(refuse(50_058, "login_required", 400, text)));
        }
        Some(_) => return Err(invalid(90_023, "The provided value for the input parameter 'prompt' is not valid.")),
    }
    let nonce = once("nonce").map_err(told)?.map(str::to_owned);
    Ok(AuthorizationRequest {
        tid: tid.to_owned(),
        client: client.clone(),
        challenge: challenge.to_owned(),
        scope,
        resource: resource.map(str::to_owned),
        nonce,
        state: state.clone(),
        redirect_uri: redirect_uri.clone(),
    })
}

fn refused_page(refusal: &Refusal) -> Response {
    html(StatusCode::BAD_REQUEST, page::refused(refusal.number, &refusal.text))
}

/// A page that runs nothing, loads nothing, is shown in no frame and kept nowhere.
fn html(status: StatusCode, page: String) -> Response {
    let policy = [(header::CONTENT_SECURITY_POLICY, page::policy())];
    let headers = [
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (status, policy, headers, Html(page)).into_response()
}
