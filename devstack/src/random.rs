//! Random names and passwords, and short digests for file names.

use rand::{Rng, distr::Alphanumeric};
use sha2::{Digest, Sha256};

/// A password of letters and digits that needs no escaping in a URL (about 190 bits).
pub(crate) fn password() -> String {
    rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect()
}

/// A short suffix that makes a name unique among those of one test run.
pub(crate) fn suffix() -> String {
    format!("{:08x}", rand::random::<u32>())
}

/// The first 48 bits of a SHA-256, in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}
