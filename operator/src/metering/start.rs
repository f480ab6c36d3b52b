//! Starts the meter: from the newest checkpoint if its history is still there, else from a list, with a gap stated.

use super::{
    follow::{Follower, WatchUpdate},
    health::{set_healthy, set_problem},
    meter::{Parts, Running, SteppedDown, unreachable},
    publish::Notice,
    reports,
    steps::Steps,
    unlabelled,
};
use crate::apiserver::{
    Error,
    metered::{self, Listed},
    usage,
};
use kube::ResourceExt as _;
use kubenova_crds::usage_report::NovaUsageReport;
use kubenova_operator_core::metering::{
    checkpoint,
    engine::{Beginning, Engine, Listing, SOURCES},
    observed::Source,
};
use kubenova_runtime::retry::Retry;
use kubenova_schema::window::Window;
use std::collections::BTreeMap;
use tokio::sync::mpsc;

/// Updates that the meter has not taken yet; followers wait beyond it, with the time already noted.
const UPDATES_WAITING: usize = 1_024;

impl Running {
    pub(super) async fn start(parts: Parts) -> Result<(Self, mpsc::Receiver<WatchUpdate>), SteppedDown> {
        let reports = until_done(|| usage::list(&parts.client, &parts.namespace), &parts).await;
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
        for report in reports.iter().filter(|report| reports::sealed_status(report).is_some()) {
            let _publisher_is_gone = meter.parts.sealed.send(Notice::from_report(report));
        }
        drop(reports);
        let tenants = until_done(|| usage::tenants(&meter.parts.client), &meter.parts).await;
        meter.engine.recognize(unlabelled::namespaces(&tenants));
        meter.begin(resumed).await;
        meter.steps.drain(&mut meter.engine);
        meter.checkpoint().await?;
        let (sender, updates) = mpsc::channel(UPDATES_WAITING);
        for source in Source::ALL {
            let follower = Follower {
                client: meter.parts.client.clone(),
                source,
                clock: meter.parts.clock.clone(),
                updates: sender.clone(),
            };
            tokio::spawn(follower.run(meter.engine.positions[source as usize]));
        }
        meter.parts.gates.set("metering", None);
        set_healthy(&meter.parts.health);
        Ok((meter, updates))
    }

    /// Continues from the newest checkpoint. False: there is none that can be read.
    fn resume(&mut self, reports: &[NovaUsageReport]) -> bool {
        let mut open = Vec::new();
        let mut newest_sealed = None;
        for report in reports {
            let Some(window) = Window::parse(&report.spec.window) else { continue };
            if reports::sealed_status(report).is_some() {
                newest_sealed = newest_sealed.max(Some((window.start, report.spec.window.clone())));
                continue;
            }
            self.open.insert(window, report.resource_version().unwrap_or_default());
            // One without a status was created by a process that died before it wrote anything.
            open.extend(report.status.as_ref().map(|status| (window, report, status)));
        }
        open.sort_by_key(|(window, ..)| std::cmp::Reverse(window.start));
        for (_, report, status) in open {
            let restored = match reports::checkpoint(&report.spec.window, status) {
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
                    tracing::error!(window = %report.spec.window, %error, "could not read a checkpoint; measuring from now on and stating a gap");
                }
            }
        }
        let newest = newest_sealed.and_then(|(_, name)| reports.iter().find(|report| report.spec.window == name));
        if let Some(sha256) = newest.and_then(reports::manifest_sha256) {
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
                reports.iter().find(|report| report.spec.window == name && reports::sealed_status(report).is_some());
            if let Some(report) = sealed {
                self.engine.windows.roll(window.end_ms());
                let sha256 = reports::manifest_sha256(report).unwrap_or_default();
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
                let head = until_done(|| metered::head(client, source), &self.parts).await;
                targets[source as usize] = head.unwrap_or_default();
            }
            let mut exact = true;
            for source in Source::ALL {
                // A kind that was not installed at the checkpoint is found by its follower.
                let Some(position) = self.engine.positions[source as usize] else { continue };
                match until_done(|| metered::list(client, source, Some(position)), &self.parts).await {
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
            tracing::warn!("the API server has compacted its history since the last checkpoint; stating a gap");
        }
        for source in Source::ALL {
            lists[source as usize] = match until_done(|| metered::list(client, source, None), &self.parts).await {
                Listed::Objects(listing) => listing,
                Listed::NotInstalled | Listed::Gone => Listing::default(),
            };
        }
        (lists, if resumed { Beginning::Lost } else { Beginning::First })
    }
}

/// Tries until it succeeds, and reports what it waits for.
async fn until_done<T, F>(call: impl Fn() -> F, parts: &Parts) -> T
where
    F: Future<Output = Result<T, Error>>,
{
    let attempt = || async {
        call().await.inspect_err(|error| set_problem(&parts.health, "APIServerUnreachable", unreachable(error)))
    };
    match Retry::new("read what metering begins with").until_ok(&parts.shutdown, attempt).await {
        Some(value) => value,
        // A stop was requested, on which the caller drops this.
        None => std::future::pending().await,
    }
}
