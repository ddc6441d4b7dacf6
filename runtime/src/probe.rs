//! `probe`: asks the process's own admin port, for health checks in images that hold neither a shell nor curl.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// Longest answer that is read; what is missing is a few words.
const ANSWER_BYTES: usize = 16 * 1024;

/// Options of `probe`. The address is that of `run`, so one environment serves both.
#[derive(Clone, Debug, clap::Args)]
pub struct ProbeOptions {
    /// What to ask for: /readyz, or /healthz for the process alone
    #[arg(value_name = "PATH", default_value = "/readyz")]
    path: String,

    /// Address of health and metrics, as run has it; 0.0.0.0 is asked over loopback
    #[arg(long, env = "STOREFENCE_ADMIN_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    admin_listen: SocketAddr,

    /// Seconds for the whole of the question
    #[arg(long, env = "STOREFENCE_PROBE_TIMEOUT", value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
}

/// Why a probe fails.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nothing listens, or no answer came in time.
    #[error("{url} does not answer: {source}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// What went wrong.
        source: io::Error,
    },
    /// An answer other than success.
    #[error("{url} answers {status}: {said}")]
    Refused {
        /// What was asked.
        url: String,
        /// Status of the answer.
        status: u16,
        /// Its text, on one line.
        said: String,
    },
    /// Something that is not HTTP listens there.
    #[error("{url} does not answer in HTTP")]
    NotHttp {
        /// What was asked.
        url: String,
    },
}

impl ProbeOptions {
    /// Asks, and returns the line to print.
    ///
    /// # Errors
    /// No answer in time, or one that is no success.
    pub fn run(&self) -> Result<String, ProbeError> {
        let address = own(self.admin_listen);
        let url = format!("http://{address}{}", self.path);
        let deadline = Instant::now() + Duration::from_secs(self.timeout);
        let answer = ask(address, &self.path, deadline)
            .map_err(|source| ProbeError::Unreachable { url: url.clone(), source })?;
        let Some((status, said)) = parse(&answer) else { return Err(ProbeError::NotHttp { url }) };
        if (200..300).contains(&status) {
            Ok(format!("{url} answers {status}: {said}"))
        } else {
            Err(ProbeError::Refused { url, status, said })
        }
    }
}

/// Where a listener on this address is reached from inside.
fn own(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn ask(address: SocketAddr, path: &str, deadline: Instant) -> io::Result<Vec<u8>> {
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    // No keep-alive in 1.0: the answer ends where the connection does. In one piece: a server that answers the first of
    // several and closes would reset the connection under the others.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let (mut answer, mut part) = (Vec::new(), [0; 1024]);
    while answer.len() < ANSWER_BYTES {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&part[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What a read timeout is called differs between systems.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

/// Status and text of an answer.
fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let answer = String::from_utf8_lossy(answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.lines().collect::<Vec<_>>().join("; ")))
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        probe: ProbeOptions,
    }

    /// Asks a server that says this, and returns what it was asked as well.
    fn probed(says: &'static str, arguments: &[&str]) -> (Result<String, ProbeError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            // What is left unread when the connection closes would reset it.
            while !asked.ends_with(b"\r\n\r\n") {
                let mut part = [0; 512];
                let read = stream.read(&mut part).unwrap();
                assert!(read > 0, "{asked:?}");
                asked.extend_from_slice(&part[..read]);
            }
            stream.write_all(says.as_bytes()).unwrap();
            String::from_utf8(asked).unwrap()
        });
        let listen = format!("--admin-listen=0.0.0.0:{}", address.port());
        let command = Command::parse_from(["probe", &listen].iter().chain(arguments));
        (command.probe.run(), server.join().unwrap())
    }

    #[test]
    fn success_is_one_line() {
        let (said, asked) = probed("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nok\n", &[]);
        let said = said.unwrap();
        assert!(said.starts_with("http://127.0.0.1:") && said.ends_with("/readyz answers 200: ok"), "{said}");
        assert!(asked.starts_with("GET /readyz HTTP/1.0\r\n"), "{asked}");
        let (said, asked) = probed("HTTP/1.1 204 No Content\r\n\r\n", &["/healthz"]);
        assert!(said.is_ok() && asked.starts_with("GET /healthz "), "{said:?} {asked}");
    }

    #[test]
    fn everything_else_is_a_failure_that_says_what_was_answered() {
        let (said, _) = probed("HTTP/1.1 503 Service Unavailable\r\n\r\ntenants\nsigning-keys\n", &[]);
        let said = said.unwrap_err().to_string();
        assert!(said.ends_with("answers 503: tenants; signing-keys"), "{said}");
        let (said, _) = probed("SSH-2.0-something\r\n\r\n", &[]);
        assert!(matches!(said, Err(ProbeError::NotHttp { .. })), "{said:?}");
    }

    #[test]
    fn silence_ends_with_the_timeout() {
        // Connections are taken by the system's backlog, and nobody answers.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = format!("--admin-listen={}", listener.local_addr().unwrap());
        let command = Command::parse_from(["probe", &listen, "--timeout=1"]);
        let begun = Instant::now();
        let said = command.probe.run().unwrap_err();
        assert!(matches!(said, ProbeError::Unreachable { .. }), "{said}");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn the_unspecified_address_is_asked_over_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("10.0.0.7:80", "10.0.0.7:80"),
            ("127.0.0.1:1", "127.0.0.1:1"),
        ] {
            assert_eq!(own(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
