//! Consumes a durable by cluster: what has arrived of a cluster is stored in one short transaction.
//!
//! Guarantees: each message is acknowledged after the commit of its transaction; those of a cluster are stored in the order in which
//! they came; a message that cannot be stored holds up neither those beside it nor other clusters. Before it: JetStream. After it:
//! `outcomes.rs` and `status.rs`, which read messages and store them.

use super::{
    cluster_queues::{ClusterQueues, Group, Waiting},
    durable::{self, Ingest, IngestError},
};
use futures::{StreamExt as _, stream::FuturesUnordered};
use kubenova_bus::{
    consume::{Delivery, Verdict},
    durable::OwnDurable,
};
use kubenova_runtime::{shutdown::Shutdown, telemetry};
use kubenova_schema::subjects;
use kubenova_store::error::StoreError;
use std::{
    future::Future,
    slice,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;
use tracing::Instrument as _;

/// Groups that are stored at once. One waits at most five seconds for rows that others hold, and meanwhile the others go on; each
/// takes a connection of the pool, which has sixteen.
const GROUPS_MAX: usize = 4;

/// Reports of one kind.
pub(super) trait Reports: Sync {
    type Report: Send + Sync;

    /// Reads a message.
    fn read(&self, delivery: &Delivery) -> Result<Self::Report, IngestError>;

    /// Stores reports of one cluster in their order, in one transaction. For each, why it can never be handled if it cannot.
    fn store(
        &self,
        reports: &[Self::Report],
    ) -> impl Future<Output = Result<Vec<Result<(), String>>, StoreError>> + Send;
}

/// Consumes until a stop is requested.
pub(super) async fn run<R: Reports>(own: &OwnDurable, ingest: &Ingest, shutdown: &Shutdown, reports: R) {
    let consumer = Consumer {
        name: own.name,
        ingest,
        shutdown,
        reports,
        queues: Mutex::default(),
        arrived: Notify::new(),
        taken: Notify::new(),
    };
    let consume = durable::consume(own, &ingest.jetstream, shutdown, |delivery| consumer.add(delivery));
    tokio::join!(consume, consumer.store_groups());
}

struct Consumer<'a, R> {
    name: &'static str,
    ingest: &'a Ingest,
    shutdown: &'a Shutdown,
    reports: R,
    queues: Mutex<ClusterQueues<Delivery>>,
    /// A message was added.
    arrived: Notify,
    /// Messages were taken, so that there is room.
    taken: Notify,
}

impl<R: Reports> Consumer<'_, R> {
    fn queues(&self) -> MutexGuard<'_, ClusterQueues<Delivery>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a message until its group is stored, once there is room for it.
    async fn add(&self, delivery: Delivery) -> Verdict {
        while !self.queues().has_room() {
            tokio::select! {
                () = self.shutdown.requested() => break,
                () = self.taken.notified() => {}
            }
        }
        if self.shutdown.is_requested() {
            return Verdict::Later(Duration::ZERO);
        }
        let cluster = subjects::cluster_of(&delivery.subject).unwrap_or_default().to_owned();
        let (bytes, delivered) = (delivery.payload.len(), delivery.delivered);
        self.queues().push(&cluster, Waiting { message: delivery, bytes, delivered });
        self.arrived.notify_one();
        Verdict::Held
    }

    /// Stores what was added. When a stop is requested, what is under way is finished, and the rest goes back to the broker at
    /// once: else it would come again only after the time that the broker waits for an acknowledgement.
    async fn store_groups(&self) {
        let mut under_way = FuturesUnordered::new();
        while !self.shutdown.is_requested() {
            while under_way.len() < GROUPS_MAX
                && let Some(group) = self.take()
            {
                under_way.push(self.store_group(group));
            }
            tokio::select! {
                () = self.shutdown.requested() => {}
                () = self.arrived.notified() => {}
                Some(cluster) = under_way.next() => self.queues().release(&cluster),
            }
        }
        while under_way.next().await.is_some() {}
        let rest = self.queues().drain();
        for delivery in rest {
            delivery.acknowledger.answer(&Verdict::Later(Duration::ZERO)).await;
        }
    }

    fn take(&self) -> Option<Group<Delivery>> {
        let group = self.queues().take();
        self.taken.notify_one();
        group
    }

    /// Stores and answers a group; returns its cluster.
    async fn store_group(&self, Group { cluster, messages }: Group<Delivery>) -> String {
        let sequence = messages.first().map(|first| first.sequence);
        let span = tracing::info_span!(
            "ingest",
            consumer = self.name,
            cluster.id = cluster,
            stream.sequence = sequence,
            messages = messages.len()
        );
        let answer = async {
            let verdicts = self.verdicts(&messages).await;
            for (delivery, verdict) in messages.iter().zip(&verdicts) {
                if let Verdict::Terminate(reason) = verdict {
                    tracing::error!(subject = delivery.subject, %reason, "terminated a message that can never be handled");
                }
                delivery.acknowledger.answer(verdict).await;
                durable::count(&self.ingest.metrics, self.name, verdict, delivery.stored_ms, delivery.pending);
            }
        };
        answer.instrument(span).await;
        cluster
    }

    /// What becomes of each message.
    async fn verdicts(&self, group: &[Delivery]) -> Vec<Verdict> {
        match durable::guarded(self.store_together(group)).await {
            Ok(results) => self.verdicts_of(group, results).await,
            Err(error) if group.len() == 1 => self.verdicts_of(group, vec![Err(error)]).await,
            // They keep their order, because all of them come again.
            Err(error) if error.is_transient() => {
                tracing::warn!(error = %telemetry::chain(&error), "could not store messages; they will be delivered again");
                vec![durable::AGAIN; group.len()]
            }
            Err(error) => {
                tracing::debug!(error = %telemetry::chain(&error), "could not store messages together; storing each by itself");
                self.one_by_one(group).await
            }
        }
    }

    async fn one_by_one(&self, group: &[Delivery]) -> Vec<Verdict> {
        let mut verdicts = Vec::with_capacity(group.len());
        for delivery in group.iter().map(slice::from_ref) {
            let results =
                durable::guarded(self.store_together(delivery)).await.unwrap_or_else(|error| vec![Err(error)]);
            let is_transient = results.iter().any(|result| matches!(result, Err(error) if error.is_transient()));
            verdicts.extend(self.verdicts_of(delivery, results).await);
            if is_transient {
                verdicts.resize(group.len(), durable::AGAIN);
                break;
            }
        }
        verdicts
    }

    async fn verdicts_of(&self, group: &[Delivery], results: Vec<Result<(), IngestError>>) -> Vec<Verdict> {
        let mut verdicts = Vec::with_capacity(group.len());
        for (delivery, result) in group.iter().zip(results) {
            verdicts.push(match result {
                Ok(()) => Verdict::Done,
                Err(error) => durable::verdict(&self.ingest.store, &delivery.subject, &delivery.payload, error).await,
            });
        }
        verdicts
    }

    /// The result of each message once those that can be read are committed together.
    async fn store_together(&self, group: &[Delivery]) -> Result<Vec<Result<(), IngestError>>, IngestError> {
        let mut readable = Vec::with_capacity(group.len());
        let mut results = Vec::with_capacity(group.len());
        for delivery in group {
            results.push(self.reports.read(delivery).map(|report| readable.push(report)));
        }
        if readable.is_empty() {
            return Ok(results);
        }
        let stored = self.reports.store(&readable).await?;
        for (result, stored) in results.iter_mut().filter(|result| result.is_ok()).zip(stored) {
            *result = stored.map_err(IngestError::Invalid);
        }
        Ok(results)
    }
}
