//! `kubenova-operator leave`: a cluster's administrator has KubeNova let go of the cluster, and remove tenants and components on request.
//!
//! Looks at what is there ([`look`]), shows the plan that `operator/core/src/leaving.rs` makes of it, and carries it out step by step
//! ([`webhooks`], [`tenants`], [`components`]). Guarantees: without `--yes` nothing is changed; it holds the Operator's Lease meanwhile, so
//! no Operator works against it; a run that was interrupted is taken up by the next one.

mod components;
mod look;
mod progress;
mod tenants;
mod webhooks;

use crate::{
    apiserver::{self, client::Apiserver},
    lease::{self, LeaseConfig},
    settings::LeaseSettings,
};
use kubenova_crds::SYSTEM_NAMESPACE;
use kubenova_operator_core::leaving::{self, Found, Options, Plan, Refused, Step};
use kubenova_runtime::{random, shutdown::Shutdown};
use progress::Progress;
use std::{io::Write, time::Duration};

/// Looks at an API server that asks to wait: it does so for a few seconds.
const LOOKS_MAX: u32 = 30;
/// For parts that were stopped to end.
const STOP_MAX: Duration = Duration::from_secs(5);

/// What is asked for, and whether it is only shown.
#[derive(Debug, Clone, Copy)]
pub struct Leaving {
    pub options: Options,
    /// Carry it out.
    pub is_confirmed: bool,
    /// How long it may take.
    pub limit: Duration,
}

/// Why the cluster was not left.
#[derive(Debug, thiserror::Error)]
pub enum LeaveError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Apiserver(#[from] apiserver::Error),
    #[error("another process holds the Lease {SYSTEM_NAMESPACE}/{}: an Operator runs, or another leave", lease::NAME)]
    LeaseHeld,
    #[error("not finished in time: {0}; run the same command again to go on")]
    TooLate(String),
    #[error("could not write what is done")]
    Output(#[from] std::io::Error),
}

/// Shows what would be done and, when it is confirmed, does it. True when it was done.
///
/// # Errors
/// When it is refused, or does not come to an end.
pub async fn run(apiserver: &Apiserver, leaving: &Leaving, out: &mut impl Write) -> Result<bool, LeaveError> {
    let found = found(apiserver).await?;
    let plan = leaving::plan(&found, leaving.options)?;
    if leaving.is_confirmed {
        leaving::may_begin(&found)?;
    }
    write!(out, "{plan}")?;
    if !leaving.is_confirmed {
        return Ok(false);
    }
    let progress = Progress::new(out, leaving.limit);
    with_lease(apiserver, carry_out(apiserver, leaving.options, &plan, progress)).await?;
    Ok(true)
}

/// What is there. An API server that just began to serve a kind asks to wait for its objects.
async fn found(apiserver: &Apiserver) -> Result<Found, apiserver::Error> {
    let mut attempts = 1;
    loop {
        match look::found(apiserver).await {
            Err(error) if !error.retry_after().is_zero() && attempts < LOOKS_MAX => {
                attempts += 1;
                tokio::time::sleep(error.retry_after()).await;
            }
            looked => return looked,
        }
    }
}

/// Does the work while holding the Lease.
async fn with_lease(
    apiserver: &Apiserver,
    work: impl Future<Output = Result<(), LeaveError>>,
) -> Result<(), LeaveError> {
    let duration = Duration::from_secs(LeaseSettings::default().duration_seconds.into());
    let holder = format!("leave-{}", random::uuid_v4());
    let config = LeaseConfig { namespace: SYSTEM_NAMESPACE.to_owned(), holder, duration };
    let shutdown = Shutdown::new();
    // The Lease of an Operator that was killed expires within its duration.
    let acquired = tokio::time::timeout(2 * duration, lease::acquire(apiserver, config, &shutdown, || ())).await;
    let held = acquired.ok().flatten().ok_or(LeaveError::LeaseHeld)?;
    let mut keeping = tokio::spawn(held.keep(shutdown.clone()));
    let worked = tokio::select! {
        worked = work => worked,
        // Nothing asked it to stop, so the Lease is lost.
        _lost = &mut keeping => return Err(LeaveError::LeaseHeld),
    };
    shutdown.request();
    if let Ok(Ok(Some(held))) = tokio::time::timeout(STOP_MAX, keeping).await {
        held.release().await;
    }
    worked
}

async fn carry_out<W: Write>(
    apiserver: &Apiserver,
    options: Options,
    plan: &Plan,
    mut progress: Progress<'_, W>,
) -> Result<(), LeaveError> {
    for step in &plan.steps {
        match step {
            Step::IgnoreFailures(keys) => webhooks::ignore_failures(apiserver, keys, &mut progress).await?,
            Step::ReleaseTenants(names) => tenants::release(apiserver, names, &mut progress).await?,
            Step::RemoveTenants(names) => tenants::remove(apiserver, names, &mut progress).await?,
            Step::RemoveComponents => {
                // Another look: the tenants are gone, and nothing may have come to depend on the components meanwhile.
                let found = found(apiserver).await?;
                leaving::plan(&found, options)?;
                components::remove(apiserver, &found, &mut progress).await?;
            }
        }
    }
    progress.say("done")
}
