//! Orders come in: verified, allowed, fenced, stored in the cluster's API server, and only then acknowledged.
//!
//! An acknowledgement means: the inbox record is stored, or the verdict about the order is in the status stream. Nothing
//! is held back waiting for a webhook. Before this: `session`. After it: `controllers/dispatch`.

pub mod fence;
pub mod policy;
pub mod record;

use crate::{
    apiserver::{self, event},
    context::Context,
    metering::ReceiptDelivery,
    outbound::outcomes::{ended, wait_for_session},
    session::Session,
};
use fence::FenceKeeper;
use kube::Resource as _;
use kubenova_bus::consume::{self, Delivery, Verdict};
use kubenova_crds::cluster_config::{ClusterConfigSpec, NAME, NovaClusterConfig};
use kubenova_operator_core::{
    command::{self, Recipient, Unreadable, VerifiedCommand},
    inbox::Decision,
    outcome::State,
};
use kubenova_runtime::{clock, failpoint, shutdown::Shutdown, telemetry};
use kubenova_schema::{
    message,
    signature::{self, AcceptedKeys, PayloadType},
    streams, subjects,
    v1::{Command, Outcome, ReceiptList},
};
use record::Records;
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};

/// Pause before an order is delivered again that could not be stored now.
const AGAIN: Duration = Duration::from_secs(1);
/// Pause before a receipt is delivered again that metering had no room for.
const RECEIPT_AGAIN: Duration = Duration::from_secs(5);
/// A late delete may be sent again at once: it is signed again.
const LATE_RETRY_SECONDS: u32 = 1;

/// Pulls orders while a session is open, until the process stops.
pub async fn run(ctx: Context, receipts: mpsc::Sender<ReceiptDelivery>) {
    let records = Records::new(&ctx);
    let Some(fence) = FenceKeeper::load(&ctx, &records).await else { return };
    let inbox = Arc::new(Inbox { keys: ctx.identity.command_keys(), records, fence, receipts, ctx: ctx.clone() });
    let tidying = Arc::clone(&inbox);
    ctx.shutdown.spawn("inbox tidying", async move {
        record::prune(&tidying.ctx, &tidying.records, &tidying.fence).await;
    });
    let mut session = ctx.session.clone();
    loop {
        let Some(open) = wait_for_session(&ctx, &mut session).await else { return };
        tokio::select! {
            () = ctx.shutdown.requested() => return,
            () = pull(&inbox, &open) => {}
            () = ended(&mut session, &open) => {}
        }
    }
}

/// Pulls from the session's durable. Dropped when the session ends: an order in the middle of being stored is delivered
/// again, and the fence knows it then.
async fn pull(inbox: &Inbox, session: &Session) {
    let Some(connection) = inbox.ctx.bus.borrow().clone() else { return };
    let handle = |delivery: Delivery| inbox.handle(delivery);
    let missing = || async { inbox.ctx.hello_again.notify_one() };
    let stop = Shutdown::new();
    consume::run(&connection.jetstream, streams::COMMANDS.name, &session.durable, &stop, handle, missing).await;
}

struct Inbox {
    ctx: Context,
    keys: AcceptedKeys,
    records: Records,
    fence: FenceKeeper,
    receipts: mpsc::Sender<ReceiptDelivery>,
}

/// Why an order waits to be delivered again.
#[derive(Debug, thiserror::Error)]
enum NotNow {
    #[error("could not use the inbox")]
    Apiserver(#[from] apiserver::Error),
    #[error("could not publish a verdict")]
    Publish(#[from] crate::outbound::outcomes::PublishError),
    #[error("another writer keeps changing the record")]
    Contended,
}

impl Inbox {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        if delivery.subject == subjects::receipt(self.ctx.identity.cluster_id()) {
            return self.receipt(delivery).await;
        }
        let command = match command::verify(&delivery.payload, delivery.header(signature::HEADER), &self.keys) {
            Ok(command) => command,
            Err(error) => return self.unverified(&error).await,
        };
        failpoint::passing("inbound.verified");
        let id = command.id.clone();
        match self.order(command, &delivery).await {
            Ok(()) => Verdict::Done,
            Err(error) => {
                tracing::warn!(command.id = id, error = %telemetry::chain(&error), "could not take an order in; it will be delivered again");
                Verdict::Later(AGAIN)
            }
        }
    }

    /// What cannot be verified has no author to answer. It is ended, and people are told.
    async fn unverified(&self, error: &Unreadable) -> Verdict {
        let reason = telemetry::chain(error);
        let about = NovaClusterConfig::new(NAME, ClusterConfigSpec::default()).object_ref(&());
        let message =
            format!("an order was dropped unread: {reason}; if this goes on, somebody else writes to the broker");
        event::publish(&self.ctx.apiserver, event::Kind::Warning, "OrderUnverified", &message, about).await;
        Verdict::Poison(reason)
    }

    async fn receipt(&self, delivery: Delivery) -> Verdict {
        if let Err(error) =
            self.keys.verify(PayloadType::Receipt, &delivery.payload, delivery.header(signature::HEADER))
        {
            return Verdict::Poison(telemetry::chain(&error));
        }
        let list: ReceiptList = match message::from_json(&delivery.payload) {
            Ok(list) => list,
            Err(error) => return Verdict::Poison(telemetry::chain(&error)),
        };
        if list.cluster_id != self.ctx.identity.cluster_id() || list.cluster_uid != self.ctx.identity.cluster_uid() {
            return Verdict::Poison("a receipt names another cluster".to_owned());
        }
        let (marked, is_marked) = oneshot::channel();
        if self.receipts.try_send(ReceiptDelivery { list, marked }).is_err() {
            return Verdict::Later(RECEIPT_AGAIN);
        }
        // Answered once metering has marked the reports; what is held up here is only this one message.
        let acknowledger = delivery.acknowledger;
        tokio::spawn(async move {
            let verdict = if is_marked.await.is_ok() { Verdict::Done } else { Verdict::Later(RECEIPT_AGAIN) };
            acknowledger.answer(&verdict).await;
        });
        Verdict::Held
    }

    async fn order(&self, command: Command, delivery: &Delivery) -> Result<(), NotNow> {
        let recipient =
            Recipient { cluster_id: self.ctx.identity.cluster_id(), cluster_uid: self.ctx.identity.cluster_uid() };
        let order = match command::accept(command, recipient) {
            Ok(order) => order,
            Err(rejected) => {
                let state = if rejected.unsupported { State::Unsupported } else { State::Refused };
                return self.answer(&rejected.command, state, rejected.reason, &rejected.message, 0).await;
            }
        };
        // Only the lease holder writes records, so a conflict is rare: a status write of ours in between.
        for _ in 0..5 {
            let held = self.records.get(&order.key).await?;
            match self.fence.decide(held.as_ref(), &order) {
                Decision::Replay => {
                    if let Some(held) = &held {
                        self.ctx.outcomes.tell(held);
                    }
                    return Ok(());
                }
                Decision::Divergence => return self.diverged(&order).await,
                Decision::Superseded(stale) => {
                    return self.answer(&order.command, State::Superseded, stale.reason(), stale.message(), 0).await;
                }
                Decision::Store => {}
            }
            if let Err(objection) = policy::judge(&self.ctx, &self.records, &order).await? {
                let (state, retry) = match objection.retry_after_seconds {
                    Some(seconds) => (State::Deferred, seconds),
                    None => (State::Refused, 0),
                };
                return self.answer(&order.command, state, objection.reason, &objection.message, retry).await;
            }
            if self.is_late(&order.command) {
                let message = "the order arrived after its time; send it again";
                return self.answer(&order.command, State::Deferred, "Late", message, LATE_RETRY_SECONDS).await;
            }
            self.fence.raise_epoch(&self.ctx, &order).await?;
            match self.records.store(held, &order, delivery).await {
                Ok(record) => {
                    failpoint::passing("inbound.stored");
                    self.fence.raise_floor(&order);
                    tracing::info!(
                        command.id = order.command.id,
                        revision = order.command.revision,
                        key = order.command.key,
                        kind = order.command.kind,
                        "stored an order"
                    );
                    self.ctx.outcomes.tell(&record);
                    return Ok(());
                }
                Err(error) if error.is_conflict() => {}
                Err(error) if error.is_invalid() => {
                    let message = format!("the cluster's API server does not take the order: {}", error.reason());
                    return self.answer(&order.command, State::Refused, "RecordRejected", &message, 0).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(NotNow::Contended)
    }

    /// Judged once, before storing, by the Manager's clock as well as we know it.
    fn is_late(&self, command: &Command) -> bool {
        let Ok(not_after) = command.not_after.parse::<jiff::Timestamp>() else { return false };
        let now = self.ctx.session.borrow().as_ref().map_or_else(clock::now, Session::manager_now);
        now > not_after
    }

    async fn diverged(&self, order: &VerifiedCommand) -> Result<(), NotNow> {
        let message = "the cluster holds another order of the same revision; the Manager's database was restored or copied: run kubenova-manager recover";
        tracing::error!(
            command.id = order.command.id,
            revision = order.command.revision,
            key = order.command.key,
            "an order of a known revision says something else"
        );
        let about = NovaClusterConfig::new(NAME, ClusterConfigSpec::default()).object_ref(&());
        event::publish(&self.ctx.apiserver, event::Kind::Warning, "Divergence", message, about).await;
        self.answer(&order.command, State::Refused, "Divergence", message, 0).await
    }

    /// Publishes a verdict about an order that is not stored. Done only when the stream has it.
    async fn answer(
        &self,
        command: &Command,
        state: State,
        reason: &str,
        text: &str,
        retry_after_seconds: u32,
    ) -> Result<(), NotNow> {
        tracing::info!(command.id = command.id, state = state.as_str(), reason, "answered an order without storing it");
        let outcome = Outcome {
            command_id: command.id.clone(),
            cluster_id: self.ctx.identity.cluster_id().to_owned(),
            epoch: command.epoch,
            revision: command.revision,
            key: command.key.clone(),
            kind: command.kind.clone(),
            state: state.as_str().to_owned(),
            reason: reason.to_owned(),
            message: text.to_owned(),
            at: clock::rfc3339_ms(clock::now()),
            hops: Vec::new(),
            retry_after_seconds,
        };
        failpoint::passing("inbound.answer");
        Ok(self.ctx.outcomes.publish(&outcome).await?)
    }
}
