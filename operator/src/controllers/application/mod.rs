//! Applications: their status into the status cache. KubeVela reconciles them; nothing is written here.

pub mod observe;

use super::{
    orphans::NAME_LABEL,
    work::{self, Next},
};
use crate::{
    apiserver::{self, kinds, verbs, watch},
    context::ClusterContext,
};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, ResourceExt as _};
use kubenova_crds::labels;
use kubenova_operator_core::application::status;
use kubenova_schema::kinds::ObjectKey;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Time between reports when no watch asks for one: what keeps an application from being ready may not be visible in a watch.
const INTERVAL: Duration = Duration::from_secs(60);
/// The same while it is ready, when the watch shows whatever changes; six thousand cost three reads a second.
const READY_INTERVAL: Duration = Duration::from_secs(1_800);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ApplicationKey {
    namespace: String,
    name: String,
}

impl fmt::Display for ApplicationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Tenant ids of applications: one that is deleted can no longer be asked for its label.
#[derive(Debug, Default)]
struct TenantIds(Mutex<BTreeMap<ApplicationKey, String>>);

impl TenantIds {
    fn remember(&self, key: ApplicationKey, tenant_id: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, tenant_id);
    }

    fn get(&self, key: &ApplicationKey) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn forget(&self, key: &ApplicationKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// Runs until the process stops.
pub async fn run(ctx: ClusterContext) {
    let client = ctx.apiserver.client();
    let tenant_ids = TenantIds::default();
    let applications = watch::dynamic(kinds::applications(&client), labels::TENANT_ID).map(|application| {
        let key =
            ApplicationKey { namespace: application.namespace().unwrap_or_default(), name: application.name_any() };
        tenant_ids.remember(key.clone(), application.labels().get(labels::TENANT_ID).cloned().unwrap_or_default());
        vec![key]
    });
    let deployments = watch::changes(Api::<Deployment>::all(client.clone()), NAME_LABEL).map(|deployment| {
        let name = deployment.labels().get(NAME_LABEL).cloned().unwrap_or_default();
        vec![ApplicationKey { namespace: deployment.namespace().unwrap_or_default(), name }]
    });
    let triggers = stream::select(applications, deployments);
    work::run("applications", triggers, &ctx.metrics, &ctx.shutdown, |key| reconcile(&ctx, &tenant_ids, key)).await;
}

async fn reconcile(ctx: &ClusterContext, tenant_ids: &TenantIds, key: ApplicationKey) -> Next {
    // A Deployment with KubeVela's label that no application of ours made.
    let Some(tenant_id) = tenant_ids.get(&key) else { return Next::OnChange };
    match report(ctx, &key, &tenant_id).await {
        Ok(Some(interval)) => Next::After(interval),
        Ok(None) => {
            tenant_ids.forget(&key);
            Next::OnChange
        }
        Err(error) => {
            let cause = apiserver::error::chain(&error);
            tracing::debug!(
                application = format!("{}/{}", key.namespace, key.name),
                error = cause,
                "could not report an application's status; trying again"
            );
            Next::failed(cause, &error)
        }
    }
}

/// Time to the next report; none when it is gone.
async fn report(
    ctx: &ClusterContext,
    key: &ApplicationKey,
    tenant_id: &str,
) -> Result<Option<Duration>, apiserver::Error> {
    let client = ctx.apiserver.client();
    let api = kinds::namespaced(&client, "core.oam.dev", "v1beta1", "Application", &key.namespace);
    let Some(live) = verbs::get(&api, &key.name).await? else {
        let key = ObjectKey::Application { tenant_id: tenant_id.to_owned(), name: key.name.clone() };
        ctx.status.remove(&key.to_string());
        return Ok(None);
    };
    let Some(status) = observe::one(ctx, &live).await? else { return Ok(Some(READY_INTERVAL)) };
    let interval = if status::is_ready(&status) { READY_INTERVAL } else { INTERVAL };
    ctx.status.put(status);
    Ok(Some(interval))
}
