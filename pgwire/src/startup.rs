//! The start of a connection: start-up message, authentication, and the server's parameters.

use bytes::BytesMut;
use postgres_protocol::{
    authentication::{
        md5_hash,
        sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256},
    },
    message::frontend,
};
use tokio_postgres::{Config, config};

use super::{ServerError, Wire, WireError, frames::tag};

impl Wire {
    /// Sends the start-up message, authenticates, and reads until the server is ready.
    ///
    /// # Errors
    /// [`WireError`].
    pub(super) async fn start(&mut self, config: &Config, binding: Option<Vec<u8>>) -> Result<(), WireError> {
        let user = config.get_user().unwrap_or_default();
        let mut parameters = vec![("client_encoding", "UTF8"), ("user", user)];
        parameters.extend(config.get_dbname().map(|name| ("database", name)));
        parameters.extend(config.get_options().map(|options| ("options", options)));
        parameters.extend(config.get_application_name().map(|name| ("application_name", name)));
        frontend::startup_message(parameters, &mut self.out)?;
        self.authenticate(config, user, binding).await?;
        loop {
            let (kind, range) = self.next().await?;
            let body = self.frames.body(range);
            match (kind, body) {
                (tag::KEY, [pid @ .., a, b, c, d]) if pid.len() == 4 => {
                    let pid = [pid[0], pid[1], pid[2], pid[3]];
                    self.key = (i32::from_be_bytes(pid), i32::from_be_bytes([*a, *b, *c, *d]));
                }
                (tag::READY, _) => return Ok(()),
                (tag::ERROR, body) => return Err(Box::new(ServerError::parse(body)).into()),
                _ => return Err(WireError::Protocol("at start-up")),
            }
        }
    }

    async fn authenticate(&mut self, config: &Config, user: &str, binding: Option<Vec<u8>>) -> Result<(), WireError> {
        let password = config.get_password().unwrap_or_default();
        let (kind, rest) = self.request().await?;
        if kind != SASL && config.get_channel_binding() == config::ChannelBinding::Require {
            return Err(WireError::Authentication("server did not use channel binding".to_owned()));
        }
        match (kind, rest.as_slice()) {
            (OK, _) => return Ok(()),
            (CLEARTEXT, _) => frontend::password_message(password, &mut self.out)?,
            (MD5, &[a, b, c, d]) => {
                let hash = md5_hash(user.as_bytes(), password, [a, b, c, d]);
                frontend::password_message(hash.as_bytes(), &mut self.out)?;
            }
            (SASL, mechanisms) => self.scram(mechanisms, config, password, binding).await?,
            _ => return Err(WireError::Authentication("unsupported authentication method".to_owned())),
        }
        match self.request().await? {
            (OK, _) => Ok(()),
            _ => Err(WireError::Protocol("at the end of authentication")),
        }
    }

    async fn scram(
        &mut self,
        mechanisms: &[u8],
        config: &Config,
        password: &[u8],
        binding: Option<Vec<u8>>,
    ) -> Result<(), WireError> {
        let wanted = config.get_channel_binding();
        let binding = binding.filter(|_| wanted != config::ChannelBinding::Disable);
        let offers = |name: &str| mechanisms.split(|byte| *byte == 0).any(|offered| offered == name.as_bytes());
        let (binding, mechanism) = match (binding, offers(SCRAM_SHA_256_PLUS), offers(SCRAM_SHA_256)) {
            (Some(hash), true, _) => (ChannelBinding::tls_server_end_point(hash), SCRAM_SHA_256_PLUS),
            // States that we support it: if the server offered it, it learns from this that the offer was removed in
            // transit.
            (Some(_), false, true) => (ChannelBinding::unrequested(), SCRAM_SHA_256),
            (None, _, true) | (None, true, _) => (ChannelBinding::unsupported(), SCRAM_SHA_256),
            _ => return Err(WireError::Authentication("unsupported SASL mechanism".to_owned())),
        };
        if wanted == config::ChannelBinding::Require && mechanism != SCRAM_SHA_256_PLUS {
            return Err(WireError::Authentication("server did not use channel binding".to_owned()));
        }
        let failed = |error: std::io::Error| WireError::Authentication(error.to_string());
        let mut proof = ScramSha256::new(password, binding);
        frontend::sasl_initial_response(mechanism, proof.message(), &mut self.out)?;
        let (SASL_CONTINUE, challenge) = self.request().await? else { return Err(WireError::Protocol("in SCRAM")) };
        proof.update(&challenge).map_err(failed)?;
        frontend::sasl_response(proof.message(), &mut self.out)?;
        let (SASL_FINAL, verdict) = self.request().await? else { return Err(WireError::Protocol("in SCRAM")) };
        // The server's proof that it knows the password.
        proof.finish(&verdict).map_err(failed)
    }

    /// The server's next authentication request: its kind and data.
    async fn request(&mut self) -> Result<(u32, Vec<u8>), WireError> {
        let (kind, range) = self.next().await?;
        let body = self.frames.body(range);
        match (kind, body) {
            (tag::AUTHENTICATION, &[a, b, c, d, ref rest @ ..]) => {
                Ok((u32::from_be_bytes([a, b, c, d]), rest.to_vec()))
            }
            (tag::ERROR, body) => Err(Box::new(ServerError::parse(body)).into()),
            _ => Err(WireError::Protocol("in authentication")),
        }
    }
}

/// Kinds of authentication messages.
const OK: u32 = 0;
const CLEARTEXT: u32 = 3;
const MD5: u32 = 5;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

/// The message that cancels the statement of the connection with this key. It is sent on a connection of its own.
pub(super) fn cancel_request(key: (i32, i32)) -> BytesMut {
    let mut out = BytesMut::new();
    frontend::cancel_request(key.0, key.1, &mut out);
    out
}
