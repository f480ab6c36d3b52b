//! The Applications that are written, and an independent watch that sees them in the cluster.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use kube::api::DynamicObject;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Config, ResourceExt as _};
use kubenova_scenarios::site::Site;
use kubenova_scenarios::steps::COMMAND_MAX;
use serde_json::{Value, json};
use tokio::sync::watch;

/// The annotation that counts an Application's requests.
const NUMBER: &str = "bench.example.com/number";

/// An Application whose annotation says which request it is of.
pub(crate) fn application(name: &str, number: u64) -> Value {
    json!({
        "apiVersion": "core.oam.dev/v1beta1", "kind": "Application",
        "metadata": { "name": name, "annotations": { NUMBER: number.to_string() } },
        "spec": { "components": [{ "name": name, "type": "webservice", "properties": {
            "image": "shop/web:1", "cpu": "10m", "memory": "16Mi" } }] },
    })
}

/// What Applications are, to a client that knows no types.
pub(crate) fn resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("core.oam.dev", "v1beta1", "Application"))
}

/// A client with the rights of a ServiceAccount: only some may write Applications.
pub(crate) async fn acting_as(site: &Site, namespace: &str, account: &str) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(site.cluster.kubeconfig())?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.auth_info.impersonate = Some(format!("system:serviceaccount:{namespace}:{account}"));
    let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    config.auth_info.impersonate_groups = Some(groups.to_vec());
    Ok(Client::try_from(config)?)
}

/// By Application: numbers of requests, rising, with the moment each was first seen.
type Times = HashMap<String, Vec<(u64, Instant)>>;

/// When each request was first seen in the cluster, by a watch of its own.
#[derive(Clone)]
pub(crate) struct Seen {
    times: Arc<Mutex<Times>>,
    changed: watch::Receiver<()>,
}

impl Seen {
    /// Begins to watch every Application.
    pub(crate) fn watch(client: Client) -> Self {
        let (sender, changed) = watch::channel(());
        let times: Arc<Mutex<Times>> = Arc::default();
        let shared = Arc::clone(&times);
        let applications: Api<DynamicObject> = Api::all_with(client, &resource());
        tokio::spawn(async move {
            let mut events =
                watcher(applications, watcher::Config::default()).default_backoff().touched_objects().boxed();
            while let Some(event) = events.next().await {
                let Ok(object) = event else { continue };
                let number = object.annotations().get(NUMBER).and_then(|number| number.parse().ok()).unwrap_or(0);
                let mut times = shared.lock().unwrap_or_else(PoisonError::into_inner);
                let seen = times.entry(object.name_any()).or_default();
                if seen.last().is_none_or(|(last, _)| *last < number) {
                    seen.push((number, Instant::now()));
                }
                drop(times);
                sender.send_replace(());
            }
        });
        Self { times, changed }
    }

    fn find(&self, name: &str, number: u64) -> Option<Instant> {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        // A request that was overtaken by the next one is seen when that is.
        times.get(name)?.iter().find(|(seen, _)| *seen >= number).map(|(_, at)| *at)
    }

    /// When the request was seen; waits for it.
    pub(crate) async fn wait(&self, name: &str, number: u64) -> Result<Instant> {
        let mut changed = self.changed.clone();
        let found = async {
            loop {
                changed.mark_unchanged();
                if let Some(at) = self.find(name, number) {
                    return Ok(at);
                }
                changed.changed().await.context("the watch ended")?;
            }
        };
        tokio::time::timeout(COMMAND_MAX, found)
            .await
            .with_context(|| format!("request {number} of {name} was never seen in the cluster"))?
    }
}
