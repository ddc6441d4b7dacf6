//! A client of PostgreSQL's wire protocol for one purpose: several statements in one write, and one answer.
//!
//! tokio-postgres puts a Sync behind every statement, and PostgreSQL flushes its answer at each; a flight of four then wakes
//! the server, the kernel and the gateway up to four times
//! ([decision 16](https://github.com/storefence/storefence/blob/main/docs/decisions/0016-own-wire-client.md)).
//! Here a group of statements ends with one Sync. The connection belongs to the call that uses it: there is no task between
//! the two, so nothing is read while nobody calls.

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

/// Longest message of a connection on which nothing has been asked for yet.
const SMALL: usize = 256 * 1024;
/// What is read at a time of an answer that nobody wants.
const WASTE: usize = 16 * 1024;

/// A connection.
pub struct Wire {
    stream: Box<dyn Transport>,
    /// What is still to be written.
    out: BytesMut,
    flushing: bool,
    frames: Frames,
    /// What is to be answered, in order.
    steps: VecDeque<Step>,
    /// Process and secret, for cancel requests.
    key: (i32, i32),
    endpoint: Endpoint,
    closed: bool,
}

/// Ends at the server what a connection runs.
pub struct Cancel {
    endpoint: Endpoint,
    key: (i32, i32),
}

impl Cancel {
    /// Asks for it, in the way the connection itself took, TLS included.
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
    /// Connects to the first server of the URI that lets us in.
    ///
    /// # Errors
    /// That of the last server.
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

    /// What ends a statement that runs on it.
    #[must_use]
    pub fn cancel(&self) -> Cancel {
        Cancel { endpoint: self.endpoint.clone(), key: self.key }
    }

    /// Refuses messages that are longer.
    pub fn limit(&mut self, bytes: usize) {
        self.frames.limit(bytes.max(SMALL));
    }

    /// Gives back the memory that a large answer took.
    pub fn rest(&mut self) {
        self.frames.trim();
        if self.out.is_empty() && self.out.capacity() > SMALL {
            self.out = BytesMut::new();
        }
    }

    /// Whether it cannot be used any more, as far as anybody has noticed.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the server has gone, or has said that it goes, while nobody called.
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
                // 57P01, as a rule: an administrator ended the session.
                Ok(Some(_)) | Err(_) => self.closed = true,
            }
        }
        true
    }

    /// Runs a statement of our own without parameters, and gives the first value of its first row.
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

    /// Says goodbye, and reads and throws away what comes until the server has closed: only then has its process ended.
    /// After `patience` our side is closed, too.
    pub async fn end(mut self, patience: Duration) {
        frontend::terminate(&mut self.out);
        // No second goodbye when this is dropped.
        self.closed = true;
        let (mut waste, mut leaving, mut left) = (vec![0; WASTE], pin!(tokio::time::sleep(patience)), false);
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

    /// The next message that is no notice, after what is to be written has been.
    async fn next(&mut self) -> Result<(u8, Range<usize>), WireError> {
        loop {
            match self.frames.next()? {
                Some((tag::NOTICE | tag::STATUS | tag::NOTIFICATION, _)) => {}
                Some(message) => return Ok(message),
                None => poll_fn(|context| self.poll_fill(context)).await?,
            }
        }
    }

    /// Writes what can be written and reads what can be read: a server that waits for us to read reads nothing itself.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        if self.poll_write(context).is_err() {
            // What the server said before it closed is worth more than that it did.
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
        // A goodbye, where the server waits for the next word; the socket takes five bytes at once.
        if !self.closed && self.steps.is_empty() && self.out.is_empty() {
            frontend::terminate(&mut self.out);
            let _ = self.poll_write(&mut Context::from_waker(Waker::noop()));
        }
    }
}
