//! One running server.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tempfile::{Builder, TempDir};

use super::{
    Binaries, Context, Error, Proxy,
    template::{self, SUPERUSER, give},
};
use crate::{
    http, paths,
    process::{Child, Signal, Spawn, User},
    random,
    tls::Authority,
};

const READY_TIMEOUT: Duration = Duration::from_secs(60);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Address space of a server process in KiB, by default.
const ADDRESS_SPACE: u64 = 4 * 1024 * 1024;
/// Sets it, where the system knows such a limit, and becomes the server.
const LIMITED: &str = r#"ulimit -v "$1" 2>/dev/null; shift; exec "$@""#;

/// Somebody else may take the port between our choosing it and the server's binding it.
const PORT_ATTEMPTS: usize = 5;

/// Settings for tests and for looking around: small, and without the cost of surviving a power cut.
const SETTINGS: [(&str, &str); 8] = [
    ("max_connections", "300"),
    ("shared_buffers", "64MB"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("password_encryption", "scram-sha-256"),
    ("wal_level", "minimal"),
    ("max_wal_senders", "0"),
    ("log_line_prefix", "%m [%p] %u@%d "),
];

/// A commit still reaches the operating system, so that killing the server loses nothing; only a power cut would.
const NOT_DURABLE: [(&str, &str); 2] = [("fsync", "off"), ("full_page_writes", "off")];

/// Where a cluster's files are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DataDir {
    /// Fresh, and removed when the cluster is dropped or this process dies.
    #[default]
    Temporary,
    /// In devstack's state directory under this name; created on first use, kept afterwards.
    Named(String),
}

/// How to start a cluster. The default is a temporary one with whatever programs are found.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// The server programs; [`Binaries::find`] decides if not given.
    pub binaries: Option<Binaries>,
    /// The port on 127.0.0.1; a free one if not given.
    pub port: Option<u16>,
    /// Further settings, which win over the defaults.
    pub settings: Vec<(String, String)>,
    /// Where the data lives.
    pub data: DataDir,
    /// Keeps fsync and its companions on.
    pub durable: bool,
    /// Address space of each of the server's processes in KiB (`ulimit -v`), its share of `shared_buffers` included; 4 GiB if
    /// not given. A statement that wants more ends with an error, and no other session notices.
    pub address_space: Option<u64>,
}

/// How a client is to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// In the clear, straight to the server.
    Disable,
    /// Encrypted, certificate not verified.
    Require,
    /// Encrypted, certificate verified against [`Cluster::ca_file`].
    VerifyFull,
}

impl SslMode {
    fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Require => "require",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// A running PostgreSQL cluster. Dropping it ends the server; a temporary one leaves nothing behind.
#[derive(Debug)]
pub struct Cluster {
    // Declared before the files it runs on: fields are dropped in order.
    child: Option<Child>,
    server: Server,
    proxy: Proxy,
    ca_file: PathBuf,
}

impl Cluster {
    /// Starts a server and waits until it answers.
    pub async fn start(options: ClusterOptions) -> Result<Self, Error> {
        let fixed_port = options.port;
        let mut server = tokio::task::spawn_blocking(move || Server::prepare(options))
            .await
            .map_err(|error| Error::NotReady(error.to_string()))??;
        let mut attempts = 1;
        let child = loop {
            server.port = match fixed_port {
                Some(port) => port,
                None => free_port()?,
            };
            match server.launch().await {
                Err(Error::NotReady(log))
                    if fixed_port.is_none() && attempts < PORT_ATTEMPTS && log.contains("already in use") =>
                {
                    attempts += 1;
                }
                outcome => break outcome?,
            }
        };
        let authority = Authority::new()?;
        let ca_file = server.directory.join("ca.pem");
        authority.write_pem(&ca_file).context("writing the CA certificate")?;
        let proxy = Proxy::start(server.addr(), &authority).await?;
        Ok(Self { child: Some(child), server, proxy, ca_file })
    }

    /// The server's own port on 127.0.0.1, without TLS.
    pub fn port(&self) -> u16 {
        self.server.port
    }

    /// The TLS proxy in front of the server, for faults as well.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// The PEM file of the authority behind [`SslMode::VerifyFull`].
    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// The programs that the server runs on.
    pub fn binaries(&self) -> &Binaries {
        &self.server.binaries
    }

    /// The directory of the data, the log and the CA certificate.
    pub fn directory(&self) -> &Path {
        &self.server.directory
    }

    pub fn log_path(&self) -> PathBuf {
        self.server.log()
    }

    /// The directory of the Unix socket, which only the server's user and root can enter.
    pub fn socket_directory(&self) -> &Path {
        self.server.socket_directory.path()
    }

    /// The process ID of the postmaster, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::pid)
    }

    /// A connection URI for any login.
    pub fn url(&self, user: &str, password: &str, database: &str, mode: SslMode) -> String {
        let port = match mode {
            SslMode::Disable => self.server.port,
            SslMode::Require | SslMode::VerifyFull => self.proxy.addr().port(),
        };
        format!("postgresql://{user}:{password}@127.0.0.1:{port}/{database}?sslmode={}", mode.name())
    }

    /// The connection URI of the superuser.
    pub fn superuser_url(&self, database: &str, mode: SslMode) -> String {
        self.url(SUPERUSER, &self.server.password, database, mode)
    }

    /// Connects to a database as superuser, without TLS. The connection lives as long as the client.
    pub async fn connect(&self, database: &str) -> Result<tokio_postgres::Client, Error> {
        self.server.connect(database).await
    }

    /// Fast shutdown: sessions are ended, the data is in order. The TLS proxy stays. No effect on a stopped cluster.
    pub async fn shut_down(&mut self) -> Result<(), Error> {
        if let Some(mut child) = self.child.take() {
            child.keep_files();
            child.signal(Signal::Int);
            child.terminate(STOP_TIMEOUT).await.context("waiting for PostgreSQL to stop")?;
        }
        Ok(())
    }

    /// Fault: the postmaster dies without a chance to clean up; its sessions end by themselves.
    pub fn kill(&mut self) -> Result<(), Error> {
        if let Some(mut child) = self.child.take() {
            child.keep_files();
            child.kill().context("killing PostgreSQL")?;
        }
        Ok(())
    }

    /// Starts the server again after [`Self::shut_down`] or [`Self::kill`], on the same port and data.
    pub async fn start_up(&mut self) -> Result<(), Error> {
        if self.child.is_none() {
            self.child = Some(self.server.launch().await?);
        }
        Ok(())
    }

    /// Ends the server. Dropping does the same, but blocks the thread meanwhile.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.shut_down().await
    }
}

/// What it takes to run the server.
#[derive(Debug)]
struct Server {
    binaries: Binaries,
    user: Option<User>,
    directory: PathBuf,
    socket_directory: TempDir,
    temporary: Option<TempDir>,
    port: u16,
    password: String,
    address_space: u64,
}

impl Server {
    /// Finds programs, makes the directories, writes the settings. Blocks.
    fn prepare(options: ClusterOptions) -> Result<Self, Error> {
        let ClusterOptions { binaries, port: _, settings, data, durable, address_space } = options;
        let binaries = binaries.map_or_else(|| Binaries::find(None), Ok)?;
        let user = paths::unprivileged_user().context("looking for an unprivileged user")?;
        let state = paths::state_dir_for(user).context("preparing the directory for PostgreSQL")?;
        let template = template::template(&binaries, user)?;

        let (directory, temporary) = match data {
            DataDir::Temporary => {
                let guard = Builder::new().prefix("postgres-").tempdir_in(&state);
                let guard = guard.context("creating the cluster's directory")?;
                (guard.path().to_owned(), Some(guard))
            }
            DataDir::Named(name) => {
                let directory = state.join(name);
                std::fs::create_dir_all(&directory).context("creating the cluster's directory")?;
                (directory, None)
            }
        };
        paths::make_passable(&directory).context("setting permissions")?;
        let data = directory.join("data");
        let password_file = directory.join("superuser-password");
        if !data.exists() {
            template::private_file(&password_file, &template.password, None).context("writing the password file")?;
            // Copied beside and renamed, so that half a copy is never taken for a data directory.
            let fresh = directory.join(format!("copy-{}", random::suffix()));
            template.copy_to(&fresh, user)?;
            std::fs::rename(&fresh, &data).context("moving the data directory into place")?;
        }
        let made_by = std::fs::read_to_string(data.join("PG_VERSION")).context("reading PG_VERSION")?;
        if made_by.trim() != binaries.major.to_string() {
            return Err(Error::NotReady(format!(
                "{} was made by version {}, and the programs are {}; remove it to begin anew",
                directory.display(),
                made_by.trim(),
                binaries.version
            )));
        }
        let password = std::fs::read_to_string(&password_file).context("reading the superuser's password")?;
        write_settings(&data, durable, &settings, user).context("writing the settings")?;

        // A socket's path may have 107 bytes, and the state directory may be deep.
        let socket_directory = Builder::new().prefix("sfpg-").tempdir().context("creating the socket directory")?;
        give(socket_directory.path(), user).context("setting the socket directory's owner")?;
        Ok(Self {
            binaries,
            user,
            directory,
            socket_directory,
            temporary,
            port: 0,
            password,
            address_space: address_space.unwrap_or(ADDRESS_SPACE),
        })
    }

    fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    fn log(&self) -> PathBuf {
        self.directory.join("postgresql.log")
    }

    /// Starts the postmaster and waits until it answers.
    ///
    /// After a crash the old sessions take a moment to notice it, and a new postmaster refuses to start before they are gone.
    async fn launch(&self) -> Result<Child, Error> {
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            match self.launch_once().await {
                Err(Error::NotReady(log))
                    if log.contains("pre-existing shared memory block") && Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn launch_once(&self) -> Result<Child, Error> {
        // The log holds one start, so that its end explains this start's failure.
        match std::fs::rename(self.log(), self.directory.join("postgresql.log.1")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context("rotating the log");
            }
            _ => {}
        }
        let stop = if self.temporary.is_some() { Signal::Quit } else { Signal::Int };
        let mut spawn = Spawn::new("/bin/sh")
            .args(["-c", LIMITED, "sh", &self.address_space.to_string()])
            .arg(self.binaries.program("postgres"))
            .arg("-D")
            .arg(self.directory.join("data"))
            .args(["-c", "listen_addresses=127.0.0.1"])
            .args(["-c", &format!("port={}", self.port)])
            .args(["-c", &format!("unix_socket_directories={}", self.socket_directory.path().display())])
            .env_clear()
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .current_dir("/")
            .user(self.user)
            .log(self.log())
            .stop(stop, Duration::from_secs(10))
            .remove_afterwards(self.socket_directory.path());
        if let Some(directory) = &self.temporary {
            spawn = spawn.remove_afterwards(directory.path());
        }
        let mut child = spawn.start().context("starting postgres")?;
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            // Whoever else has the port may accept and stay silent.
            let error = match tokio::time::timeout(ATTEMPT_TIMEOUT, self.connect(SUPERUSER)).await {
                Ok(Ok(_)) => return Ok(child),
                Ok(Err(error)) => error.to_string(),
                Err(_) => String::from("no answer"),
            };
            let gave_up = Instant::now() >= deadline;
            if gave_up || !child.is_running() {
                child.keep_files();
                let log = child.log_tail(8);
                return Err(Error::NotReady(if gave_up { format!("{error}\n{log}") } else { log }));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn connect(&self, database: &str) -> Result<tokio_postgres::Client, Error> {
        let (client, connection) = tokio_postgres::Config::new()
            .host("127.0.0.1")
            .port(self.port)
            .user(SUPERUSER)
            .password(&self.password)
            .dbname(database)
            .ssl_mode(tokio_postgres::config::SslMode::Disable)
            .connect_timeout(Duration::from_secs(5))
            .connect(tokio_postgres::NoTls)
            .await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "superuser connection ended");
            }
        });
        Ok(client)
    }
}

/// Settings go to a file and not to the command line, so that `ALTER SYSTEM` still has a say in tests.
fn write_settings(
    data: &Path,
    durable: bool,
    settings: &[(String, String)],
    user: Option<User>,
) -> std::io::Result<()> {
    let mut text = String::new();
    let defaults = SETTINGS.iter().chain(NOT_DURABLE.iter().filter(|_| !durable));
    let given = settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in defaults.copied().chain(given) {
        // Later lines win.
        let value = value.replace('\'', "''");
        text.push_str(&format!("{name} = '{value}'\n"));
    }
    template::private_file(&data.join(template::SETTINGS_FILE), &text, user)
}

fn free_port() -> Result<u16, Error> {
    let listener = http::bind_loopback().context("looking for a free port")?;
    Ok(listener.local_addr().context("looking for a free port")?.port())
}
