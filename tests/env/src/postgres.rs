//! PostgreSQL 15, as an ordinary user: it refuses to run as root.
//!
//! Comes before the Manager. Guarantees: the store survives kills and restarts within a run;
//! nothing of it outlives the run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::poll::{self, Step};
use crate::process::{Process, ProcessSpec};
use crate::sandbox::{HUB_ADDRESS, Sandbox};
use crate::servers::postgres_binary;
use crate::stored;

/// Where it listens, on the sandbox's loopback.
pub const PORT: u16 = 5432;
const BOOT_MAX: Duration = Duration::from_secs(60);

/// What a commit survives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// That the server is killed: nothing more is asked of a test.
    #[default]
    Process,
    /// That the machine crashes, as in production: each commit waits for the disk.
    Machine,
}

/// A running (or killed) server.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    folder: PathBuf,
}

impl Postgres {
    /// Makes a store, starts a server that need not survive a crash of the machine, and waits until it answers.
    pub async fn start(sandbox: &Sandbox) -> Result<Self> {
        Self::start_with(sandbox, Durability::Process).await
    }

    /// [`Postgres::start`] with what a commit survives.
    pub async fn start_with(sandbox: &Sandbox, durability: Durability) -> Result<Self> {
        let folder = sandbox.folder("postgres")?;
        let data = folder.join("data");
        if !data.exists() {
            init(&folder, &data)?;
        }
        let spec = ProcessSpec::new("postgres", postgres_binary("postgres")?, &folder).as_user().args([
            "-D".to_owned(),
            data.display().to_string(),
            "-c".to_owned(),
            format!("listen_addresses=127.0.0.1,{HUB_ADDRESS}"),
            "-c".to_owned(),
            format!("port={PORT}"),
            "-c".to_owned(),
            // A socket's path may have 107 bytes, and the run's folder may be deeper.
            "unix_socket_directories=".to_owned(),
            "-c".to_owned(),
            "max_connections=200".to_owned(),
            "-c".to_owned(),
            "timezone=UTC".to_owned(),
            "-c".to_owned(),
            format!("fsync={}", if durability == Durability::Machine { "on" } else { "off" }),
        ]);
        let mut postgres = Self { process: Process::start(spec)?, folder };
        postgres.wait().await?;
        Ok(postgres)
    }

    /// Makes an empty database and returns its URL.
    pub fn database(&self, name: &str) -> Result<String> {
        self.tool("createdb", &["-h", "127.0.0.1", "-U", "postgres", name])
            .with_context(|| format!("could not make database {name:?}"))?;
        Ok(self.url(name))
    }

    /// The URL of a database, whether it exists or not.
    pub fn url(&self, name: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{PORT}/{name}")
    }

    /// Runs SQL in a database and returns what `psql` prints, unaligned.
    pub fn query(&self, database: &str, sql: &str) -> Result<String> {
        self.tool(
            "psql",
            &[
                "-h",
                "127.0.0.1",
                "-U",
                "postgres",
                "-X",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-d",
                database,
                "-c",
                sql,
            ],
        )
    }

    /// Ends it in order: clients are cut off, nothing is replayed at the next start.
    pub async fn stop(&mut self) -> Result<()> {
        // PostgreSQL's "fast shutdown" is SIGINT; SIGTERM waits for its clients.
        self.process.signal(Signal::SIGINT)?;
        let process = &mut self.process;
        poll::until("PostgreSQL to end", BOOT_MAX, || {
            let ended = process.ended().is_some();
            async move { Ok(Step::when(ended, (), "running")) }
        })
        .await
    }

    /// Kills it and its children (SIGKILL).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again and waits until it answers.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.restart()?;
        self.wait().await
    }

    /// Copies the store while the server is stopped, and starts it again: a backup.
    pub async fn back_up(&mut self) -> Result<()> {
        self.stop().await?;
        stored::copy(&self.folder.join("data"), &self.folder.join(stored::BACKUP))?;
        self.restart().await
    }

    /// Puts the last backup in the place of the store: everything since then is lost.
    pub async fn restore(&mut self) -> Result<()> {
        self.stop().await?;
        stored::copy(&self.folder.join(stored::BACKUP), &self.folder.join("data"))?;
        self.restart().await
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    async fn wait(&mut self) -> Result<()> {
        let folder = self.folder.clone();
        let process = &mut self.process;
        poll::until("PostgreSQL to answer", BOOT_MAX, || {
            let running = process.check();
            let asked = tool(&folder, "pg_isready", &["-h", "127.0.0.1", "-q"]);
            async move {
                running?;
                Ok(Step::from_attempt(asked.map(drop)))
            }
        })
        .await
    }

    fn tool(&self, name: &str, args: &[&str]) -> Result<String> {
        tool(&self.folder, name, args)
    }
}

fn tool(folder: &Path, name: &str, args: &[&str]) -> Result<String> {
    ProcessSpec::new(name, postgres_binary(name)?, folder).args(args.iter().copied()).run_to_end()
}

fn init(folder: &Path, data: &Path) -> Result<()> {
    ProcessSpec::new("initdb", postgres_binary("initdb")?, folder)
        .as_user()
        .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"])
        .args(["-D".into(), data.as_os_str().to_owned()])
        .run_to_end()
        .map(drop)
        .context("could not make a PostgreSQL store")
}
