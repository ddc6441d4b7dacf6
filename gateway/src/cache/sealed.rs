//! Responses as stored in Redis: AES-256-GCM under a key derived from the tenant's context key, bound to the name under
//! which they are stored. A reader of Redis sees lengths and times; a writer can remove responses but not forge them.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use storefence_tenancy::{context, credentials::ContextKey};

use super::Kept;

/// Largest response that is shared, in bytes.
const SHARED_MAX: usize = 4 * 1024 * 1024;

/// The name of a response in Redis. Without the key it cannot be computed from a guess of tenant, stores and question.
pub fn name(key: &ContextKey, answer: &[u8; 32]) -> String {
    let purpose = format!("answer name {}", hex(answer));
    format!("storefence:answer:{}", hex(&*context::derive(key, &purpose)))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn cipher(key: &ContextKey) -> Option<RandomizedNonceKey> {
    RandomizedNonceKey::new(&AES_256_GCM, &*context::derive(key, "answer value")).ok()
}

/// Seals a response; `None` if it is too large to be shared.
pub fn seal(key: &ContextKey, name: &str, kept: &Kept) -> Option<Vec<u8>> {
    let length = kept.structured.len() + kept.text.len();
    if length > SHARED_MAX {
        return None;
    }
    let mut body = Vec::with_capacity(length + 64);
    for number in [kept.made_ms, kept.rows, kept.bytes, kept.structured.len() as u64] {
        body.extend_from_slice(&number.to_be_bytes());
    }
    body.extend_from_slice(kept.structured.as_bytes());
    body.extend_from_slice(kept.text.as_bytes());
    let nonce = cipher(key)?.seal_in_place_append_tag(Aad::from(name.as_bytes()), &mut body).ok()?;
    let mut sealed = nonce.as_ref().to_vec();
    sealed.append(&mut body);
    Some(sealed)
}

/// Opens a response; `None` for anything that was not sealed under this name with this key.
pub fn open(key: &ContextKey, name: &str, sealed: &[u8]) -> Option<Kept> {
    let (nonce, body) = sealed.split_at_checked(NONCE_LEN)?;
    let mut body = body.to_vec();
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut body: &[u8] = cipher(key)?.open_in_place(nonce, Aad::from(name.as_bytes()), &mut body).ok()?;
    let mut number = || {
        let (first, rest) = body.split_first_chunk::<8>()?;
        body = rest;
        Some(u64::from_be_bytes(*first))
    };
    let (made_ms, rows, bytes, length) = (number()?, number()?, number()?, number()?);
    let (structured, text) = body.split_at_checked(usize::try_from(length).ok()?)?;
    let owned = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    Some(Kept { structured: owned(structured)?, text: owned(text)?, rows, bytes, made_ms })
}

#[cfg(test)]
mod tests {
    use storefence_tenancy::credentials::ContextKey;

    use super::{Kept, name, open, seal};

    #[test]
    fn only_the_same_key_and_name_open_it() {
        let (key, other) = (ContextKey::new([1; 32]), ContextKey::new([2; 32]));
        let kept = Kept { structured: "{\"a\":1}".into(), text: "Seattle".into(), rows: 3, bytes: 9, made_ms: 77 };
        let (place, elsewhere) = (name(&key, &[7; 32]), name(&key, &[8; 32]));
        assert!(place != elsewhere && place != name(&other, &[7; 32]));
        let sealed = seal(&key, &place, &kept).expect("small enough");
        assert!(!sealed.windows(7).any(|window| window == b"Seattle"));
        assert_eq!(open(&key, &place, &sealed), Some(kept.clone()));
        assert_eq!(open(&other, &place, &sealed), None, "another tenant's key, or the one before a rotation");
        assert_eq!(open(&key, &elsewhere, &sealed), None, "moved to the name of another question");
        for at in [0, 12, sealed.len() - 1] {
            let mut edited = sealed.clone();
            edited[at] ^= 1;
            assert_eq!(open(&key, &place, &edited), None);
        }
        assert_eq!(open(&key, &place, &sealed[..10]), None);
        assert_ne!(seal(&key, &place, &kept), Some(sealed), "each sealing has a nonce of its own");
        let large = Kept { text: "x".repeat(5 << 20), ..kept };
        assert_eq!(seal(&key, &place, &large), None);
    }
}
