//! What a measurement was made with, as its first lines: without it no two can be compared.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kubenova_env::postgres::Durability;
use kubenova_env::repository;
use kubenova_env::servers::Servers;
use kubenova_runtime::open_files;
use kubenova_scenarios::platform::{self, Platform, PlatformOptions};
use kubenova_scenarios::site::Site;

/// Time between the pings of a connection, as the product has it by default.
pub(crate) const PING: Duration = Duration::from_secs(20);
/// Open files beside a connection for each cluster.
const FILES_BESIDE: u64 = 1_000;

/// Starts a platform as it is in production, for so many simulated clusters, and prints what it is.
pub(crate) async fn as_in_production(clusters: usize) -> Result<Platform> {
    start(clusters, PlatformOptions::default()).await
}

/// The same, and clusters know a bridge, which the benchmark starts.
pub(crate) async fn with_bridge(clusters: usize) -> Result<Platform> {
    start(clusters, PlatformOptions { names_bridge: true, ..PlatformOptions::default() }).await
}

async fn start(clusters: usize, options: PlatformOptions) -> Result<Platform> {
    anyhow::ensure!(
        platform::transport() != "leaf",
        "simulated clusters have no leaf node: measure by another transport"
    );
    allow_many_files(u64::try_from(clusters)? + FILES_BESIDE)?;
    let options = PlatformOptions {
        durability: Durability::Machine,
        log: Some("info"),
        ping_seconds: Some(u32::try_from(PING.as_secs())?),
        ..options
    };
    let platform = Platform::start(&options).await?;
    print(&platform, None).await?;
    Ok(platform)
}

/// Lets this process, and the servers it starts, open as many files as the machine allows: each simulated cluster is a connection.
fn allow_many_files(wanted: u64) -> Result<()> {
    let allowed = open_files::raise_limit().context("could not raise the limit of open files")?;
    anyhow::ensure!(allowed >= wanted, "{wanted} files must be open, {allowed} are allowed: raise `ulimit -Hn`");
    Ok(())
}

/// Prints commit, versions, durability and what else runs.
pub(crate) async fn print(platform: &Platform, site: Option<&Site>) -> Result<()> {
    let setting = |name: &str| platform.postgres.query("postgres", &format!("show {name}"));
    let (version, fsync) = (setting("server_version")?, setting("fsync")?);
    let synchronous_commit = setting("synchronous_commit")?;
    let config = std::fs::read_to_string(platform.hub.config()).context("could not read the broker's configuration")?;
    let sync = config.lines().find(|line| line.contains("sync_interval")).unwrap_or("sync_interval: default (2m)");
    let nats = Command::new(Servers::find()?.binary("nats-server")?).arg("--version").output();
    let nats = nats.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned()).unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let profile = if cfg!(debug_assertions) { "debug (no measurement)" } else { "release" };
    println!("| made with | |\n| --- | --- |");
    println!("| commit | {} |", commit()?);
    println!("| build | {profile} |");
    println!(
        "| PostgreSQL | {}, fsync {}, synchronous_commit {} |",
        version.trim(),
        fsync.trim(),
        synchronous_commit.trim()
    );
    println!("| broker | {nats}, {} |", sync.trim());
    let kubernetes = match site {
        Some(site) => site.cluster.kube_client().apiserver_version().await?.git_version,
        None => "none: clusters are simulated".to_owned(),
    };
    println!("| Kubernetes | {kubernetes} |");
    println!("| transport of clusters, and of the raw chain's consumer | {} |", platform::transport());
    println!("| machine | {processors} processors, load before: {} |", load.trim());
    Ok(())
}

/// The commit, and whether files were changed since.
fn commit() -> Result<String> {
    let root = repository::root()?;
    let git = |arguments: &[&str]| -> Result<String> {
        // The sandbox has another user than the owner of the files.
        let output = Command::new("git").args(["-c", "safe.directory=*"]).args(arguments).current_dir(&root).output();
        Ok(String::from_utf8(output.context("could not run git")?.stdout)?.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let is_changed = !git(&["status", "--porcelain"])?.is_empty();
    Ok(format!("{commit}{}", if is_changed { " with changes" } else { "" }))
}
