//! The loop around the engine: takes watch updates, checkpoints, and seals windows once it is verified that nothing is
//! missing.

use super::{
    follow::WatchUpdate,
    health::{UsageHealth, set_healthy, set_problem},
    publish::Notice,
    reports,
    steps::Steps,
};
use crate::{
    apiserver::{
        Error,
        usage::{self, Written},
    },
    join::identity::nkey_signature,
    manager_clock::ManagerClock,
};
use kube::Client;
use kubenova_crds::usage_report::UsageReportStatus;
use kubenova_operator_core::metering::{
    Levels, checkpoint,
    engine::{Ceilings, Engine, SOURCES},
    seal::{self, Sealer},
};
use kubenova_runtime::{clock, failpoint, probe::Gates, shutdown::Shutdown};
use kubenova_schema::{meters::Meter, quantity::Quantity, signature::PayloadType, window::Window};
use prometheus_client::metrics::counter::Counter;
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::{mpsc, watch};

/// Time between checkpoints; windows shorter than three of them checkpoint every third of the window.
const CHECKPOINT_MS: i64 = 30_000;
/// Time between looks at the clock.
const TICK: Duration = Duration::from_millis(250);

/// What the meter needs.
pub(super) struct Parts {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) window_seconds: u32,
    pub(super) cluster_id: String,
    pub(super) incarnation: String,
    pub(super) nkey_seed: String,
    pub(super) clock: ManagerClock,
    pub(super) sealed: mpsc::UnboundedSender<Notice>,
    pub(super) windows_sealed: Counter,
    pub(super) gates: Gates,
    pub(super) health: watch::Sender<UsageHealth>,
    pub(super) shutdown: Shutdown,
}

/// Another Operator owns the window.
pub(super) struct SteppedDown;

/// Meters until a stop is requested or another Operator owns the window.
pub(super) async fn run(parts: Parts) {
    let shutdown = parts.shutdown.clone();
    let started = tokio::select! {
        () = shutdown.requested() => return,
        started = Running::start(parts) => started,
    };
    let Ok((mut meter, mut updates)) = started else { return };
    // Not runtime::periodic: updates carry data, and the engine takes one step at a time.
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let stepped = tokio::select! {
            () = shutdown.requested() => {
                // Saves the next start from stating a gap; the last checkpoint is at most one interval old.
                let _stored = meter.checkpoint().await;
                return;
            }
            Some(update) = updates.recv() => {
                meter.take(update).await;
                Ok(())
            }
            _ = ticks.tick() => meter.tick().await,
        };
        if stepped.is_err() {
            tracing::error!("another Operator writes the usage reports of this cluster; stopping");
            failpoint::waiting("metering.lost").await;
            return;
        }
    }
}

/// What a tick does.
#[derive(Debug, PartialEq, Eq)]
struct TickSteps {
    /// Ends the count of namespaces whose tenant is gone: before a window is sealed, and meanwhile at each checkpoint, so that they are
    /// not counted until then.
    releases: bool,
    /// Sees whether every watch is current, to seal a window or to end a gap.
    verifies: bool,
}

fn steps_of(engine: &Engine, is_checkpoint_due: bool) -> TickSteps {
    let verifies = engine.due().is_some() || engine.has_open_gap();
    TickSteps { releases: verifies || is_checkpoint_due, verifies }
}

/// A check under way whether every watch has reached a moment.
pub(super) struct Verification {
    pub(super) started_ms: i64,
    pub(super) targets: [Option<u64>; SOURCES],
    pub(super) passed: [bool; SOURCES],
}

/// A meter that has started.
pub(super) struct Running {
    pub(super) parts: Parts,
    pub(super) engine: Engine,
    pub(super) steps: Steps,
    /// resourceVersion of each report that is still open, by window.
    pub(super) open: BTreeMap<Window, String>,
    pub(super) checkpoint_due_ms: i64,
    pub(super) verification: Option<Verification>,
}

impl Running {
    /// What the quotas of all tenants allow; none when they cannot be read, and then the gap carries no bound.
    pub(super) async fn ceilings(&self) -> Option<Ceilings> {
        let tenants = usage::tenants(&self.parts.client).await.inspect_err(|error| {
            tracing::warn!(error = %error.reason(), "could not read quotas; a gap will carry no bound");
        });
        let mut ceilings = Ceilings::new();
        for tenant in tenants.ok()? {
            let quota = &tenant.spec.quota;
            let levels = Levels::only(Meter::Pods, i128::from(quota.pods))
                .with(Meter::CpuRequests, Quantity::parse(&quota.cpu).ok()?.milli_rounded_up())
                .with(Meter::MemoryRequests, Quantity::parse(&quota.memory).ok()?.units_rounded_up());
            ceilings.insert(tenant.spec.tenant_id.clone(), levels);
        }
        Some(ceilings)
    }

    async fn take(&mut self, update: WatchUpdate) {
        match update {
            WatchUpdate::Change { source, change, received_ms } => self.engine.observe(source, change, received_ms),
            WatchUpdate::Interrupted { since_ms } => {
                self.engine.interrupted(since_ms);
                self.verification = None;
            }
            WatchUpdate::Relisted { source, listing, since_ms, received_ms } => {
                let ceilings = self.ceilings().await;
                self.engine.relisted(source, listing, since_ms, ceilings.as_ref(), received_ms);
                self.verification = None;
            }
        }
        self.steps.drain(&mut self.engine);
    }

    async fn tick(&mut self) -> Result<(), SteppedDown> {
        let now_ms = self.parts.clock.now_ms();
        self.engine.advance(now_ms);
        self.steps.drain(&mut self.engine);
        let has_report = self.engine.windows.newest().is_some_and(|newest| self.open.contains_key(&newest));
        let tick = steps_of(&self.engine, now_ms >= self.checkpoint_due_ms);
        if tick.releases {
            self.release_unlabelled(now_ms).await;
        }
        if !has_report || now_ms >= self.checkpoint_due_ms {
            self.checkpoint().await?;
        }
        if !tick.verifies {
            self.verification = None;
            return Ok(());
        }
        let Some(verified_ms) = self.verify(now_ms).await else { return Ok(()) };
        self.engine.all_current(verified_ms);
        while let Some(window) = self.engine.due().filter(|window| window.end_ms() <= verified_ms) {
            // A window that is over has a newer one behind it, and that one's report holds this one's sums.
            if self.engine.windows.newest() == Some(window) || !self.seal(window).await? {
                break;
            }
        }
        Ok(())
    }

    /// Seals a window. False: it could not be stored now.
    #[tracing::instrument(name = "window", skip_all, fields(%window))]
    async fn seal(&mut self, window: Window) -> Result<bool, SteppedDown> {
        let sealer = Sealer {
            cluster_id: self.parts.cluster_id.clone(),
            incarnation: self.parts.incarnation.clone(),
            clock_offset_ms: self.parts.clock.offset_ms(),
            sealed_at: clock::rfc3339_ms(clock::now()),
        };
        let Some(sealed) = seal::seal(&self.engine, window, &sealer) else { return Ok(false) };
        let signature = match nkey_signature(&self.parts.nkey_seed, PayloadType::Usage, &sealed.manifest) {
            Ok(signature) => signature,
            Err(error) => {
                set_problem(
                    &self.parts.health,
                    "SigningFailed",
                    format!("could not sign a window: {error}; enroll the cluster again"),
                );
                return Ok(false);
            }
        };
        failpoint::passing("usage.seal.before");
        let status = reports::sealed(&sealed, signature, clock::now());
        if self.write(window, status).await?.is_none() {
            return Ok(false);
        }
        failpoint::passing("usage.seal.after");
        self.open.remove(&window);
        self.engine.forget(window, &sealed.manifest_sha256);
        self.checkpoint().await?;
        self.parts.windows_sealed.inc();
        tracing::info!(records = sealed.record_count, "sealed a usage window");
        self.parts.health.send_modify(|health| health.last_sealed = Some(window.to_string()));
        let notice = Notice { window, manifest_sha256: sealed.manifest_sha256, received_at_ms: None };
        let _publisher_is_gone = self.parts.sealed.send(notice);
        Ok(true)
    }

    pub(super) async fn checkpoint(&mut self) -> Result<(), SteppedDown> {
        let Some(newest) = self.engine.windows.newest() else { return Ok(()) };
        failpoint::passing("usage.checkpoint.before");
        let status = reports::open(newest, &checkpoint::to_bytes(&self.engine));
        if self.write(newest, status).await?.is_some() {
            set_healthy(&self.parts.health);
        }
        let third_ms = i64::from(self.engine.windows.seconds) * 1000 / 3;
        self.checkpoint_due_ms = self.engine.now_ms + third_ms.min(CHECKPOINT_MS);
        Ok(())
    }

    /// Stores a report by compare-and-swap. None: the API server did not take it now.
    async fn write(&mut self, window: Window, status: UsageReportStatus) -> Result<Option<()>, SteppedDown> {
        let version = self.open.get(&window).map(String::as_str);
        match usage::write(&self.parts.client, &self.parts.namespace, &window.to_string(), status, version).await {
            Ok(Written::Stored(version)) => {
                self.open.insert(window, version);
                Ok(Some(()))
            }
            Ok(Written::Conflict) => Err(SteppedDown),
            Err(error) => {
                tracing::warn!(%window, error = %error.reason(), "could not store a usage report; trying again");
                set_problem(&self.parts.health, "ReportNotStored", unreachable(&error));
                Ok(None)
            }
        }
    }
}

pub(super) fn unreachable(error: &Error) -> String {
    format!("{error}: {}; check the API server and the Operator's roles", error.reason())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_of_tenants_that_are_gone_are_released_at_every_checkpoint() {
        let mut engine = Engine::fresh(0, 3_600);
        assert_eq!(steps_of(&engine, false), TickSteps { releases: false, verifies: false });
        assert_eq!(
            steps_of(&engine, true),
            TickSteps { releases: true, verifies: false },
            "long before a window is due"
        );
        engine.advance(3_600_000);
        assert_eq!(steps_of(&engine, false), TickSteps { releases: true, verifies: true });
        let mut interrupted = Engine::fresh(0, 3_600);
        interrupted.interrupted(0);
        assert_eq!(steps_of(&interrupted, false), TickSteps { releases: true, verifies: true });
    }
}
