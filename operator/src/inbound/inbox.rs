//! One command, from delivery to verdict.

use super::{
    answer::{Answer, NotNow, STORE_ATTEMPTS, STORE_MAX},
    fence::FenceKeeper,
    late::{Late, LateCommands},
    object_locks::ObjectLocks,
    policy,
    record::{Records, Version},
    trouble::{self, Refusal, Remedy},
};
use crate::{
    apiserver::event,
    context::{BrokerContext, ClusterContext},
    outbound::outcomes,
    trace,
};
use jiff::Timestamp;
use kubenova_bus::consume::{Delivery, Verdict};
use kubenova_crds::command::NovaCommand;
use kubenova_operator_core::{
    command::{self, Recipient, Rejected, Unreadable, VerifiedCommand, record_name},
    digest::RecordDigest,
    inbox::{Decision, Stale},
    outcome,
};
use kubenova_runtime::{
    clock, failpoint,
    telemetry::{self, trace_context},
};
use kubenova_schema::{
    kinds::CommandKind,
    signature,
    v1::{Command, Outcome},
};
use std::{sync::Arc, time::Duration};
use tracing::{Instrument as _, Span, field};

/// Name of the lock of all deletes: each is counted against the policy before the next.
const DELETES: &str = "deletes";
/// The broker did not take a verdict; it comes back within seconds.
const UNANSWERED_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Inbox {
    cluster: ClusterContext,
    broker: BrokerContext,
    records: Records,
    fence: Arc<FenceKeeper>,
    locks: ObjectLocks,
    late: LateCommands,
}

/// The record of a command's object, as kept in memory or as read; none when there is none.
struct Seen {
    digest: Option<RecordDigest>,
    /// Only when it was read.
    record: Option<NovaCommand>,
    is_read: bool,
}

impl Seen {
    /// The record is of a cancellation, so that the operation with its key will not be carried out.
    fn is_cancellation(&self) -> bool {
        self.digest.as_ref().is_some_and(|digest| digest.kind == Some(CommandKind::CancelOperation))
    }

    /// The record of an operation that can no longer be cancelled.
    fn begun(&self) -> Option<&NovaCommand> {
        let record = self.record.as_ref().filter(|_| !self.is_cancellation())?;
        outcome::has_started(&record.spec, record.status.as_ref()).then_some(record)
    }
}

impl Inbox {
    pub(super) fn new(
        cluster: ClusterContext,
        broker: BrokerContext,
        records: Records,
        fence: Arc<FenceKeeper>,
    ) -> Self {
        let (locks, late) = (ObjectLocks::default(), LateCommands::default());
        Self { cluster, broker, records, fence, locks, late }
    }

    pub(super) const fn broker(&self) -> &BrokerContext {
        &self.broker
    }

    pub(super) async fn take(&self, delivery: Delivery) -> Verdict {
        let parent = trace::of_delivery(&delivery);
        let span = tracing::info_span!(
            "command",
            otel.kind = "consumer",
            trace.id = parent.map(|parent| parent.trace_id()),
            command.id = field::Empty,
            key = field::Empty
        );
        if let Some(parent) = parent {
            trace_context::follow(&span, &parent.to_string());
        }
        self.decide(delivery).instrument(span).await
    }

    async fn decide(&self, delivery: Delivery) -> Verdict {
        let identity = self.broker.identity.get();
        let keys = identity.command_keys();
        let command = match command::verify(&delivery.payload, delivery.header(signature::HEADER), &keys) {
            Ok(command) => command,
            Err(error) => return self.unverified(&error, &delivery).await,
        };
        failpoint::passing("inbound.verified");
        Span::current().record("command.id", &command.id).record("key", &command.key);
        let recipient = Recipient { cluster_id: identity.cluster_id(), cluster_uid: identity.cluster_uid() };
        let (command, handled) = match command::accept(command, recipient) {
            Ok(verified) => {
                let handled = self.handle(&verified, &delivery).await;
                (verified.command, handled)
            }
            Err(Rejected { command, unsupported, reason, message }) => {
                let handled = self.answer(&command, Answer::rejected(unsupported, reason, message)).await;
                (*command, handled)
            }
        };
        match handled {
            Ok(()) => Verdict::Done,
            Err(error) => self.not_now(&command, &error, delivery.delivered).await,
        }
    }

    /// Nothing was decided about a command: it is delivered again, or put off with a verdict.
    async fn not_now(&self, command: &Command, error: &NotNow, delivered: i64) -> Verdict {
        let after = match trouble::remedy(error, delivered) {
            Remedy::Again(after) => after,
            Remedy::Answer(answer) => match self.answer(command, answer).await {
                Ok(()) => return Verdict::Done,
                Err(_) => UNANSWERED_AFTER,
            },
        };
        tracing::warn!(error = %telemetry::chain(error), "could not store a command; it will be delivered again");
        self.cluster.metrics.command("redelivered");
        Verdict::Later(after)
    }

    /// A message that is no command of a known author is ended, with an event, and with a word at the command that its header names.
    async fn unverified(&self, error: &Unreadable, delivery: &Delivery) -> Verdict {
        let cause = telemetry::chain(error);
        let Refusal { reason, message, retry_after_seconds } = trouble::unreadable(error, &cause);
        self.cluster.metrics.command("unverified");
        self.event(reason, &message).await;
        let id = delivery.header(signature::COMMAND_ID_HEADER).unwrap_or_default();
        let at = clock::rfc3339_ms(clock::now());
        if let Some(outcome) = outcome::of_header(self.broker.cluster_id(), id, reason, message, at) {
            let outcome = Outcome { retry_after_seconds, ..outcome };
            if outcomes::publish(&self.broker, &outcome).await.is_err() {
                return Verdict::Later(UNANSWERED_AFTER);
            }
        }
        Verdict::Terminate(cause)
    }

    async fn handle(&self, verified: &VerifiedCommand, delivery: &Delivery) -> Result<(), NotNow> {
        let _object = self.locks.lock(&record_name(&verified.key)).await;
        let _deletes = if verified.kind.is_delete() { Some(self.locks.lock(DELETES).await) } else { None };
        self.decide_and_store(verified, delivery).await
    }

    async fn decide_and_store(&self, verified: &VerifiedCommand, delivery: &Delivery) -> Result<(), NotNow> {
        let known = self.cluster.inbox.get(&record_name(&verified.key));
        // What is kept of a record may be of an older version. So it only saves reading the record when the command is to be
        // stored, which the API server does at that very version or not at all; all else is decided from the record itself.
        let mut seen = Seen { digest: known.map(|known| (*known).clone()), record: None, is_read: false };
        for _ in 0..STORE_ATTEMPTS {
            let held = seen.digest.as_ref().map(RecordDigest::held);
            match self.fence.decide(held.as_ref(), verified) {
                Decision::Store => {}
                _ if !seen.is_read => {
                    seen = self.read(verified).await?;
                    continue;
                }
                Decision::Replay => {
                    if let Some(held) = &seen.record {
                        self.cluster.outcomes.push(held);
                    }
                    self.cluster.metrics.command("replayed");
                    return Ok(());
                }
                Decision::Divergence => return self.diverged(&verified.command).await,
                Decision::Superseded(Stale::Revision) if seen.is_cancellation() => {
                    return self.answer(&verified.command, Answer::cancelled()).await;
                }
                Decision::Superseded(stale) => return self.answer(&verified.command, Answer::stale(stale)).await,
            }
            if verified.kind == CommandKind::CancelOperation {
                if !seen.is_read {
                    seen = self.read(verified).await?;
                    continue;
                }
                if let Some(begun) = seen.begun() {
                    self.cluster.outcomes.push(begun);
                    return self.answer(&verified.command, Answer::begun()).await;
                }
            }
            let denied = policy::check(&self.cluster, verified).await?.err().map(Answer::denial);
            let passed = self.passed_deadline(verified);
            if !seen.is_read && (denied.is_some() || passed.is_some()) {
                // Another Operator may have stored it, in time.
                seen = self.read(verified).await?;
                continue;
            }
            if let Some(answer) = denied.or_else(|| passed.map(|passed| self.late(verified, passed))) {
                return self.answer(&verified.command, answer).await;
            }
            self.fence.raise_epoch(verified.command.epoch).await?;
            let over = seen.digest.as_ref().map(Version::of);
            let store = self.records.store(over.as_ref(), verified, delivery);
            match tokio::time::timeout(STORE_MAX, store).await.map_err(|_| NotNow::Slow)? {
                Ok(record) => {
                    self.stored(verified, &record);
                    return Ok(());
                }
                Err(error) if error.is_conflict() => seen = self.read(verified).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(NotNow::Contended)
    }

    /// The record as it is.
    async fn read(&self, verified: &VerifiedCommand) -> Result<Seen, NotNow> {
        let record = self.records.get(&verified.key).await?;
        Ok(Seen { digest: record.as_ref().map(RecordDigest::of), record, is_read: true })
    }

    fn stored(&self, verified: &VerifiedCommand, record: &NovaCommand) {
        failpoint::passing("inbound.stored");
        self.late.forget(&verified.command.id);
        self.fence.raise_floor(verified);
        let digest = RecordDigest::of(record);
        self.cluster.highest.raise([&digest]);
        self.cluster.just_stored.put(record.clone());
        // Also makes dispatch begin, before the watch shows the record.
        self.cluster.inbox.wrote(record, digest);
        let command = &verified.command;
        tracing::info!(revision = command.revision, kind = command.kind, "stored a command");
        self.cluster.metrics.command("stored");
        self.cluster.outcomes.push(record);
    }

    /// The deadline of a command, and the time, if it has passed. Decided once, before storing, by the Manager's clock.
    fn passed_deadline(&self, verified: &VerifiedCommand) -> Option<(Timestamp, Timestamp)> {
        let deadline = verified.command.not_after.parse::<Timestamp>().ok()?;
        let now = self.cluster.manager_clock.now_or_local();
        (now > deadline).then_some((deadline, now))
    }

    /// The answer to a command whose deadline has passed. Counts each of them.
    fn late(&self, verified: &VerifiedCommand, (deadline, now): (Timestamp, Timestamp)) -> Answer {
        if verified.kind.is_operation() {
            return Answer::expired(deadline, now);
        }
        let Late { retry_after_seconds, is_repeated } = self.late.again(&verified.command.id);
        if is_repeated {
            self.cluster.manager_clock.doubt();
        }
        Answer::late(deadline, now, retry_after_seconds)
    }

    async fn diverged(&self, command: &Command) -> Result<(), NotNow> {
        tracing::error!(
            revision = command.revision,
            "refused a command: the cluster holds another command of the same revision"
        );
        let answer = Answer::diverged();
        self.event(answer.reason, &answer.message).await;
        self.answer(command, answer).await
    }

    /// Publishes a verdict about a command that is not stored. Done only when the stream has it.
    async fn answer(&self, command: &Command, answer: Answer) -> Result<(), NotNow> {
        let Answer { state, reason, message, retry_after_seconds } = answer;
        tracing::info!(state = state.as_str(), reason, "answered a command without storing it");
        let at = clock::rfc3339_ms(clock::now());
        let verdict = outcome::of_command(self.broker.cluster_id(), command, state, reason, message, at);
        let outcome = Outcome { retry_after_seconds, ..verdict };
        failpoint::passing("inbound.answer");
        outcomes::publish(&self.broker, &outcome).await?;
        self.cluster.metrics.command(state.as_str());
        Ok(())
    }

    async fn event(&self, reason: &str, message: &str) {
        event::publish_about_cluster(&self.cluster.apiserver, event::Kind::Warning, reason, message).await;
    }
}
