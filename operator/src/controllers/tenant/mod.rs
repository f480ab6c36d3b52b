//! NovaTenant: makes a tenant's walls stand, in order, and takes them down in order.
//!
//! Dereference (the object, whether ProxySettings are served) → validate and build (operator/core) → apply: Capsule
//! Tenant, namespaces, wait until Capsule lists both, identities, limits → status. Not ready is no error: a pass says
//! what it waits for. Before this: `dispatch` wrote the NovaTenant.

mod removal;

use super::{dispatch::Deployers, work};
use crate::{
    apiserver::{self, dynamic, event, kinds, status, verbs, watch},
    context::ClusterContext,
};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Resource as _, ResourceExt as _};
use kubenova_crds::{
    cluster_config::{NAME as CONFIG, NovaClusterConfig},
    conditions::{self, ConditionStatus},
    labels,
    tenant::{NovaTenant, TenantNamespace, condition},
};
use kubenova_operator_core::{
    components::object::Key,
    drift,
    tenant::{self, Capsule, FINALIZER, Wanted, build},
};
use kubenova_runtime::{clock, failpoint};
use serde_json::Value;
use std::time::Duration;

/// Time to the next pass while something is awaited.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// Time to the next pass after a failed call.
const RETRY: Duration = Duration::from_secs(5);
/// Time to the next pass of a ready tenant: drift that no watch sees is repaired within it.
const SETTLED: Duration = Duration::from_secs(120);

/// Runs until the process stops.
pub async fn run(ctx: ClusterContext) {
    let client = ctx.apiserver.client();
    let tenants = watch::changes(Api::<NovaTenant>::all(client.clone()), "").map(|tenant| vec![tenant.name_any()]);
    let capsule =
        watch::changes(kinds::capsule_tenants(&client), labels::TENANT_ID).map(|tenant| vec![tenant.name_any()]);
    let namespaces = watch::changes(Api::<Namespace>::all(client), labels::TENANT_ID)
        .map(|namespace| namespace.labels().get(labels::TENANT).cloned().into_iter().collect());
    let calls = stream::select(tenants, stream::select(capsule, namespaces));
    let deployers = Deployers::new(&ctx.apiserver);
    ctx.gates.set("tenants", None);
    work::run(calls, &ctx.shutdown, |name| {
        let (ctx, deployers) = (&ctx, &deployers);
        async move { reconcile(ctx, deployers, &name).await }
    })
    .await;
}

async fn reconcile(ctx: &ClusterContext, deployers: &Deployers, name: &str) -> Option<Duration> {
    let api: Api<NovaTenant> = Api::all(ctx.apiserver.client());
    let tenant = match verbs::get(&api, name).await {
        Ok(tenant) => tenant?,
        Err(error) => {
            tracing::debug!(tenant.name = name, error = %apiserver::error::chain(&error), "could not read a tenant; trying again");
            return Some(RETRY);
        }
    };
    if tenant.metadata.deletion_timestamp.is_some() {
        return removal::reconcile(ctx, deployers, &api, &tenant).await;
    }
    let found = apply(ctx, &api, &tenant).await;
    let next = match &found {
        Ok(report) if report.is_ready() => SETTLED,
        Ok(_) => UNDER_WAY,
        Err(_) => RETRY,
    };
    let report = found.unwrap_or_else(|error| {
        Report::stopped(condition::CAPSULE_TENANT_READY, "ApiserverError", apiserver::error::chain(&error))
    });
    if let Err(error) = write(ctx, &api, &tenant, &report).await {
        tracing::warn!(tenant.name = name, error = %apiserver::error::chain(&error), "could not write a tenant's status; trying again");
        return Some(RETRY);
    }
    Some(next)
}

/// Conditions of a pass, in order; the first that does not hold ends it.
#[derive(Debug, Default)]
struct Report {
    lines: Vec<(&'static str, ConditionStatus, &'static str, String)>,
    capsule: Capsule,
}

const STEPS: [&str; 4] =
    [condition::CAPSULE_TENANT_READY, condition::NAMESPACES_READY, condition::RBAC_READY, condition::QUOTA_APPLIED];

impl Report {
    fn holds(&mut self, condition: &'static str, message: &str) {
        self.lines.push((condition, ConditionStatus::True, "Applied", message.to_owned()));
    }

    fn ends(mut self, condition: &'static str, reason: &'static str, message: String) -> Self {
        self.lines.push((condition, ConditionStatus::False, reason, message));
        self
    }

    fn stopped(condition: &'static str, reason: &'static str, message: String) -> Self {
        Self::default().ends(condition, reason, message)
    }

    fn is_ready(&self) -> bool {
        self.lines.len() == STEPS.len() && self.lines.iter().all(|(_, truth, _, _)| *truth == ConditionStatus::True)
    }
}

async fn apply(ctx: &ClusterContext, api: &Api<NovaTenant>, tenant: &NovaTenant) -> Result<Report, apiserver::Error> {
    let wanted = match tenant::validate(tenant) {
        Ok(wanted) => wanted,
        Err(invalid) => return Ok(Report::stopped(condition::CAPSULE_TENANT_READY, "Invalid", invalid.to_string())),
    };
    if !tenant.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        let mut tenant = tenant.clone();
        tenant.finalizers_mut().push(FINALIZER.to_owned());
        verbs::replace(api, &tenant).await?;
    }
    // A new generation is applied whole, since what it no longer wants must go.
    let force = tenant.status.as_ref().and_then(|status| status.observed_generation) != tenant.metadata.generation;
    let mut report = Report::default();

    let capsule_tenant = build::capsule_tenant(&wanted, &ctx.settings.operator_user);
    if let Some(other) = belongs_to_other(ctx, &capsule_tenant, &wanted).await? {
        return Ok(report.ends(condition::CAPSULE_TENANT_READY, "NameTaken", other));
    }
    match ensure(ctx, &capsule_tenant, force).await {
        Ok(()) => {}
        Err(error) if error.is_not_found() => {
            let message = "Capsule is not installed yet; it comes with the cluster's configuration".to_owned();
            return Ok(report.ends(condition::CAPSULE_TENANT_READY, "CapsuleMissing", message));
        }
        Err(error) => {
            return Ok(report.ends(condition::CAPSULE_TENANT_READY, "ApplyFailed", apiserver::error::chain(&error)));
        }
    }
    failpoint::passing("tenant.capsule-applied");
    for namespace in &build::namespaces(&wanted) {
        if let Some(other) = belongs_to_other(ctx, namespace, &wanted).await? {
            return Ok(report.ends(condition::NAMESPACES_READY, "NamespaceTaken", other));
        }
        if let Err(error) = ensure(ctx, namespace, force).await {
            return Ok(report.ends(condition::NAMESPACES_READY, "ApplyFailed", apiserver::error::chain(&error)));
        }
    }
    failpoint::passing("tenant.namespaces-applied");
    let live = verbs::get(&kinds::capsule_tenants(&ctx.apiserver.client()), &wanted.name).await?;
    report.capsule = live.as_ref().map(kinds::to_value).transpose()?.as_ref().map(tenant::capsule).unwrap_or_default();
    if !report.capsule.ready {
        let message = format!("waiting for Capsule: {}", report.capsule.message);
        return Ok(report.ends(condition::CAPSULE_TENANT_READY, "CapsuleNotReady", message));
    }
    report.holds(condition::CAPSULE_TENANT_READY, "the Capsule Tenant is Ready");
    let missing = [build::owner_namespace(&wanted.name), build::apps_namespace(&wanted.name)]
        .into_iter()
        .find(|name| !report.capsule.spaces.iter().any(|(space, _)| space == name));
    if let Some(missing) = missing {
        return Ok(report.ends(
            condition::NAMESPACES_READY,
            "NotListed",
            format!("Capsule does not list namespace \"{missing}\" yet"),
        ));
    }
    report.holds(condition::NAMESPACES_READY, "both namespaces belong to the tenant");
    let objects = build::identities(&wanted, has_proxy(ctx).await?);
    if let Err(error) = ensure_all(ctx, &objects, force).await {
        return Ok(report.ends(condition::RBAC_READY, "ApplyFailed", apiserver::error::chain(&error)));
    }
    report.holds(condition::RBAC_READY, "identities and their roles are in place");
    failpoint::passing("tenant.identities-applied");
    if let Err(error) = ensure_all(ctx, &build::limits(&wanted), force).await {
        return Ok(report.ends(condition::QUOTA_APPLIED, "ApplyFailed", apiserver::error::chain(&error)));
    }
    report.holds(condition::QUOTA_APPLIED, "quota, limits and network policies are in place");
    Ok(report)
}

/// ProxySettings are part of a tenant only where Capsule Proxy is.
async fn has_proxy(ctx: &ClusterContext) -> Result<bool, apiserver::Error> {
    let configs: Api<NovaClusterConfig> = Api::all(ctx.apiserver.client());
    let components = verbs::get(&configs, CONFIG).await?.and_then(|config| config.spec.components);
    Ok(components.is_some_and(|components| components.capsule_proxy.enabled))
}

/// Words for an object of this name that is there and not this tenant's: it is never taken over.
async fn belongs_to_other(
    ctx: &ClusterContext,
    object: &Value,
    wanted: &Wanted,
) -> Result<Option<String>, apiserver::Error> {
    let Some(key) = Key::of(object) else { return Ok(None) };
    // A kind that is not served has no such object; applying ours says so in better words.
    let live = match dynamic::get(&ctx.apiserver.client(), &key).await {
        Err(error) if error.is_not_found() => None,
        read => read?,
    };
    let Some(live) = live else { return Ok(None) };
    if live.labels().get(labels::TENANT_ID) == Some(&wanted.tenant_id) {
        return Ok(None);
    }
    Ok(Some(format!("{} \"{}\" exists and does not belong to this tenant; rename or remove it", key.kind, key.name)))
}

async fn ensure_all(ctx: &ClusterContext, objects: &[Value], force: bool) -> Result<(), apiserver::Error> {
    for object in objects {
        ensure(ctx, object, force).await?;
    }
    Ok(())
}

/// Applies an object unless the live one says all of it already.
async fn ensure(ctx: &ClusterContext, wanted: &Value, force: bool) -> Result<(), apiserver::Error> {
    let client = ctx.apiserver.client();
    if let (Some(key), false) = (Key::of(wanted), force)
        && let Some(live) = dynamic::get(&client, &key).await?
        && drift::is_superset(&kinds::to_value(&live)?, wanted)
    {
        return Ok(());
    }
    dynamic::apply(&client, wanted).await.map(drop)
}

async fn write(
    ctx: &ClusterContext,
    api: &Api<NovaTenant>,
    tenant: &NovaTenant,
    report: &Report,
) -> Result<(), apiserver::Error> {
    let generation = tenant.metadata.generation;
    let mut news = None;
    status::update(api, &tenant.name_any(), |live| {
        news = None;
        let status = live.status.get_or_insert_default();
        let now = clock::now();
        let mut changed = false;
        for step in STEPS {
            let line = report.lines.iter().find(|(condition, ..)| *condition == step);
            let (truth, reason, message) = line.map_or(
                (ConditionStatus::Unknown, "NotReached", "waits for what comes before it"),
                |(_, truth, reason, message)| (*truth, *reason, message.as_str()),
            );
            changed |= conditions::set(&mut status.conditions, step, truth, reason, message, generation, now);
        }
        let (truth, reason, message) = match report.lines.iter().find(|(_, truth, ..)| *truth != ConditionStatus::True)
        {
            Some((step, _, reason, message)) => (ConditionStatus::False, *reason, format!("{step}: {message}")),
            None => (ConditionStatus::True, "Ready", "the tenant is ready".to_owned()),
        };
        let before =
            status.conditions.iter().find(|found| found.type_ == condition::READY).map(|found| found.reason.clone());
        changed |= conditions::set(&mut status.conditions, condition::READY, truth, reason, &message, generation, now);
        if before.as_deref() != Some(reason) {
            news = Some((truth, reason, message));
        }
        let spaces: Vec<TenantNamespace> = report
            .capsule
            .spaces
            .iter()
            .map(|(name, uid)| TenantNamespace { name: name.clone(), uid: uid.clone() })
            .collect();
        let ready = format!("{}/2", spaces.len().min(2));
        // What a pass did not get to know stays as it was.
        if !report.capsule.state.is_empty()
            && (status.tenant_state != report.capsule.state
                || status.namespaces != spaces
                || status.namespaces_ready != ready)
        {
            report.capsule.state.clone_into(&mut status.tenant_state);
            status.namespaces = spaces;
            status.namespaces_ready = ready;
            changed = true;
        }
        // Observed means applied: a generation that failed half way is applied whole again.
        if report.is_ready() && status.observed_generation != generation {
            status.observed_generation = generation;
            changed = true;
        }
        changed
    })
    .await?;
    if let Some((truth, reason, message)) = news {
        tracing::info!(tenant.name = tenant.name_any(), reason, message, "a tenant's condition changed");
        if truth == ConditionStatus::False && reason != "CapsuleNotReady" && reason != "NotListed" {
            event::publish(&ctx.apiserver, event::Kind::Warning, reason, &message, tenant.object_ref(&())).await;
        } else if truth == ConditionStatus::True {
            event::publish(&ctx.apiserver, event::Kind::Normal, reason, &message, tenant.object_ref(&())).await;
        }
    }
    Ok(())
}
