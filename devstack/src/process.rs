//! Child processes that never outlive the process that started them.
//!
//! A test that panics, is interrupted or killed with SIGKILL must not leave a PostgreSQL behind. `Drop` does not
//! run in the last case, so every child is paired with a watchdog: a small shell that reads from a pipe whose
//! other end only this process holds. When this process dies, by whatever cause, the kernel closes the pipe, and
//! the watchdog ends the child and removes the directories named to it. The child is a member of the
//! watchdog's process group from before its first instruction, so there is no moment in which it could be missed.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ChildStdin, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

const POLL: Duration = Duration::from_millis(5);

/// Arguments: the stop signal, the grace in tenths of a second, directories to remove at the end.
///
/// The lines it reads: `pid N` (the child), `kill SIGNAL`, `keep` (no directory is to be removed), `done` (the child has been waited for). At `done` and
/// at end of file it removes the directories and kills what is left of the group, itself included.
const WATCHDOG: &str = r#"
trap '' HUP INT QUIT TERM
signal=$1 grace=$2 pid=
shift 2
while read -r word value; do
  case $word in
    pid) pid=$value ;;
    kill) kill -s "$value" "$pid" 2>/dev/null ;;
    keep) set -- ;;
    done) pid= ; break ;;
  esac
done
if [ -n "$pid" ]; then
  kill -s CONT "$pid" 2>/dev/null
  kill -s "$signal" "$pid" 2>/dev/null
  while [ "$grace" -gt 0 ] && kill -s 0 "$pid" 2>/dev/null; do
    sleep 0.1
    grace=$((grace - 1))
  done
  kill -s KILL "$pid" 2>/dev/null
fi
for directory; do rm -rf -- "$directory"; done
kill -s KILL 0
"#;

/// Signals that tests and stacks send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ask for an orderly end.
    Term,
    /// Interrupt; for PostgreSQL the fast shutdown.
    Int,
    /// Quit; for PostgreSQL the immediate shutdown.
    Quit,
    /// Hang up; many servers read their configuration again.
    Hup,
    /// Kill without a chance to clean up.
    Kill,
    /// Suspends the process.
    Stop,
    /// Continue after a suspension.
    Cont,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Int => "INT",
            Self::Quit => "QUIT",
            Self::Hup => "HUP",
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Cont => "CONT",
        }
    }
}

/// A user and group to run a child as; only root can ask for another than its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

/// What to start, and how.
#[derive(Clone, Debug)]
pub struct Spawn {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    env_clear: bool,
    directory: Option<PathBuf>,
    user: Option<User>,
    log: Option<PathBuf>,
    stdout: Option<PathBuf>,
    stop_signal: Signal,
    stop_grace: Duration,
    cleanup: Vec<PathBuf>,
}

impl Spawn {
    /// A program by path, or by name looked up in `PATH`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            env_clear: false,
            directory: None,
            user: None,
            log: None,
            stdout: None,
            stop_signal: Signal::Term,
            stop_grace: Duration::from_secs(5),
            cleanup: Vec::new(),
        }
    }

    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn envs<N: AsRef<OsStr>, V: AsRef<OsStr>>(mut self, vars: impl IntoIterator<Item = (N, V)>) -> Self {
        self.env.extend(vars.into_iter().map(|(name, value)| (name.as_ref().to_owned(), value.as_ref().to_owned())));
        self
    }

    /// Starts from an empty environment instead of this process's own.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.env_clear = true;
        self
    }

    /// The working directory; this process's own if not set.
    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Runs as another user; supplementary groups are dropped.
    #[must_use]
    pub fn user(mut self, user: Option<User>) -> Self {
        self.user = user;
        self
    }

    /// Appends standard error to this file, and standard output as well unless [`Self::stdout`] is given.
    #[must_use]
    pub fn log(mut self, path: impl Into<PathBuf>) -> Self {
        self.log = Some(path.into());
        self
    }

    /// Appends standard output to a file of its own.
    #[must_use]
    pub fn stdout(mut self, path: impl Into<PathBuf>) -> Self {
        self.stdout = Some(path.into());
        self
    }

    /// The signal that asks the child to end, and how long it may take before it is killed (TERM, 5 s).
    #[must_use]
    pub fn stop(mut self, signal: Signal, grace: Duration) -> Self {
        self.stop_signal = signal;
        self.stop_grace = grace;
        self
    }

    /// A directory that is removed once the child has ended, also when this process was killed.
    #[must_use]
    pub fn remove_afterwards(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cleanup.push(directory.into());
        self
    }

    /// Starts the watchdog, then the child.
    pub fn start(self) -> io::Result<Child> {
        let log = self.log.as_deref().map(append).transpose()?;
        let stdout = match (&self.stdout, &log) {
            (Some(path), _) => Stdio::from(append(path)?),
            (None, Some(log)) => Stdio::from(log.try_clone()?),
            (None, None) => Stdio::null(),
        };
        let stderr = log.map_or_else(Stdio::null, Stdio::from);

        let mut watchdog = Command::new("/bin/sh")
            .args(["-c", WATCHDOG, "storefence-watchdog", self.stop_signal.name()])
            .arg(self.stop_grace.as_millis().div_ceil(100).to_string())
            .args(&self.cleanup)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let control = watchdog.stdin.take();

        let mut command = Command::new(&self.program);
        command.args(&self.args);
        if self.env_clear {
            command.env_clear();
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        let group = i32::try_from(watchdog.id()).map_err(io::Error::other)?;
        let started = command.process_group(group).stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn();
        let mut watchdog = Watchdog { process: watchdog, control };
        let child = match started {
            Ok(child) => child,
            Err(error) => {
                watchdog.finish();
                let program = self.program.display();
                return Err(io::Error::new(error.kind(), format!("cannot start {program}: {error}")));
            }
        };
        watchdog.send(format_args!("pid {}", child.id()));
        Ok(Child { child, watchdog, log: self.log, stop_signal: self.stop_signal, stop_grace: self.stop_grace })
    }
}

/// A running (or ended) child process. Dropping it ends the process and waits for that.
#[derive(Debug)]
pub struct Child {
    child: std::process::Child,
    watchdog: Watchdog,
    log: Option<PathBuf>,
    stop_signal: Signal,
    stop_grace: Duration,
}

impl Child {
    /// The process ID of the program itself, not of a wrapper.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if the process has ended.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// True while the process has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal. A process that has already ended is left alone.
    pub fn signal(&mut self, signal: Signal) {
        if !self.is_running() {
            return;
        }
        if signal == Signal::Kill {
            // An error here means that it ended meanwhile.
            let _ = self.child.kill();
        } else {
            self.watchdog.send(format_args!("kill {}", signal.name()));
        }
    }

    /// Waits until the process has ended, at most for `timeout`.
    pub async fn wait(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sends the stop signal and waits; kills the process when it takes longer than `timeout`.
    pub async fn terminate(&mut self, timeout: Duration) -> io::Result<ExitStatus> {
        self.signal(self.stop_signal);
        if let Some(status) = self.wait(timeout).await? {
            return Ok(status);
        }
        self.kill()
    }

    /// Kills the process (SIGKILL) and waits for its end.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::Kill);
        self.child.wait()
    }

    /// Forgets the directories of [`Spawn::remove_afterwards`]: they stay when the child ends.
    pub fn keep_files(&mut self) {
        self.watchdog.send(format_args!("keep"));
    }

    /// The log file, if one was asked for.
    pub fn log_path(&self) -> Option<&Path> {
        self.log.as_deref()
    }

    /// What the process has written to its log so far; empty without a log.
    pub fn log_text(&self) -> String {
        let Some(path) = &self.log else { return String::new() };
        std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last `lines` lines of the log, for error messages.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = self.log_text();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal(self.stop_signal);
        let deadline = Instant::now() + self.stop_grace;
        while self.is_running() && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        let _ = self.kill();
        self.watchdog.finish();
    }
}

#[derive(Debug)]
struct Watchdog {
    process: std::process::Child,
    control: Option<ChildStdin>,
}

impl Watchdog {
    fn send(&mut self, line: std::fmt::Arguments<'_>) {
        if let Some(control) = &mut self.control {
            // One write per line: the shell must not see half of one if we die in between.
            let _ = control.write_all(format!("{line}\n").as_bytes());
        }
    }

    fn finish(&mut self) {
        self.send(format_args!("done"));
        self.control = None;
        let _ = self.process.wait();
    }
}

fn append(path: &Path) -> io::Result<File> {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display())))
}
