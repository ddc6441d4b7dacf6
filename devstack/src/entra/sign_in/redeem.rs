//! Codes and refresh tokens become access tokens.

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Client, RefreshToken, SignIn, scope::Scope};
use crate::entra::{
    Shared, TokenRequest,
    clients::{Refusal, refuse},
    principals::Principal,
};

/// What is to be issued.
struct Granted {
    client_id: String,
    principal: &'static Principal,
    scope: Scope,
    nonce: Option<String>,
    refresh_token: Option<String>,
}

/// The answer of the token endpoint to the authorization-code grant and the refresh grant; `None` for others.
pub(in crate::entra) fn grant(
    shared: &Shared,
    tid: &str,
    form: &HashMap<String, String>,
) -> Option<Result<Value, Refusal>> {
    let mut state = shared.lock();
    let granted = match form.get("grant_type").map(String::as_str) {
        Some("authorization_code") => state.sign_in.redeem(tid, form),
        Some("refresh_token") => state.sign_in.refresh(tid, form),
        _ => return None,
    };
    drop(state);
    Some(granted.and_then(|granted| issue(shared, &granted)))
}

impl SignIn {
    /// The client that a form names, and proves to be if it has a secret. A public client must not show one.
    fn authenticate(&self, form: &HashMap<String, String>) -> Result<&Client, Refusal> {
        let id = required(form, "client_id")?;
        let client = self.clients.get(id).ok_or_else(|| {
            let text = format!("Application with identifier '{id}' was not found in the directory.");
            refuse(700_016, "unauthorized_client", 400, text)
        })?;
        if let Some(secret) = &client.secret {
            return match form.get("client_secret") {
                Some(shown) if shown == secret => Ok(client),
                Some(_) => Err(refuse(7_000_215, "invalid_client", 401, "Invalid client secret provided.")),
                None => {
                    let text = "The request body must contain the following parameter: 'client_assertion' or \
                                'client_secret'.";
                    Err(refuse(7_000_218, "invalid_client", 401, text))
                }
            };
        }
        if form.contains_key("client_secret") || form.contains_key("client_assertion") {
            let text = "Client is public so neither 'client_assertion' nor 'client_secret' should be presented.";
            return Err(refuse(700_025, "invalid_client", 401, text));
        }
        Ok(client)
    }

    fn redeem(&mut self, tid: &str, form: &HashMap<String, String>) -> Result<Granted, Refusal> {
        let client = self.authenticate(form)?.clone();
        self.refuse_resource(form.get("resource").map(String::as_str))?;
        let (name, verifier) = (required(form, "code")?, required(form, "code_verifier")?);
        let redirect_uri = required(form, "redirect_uri")?;
        let invalid = |number, text: &str| refuse(number, "invalid_grant", 400, text);
        let Some(code) = self.codes.get(name) else {
            return Err(invalid(70_008, "The provided authorization code has expired or was never issued."));
        };
        if let Some(family) = code.family {
            // Somebody else has the code as well. What came of it ends (RFC 6749 section 4.1.2).
            self.refresh_tokens.retain(|token| token.family != family);
            return Err(invalid(
                54_005,
                "OAuth2 Authorization code was already redeemed, please retry with a new code.",
            ));
        }
        self.families += 1;
        let family = self.families;
        // Whatever is wrong below, the code is used up: nobody tries verifiers one after another.
        code.family = Some(family);
        let request = &code.request;
        if request.client.id != client.id || request.tid != tid {
            return Err(invalid(70_000, "The provided authorization code was issued to another client or tenant."));
        }
        if request.redirect_uri.as_str() != redirect_uri {
            let text =
                "The reply address does not match the reply address provided when requesting Authorization code.";
            return Err(invalid(500_112, text));
        }
        let well_formed = (43..=128).contains(&verifier.len())
            && verifier.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
        if !well_formed || URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)) != request.challenge {
            let text = "The Code_Verifier does not match the code_challenge supplied in the authorization request.";
            return Err(invalid(501_481, text));
        }
        let resource = form.get("resource").map(String::as_str);
        if resource.is_some() && resource != request.resource.as_deref() {
            let text = "The resource parameter provided in the request doesn't match with the requested scopes.";
            return Err(refuse(9_010_010, "invalid_target", 400, text));
        }
        let (principal, scope, nonce) = (code.principal, request.scope.clone(), request.nonce.clone());
        let refresh_token = (scope.offline_access && client.refreshes).then(|| {
            self.refresh_tokens.insert(RefreshToken {
                tid: tid.to_owned(),
                client_id: client.id.clone(),
                scope: scope.clone(),
                principal,
                family,
                used: false,
            })
        });
        Ok(Granted { client_id: client.id, principal, scope, nonce, refresh_token })
    }

    /// A refresh token is good once and brings its successor; a second use ends the whole line.
    fn refresh(&mut self, tid: &str, form: &HashMap<String, String>) -> Result<Granted, Refusal> {
        let client_id = self.authenticate(form)?.id.clone();
        self.refuse_resource(form.get("resource").map(String::as_str))?;
        let name = required(form, "refresh_token")?;
        let invalid = |number, text: &str| refuse(number, "invalid_grant", 400, text);
        let Some(token) = self.refresh_tokens.get(name) else {
            return Err(invalid(70_008, "The refresh token has expired or was never issued."));
        };
        if token.client_id != client_id || token.tid != tid {
            return Err(invalid(70_000, "The refresh token was issued to another client or tenant."));
        }
        let family = token.family;
        if token.used {
            self.refresh_tokens.retain(|token| token.family != family);
            return Err(invalid(50_173, "The refresh token was used before. Sign in again."));
        }
        let (principal, scope) = (token.principal, token.scope.clone());
        if let Some(asked) = form.get("scope") {
            let granted = scope.granted();
            let more = asked
                .split_ascii_whitespace()
                .any(|word| !["profile", "email"].contains(&word) && !granted.split(' ').any(|known| known == word));
            if more {
                return Err(refuse(
                    70_011,
                    "invalid_scope",
                    400,
                    "A refresh token brings no scope that was not granted.",
                ));
            }
        }
        if form
            .get("resource")
            .is_some_and(|resource| scope.api.rsplit_once('/').map(|(owner, _)| owner) != Some(resource))
        {
            let text = "The resource parameter provided in the request doesn't match with the requested scopes.";
            return Err(refuse(9_010_010, "invalid_target", 400, text));
        }
        token.used = true;
        let successor = RefreshToken {
            tid: tid.to_owned(),
            client_id: client_id.clone(),
            scope: scope.clone(),
            principal,
            family,
            used: false,
        };
        let refresh_token = Some(self.refresh_tokens.insert(successor));
        Ok(Granted { client_id, principal, scope, nonce: None, refresh_token })
    }
}

fn required<'a>(form: &'a HashMap<String, String>, name: &str) -> Result<&'a str, Refusal> {
    form.get(name).map(String::as_str).filter(|value| !value.is_empty()).ok_or_else(|| {
        let text = format!("The request body must contain the following parameter: '{name}'.");
        refuse(900_144, "invalid_request", 400, text)
    })
}

fn issue(shared: &Shared, granted: &Granted) -> Result<Value, Refusal> {
    let failed = |error: crate::entra::Error| refuse(90_033, "temporarily_unavailable", 503, error.to_string());
    let request = TokenRequest::principal(granted.principal).claim("azp", json!(granted.client_id));
    let mut body = json!({
        "token_type": "Bearer",
        "scope": granted.scope.granted(),
        "expires_in": request.expires_in,
        "ext_expires_in": request.expires_in,
        "access_token": shared.issue(&request).map_err(failed)?,
    });
    if let Some(token) = &granted.refresh_token {
        body["refresh_token"] = json!(token);
    }
    if granted.scope.openid {
        let mut id = TokenRequest::id_token(granted.principal.tenant_id)
            .claim("aud", json!(granted.client_id))
            .claim("nonce", granted.nonce.as_ref().map_or(Value::Null, |nonce| json!(nonce)));
        for (name, value) in granted.principal.claims() {
            if ["oid", "name", "preferred_username"].contains(&name.as_str()) {
                id = id.claim(&name, value);
            }
        }
        body["id_token"] = json!(shared.issue(&id).map_err(failed)?);
    }
    Ok(body)
}
