//! `apply-tenant` and `delete-tenant`: the document becomes a NovaTenant, or the NovaTenant goes.

use super::{CONFLICTS_MAX, Dispatcher, Task, Trouble, annotations};
use crate::apiserver::{self, verbs};
use kube::{Api, ResourceExt as _, api::ObjectMeta};
use kubenova_crds::{
    conditions, labels,
    tenant::{NovaTenant, TenantSpec, condition},
};
use kubenova_operator_core::{
    observed,
    outcome::{CommandProgress, State},
    tenant::FINALIZER,
};
use kubenova_runtime::failpoint;
use kubenova_schema::kinds::ObjectKey;
use serde_json::Value;

/// The tenant with this id.
///
/// # Errors
/// When the call fails.
pub(super) async fn by_id(api: &Api<NovaTenant>, id: &str) -> Result<Option<NovaTenant>, apiserver::Error> {
    Ok(verbs::list(api, "").await?.into_iter().find(|tenant| tenant.spec.tenant_id == id))
}

/// Its walls stand as its present generation wants them.
pub(super) fn is_ready(tenant: &NovaTenant) -> bool {
    let status = tenant.status.as_ref();
    tenant.metadata.deletion_timestamp.is_none()
        && status.is_some_and(|status| {
            status.observed_generation == tenant.metadata.generation
                && conditions::is_true(&status.conditions, condition::READY)
        })
}

impl Dispatcher<'_> {
    pub(super) async fn apply_tenant(&self, task: &Task<'_>) -> Result<CommandProgress, Trouble> {
        let ObjectKey::Tenant { tenant_id } = task.key else {
            return Ok(bad_document("the order is not about a tenant"));
        };
        let (name, spec) = match read(&task.command.document, tenant_id) {
            Ok(read) => read,
            Err(message) => return Ok(bad_document(&message)),
        };
        let api: Api<NovaTenant> = Api::all(self.ctx.apiserver.client());
        for _ in 0..CONFLICTS_MAX {
            let live = verbs::get(&api, &name).await?;
            if let Some(live) = &live {
                if live.metadata.deletion_timestamp.is_some() {
                    return Ok(CommandProgress::new(
                        State::Running,
                        "StillDeleting",
                        "a tenant of this name is still being removed",
                    ));
                }
                if live.spec.tenant_id != *tenant_id {
                    let message = format!(
                        "tenant \"{name}\" is another one here (id {}); choose another name",
                        live.spec.tenant_id
                    );
                    return Ok(CommandProgress::new(State::Failed, "NameTaken", message));
                }
                let finalized = live.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
                if observed::command_of(live) == task.command.id && live.spec == spec && finalized {
                    return Ok(progress(live));
                }
            }
            let created = live.is_none();
            match verbs::apply(&api, &wanted(&name, &spec, task, live)).await {
                Ok(written) => {
                    failpoint::passing("dispatch.applied");
                    if created && !self.still_ordered(task).await? {
                        let uid = written.uid().unwrap_or_default();
                        verbs::delete_exact(&api, &name, &uid, None).await?;
                    }
                    return Ok(CommandProgress::new(State::Running, "Applied", "the tenant is written").at("applied"));
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(CommandProgress::new(State::Running, "Contended", "others keep changing the object; trying again"))
    }

    pub(super) async fn delete_tenant(&self, task: &Task<'_>) -> Result<CommandProgress, Trouble> {
        let ObjectKey::Tenant { tenant_id } = task.key else {
            return Ok(bad_document("the order is not about a tenant"));
        };
        let api: Api<NovaTenant> = Api::all(self.ctx.apiserver.client());
        let Some(live) = by_id(&api, tenant_id).await? else {
            return Ok(CommandProgress::new(State::Succeeded, "Gone", "the tenant is not on this cluster").at("ready"));
        };
        if live.metadata.deletion_timestamp.is_none() {
            let uid = live.uid().unwrap_or_default();
            match verbs::delete_exact(&api, &live.name_any(), &uid, live.resource_version().as_deref()).await {
                Ok(_) => failpoint::passing("dispatch.applied"),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let blocker =
            live.status.iter().flat_map(|status| &status.conditions).find(|found| found.type_ == condition::DELETING);
        let (reason, message) = blocker.map_or(("Deleting", "the tenant is being removed"), |found| {
            (found.reason.as_str(), found.message.as_str())
        });
        Ok(CommandProgress::new(State::Running, reason, message).at("applied"))
    }
}

fn bad_document(message: &str) -> CommandProgress {
    CommandProgress::new(State::Failed, "BadDocument", message)
}

fn read(document: &str, tenant_id: &str) -> Result<(String, TenantSpec), String> {
    let document: Value =
        serde_json::from_str(document).map_err(|error| format!("the document is no JSON: {error}"))?;
    let name = document.pointer("/metadata/name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or("the document names no tenant")?.to_owned();
    let mut spec = document.get("spec").cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    // The key says whose order this is.
    spec["tenantId"] = tenant_id.into();
    let spec = serde_json::from_value(spec).map_err(|error| format!("the document is no NovaTenant: {error}"))?;
    Ok((name, spec))
}

/// Applied rather than created when it is absent, so that one field manager owns all of it and later orders can remove
/// fields; the Operator is the only writer.
fn wanted(name: &str, spec: &TenantSpec, task: &Task<'_>, live: Option<NovaTenant>) -> NovaTenant {
    let (uid, resource_version) =
        live.map(|live| (live.metadata.uid, live.metadata.resource_version)).unwrap_or_default();
    let mut tenant = NovaTenant::new(name, spec.clone());
    tenant.metadata = ObjectMeta {
        name: Some(name.to_owned()),
        annotations: Some(annotations(task.command)),
        labels: Some([(labels::TENANT_ID.to_owned(), spec.tenant_id.clone())].into()),
        finalizers: Some(vec![FINALIZER.to_owned()]),
        uid,
        resource_version,
        ..ObjectMeta::default()
    };
    tenant
}

fn progress(live: &NovaTenant) -> CommandProgress {
    if is_ready(live) {
        return CommandProgress::new(State::Succeeded, "Ready", "the tenant is ready").at("ready");
    }
    let status = live.status.clone().unwrap_or_default();
    let waiting = status.conditions.iter().find(|found| found.type_ != condition::READY && found.status != "True");
    match waiting {
        Some(found) => {
            CommandProgress::new(State::Running, found.reason.clone(), format!("{}: {}", found.type_, found.message))
        }
        None => CommandProgress::new(State::Running, "Applied", "the tenant is written"),
    }
    .at("applied")
}
