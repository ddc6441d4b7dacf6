//! The claims of a verified Entra ID access token, in the shape that scope computation needs.
//!
//! Verification (signature, issuer, audience, times) is the gateway's; this module only reads, and reads strictly: a
//! claim of an unexpected JSON type counts as absent, never as a match.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::names::normalised;

/// The most values of a store claim that are looked at. A longer list grants nothing: `RetailTenant` has at most 500
/// stores, so a longer one is a mistake or an attack.
pub const STORE_CLAIM_MAX: usize = 500;

/// Whether a token speaks for a person or for an application alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A delegated token: a user is signed in, `scp` is present.
    User,
    /// An app-only token (client credentials): `idtyp=app`, or no `scp`.
    App,
}

/// Group membership as far as the token shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Groups {
    /// The object IDs in `groups`; empty where the claim is absent.
    Known(BTreeSet<String>),
    /// More groups than a token holds (`_claim_names.groups` is present): unknown, whatever `groups` says.
    Overage,
}

/// The claims of one verified token.
#[derive(Clone, Debug)]
pub struct Claims {
    /// `tid`: the Entra tenant.
    pub tid: Uuid,
    /// `oid`: the user or service principal within `tid`.
    pub oid: Uuid,
    /// User or application.
    pub kind: TokenKind,
    /// The client application that asked for the token: `azp` in version 2.0, `appid` in 1.0. For an app-only token it
    /// is the caller itself.
    pub application: Option<Uuid>,
    /// `roles`, where it is an array of strings.
    pub roles: BTreeSet<String>,
    /// `groups`.
    pub groups: Groups,
    raw: Map<String, Value>,
}

/// A claim without which a token cannot be mapped to a principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// `tid` is absent or not a GUID.
    #[error("claim tid is absent or not a GUID")]
    Tid,
    /// `oid` is absent or not a GUID.
    #[error("claim oid is absent or not a GUID")]
    Oid,
    /// `scp`, `roles` or `groups` has the wrong JSON type.
    #[error("claim {0} has the wrong type")]
    Type(&'static str),
    /// Neither `scp` nor `roles`: not an access token for an API (an ID token, for one).
    #[error("neither scp nor roles: this is not an access token")]
    NotAnAccessToken,
}

impl Claims {
    /// Reads the payload of a verified token.
    ///
    /// # Errors
    /// [`ClaimsError`] when the token does not identify a principal or is not an access token.
    pub fn from_payload(raw: Map<String, Value>) -> Result<Self, ClaimsError> {
        let tid = guid(&raw, "tid").ok_or(ClaimsError::Tid)?;
        let oid = guid(&raw, "oid").ok_or(ClaimsError::Oid)?;
        let scopes = match raw.get("scp") {
            None => None,
            Some(Value::String(text)) if !text.trim().is_empty() => Some(text),
            Some(_) => return Err(ClaimsError::Type("scp")),
        };
        let roles = strings(&raw, "roles")?;
        if scopes.is_none() && roles.is_empty() {
            return Err(ClaimsError::NotAnAccessToken);
        }
        let app = scopes.is_none() || raw.get("idtyp").and_then(Value::as_str) == Some("app");
        let kind = if app { TokenKind::App } else { TokenKind::User };
        let overage = raw.get("_claim_names").is_some_and(|names| names.get("groups").is_some())
            || raw.get("hasgroups").is_some_and(|flag| flag != &Value::Bool(false));
        let groups = if overage { Groups::Overage } else { Groups::Known(strings(&raw, "groups")?) };
        // Each version has one claim for it. The other one's name could be anything, such as an optional claim.
        let application = match raw.get("ver").and_then(Value::as_str) {
            Some("2.0") => guid(&raw, "azp"),
            Some("1.0") => guid(&raw, "appid"),
            _ => None,
        };
        Ok(Self { tid, oid, kind, application, roles, groups, raw })
    }

    /// Whether `scp` holds `scope` as a whole word.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.raw.get("scp").and_then(Value::as_str).is_some_and(|scp| scp.split(' ').any(|word| word == scope))
    }

    /// Whether the claim `name` is the string `value`, or an array that holds it. `value` is in Unicode's form NFC, the
    /// claim in any.
    #[must_use]
    pub fn has_value(&self, name: &str, value: &str) -> bool {
        self.values(name).into_iter().any(|found| normalised(found) == value)
    }

    /// Whether the claim is present at all, of whatever type.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.raw.contains_key(name)
    }

    /// The values of a string or string-array claim. Empty when absent, when of another type, or when it has more than
    /// [`STORE_CLAIM_MAX`] values.
    #[must_use]
    pub fn values(&self, name: &str) -> Vec<&str> {
        match self.raw.get(name) {
            Some(Value::String(text)) => vec![text.as_str()],
            Some(Value::Array(items)) if items.len() <= STORE_CLAIM_MAX => {
                // One element of another type spoils the whole claim: half-read claims surprise people.
                items.iter().map(Value::as_str).collect::<Option<Vec<_>>>().unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }
}

fn guid(raw: &Map<String, Value>, name: &str) -> Option<Uuid> {
    let text = raw.get(name)?.as_str()?;
    // Only the hyphenated form: Entra never sends braces, URNs or bare digits.
    (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten()
}

fn strings(raw: &Map<String, Value>, name: &'static str) -> Result<BTreeSet<String>, ClaimsError> {
    match raw.get(name) {
        None => Ok(BTreeSet::new()),
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().map(str::to_owned).ok_or(ClaimsError::Type(name))).collect()
        }
        Some(_) => Err(ClaimsError::Type(name)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TID: &str = "7d1c9a52-3b64-4f0e-8c21-5a9e0b7f4d13";

    #[allow(clippy::needless_pass_by_value)] // reads better at the call
    fn claims(extra: Value) -> Result<Claims, ClaimsError> {
        let mut raw = json!({"tid": TID, "oid": TID, "scp": "Retail.Query"});
        for (name, value) in extra.as_object().unwrap() {
            raw[name] = value.clone();
        }
        let Value::Object(mut raw) = raw else { unreachable!() };
        raw.retain(|_, value| !value.is_null());
        Claims::from_payload(raw)
    }

    #[test]
    fn scopes_match_as_whole_words() {
        let token = claims(json!({"scp": "Retail.Query.All User.Read"})).unwrap();
        assert!(token.has_scope("User.Read"));
        assert!(!token.has_scope("Retail.Query"));
        assert!(!token.has_scope("Retail.Query.All User.Read"));
    }

    #[test]
    fn wrong_types_are_errors_not_matches() {
        assert_eq!(claims(json!({"roles": "Storefence.HeadOffice"})).unwrap_err(), ClaimsError::Type("roles"));
        assert_eq!(claims(json!({"groups": ["a", 1]})).unwrap_err(), ClaimsError::Type("groups"));
        assert_eq!(claims(json!({"scp": ["Retail.Query"]})).unwrap_err(), ClaimsError::Type("scp"));
        assert_eq!(claims(json!({"scp": ""})).unwrap_err(), ClaimsError::Type("scp"));
        assert_eq!(claims(json!({"oid": "{7d1c9a52}"})).unwrap_err(), ClaimsError::Oid);
        assert_eq!(claims(json!({"tid": null})).unwrap_err(), ClaimsError::Tid);
    }

    #[test]
    fn an_id_token_is_not_an_access_token() {
        assert_eq!(claims(json!({"scp": null})).unwrap_err(), ClaimsError::NotAnAccessToken);
    }

    #[test]
    fn tokens_without_scp_or_with_idtyp_app_are_app_tokens() {
        assert_eq!(claims(json!({})).unwrap().kind, TokenKind::User);
        assert_eq!(claims(json!({"scp": null, "roles": ["x"]})).unwrap().kind, TokenKind::App);
        assert_eq!(claims(json!({"idtyp": "app"})).unwrap().kind, TokenKind::App);
    }

    #[test]
    fn the_application_is_azp_or_appid_by_version() {
        let id = Uuid::parse_str(TID).unwrap();
        assert_eq!(claims(json!({"ver": "2.0", "azp": TID, "appid": "x"})).unwrap().application, Some(id));
        assert_eq!(claims(json!({"ver": "1.0", "appid": TID, "azp": "x"})).unwrap().application, Some(id));
        for wrong in [
            json!({"ver": "2.0", "appid": TID}),
            json!({"ver": "1.0", "azp": TID}),
            json!({"azp": TID, "appid": TID}),
            json!({"ver": "2.0", "azp": [TID]}),
            json!({"ver": "2.0", "azp": format!("{{{TID}}}")}),
        ] {
            assert_eq!(claims(wrong).unwrap().application, None);
        }
    }

    #[test]
    fn overage_wins_over_any_group_list() {
        let overage = json!({"_claim_names": {"groups": "src1"}, "groups": ["g"]});
        assert_eq!(claims(overage).unwrap().groups, Groups::Overage);
        assert_eq!(claims(json!({"hasgroups": true})).unwrap().groups, Groups::Overage);
        assert_eq!(claims(json!({"_claim_names": {"photo": "src1"}})).unwrap().groups, Groups::Known(BTreeSet::new()));
    }

    #[test]
    fn claim_values_are_read_whole_or_not_at_all() {
        let token = claims(json!({
            "one": "x", "many": ["x", "y"], "mixed": ["x", 1], "number": 1, "huge": vec!["x"; STORE_CLAIM_MAX + 1],
        }))
        .unwrap();
        assert_eq!(token.values("one"), ["x"]);
        assert_eq!(token.values("many"), ["x", "y"]);
        for name in ["mixed", "number", "huge", "absent"] {
            assert!(token.values(name).is_empty(), "{name}");
        }
        assert!(token.has_value("many", "y") && !token.has_value("many", "z"));
    }
}
