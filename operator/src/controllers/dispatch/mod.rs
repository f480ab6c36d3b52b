//! From inbox records to objects: a command's document becomes the object it describes, and the progress becomes the
//! record's status and an outcome.
//!
//! A document stays desired after its outcome: drift of what it wrote is repaired for as long as the record stands, while
//! the first terminal state stays. Before this: `inbound`. After it: the controllers of the kinds, and `outbound`.

mod application;
mod config;
mod error;
mod operation;
mod tenant;
mod triggers;

use super::{
    apply::DriftGuard,
    work::{self, Next},
};
use crate::{
    apiserver::{self, event, kinds, status, verbs, watch},
    context::ClusterContext,
    inbound::fence::FenceSource,
    trace,
};
use futures::{StreamExt as _, future, stream};
use jiff::SignedDuration;
use kube::{Api, Resource, ResourceExt as _};
use kubenova_crds::{cluster_config, command::NovaCommand, labels};
use kubenova_operator_core::{
    command::{self, VerifiedCommand},
    components::standing::StandingComponents,
    deadline::Deadline,
    digest::RecordDigest,
    inbox, observed,
    outcome::{self, CommandProgress, Remembered, State},
    record::Unverified,
};
use kubenova_runtime::{clock, failpoint};
use kubenova_schema::{
    kinds::{CommandKind, ObjectKey},
    trace::TraceParent,
    v1::Command,
};
use std::{collections::BTreeMap, sync::OnceLock, time::Duration};
use tracing::Span;

/// Time to the next reconcile of a settled command. Drift is repaired as soon as a watch shows it, and a watch that lost events
/// lists again, so this only bounds what a fault could hide; six thousand applications cost three reconciles a second.
const SETTLED: Duration = Duration::from_secs(1_800);
/// Attempts against controllers that write the same object's status meanwhile.
const CONFLICTS_MAX: u32 = 8;

/// Runs until the process stops.
pub async fn run(ctx: ClusterContext, fence: FenceSource) {
    let client = ctx.apiserver.client();
    let namespace = &ctx.settings.state_namespace;
    let records =
        ctx.inbox.changes().map(|changes| changes.iter().flat_map(|it| triggers::of_record(&ctx.inbox, it)).collect());
    let configs = ctx.configs.changes().map(|changes| triggers::of_config(&ctx.inbox, &changes));
    let tenants = ctx
        .tenants
        .changes()
        .map(|changes| changes.iter().flat_map(|it| triggers::of_tenant(&ctx.inbox, it)).collect());
    let applications = watch::dynamic(kinds::applications(&client), labels::TENANT_ID).map(|application| {
        let tenant_id = application.labels().get(labels::TENANT_ID).cloned().unwrap_or_default();
        triggers::of_application(&ctx.inbox, tenant_id, application.name_any())
    });
    let triggers = stream::select(stream::select(records, configs), stream::select(tenants, applications));
    let dispatcher =
        Dispatcher { ctx: &ctx, fence, records: Api::namespaced(client, namespace), drift: DriftGuard::default() };
    tokio::select! {
        () = ctx.shutdown.requested() => return,
        // An application would wait for a tenant, or for a component, that only was not listed yet.
        ((), ()) = future::join(ctx.tenants.complete(), ctx.configs.complete()) => {}
    }
    ctx.gates.set("dispatch", None);
    work::run("dispatch", triggers, &ctx.metrics, &ctx.shutdown, |name| dispatcher.reconcile(name)).await;
}

struct Dispatcher<'a> {
    ctx: &'a ClusterContext,
    fence: FenceSource,
    records: Api<NovaCommand>,
    drift: DriftGuard,
}

/// A command as it is carried out.
struct Task<'a> {
    key: &'a ObjectKey,
    command: &'a Command,
    /// As it was read.
    record: &'a NovaCommand,
    /// As it was written while the command was carried out.
    rewritten: OnceLock<NovaCommand>,
    /// Its trace.
    traceparent: Option<TraceParent>,
    /// When to reconcile a settled command again, if sooner than usual.
    look_again: OnceLock<Duration>,
}

/// What an attempt to carry out a command came to.
struct Attempt {
    progress: CommandProgress,
    /// When to reconcile a settled command again, if sooner than usual.
    look_again: Option<Duration>,
    /// The document is not in place, and the same attempt may succeed later: no watch shows when.
    is_due: bool,
    /// The API server asks to wait so long.
    not_before: Duration,
    /// The record, if it was written meanwhile.
    rewritten: Option<NovaCommand>,
}

impl Attempt {
    fn next(&self) -> Next {
        let Self { progress, look_again, is_due, not_before, .. } = self;
        if *is_due || progress.state == State::Running {
            let waiting_for = format!("{}: {}", progress.reason, progress.message);
            return Next::Retry { waiting_for, not_before: *not_before };
        }
        Next::After(look_again.unwrap_or(SETTLED).min(SETTLED))
    }
}

impl From<CommandProgress> for Attempt {
    fn from(progress: CommandProgress) -> Self {
        Self { progress, look_again: None, is_due: false, not_before: Duration::ZERO, rewritten: None }
    }
}

impl Dispatcher<'_> {
    async fn reconcile(&self, name: String) -> Next {
        let record = match self.record(&name).await {
            Ok(Some(record)) => record,
            Ok(None) => return Next::OnChange,
            Err(error) => {
                let cause = apiserver::error::chain(&error);
                tracing::debug!(record = name, error = cause, "could not read an inbox record; trying again");
                return Next::failed(cause, &error);
            }
        };
        name_command(&record);
        // Records are verified before they are stored; who else may write NovaCommands commands nothing all the same.
        let verified = match self.ctx.verifier.get().verify(&record) {
            Ok(verified) => verified,
            Err(unverified) => return self.leave(record, &unverified).await,
        };
        if verified.kind.is_operation() {
            return self.operate(&verified, record).await;
        }
        let attempt = self.attempt(&verified, &record).await;
        let next = attempt.next();
        let progress = self.deadline(&record, verified.kind).apply(attempt.progress, clock::now());
        self.settle(attempt.rewritten.unwrap_or(record), &progress, next).await
    }

    /// The record: as it was just stored, unless it was written again since, or as the API server has it.
    async fn record(&self, name: &str) -> Result<Option<NovaCommand>, apiserver::Error> {
        let known = self.ctx.inbox.get(name).map(|digest| digest.resource_version.clone());
        match self.ctx.just_stored.take(name).filter(|stored| stored.resource_version() == known) {
            Some(record) => Ok(Some(record)),
            None => verbs::get(&self.records, name).await,
        }
    }

    /// Writes the progress; what to do next.
    async fn settle(&self, record: NovaCommand, progress: &CommandProgress, next: Next) -> Next {
        let name = record.name_any();
        match self.write_status(record, progress).await {
            Ok(()) => next,
            Err(error) => {
                let cause = apiserver::error::chain(&error);
                tracing::warn!(record = name, error = cause, "could not write a command's progress; trying again");
                Next::failed(cause, &error)
            }
        }
    }

    /// Carries out nothing of a record that the Manager did not sign as it stands, and says so. Deleting it, or the next command about
    /// its object, ends this.
    async fn leave(&self, record: NovaCommand, unverified: &Unverified) -> Next {
        let progress = unverified.progress();
        let CommandProgress { reason, message, .. } = &progress;
        tracing::error!(record = record.name_any(), reason, message, "an inbox record is not carried out");
        event::publish(&self.ctx.apiserver, event::Kind::Warning, reason, message, record.object_ref(&())).await;
        self.settle(record, &progress, Next::OnChange).await
    }

    /// How far a document's command is.
    async fn attempt(&self, verified: &VerifiedCommand, record: &NovaCommand) -> Attempt {
        let VerifiedCommand { command, kind, key, .. } = verified;
        let task = Task {
            key,
            command,
            record,
            rewritten: OnceLock::new(),
            traceparent: trace::of_object(record),
            look_again: OnceLock::new(),
        };
        let progress = match kind {
            CommandKind::ApplyClusterConfig => self.apply_config(&task).await,
            CommandKind::ApplyTenant => self.apply_tenant(&task).await,
            CommandKind::DeleteTenant => self.delete_tenant(&task).await,
            CommandKind::ApplyApplication => self.apply_application(&task).await,
            CommandKind::DeleteApplication => self.delete_application(&task).await,
            CommandKind::RestartWorkflow
            | CommandKind::SuspendWorkflow
            | CommandKind::ResumeWorkflow
            | CommandKind::TerminateWorkflow
            | CommandKind::CancelOperation => {
                return Attempt::from(CommandProgress::failed("BadCommand", "an operation is no document"));
            }
        };
        let (look_again, rewritten) = (task.look_again.get().copied(), task.rewritten.into_inner());
        match progress {
            Ok(progress) => Attempt { look_again, rewritten, ..Attempt::from(progress) },
            Err(error) => Attempt {
                progress: error.progress(),
                look_again,
                is_due: error.may_pass(),
                not_before: error.retry_after(),
                rewritten,
            },
        }
    }

    /// Until when a command must have succeeded; it is carried out afterwards all the same.
    fn deadline(&self, record: &NovaCommand, kind: CommandKind) -> Deadline {
        Deadline {
            limit: SignedDuration::from_secs(i64::from(self.ctx.settings.progress_deadline_seconds)),
            counts_from: outcome::deadline_from(&record.spec, record.status.as_ref()),
            possible_since: self.standing().since(kind),
        }
    }

    /// The components that stand, as the watch has shown it.
    fn standing(&self) -> StandingComponents {
        self.ctx.configs.get(cluster_config::NAME).map(|standing| *standing).unwrap_or_default()
    }

    /// Status first, outcome second.
    async fn write_status(&self, seen: NovaCommand, progress: &CommandProgress) -> Result<(), apiserver::Error> {
        let command_id = seen.spec.command_id.clone();
        let mut changed = false;
        let written = status::update_from(&self.records, seen, |record| {
            changed = false;
            if record.spec.command_id != command_id {
                return false;
            }
            let at = clock::rfc3339_ms(clock::now());
            if let Some(next) = outcome::advance(&record.spec, record.status.as_ref(), progress, &at) {
                record.status = Some(next);
                changed = true;
            }
            changed
        })
        .await?;
        if let Some(record) = written.filter(|_| changed) {
            failpoint::passing("dispatch.noted");
            if progress.state != State::Running {
                tracing::info!(
                    key = record.spec.key,
                    state = progress.state.as_str(),
                    reason = progress.reason,
                    "a command reached its final state"
                );
            }
            self.ctx.outcomes.push(&record);
            triggers::keep(&self.ctx.inbox, &record);
        }
        Ok(())
    }

    /// Writes what a deleted object had made into the record, before it is deleted. False when the record holds another command.
    async fn remember(
        &self,
        task: &Task<'_>,
        progress: &CommandProgress,
        made: &str,
    ) -> Result<bool, apiserver::Error> {
        let mut is_own = false;
        let before = outcome::found(&task.record.spec, task.record.status.as_ref());
        let written = status::update_from(&self.records, task.record.clone(), |present| {
            is_own = present.spec.command_id == task.command.id;
            let at = clock::rfc3339_ms(clock::now());
            let remembered = Remembered { before, made };
            let next = outcome::remember(&present.spec, present.status.as_ref(), progress, remembered, &at);
            let Some(next) = next.filter(|_| is_own) else { return false };
            present.status = Some(next);
            true
        })
        .await?;
        if let Some(written) = written.filter(|_| is_own) {
            self.ctx.inbox.reader_wrote(&written, RecordDigest::of(&written));
            let _set = task.rewritten.set(written);
        }
        Ok(is_own)
    }

    /// Asked before a live object is written or deleted: whether the record holds another command by now, which another Operator has
    /// stored and carried out since this one read it. What follows is done at exactly the version that was looked at.
    async fn is_replaced<K: Resource>(&self, task: &Task<'_>, live: &K) -> Result<bool, apiserver::Error> {
        let is_later = inbox::is_written_later(observed::revision_of(live), task.command.revision);
        Ok(is_later && !self.is_recorded(task).await?)
    }

    /// The record still holds this command.
    async fn is_recorded(&self, task: &Task<'_>) -> Result<bool, apiserver::Error> {
        let record = verbs::get(&self.records, &command::record_name(task.key)).await?;
        Ok(record.is_some_and(|record| record.spec.command_id == task.command.id))
    }

    /// Asked after a create: an object that was created for a command which a delete has replaced meanwhile is deleted again.
    async fn is_deleted_meanwhile(&self, task: &Task<'_>) -> Result<bool, apiserver::Error> {
        let record = verbs::get(&self.records, &command::record_name(task.key)).await?;
        Ok(asks_for_nothing(record.as_ref()))
    }
}

/// What became of a command that is not the record's any more: nothing, and nothing is reported.
fn replaced() -> CommandProgress {
    CommandProgress::running("Replaced", "another command has taken this one's place in the inbox")
}

/// No record, or one of a delete. A later document is applied to the object as it is: to delete it first would take with it what it
/// has created.
fn asks_for_nothing(record: Option<&NovaCommand>) -> bool {
    record.is_none_or(|record| CommandKind::parse(&record.spec.kind).is_some_and(CommandKind::is_delete))
}

/// Which command wrote an object, and in which trace.
fn annotations(task: &Task<'_>) -> BTreeMap<String, String> {
    let command = task.command;
    let mut annotations = BTreeMap::from([
        (labels::REVISION.to_owned(), command.revision.to_string()),
        (labels::COMMAND_ID.to_owned(), command.id.clone()),
    ]);
    trace::annotate(&mut annotations, task.traceparent.map(|parent| parent.to_string()));
    annotations
}

/// Names the record's command in the span of the reconcile. Its trace holds the reconciles up to its outcome; later ones
/// repair drift, for as long as the record stands.
fn name_command(record: &NovaCommand) {
    Span::current().record("command.id", &record.spec.command_id);
    trace::name_in_span(record);
    if !outcome::has_ended(&record.spec, record.status.as_ref()) {
        trace::follow_in_span(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_crds::command::CommandSpec;

    #[test]
    fn only_a_delete_takes_back_what_was_created_meanwhile() {
        let of = |kind: &str| NovaCommand::new("a", CommandSpec { kind: kind.to_owned(), ..CommandSpec::default() });
        assert!(asks_for_nothing(None), "a delete that was settled and forgotten");
        assert!(asks_for_nothing(Some(&of("delete-application"))));
        assert!(asks_for_nothing(Some(&of("delete-tenant"))));
        assert!(!asks_for_nothing(Some(&of("apply-application"))), "a later document is applied to what is there");
    }
}
