//! The objects of a tenant, applied in order: Capsule Tenant, namespaces, wait until Capsule lists both, identities,
//! limits. The first step that cannot be completed ends the reconcile with its condition.

use super::TenantController;
use crate::apiserver::{self, dynamic, kinds, verbs};
use kube::{Api, ResourceExt as _, core::DynamicObject};
use kubenova_crds::{
    cluster_config::{NAME as CONFIG, NovaClusterConfig},
    labels,
    tenant::condition,
};
use kubenova_operator_core::{
    components::object::Key,
    tenant::{
        DesiredTenant, apps_namespace, build,
        capsule::CapsuleStatus,
        limits, owner_namespace,
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
        let before = self.apply_capsule_tenant(tenant).await?;
        failpoint::passing("tenant.capsule-applied");
        self.apply_namespaces(tenant, &before).await?;
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
        let identities = build::identities(tenant, self.has_proxy().await?);
        self.ensure_all(&identities, condition::RBAC_READY).await?;
        report.reached.push((condition::RBAC_READY, "ServiceAccounts and their roles are in place"));
        failpoint::passing("tenant.identities-applied");
        self.ensure_all(&limits::limits(tenant), condition::QUOTA_APPLIED).await?;
        report.reached.push((condition::QUOTA_APPLIED, "quota, limits and network policies are in place"));
        Ok(())
    }

    /// Returns what Capsule said about the Tenant before.
    async fn apply_capsule_tenant(&self, tenant: &DesiredTenant) -> Result<CapsuleStatus, Stopped> {
        let object = build::capsule_tenant(tenant, &self.ctx.settings.operator_user);
        let live = self.read_own(&object, tenant, condition::CAPSULE_TENANT_READY, "NameTaken").await?;
        let before = live.as_ref().map(kinds::to_value).transpose();
        let before = before.map_err(|error| read_failed(condition::CAPSULE_TENANT_READY, &error))?;
        match self.drift.ensure_over(&self.ctx.apiserver, live.as_ref(), &object).await {
            Err(error) if error.is_not_found() => Err(Stopped::new(
                condition::CAPSULE_TENANT_READY,
                "CapsuleMissing",
                "Capsule is not installed yet; the Operator installs it when the cluster's configuration enables it, see: \
                 kubectl describe novaclusterconfig default",
            )),
            Err(error) => Err(apply_failed(condition::CAPSULE_TENANT_READY, &error)),
            Ok(()) => Ok(before.as_ref().map(CapsuleStatus::of).unwrap_or_default()),
        }
    }

    /// Capsule takes a namespace into the Tenant when its webhook sees it written. One that was written while the
    /// webhook did not stand, or did not know the Tenant yet, is written again until Capsule lists it.
    async fn apply_namespaces(&self, tenant: &DesiredTenant, capsule: &CapsuleStatus) -> Result<(), Stopped> {
        let client = self.ctx.apiserver.client();
        for namespace in &build::namespaces(tenant) {
            let live = self.read_own(namespace, tenant, condition::NAMESPACES_READY, "NamespaceTaken").await?;
            let applied = match live {
                Some(live) if !capsule.lists(&live.name_any()) => self.drift.apply(&client, namespace).await,
                live => self.drift.ensure_over(&self.ctx.apiserver, live.as_ref(), namespace).await,
            };
            applied.map_err(|error| apply_failed(condition::NAMESPACES_READY, &error))?;
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
        Ok(components.is_some_and(|components| components.capsule_proxy.enabled))
    }

    /// Reads the live object. One of this name that is not this tenant's is never taken over.
    async fn read_own(
        &self,
        object: &Value,
        tenant: &DesiredTenant,
        condition: &'static str,
        reason: &'static str,
    ) -> Result<Option<DynamicObject>, Stopped> {
        let Some(key) = Key::of(object) else { return Ok(None) };
        let live = match dynamic::get(&self.ctx.apiserver.client(), &key).await {
            // A kind that is not served has no such object; the apply that follows names the cause.
            Err(error) if error.is_not_found() => None,
            read => read.map_err(|error| read_failed(condition, &error))?,
        };
        if live.as_ref().is_none_or(|live| live.labels().get(labels::TENANT_ID) == Some(&tenant.tenant_id)) {
            return Ok(live);
        }
        let message = format!(
            "{} \"{}\" exists and does not belong to this tenant; delete it, or delete this tenant and create it with \
             another name",
            key.kind, key.name
        );
        Err(Stopped::new(condition, reason, message))
    }

    async fn ensure_all(&self, objects: &[Value], condition: &'static str) -> Result<(), Stopped> {
        for object in objects {
            self.ensure(object, condition).await?;
        }
        Ok(())
    }

    async fn ensure(&self, object: &Value, condition: &'static str) -> Result<(), Stopped> {
        let ensured = self.drift.ensure(&self.ctx.apiserver, object).await;
        ensured.map_err(|error| apply_failed(condition, &error))
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
