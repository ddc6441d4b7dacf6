//! Groups of statements: the steps go out in one write, and each reply is matched with its step.

use postgres_protocol::message::frontend;
use tokio_postgres::types::Type;

use super::{ServerError, Wire, WireError, frames::tag};

/// A parameter, in PostgreSQL's binary form.
#[derive(Clone, Copy, Debug)]
pub enum Param<'a> {
    /// `text`.
    Text(Option<&'a str>),
    /// `integer`.
    Int4(i32),
    /// `double precision`.
    Float8(f64),
    /// `real[]`.
    Float4s(&'a [f32]),
}

impl Param<'_> {
    fn write(self, out: &mut bytes::BytesMut) -> postgres_protocol::IsNull {
        use bytes::BufMut;
        match self {
            Self::Text(None) => return postgres_protocol::IsNull::Yes,
            Self::Text(Some(text)) => out.extend_from_slice(text.as_bytes()),
            Self::Int4(number) => out.put_i32(number),
            Self::Float8(number) => out.put_f64(number),
            Self::Float4s(numbers) => {
                // number of dimensions, whether there are nulls, type of the elements; then length and lower bound of the
                // only dimension
                out.put_i32(1);
                out.put_i32(0);
                out.put_u32(Type::FLOAT4.oid());
                out.put_i32(i32::try_from(numbers.len()).unwrap_or(i32::MAX));
                out.put_i32(1);
                for number in numbers {
                    out.put_i32(4);
                    out.put_f32(*number);
                }
            }
        }
        postgres_protocol::IsNull::No
    }
}

/// A message that the server has to reply to. The label identifies its purpose.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    label: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Parse,
    Describe,
    Close,
    Bind,
    Execute,
    Sync,
}

/// A part of the replies to a group.
#[derive(Clone, Copy, Debug)]
pub enum Reply<'a> {
    /// A row, for [`field`].
    Row(&'a [u8]),
    /// A description of columns, for [`columns`].
    Columns(&'a [u8]),
}

/// How a group ended.
#[derive(Debug)]
pub struct End {
    /// Label and error of the step that failed, if one did. The server skipped the steps after it.
    pub failed: Option<(&'static str, ServerError)>,
    /// Whether a transaction is open, failed or not.
    pub in_transaction: bool,
}

impl Wire {
    /// Prepares a statement.
    ///
    /// # Errors
    /// A text holds a zero byte.
    pub fn parse(&mut self, label: &'static str, name: &str, sql: &str, types: &[Type]) -> Result<(), WireError> {
        frontend::parse(name, sql, types.iter().map(Type::oid), &mut self.out)?;
        self.expect(label, Kind::Parse);
        Ok(())
    }

    /// Asks for the columns of a prepared statement.
    ///
    /// # Errors
    /// The name holds a zero byte.
    pub fn describe(&mut self, label: &'static str, name: &str) -> Result<(), WireError> {
        frontend::describe(b'S', name, &mut self.out)?;
        self.expect(label, Kind::Describe);
        Ok(())
    }

    /// Closes a prepared statement.
    ///
    /// # Errors
    /// The name holds a zero byte.
    pub fn forget(&mut self, label: &'static str, name: &str) -> Result<(), WireError> {
        frontend::close(b'S', name, &mut self.out)?;
        self.expect(label, Kind::Close);
        Ok(())
    }

    /// Runs a prepared statement; its values are returned in text form.
    ///
    /// # Errors
    /// The name holds a zero byte, or a value is too long.
    pub fn call(&mut self, label: &'static str, name: &str, params: &[Param<'_>]) -> Result<(), WireError> {
        let write = |param: &Param<'_>, out: &mut bytes::BytesMut| Ok(param.write(out));
        let bound = frontend::bind("", name, Some(1), params, write, Some(0), &mut self.out);
        bound.map_err(|error| match error {
            frontend::BindError::Conversion(error) => std::io::Error::other(error),
            frontend::BindError::Serialization(error) => error,
        })?;
        self.expect(label, Kind::Bind);
        frontend::execute("", 0, &mut self.out)?;
        self.expect(label, Kind::Execute);
        Ok(())
    }

    /// Ends a group: the server flushes its replies after it.
    pub fn sync(&mut self) {
        frontend::sync(&mut self.out);
        self.expect("end", Kind::Sync);
    }

    fn expect(&mut self, label: &'static str, kind: Kind) {
        self.steps.push_back(Step { label, kind });
    }

    /// Sends the pending steps, and reads the replies to one group. Calls `each` with every row and description.
    ///
    /// # Errors
    /// The connection broke and must not be used again.
    pub async fn group(
        &mut self,
        each: impl FnMut(&'static str, Reply<'_>) -> Result<(), WireError>,
    ) -> Result<End, WireError> {
        let end = self.group_through(each).await;
        self.closed |= end.is_err();
        end
    }

    async fn group_through(
        &mut self,
        mut each: impl FnMut(&'static str, Reply<'_>) -> Result<(), WireError>,
    ) -> Result<End, WireError> {
        let mut failed: Option<(&'static str, ServerError)> = None;
        loop {
            let (kind, range) = match (self.next().await, failed.take()) {
                (Ok(message), before) => {
                    failed = before;
                    message
                }
                // The error says why the session ended.
                (Err(_), Some((_, error))) => return Err(Box::new(error).into()),
                (Err(error), None) => return Err(error),
            };
            let body = self.frames.body(range);
            let Some(Step { label, kind: step }) = self.steps.front().copied() else {
                return Err(unexpected(kind, body));
            };
            match (step, kind) {
                (Kind::Describe, tag::PARAMETERS) => continue,
                (Kind::Describe, tag::COLUMNS) => each(label, Reply::Columns(body))?,
                (Kind::Execute, tag::ROW) => {
                    each(label, Reply::Row(body))?;
                    continue;
                }
                (Kind::Parse, tag::PARSED)
                | (Kind::Bind, tag::BOUND)
                | (Kind::Close, tag::CLOSED)
                | (Kind::Describe, tag::NO_DATA)
                | (Kind::Execute, tag::COMPLETE) => {}
                (Kind::Sync, tag::READY) => {
                    self.steps.pop_front();
                    return Ok(End { failed, in_transaction: body != b"I" });
                }
                (_, tag::ERROR) if failed.is_none() => {
                    failed = Some((label, ServerError::parse(body)));
                    // The server skips the rest of the group.
                    while self.steps.front().is_some_and(|step| step.kind != Kind::Sync) {
                        self.steps.pop_front();
                    }
                    continue;
                }
                // A second error says why the session ends.
                _ => return Err(unexpected(kind, body)),
            }
            self.steps.pop_front();
        }
    }
}

fn unexpected(kind: u8, body: &[u8]) -> WireError {
    match kind {
        tag::ERROR => Box::new(ServerError::parse(body)).into(),
        _ => WireError::Protocol("an answer to another question"),
    }
}

const MALFORMED: WireError = WireError::Protocol("a malformed row");

/// A value of a row, as text; `None` where it is null.
///
/// # Errors
/// [`WireError::Protocol`] if the row is malformed, or has no such column.
pub fn field(row: &[u8], column: usize) -> Result<Option<&str>, WireError> {
    let (&[a, b], mut rest) = row.split_first_chunk().ok_or(MALFORMED)?;
    let columns = usize::from(u16::from_be_bytes([a, b]));
    if column >= columns {
        return Err(MALFORMED);
    }
    let mut found = None;
    for index in 0..columns {
        let (length, values) = rest.split_first_chunk().ok_or(MALFORMED)?;
        let value = match i32::from_be_bytes(*length) {
            -1 => None,
            length => Some(usize::try_from(length).map_err(|_| MALFORMED)?),
        };
        let (value, behind) = match value {
            Some(length) => {
                values.split_at_checked(length).map(|(value, behind)| (Some(value), behind)).ok_or(MALFORMED)?
            }
            None => (None, values),
        };
        if index == column {
            found = value;
        }
        rest = behind;
    }
    if !rest.is_empty() {
        return Err(MALFORMED);
    }
    found.map(std::str::from_utf8).transpose().map_err(|_| WireError::Protocol("a value that is not UTF-8"))
}

/// A column as the server describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name, as given by the statement.
    pub name: String,
    /// Object ID of its type.
    pub oid: u32,
}

/// The columns of a description.
///
/// # Errors
/// [`WireError::Protocol`].
pub fn columns(body: &[u8]) -> Result<Vec<Column>, WireError> {
    const WRONG: WireError = WireError::Protocol("a malformed description");
    let (number, mut rest) = body.split_first_chunk().ok_or(WRONG)?;
    let number = u16::from_be_bytes(*number);
    let mut columns = Vec::with_capacity(usize::from(number));
    for _ in 0..number {
        let end = rest.iter().position(|byte| *byte == 0).ok_or(WRONG)?;
        let name = std::str::from_utf8(&rest[..end]).map_err(|_| WRONG)?.to_owned();
        // table (4), attribute (2), type (4), size (2), modifier (4), format (2)
        let (numbers, behind) = rest[end + 1..].split_first_chunk::<18>().ok_or(WRONG)?;
        let oid = u32::from_be_bytes([numbers[6], numbers[7], numbers[8], numbers[9]]);
        columns.push(Column { name, oid });
        rest = behind;
    }
    if rest.is_empty() { Ok(columns) } else { Err(WRONG) }
}
