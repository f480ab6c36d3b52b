//! Reports our own kinds: their status into the status cache, and what sums up others: the last two conditions of the cluster's
//! configuration (`UsageReporting` and `Ready`), and what a tenant's applications and its quota have come to.

use super::work::{self, Next};
use crate::{
    apiserver::{self, status, verbs, watch},
    context::ClusterContext,
    metering::UsageHealth,
};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::{Api, ResourceExt as _};
use kubenova_crds::{
    cluster_config::{NAME, NovaClusterConfig, condition},
    conditions::ConditionStatus,
    tenant::NovaTenant,
};
use kubenova_operator_core::{
    conditions::ConditionSet,
    observed, ready,
    tenant::{apps_namespace, limits, quota},
};
use kubenova_runtime::clock;
use std::{fmt, time::Duration};
use tokio::sync::watch::Receiver;

/// Time between reports when no watch asks for one.
const INTERVAL: Duration = Duration::from_secs(120);

/// An object that is reported.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Reported {
    ClusterConfig,
    /// The id is part of the key: when another tenant takes the name, the first one is reported as gone.
    Tenant {
        id: String,
        name: String,
    },
}

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterConfig => f.write_str("cluster-config"),
            Self::Tenant { id, name } => write!(f, "tenant {name} ({id})"),
        }
    }
}

/// Runs until the process stops.
pub async fn run(ctx: ClusterContext, usage: Receiver<UsageHealth>) {
    let client = ctx.apiserver.client();
    let configs =
        watch::changes(Api::<NovaClusterConfig>::all(client.clone()), "").map(|_| vec![Reported::ClusterConfig]);
    let tenants = watch::changes(Api::<NovaTenant>::all(client), "")
        .map(|tenant| vec![Reported::Tenant { id: tenant.spec.tenant_id.clone(), name: tenant.name_any() }]);
    let mut changes = usage.clone();
    let changes = stream::unfold(&mut changes, |usage| async move {
        usage.changed().await.ok()?;
        Some((vec![Reported::ClusterConfig], usage))
    });
    let applications = ctx.status.tenants_with_changes().map(|ids| {
        let named = |id| {
            let tenant = ctx.tenants.find(|tenant| tenant.tenant_id == id)?;
            Some(Reported::Tenant { id, name: tenant.name.clone() })
        };
        ids.into_iter().filter_map(named).collect()
    });
    let triggers = stream::select(stream::select(configs, tenants), stream::select(changes, applications));
    work::run("report", triggers, &ctx.metrics, &ctx.shutdown, |object| reconcile(&ctx, &usage, object)).await;
}

async fn reconcile(ctx: &ClusterContext, usage: &Receiver<UsageHealth>, object: Reported) -> Next {
    let reported = match &object {
        Reported::ClusterConfig => report_cluster_config(ctx, usage).await,
        Reported::Tenant { id, name } => report_tenant(ctx, id, name).await,
    };
    match reported {
        Ok(next) => next,
        Err(error) => {
            let cause = apiserver::error::chain(&error);
            tracing::debug!(?object, error = cause, "could not report an object's status; trying again");
            Next::failed(cause, &error)
        }
    }
}

async fn report_tenant(ctx: &ClusterContext, id: &str, name: &str) -> Result<Next, apiserver::Error> {
    let api: Api<NovaTenant> = Api::all(ctx.apiserver.client());
    let Some(tenant) = verbs::get(&api, name).await?.filter(|tenant| tenant.spec.tenant_id == id) else {
        ctx.status.remove(&observed::tenant_key(id));
        return Ok(Next::OnChange);
    };
    let tenant = match tenant.metadata.deletion_timestamp {
        None => sum_up(ctx, &api, tenant).await?,
        Some(_) => Some(tenant),
    };
    if let Some(tenant) = tenant {
        ctx.status.put(observed::tenant(&tenant));
    }
    Ok(Next::After(INTERVAL))
}

/// Writes what the tenant's applications and its quota have come to, where it differs.
async fn sum_up(
    ctx: &ClusterContext,
    api: &Api<NovaTenant>,
    tenant: NovaTenant,
) -> Result<Option<NovaTenant>, apiserver::Error> {
    let name = tenant.name_any();
    let quotas: Api<ResourceQuota> = Api::namespaced(ctx.apiserver.client(), &apps_namespace(&name));
    let used = verbs::get(&quotas, limits::NAME).await?.as_ref().map(quota::used).unwrap_or_default();
    let applications = ctx.status.applications_of(&tenant.spec.tenant_id);
    status::update_from(api, tenant, |live| {
        let (generation, now) = (live.metadata.generation, clock::now());
        let status = live.status.get_or_insert_default();
        let mut changed = status.quota_used != used;
        used.clone_into(&mut status.quota_used);
        if let Some(applications) = &applications {
            changed |= applications.write_into(status, &name, generation, now);
        }
        changed
    })
    .await
}

async fn report_cluster_config(ctx: &ClusterContext, usage: &Receiver<UsageHealth>) -> Result<Next, apiserver::Error> {
    let api: Api<NovaClusterConfig> = Api::all(ctx.apiserver.client());
    let usage = usage.borrow().clone();
    let written = status::update(&api, NAME, |config| {
        let (generation, now) = (config.metadata.generation, clock::now());
        let status = config.status.get_or_insert_default();
        let mut changed = usage_condition(&usage).merge_into(&mut status.conditions, generation, now).changed;
        changed |= ready::of_cluster(&status.conditions).merge_into(&mut status.conditions, generation, now).changed;
        if status.observed_generation != generation {
            status.observed_generation = generation;
            changed = true;
        }
        changed
    })
    .await?;
    if let Some(status) = written.as_ref().and_then(observed::cluster_config) {
        ctx.status.put(status);
    }
    Ok(Next::After(INTERVAL))
}

fn usage_condition(usage: &UsageHealth) -> ConditionSet {
    let status = match (usage.reporting, usage.reason) {
        (true, _) => ConditionStatus::True,
        (false, "Starting") => ConditionStatus::Unknown,
        (false, _) => ConditionStatus::False,
    };
    let mut set = ConditionSet::new();
    match &usage.conflict {
        Some(conflict) if status == ConditionStatus::True => {
            set.set_false(condition::USAGE_REPORTING, "ReceiptConflict", conflict);
        }
        _ => set.set(condition::USAGE_REPORTING, status, usage.reason, &usage.message),
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metering;

    #[test]
    fn a_window_in_conflict_is_shown_as_long_as_nothing_worse_is() {
        let reason = |usage: &UsageHealth| {
            usage_condition(usage).get(condition::USAGE_REPORTING).map(|shown| (shown.status, shown.reason.clone()))
        };
        let (_sender, health) = metering::health();
        let starting = health.borrow().clone();
        let measuring = UsageHealth { reporting: true, reason: "Measuring", ..starting.clone() };
        let conflict = UsageHealth { conflict: Some("other bytes".to_owned()), ..measuring.clone() };
        let away = UsageHealth { reporting: false, reason: "APIServerUnreachable", ..conflict.clone() };
        for (usage, status, word) in [
            (&starting, ConditionStatus::Unknown, "Starting"),
            (&measuring, ConditionStatus::True, "Measuring"),
            (&conflict, ConditionStatus::False, "ReceiptConflict"),
            (&away, ConditionStatus::False, "APIServerUnreachable"),
        ] {
            assert_eq!(reason(usage), Some((status, word.to_owned())));
        }
    }
}
