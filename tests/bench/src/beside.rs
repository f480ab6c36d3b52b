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
use kubenova_scenarios::broker;
use kubenova_scenarios::platform::Platform;
use kubenova_scenarios::site::Site;
use kubenova_schema::signature::{self, PayloadType};
use kubenova_schema::{message, v1::Command};
use kubenova_trust::command_keys::CommandKeys;
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

/// What their records are signed with and for: the Operator carries out no other.
struct Signer {
    key: CommandKeys,
    cluster_id: String,
    cluster_uid: String,
    tenant_id: String,
}

impl Signer {
    fn open(platform: &Platform, site: &Site, tenant_id: &str) -> Result<Self> {
        let uid = site.cluster.kubectl_ok(&["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"])?;
        Ok(Self {
            key: broker::keyring(platform)?.command,
            cluster_id: site.id.clone(),
            cluster_uid: uid.trim().to_owned(),
            tenant_id: tenant_id.to_owned(),
        })
    }

    fn record(&self, index: u64, document: &str) -> Result<DynamicObject> {
        let (name, kind) = (name(index), "apply-application");
        let command = Command {
            id: format!("beside-{index}"),
            cluster_id: self.cluster_id.clone(),
            cluster_uid: self.cluster_uid.clone(),
            revision: 1,
            kind: kind.to_owned(),
            key: format!("application/{}/{name}", self.tenant_id),
            document: document.to_owned(),
            ..Command::default()
        };
        let body = message::to_json(&command);
        let at = kubenova_runtime::clock::rfc3339_ms(kubenova_runtime::clock::now());
        let record = json!({
            "apiVersion": "kubenova.io/v1alpha1", "kind": "NovaCommand",
            "metadata": { "name": format!("application.{}.{name}", self.tenant_id) },
            "spec": { "signature": self.key.sign(PayloadType::Command, &body), "body": String::from_utf8(body)?,
                "commandId": command.id, "epoch": 0, "revision": 1, "kind": kind, "key": command.key,
                "commandSha256": signature::command_sha256(kind, &command.key, document), "storedAt": at },
        });
        Ok(serde_json::from_value(record)?)
    }
}

/// Makes those from `from` up to `to`, and waits until the Operator has applied all of them.
pub(crate) async fn fill(
    platform: &Platform,
    site: &Site,
    as_deployer: &Api<DynamicObject>,
    tenant_id: &str,
    from: u64,
    to: u64,
) -> Result<()> {
    let client = site.cluster.kube_client();
    let applications: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource());
    let records = records(client);
    let signer = Signer::open(platform, site, tenant_id)?;
    stream::iter((from..to).map(Ok))
        .try_for_each_concurrent(WRITES, |index| make(as_deployer, &records, &signer, index))
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
    signer: &Signer,
    index: u64,
) -> Result<()> {
    let name = name(index);
    let document = application(&name, 0);
    let mut paused = document.clone();
    paused["metadata"]["labels"] = json!({ "controller.core.oam.dev/pause": "true" });
    applications
        .patch(&name, &PatchParams::apply("bench-beside"), &Patch::Apply(&paused))
        .await
        .context("could not make an application beside")?;
    let record = signer.record(index, &document.to_string())?;
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
