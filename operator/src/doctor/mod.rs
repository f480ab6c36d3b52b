//! `kubenova-operator doctor`: what is wrong with this cluster, and what to do about it. It reads and changes nothing.
//!
//! Before the chart is installed ([`preflight`]), while it runs, from inside the pod or with an administrator's kubeconfig ([`cluster`]),
//! and whether the way from the Manager to here works ([`connected`], `helm test`). What a finding means is decided in `operator_core::doctor`.

mod cluster;
mod connected;
mod policies;
mod preflight;

use crate::{
    apiserver::{self, client::Apiserver},
    settings::Settings,
};
use anyhow::Context as _;
use kubenova_operator_core::doctor::{self, Finding, Severity};
pub use policies::delete_policies;
pub use preflight::PreflightFiles;
use std::{path::Path, time::Duration};
use tokio::time::Instant;

/// Time between two looks while it waits.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What is looked at.
#[derive(Debug, Clone)]
pub enum Scope {
    /// Everything that runs.
    Cluster,
    /// The session, and a command that was carried out; waited for so long.
    Connected { wait: Duration },
    /// What keeps a cluster from joining, before anything is installed.
    Preflight { files: PreflightFiles },
}

/// What was found, most of it good.
///
/// # Errors
/// When the API server cannot be called at all.
pub async fn examine(scope: &Scope, probe_socket: &Path) -> anyhow::Result<Vec<Finding>> {
    let apiserver = Apiserver::connect().await.context("could not find the cluster's API server")?;
    Ok(match scope {
        Scope::Cluster => cluster::examine(&apiserver, &Settings::default().operator_user, probe_socket).await,
        Scope::Preflight { files } => preflight::examine(&apiserver, files).await,
        Scope::Connected { wait } => {
            let began = Instant::now();
            loop {
                let found = connected::examine(&apiserver).await;
                if doctor::worst(&found) < Severity::Failure || began.elapsed() >= *wait {
                    break found;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    })
}

/// What a call that failed says of the thing that was to be looked at.
fn unread(subject: &str, error: &apiserver::Error) -> Finding {
    if error.is_forbidden() {
        let message = format!("not looked at, because this user may not {} {}", error.verb, error.kind);
        return Finding::warning(subject, message);
    }
    Finding::failure(subject, apiserver::error::chain(error))
}
