//! Errors of a connection, and PostgreSQL's error messages.

use std::io;

/// Why an operation on a connection failed.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// PostgreSQL reported an error.
    #[error(transparent)]
    Server(#[from] Box<ServerError>),
    /// The network failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The server closed the connection.
    #[error("connection closed")]
    Closed,
    /// TLS could not be set up.
    #[error("error performing TLS handshake: {0}")]
    Tls(String),
    /// The server wants an authentication that is not supported, or failed to authenticate itself.
    #[error("authentication error: {0}")]
    Authentication(String),
    /// The server sent something that the protocol does not allow.
    #[error("unexpected message from server: {0}")]
    Protocol(&'static str),
}

impl WireError {
    /// The SQLSTATE of an error that PostgreSQL reported.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server(error) => Some(&error.sqlstate),
            _ => None,
        }
    }
}

/// PostgreSQL's error, without DETAIL, HINT and CONTEXT: they are never passed on.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{sqlstate}: {message}")]
pub struct ServerError {
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
    /// The position of the error.
    pub position: Option<Position>,
}

/// A position in a text, in characters from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// In the statement that was sent.
    Original(u32),
    /// In a text that a function ran.
    Internal {
        position: u32,
        /// The text.
        query: String,
    },
}

impl ServerError {
    /// Reads the fields of an ErrorResponse. One that was cut has the fields up to the cut.
    #[must_use]
    pub fn parse(mut body: &[u8]) -> Self {
        let mut error = Self::default();
        let (mut at, mut internal, mut query) = (None, None, None);
        while let Some((&field, rest)) = body.split_first()
            && field != 0
        {
            let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
            // Before the client's encoding is set, a message may be in the server's encoding.
            let value = String::from_utf8_lossy(&rest[..end]);
            match field {
                b'C' => error.sqlstate = value.into_owned(),
                b'M' => error.message = value.into_owned(),
                b'P' => at = value.parse().ok(),
                b'p' => internal = value.parse().ok(),
                b'q' => query = Some(value.into_owned()),
                _ => {}
            }
            body = rest.get(end + 1..).unwrap_or_default();
        }
        error.position = match (at, internal, query) {
            (Some(at), ..) => Some(Position::Original(at)),
            (None, Some(position), Some(query)) => Some(Position::Internal { position, query }),
            _ => None,
        };
        error
    }
}

#[cfg(test)]
mod tests {
    use super::{Position, ServerError};

    #[test]
    fn an_error_is_reduced_to_what_concerns_the_caller() {
        let fields =
            b"SERROR\0VERROR\0C42703\0Mcolumn \"x\" does not exist\0Dsecret\0Hsecret\0p8\0qSELECT x\0Wsecret\0\0";
        let error = ServerError::parse(fields);
        let position = Some(Position::Internal { position: 8, query: "SELECT x".to_owned() });
        let message = "column \"x\" does not exist".to_owned();
        assert_eq!(error, ServerError { sqlstate: "42703".to_owned(), message, position });
        for end in 0..fields.len() {
            let _ = ServerError::parse(&fields[..end]);
        }
        assert_eq!(ServerError::parse(b"P7\0p8\0qx\0\0").position, Some(Position::Original(7)));
        assert_eq!(ServerError::parse(b"M\xff\0\0").message, "\u{fffd}");
    }
}
