//! Reads an Application, and what KubeVela does not report about it.

use crate::{
    apiserver::{self, kinds, verbs},
    context::ClusterContext,
    controllers::orphans::NAME_LABEL,
};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, ResourceExt as _, core::DynamicObject};
use kubenova_crds::labels;
use kubenova_operator_core::application::status::{self, Findings};
use kubenova_schema::v1::ObjectStatus;

/// Status of one application.
///
/// # Errors
/// When its Deployments cannot be read.
pub async fn one(ctx: &ClusterContext, live: &DynamicObject) -> Result<Option<ObjectStatus>, apiserver::Error> {
    let findings = findings(ctx, live).await?;
    Ok(status::status(&kinds::to_value(live)?, &findings))
}

/// Status of every application of every tenant.
///
/// # Errors
/// When they or their Deployments cannot be listed.
pub async fn all(ctx: &ClusterContext) -> Result<Vec<ObjectStatus>, apiserver::Error> {
    let mut statuses = Vec::new();
    for live in kinds::list_if_served(&kinds::applications(&ctx.apiserver.client()), labels::TENANT_ID).await? {
        statuses.extend(one(ctx, &live).await?);
    }
    Ok(statuses)
}

/// KubeVela says that it runs.
#[must_use]
pub fn is_running(live: &DynamicObject) -> bool {
    live.data.pointer("/status/status").is_some_and(|status| status == "running")
}

/// Why its Deployments have no pods, when they have none.
///
/// # Errors
/// When they cannot be listed.
pub async fn findings(ctx: &ClusterContext, live: &DynamicObject) -> Result<Findings, apiserver::Error> {
    if is_running(live) {
        return Ok(Findings::default());
    }
    let namespace = live.namespace().unwrap_or_default();
    let api: Api<Deployment> = Api::namespaced(ctx.apiserver.client(), &namespace);
    // A Deployment that changes makes the application be looked at again.
    let deployments = verbs::list_recent(&api, &format!("{NAME_LABEL}={}", live.name_any())).await?;
    let failure = |deployment: &Deployment| {
        let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
        let failed = conditions.iter().find(|condition| {
            condition.type_.as_deref() == Some("ReplicaFailure") && condition.status.as_deref() == Some("True")
        })?;
        Some((deployment.name_any(), failed.message.clone().unwrap_or_default()))
    };
    Ok(Findings { replica_failures: deployments.iter().filter_map(failure).collect() })
}
