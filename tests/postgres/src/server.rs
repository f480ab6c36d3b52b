//! One PostgreSQL for the tests of one process: a store in memory or a temporary folder, reached by a Unix socket in it.
//!
//! The server is the child of a shell that reads from a pipe which only this process can write to. When this process ends,
//! however it ends, the shell reads the end of the pipe, stops the server and removes the folder. PostgreSQL refuses to
//! run as root, so root starts it as user 1000 of a user namespace, as `tests/env` does.

use anyhow::{Context as _, Result, bail, ensure};
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgSslMode},
};
use std::{
    fs::File,
    io::Read as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// A cold machine under load needs a few seconds; a server that needs more will not come.
const START_MAX: Duration = Duration::from_secs(60);
/// Pause between two attempts to connect: short beside the start of the server.
const LOOK: Duration = Duration::from_millis(20);
/// Free bytes in memory that a store of tests fits into: a database for each of a few tests at once, and 64 MB of log.
/// Docker's default of 64 MB is not enough.
const MEMORY_MIN: u64 = 1024 * 1024 * 1024;
/// The database that is copied for each test.
const TEMPLATE: &str = "migrated";
/// Runs a program as an ordinary user; the shell splits it into words.
const AS_USER: &str = "unshare --user --map-user=1000 --map-group=1000 --";

/// Makes the store and runs the server until standard input ends, then removes the folder; ends by itself when the server
/// does. SIGQUIT is PostgreSQL's immediate shutdown: it frees its shared memory and leaves the store as it is.
const SUPERVISOR: &str = r#"
folder=$1 programs=$2; shift 2
exec 3<&0
$AS_USER "$programs/initdb" --username=postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 --no-sync \
  -D "$folder/data" < /dev/null 3<&- && {
  $AS_USER "$programs/postgres" -D "$folder/data" -k "$folder" "$@" < /dev/null 3<&- &
  server=$!
  (cat <&3 > /dev/null; [ -d "$folder" ] && kill -QUIT "$server") &
  wait "$server"
}
rm -rf "$folder"
"#;

/// What the server's thread is to do.
pub(crate) enum Job {
    Create { name: String, reply: oneshot::Sender<Result<()>> },
    Drop { name: String },
}

/// The running server.
#[derive(Debug)]
pub(crate) struct Server {
    folder: PathBuf,
    jobs: mpsc::Sender<Job>,
}

impl Server {
    /// Starts it in a thread of its own, because the runtime of the test that comes first ends with that test.
    pub(crate) fn start() -> Result<Self> {
        let (jobs, received) = mpsc::channel();
        let (reply, started) = mpsc::channel();
        std::thread::spawn(move || run(&reply, &received));
        let folder = started.recv().context("the thread of the server ended")??;
        Ok(Self { folder, jobs })
    }

    pub(crate) fn send(&self, job: Job) {
        // The thread ends with the process only; whoever waits for a reply learns of a panic there.
        drop(self.jobs.send(job));
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}&sslmode=disable", self.folder.display())
    }
}

fn run(reply: &mpsc::Sender<Result<PathBuf>>, jobs: &mpsc::Receiver<Job>) {
    let started = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime");
    let started = started.and_then(|runtime| {
        let mut supervised = spawn()?;
        let connection = runtime.block_on(prepare(&mut supervised))?;
        Ok((runtime, supervised, connection))
    });
    match started {
        Ok((runtime, supervised, mut connection)) => {
            drop(reply.send(Ok(supervised.folder.clone())));
            for job in jobs {
                runtime.block_on(work(&mut connection, job));
            }
        }
        Err(error) => drop(reply.send(Err(error))),
    }
}

async fn work(connection: &mut PgConnection, job: Job) {
    match job {
        Job::Create { name, reply } => {
            let created = execute(connection, format!("create database {name} template {TEMPLATE}")).await;
            drop(reply.send(created));
        }
        Job::Drop { name } => {
            if let Err(error) = execute(connection, format!("drop database {name} with (force)")).await {
                eprintln!("could not drop database {name:?}: {error:#}");
            }
        }
    }
}

async fn execute(connection: &mut PgConnection, sql: String) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop).context("PostgreSQL refused")
}

/// The server under its supervisor, whose standard input must stay open.
struct Supervised {
    supervisor: Child,
    folder: PathBuf,
    /// Opened before the supervisor can remove it.
    log: File,
}

impl Supervised {
    fn log(&mut self) -> String {
        let mut text = String::new();
        match self.log.read_to_string(&mut text) {
            Ok(_) => text,
            Err(error) => format!("(unreadable: {error})"),
        }
    }
}

/// Starts the supervisor, to whom the folder belongs from then on.
fn spawn() -> Result<Supervised> {
    let programs = programs()?;
    let folder =
        tempfile::Builder::new().prefix("kubenova-pg-").tempdir_in(parent()).context("could not make a folder")?;
    let output = File::create(folder.path().join("log")).context("could not make the log")?;
    let log = File::open(folder.path().join("log")).context("could not open the log")?;
    let supervisor = Command::new("/bin/sh")
        .args(["-c", SUPERVISOR, "supervisor"])
        .arg(folder.path())
        .arg(programs)
        .args(settings())
        .env("AS_USER", if nix::unistd::geteuid().is_root() { AS_USER } else { "" })
        .stdin(Stdio::piped())
        .stdout(output.try_clone().context("could not share the log")?)
        .stderr(output)
        // A Ctrl-C in the terminal ends the tests; the supervisor must live to clean up after them.
        .process_group(0)
        .spawn()
        .context("could not start /bin/sh")?;
    Ok(Supervised { supervisor, folder: folder.keep(), log })
}

/// Memory where there is enough of it: a database is 8 MB of small files, and a disk under load writes one for a second.
fn parent() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let free = nix::sys::statvfs::statvfs(memory).map_or(0, |it| it.blocks_available() * it.fragment_size());
    if free >= MEMORY_MIN { memory.to_owned() } else { std::env::temp_dir() }
}

/// No port, and nothing that only matters when the machine crashes.
fn settings() -> impl Iterator<Item = &'static str> {
    [
        "listen_addresses=",
        "max_connections=200",
        "timezone=UTC",
        "fsync=off",
        "full_page_writes=off",
        "synchronous_commit=off",
        "max_wal_size=64MB",
        "wal_level=minimal",
        "max_wal_senders=0",
        "autovacuum=off",
        "jit=off",
    ]
    .into_iter()
    .flat_map(|setting| ["-c", setting])
}

/// Waits for the server and migrates the template.
async fn prepare(supervised: &mut Supervised) -> Result<PgConnection> {
    let options = PgConnectOptions::new_without_pgpass()
        .socket(&supervised.folder)
        .username("postgres")
        .ssl_mode(PgSslMode::Disable);
    let mut connection = connect(supervised, &options.clone().database("postgres")).await?;
    execute(&mut connection, format!("create database {TEMPLATE}")).await?;
    let mut template = PgConnection::connect_with(&options.database(TEMPLATE)).await.context("no template")?;
    let migrations = Migrator::new(migrations()?).await.context("could not read the migrations")?;
    migrations.run(&mut template).await.context("could not apply the migrations")?;
    template.close().await.context("could not leave the template")?;
    execute(&mut connection, format!("alter database {TEMPLATE} with allow_connections false")).await?;
    Ok(connection)
}

/// The migrations of this checkout. Found while it runs: a program in a shared target folder may have been compiled in another.
fn migrations() -> Result<PathBuf> {
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package
        .ancestors()
        .map(|folder| folder.join("migrations"))
        .find(|folder| folder.is_dir())
        .with_context(|| format!("neither {} nor a folder above it has a folder named migrations", package.display()))
}

async fn connect(supervised: &mut Supervised, options: &PgConnectOptions) -> Result<PgConnection> {
    let started = Instant::now();
    loop {
        let error = match PgConnection::connect_with(options).await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        if supervised.supervisor.try_wait().is_ok_and(|status| status.is_some()) {
            bail!("the server ended while it started; its log: {}", supervised.log());
        }
        if started.elapsed() > START_MAX {
            bail!("no answer within {START_MAX:?} ({error}); the server's log: {}", supervised.log());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The folder with the programs of PostgreSQL 15, as Debian installs them.
fn programs() -> Result<PathBuf> {
    let folder = std::env::var_os("KUBENOVA_POSTGRES_BIN")
        .map_or_else(|| PathBuf::from("/usr/lib/postgresql/15/bin"), PathBuf::from);
    ensure!(
        folder.join("postgres").is_file() && folder.join("initdb").is_file(),
        "{} has no postgres and initdb: install postgresql-15, or name its bin folder in KUBENOVA_POSTGRES_BIN",
        folder.display()
    );
    Ok(folder)
}
