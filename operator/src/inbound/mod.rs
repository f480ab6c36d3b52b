//! Commands come in: verified, allowed, fenced, stored in the cluster's API server, and only then acknowledged.
//!
//! An acknowledgement means: the inbox record is stored, or the verdict about the command is in the status stream.
//! No message is held unacknowledged while a webhook is waited for. Before this: `session`. After it:
//! `controllers/dispatch`.

mod answer;
pub mod fence;
pub mod highest;
mod inbox;
pub mod just_stored;
mod late;
mod object_locks;
pub mod policy;
mod prune;
mod receipt;
pub mod record;
mod trouble;

use crate::{
    context::{BrokerContext, ClusterContext},
    metering::receipt::ReceiptDelivery,
    session::state::{Session, session_ended, wait_for_session},
};
use fence::FenceSource;
use futures::{StreamExt as _, stream};
use inbox::Inbox;
use kubenova_bus::consume::{self, Delivery, Verdict};
use kubenova_runtime::{retry::Retry, shutdown::Shutdown};
use kubenova_schema::{streams, subjects};
use object_locks::COMMANDS_AT_ONCE;
use receipt::Receipts;
use record::Records;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Pulls commands while a session is open, until the process stops.
pub async fn run(
    cluster: ClusterContext,
    broker: BrokerContext,
    fence: FenceSource,
    receipts: mpsc::Sender<ReceiptDelivery>,
) {
    let records = Records::new(&cluster);
    let shutdown = cluster.shutdown.clone();
    let Some(fence) = Retry::new("read the fence").until_ok(&shutdown, || fence.keeper()).await else { return };
    shutdown.spawn(
        "inbox pruning",
        prune::run(cluster.inbox.clone(), records.clone(), Arc::clone(&fence), shutdown.clone()),
    );
    let receipts = Receipts::new(broker.identity.clone(), receipts);
    let mut session = broker.session.clone();
    let inbox = Inbox::new(cluster, broker, records, fence);
    loop {
        let Some(open) = wait_for_session(&mut session, &shutdown).await else { return };
        tokio::select! {
            () = shutdown.requested() => return,
            () = pull(&inbox, &receipts, &open) => {}
            () = session_ended(&mut session, &open) => {}
        }
    }
}

/// Pulls from the session's durable consumer. Dropped when the session ends: a command that was being stored is
/// delivered again, and the fence recognizes it then.
async fn pull(inbox: &Inbox, receipts: &Receipts, session: &Session) {
    let broker = inbox.broker();
    let Some(connection) = broker.connection() else { return };
    let (sender, commands) = mpsc::channel(COMMANDS_AT_ONCE);
    let router = Router { commands: sender, receipts, receipt_subject: subjects::receipt(broker.cluster_id()) };
    let handle = |delivery: Delivery| router.take(delivery);
    let missing = || async { broker.rehello.notify_one() };
    let stop = Shutdown::new();
    tokio::select! {
        () = consume::run(&connection.jetstream, streams::COMMANDS.name, &session.durable, &stop, handle, missing) => {}
        () = store(inbox, commands) => {}
    }
}

/// Handles commands beside each other, and answers for each.
async fn store(inbox: &Inbox, commands: mpsc::Receiver<Delivery>) {
    let commands = stream::unfold(commands, async |mut commands| Some((commands.recv().await?, commands)));
    let handle = async |delivery: Delivery| {
        let acknowledger = delivery.acknowledger.clone();
        let verdict = inbox.take(delivery).await;
        if let Verdict::Terminate(reason) = &verdict {
            tracing::error!(%reason, "terminated a message that can never be handled");
        }
        acknowledger.answer(&verdict).await;
    };
    commands.for_each_concurrent(COMMANDS_AT_ONCE, handle).await;
}

/// Commands and receipts arrive through the same durable consumer.
struct Router<'a> {
    commands: mpsc::Sender<Delivery>,
    receipts: &'a Receipts,
    receipt_subject: String,
}

impl Router<'_> {
    async fn take(&self, delivery: Delivery) -> Verdict {
        if delivery.subject == self.receipt_subject {
            self.receipts.take(delivery)
        } else {
            // Waits while as many are handled as may be at once; the receiver lives as long as the pull.
            let _receiver_is_ours = self.commands.send(delivery).await.is_ok();
            Verdict::Held
        }
    }
}
