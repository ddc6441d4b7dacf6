//! A client of PostgreSQL's wire protocol for one purpose: several statements in one write, and their replies in one read.
//!
//! tokio-postgres sends a Sync after every statement, and PostgreSQL flushes its replies at each. A batch of four then wakes
//! the server, the kernel and the gateway up to four times
//! ([decision 16](https://github.com/storefence/storefence/blob/main/docs/decisions/0016-own-wire-client.md)).
//! Here a group of statements ends with one Sync. The connection belongs to the call that uses it, without a task in between,
//! so nothing is read while no call runs.

mod error;
mod frames;
mod startup;
mod steps;
mod stream;

use std::{
    collections::VecDeque,
    future::poll_fn,
    ops::Range,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use postgres_protocol::message::frontend;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_postgres::{Config, config::TargetSessionAttrs};

pub use self::{
    error::{Position, ServerError, WireError},
    steps::{Column, End, Param, Reply, columns, field},
};
use self::{
    frames::{Frames, tag},
    steps::Step,
    stream::{Endpoint, Transport},
};

/// The lowest limit on the length of a message, and the limit of a new connection.
const SMALL: usize = 256 * 1024;
/// Bytes per read while a connection ends and replies are dropped.
const WASTE: usize = 16 * 1024;

/// A connection.
pub struct Wire {
    stream: Box<dyn Transport>,
    /// Bytes that are still to be written.
    out: BytesMut,
    flushing: bool,
    frames: Frames,
    /// Steps whose replies are still to come, in order.
    steps: VecDeque<Step>,
    /// Process ID and secret key, for cancel requests.
    key: (i32, i32),
    endpoint: Endpoint,
    closed: bool,
}

/// Cancels the statement of a connection, on the server.
pub struct Cancel {
    endpoint: Endpoint,
    key: (i32, i32),
}

impl Cancel {
    /// Sends a cancel request, to the same address and with the same TLS as the connection.
    ///
    /// # Errors
    /// [`WireError`].
    pub async fn send(&self, config: &Config, tls: &Arc<ClientConfig>) -> Result<(), WireError> {
        let mut stream = self.endpoint.open(config, tls).await?.stream;
        stream.write_all(&startup::cancel_request(self.key)).await?;
        stream.flush().await?;
        Ok(stream.shutdown().await?)
    }
}

impl Wire {
    /// Connects to the first server of the URI that accepts the login.
    ///
    /// # Errors
    /// The error of the last server.
    pub async fn connect(config: &Config, tls: &Arc<ClientConfig>) -> Result<Self, WireError> {
        let mut failed = WireError::Closed;
        for endpoint in stream::endpoints(config).await? {
            match Self::connect_to(endpoint, config, tls).await {
                Ok(wire) => return Ok(wire),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn connect_to(endpoint: Endpoint, config: &Config, tls: &Arc<ClientConfig>) -> Result<Self, WireError> {
        let stream::Opened { stream, binding } = endpoint.open(config, tls).await?;
        let mut wire = Self {
            stream,
            out: BytesMut::new(),
            flushing: false,
            frames: Frames::new(SMALL),
            steps: VecDeque::new(),
            key: (0, 0),
            endpoint,
            closed: false,
        };
        wire.start(config, binding).await?;
        let wanted = match config.get_target_session_attrs() {
            TargetSessionAttrs::ReadWrite => "off",
            TargetSessionAttrs::ReadOnly => "on",
            _ => return Ok(wire),
        };
        match wire.query("SHOW transaction_read_only").await? {
            Some(value) if value == wanted => Ok(wire),
            _ => Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, "the server is not of the wanted kind")
                .into()),
        }
    }

    /// A handle that cancels the statement of this connection.
    #[must_use]
    pub fn cancel(&self) -> Cancel {
        Cancel { endpoint: self.endpoint.clone(), key: self.key }
    }

    /// Limits the length of messages; longer ones are errors.
    pub fn limit(&mut self, bytes: usize) {
        self.frames.limit(bytes.max(SMALL));
    }

    /// Returns the memory that a large result took.
    pub fn trim(&mut self) {
        self.frames.trim();
        if self.out.is_empty() && self.out.capacity() > SMALL {
            self.out = BytesMut::new();
        }
    }

    /// Whether the connection is known to be closed or broken.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the server has closed the connection, or announced it, while no call ran.
    pub fn is_gone(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        while !self.closed {
            match self.frames.next() {
                Ok(Some((tag::NOTICE | tag::STATUS | tag::NOTIFICATION, _))) => {}
                Ok(None) => match self.poll_fill(&mut context) {
                    Poll::Pending => return false,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => self.closed = true,
                },
                // Usually 57P01: an administrator ended the session.
                Ok(Some(_)) | Err(_) => self.closed = true,
            }
        }
        true
    }

    /// Runs a statement without parameters, and returns the first value of its first row.
    ///
    /// # Errors
    /// [`WireError`].
    pub async fn query(&mut self, sql: &str) -> Result<Option<String>, WireError> {
        self.parse("query", "", sql, &[])?;
        self.call("query", "", &[])?;
        self.sync();
        let mut value = None;
        let end = self.group(|_, reply| {
            if let (Reply::Row(row), None) = (reply, &value) {
                value = field(row, 0)?.map(str::to_owned);
            }
            Ok(())
        });
        match end.await?.failed {
            Some((_, error)) => Err(Box::new(error).into()),
            None => Ok(value),
        }
    }

    /// Sends Terminate, then reads and drops replies until the server has closed the connection: only then has its process
    /// ended. After `limit` our side is closed as well.
    pub async fn end(mut self, limit: Duration) {
        frontend::terminate(&mut self.out);
        // So that the drop sends no second Terminate.
        self.closed = true;
        let (mut waste, mut leaving, mut left) = (vec![0; WASTE], pin!(tokio::time::sleep(limit)), false);
        poll_fn(|context| {
            loop {
                if self.poll_write(context).is_err() {
                    self.out.clear();
                    self.flushing = false;
                }
                if !left && (leaving.is_elapsed() || leaving.as_mut().poll(context).is_ready()) {
                    left = Pin::new(&mut self.stream).poll_shutdown(context).is_ready();
                }
                let mut read = ReadBuf::new(&mut waste);
                match ready!(Pin::new(&mut self.stream).poll_read(context, &mut read)) {
                    Ok(()) if !read.filled().is_empty() => {}
                    Ok(()) | Err(_) => return Poll::Ready(()),
                }
            }
        })
        .await;
    }

    /// The next message that is not a notice. Writes pending bytes first.
    async fn next(&mut self) -> Result<(u8, Range<usize>), WireError> {
        loop {
            match self.frames.next()? {
                Some((tag::NOTICE | tag::STATUS | tag::NOTIFICATION, _)) => {}
                Some(message) => return Ok(message),
                None => poll_fn(|context| self.poll_fill(context)).await?,
            }
        }
    }

    /// Writes and reads as far as possible. Both, because a server that waits for us to read does not read itself.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        if self.poll_write(context).is_err() {
            // The server may have closed with an error message, which is more informative than the failed write.
            self.out.clear();
            self.flushing = false;
        }
        let read = pin!(self.stream.read_buf(self.frames.room())).poll(context);
        match ready!(read)? {
            0 => Poll::Ready(Err(WireError::Closed)),
            read => {
                self.frames.filled(read);
                Poll::Ready(Ok(()))
            }
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> std::io::Result<()> {
        let mut stream = Pin::new(&mut self.stream);
        while !self.out.is_empty() {
            match stream.as_mut().poll_write(context, &self.out) {
                Poll::Ready(Ok(0)) => return Err(std::io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => {
                    self.out.advance(written);
                    self.flushing = true;
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
        if self.flushing && stream.poll_flush(context)?.is_ready() {
            self.flushing = false;
        }
        Ok(())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Terminate, where the server waits for a message. The socket takes its five bytes at once.
        if !self.closed && self.steps.is_empty() && self.out.is_empty() {
            frontend::terminate(&mut self.out);
            let _ = self.poll_write(&mut Context::from_waker(Waker::noop()));
        }
    }
}
