//! The `postgresql://` URI of a login slot, as Key Vault holds it.

use std::time::Duration;

use tokio_postgres::{Config, config::SslMode};
use url::Url;

use crate::trust::tls::Verify;

/// Settings of every connection of the gateway. `client_connection_check_interval` ends a statement whose gateway has
/// disappeared without closing the connection; `jit` costs more than it saves on statements of milliseconds.
const OPTIONS: &str = "-c standard_conforming_strings=on -c TimeZone=UTC -c DateStyle=ISO -c jit=off \
    -c client_connection_check_interval=1000 -c idle_in_transaction_session_timeout=90000";

/// A secret that is not a usable URI. The text is not shown: it holds a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret is not a postgresql:// URI: {0}")]
pub struct InvalidUri(&'static str);

/// Reads the URI. Returns the configuration, and how the server's certificate is verified: `None` without TLS. `has_root` is
/// whether a trust root is configured for this database, which turns `require` into `verify-ca` as in libpq.
///
/// # Errors
/// [`InvalidUri`].
pub fn parse(text: &str, has_root: bool) -> Result<(Config, Option<Verify>), InvalidUri> {
    let mut url = Url::parse(text.trim()).map_err(|_| InvalidUri("it does not parse"))?;
    if !matches!(url.scheme(), "postgresql" | "postgres") {
        return Err(InvalidUri("the scheme is another"));
    }
    let mut mode = None;
    let rest: Vec<(String, String)> = url
        .query_pairs()
        .filter_map(|(name, value)| {
            if name == "sslmode" {
                mode = Some(value.into_owned());
                return None;
            }
            Some((name.into_owned(), value.into_owned()))
        })
        .collect();
    url.set_query(None);
    if !rest.is_empty() {
        url.query_pairs_mut().extend_pairs(rest);
    }
    let mut config: Config = url.as_str().parse().map_err(|_| InvalidUri("a parameter is not known"))?;
    let (ssl, verify) = match mode.as_deref() {
        Some("disable") => (SslMode::Disable, None),
        None | Some("allow" | "prefer") => (SslMode::Prefer, Some(Verify::Nothing)),
        Some("require") if has_root => (SslMode::Require, Some(Verify::Chain)),
        Some("require") => (SslMode::Require, Some(Verify::Nothing)),
        Some("verify-ca") => (SslMode::Require, Some(Verify::Chain)),
        Some("verify-full") => (SslMode::Require, Some(Verify::ChainAndName)),
        Some(_) => return Err(InvalidUri("sslmode is not known")),
    };
    if config.get_user().is_none() || config.get_password().is_none() || config.get_dbname().is_none() {
        return Err(InvalidUri("user, password or database is missing"));
    }
    config.ssl_mode(ssl).application_name("storefence-gateway").options(OPTIONS);
    config.connect_timeout(Duration::from_secs(5)).tcp_user_timeout(Duration::from_secs(15));
    config.keepalives_idle(Duration::from_secs(30));
    Ok((config, verify))
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::SslMode;

    use super::{Verify, parse};

    #[test]
    fn sslmode_means_what_it_means_in_libpq() {
        for (query, root, ssl, verify) in [
            ("", false, SslMode::Prefer, Some(Verify::Nothing)),
            ("?sslmode=disable", true, SslMode::Disable, None),
            ("?sslmode=require", false, SslMode::Require, Some(Verify::Nothing)),
            ("?sslmode=require", true, SslMode::Require, Some(Verify::Chain)),
            ("?sslmode=verify-ca", false, SslMode::Require, Some(Verify::Chain)),
            ("?connect_timeout=3&sslmode=verify-full", false, SslMode::Require, Some(Verify::ChainAndName)),
        ] {
            let (config, read) = parse(&format!("postgresql://u:p%40ss@db:5432/retail{query}"), root).expect(query);
            assert_eq!((config.get_ssl_mode(), read), (ssl, verify), "{query}");
            assert_eq!(config.get_password(), Some("p@ss".as_bytes()));
        }
    }

    #[test]
    fn refusals_do_not_show_the_password() {
        for text in [
            "mysql://u:hunter2@db/x",
            "postgresql://u:hunter2@db/x?sslmode=maybe",
            "postgresql://u:hunter2@db/x?what=ever",
            "postgresql://hunter2@db/x",
            "hunter2",
        ] {
            let error = parse(text, false).expect_err(text);
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
