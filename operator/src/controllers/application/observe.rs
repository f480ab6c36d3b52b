//! Reads an Application, and what KubeVela does not report about it: why its workloads have no pods that run, and whether its tenant
//! is ready.

use crate::{
    apiserver::{
        self, kinds,
        verbs::{self, Listed},
    },
    context::ClusterContext,
    controllers::orphans::NAME_LABEL,
};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, StatefulSet},
    batch::v1::Job,
    core::v1::{Event, Pod},
};
use kube::{Api, Client, ResourceExt as _, core::DynamicObject};
use kubenova_crds::labels;
use kubenova_operator_core::{
    application::{
        failure::{self, FAILED_CREATE, Failure, HasHealth, Health, Lacking},
        made::Made,
        status::{self, Findings},
    },
    tenant::digest::NotReady,
};
use kubenova_schema::v1::ObjectStatus;

/// Workloads whose pods are looked at: one failure is reported.
const LOOKED_AT_MAX: usize = 3;

/// Status of one application.
///
/// # Errors
/// When its workloads cannot be read.
pub async fn one(ctx: &ClusterContext, live: &DynamicObject) -> Result<Option<ObjectStatus>, apiserver::Error> {
    let findings = findings(ctx, live).await?;
    Ok(status::status(&kinds::to_value(live)?, &findings))
}

/// Status of every application of every tenant; not complete when it cannot be said of one whose it is.
///
/// # Errors
/// When they or their workloads cannot be listed.
pub async fn all(ctx: &ClusterContext) -> Result<Listed<ObjectStatus>, apiserver::Error> {
    let applications = kinds::applications(&ctx.apiserver.client());
    let Listed { objects, is_complete } = kinds::list_whole_if_served(&applications, labels::TENANT_ID).await?;
    let mut statuses = Listed { objects: Vec::with_capacity(objects.len()), is_complete };
    for live in objects {
        let status = one(ctx, &live).await?;
        statuses.is_complete &= status.is_some();
        statuses.objects.extend(status);
    }
    Ok(statuses)
}

/// KubeVela says that it runs.
fn is_running(live: &DynamicObject) -> bool {
    live.data.pointer("/status/status").is_some_and(|status| status == "running")
}

/// What the cluster says about an application beyond KubeVela's status.
///
/// # Errors
/// When its workloads, their events or pods cannot be listed.
pub async fn findings(ctx: &ClusterContext, live: &DynamicObject) -> Result<Findings, apiserver::Error> {
    // A tenant would be missing that only was not listed yet.
    ctx.tenants.complete().await;
    let tenant_id = live.labels().get(labels::TENANT_ID).cloned().unwrap_or_default();
    let tenant = match ctx.tenants.find(|tenant| tenant.tenant_id == tenant_id) {
        Some(tenant) => tenant.not_ready.clone(),
        None => Some(NotReady::absent()),
    };
    let failure = if is_running(live) { None } else { first_failure(&ctx.apiserver.client(), live).await? };
    Ok(Findings { failure, tenant })
}

/// The first that is wrong with its workloads. Only kinds that it has made are asked for.
async fn first_failure(client: &Client, live: &DynamicObject) -> Result<Option<Failure>, apiserver::Error> {
    let made = Made::of(&kinds::to_value(live)?);
    let has = |kind: &str| made.objects.iter().any(|object| object.kind == kind);
    let namespace = live.namespace().unwrap_or_default();
    let search = Search { client, namespace: &namespace, selector: format!("{NAME_LABEL}={}", live.name_any()) };
    let mut healths = Vec::new();
    if has("Deployment") {
        healths.extend(search.healths::<Deployment>().await?);
    }
    if has("StatefulSet") {
        healths.extend(search.healths::<StatefulSet>().await?);
    }
    if has("DaemonSet") {
        healths.extend(search.healths::<DaemonSet>().await?);
    }
    if has("Job") || has("CronJob") {
        healths.extend(search.healths::<Job>().await?);
    }
    search.first_failure(healths).await
}

/// The workloads of an application.
struct Search<'a> {
    client: &'a Client,
    namespace: &'a str,
    selector: String,
}

impl Search<'_> {
    async fn healths<K>(&self) -> Result<Vec<Health>, apiserver::Error>
    where
        K: verbs::Object<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + HasHealth,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), self.namespace);
        Ok(verbs::list_recent(&api, &self.selector).await?.iter().map(HasHealth::health).collect())
    }

    async fn first_failure(&self, healths: Vec<Health>) -> Result<Option<Failure>, apiserver::Error> {
        let (mut without_pods, mut not_ready) = (Vec::new(), Vec::new());
        for health in healths {
            match health {
                Health::Fine => {}
                Health::Failed(failure) => return Ok(Some(failure)),
                Health::LacksPods(lacking) => without_pods.push(lacking),
                Health::NotReady(lacking) => not_ready.push(lacking),
            }
        }
        for lacking in without_pods.iter().take(LOOKED_AT_MAX) {
            if let Some(failure) = self.failed_create(lacking).await? {
                return Ok(Some(failure));
            }
        }
        for lacking in without_pods.iter().chain(&not_ready).take(LOOKED_AT_MAX) {
            if let Some(failure) = self.failing_pod(lacking).await? {
                return Ok(Some(failure));
            }
        }
        Ok(None)
    }

    /// Why its pods could not be made, last.
    async fn failed_create(&self, lacking: &Lacking) -> Result<Option<Failure>, apiserver::Error> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), self.namespace);
        let fields = format!("involvedObject.uid={},reason={FAILED_CREATE}", lacking.uid);
        let events = verbs::list_recent_by_fields(&events, &fields).await?;
        let newest = events.iter().max_by_key(|event| failure::time_of(event));
        Ok(newest.map(|event| lacking.failure(event)))
    }

    async fn failing_pod(&self, lacking: &Lacking) -> Result<Option<Failure>, apiserver::Error> {
        if lacking.selector.is_empty() {
            return Ok(None);
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), self.namespace);
        Ok(lacking.failing_pod(&verbs::list_recent(&pods, &lacking.selector).await?))
    }
}
