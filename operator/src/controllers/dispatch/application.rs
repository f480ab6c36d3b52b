//! `apply-application` and `delete-application`: every write impersonates the tenant's deployer, since KubeVela runs an
//! application with the rights of its last writer.

use super::{CONFLICTS_MAX, Dispatcher, Task, Trouble, tenant};
use crate::{
    apiserver::{self, kinds, verbs},
    controllers::{
        application::observe,
        orphans::{self, NAME_LABEL},
    },
};
use kube::{Api, Client, ResourceExt as _, core::DynamicObject};
use kubenova_crds::tenant::NovaTenant;
use kubenova_operator_core::{
    application::{self, Origin},
    drift, observed,
    outcome::{CommandProgress, State},
    tenant::build,
};
use kubenova_runtime::failpoint;
use kubenova_schema::kinds::ObjectKey;
use serde_json::Value;

/// Label of KubeVela's trackers: the Application's namespace.
const NAMESPACE_LABEL: &str = "app.oam.dev/namespace";

fn applications(client: &Client, namespace: &str) -> Api<DynamicObject> {
    kinds::namespaced(client, "core.oam.dev", "v1beta1", "Application", namespace)
}

impl Dispatcher<'_> {
    pub(super) async fn apply_application(&self, task: &Task<'_>) -> Result<CommandProgress, Trouble> {
        let ObjectKey::Application { tenant_id, name } = task.key else {
            return Ok(CommandProgress::new(State::Failed, "BadDocument", "the order is not about an application"));
        };
        let tenants: Api<NovaTenant> = Api::all(self.ctx.apiserver.client());
        let tenant = tenant::by_id(&tenants, tenant_id).await?;
        let Some(tenant) = tenant.filter(tenant::is_ready).map(|tenant| tenant.name_any()) else {
            return Ok(CommandProgress::new(
                State::Running,
                "WaitingForTenant",
                "its tenant is not ready on this cluster yet",
            ));
        };
        let origin =
            Origin { tenant: &tenant, tenant_id, name, revision: task.command.revision, command_id: &task.command.id };
        let wanted = match application::build(&task.command.document, origin) {
            Ok(wanted) => wanted,
            Err(message) => return Ok(CommandProgress::new(State::Failed, "BadDocument", message)),
        };
        let namespace = build::apps_namespace(&tenant);
        let own = applications(&self.ctx.apiserver.client(), &namespace);
        let as_deployer = applications(&self.deployers.of(&tenant)?, &namespace);
        for _ in 0..CONFLICTS_MAX {
            let present = kinds::get_if_served(&own, name).await?;
            if let Some(present) = &present {
                if present.metadata.deletion_timestamp.is_some() {
                    return Ok(CommandProgress::new(
                        State::Running,
                        "StillDeleting",
                        "an application of this name is still being removed",
                    ));
                }
                if observed::command_of(present) == task.command.id
                    && drift::is_superset(&kinds::to_value(present)?, &wanted)
                {
                    return self.progress(present).await;
                }
            }
            let object = at_present(&wanted, present.as_ref())?;
            match verbs::apply(&as_deployer, &object).await {
                Ok(written) => {
                    failpoint::passing("dispatch.applied");
                    if present.is_none() && !self.still_ordered(task).await? {
                        verbs::delete_exact(&as_deployer, name, &written.uid().unwrap_or_default(), None).await?;
                    }
                    return Ok(
                        CommandProgress::new(State::Running, "Applied", "the application is written").at("applied")
                    );
                }
                Err(error) if error.is_conflict() => {}
                Err(error) if error.is_not_found() => {
                    return Ok(CommandProgress::new(
                        State::Running,
                        "KubeVelaMissing",
                        "this cluster has no Applications yet: KubeVela is not installed",
                    ));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(CommandProgress::new(State::Running, "Contended", "others keep changing the object; trying again"))
    }

    async fn progress(&self, present: &DynamicObject) -> Result<CommandProgress, Trouble> {
        let findings = observe::findings(self.ctx, present).await?;
        let value = kinds::to_value(present)?;
        if let Some(status) = application::status(&value, &findings) {
            self.ctx.status.put(status);
        }
        let finding = application::progress(&value, &findings);
        Ok(if finding.hop.is_none() { finding.at("applied") } else { finding })
    }

    pub(super) async fn delete_application(&self, task: &Task<'_>) -> Result<CommandProgress, Trouble> {
        let ObjectKey::Application { tenant_id, name } = task.key else {
            return Ok(CommandProgress::new(State::Failed, "BadDocument", "the order is not about an application"));
        };
        let gone = || CommandProgress::new(State::Succeeded, "Gone", "nothing of the application is left").at("ready");
        let tenants: Api<NovaTenant> = Api::all(self.ctx.apiserver.client());
        let Some(tenant) = tenant::by_id(&tenants, tenant_id).await?.map(|tenant| tenant.name_any()) else {
            return Ok(gone());
        };
        let namespace = build::apps_namespace(&tenant);
        let own = applications(&self.ctx.apiserver.client(), &namespace);
        let deployer = self.deployers.of(&tenant)?;
        if let Some(present) = kinds::get_if_served(&own, name).await? {
            if present.metadata.deletion_timestamp.is_none() {
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
            let message = present.data.pointer("/status/conditions").and_then(deleting_message);
            let message = message.unwrap_or_else(|| "the application is being removed".to_owned());
            return Ok(CommandProgress::new(State::Running, "Deleting", message).at("applied"));
        }
        let selector = format!("{NAME_LABEL}={name},{NAMESPACE_LABEL}={namespace}");
        let trackers =
            kinds::list_if_served(&kinds::resource_trackers(&self.ctx.apiserver.client()), &selector).await?;
        if !trackers.is_empty() {
            return Ok(CommandProgress::new(
                State::Running,
                "TrackersRemain",
                "KubeVela still removes what the application made",
            )
            .at("applied"));
        }
        let left = orphans::delete_orphans(&deployer, &namespace, &format!("{NAME_LABEL}={name}")).await?;
        if left.is_empty() {
            return Ok(gone());
        }
        Ok(CommandProgress::new(State::Running, "LeftoversRemain", format!("waiting for {}", left.join(", ")))
            .at("applied"))
    }
}

fn deleting_message(conditions: &Value) -> Option<String> {
    let deleting = conditions.as_array()?.iter().find(|condition| condition["type"] == "Deleting")?;
    deleting["message"].as_str().filter(|message| !message.is_empty()).map(str::to_owned)
}

/// With `uid` and `resourceVersion` of what was seen, the apply touches exactly that.
fn at_present(wanted: &Value, present: Option<&DynamicObject>) -> Result<DynamicObject, apiserver::Error> {
    let mut object: DynamicObject = serde_json::from_value(wanted.clone())
        .map_err(|error| apiserver::error::Error::unreadable("Application", kube::Error::SerdeError(error)))?;
    if let Some(present) = present {
        object.metadata.uid = present.metadata.uid.clone();
        object.metadata.resource_version = present.metadata.resource_version.clone();
    }
    Ok(object)
}
