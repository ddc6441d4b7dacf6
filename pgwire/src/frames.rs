//! The server's messages, found in the bytes that have been read so far.
//!
//! A message is a type, its length in four bytes, and a body
//! (<https://www.postgresql.org/docs/current/protocol-message-formats.html>). Bodies are used in the read buffer, not copied.

use std::ops::Range;

use bytes::{Buf, BytesMut};

use super::WireError;

/// Bytes per read, at first and at most.
const READ: (usize, usize) = (8 * 1024, 128 * 1024);
/// Most bytes of an error or notice that are kept: a statement can make one as long as its longest value.
const ERROR_MAX: usize = 64 * 1024;

/// Types of messages.
pub mod tag {
    pub const PARSED: u8 = b'1';
    pub const BOUND: u8 = b'2';
    pub const CLOSED: u8 = b'3';
    pub const NOTIFICATION: u8 = b'A';
    pub const COMPLETE: u8 = b'C';
    pub const ROW: u8 = b'D';
    pub const ERROR: u8 = b'E';
    pub const EMPTY: u8 = b'I';
    pub const KEY: u8 = b'K';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE: u8 = b'N';
    pub const AUTHENTICATION: u8 = b'R';
    pub const STATUS: u8 = b'S';
    pub const PARAMETERS: u8 = b't';
    pub const COLUMNS: u8 = b'T';
    pub const READY: u8 = b'Z';
}

/// The read buffer, and how much of it has been consumed.
#[derive(Debug)]
pub struct Frames {
    buffer: BytesMut,
    /// Length of the message that was returned last; it is dropped when the next one is requested.
    given: usize,
    /// Bytes still to come of a message whose remainder is dropped.
    unkept: usize,
    limit: usize,
    read: usize,
}

impl Frames {
    /// An empty buffer; messages of more than `limit` bytes are errors.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), given: 0, unkept: 0, limit, read: READ.0 }
    }

    /// Sets the limit on the length of a message.
    pub const fn limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Type and range of the next message, if all of it has been read. The range is valid until the next call.
    ///
    /// # Errors
    /// [`WireError::Protocol`].
    pub fn next(&mut self) -> Result<Option<(u8, Range<usize>)>, WireError> {
        self.buffer.advance(std::mem::take(&mut self.given));
        let unkept = self.unkept.min(self.buffer.len());
        self.buffer.advance(unkept);
        self.unkept -= unkept;
        let Some(&[kind, a, b, c, d]) = self.buffer.first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length < 4 {
            return Err(WireError::Protocol("a message shorter than its own length"));
        }
        let whole = length + 1;
        let kept = match kind {
            tag::ERROR | tag::NOTICE => whole.min(ERROR_MAX),
            tag::PARSED
            | tag::BOUND
            | tag::CLOSED
            | tag::NOTIFICATION
            | tag::COMPLETE
            | tag::ROW
            | tag::EMPTY
            | tag::KEY
            | tag::NO_DATA
            | tag::AUTHENTICATION
            | tag::STATUS
            | tag::PARAMETERS
            | tag::COLUMNS
            | tag::READY => whole,
            _ => return Err(WireError::Protocol("a message of an unknown type")),
        };
        if kept > self.limit.max(ERROR_MAX) {
            return Err(WireError::Protocol("a message longer than its limit"));
        }
        if self.buffer.len() < kept {
            return Ok(None);
        }
        (self.given, self.unkept) = (kept, whole - kept);
        Ok(Some((kind, 5..kept)))
    }

    /// The body of a message.
    #[must_use]
    pub fn body(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// Whether no part of a message is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.len() == self.given && self.unkept == 0
    }

    /// The buffer with room to read into.
    pub fn room(&mut self) -> &mut BytesMut {
        self.buffer.reserve(self.read);
        &mut self.buffer
    }

    /// Records how many bytes a read returned. Reads that fill their room get more room.
    pub fn filled(&mut self, read: usize) {
        if read >= self.read {
            self.read = (self.read * 2).min(READ.1);
        }
    }

    /// Returns the memory of a large message.
    pub fn trim(&mut self) {
        self.read = READ.0;
        if self.is_empty() && self.buffer.capacity() > 4 * READ.0 {
            (self.buffer, self.given) = (BytesMut::new(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::{ERROR_MAX, Frames, tag};
    use crate::WireError;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("short").to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    fn all(frames: &mut Frames, found: &mut Vec<(u8, Vec<u8>)>) -> Result<(), WireError> {
        while let Some((kind, range)) = frames.next()? {
            found.push((kind, frames.body(range).to_vec()));
        }
        Ok(())
    }

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let expected = [
            (tag::BOUND, vec![]),
            (tag::ROW, b"\0\x01\0\0\0\x02{}".to_vec()),
            (tag::COMPLETE, b"SELECT 1\0".to_vec()),
            (tag::READY, b"I".to_vec()),
        ];
        let stream: Vec<u8> = expected.iter().flat_map(|(kind, body)| message(*kind, body)).collect();
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let (mut frames, mut found) = (Frames::new(100), Vec::new());
                for part in [&stream[..first], &stream[first..second], &stream[second..]] {
                    frames.room().extend_from_slice(part);
                    all(&mut frames, &mut found).expect("sound");
                }
                assert_eq!(found, expected, "cut at {first} and {second}");
                assert!(frames.is_empty());
            }
        }
    }

    #[test]
    fn an_end_in_the_middle_gives_no_message() {
        let stream = message(tag::ROW, b"\0\x01\0\0\0\x02{}");
        for end in 0..stream.len() {
            let mut frames = Frames::new(100);
            frames.room().extend_from_slice(&stream[..end]);
            assert!(frames.next().expect("so far sound").is_none());
            assert_eq!(frames.is_empty(), end == 0);
        }
    }

    #[test]
    fn what_the_protocol_does_not_allow_is_refused_before_it_is_read() {
        let refused = |bytes: &[u8]| {
            let mut frames = Frames::new(1 << 20);
            frames.room().extend_from_slice(bytes);
            frames.next().is_err()
        };
        for length in [0_u32, 3, 1 << 20, 1 << 31, u32::MAX] {
            assert!(refused(&[&[tag::ROW][..], &length.to_be_bytes()].concat()), "{length}");
        }
        for length in [0_u32, 3] {
            assert!(refused(&[&[tag::ERROR][..], &length.to_be_bytes()].concat()), "{length}");
        }
        for kind in 0..=u8::MAX {
            let known = b"123ACDEIKnNRStTZ".contains(&kind);
            assert_eq!(refused(&message(kind, b"")), !known, "{}", char::from(kind));
        }
    }

    #[test]
    fn a_long_error_is_cut_and_what_follows_is_found() {
        for long in [ERROR_MAX - 6, ERROR_MAX - 5, ERROR_MAX - 4, ERROR_MAX * 3] {
            let stream = [message(tag::ERROR, &vec![b'x'; long]), message(tag::READY, b"E")].concat();
            let (mut frames, mut found) = (Frames::new(100), Vec::new());
            for part in stream.chunks(1000) {
                frames.room().extend_from_slice(part);
                all(&mut frames, &mut found).expect("sound");
                assert!(frames.room().len() < ERROR_MAX + 2000);
            }
            assert_eq!(found.len(), 2);
            assert_eq!((found[0].0, found[0].1.len()), (tag::ERROR, long.min(ERROR_MAX - 5)));
            assert_eq!(found[1], (tag::READY, b"E".to_vec()));
        }
    }

    #[test]
    fn the_memory_of_a_large_message_is_returned() {
        let mut frames = Frames::new(10 << 20);
        frames.room().extend_from_slice(&message(tag::ROW, &vec![0; 5 << 20]));
        assert!(frames.next().expect("sound").is_some());
        assert!(frames.room().capacity() > 5 << 20);
        frames.trim();
        assert!(frames.next().expect("sound").is_none());
        assert!(std::mem::replace(frames.room(), BytesMut::new()).capacity() < 100_000);
    }
}
