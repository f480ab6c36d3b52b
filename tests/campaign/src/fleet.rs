//! Everything that faults happen to: PostgreSQL, broker, two Managers, one real cluster, many simulated ones, and the clients.

use std::path::Path;

use anyhow::Result;
use kubenova_scenarios::observer::Observer;
use kubenova_scenarios::oracle::{self, Finding, Held};
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::second_manager::SecondManager;
use kubenova_scenarios::site::{Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use kubenova_scenarios::{broker, simulated};
use kubenova_simulator::cluster::{Options, SimulatedCluster};
use kubenova_trust::keyring::Keyring;
use serde_json::json;

use crate::history::History;
use crate::writing::Writing;

/// A command that was running when its cluster was set back is sent again after this. With the ten minutes of the default a round
/// would take as long.
const REPORT_AGAIN_AFTER_MS: u32 = 60_000;
/// The tenant whose applications are written.
pub(crate) const TENANT: &str = "acme";

/// Servers, clusters and clients of a campaign.
pub(crate) struct Fleet {
    // In the order in which they must end.
    pub(crate) observer: Observer,
    pub(crate) writing: Writing,
    pub(crate) simulated: Vec<SimulatedCluster>,
    pub(crate) site: Site,
    pub(crate) second: SecondManager,
    pub(crate) platform: Platform,
    pub(crate) history: History,
    pub(crate) keyring: Keyring,
    pub(crate) tenant_id: String,
}

impl Fleet {
    /// Starts everything, with so many simulated clusters, and waits until all of it works.
    pub(crate) async fn start(clusters: usize, seed: u64, history: &Path) -> Result<Self> {
        let history = History::create(history)?;
        let options =
            PlatformOptions { report_again_after_ms: Some(REPORT_AGAIN_AFTER_MS), ..PlatformOptions::default() };
        let platform = Platform::start(&options).await?;
        let second = SecondManager::start(&platform, &options).await?;
        let (site, token) = Site::prepare(&platform, "real", 1).await?;
        site.install_operator(&token)?;
        // The policy's twenty deletes an hour would defer most of what the clients delete; this is the most that the chart allows.
        site.set_value("sovereignPolicy.deletesPerHour=100000")?;
        let simulated = simulated::join(&platform, "sim", clusters, Options::default()).await?;
        simulated::wait_in_session(&simulated, COMMAND_MAX).await?;
        site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
        let names: Vec<String> =
            std::iter::once(site.name.clone()).chain(simulated.iter().map(|one| one.name.clone())).collect();
        let placed: Vec<&str> = names.iter().map(String::as_str).collect();
        let tenant = steps::create_tenant(&platform, TENANT, &placed).await?;
        steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
        let keyring = broker::keyring(&platform)?;
        let observer = Observer::start(site.cluster.kube_client(), &format!("{TENANT}-apps"));
        let writing = Writing::new(&platform.rest, TENANT, &names, seed);
        let tenant_id = text(&tenant, "/id")?;
        Ok(Self { observer, writing, simulated, site, second, platform, history, keyring, tenant_id })
    }

    /// Names of all clusters.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.site.name.as_str()).chain(self.simulated.iter().map(|one| one.name.as_str()))
    }

    /// What each cluster holds now.
    fn held(&self) -> Result<Vec<(&str, Held)>> {
        let simulated = self.simulated.iter();
        let mut held: Vec<_> = simulated
            .map(|cluster| (cluster.name.as_str(), oracle::held_by_simulated(cluster, &self.tenant_id)))
            .collect();
        // The last, since it asks the API server.
        held.push((self.site.name.as_str(), oracle::held_by_real(&self.site, TENANT)?));
        Ok(held)
    }

    /// A simulated cluster and the real one hold what was accepted last, and nothing else: what is wrong with that now.
    pub(crate) fn compare(&self) -> Result<Vec<Finding>> {
        let accepted = &self.writing.accepted;
        let held = self.held()?;
        Ok(held.iter().flat_map(|(cluster, held)| oracle::compare(cluster, held, accepted)).collect())
    }

    /// What became of writes that a restore of the database may have taken back is certain from now on; what is wrong with it.
    pub(crate) async fn settle(&mut self) -> Result<Vec<Finding>> {
        let accepted = &self.writing.accepted;
        let held = self.held()?;
        let settled: Vec<_> =
            held.iter().flat_map(|(cluster, held)| oracle::settled(cluster, held, accepted)).collect();
        if settled.is_empty() {
            return Ok(Vec::new());
        }
        let findings = oracle::shown(&self.platform.rest, TENANT, &settled).await?;
        self.history.note("settled", &json!(settled.len()))?;
        self.writing.accepted.extend(settled);
        Ok(findings)
    }

    /// Lets the clients end the write they are at.
    pub(crate) async fn stop_writing(&mut self) -> Result<()> {
        self.writing.stop(&mut self.history).await
    }
}
