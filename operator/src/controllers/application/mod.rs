//! Applications: their status back onto the status_cache. KubeVela makes them true; nothing is written here.

pub mod observe;

use super::{orphans::NAME_LABEL, work};
use crate::{
    apiserver::{self, kinds, verbs, watch},
    context::ClusterContext,
};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, ResourceExt as _};
use kubenova_crds::labels;
use kubenova_schema::kinds::ObjectKey;
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Time between looks when nothing calls for one.
const INTERVAL: Duration = Duration::from_secs(60);

/// Runs until the process stops.
pub async fn run(ctx: ClusterContext) {
    let client = ctx.apiserver.client();
    // Tenant ids by `<namespace>/<name>`: an object that is gone no longer tells.
    let known: Mutex<BTreeMap<String, String>> = Mutex::default();
    let applications = watch::changes(kinds::applications(&client), labels::TENANT_ID).map(|application| {
        let name = format!("{}/{}", application.namespace().unwrap_or_default(), application.name_any());
        let tenant_id = application.labels().get(labels::TENANT_ID).cloned().unwrap_or_default();
        known.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), tenant_id);
        vec![name]
    });
    let deployments = watch::changes(Api::<Deployment>::all(client.clone()), NAME_LABEL).map(|deployment| {
        let application = deployment.labels().get(NAME_LABEL).cloned().unwrap_or_default();
        vec![format!("{}/{application}", deployment.namespace().unwrap_or_default())]
    });
    let calls = stream::select(applications, deployments);
    work::run(calls, &ctx.shutdown, |name| {
        let tenant_id = known.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
        let ctx = &ctx;
        async move { reconcile(ctx, &name, tenant_id?).await }
    })
    .await;
}

async fn reconcile(ctx: &ClusterContext, path: &str, tenant_id: String) -> Option<Duration> {
    let (namespace, name) = path.split_once('/')?;
    match look(ctx, namespace, name, &tenant_id).await {
        Ok(true) => Some(INTERVAL),
        Ok(false) => None,
        Err(error) => {
            tracing::debug!(application = path, error = %apiserver::error::chain(&error), "could not look at an application; trying again");
            Some(Duration::from_secs(2))
        }
    }
}

async fn look(ctx: &ClusterContext, namespace: &str, name: &str, tenant_id: &str) -> Result<bool, apiserver::Error> {
    let api = kinds::namespaced(&ctx.apiserver.client(), "core.oam.dev", "v1beta1", "Application", namespace);
    let Some(live) = verbs::get(&api, name).await? else {
        let key = ObjectKey::Application { tenant_id: tenant_id.to_owned(), name: name.to_owned() };
        ctx.status.remove(&key.to_string());
        return Ok(false);
    };
    if let Some(status) = observe::one(ctx, &live).await? {
        ctx.status.put(status);
    }
    Ok(true)
}
