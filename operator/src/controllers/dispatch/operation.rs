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
    operation::{self, ApplicationTarget, Start},
    outcome::{self, CommandProgress},
    tenant::apps_namespace,
    workflow::{self, Effect},
};
use kubenova_runtime::{clock, failpoint};
use kubenova_schema::{kinds::ObjectKey, v1::Command};

/// The hop of an operation whose change was written.
const APPLIED: &str = "applied";

impl Dispatcher<'_> {
    /// Carries the record's operation one step further.
    pub(super) async fn operate(&self, verified: &VerifiedCommand, mut record: NovaCommand) -> Next {
        if outcome::has_ended(&record.spec, record.status.as_ref()) {
            return Next::OnChange;
        }
        let progress = match workflow::Operation::of(verified.kind) {
            Some(operation) => self.operate_workflow(operation, &mut record, &verified.command).await,
            // It could be stored, so the operation had not begun and never will.
            None => Ok(Some(CommandProgress::succeeded("Cancelled", "the operation was cancelled before it began"))),
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
    async fn operate_workflow(
        &self,
        operation: workflow::Operation,
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
            if let Some(not_now) = self.not_now(command).or_else(|| self.after_another(command, &target)) {
                return Ok(Some(not_now));
            }
        }
        let Some(tenant) = self.tenant_name(&target.tenant_id).await? else { return Ok(Some(self.absent(&target))) };
        let api = applications(&self.ctx.apiserver.client(), &apps_namespace(&tenant));
        let Some(application) = kinds::get_if_served(&api, &target.application).await? else {
            return Ok(Some(self.absent(&target)));
        };
        if !has_started {
            let found = match workflow::find(operation, &application.data, clock::now()) {
                Ok(found) => found,
                Err(not_begun) => return Ok(Some(not_begun)),
            };
            let Some(begun) = self.begin(record, command, &found).await? else { return Ok(None) };
            failpoint::passing("dispatch.started");
            *record = begun;
        }
        let found = record.status.as_ref().map(|status| status.found.as_str()).unwrap_or_default();
        let pending =
            || CommandProgress::running("Operating", "waiting until KubeVela takes the operation up").at(APPLIED);
        let is_written = outcome::has_hop(&record.spec, record.status.as_ref(), APPLIED);
        let progress = match workflow::effect(operation, found, is_written, &application.data) {
            Effect::Over(progress) => progress,
            Effect::Pending => pending(),
            Effect::Due => {
                change_workflow(operation, &api, application).await?;
                failpoint::passing("dispatch.applied");
                pending()
            }
        };
        Ok(Some(progress))
    }

    /// What was asked for first has its effect first: what an operation finds tells whether it has had its own only while no other one
    /// changes the same workflow.
    fn after_another(&self, command: &Command, target: &ApplicationTarget) -> Option<CommandProgress> {
        let records = self.ctx.inbox.names_from("operation.").into_iter().filter_map(|name| self.ctx.inbox.get(&name));
        let earlier = records.into_iter().find(|record| record.is_open_before(command.revision, target))?;
        let message =
            format!("waiting until an earlier operation on the application has ended: {}", earlier.command_id);
        Some(CommandProgress::running("WaitingForOperation", message))
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

    /// The application is not there: it comes while its record wants it, else there is nothing to operate on.
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

/// Changes the workflow in the status of exactly this version of the application: KubeVela goes on from there, as after `vela workflow`.
async fn change_workflow(
    operation: workflow::Operation,
    api: &Api<DynamicObject>,
    mut application: DynamicObject,
) -> Result<(), apiserver::Error> {
    workflow::write(operation, &mut application.data);
    status::replace(api, &application).await.map(drop)
}
