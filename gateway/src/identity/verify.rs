//! The checks on a token's claims, each of them explicit, as one pure function.

use serde_json::{Map, Value};
use storefence_tenancy::Claims;
use uuid::Uuid;

use super::{Reject, authority::Authority};

/// Allowed difference between the clocks of issuer and gateway, in seconds.
pub const SKEW_SECONDS: u64 = 60;
/// The directory of personal Microsoft accounts. Anyone can have an account there.
const CONSUMERS: Uuid = Uuid::from_u128(0x9188_040d_6c67_4c5b_b112_36a3_04b6_6dad);

/// A token whose claims have all been checked; only the signature may still be unchecked, see [`super::Identity`].
#[derive(Debug)]
pub struct Verified {
    pub claims: Claims,
    /// Expiry in Unix seconds, without the skew.
    pub expires: u64,
}

/// The token's origin. It is read before the key is looked up, because keys belong to an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// `tid`.
    pub tid: Uuid,
    /// `iss`, equal to what the authority's template gives for `tid` and `ver`.
    pub iss: String,
}

/// Reads issuer and directory, which must agree with each other and with the token's version.
///
/// # Errors
/// [`Reject`].
pub fn issuer(claims: &Map<String, Value>, authority: &Authority) -> Result<Issuer, Reject> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let tid = text("tid").ok_or(Reject::Tenant)?;
    let tid = Uuid::try_parse(tid).ok().filter(|id| id.hyphenated().to_string() == tid).ok_or(Reject::Tenant)?;
    if tid == CONSUMERS {
        return Err(Reject::Tenant);
    }
    let expected = match text("ver") {
        Some("2.0") => authority.v2_issuer(tid),
        Some("1.0") => authority.v1_issuer(tid),
        _ => return Err(Reject::Version),
    };
    if text("iss") != Some(expected.as_str()) {
        return Err(Reject::Issuer);
    }
    Ok(Issuer { tid, iss: expected })
}

/// Checks the rest: audience, times, and that the token is an access token.
///
/// # Errors
/// [`Reject`].
pub fn check(claims: Map<String, Value>, audiences: &[String], now: u64) -> Result<Verified, Reject> {
    if !audience_matches(claims.get("aud"), audiences) {
        return Err(Reject::Audience);
    }
    let expires = seconds(claims.get("exp")).ok_or(Reject::Expiry)?;
    if now >= expires.saturating_add(SKEW_SECONDS) {
        return Err(Reject::Expired);
    }
    if let Some(not_before) = claims.get("nbf") {
        let not_before = seconds(Some(not_before)).ok_or(Reject::NotBefore)?;
        if now.saturating_add(SKEW_SECONDS) < not_before {
            return Err(Reject::NotYetValid);
        }
    }
    let claims = Claims::from_payload(claims).map_err(|_| Reject::NotAnAccessToken)?;
    Ok(Verified { claims, expires })
}

/// A string that is one of ours, or an array of strings that contains one.
fn audience_matches(claim: Option<&Value>, audiences: &[String]) -> bool {
    let ours = |value: &Value| value.as_str().is_some_and(|text| audiences.iter().any(|audience| audience == text));
    match claim {
        Some(value @ Value::String(_)) => ours(value),
        Some(Value::Array(items)) => items.iter().all(Value::is_string) && items.iter().any(ours),
        _ => false,
    }
}

/// A NumericDate that is a non-negative integer, which is what Entra sends.
fn seconds(claim: Option<&Value>) -> Option<u64> {
    claim?.as_u64().filter(|seconds| *seconds <= 253_402_300_799)
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::{Reject, check, issuer};
    use crate::identity::authority::Authority;

    const TID: &str = "2f4e6d8c-1a3b-4c7e-9f0a-b2d4f6e8c0a2";

    fn authority() -> Authority {
        Authority::new(&"https://login.microsoftonline.com".parse().expect("URL"), None)
    }

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().expect("object").clone()
    }

    #[test]
    fn issuer_version_and_directory_agree() {
        let v2 = format!("https://login.microsoftonline.com/{TID}/v2.0");
        let v1 = format!("https://sts.windows.net/{TID}/");
        let other = "00000000-0000-4000-8000-000000000001";
        let consumers = "9188040d-6c67-4c5b-b112-36a304b66dad";
        for (claims, expected) in [
            (json!({"tid": TID, "iss": v2, "ver": "2.0"}), None),
            (json!({"tid": TID, "iss": v1, "ver": "1.0"}), None),
            (json!({"tid": TID, "iss": v1, "ver": "2.0"}), Some(Reject::Issuer)),
            (json!({"tid": TID, "iss": v2, "ver": "1.0"}), Some(Reject::Issuer)),
            (json!({"tid": other, "iss": v2, "ver": "2.0"}), Some(Reject::Issuer)),
            (json!({"tid": TID, "iss": format!("{v2}/"), "ver": "2.0"}), Some(Reject::Issuer)),
            (json!({"tid": TID, "iss": [v2], "ver": "2.0"}), Some(Reject::Issuer)),
            (json!({"tid": TID, "ver": "2.0"}), Some(Reject::Issuer)),
            (json!({"tid": TID, "iss": v2, "ver": 2.0}), Some(Reject::Version)),
            (json!({"tid": TID, "iss": v2}), Some(Reject::Version)),
            (json!({"iss": v2, "ver": "2.0"}), Some(Reject::Tenant)),
            (json!({"tid": "common", "iss": v2, "ver": "2.0"}), Some(Reject::Tenant)),
            (json!({"tid": TID.to_uppercase(), "iss": v2, "ver": "2.0"}), Some(Reject::Tenant)),
            (
                json!({"tid": consumers, "iss": format!("https://login.microsoftonline.com/{consumers}/v2.0"), "ver": "2.0"}),
                Some(Reject::Tenant),
            ),
        ] {
            assert_eq!(issuer(&object(claims.clone()), &authority()).err(), expected, "{claims}");
        }
    }

    #[test]
    fn audience_times_and_kind_of_token() {
        let now = 1_800_000_000_u64;
        let base = json!({"tid": TID, "oid": TID, "scp": "Retail.Query", "aud": "app", "exp": now + 10, "nbf": now});
        let with = |name: &str, value: Value| {
            let mut claims = object(base.clone());
            if value.is_null() {
                claims.remove(name)
            } else {
                claims.insert(name.into(), value)
            };
            check(claims, &["app".into(), "api://app".into()], now).err()
        };
        for (name, value, expected) in [
            ("aud", json!("app"), None),
            ("aud", json!("api://app"), None),
            ("aud", json!(["other", "app"]), None),
            ("aud", json!("https://graph.microsoft.com"), Some(Reject::Audience)),
            ("aud", json!("api://app/"), Some(Reject::Audience)),
            ("aud", json!(["other"]), Some(Reject::Audience)),
            ("aud", json!(["app", 1]), Some(Reject::Audience)),
            ("aud", json!([]), Some(Reject::Audience)),
            ("aud", Value::Null, Some(Reject::Audience)),
            ("exp", json!(now - 59), None),
            ("exp", json!(now - 60), Some(Reject::Expired)),
            ("exp", Value::Null, Some(Reject::Expiry)),
            ("exp", json!(-1), Some(Reject::Expiry)),
            ("exp", json!(1.8e9), Some(Reject::Expiry)),
            ("exp", json!("1900000000"), Some(Reject::Expiry)),
            ("exp", json!(u64::MAX), Some(Reject::Expiry)),
            ("nbf", json!(now + 60), None),
            ("nbf", json!(now + 61), Some(Reject::NotYetValid)),
            ("nbf", json!(1.5), Some(Reject::NotBefore)),
            ("nbf", Value::Null, None),
            ("scp", Value::Null, Some(Reject::NotAnAccessToken)),
            ("roles", json!("Admin"), Some(Reject::NotAnAccessToken)),
            ("oid", Value::Null, Some(Reject::NotAnAccessToken)),
        ] {
            assert_eq!(with(name, value.clone()), expected, "{name} = {value}");
        }
    }
}
