//! The loop around the engine: takes in what the followers tell, checkpoints, verifies that every watch has come far
//! enough, seals.
//!
//! A window is sealed once every watch has passed a quorum read made after the window's end, or, when that takes longer
//! than two seconds (an idle watch is bookmarked only once a minute), once a full list is exactly what was observed.

use super::{
    Clock,
    follow::{Follower, WatchUpdate},
    health::{UsageHealth, unwell, well},
    publish::Notice,
    reports,
    steps::Steps,
};
use crate::apiserver::{
    Error,
    usage::{self, Written},
    watches::{self, Listed},
};
use kube::{Client, ResourceExt as _};
use kubenova_crds::usage_report::{NovaUsageReport, ReportState, UsageReportSpec};
use kubenova_operator_core::metering::{
    Levels, checkpoint,
    engine::{Beginning, Ceilings, Engine, Listing, SOURCES},
    observed::Source,
    quantity::Quantity,
    seal::{self, Sealer},
};
use kubenova_runtime::{backoff, clock, failpoint, probe::Gates, shutdown::Shutdown};
use kubenova_schema::{meters::Meter, window::Window};
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::{mpsc, watch};

/// Time between checkpoints; windows shorter than three of them checkpoint every third of the window.
const CHECKPOINT_MS: i64 = 30_000;
/// Patience with idle watches before a full list decides.
const PATIENCE_MS: i64 = 2_000;
/// Time between looks at the clock.
const TICK: Duration = Duration::from_millis(250);
/// What followers told and the meter has not taken in yet; beyond it they wait, with the time already stamped.
const TOLD_MAX: usize = 1_024;

/// What the meter needs.
pub(super) struct Parts {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) window_seconds: u32,
    pub(super) cluster_id: String,
    pub(super) incarnation: String,
    pub(super) nkey_seed: String,
    pub(super) clock: Clock,
    pub(super) sealed: mpsc::Sender<Notice>,
    pub(super) gates: Gates,
    pub(super) health: watch::Sender<UsageHealth>,
}

/// Another Operator owns the window.
struct SteppedDown;

/// Meters until a stop is asked for or another Operator owns the window.
pub(super) async fn run(parts: Parts, shutdown: Shutdown) {
    let started = tokio::select! {
        () = shutdown.requested() => return,
        started = Running::start(parts) => started,
    };
    let Ok((mut meter, mut told)) = started else { return };
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let stepped = tokio::select! {
            () = shutdown.requested() => {
                let _last_words = meter.checkpoint().await;
                return;
            }
            Some(told) = told.recv() => {
                meter.take(told).await;
                Ok(())
            }
            _ = ticks.tick() => meter.tick().await,
        };
        if stepped.is_err() {
            tracing::error!("another operator writes the usage reports of this cluster; stepping down");
            return;
        }
    }
}

/// A check that every watch has passed a moment.
struct Verification {
    started_ms: i64,
    targets: [Option<u64>; SOURCES],
    passed: [bool; SOURCES],
}

struct Running {
    parts: Parts,
    engine: Engine,
    steps: Steps,
    /// resourceVersion of each report that is still open, by window.
    open: BTreeMap<Window, String>,
    checkpoint_due_ms: i64,
    verification: Option<Verification>,
}

impl Running {
    async fn start(parts: Parts) -> Result<(Self, mpsc::Receiver<WatchUpdate>), SteppedDown> {
        let reports = until_done(|| usage::list(&parts.client, &parts.namespace), &parts.health).await;
        let now_ms = parts.clock.now_ms();
        let mut meter = Self {
            engine: Engine::fresh(now_ms, parts.window_seconds),
            steps: Steps::open(),
            open: BTreeMap::new(),
            checkpoint_due_ms: now_ms,
            verification: None,
            parts,
        };
        let resumed = meter.resume(&reports);
        for report in reports.into_iter().filter(|report| report.spec.state == ReportState::Sealed) {
            let _publisher_is_gone = meter.parts.sealed.send(Notice::from_report(&report)).await;
        }
        meter.begin(resumed).await;
        meter.steps.drain(&mut meter.engine);
        meter.checkpoint().await?;
        let (sender, told) = mpsc::channel(TOLD_MAX);
        for source in Source::ALL {
            let follower = Follower {
                client: meter.parts.client.clone(),
                source,
                clock: meter.parts.clock.clone(),
                told: sender.clone(),
            };
            tokio::spawn(follower.run(meter.engine.positions[source as usize]));
        }
        meter.parts.gates.set("metering", None);
        well(&meter.parts.health);
        Ok((meter, told))
    }

    /// Takes up the newest checkpoint. False: there is none that can be read.
    fn resume(&mut self, reports: &[NovaUsageReport]) -> bool {
        let mut open = Vec::new();
        let mut newest_sealed = None;
        for report in reports {
            let Some(window) = Window::parse(&report.spec.window) else { continue };
            match report.spec.state {
                ReportState::Open => {
                    self.open.insert(window, report.resource_version().unwrap_or_default());
                    open.push((window, report));
                }
                ReportState::Sealed => {
                    newest_sealed = newest_sealed.max(Some((window.start, report.spec.window.clone())));
                }
            }
        }
        open.sort_by_key(|(window, _)| std::cmp::Reverse(window.start));
        for (_, report) in open {
            let restored = match reports::checkpoint(&report.spec) {
                Ok(bytes) => checkpoint::from_bytes(&bytes).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match restored {
                Ok(engine) => {
                    self.engine = engine;
                    if self.engine.windows.seconds != self.parts.window_seconds {
                        tracing::warn!(
                            seconds = self.engine.windows.seconds,
                            "the open window has another length than configured; it goes on until its report is deleted"
                        );
                    }
                    self.drop_sealed(reports);
                    self.steps.restored(&self.engine);
                    return true;
                }
                Err(error) => {
                    tracing::error!(window = %report.spec.window, %error, "a checkpoint cannot be read; measuring again");
                }
            }
        }
        let newest = newest_sealed.and_then(|(_, name)| reports.iter().find(|report| report.spec.window == name));
        if let Some(sha256) = newest.and_then(|report| reports::manifest_sha256(&report.spec).ok()) {
            self.engine.previous_manifest_sha256 = sha256;
        }
        false
    }

    /// The process may have died between storing a sealed report and the next checkpoint.
    fn drop_sealed(&mut self, reports: &[NovaUsageReport]) {
        let windows: Vec<Window> = self.engine.windows.open.iter().map(|open| open.window).collect();
        for window in windows {
            let name = window.to_string();
            let sealed =
                reports.iter().find(|report| report.spec.window == name && report.spec.state == ReportState::Sealed);
            if let Some(report) = sealed {
                self.engine.windows.roll(window.end_ms());
                let sha256 = reports::manifest_sha256(&report.spec).unwrap_or_default();
                self.engine.forget(window, &sha256);
            }
        }
    }

    async fn begin(&mut self, resumed: bool) {
        let (listings, how) = self.first_lists(resumed).await;
        let ceilings = match how {
            Beginning::Exact { .. } => None,
            Beginning::First | Beginning::Lost => self.ceilings().await,
        };
        self.engine.begin(listings, how, ceilings.as_ref(), self.parts.clock.now_ms());
    }

    async fn first_lists(&self, resumed: bool) -> ([Listing; SOURCES], Beginning) {
        let client = &self.parts.client;
        let mut targets = [0; SOURCES];
        let mut lists: [Listing; SOURCES] = Default::default();
        if resumed {
            for source in Source::ALL {
                let head = until_done(|| watches::head(client, source), &self.parts.health).await;
                targets[source as usize] = head.unwrap_or_default();
            }
            let mut exact = true;
            for source in Source::ALL {
                // A kind that was not installed at the checkpoint is found by its follower.
                let Some(position) = self.engine.positions[source as usize] else { continue };
                match until_done(|| watches::list(client, source, Some(position)), &self.parts.health).await {
                    Listed::Objects(mut listing) => {
                        listing.position = Some(position);
                        lists[source as usize] = listing;
                    }
                    Listed::NotInstalled => {}
                    Listed::Gone => exact = false,
                }
            }
            if exact {
                return (lists, Beginning::Exact { targets });
            }
            tracing::warn!("the API server's history since the last checkpoint is gone; stating a gap");
        }
        for source in Source::ALL {
            lists[source as usize] = match until_done(|| watches::list(client, source, None), &self.parts.health).await
            {
                Listed::Objects(listing) => listing,
                Listed::NotInstalled | Listed::Gone => Listing::default(),
            };
        }
        (lists, if resumed { Beginning::Lost } else { Beginning::First })
    }

    /// What the quotas of all tenants allow; none when they cannot be read, and then the gap carries no bound.
    async fn ceilings(&self) -> Option<Ceilings> {
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

    async fn take(&mut self, told: WatchUpdate) {
        match told {
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
        if !has_report || now_ms >= self.checkpoint_due_ms {
            self.checkpoint().await?;
        }
        if self.engine.due().is_none() && !self.engine.has_open_gap() {
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

    /// The moment up to which every watch is known to have told everything; none yet.
    async fn verify(&mut self, now_ms: i64) -> Option<i64> {
        let stale = |verification: &Verification| {
            self.engine.due().is_some_and(|window| verification.started_ms < window.end_ms())
        };
        if self.verification.as_ref().is_none_or(stale) {
            let mut targets = [None; SOURCES];
            for source in Source::ALL {
                targets[source as usize] = self.answered(watches::head(&self.parts.client, source).await)?;
            }
            self.verification = Some(Verification { started_ms: now_ms, targets, passed: [false; SOURCES] });
        }
        let verification = self.verification.as_mut()?;
        for source in Source::ALL {
            let index = source as usize;
            verification.passed[index] |= self.engine.has_passed(source, verification.targets[index]);
        }
        if now_ms - verification.started_ms >= PATIENCE_MS {
            for source in Source::ALL {
                if verification.passed[source as usize] {
                    continue;
                }
                match watches::versions(&self.parts.client, source).await {
                    Ok(Some(listed)) => verification.passed[source as usize] = self.engine.agrees(source, &listed),
                    Ok(None) => {}
                    Err(error) => {
                        unwell(&self.parts.health, "APIServerUnreachable", unreachable(&error));
                        return None;
                    }
                }
            }
        }
        let verified = verification.passed == [true; SOURCES];
        let started_ms = verification.started_ms;
        if verified {
            self.verification = None;
        }
        verified.then_some(started_ms)
    }

    fn answered<T>(&self, answer: Result<T, Error>) -> Option<T> {
        answer.inspect_err(|error| unwell(&self.parts.health, "APIServerUnreachable", unreachable(error))).ok()
    }

    /// Seals a window. False: it could not be stored now.
    async fn seal(&mut self, window: Window) -> Result<bool, SteppedDown> {
        let sealer = Sealer {
            cluster_id: self.parts.cluster_id.clone(),
            incarnation: self.parts.incarnation.clone(),
            clock_offset_ms: self.parts.clock.offset_ms(),
            sealed_at: clock::rfc3339_ms(clock::now()),
        };
        let Some(sealed) = seal::seal(&self.engine, window, &sealer) else { return Ok(false) };
        let signature = match reports::sign(&self.parts.nkey_seed, &sealed.manifest) {
            Ok(signature) => signature,
            Err(error) => {
                unwell(
                    &self.parts.health,
                    "SigningFailed",
                    format!("could not sign a window: {error}; enroll the cluster again"),
                );
                return Ok(false);
            }
        };
        failpoint::passing("usage.seal.before");
        let spec = reports::sealed(&sealed, signature);
        if self.write(window, spec).await?.is_none() {
            return Ok(false);
        }
        failpoint::passing("usage.seal.after");
        self.open.remove(&window);
        self.engine.forget(window, &sealed.manifest_sha256);
        self.checkpoint().await?;
        tracing::info!(%window, records = sealed.record_count, "sealed a usage window");
        self.parts.health.send_modify(|health| health.last_sealed = Some(window.to_string()));
        let notice = Notice { window, manifest_sha256: sealed.manifest_sha256, received_at_ms: None };
        let _publisher_is_gone = self.parts.sealed.send(notice).await;
        Ok(true)
    }

    async fn checkpoint(&mut self) -> Result<(), SteppedDown> {
        let Some(newest) = self.engine.windows.newest() else { return Ok(()) };
        failpoint::passing("usage.checkpoint.before");
        let spec = reports::open(newest, &checkpoint::to_bytes(&self.engine));
        if self.write(newest, spec).await?.is_some() {
            well(&self.parts.health);
        }
        let third_ms = i64::from(self.engine.windows.seconds) * 1000 / 3;
        self.checkpoint_due_ms = self.engine.now_ms + third_ms.min(CHECKPOINT_MS);
        Ok(())
    }

    /// Stores a report by compare-and-swap. None: the API server did not take it now.
    async fn write(&mut self, window: Window, spec: UsageReportSpec) -> Result<Option<()>, SteppedDown> {
        let version = self.open.get(&window).map(String::as_str);
        match usage::write(&self.parts.client, &self.parts.namespace, spec, version).await {
            Ok(Written::Stored(version)) => {
                self.open.insert(window, version);
                Ok(Some(()))
            }
            Ok(Written::Conflict) => Err(SteppedDown),
            Err(error) => {
                tracing::warn!(%window, error = %error.reason(), "could not store a usage report; trying again");
                unwell(&self.parts.health, "ReportNotStored", unreachable(&error));
                Ok(None)
            }
        }
    }
}

fn unreachable(error: &Error) -> String {
    format!("{error}: {}; look at the API server and at the Operator's rights", error.reason())
}

/// Tries until it works, and says what it waits for.
async fn until_done<T, F>(call: impl Fn() -> F, health: &watch::Sender<UsageHealth>) -> T
where
    F: Future<Output = Result<T, Error>>,
{
    let mut waits = backoff::forever();
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) => {
                tracing::warn!(error = %error.reason(), "{error}; trying again");
                unwell(health, "APIServerUnreachable", unreachable(&error));
                tokio::time::sleep(waits.next().unwrap_or(TICK)).await;
            }
        }
    }
}
