//! Applications that stand on the cluster beside the measured ones, with their inbox records, all settled.
//!
//! Six thousand cannot be run by KubeVela on a small machine, so each is paused for KubeVela and its status written here; to the
//! Operator they are like any other: it has applied each, watches it, and holds its record.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::site::Site;
use serde_json::json;

use crate::applications::{acting_as, application, resource};

const NAMESPACE: &str = "acme-apps";
const STATE_NAMESPACE: &str = "kubenova-system";
/// As many writes at once as keep the API server busy.
const WRITES: usize = 8;
/// The Operator applies some fifty a second.
const APPLIED_MAX: Duration = Duration::from_secs(1_800);
/// The annotation that names the command that the Operator applied.
const COMMAND: &str = "kubenova.io/command-id";

fn name(index: u64) -> String {
    format!("beside-{index}")
}

/// Makes those from `from` up to `to`, and waits until the Operator has applied all of them.
pub(crate) async fn fill(
    site: &Site,
    as_deployer: &Api<DynamicObject>,
    tenant_id: &str,
    from: u64,
    to: u64,
) -> Result<()> {
    let client = site.cluster.kube_client();
    let applications: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource());
    let records = records(client);
    stream::iter((from..to).map(Ok))
        .try_for_each_concurrent(WRITES, |index| make(as_deployer, &records, tenant_id, index))
        .await?;
    poll::until("the Operator to apply what stands beside", APPLIED_MAX, || async {
        let metadata = applications.list_metadata(&ListParams::default()).await?;
        let waiting = metadata.items.iter().filter(|item| {
            item.metadata.name.as_deref().is_some_and(|name| name.starts_with("beside-"))
                && !item.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(COMMAND))
        });
        let waiting = waiting.count();
        Ok(Step::when(waiting == 0, (), format!("{waiting} wait")))
    })
    .await?;
    let kubevela = acting_as(site, "vela-system", "kubevela-vela-core").await?;
    let kubevela = Api::namespaced_with(kubevela, NAMESPACE, &resource());
    stream::iter(from..to).map(|index| run(&kubevela, index)).buffer_unordered(WRITES).try_collect::<Vec<()>>().await?;
    Ok(())
}

fn records(client: Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("kubenova.io", "v1alpha1", "NovaCommand");
    Api::namespaced_with(client, STATE_NAMESPACE, &ApiResource::from_gvk(&kind))
}

async fn make(
    applications: &Api<DynamicObject>,
    records: &Api<DynamicObject>,
    tenant_id: &str,
    index: u64,
) -> Result<()> {
    let (name, id) = (name(index), format!("beside-{index}"));
    let document = application(&name, 0);
    let mut paused = document.clone();
    paused["metadata"]["labels"] = json!({ "controller.core.oam.dev/pause": "true" });
    applications
        .patch(&name, &PatchParams::apply("bench-beside"), &Patch::Apply(&paused))
        .await
        .context("could not make an application beside")?;
    let key = format!("application/{tenant_id}/{name}");
    let body = json!({ "id": id, "kind": "apply-application", "key": key, "revision": "1",
        "document": document.to_string() });
    let at = kubenova_runtime::clock::rfc3339_ms(kubenova_runtime::clock::now());
    let record: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "kubenova.io/v1alpha1", "kind": "NovaCommand",
        "metadata": { "name": format!("application.{tenant_id}.{name}") },
        "spec": { "body": body.to_string(), "signature": "", "commandId": id, "epoch": 0, "revision": 1,
            "kind": "apply-application", "key": key, "commandSha256": "", "storedAt": at },
    }))?;
    records.create(&PostParams::default(), &record).await.context("could not make an inbox record beside")?;
    Ok(())
}

/// What KubeVela would say of it.
async fn run(applications: &Api<DynamicObject>, index: u64) -> Result<()> {
    let name = name(index);
    let generation = applications.get_metadata(&name).await?.metadata.generation;
    let status = json!({ "status": { "status": "running", "observedGeneration": generation } });
    applications.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}
