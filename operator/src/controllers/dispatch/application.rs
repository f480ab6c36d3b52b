//! `apply-application` and `delete-application`: every write impersonates the tenant's deployer, since KubeVela runs an
//! application with the rights of its last writer.

use super::{
    CONFLICTS_MAX, Dispatcher, Task,
    error::{self, DispatchError},
    replaced,
};
use crate::{
    apiserver::{self, kinds, verbs},
    controllers::{
        application::observe,
        apply::Decision,
        deployer,
        orphans::{self, GoneApplication},
    },
};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{Api, Client, ResourceExt as _, core::DynamicObject};
use kubenova_operator_core::{
    application::{
        self, Origin,
        made::{ClaimTemplate, Made},
        status,
    },
    drift,
    outcome::{self, CommandProgress},
    tenant::{apps_namespace, digest::NotReady},
};
use kubenova_runtime::{clock, failpoint};
use kubenova_schema::kinds::ObjectKey;
use serde_json::Value;

/// The chart's policy about Applications in the namespaces of tenants.
const POLICY: &str = "'kubenova-applications'";

pub(super) fn applications(client: &Client, namespace: &str) -> Api<DynamicObject> {
    kinds::namespaced(client, "core.oam.dev", "v1beta1", "Application", namespace)
}

impl Dispatcher<'_> {
    pub(super) async fn apply_application(&self, task: &Task<'_>) -> Result<CommandProgress, DispatchError> {
        let ObjectKey::Application { tenant_id, name } = task.key else {
            return Ok(CommandProgress::failed("BadDocument", "the command's key does not name an application"));
        };
        let Some(known) = self.known_tenant(tenant_id) else {
            return Ok(waiting_for_tenant("it is not there yet"));
        };
        if let Some(NotReady { reason, message }) = &known.not_ready {
            self.report(&known.name, name).await?;
            return Ok(waiting_for_tenant(&format!("{reason}: {message}")));
        }
        let tenant = &known.name;
        let origin = Origin { tenant, tenant_id, name, revision: task.command.revision, command_id: &task.command.id };
        let mut desired = match application::build(&task.command.document, origin) {
            Ok(desired) => desired,
            Err(message) => return Ok(CommandProgress::failed("BadDocument", message)),
        };
        drift::stamp(&mut desired);
        let namespace = apps_namespace(tenant);
        let own = applications(&self.ctx.apiserver.client(), &namespace);
        let as_deployer = applications(&deployer::client(&self.ctx.apiserver, tenant)?, &namespace);
        self.apply_object(task, name, &own, &as_deployer, &desired).await
    }

    /// Reports how an application does that is left as it is.
    async fn report(&self, tenant: &str, name: &str) -> Result<(), apiserver::Error> {
        let own = applications(&self.ctx.apiserver.client(), &apps_namespace(tenant));
        if let Some(present) = kinds::get_if_served(&own, name).await?
            && let Some(status) = observe::one(self.ctx, &present).await?
        {
            self.ctx.status.put(status);
        }
        Ok(())
    }

    /// Applies the desired Application, as the deployer, unless the live one is it already.
    async fn apply_object(
        &self,
        task: &Task<'_>,
        name: &str,
        own: &Api<DynamicObject>,
        as_deployer: &Api<DynamicObject>,
        desired: &Value,
    ) -> Result<CommandProgress, DispatchError> {
        for _ in 0..CONFLICTS_MAX {
            let present = kinds::get_if_served(own, name).await?;
            let mut repair = None;
            if let Some(present) = &present {
                if present.metadata.deletion_timestamp.is_some() {
                    return Ok(CommandProgress::running(
                        "StillDeleting",
                        "waiting until an earlier application of this name is deleted",
                    ));
                }
                match self.drift.decide(Some(&present.metadata), desired) {
                    Decision::Keep => return self.application_progress(present).await,
                    Decision::LeaveFor(left) => {
                        left.report(&self.ctx.apiserver, &present.metadata).await;
                        // Set once a task; a later round of this loop can only say the same.
                        let _set = task.look_again.set(left.pause());
                        return self.application_progress(present).await;
                    }
                    Decision::Apply => {}
                    Decision::Repair(found) => repair = Some(found),
                }
                if self.is_replaced(task, present).await? {
                    return Ok(replaced());
                }
            }
            failpoint::passing("dispatch.writing");
            match verbs::apply(as_deployer, &at_present(desired, present.as_ref())?).await {
                Ok(written) => {
                    failpoint::passing("dispatch.applied");
                    if let Some(repair) = repair {
                        self.drift.remember(repair);
                    }
                    if present.is_none() && self.is_deleted_meanwhile(task).await? {
                        let uid = written.uid().unwrap_or_default();
                        verbs::delete_exact(as_deployer, name, &uid, written.resource_version().as_deref()).await?;
                    }
                    return Ok(CommandProgress::running("Applied", "the application is applied")
                        .at("applied")
                        .about(&written.metadata));
                }
                Err(error) if error.is_conflict() => {}
                Err(error) if error.is_not_found() => {
                    return Ok(CommandProgress::running(
                        "KubeVelaMissing",
                        "waiting for KubeVela: it is not installed on this cluster yet; see: kubectl describe \
                         novaclusterconfig default",
                    ));
                }
                Err(error) if self.is_before_kubevela(&error) => {
                    let message = format!(
                        "waiting for KubeVela: until it answers, the cluster refuses applications; see: kubectl describe \
                         novaclusterconfig default; last: {}",
                        error.reason()
                    );
                    return Ok(CommandProgress::running("KubeVelaNotReady", message));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(CommandProgress::running("Contended", "other clients keep changing the object; trying again"))
    }

    /// Refused because KubeVela has not seen it: while KubeVela is installed, its kind is there before its webhook, and its webhook before
    /// its definitions. Without the webhook no application names its writer, and our own policy refuses each.
    fn is_before_kubevela(&self, error: &apiserver::Error) -> bool {
        let is_denied = error::refusal(error) == Some(error::Refusal::Denied);
        let standing = self.standing();
        let is_installed_now = standing.kubevela.is_none() && !standing.kubevela_is_off;
        is_denied && (is_installed_now || error.reason().contains(POLICY))
    }

    async fn application_progress(&self, present: &DynamicObject) -> Result<CommandProgress, DispatchError> {
        let findings = observe::findings(self.ctx, present).await?;
        let value = kinds::to_value(present)?;
        if let Some(status) = status::status(&value, &findings) {
            self.ctx.status.put(status);
        }
        let progress = status::progress(&value, &findings).about(&present.metadata);
        Ok(if progress.hop.is_none() { progress.at("applied") } else { progress })
    }

    pub(super) async fn delete_application(&self, task: &Task<'_>) -> Result<CommandProgress, DispatchError> {
        let ObjectKey::Application { tenant_id, name } = task.key else {
            return Ok(CommandProgress::failed("BadDocument", "the command's key does not name an application"));
        };
        let gone = || CommandProgress::succeeded("Gone", "nothing of the application is left").at("ready");
        let Some(tenant) = self.tenant_name(tenant_id).await? else {
            return Ok(if self.comes_back(tenant_id).await? {
                CommandProgress::running("WaitingForTenant", "waiting until the tenant's NovaTenant is written again")
            } else {
                gone()
            });
        };
        let namespace = apps_namespace(&tenant);
        let own = applications(&self.ctx.apiserver.client(), &namespace);
        let deployer = deployer::client(&self.ctx.apiserver, &tenant)?;
        if let Some(present) = kinds::get_if_served(&own, name).await? {
            let message = present.data.pointer("/status/conditions").and_then(deleting_message);
            let message = message.unwrap_or_else(|| "deleting the application".to_owned());
            let progress = CommandProgress::running("Deleting", message);
            let is_remembered = !outcome::found(&task.record.spec, task.record.status.as_ref()).is_empty();
            if !is_remembered && !self.remember(task, &progress, &self.made(&present).await?).await? {
                return Ok(replaced());
            }
            if present.metadata.deletion_timestamp.is_none() {
                if self.is_replaced(task, &present).await? {
                    return Ok(replaced());
                }
                failpoint::passing("dispatch.writing");
                let uid = present.uid().unwrap_or_default();
                let deleted = verbs::delete_exact(
                    &applications(&deployer, &namespace),
                    name,
                    &uid,
                    present.resource_version().as_deref(),
                )
                .await;
                match deleted {
                    Ok(_) => failpoint::passing("dispatch.applied"),
                    Err(error) if error.is_conflict() => {}
                    Err(error) => return Err(error.into()),
                }
            }
            return Ok(progress.at("applied").about(&present.metadata));
        }
        let client = self.ctx.apiserver.client();
        let Some(made) = self.made_until_gone(task).await? else { return Ok(replaced()) };
        let gone_application = GoneApplication { name, made: &made };
        let found = orphans::find(&client, &deployer, &namespace, Some(gone_application)).await?;
        if !found.is_empty() && !self.is_recorded(task).await? {
            return Ok(replaced());
        }
        let left = found.delete().await?;
        Ok(match left.waited_for() {
            Some((reason, message)) => CommandProgress::running(reason, message).at("applied"),
            None => gone(),
        })
    }

    /// What an Application has made, to be remembered.
    async fn made(&self, present: &DynamicObject) -> Result<String, apiserver::Error> {
        let mut made = Made::of(&kinds::to_value(present)?);
        let namespace = present.namespace().unwrap_or_default();
        let sets: Api<StatefulSet> = Api::namespaced(self.ctx.apiserver.client(), &namespace);
        let mut templates = Vec::new();
        for name in made.stateful_sets() {
            templates.extend(verbs::get(&sets, name).await?.iter().flat_map(ClaimTemplate::of));
        }
        made.claim_templates = templates;
        Ok(made.to_text())
    }

    /// What an Application that is gone had made. Since when it is gone is written down first: what is made later under the same names
    /// is another one's. None when the record holds another command.
    async fn made_until_gone(&self, task: &Task<'_>) -> Result<Option<Made>, apiserver::Error> {
        let (spec, status) = (&task.record.spec, task.record.status.as_ref());
        let mut made = Made::of_delete(spec, status);
        // What a former delete had remembered must be remembered for this one, too.
        let is_remembered = !outcome::found(spec, status).is_empty();
        if made.is_empty() || is_remembered && made.gone_at.is_some() {
            return Ok(Some(made));
        }
        made.gone_at.get_or_insert_with(clock::now);
        let progress = CommandProgress::running("Deleting", "the application is gone; looking for what it left behind");
        Ok(self.remember(task, &progress, &made.to_text()).await?.then_some(made))
    }
}

fn waiting_for_tenant(why: &str) -> CommandProgress {
    CommandProgress::running("WaitingForTenant", format!("waiting until the tenant is ready on this cluster: {why}"))
}

fn deleting_message(conditions: &Value) -> Option<String> {
    let deleting = conditions.as_array()?.iter().find(|condition| condition["type"] == "Deleting")?;
    deleting["message"].as_str().filter(|message| !message.is_empty()).map(str::to_owned)
}

/// With `uid` and `resourceVersion` of what was seen, the apply touches exactly that.
fn at_present(desired: &Value, present: Option<&DynamicObject>) -> Result<DynamicObject, apiserver::Error> {
    let mut object: DynamicObject = serde_json::from_value(desired.clone())
        .map_err(|error| apiserver::error::Error::unreadable("Application", kube::Error::SerdeError(error)))?;
    if let Some(present) = present {
        object.metadata.uid = present.metadata.uid.clone();
        object.metadata.resource_version = present.metadata.resource_version.clone();
    }
    Ok(object)
}
