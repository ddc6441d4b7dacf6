//! A tenant's credentials: random passwords, the verifier that PostgreSQL stores, the URI that Key Vault stores.

mod scram;

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{TryRngCore, rngs::OsRng};
use storefence_tenancy::credentials::ContextKey;
use url::Url;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::config::Endpoint;

/// Random bytes in a password.
const PASSWORD_BYTES: usize = 32;

/// The operating system has no random numbers to give.
#[derive(Debug, thiserror::Error)]
#[error("the operating system's random source failed: {0}")]
pub struct NoRandomness(String);

/// A login's password: 32 random bytes as unpadded base64url. Wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Password(String);

impl Password {
    /// A new password.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut bytes = Zeroizing::new([0; PASSWORD_BYTES]);
        OsRng.try_fill_bytes(bytes.as_mut()).map_err(|error| NoRandomness(error.to_string()))?;
        Ok(Self(URL_SAFE_NO_PAD.encode(bytes.as_ref())))
    }

    /// Reads a password that has the shape of this operator's own; `None` for any other text, which somebody else
    /// wrote.
    fn recognise(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        (bytes.len() == PASSWORD_BYTES).then(|| Self(text.to_owned()))
    }

    /// What PostgreSQL stores: the SCRAM-SHA-256 verifier. It is computed here, so that the password itself is never
    /// part of a statement or a server log.
    #[must_use]
    pub fn verifier(&self) -> String {
        scram::verifier(self.0.as_bytes(), rand::random())
    }

    /// The password, for a connection.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// A new context key.
///
/// # Errors
/// [`NoRandomness`].
pub fn generate_context_key() -> Result<ContextKey, NoRandomness> {
    let mut bytes = Zeroizing::new([0; 32]);
    OsRng.try_fill_bytes(bytes.as_mut()).map_err(|error| NoRandomness(error.to_string()))?;
    Ok(ContextKey::new(*bytes))
}

/// The payload of the Key Vault secret of a login: `postgresql://login:password@host:port/database?sslmode=…`.
#[must_use]
pub fn login_uri(endpoint: &Endpoint, login: &str, password: &Password) -> Zeroizing<String> {
    let Endpoint { host, port, database, ssl_mode } = endpoint;
    // An IPv6 address needs brackets.
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let mut url = Url::parse(&format!("postgresql://{host}:{port}")).unwrap_or_else(|_| fallback());
    // Setting parts of a URL that has a host cannot fail; each setter percent-encodes.
    let _ = url.set_username(login);
    let _ = url.set_password(Some(password.expose()));
    url.set_path(&format!("/{}", database.replace('%', "%25").replace('/', "%2F")));
    url.query_pairs_mut().append_pair("sslmode", ssl_mode);
    Zeroizing::new(String::from(url))
}

fn fallback() -> Url {
    Url::parse("postgresql://invalid.invalid").expect("a literal URL")
}

/// Reads the password out of a secret's payload; `None` unless the payload is exactly the URI that the operator would
/// write for this login and endpoint.
#[must_use]
pub fn password_from_uri(endpoint: &Endpoint, login: &str, payload: &str) -> Option<Password> {
    let password = Password::recognise(Url::parse(payload).ok()?.password()?)?;
    (login_uri(endpoint, login, &password).as_str() == payload).then_some(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(host: &str, database: &str) -> Endpoint {
        Endpoint { host: host.to_owned(), port: 5433, database: database.to_owned(), ssl_mode: "verify-full" }
    }

    #[test]
    fn passwords_are_long_and_different() {
        let (one, other) = (Password::generate().unwrap(), Password::generate().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.expose().len(), 43);
        assert_eq!(format!("{one:?}"), "Password(…)");
    }

    #[test]
    fn the_verifier_does_not_hold_the_password() {
        let password = Password::generate().unwrap();
        let (one, other) = (password.verifier(), password.verifier());
        assert!(one.starts_with("SCRAM-SHA-256$"), "{one}");
        assert!(!one.contains(password.expose()));
        assert_ne!(one, other, "each has a salt of its own");
    }

    #[test]
    fn the_uri_round_trips_and_is_recognised_only_as_written() {
        let password = Password::generate().unwrap();
        for (host, database) in [("db.example", "retail"), ("127.0.0.1", "a b/c%d?"), ("::1", "retail")] {
            let endpoint = endpoint(host, database);
            let uri = login_uri(&endpoint, "sf_0123456789ab_a", &password);
            assert_eq!(password_from_uri(&endpoint, "sf_0123456789ab_a", &uri), Some(password.clone()), "{host}");
            let options: sqlx::postgres::PgConnectOptions = uri.parse().unwrap();
            assert_eq!(options.get_database(), Some(database));
            assert_eq!(options.get_username(), "sf_0123456789ab_a");
            assert_eq!(password_from_uri(&endpoint, "sf_0123456789ab_b", &uri), None);
            assert_eq!(password_from_uri(&endpoint, "sf_0123456789ab_a", &format!("{}&x=1", uri.as_str())), None);
        }
        let weak = "postgresql://sf_0123456789ab_a:hunter2@db.example:5433/retail?sslmode=verify-full";
        assert_eq!(password_from_uri(&endpoint("db.example", "retail"), "sf_0123456789ab_a", weak), None);
    }
}
