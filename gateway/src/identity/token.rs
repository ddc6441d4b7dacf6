//! The compact form of a JSON Web Signature, parsed strictly and before any key is looked up.

use base64::{
    Engine,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde_json::{Map, Value};

use super::{Reject, json};

/// The longest token, in bytes. Entra's largest (200 groups) are near 12 KiB.
pub const TOKEN_MAX: usize = 24 * 1024;
/// The longest key id. Entra's have 27 characters or, for certificates, 40.
const KID_MAX: usize = 128;

/// base64url without padding, and only in its canonical spelling: with two spellings of one signature, a deny-list
/// entry would match only one of them.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(false),
);

/// A token in the right form; nothing in it is verified.
#[derive(Debug)]
pub struct Unverified<'a> {
    /// Key id from the header.
    pub kid: String,
    /// The payload.
    pub claims: Map<String, Value>,
    /// What the signature covers.
    pub signed: &'a str,
    /// The signature, base64url and known to be canonical.
    pub signature: &'a str,
}

/// Reads a token.
///
/// # Errors
/// [`Reject`] for anything that is not an RS256 signature with a plain key id.
pub fn parse(token: &str) -> Result<Unverified<'_>, Reject> {
    if token.len() > TOKEN_MAX {
        return Err(Reject::TooLong);
    }
    let mut segments = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) =
        (segments.next(), segments.next(), segments.next(), segments.next())
    else {
        return Err(Reject::Segments);
    };
    let kid = key_id(&decode(header)?)?;
    let claims = json::object(&decode(payload)?).map_err(|_| Reject::Json)?;
    if decode(signature)?.is_empty() {
        return Err(Reject::Signature);
    }
    Ok(Unverified { kid, claims, signed: &token[..header.len() + 1 + payload.len()], signature })
}

fn decode(segment: &str) -> Result<Vec<u8>, Reject> {
    BASE64URL.decode(segment).map_err(|_| Reject::Base64)
}

fn key_id(header: &[u8]) -> Result<String, Reject> {
    let header = json::object(header).map_err(|_| Reject::Json)?;
    // The comparison is exact: "None", "rs256" and the like are other algorithms.
    if header.get("alg").and_then(Value::as_str) != Some("RS256") {
        return Err(Reject::Algorithm);
    }
    // at+jwt is from RFC 9068; Entra sends JWT.
    let typ = header.get("typ").map(Value::as_str);
    if !matches!(typ, None | Some(Some("JWT" | "jwt" | "at+jwt" | "application/at+jwt"))) {
        return Err(Reject::Type);
    }
    // No extension is supported, so a critical one cannot be honoured. A key in the token would be the sender's own.
    for name in ["crit", "jwk", "jku", "x5u", "x5c", "zip", "b64", "enc"] {
        if header.contains_key(name) {
            return Err(Reject::HeaderField);
        }
    }
    let kid = header.get("kid").and_then(Value::as_str).ok_or(Reject::KeyId)?;
    let plain =
        kid.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'=' | b'+'));
    if kid.is_empty() || kid.len() > KID_MAX || !plain {
        return Err(Reject::KeyId);
    }
    Ok(kid.to_owned())
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::{Reject, parse};

    fn token(header: &str, payload: &str) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", encode(header), encode(payload), encode("sig"))
    }

    #[test]
    fn headers_are_read_strictly() {
        let good = r#"{"alg":"RS256","typ":"JWT","kid":"k1","x5t":"k1"}"#;
        assert_eq!(parse(&token(good, "{}")).expect("good").kid, "k1");
        for (header, reject) in [
            (r#"{"alg":"none","kid":"k"}"#, Reject::Algorithm),
            (r#"{"alg":"None","kid":"k"}"#, Reject::Algorithm),
            (r#"{"alg":"HS256","kid":"k"}"#, Reject::Algorithm),
            (r#"{"alg":"rs256","kid":"k"}"#, Reject::Algorithm),
            (r#"{"alg":["RS256"],"kid":"k"}"#, Reject::Algorithm),
            (r#"{"kid":"k"}"#, Reject::Algorithm),
            (r#"{"alg":"RS256","alg":"RS256","kid":"k"}"#, Reject::Json),
            (r#"{"alg":"RS256","typ":"JWE","kid":"k"}"#, Reject::Type),
            (r#"{"alg":"RS256","typ":1,"kid":"k"}"#, Reject::Type),
            (r#"{"alg":"RS256","kid":"k","crit":[]}"#, Reject::HeaderField),
            (r#"{"alg":"RS256","kid":"k","jwk":{}}"#, Reject::HeaderField),
            (r#"{"alg":"RS256","kid":"k","jku":"https://x"}"#, Reject::HeaderField),
            (r#"{"alg":"RS256","kid":"k","x5u":"https://x"}"#, Reject::HeaderField),
            (r#"{"alg":"RS256","kid":"k","x5c":[]}"#, Reject::HeaderField),
            (r#"{"alg":"RS256"}"#, Reject::KeyId),
            (r#"{"alg":"RS256","kid":""}"#, Reject::KeyId),
            (r#"{"alg":"RS256","kid":1}"#, Reject::KeyId),
            (r#"{"alg":"RS256","kid":"../../etc/passwd"}"#, Reject::KeyId),
            (r#"{"alg":"RS256","kid":"' OR 1=1--"}"#, Reject::KeyId),
            ("[]", Reject::Json),
            ("{", Reject::Json),
        ] {
            assert_eq!(parse(&token(header, "{}")).expect_err(header), reject, "{header}");
        }
        let long = format!(r#"{{"alg":"RS256","kid":"{}"}}"#, "k".repeat(129));
        assert_eq!(parse(&token(&long, "{}")).expect_err("long"), Reject::KeyId);
    }

    #[test]
    fn the_form_is_exact() {
        let good = token(r#"{"alg":"RS256","kid":"k"}"#, "{}");
        let (head, signature) = good.rsplit_once('.').expect("segments");
        for (text, reject) in [
            (head.to_owned(), Reject::Segments),
            (format!("{good}.x"), Reject::Segments),
            (format!("{good}.x.y"), Reject::Segments),
            (format!("{head}."), Reject::Signature),
            (format!("{good}="), Reject::Base64),
            (format!("{head}.{signature} "), Reject::Base64),
            // two characters hold 12 bits for one byte: the unused four must be zero, and in "ab" they are not
            (format!("{head}.ab"), Reject::Base64),
            (format!("{head}.a+/b"), Reject::Base64),
            ("x".repeat(super::TOKEN_MAX + 1), Reject::TooLong),
            (token(r#"{"alg":"RS256","kid":"k"}"#, r#"{"exp":1,"exp":2}"#), Reject::Json),
        ] {
            assert_eq!(parse(&text).expect_err(&text), reject, "{text:.80}");
        }
    }
}
