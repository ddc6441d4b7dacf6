//! Identifies a verified token without keeping it: 128 bits under a random key of this process.
//!
//! The fingerprint is AES-GCM's authentication code (GMAC) over the token, always with the same nonce. Repeating a
//! nonce is forbidden where an attacker sees the codes, since two of them reveal the key. Nobody sees these: they never
//! leave the memory of the process, not even in a log. For somebody who sees neither key nor codes, two texts of up to
//! 24 KiB collide with a probability of 1,540 in 2^128, whatever the texts are (GHASH is a universal hash), and each
//! guess costs a request. SHA-256 would do the same at several times the cost: it was half the cost of verifying a
//! known token.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sha2::{Digest, Sha256};

/// The fingerprint of one token, valid in this process.
pub type Fingerprint = [u8; 16];

/// Makes fingerprints.
pub struct Fingerprints(Option<LessSafeKey>);

impl Default for Fingerprints {
    /// With a new random key.
    fn default() -> Self {
        Self(UnboundKey::new(&AES_256_GCM, &rand::random::<[u8; 32]>()).ok().map(LessSafeKey::new))
    }
}

impl Fingerprints {
    /// The fingerprint of a text.
    #[must_use]
    pub fn of(&self, text: &str) -> Fingerprint {
        let code = self.0.as_ref().and_then(|key| {
            let nonce = Nonce::assume_unique_for_key([0; 12]);
            key.seal_in_place_separate_tag(nonce, Aad::from(text.as_bytes()), &mut []).ok()
        });
        let code = code.as_ref().and_then(|code| code.as_ref().try_into().ok());
        // The library cannot fail with a key of the right length and no plain text.
        code.unwrap_or_else(|| {
            let mut half = [0; 16];
            half.copy_from_slice(&Sha256::digest(text.as_bytes())[..16]);
            half
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Fingerprints;

    #[test]
    fn a_fingerprint_is_of_one_text_and_one_process() {
        let (ours, theirs) = (Fingerprints::default(), Fingerprints::default());
        let token = "eyJ0eXAiOiJKV1QifQ.e30.".repeat(50);
        let known = ours.of(&token);
        assert_eq!(ours.of(&token), known);
        assert_ne!(theirs.of(&token), known, "another key");
        for at in 0..token.len() {
            let mut other = token.clone().into_bytes();
            other[at] ^= 1;
            assert_ne!(ours.of(std::str::from_utf8(&other).expect("ASCII")), known, "one bit at {at}");
        }
        for other in ["", &token[1..], &token[..token.len() - 1], &format!("{token}\0")] {
            assert_ne!(ours.of(other), known);
        }
    }
}
