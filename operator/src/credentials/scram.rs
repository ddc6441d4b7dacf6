//! The verifier that PostgreSQL stores for SCRAM-SHA-256 (RFC 5802, RFC 7677).

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// Bytes of salt, as PostgreSQL makes them.
const SALT_BYTES: usize = 16;

/// Rounds of hashing. They make guessing expensive where people choose passwords; PostgreSQL uses 4,096 for those. A
/// login's password is 32 random bytes, which nobody guesses at any price. But each round costs time at every login,
/// and when the verifier is set (PostgreSQL then checks that the password is not empty).
const ITERATIONS: NonZeroU32 = NonZeroU32::new(64).unwrap();

/// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`. The password must be ASCII: it then needs no SASLprep.
pub fn verifier(password: &[u8], salt: [u8; SALT_BYTES]) -> String {
    let mut salted = Zeroizing::new([0; digest::SHA256_OUTPUT_LEN]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, &salt, password, salted.as_mut());
    let key = hmac::Key::new(hmac::HMAC_SHA256, salted.as_ref());
    let stored_key = digest::digest(&digest::SHA256, hmac::sign(&key, b"Client Key").as_ref());
    let server_key = hmac::sign(&key, b"Server Key");
    let [salt, stored_key, server_key] =
        [salt.as_slice(), stored_key.as_ref(), server_key.as_ref()].map(|bytes| STANDARD.encode(bytes));
    format!("SCRAM-SHA-256${ITERATIONS}:{salt}${stored_key}:{server_key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed independently, with Python's `hashlib` and `hmac`. Every login shows that PostgreSQL accepts it.
    #[test]
    fn a_verifier_is_what_the_standard_says() {
        assert_eq!(
            verifier(b"correct horse battery staple", *b"0123456789abcdef"),
            "SCRAM-SHA-256$64:MDEyMzQ1Njc4OWFiY2RlZg==$2wGhLzFpmdmUEvtOZigPPjWLcr0c0pDZuerxgE7106k=:nXitN2DWeIbaa6l3+wwGroHI9U0o+/TEvBZxqMJyHU0="
        );
    }
}
