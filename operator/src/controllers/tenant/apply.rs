//! The objects of a tenant, applied in order: Capsule Tenant, namespaces, wait until Capsule lists both, identities,
//! limits. The first step that cannot be completed ends the reconcile with its condition.

use super::TenantController;
use crate::{
    apiserver::{self, dynamic, kinds, verbs},
    controllers::apply::Ensured,
};
use kube::{Api, ResourceExt, api::ObjectMeta, core::DynamicObject};
use kubenova_crds::{
    cluster_config::{NAME as CONFIG, NovaClusterConfig},
    tenant::{TenantObject, condition},
};
use kubenova_operator_core::{
    components::object::Key,
    tenant::{
        DesiredTenant, apps_namespace, build,
        capsule::{CapsuleStatus, TENANT_OWNER},
        limits, owner_namespace,
        ownership::{self, Ownership},
        report::{CAPSULE_NOT_READY, NAMESPACE_NOT_LISTED, Stopped, TenantReport},
    },
};
use kubenova_runtime::failpoint;
use serde_json::Value;

impl TenantController<'_> {
    pub(super) async fn apply(&self, tenant: &DesiredTenant) -> TenantReport {
        let mut report = TenantReport::default();
        report.stopped = self.apply_steps(tenant, &mut report).await.err();
        report
    }

    async fn apply_steps(&self, tenant: &DesiredTenant, report: &mut TenantReport) -> Result<(), Stopped> {
        let before = self.apply_capsule_tenant(tenant, report).await?;
        failpoint::passing("tenant.capsule-applied");
        self.apply_namespaces(tenant, &before, report).await?;
        failpoint::passing("tenant.namespaces-applied");
        report.capsule = self.read_capsule_tenant(tenant).await?;
        if !report.capsule.ready {
            let message = match report.capsule.message.as_str() {
                "" => "waiting for Capsule to reconcile the Tenant".to_owned(),
                words => format!("waiting for Capsule: {words}"),
            };
            return Err(Stopped::new(condition::CAPSULE_TENANT_READY, CAPSULE_NOT_READY, message));
        }
        report.reached.push((condition::CAPSULE_TENANT_READY, "the Capsule Tenant is ready"));
        all_listed(tenant, &report.capsule)?;
        report.reached.push((condition::NAMESPACES_READY, "both namespaces belong to the tenant"));
        self.apply_identities(tenant, report).await?;
        report.reached.push((condition::RBAC_READY, "ServiceAccounts and their roles are in place"));
        failpoint::passing("tenant.identities-applied");
        for object in limits::limits(tenant, &self.ctx.settings.tenants.limits()) {
            self.ensure(&object, condition::QUOTA_APPLIED, report).await?;
        }
        report.reached.push((condition::QUOTA_APPLIED, "quota, limits and network policies are in place"));
        Ok(())
    }

    /// Returns what Capsule said about the Tenant before.
    async fn apply_capsule_tenant(
        &self,
        tenant: &DesiredTenant,
        report: &mut TenantReport,
    ) -> Result<CapsuleStatus, Stopped> {
        let desired = build::capsule_tenant(tenant, &self.ctx.settings.operator_user);
        let own = self.read_own(desired, tenant, condition::CAPSULE_TENANT_READY, "NameTaken").await?;
        let before = own.live.as_ref().map(kinds::to_value).transpose();
        let before = before.map_err(|error| read_failed(condition::CAPSULE_TENANT_READY, &error))?;
        match self.drift.ensure_over(&self.ctx.apiserver, own.metadata(), &own.desired).await {
            Err(error) if error.is_not_found() => Err(Stopped::new(
                condition::CAPSULE_TENANT_READY,
                "CapsuleMissing",
                "Capsule is not installed yet; the Operator installs it when the cluster's configuration enables it, see: \
                 kubectl describe novaclusterconfig default",
            )),
            Err(error) => Err(apply_failed(condition::CAPSULE_TENANT_READY, &error)),
            Ok(applied) => {
                own.report(&applied, report);
                Ok(before.as_ref().map(CapsuleStatus::of).unwrap_or_default())
            }
        }
    }

    /// Capsule takes a namespace into the Tenant when its webhook sees it written. One that was written while the
    /// webhook did not stand, or did not know the Tenant yet, is written again until Capsule lists it.
    async fn apply_namespaces(
        &self,
        tenant: &DesiredTenant,
        capsule: &CapsuleStatus,
        report: &mut TenantReport,
    ) -> Result<(), Stopped> {
        let client = self.ctx.apiserver.client();
        for namespace in build::namespaces(tenant) {
            let own = self.read_own(namespace, tenant, condition::NAMESPACES_READY, "NamespaceTaken").await?;
            let applied = match own.metadata() {
                Some(live) if !capsule.lists(&own.key.name) => {
                    let applied = self.drift.apply(&client, Some(live), &own.desired).await;
                    applied.map(|applied| Ensured::Applied(Box::new(applied)))
                }
                live => self.drift.ensure_over(&self.ctx.apiserver, live, &own.desired).await,
            };
            own.report(&applied.map_err(|error| apply_failed(condition::NAMESPACES_READY, &error))?, report);
        }
        Ok(())
    }

    /// ServiceAccounts are in the tenant's own namespaces; TenantOwners may have been made by others.
    async fn apply_identities(&self, tenant: &DesiredTenant, report: &mut TenantReport) -> Result<(), Stopped> {
        for object in build::identities(tenant, self.has_proxy().await?) {
            if object["kind"] != TENANT_OWNER {
                self.ensure(&object, condition::RBAC_READY, report).await?;
                continue;
            }
            let own = self.read_own(object, tenant, condition::RBAC_READY, "NameTaken").await?;
            let applied = self.drift.ensure_over(&self.ctx.apiserver, own.metadata(), &own.desired).await;
            own.report(&applied.map_err(|error| apply_failed(condition::RBAC_READY, &error))?, report);
        }
        Ok(())
    }

    async fn read_capsule_tenant(&self, tenant: &DesiredTenant) -> Result<CapsuleStatus, Stopped> {
        let tenants = kinds::capsule_tenants(&self.ctx.apiserver.client());
        let read = async {
            let live = verbs::get(&tenants, &tenant.name).await?;
            live.as_ref().map(kinds::to_value).transpose()
        };
        let live = read.await.map_err(|error| read_failed(condition::CAPSULE_TENANT_READY, &error))?;
        Ok(live.as_ref().map(CapsuleStatus::of).unwrap_or_default())
    }

    /// ProxySettings are part of a tenant only where Capsule Proxy is.
    async fn has_proxy(&self) -> Result<bool, Stopped> {
        let configs: Api<NovaClusterConfig> = Api::all(self.ctx.apiserver.client());
        let config = verbs::get(&configs, CONFIG).await.map_err(|error| read_failed(condition::RBAC_READY, &error))?;
        let components = config.and_then(|config| config.spec.components);
        Ok(components.is_some_and(|components| components.capsule_proxy.component.enabled))
    }

    /// Reads the live object. One of this name that is not this tenant's is never taken over.
    async fn read_own(
        &self,
        desired: Value,
        tenant: &DesiredTenant,
        condition: &'static str,
        reason: &'static str,
    ) -> Result<OwnObject, Stopped> {
        let key = Key::of(&desired).ok_or_else(|| Stopped::new(condition, "Invalid", "an object without a name"))?;
        let live = match dynamic::get(&self.ctx.apiserver.client(), &key).await {
            // A kind that is not served has no such object; the apply that follows names the cause.
            Err(error) if error.is_not_found() => None,
            read => read.map_err(|error| read_failed(condition, &error))?,
        };
        let ownership = live.as_ref().map(|live| Ownership::of(&live.metadata, &tenant.tenant_id, &tenant.objects));
        if ownership == Some(Ownership::Foreign) {
            let message = ownership::taken(&key.kind, &key.name, &tenant.tenant_id);
            return Err(Stopped::new(condition, reason, message));
        }
        Ok(OwnObject { key, desired, live, has_lost_label: ownership == Some(Ownership::Unlabelled) })
    }

    async fn ensure(&self, object: &Value, condition: &'static str, report: &mut TenantReport) -> Result<(), Stopped> {
        let ensured = self.drift.ensure(&self.ctx.apiserver, object).await;
        note_left(&ensured.map_err(|error| apply_failed(condition, &error))?, report);
        Ok(())
    }
}

/// An object of the tenant, as it is and as it should be.
struct OwnObject {
    key: Key,
    desired: Value,
    live: Option<DynamicObject>,
    has_lost_label: bool,
}

impl OwnObject {
    fn metadata(&self) -> Option<&ObjectMeta> {
        self.live.as_ref().map(|live| &live.metadata)
    }

    /// Remembers the object, and says so when an apply has given it its label again.
    fn report(&self, ensured: &Ensured, report: &mut TenantReport) {
        let applied = match ensured {
            Ensured::Applied(applied) => Some(&**applied),
            Ensured::AsDesired | Ensured::LeftFor(_) => None,
        };
        if self.has_lost_label && applied.is_some() {
            report.repaired.push(ownership::repaired(&self.key.kind, &self.key.name));
        }
        note_left(ensured, report);
        let (kind, name) = (self.key.kind.clone(), self.key.name.clone());
        if let Some(uid) = applied.or(self.live.as_ref()).and_then(ResourceExt::uid) {
            report.objects.push(TenantObject { kind, name, uid });
        }
    }
}

/// Remembers when an object that is left as others made it is due.
fn note_left(ensured: &Ensured, report: &mut TenantReport) {
    if let Ensured::LeftFor(pause) = ensured {
        report.left_for = Some(report.left_for.map_or(*pause, |known| known.min(*pause)));
    }
}

fn all_listed(tenant: &DesiredTenant, capsule: &CapsuleStatus) -> Result<(), Stopped> {
    let missing =
        [owner_namespace(&tenant.name), apps_namespace(&tenant.name)].into_iter().find(|name| !capsule.lists(name));
    let Some(missing) = missing else { return Ok(()) };
    let message = format!("waiting for Capsule to list namespace \"{missing}\"");
    Err(Stopped::new(condition::NAMESPACES_READY, NAMESPACE_NOT_LISTED, message))
}

fn apply_failed(condition: &'static str, error: &apiserver::Error) -> Stopped {
    Stopped::new(condition, "ApplyFailed", format!("{}; trying again", apiserver::error::chain(error)))
}

fn read_failed(condition: &'static str, error: &apiserver::Error) -> Stopped {
    Stopped::new(condition, "ApiserverError", format!("{}; trying again", apiserver::error::chain(error)))
}
