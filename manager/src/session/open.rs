//! Opens a session: what the hello says is compared with Postgres, the broker is prepared, and only then a short transaction
//! raises the session's number. No row is locked while the broker is waited for.

use super::{Sessions, hello::ReceivedHello};
use jiff::{SignedDuration, Timestamp};
use kubenova_bus::{BusError, durable, streams as broker};
use kubenova_core::{
    cluster::StateNote,
    session::{self, Held, Hello, HelloRefusal, LeaseOrder},
};
use kubenova_runtime::telemetry;
use kubenova_store::{
    cluster_queue, cluster_trust,
    connection::Connection,
    divergences::{self, DivergedHello},
    error::StoreError,
    listings,
    sessions::{self, ClusterRecord, HelloRequest, RefusedHello},
};

/// Why a session could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("could not read or write the session")]
    Store(#[from] StoreError),
    #[error("could not prepare the broker for the session")]
    Bus(#[from] BusError),
}

/// What became of a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Opened(Opened),
    Refused(Refused),
    /// The broker was too slow: the cluster has asked again meanwhile, perhaps another Manager.
    TooLate,
}

/// A session that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) session: i64,
    pub(super) epoch: i64,
    /// Every command at or below this revision is in a terminal state.
    pub(super) floor: i64,
    /// Commands that are sent again.
    pub(super) due: u64,
    /// The cluster holds another listing than Postgres expects.
    pub(super) listing_wanted: bool,
}

/// Why no session was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) refusal: HelloRefusal,
    /// The cluster holds what this database lost: it sends what that is.
    pub(super) listing_wanted: bool,
}

/// What the Manager holds about a cluster that it accepts.
struct Admitted {
    name: String,
    epoch: i64,
    /// When, as Postgres dates it.
    at: Timestamp,
}

/// Opens a session while the cluster waits for it, or records why not.
pub(super) async fn open(
    sessions: &Sessions,
    hello: &ReceivedHello,
    is_waited_for: impl Fn() -> bool,
) -> Result<Outcome, SessionError> {
    let store = &sessions.store;
    let cluster = hello.request.cluster_id.as_str();
    let read =
        store.transaction("read the cluster of a hello", async |tx| admit(tx, hello, sessions.silent_after).await);
    let admitted = match read.await? {
        Ok(admitted) => admitted,
        Err(refused) => return Ok(Outcome::Refused(refused)),
    };
    let jetstream = &sessions.connection.jetstream;
    let undelivered = match durable::ensure_cluster(jetstream, cluster, &admitted.name).await {
        Ok(undelivered) => undelivered,
        Err(error) => {
            // Each connection to the broker makes the streams once; its store may have been deleted since.
            tracing::debug!(error = %telemetry::chain(&error), "could not create a cluster's durable; creating the streams first");
            broker::ensure_all(jetstream).await?;
            durable::ensure_cluster(jetstream, cluster, &admitted.name).await?
        }
    };
    // The stream is only the wire: what is still open is sent again from Postgres. What the cluster acknowledged may stay in it,
    // since its durable delivers it no more.
    if undelivered > 0 {
        durable::purge_cluster(jetstream, cluster).await?;
    }
    if !is_waited_for() {
        return Ok(Outcome::TooLate);
    }
    let begin = store.transaction("open a session", async |tx| {
        // The broker may have taken seconds: the cluster may have been quarantined meanwhile, and a session that begins in the past
        // would be stale at once.
        let Admitted { epoch, at: now, .. } = match admit(tx, hello, sessions.silent_after).await? {
            Ok(admitted) => admitted,
            Err(refused) => return Ok(Outcome::Refused(refused)),
        };
        let session = sessions::open(tx, &hello.request, now).await?;
        divergences::end(tx, &hello.request.cluster_id).await?;
        let highest_revision = hello.request.highest_revision;
        let due = cluster_queue::resend_open(tx, &hello.request.cluster_id, highest_revision, now).await?;
        let floor = cluster_queue::floor(tx, &hello.request.cluster_id).await?;
        let hash = &hello.listing_sha256;
        let listing_wanted = listings::at_hello(tx, &hello.request.cluster_id, hash, session, now).await?;
        Ok::<_, StoreError>(Outcome::Opened(Opened { session, epoch, floor, due, listing_wanted }))
    });
    Ok(begin.await?)
}

/// Compares a hello with what Postgres holds, and records a refusal.
async fn admit(
    tx: &mut Connection,
    hello: &ReceivedHello,
    silent_after: SignedDuration,
) -> Result<Result<Admitted, Refused>, StoreError> {
    let request = &hello.request;
    let record = sessions::lock_cluster(tx, &request.cluster_id).await?;
    // After the lock, which may be waited for. Heartbeats are dated by Postgres, so all of this is.
    let now = sessions::database_time(tx).await?;
    let knows_revision =
        sessions::revision_matches(tx, &request.cluster_id, request.highest_revision, hello.highest_command).await?;
    let mut decided = decide(hello, record.as_ref(), knows_revision);
    if decided.is_ok()
        && let Some(refusal) = check_lease(tx, hello, silent_after, now).await?
    {
        decided = Err(refusal);
    }
    match decided {
        Ok(epoch) => {
            let name = record.map(|record| record.name).unwrap_or_default();
            Ok(Ok(Admitted { name, epoch, at: now }))
        }
        Err(refused) => {
            let mut listing_wanted = false;
            if record.is_some() {
                sessions::record_refusal(tx, &refusal(hello, refused, now)).await?;
                if refused == HelloRefusal::Diverged {
                    listing_wanted = divergences::record(tx, &diverged(hello), now).await?;
                }
            }
            Ok(Err(Refused { refusal: refused, listing_wanted }))
        }
    }
}

/// Whether another Operator of this cluster is in session, and what follows.
async fn check_lease(
    tx: &mut Connection,
    hello: &ReceivedHello,
    silent_after: SignedDuration,
    now: Timestamp,
) -> Result<Option<HelloRefusal>, StoreError> {
    let HelloRequest { cluster_id, incarnation, boot_id, lease_term, .. } = &hello.request;
    let Some(holder) = sessions::holder(tx, cluster_id, incarnation).await? else { return Ok(None) };
    Ok(match session::lease_order(boot_id, *lease_term, &holder, now, silent_after) {
        LeaseOrder::Admit => None,
        LeaseOrder::Contend => {
            sessions::contend(tx, cluster_id, boot_id, now).await?;
            Some(HelloRefusal::LeaseTermNotRaised)
        }
        LeaseOrder::Copied => {
            let refusal = HelloRefusal::CredentialsCopied;
            let message = format!(
                "{refusal}; in session: {} (lease term {}), beside it: {boot_id} (lease term {lease_term})",
                holder.boot_id, holder.lease_term
            );
            tracing::error!(message, "two Kubernetes clusters use the credentials of one; it is quarantined");
            cluster_trust::quarantine(tx, cluster_id, &StateNote::new(refusal.reason(), message), now).await?;
            Some(refusal)
        }
    })
}

fn decide(hello: &ReceivedHello, record: Option<&ClusterRecord>, knows_revision: bool) -> Result<i64, HelloRefusal> {
    let held = record.map(|record| Held {
        state: record.state,
        kubernetes_uid: record.kubernetes_uid.clone(),
        incarnation: record.incarnation,
        epoch: record.epoch,
        knows_revision,
    });
    let incarnation = &hello.request.incarnation;
    session::admit(&Hello { cluster_uid: &hello.cluster_uid, incarnation, epoch: hello.epoch }, held.as_ref())
}

fn diverged(hello: &ReceivedHello) -> DivergedHello {
    DivergedHello {
        cluster_id: hello.request.cluster_id.clone(),
        epoch: i64::try_from(hello.epoch).unwrap_or(i64::MAX),
        highest_revision: hello.request.highest_revision,
        highest_command: hello.highest_command,
        listing_sha256: hello.listing_sha256.clone(),
    }
}

fn refusal(hello: &ReceivedHello, refused: HelloRefusal, now: Timestamp) -> RefusedHello {
    RefusedHello {
        cluster_id: hello.request.cluster_id.clone(),
        boot_id: hello.request.boot_id.clone(),
        reason: refused.reason().to_owned(),
        message: refused.to_string(),
        refused_at: now,
    }
}
