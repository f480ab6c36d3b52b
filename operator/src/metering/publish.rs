//! Publishes sealed reports, marks them when receipts arrive, and deletes those received long ago.
//!
//! Only stored bytes are published, each chunk until the server confirms it. A window is published when it is sealed,
//! again after every connect, and again on an interval, until its receipt arrives: the ledger counts it once. A receipt
//! must carry the hash of the manifest. A window that the Manager has lost since, in a restore, is published again.

use super::{
    health::{UsageHealth, set_conflict, set_problem},
    receipt::ReceiptDelivery,
    reports,
};
use crate::apiserver::usage::{self, Written};
use jiff::Timestamp;
use kube::{Client, ResourceExt as _};
use kubenova_bus::{Connection, publish};
use kubenova_crds::usage_report::NovaUsageReport;
use kubenova_operator_core::metering::{
    receipts::{self, Change, HeldReport},
    seal::{PART_BYTES, chunks},
};
use kubenova_runtime::{clock, failpoint, random, shutdown::Shutdown};
use kubenova_schema::{signature::SCHEMA_HEADER, subjects, v1::ReceiptList, window::Window};
use prometheus_client::metrics::gauge::Gauge;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::sync::{mpsc, watch};

/// Longest time between two publications of a window without a receipt; windows shorter than it use their length,
/// but at least [`REPUBLISH_MIN`].
const REPUBLISH_MAX: Duration = Duration::from_secs(300);
/// Shortest time between two publications of a window without a receipt.
const REPUBLISH_MIN: Duration = Duration::from_secs(10);
/// A received report stays this long: a Postgres restored from a backup of up to a week ago gets it again.
const KEEP_RECEIVED_MS: i64 = 7 * 24 * 3_600_000;
/// A report without a receipt stays this long; a longer outage loses usage rather than filling the API server.
const KEEP_UNRECEIVED_MS: i64 = 35 * 24 * 3_600_000;

/// Sealed reports taken over at once, as after a start: those of five weeks of hours.
const SEALED_AT_ONCE: usize = 1_024;

/// A sealed report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) window: Window,
    pub(super) manifest_sha256: String,
    pub(super) received_at_ms: Option<i64>,
}

impl Notice {
    pub(super) fn from_report(report: &NovaUsageReport) -> Self {
        Self {
            window: Window::parse(&report.spec.window).unwrap_or(Window { start: 0, seconds: 1 }),
            manifest_sha256: reports::manifest_sha256(report).unwrap_or_default(),
            received_at_ms: reports::received_at(report).map(Timestamp::as_millisecond),
        }
    }
}

/// What the publisher needs.
pub(super) struct Parts {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) cluster_id: String,
    pub(super) window_seconds: u32,
    pub(super) bus: watch::Receiver<Option<Connection>>,
    pub(super) sealed: mpsc::UnboundedReceiver<Notice>,
    pub(super) unreceipted: Gauge,
    pub(super) health: watch::Sender<UsageHealth>,
}

/// Publishes, marks and evicts.
pub(super) struct Publisher {
    parts: Parts,
    held: BTreeMap<Window, Notice>,
    /// When the newest list of receipts was made that was taken in.
    newest_receipts: Option<Timestamp>,
    /// Windows of which the Manager holds other bytes, each logged once.
    conflicting: BTreeSet<Window>,
}

impl Publisher {
    pub(super) const fn new(parts: Parts) -> Self {
        Self { parts, held: BTreeMap::new(), newest_receipts: None, conflicting: BTreeSet::new() }
    }

    pub(super) async fn run(mut self, mut receipts: mpsc::Receiver<ReceiptDelivery>, shutdown: Shutdown) {
        let interval = Duration::from_secs(self.parts.window_seconds.into()).clamp(REPUBLISH_MIN, REPUBLISH_MAX);
        // Not runtime::periodic: sealed reports and receipts carry data, and each is handled as it comes.
        let mut repeats = tokio::time::interval(interval);
        repeats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut bus = self.parts.bus.clone();
        bus.mark_changed();
        let mut connects = None;
        let mut receipts_open = true;
        let mut sealed = Vec::new();
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                count = self.parts.sealed.recv_many(&mut sealed, SEALED_AT_ONCE) => match count {
                    0 => return,
                    _ => self.add(std::mem::take(&mut sealed)).await,
                },
                delivery = receipts.recv(), if receipts_open => match delivery {
                    Some(delivery) => self.mark(delivery).await,
                    None => receipts_open = false,
                },
                changed = bus.changed() => match changed {
                    Ok(()) => {
                        connects = bus.borrow_and_update().as_ref().map(|connection| connection.connects.clone());
                        self.publish_unreceived().await;
                    }
                    // The session part has ended, so the process is stopping.
                    Err(_) => return shutdown.requested().await,
                },
                () = reconnected(&mut connects) => self.publish_unreceived().await,
                _ = repeats.tick() => {
                    self.publish_unreceived().await;
                    self.evict().await;
                }
            }
        }
    }

    async fn add(&mut self, notices: Vec<Notice>) {
        let unreceived = notices.iter().filter(|notice| notice.received_at_ms.is_none()).map(|notice| notice.window);
        let windows: Vec<Window> = unreceived.collect();
        self.held.extend(notices.into_iter().map(|notice| (notice.window, notice)));
        self.report_unreceived();
        self.publish_all(windows).await;
    }

    fn report_unreceived(&self) {
        let unreceived = self.held.values().filter(|notice| notice.received_at_ms.is_none()).count();
        let unreceived = u32::try_from(unreceived).unwrap_or(u32::MAX);
        self.parts.unreceipted.set(i64::from(unreceived));
        self.parts.health.send_if_modified(|health| {
            let changed = health.unreceipted_windows != unreceived;
            health.unreceipted_windows = unreceived;
            changed
        });
    }

    async fn publish_unreceived(&self) {
        let windows: Vec<Window> =
            self.held.values().filter(|notice| notice.received_at_ms.is_none()).map(|notice| notice.window).collect();
        self.publish_all(windows).await;
    }

    /// Stops at the first that cannot be published: a broker that does not answer costs one time limit, not one a window.
    async fn publish_all(&self, windows: Vec<Window>) {
        for window in windows {
            if !self.publish(window).await {
                return;
            }
        }
    }

    /// Publishes one window. False: the broker or the API server cannot be used now.
    async fn publish(&self, window: Window) -> bool {
        let Some(connection) = self.parts.bus.borrow().clone().filter(Connection::is_connected) else { return false };
        let name = window.to_string();
        let report = match usage::get(&self.parts.client, &self.parts.namespace, &name).await {
            Ok(report) => report,
            Err(error) => {
                tracing::warn!(%window, error = %error.reason(), "could not read a sealed report; trying again later");
                return false;
            }
        };
        let Some(status) = report.as_ref().and_then(reports::sealed_status) else { return true };
        let (manifest, records) = match (reports::manifest(&name, status), reports::records(&name, status)) {
            (Ok(manifest), Ok(records)) => (manifest, records),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%window, %error, "a sealed report is damaged and is not published");
                return true;
            }
        };
        let subject = subjects::usage(&self.parts.cluster_id, &name);
        for chunk in chunks(&manifest, &status.manifest_signature, &records, PART_BYTES) {
            let schema = (SCHEMA_HEADER, "kubenova.v1.UsageChunk");
            let headers = publish::headers(&random::uuid_v4().to_string(), &[schema]);
            if let Err(error) = publish::publish(&connection.jetstream, &subject, headers, chunk).await {
                tracing::debug!(%window, %error, "could not publish a usage window; trying again later");
                return false;
            }
            failpoint::passing("usage.publish.chunk");
        }
        true
    }

    async fn mark(&mut self, delivery: ReceiptDelivery) {
        let ReceiptDelivery { list, marked } = delivery;
        if list.cluster_id != self.parts.cluster_id {
            tracing::warn!("a receipt list for another cluster arrived and is ignored");
        } else {
            let issued = list.issued.parse().ok();
            if !self.mark_all(&list, issued >= self.newest_receipts).await {
                return;
            }
            self.newest_receipts = issued.max(self.newest_receipts);
        }
        // The session may have ended meanwhile; the list is delivered again then.
        let _receiver_gone = marked.send(());
        self.report_unreceived();
    }

    /// False: a mark could not be stored now.
    async fn mark_all(&mut self, list: &ReceiptList, is_newest: bool) -> bool {
        let held = self.held.values().map(|notice| HeldReport {
            window: notice.window,
            manifest_sha256: &notice.manifest_sha256,
            is_received: notice.received_at_ms.is_some(),
        });
        let mut lost = Vec::new();
        for (window, change) in receipts::changes(list, held, is_newest) {
            let received_at = match change {
                Change::Conflict => {
                    self.report_conflict(window);
                    continue;
                }
                Change::Received => Some(clock::now()),
                Change::Lost => None,
            };
            if store_mark(&self.parts, &window.to_string(), received_at).await.is_none() {
                return false;
            }
            if let Some(notice) = self.held.get_mut(&window) {
                notice.received_at_ms = received_at.map(Timestamp::as_millisecond);
            }
            if change == Change::Lost {
                lost.push(window);
            }
        }
        if !lost.is_empty() {
            tracing::warn!(
                windows = lost.len(),
                "the Manager no longer holds usage windows that it confirmed: its database was restored to an earlier point; \
                 publishing them again"
            );
            self.publish_all(lost).await;
        }
        true
    }

    fn report_conflict(&mut self, window: Window) {
        if self.conflicting.insert(window) {
            tracing::error!(
                %window,
                "the Manager received another report of this usage window before; this one is kept, published and not billed"
            );
        }
        // The first of them: the message changes no more while there are several.
        let first = self.conflicting.first().copied().unwrap_or(window);
        set_conflict(
            &self.parts.health,
            format!(
                "the Manager received other bytes for window {first}; find out which are right before it is billed"
            ),
        );
    }

    async fn evict(&mut self) {
        let now_ms = clock::now_ms();
        let over: Vec<Window> = self
            .held
            .values()
            .filter(|notice| match notice.received_at_ms {
                Some(received_ms) => now_ms - received_ms > KEEP_RECEIVED_MS,
                None => now_ms - notice.window.end_ms() > KEEP_UNRECEIVED_MS,
            })
            .map(|notice| notice.window)
            .collect();
        for window in over {
            let unreceived = self.held.get(&window).is_some_and(|notice| notice.received_at_ms.is_none());
            let name = window.to_string();
            let deleted = match usage::get(&self.parts.client, &self.parts.namespace, &name).await {
                Ok(Some(report)) => usage::delete(&self.parts.client, &self.parts.namespace, &report).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = deleted {
                tracing::warn!(%window, error = %error.reason(), "could not delete an old usage report");
                return;
            }
            self.held.remove(&window);
            if unreceived {
                tracing::error!(%window, "deleted a usage window that the Manager never confirmed: it is missing in the ledger");
                set_problem(
                    &self.parts.health,
                    "WindowEvicted",
                    format!(
                        "deleted window {name}: the Manager did not confirm it within 35 days; connect the cluster to its Manager"
                    ),
                );
            }
        }
        self.report_unreceived();
    }
}

async fn store_mark(parts: &Parts, name: &str, received_at: Option<Timestamp>) -> Option<()> {
    let stored = match usage::get(&parts.client, &parts.namespace, name).await {
        Ok(Some(report)) => {
            let version = report.resource_version();
            let mut status = report.status.unwrap_or_default();
            if status.received_at.is_empty() == received_at.is_none() {
                return Some(());
            }
            let text = received_at.map(clock::rfc3339_ms);
            reports::set_received(&mut status, text.as_deref(), clock::now());
            usage::write(&parts.client, &parts.namespace, name, status, version.as_deref()).await
        }
        Ok(None) => return Some(()),
        Err(error) => Err(error),
    };
    match stored {
        Ok(Written::Stored(_)) => Some(()),
        Ok(Written::Conflict) => None,
        Err(error) => {
            tracing::warn!(window = %name, error = %error.reason(), "could not mark a window as received; trying again later");
            None
        }
    }
}

/// Resolves when the connection has come back; never without one.
async fn reconnected(connects: &mut Option<watch::Receiver<u64>>) {
    if let Some(receiver) = connects
        && receiver.changed().await.is_ok()
    {
        return;
    }
    *connects = None;
    std::future::pending::<()>().await;
}
