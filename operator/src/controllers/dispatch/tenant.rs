//! `apply-tenant` and `delete-tenant`: the document becomes a NovaTenant, or the NovaTenant goes.

use super::{CONFLICTS_MAX, Dispatcher, Task, annotations, error::DispatchError, replaced};
use crate::{
    apiserver::{self, event, kinds, verbs},
    controllers::{tenant::LABEL_REPAIRED, work::RETRY_MAX},
};
use kube::{Api, Resource as _, ResourceExt as _, api::ObjectMeta};
use kubenova_crds::{
    labels,
    tenant::{NovaTenant, TenantSpec, condition},
};
use kubenova_operator_core::{
    command, observed,
    outcome::{self, CommandProgress, State},
    tenant::{
        FINALIZER, deletion,
        digest::{self, TenantDigest},
        ownership,
    },
};
use kubenova_runtime::failpoint;
use kubenova_schema::kinds::{CommandKind, ObjectKey};
use serde_json::Value;
use std::sync::Arc;

/// The tenant with this id. A list waits until the API server's own cache is current, up to 100 ms, so it is made only where
/// an absence must be certain.
async fn by_id(api: &Api<NovaTenant>, id: &str) -> Result<Option<NovaTenant>, apiserver::Error> {
    let labeled = verbs::list(api, &format!("{}={id}", labels::TENANT_ID)).await?;
    Ok(labeled.into_iter().find(|tenant| tenant.spec.tenant_id == id))
}

impl Dispatcher<'_> {
    /// The tenant with this id, as the watch has shown it.
    pub(super) fn known_tenant(&self, id: &str) -> Option<Arc<TenantDigest>> {
        self.ctx.tenants.find(|tenant| tenant.tenant_id == id)
    }

    /// Its name; none only when it is certain that there is no such tenant.
    pub(super) async fn tenant_name(&self, id: &str) -> Result<Option<String>, apiserver::Error> {
        if let Some(known) = self.known_tenant(id) {
            return Ok(Some(known.name.clone()));
        }
        let api: Api<NovaTenant> = Api::all(self.ctx.apiserver.client());
        Ok(by_id(&api, id).await?.map(|tenant| tenant.name_any()))
    }

    pub(super) async fn apply_tenant(&self, task: &Task<'_>) -> Result<CommandProgress, DispatchError> {
        let ObjectKey::Tenant { tenant_id } = task.key else {
            return Ok(bad_document("the command's key does not name a tenant"));
        };
        let (name, spec) = match read(&task.command.document, tenant_id) {
            Ok(read) => read,
            Err(message) => return Ok(bad_document(&message)),
        };
        let api: Api<NovaTenant> = Api::all(self.ctx.apiserver.client());
        for _ in 0..CONFLICTS_MAX {
            let live = verbs::get(&api, &name).await?;
            let mut has_lost_label = None;
            if let Some(live) = &live {
                if live.metadata.deletion_timestamp.is_some() {
                    return Ok(CommandProgress::running(
                        "StillDeleting",
                        "waiting until an earlier tenant of this name is deleted",
                    ));
                }
                if live.spec.tenant_id != *tenant_id {
                    // No watch shows to this command that the other tenant is gone. Set once a task.
                    let _set = task.look_again.set(RETRY_MAX);
                    let message = format!(
                        "a tenant \"{name}\" with another id ({}) exists on this cluster; delete it or choose another name",
                        live.spec.tenant_id
                    );
                    return Ok(CommandProgress::failed("NameTaken", message));
                }
                match difference(live, &spec, &task.command.id) {
                    None => return Ok(progress(live).about(&live.metadata)),
                    Some(Difference::Label) => has_lost_label = Some(live.object_ref(&())),
                    Some(Difference::Document) => {}
                }
                if self.is_replaced(task, live).await? {
                    return Ok(replaced());
                }
            }
            let created = live.is_none();
            match verbs::apply(&api, &desired(&name, &spec, task, live)).await {
                Ok(written) => {
                    failpoint::passing("dispatch.applied");
                    if let Some(tenant) = has_lost_label {
                        let message = ownership::repaired("NovaTenant", &name);
                        tracing::warn!(tenant.name = name, "a NovaTenant had lost its label");
                        event::publish(&self.ctx.apiserver, event::Kind::Warning, LABEL_REPAIRED, &message, tenant)
                            .await;
                    }
                    if created && outcome::has_ended(&task.record.spec, task.record.status.as_ref()) {
                        tracing::warn!(tenant.name = name, "a NovaTenant was deleted without a command");
                        let about = written.object_ref(&());
                        let (reason, message) = (deletion::NOT_ORDERED, deletion::WRITTEN_AGAIN);
                        event::publish(&self.ctx.apiserver, event::Kind::Warning, reason, message, about).await;
                    }
                    if created && self.is_deleted_meanwhile(task).await? {
                        let uid = written.uid().unwrap_or_default();
                        verbs::delete_exact(&api, &name, &uid, written.resource_version().as_deref()).await?;
                    }
                    return Ok(CommandProgress::running("Applied", "the tenant is applied")
                        .at("applied")
                        .about(&written.metadata));
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(CommandProgress::running("Contended", "other clients keep changing the object; trying again"))
    }

    pub(super) async fn delete_tenant(&self, task: &Task<'_>) -> Result<CommandProgress, DispatchError> {
        let ObjectKey::Tenant { tenant_id } = task.key else {
            return Ok(bad_document("the command's key does not name a tenant"));
        };
        let api: Api<NovaTenant> = Api::all(self.ctx.apiserver.client());
        let Some(live) = by_id(&api, tenant_id).await? else {
            return self.delete_what_is_left(&api, tenant_id, task).await;
        };
        if live.metadata.deletion_timestamp.is_none() {
            if self.is_replaced(task, &live).await? {
                return Ok(replaced());
            }
            match begin_deletion(&api, &live).await {
                Ok(()) => failpoint::passing("dispatch.applied"),
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let blocker =
            live.status.iter().flat_map(|status| &status.conditions).find(|found| found.type_ == condition::DELETING);
        let (reason, message) = blocker
            .map_or(("Deleting", "deleting the tenant"), |found| (found.reason.as_str(), found.message.as_str()));
        Ok(CommandProgress::running(reason, message).at("applied").about(&live.metadata))
    }

    /// The NovaTenant was taken away and the tenant left in place: it is written again, so that its deletion can be carried out.
    async fn delete_what_is_left(
        &self,
        api: &Api<NovaTenant>,
        tenant_id: &str,
        task: &Task<'_>,
    ) -> Result<CommandProgress, DispatchError> {
        let selector = format!("{}={tenant_id}", labels::TENANT_ID);
        let left = kinds::list_if_served(&kinds::capsule_tenants(&self.ctx.apiserver.client()), &selector).await?;
        let Some(name) = left.first().map(|tenant| tenant.name_any()) else {
            return Ok(CommandProgress::succeeded("Gone", "the tenant is not on this cluster").at("ready"));
        };
        let spec = TenantSpec { tenant_id: tenant_id.to_owned(), ..TenantSpec::default() };
        let mut tenant = desired(&name, &spec, task, None);
        tenant.finalizers_mut().push(FINALIZER.to_owned());
        if let Some(written) = verbs::create_if_absent(api, &tenant).await? {
            verbs::delete_exact(api, &name, &written.uid().unwrap_or_default(), None).await?;
        }
        Ok(CommandProgress::running("Deleting", "deleting what is left of the tenant").at("applied"))
    }

    /// The record of a tenant that has no NovaTenant wants it, so that it is written again, and its applications may be there still.
    pub(super) async fn comes_back(&self, tenant_id: &str) -> Result<bool, DispatchError> {
        let name = command::record_name(&ObjectKey::Tenant { tenant_id: tenant_id.to_owned() });
        let Some(record) = verbs::get(&self.records, &name).await? else { return Ok(false) };
        let is_kept =
            self.ctx.verifier.get().verify(&record).is_ok_and(|verified| verified.kind == CommandKind::ApplyTenant);
        let status = record.status.as_ref();
        let has_failed = outcome::has_ended(&record.spec, status)
            && status.is_some_and(|status| status.state != State::Succeeded.as_str());
        Ok(is_kept && !has_failed)
    }
}

/// Deletes the NovaTenant as it was read. From now on it has a finalizer: what the tenant has is deleted in a fixed order, and the
/// NovaTenant goes last. Without a commanded deletion it has none, so that nothing waits for an Operator that is gone.
async fn begin_deletion(api: &Api<NovaTenant>, live: &NovaTenant) -> Result<(), apiserver::Error> {
    let mut tenant = live.clone();
    if !is_finalized(live) {
        tenant.finalizers_mut().push(FINALIZER.to_owned());
        tenant = verbs::replace(api, &tenant).await?;
    }
    let (uid, version) = (tenant.uid().unwrap_or_default(), tenant.resource_version());
    verbs::delete_exact(api, &tenant.name_any(), &uid, version.as_deref()).await.map(drop)
}

fn is_finalized(tenant: &NovaTenant) -> bool {
    tenant.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// What of a live NovaTenant is not as its command has it.
#[derive(Debug, PartialEq, Eq)]
enum Difference {
    /// Only the label with the tenant's id, without which it is not found.
    Label,
    /// It is to be written for this command.
    Document,
}

fn difference(live: &NovaTenant, spec: &TenantSpec, command_id: &str) -> Option<Difference> {
    if observed::command_of(live) != command_id || live.spec != *spec {
        return Some(Difference::Document);
    }
    let is_labelled = live.labels().get(labels::TENANT_ID) == Some(&spec.tenant_id);
    (!is_labelled).then_some(Difference::Label)
}

fn bad_document(message: &str) -> CommandProgress {
    CommandProgress::failed("BadDocument", message)
}

fn read(document: &str, tenant_id: &str) -> Result<(String, TenantSpec), String> {
    let document: Value =
        serde_json::from_str(document).map_err(|error| format!("the document is not JSON: {error}"))?;
    let name = document.pointer("/metadata/name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or("the document has no metadata.name")?.to_owned();
    let mut spec = document.get("spec").cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    // The command's key is verified, the document's own id is not.
    spec["tenantId"] = tenant_id.into();
    let spec = serde_json::from_value(spec).map_err(|error| format!("the document is not a NovaTenant: {error}"))?;
    Ok((name, spec))
}

/// Applied rather than created when it is absent, so that one field manager owns all of it and later commands can
/// remove fields; the Operator is the only writer.
fn desired(name: &str, spec: &TenantSpec, task: &Task<'_>, live: Option<NovaTenant>) -> NovaTenant {
    let (uid, resource_version) =
        live.map(|live| (live.metadata.uid, live.metadata.resource_version)).unwrap_or_default();
    let mut tenant = NovaTenant::new(name, spec.clone());
    tenant.metadata = ObjectMeta {
        name: Some(name.to_owned()),
        annotations: Some(annotations(task)),
        labels: Some([(labels::TENANT_ID.to_owned(), spec.tenant_id.clone())].into()),
        uid,
        resource_version,
        ..ObjectMeta::default()
    };
    tenant
}

fn progress(live: &NovaTenant) -> CommandProgress {
    if digest::is_ready(live) {
        return CommandProgress::succeeded("Ready", "the tenant is ready").at("ready");
    }
    let status = live.status.clone().unwrap_or_default();
    let waiting = status.conditions.iter().find(|found| found.type_ != condition::READY && found.status != "True");
    match waiting {
        Some(found) => CommandProgress::running(found.reason.clone(), format!("{}: {}", found.type_, found.message)),
        None => CommandProgress::running("Applied", "the tenant is applied"),
    }
    .at("applied")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_without_its_label_is_written_again() {
        let spec = TenantSpec { tenant_id: "t".to_owned(), ..TenantSpec::default() };
        let mut live = NovaTenant::new("acme", spec.clone());
        live.labels_mut().insert(labels::TENANT_ID.to_owned(), "t".to_owned());
        live.annotations_mut().insert(labels::COMMAND_ID.to_owned(), "a".to_owned());
        assert_eq!(difference(&live, &spec, "a"), None);
        assert_eq!(difference(&live, &spec, "b"), Some(Difference::Document));
        assert_eq!(difference(&live, &TenantSpec::default(), "a"), Some(Difference::Document));
        for label in [Some("another"), None] {
            live.labels_mut().remove(labels::TENANT_ID);
            live.labels_mut().extend(label.map(|label| (labels::TENANT_ID.to_owned(), label.to_owned())));
            assert_eq!(difference(&live, &spec, "a"), Some(Difference::Label), "{label:?}");
        }
    }
}
