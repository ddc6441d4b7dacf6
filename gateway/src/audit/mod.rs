//! The audit log, separate from the ordinary log: one line per tool call, resource read, prompt and completion, each
//! chained to the one before (see [`chain`]).
//!
//! It contains no tokens, statements or rows; a statement is identified by its SHA-256.

pub mod chain;
pub mod meter;

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use self::meter::Meter;
use crate::{caller::Caller, metrics::Metrics};

/// The destination of audit lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// Standard output, which `run` uses for nothing else. Each start begins a new chain.
    #[default]
    Stdout,
    /// A file, whose chain is continued.
    File(PathBuf),
}

/// A target that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("--audit-file (STOREFENCE_AUDIT_FILE): {}: {problem}", path.display())]
pub struct AuditError {
    path: PathBuf,
    problem: String,
}

/// What is recorded. No text of the caller's is recorded: unknown names become `unknown`.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The MCP method.
    pub method: &'static str,
    /// The tool of a tool call.
    pub tool: Option<&'a str>,
    /// The resource or prompt of another request.
    pub target: Option<&'static str>,
    /// The statement as it was sent; its SHA-256 is recorded.
    pub statement: Option<&'a str>,
}

impl<'a> Call<'a> {
    /// A call of a tool.
    #[must_use]
    pub const fn tool(name: &'a str) -> Self {
        Self { method: "tools/call", tool: Some(name), target: None, statement: None }
    }

    /// A request other than a tool call.
    #[must_use]
    pub const fn of(method: &'static str, target: &'static str) -> Self {
        Self { method, tool: None, target: Some(target), statement: None }
    }
}

/// A line without its link to the chain. Fields are in the order in which they are written: a person reads the number
/// first.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    sequence: u64,
    bytes: u64,
    correlation_id: Uuid,
    duration_ms: f64,
    method: &'a str,
    oid: Uuid,
    outcome: &'a str,
    rows: u64,
    rules: &'a [Arc<str>],
    statement_sha256: Option<&'a str>,
    target: Option<&'a str>,
    tenant: &'a str,
    tid: Uuid,
    time: String,
    tool: Option<&'a str>,
}

/// The usual length of a line, reserved when it is written.
const LINE: usize = 1024;

struct Writer {
    out: Box<dyn Write + Send>,
    sequence: u64,
    last: String,
}

/// Writes audit lines.
pub struct Audit {
    writer: Mutex<Writer>,
    metrics: Arc<Metrics>,
}

impl Audit {
    /// Opens the target.
    ///
    /// # Errors
    /// [`AuditError`]: the file cannot be opened, or another process writes to it.
    pub fn open(target: &Target, metrics: Arc<Metrics>) -> Result<Self, AuditError> {
        let writer = match target {
            Target::Stdout => Writer { out: Box::new(io::stdout()), sequence: 0, last: chain::START.to_owned() },
            Target::File(path) => {
                open(path).map_err(|problem| AuditError { path: path.clone(), problem: problem.to_string() })?
            }
        };
        Ok(Self { writer: Mutex::new(writer), metrics })
    }

    /// Begins the record of a call. It is written when the record is finished or, for an abandoned call, dropped.
    #[must_use]
    pub fn begin(self: &Arc<Self>, caller: Arc<Caller>, call: Call<'_>) -> Record {
        let Call { method, tool, target, statement } = call;
        Record {
            audit: self.clone(),
            caller,
            method,
            tool: tool.map(str::to_owned),
            target,
            statement: statement.map(|text| chain::sha256(text.as_bytes())),
            started: Instant::now(),
            meter: Arc::default(),
            outcome: "cancelled",
        }
    }

    /// A call waits for its line: if the line cannot be written in time, the caller waits rather than going unrecorded.
    fn write(&self, record: &Record) {
        let Record { caller, method, tool, target, statement, started, meter, outcome, .. } = record;
        let claims = &caller.principal.claims;
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = writer.sequence + 1;
        let line = Line {
            sequence,
            bytes: meter.bytes(),
            correlation_id: caller.correlation,
            duration_ms: started.elapsed().as_micros() as f64 / 1000.0,
            method,
            oid: claims.oid,
            outcome,
            rows: meter.rows(),
            rules: caller.scope.rules(),
            statement_sha256: statement.as_deref(),
            target: *target,
            tenant: caller.tenant.id().as_str(),
            tid: claims.tid,
            time: format!("{:.3}", Timestamp::now()),
            tool: tool.as_deref(),
        };
        let mut text = Vec::with_capacity(LINE);
        let written = serde_json::to_writer(&mut text, &line).map_err(io::Error::from).and_then(|()| {
            // Without the closing brace, which is added again after the hash.
            text.pop();
            let hash = chain::seal(&mut text, &writer.last);
            text.push(b'\n');
            writer.out.write_all(&text).and_then(|()| writer.out.flush())?;
            Ok(hash)
        });
        match written {
            Ok(hash) => {
                writer.sequence = sequence;
                writer.last = hash;
            }
            Err(error) => {
                self.metrics.audit_failures.inc();
                tracing::error!(correlation_id = %caller.correlation, %error, "an audit line could not be written");
            }
        }
    }
}

/// Opens a file to continue its chain.
fn open(path: &Path) -> io::Result<Writer> {
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(io::Error::other("another process writes to this file")),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let (sequence, last, torn) = tail(&mut file)?;
    if torn {
        // A crash cut the last line short. It stays, and `audit verify` reports it; the following lines are complete
        // again.
        tracing::warn!(file = %path.display(), "the last audit line is not whole");
        file.write_all(b"\n")?;
    }
    Ok(Writer { out: Box::new(file), sequence, last })
}

/// Number and hash of the last complete line, and whether an incomplete line follows it.
fn tail(file: &mut File) -> io::Result<(u64, String, bool)> {
    // A line is shorter than this, unless very many rules matched; then the whole file is read.
    const TAIL: u64 = 64 * 1024;
    let length = file.metadata()?.len();
    for from in [length.saturating_sub(TAIL), 0] {
        file.seek(SeekFrom::Start(from))?;
        let (mut found, mut torn) = (None, false);
        for line in BufReader::new(&mut *file).split(b'\n') {
            if let Some((sequence, _, hash)) = chain::read(&String::from_utf8_lossy(&line?)) {
                found = Some((sequence, hash));
            }
        }
        if length > 0 {
            use std::os::unix::fs::FileExt as _;
            let mut end = [0];
            file.read_exact_at(&mut end, length - 1)?;
            torn = end != *b"\n";
        }
        if let Some((sequence, hash)) = found {
            return Ok((sequence, hash, torn));
        }
        if from == 0 {
            return Ok((0, chain::START.to_owned(), torn));
        }
    }
    Ok((0, chain::START.to_owned(), false))
}

pub struct Record {
    audit: Arc<Audit>,
    caller: Arc<Caller>,
    method: &'static str,
    tool: Option<String>,
    target: Option<&'static str>,
    statement: Option<String>,
    started: Instant,
    meter: Arc<Meter>,
    outcome: &'static str,
}

impl Record {
    /// Counts rows and bytes of the call.
    #[must_use]
    pub fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }

    /// Writes the line: `ok`, or the code of the error.
    pub fn finish(mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.audit.write(self);
    }
}

#[cfg(test)]
mod tests {
    use super::{chain, open};

    #[test]
    fn a_chain_goes_on_after_a_restart_and_after_a_torn_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.jsonl");
        let writer = open(&path).expect("new");
        assert_eq!((writer.sequence, writer.last.as_str()), (0, chain::START));
        assert!(open(&path).is_err_and(|error| error.to_string().contains("another process")));
        drop(writer);
        let mut line = b"{\"sequence\":7,\"tool\":\"t\"".to_vec();
        let hash = chain::seal(&mut line, chain::START);
        line.extend_from_slice(b"\n{\"sequence\":8,\"to");
        std::fs::write(&path, line).expect("written");
        let writer = open(&path).expect("again");
        assert_eq!((writer.sequence, &writer.last), (7, &hash));
        assert!(std::fs::read_to_string(&path).expect("text").ends_with("\"to\n"), "the next line begins afresh");
    }
}
