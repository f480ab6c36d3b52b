//! The whole product with one real cluster, and a tenant whose Applications run there.

use std::time::Duration;

use anyhow::Result;
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::broker;
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::site::{Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use serde_json::{Value, json};

use crate::applications::{Seen, application};
use crate::operator_connection;
use crate::raw_chain::{Ends, RawChain};

/// For a hundred Applications to run: one takes KubeVela a second or two, and several times that on a machine that compiles.
const APPLICATIONS_MAX: Duration = Duration::from_secs(900);

/// Everything that requests need.
pub(crate) struct Prepared {
    // In the order in which they must end.
    pub(crate) seen: Seen,
    pub(crate) site: Site,
    pub(crate) platform: Platform,
    pub(crate) tenant_id: String,
}

/// Name of an Application that requests change.
pub(crate) fn application_name(index: u64) -> String {
    format!("bench-{index}")
}

impl Prepared {
    /// Starts everything, with so many Applications of tenant acme; a quota of pods when those and the raw chain's need more than
    /// a tenant has by default.
    pub(crate) async fn start(applications: u64, pods: Option<u64>) -> Result<Self> {
        let platform = Platform::start(&PlatformOptions::default()).await?;
        let site = Site::join(&platform, "alpha", 1).await?;
        site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
        let mut body = json!({ "name": "acme", "clusters": ["alpha"] });
        if let Some(pods) = pods {
            body["quota"] = json!({ "pods": pods });
        }
        let tenant = platform.rest.post("/api/v1/tenants", &body).await?.expect(202)?;
        steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
        let seen = Seen::watch(site.cluster.kube_client());
        for index in 0..applications {
            let body = application(&application_name(index), 0);
            platform.rest.post("/api/v1/tenants/acme/apps", &body).await?.expect(202)?;
        }
        steps::wait_no_open_commands(&platform, APPLICATIONS_MAX).await?;
        Ok(Self { seen, site, platform, tenant_id: text(&tenant, "/id")? })
    }

    /// The raw chain on the same servers, with its Applications.
    pub(crate) async fn raw_chain(&self, at_once: usize) -> Result<RawChain> {
        let keyring = broker::keyring(&self.platform)?;
        let manager = broker::connect(&self.platform, &keyring).await?;
        let (operator, leaf_node) = operator_connection::connect(&self.platform, &keyring).await?;
        let ends = Ends { manager, operator, leaf_node };
        let raw = RawChain::open(&self.platform.postgres, ends, &self.site, at_once).await?;
        raw.prepare().await?;
        Ok(raw)
    }

    /// Waits until KubeVela has nothing to do.
    pub(crate) async fn settle(&self) -> Result<()> {
        poll::until("every Application to run", APPLICATIONS_MAX, || async {
            let all = self.site.list(&["applications.core.oam.dev", "-A"])?;
            let runs = |it: &&Value| it.pointer("/status/status").and_then(Value::as_str) == Some("running");
            let waiting = all.len() - all.iter().filter(runs).count();
            Ok(Step::when(waiting == 0, (), format!("{waiting} wait")))
        })
        .await
    }
}
