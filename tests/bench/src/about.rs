//! What was measured: the commit, and the versions of the servers.

use std::process::Command;

use anyhow::{Context as _, Result};
use kubenova_env::repository;
use kubenova_scenarios::broker;
use kubenova_scenarios::platform::Platform;
use kubenova_scenarios::site::Site;

/// Prints both.
pub(crate) async fn print(platform: &Platform, site: Option<&Site>) -> Result<()> {
    let postgres = platform.postgres.query("kubenova", "show server_version")?;
    let connection = broker::connect(platform, &broker::keyring(platform)?).await?;
    let nats = connection.client.server_info().version;
    let kubernetes = match site {
        Some(site) => site.cluster.kube_client().apiserver_version().await?.git_version,
        None => "none: the cluster is simulated".to_owned(),
    };
    println!("commit {}; Postgres {} (fsync off), NATS {nats}, Kubernetes {kubernetes}", commit()?, postgres.trim());
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
