//! Operations: carried out once, each under a record of its own.
//!
//! The record says that an operation has begun before it has its effect, and how it ended before that is reported. What has not
//! begun expires at its deadline, or gives way to its cancellation, which takes its place in the record.

use super::{Attempt, Dispatcher, application::applications, error::DispatchError};
use crate::{
    apiserver::{self, kinds, status},
    controllers::work::Next,
};
use kube::{Api, core::DynamicObject};
use kubenova_crds::command::NovaCommand;
use kubenova_operator_core::{
    command::{self, VerifiedCommand},
    operation::{self, ApplicationTarget, Restart, Start},
    outcome::{self, CommandProgress},
    tenant::apps_namespace,
};
use kubenova_runtime::{clock, failpoint};
use kubenova_schema::{
    kinds::{CommandKind, ObjectKey},
    v1::Command,
};

impl Dispatcher<'_> {
    /// Carries the record's operation one step further.
    pub(super) async fn operate(&self, verified: &VerifiedCommand, mut record: NovaCommand) -> Next {
        if outcome::has_ended(&record.spec, record.status.as_ref()) {
            return Next::OnChange;
        }
        let progress = match verified.kind {
            CommandKind::RestartWorkflow => self.restart_workflow(&mut record, &verified.command).await,
            // It could be stored, so the operation had not begun and never will.
            _ => Ok(Some(CommandProgress::succeeded("Cancelled", "the operation was cancelled before it began"))),
        };
        let Some(progress) = progress.transpose() else {
            return Next::retry("the record was written by another Operator");
        };
        let not_before = progress.as_ref().err().map(DispatchError::retry_after).unwrap_or_default();
        let mut progress = progress.unwrap_or_else(|error| error.progress());
        if outcome::has_started(&record.spec, record.status.as_ref()) {
            progress = self.deadline(&record, verified.kind).apply(progress, clock::now());
        }
        let next = Attempt { not_before, ..Attempt::from(progress.clone()) }.next();
        self.settle(record, &progress, next).await
    }

    /// How far it is; none when another Operator has replaced it or begun it meanwhile.
    async fn restart_workflow(
        &self,
        record: &mut NovaCommand,
        command: &Command,
    ) -> Result<Option<CommandProgress>, DispatchError> {
        let target = match operation::application_target(&command.document) {
            Ok(target) => target,
            Err(message) => return Ok(Some(CommandProgress::failed("BadDocument", message))),
        };
        let has_started = outcome::has_started(&record.spec, record.status.as_ref());
        if !has_started {
            if self.fence.keeper().await?.now().has_settled(command.revision) {
                let message = "the Manager had settled the operation before it was stored: it will not be carried out";
                return Ok(Some(CommandProgress::expired("Settled", message)));
            }
            if let Some(not_now) = self.not_now(command) {
                return Ok(Some(not_now));
            }
        }
        let Some(tenant) = self.tenant_name(&target.tenant_id).await? else { return Ok(Some(self.absent(&target))) };
        let api = applications(&self.ctx.apiserver.client(), &apps_namespace(&tenant));
        let Some(application) = kinds::get_if_served(&api, &target.application).await? else {
            return Ok(Some(self.absent(&target)));
        };
        let present = application.data.pointer("/status/workflow/startTime").and_then(|at| at.as_str());
        if !has_started {
            let found = match operation::present_run(present, clock::now()) {
                Ok(found) => found,
                Err(message) => return Ok(Some(CommandProgress::running("WaitingForWorkflow", message))),
            };
            let Some(begun) = self.begin(record, command, found).await? else { return Ok(None) };
            failpoint::passing("dispatch.started");
            *record = begun;
        }
        let found = record.status.as_ref().map(|status| status.found.as_str()).unwrap_or_default();
        let restarting = || CommandProgress::running("Restarting", "waiting until KubeVela begins the workflow again");
        let progress = match operation::restart(found, present) {
            Restart::Done => {
                CommandProgress::succeeded("Restarted", "KubeVela has begun the workflow again").at("ready")
            }
            Restart::Pending => restarting().at("applied"),
            Restart::Due => {
                remove_workflow(&api, application).await?;
                failpoint::passing("dispatch.applied");
                restarting().at("applied")
            }
        };
        Ok(Some(progress))
    }

    /// Why an operation that has not begun does not begin now.
    fn not_now(&self, command: &Command) -> Option<CommandProgress> {
        match operation::may_start(&command.not_after, self.ctx.manager_clock.now()) {
            Start::Now => None,
            Start::ClockUnknown => Some(CommandProgress::running(
                "WaitingForSession",
                "waiting for a session with the Manager, by whose clock the deadline counts",
            )),
            Start::Late => Some(CommandProgress::expired(
                "DeadlineExceeded",
                format!(
                    "the operation had not begun by its deadline, {}: it will not be carried out",
                    command.not_after
                ),
            )),
        }
    }

    /// The application is not there: it comes while its record wants it, else there is nothing to restart.
    fn absent(&self, target: &ApplicationTarget) -> CommandProgress {
        let ApplicationTarget { tenant_id, application } = target.clone();
        let key = ObjectKey::Application { tenant_id, name: application };
        let record = self.ctx.inbox.get(&command::record_name(&key));
        if record.is_some_and(|record| !record.is_delete()) {
            return CommandProgress::running("WaitingForApplication", "waiting until the application is applied");
        }
        CommandProgress::failed("NoApplication", "the application is not on this cluster")
    }

    /// Writes that the operation begins; none when it must not, because the record was replaced, it has begun already, or its deadline
    /// has passed since it was looked at.
    async fn begin(
        &self,
        record: &NovaCommand,
        command: &Command,
        found: &str,
    ) -> Result<Option<NovaCommand>, apiserver::Error> {
        let progress = CommandProgress::running("Started", "the operation has begun");
        let mut begins = false;
        let written = status::update_from(&self.records, record.clone(), |present| {
            begins = false;
            if present.spec.command_id != record.spec.command_id || self.not_now(command).is_some() {
                return false;
            }
            let at = clock::rfc3339_ms(clock::now());
            if let Some(next) = outcome::begin(&present.spec, present.status.as_ref(), &progress, found, &at) {
                present.status = Some(next);
                begins = true;
            }
            begins
        })
        .await?;
        Ok(written.filter(|_| begins))
    }
}

/// Takes the workflow out of the status of exactly this version of the application: KubeVela then begins it again, as after `vela
/// workflow restart`.
async fn remove_workflow(api: &Api<DynamicObject>, mut application: DynamicObject) -> Result<(), apiserver::Error> {
    if let Some(status) = application.data.get_mut("status").and_then(|status| status.as_object_mut()) {
        status.remove("workflow");
    }
    status::replace(api, &application).await.map(drop)
}
