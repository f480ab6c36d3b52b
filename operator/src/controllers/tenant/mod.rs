//! NovaTenant: creates a tenant's objects and its isolation in order, and deletes them in order.
//!
//! A reconcile has five phases: dereference (the object) → validate and build (`operator/core/src/tenant`) → apply
//! ([`apply`]) → status. Not ready is no error: the conditions say what is waited for. Before this file: `dispatch`
//! writes the NovaTenant.

mod apply;
mod order;
pub(crate) mod removal;

use super::{
    apply::DriftGuard,
    work::{self, Next},
};
use crate::{
    apiserver::{self, event, kinds, status, verbs, watch},
    context::ClusterContext,
    trace,
};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Resource, ResourceExt as _};
use kubenova_crds::{command::NovaCommand, conditions::ConditionStatus, labels, tenant::NovaTenant};
use kubenova_operator_core::{
    conditions::MergedConditions,
    tenant::{
        self, FINALIZER,
        report::{INVALID, Stopped, TenantReport},
    },
};
use kubenova_runtime::clock;
use std::time::Duration;

/// Time to the next reconcile of a ready tenant: drift that no watch shows is repaired within it.
const SETTLED: Duration = Duration::from_secs(120);

/// Reason of the event about an object that had lost the label with the tenant's id.
pub(super) const LABEL_REPAIRED: &str = "LabelRepaired";

/// Runs until the process stops.
pub async fn run(ctx: ClusterContext) {
    let client = ctx.apiserver.client();
    let tenants = watch::changes(Api::<NovaTenant>::all(client.clone()), "").map(|tenant| vec![tenant.name_any()]);
    // To a watch by a label, an object that loses the label is deleted.
    let capsule =
        watch::dynamic(kinds::capsule_tenants(&client), labels::TENANT_ID).map(|tenant| vec![tenant.name_any()]);
    let owners = watch::dynamic(kinds::tenant_owners(&client), labels::TENANT_ID).map(|owner| tenant_named_in(&owner));
    let namespaces = watch::changes(Api::<Namespace>::all(client.clone()), labels::TENANT_ID)
        .map(|namespace| tenant_named_in(&namespace));
    let triggers = stream::select(tenants, stream::select(capsule, stream::select(owners, namespaces)));
    let controller = TenantController {
        ctx: &ctx,
        records: Api::namespaced(client.clone(), &ctx.settings.state_namespace),
        tenants: Api::all(client),
        drift: DriftGuard::default(),
    };
    ctx.gates.set("tenants", None);
    work::run("tenants", triggers, &ctx.metrics, &ctx.shutdown, |name| controller.reconcile(name)).await;
}

fn tenant_named_in(object: &impl Resource) -> Vec<String> {
    tenant::tenant_of(&object.name_any()).map(str::to_owned).into_iter().collect()
}

struct TenantController<'a> {
    ctx: &'a ClusterContext,
    /// The inbox.
    records: Api<NovaCommand>,
    tenants: Api<NovaTenant>,
    drift: DriftGuard,
}

impl TenantController<'_> {
    async fn reconcile(&self, name: String) -> Next {
        let tenant = match verbs::get(&self.tenants, &name).await {
            Ok(Some(tenant)) => tenant,
            Ok(None) => return Next::OnChange,
            Err(error) => return failed(&name, "could not read a tenant; trying again", &error),
        };
        trace::name_in_span(&tenant);
        if tenant.metadata.deletion_timestamp.is_some() {
            return self.deleted(&tenant).await;
        }
        if let Err(error) = self.release(&tenant).await {
            return failed(&name, "could not take a tenant's finalizer off; trying again", &error);
        }
        let report = match tenant::validate(&tenant) {
            Ok(desired) => self.apply(&desired).await,
            Err(invalid) => TenantReport {
                stopped: Some(Stopped::new(
                    kubenova_crds::tenant::condition::CAPSULE_TENANT_READY,
                    INVALID,
                    invalid.to_string(),
                )),
                ..TenantReport::default()
            },
        };
        if let Err(error) = self.write_status(&tenant, &report).await {
            return failed(&name, "could not write a tenant's status; trying again", &error);
        }
        match &report.stopped {
            None => Next::After(report.left_for.map_or(SETTLED, |pause| pause.min(SETTLED))),
            Some(stopped) if stopped.reason == INVALID => Next::OnChange,
            Some(stopped) => Next::retry(&stopped.message),
        }
    }

    async fn remove_finalizer(&self, tenant: &NovaTenant) -> Result<(), apiserver::Error> {
        let mut tenant = tenant.clone();
        tenant.finalizers_mut().retain(|finalizer| finalizer != FINALIZER);
        match verbs::replace(&self.tenants, &tenant).await {
            Err(error) if error.is_not_found() => Ok(()),
            replaced => replaced.map(drop),
        }
    }

    async fn write_status(&self, tenant: &NovaTenant, report: &TenantReport) -> Result<(), apiserver::Error> {
        let generation = tenant.metadata.generation;
        let mut merged = MergedConditions::default();
        status::update(&self.tenants, &tenant.name_any(), |live| {
            merged = report.write_into(live.status.get_or_insert_default(), generation, clock::now());
            merged.changed
        })
        .await?;
        for repaired in &report.repaired {
            tracing::warn!(tenant.name = tenant.name_any(), repaired, "an object of a tenant had lost its label");
            let about = tenant.object_ref(&());
            event::publish(&self.ctx.apiserver, event::Kind::Warning, LABEL_REPAIRED, repaired, about).await;
        }
        let Some((ready, reason, message)) = TenantReport::ready_transition(&merged) else { return Ok(()) };
        tracing::info!(
            tenant.name = tenant.name_any(),
            ready = ready.as_str(),
            reason,
            message,
            "a tenant's condition Ready changed"
        );
        let kind = match ready {
            ConditionStatus::True => event::Kind::Normal,
            _ if report.stopped.as_ref().is_some_and(Stopped::is_passing) => return Ok(()),
            _ => event::Kind::Warning,
        };
        event::publish(&self.ctx.apiserver, kind, reason, message, tenant.object_ref(&())).await;
        Ok(())
    }
}

fn failed(name: &str, what: &'static str, error: &apiserver::Error) -> Next {
    let cause = apiserver::error::chain(error);
    tracing::warn!(tenant.name = name, error = cause, "{what}");
    Next::failed(cause, error)
}
