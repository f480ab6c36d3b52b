//! NovaClusterConfig: installs the components it configures and writes their conditions.
//!
//! Dereference and validate ([`preflight`]: roles, other installs) → build ([`install`]: render; `operator/core`
//! decides) → apply by waves ([`apply`]) → status ([`report`]). A reconcile starts from nothing and repairs drift; with
//! nothing to do it writes nothing. It deletes what an older chart had and a newer one lacks, and of a component that is
//! switched off ([`remove`]) everything but what tenants have of it. Before it: `dispatch` wrote the spec. After it:
//! `outbound` reports the conditions.

mod adopt;
mod apply;
pub mod authority;
pub mod chart;
mod context;
mod desired;
mod install;
mod inventory;
mod outcome;
mod preflight;
mod remove;
mod report;

use super::work::{RETRY_MAX, RETRY_MIN};
use crate::{
    apiserver::{self, error::chain, verbs, watch},
    trace,
};
pub use apply::ApplyCache;
use authority::Authority;
pub use context::InstallContext;
use desired::DesiredComponent;
use futures::{StreamExt as _, future, stream};
use k8s_openapi::{
    api::apps::v1::Deployment, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::Api;
use kubenova_crds::{
    cluster_config::{ClusterConfigSpec, NAME, NovaClusterConfig},
    components::Components,
};
use kubenova_operator_core::components::{Component, capsule_proxy, render::COMPONENT_LABEL, spec};
use kubenova_runtime::backoff::Backoff;
use outcome::Outcome;
pub use preflight::foreign_installs;
use std::{pin::pin, time::Duration};
use tokio::time::Instant;
use tracing::{Instrument as _, field::Empty};

/// In spans and metrics.
const CONTROLLER: &str = "cluster config";
/// Time between reconciles when no watch asks for one: drift that no watch shows is repaired within it.
const INTERVAL: Duration = Duration::from_secs(300);
/// Changes that come together make one reconcile.
const SETTLE: Duration = Duration::from_millis(500);

/// What one reconcile came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconciled {
    /// Everything is as configured.
    Settled,
    /// Something is not yet; reconcile again soon.
    Unsettled,
}

/// Runs until the process stops.
pub async fn run(ctx: InstallContext) {
    let client = ctx.apiserver.client();
    let mut last_generation = None;
    // Its own status writes come back as changes too; only a new spec asks for a reconcile.
    let specs = watch::changes(Api::<NovaClusterConfig>::all(client.clone()), "").filter_map(move |config| {
        let generation = config.metadata.generation;
        let is_new = last_generation != generation;
        last_generation = generation;
        future::ready(is_new.then_some(()))
    });
    let mut specs = pin!(specs);
    // In the components' namespaces only: a tenant may label its Deployment as it likes.
    let mut namespaces = Component::ALL.map(Component::namespace).to_vec();
    namespaces.sort_unstable();
    namespaces.dedup();
    let watches = namespaces.into_iter().map(|namespace| {
        let deployments = Api::<Deployment>::namespaced(client.clone(), namespace);
        watch::changes(deployments, COMPONENT_LABEL).map(|_| ()).boxed()
    });
    let mut deployments = stream::select_all(watches);
    let cache = ApplyCache::default();
    let mut backoff = Backoff::between(RETRY_MIN, RETRY_MAX);
    // Not runtime::periodic, which finishes a round, and not the work queue, which finishes a reconcile, before it looks
    // at what came meanwhile.
    loop {
        let began = Instant::now();
        let span = tracing::info_span!("reconcile", controller = CONTROLLER, object = NAME, trace.id = Empty);
        let finished = tokio::select! {
            finished = reconcile(&ctx, &cache).instrument(span) => finished,
            // A reconcile may wait long for a Deployment that the new spec no longer has; it can be dropped at any line.
            _ = specs.next() => {
                backoff.reset();
                continue;
            }
            () = ctx.shutdown.requested() => return,
        };
        ctx.metrics.reconciled(CONTROLLER, began, !matches!(finished, Ok(Reconciled::Settled)));
        let pause = match finished {
            Ok(Reconciled::Settled) => {
                backoff.reset();
                INTERVAL
            }
            Ok(Reconciled::Unsettled) => backoff.next_wait(),
            Err(error) => {
                tracing::warn!(error = chain(&error), "could not reconcile the cluster's components; trying again");
                backoff.next_wait()
            }
        };
        tokio::select! {
            _ = specs.next() => backoff.reset(),
            _ = deployments.next() => drain(&mut deployments).await,
            () = tokio::time::sleep(pause) => {}
            () = ctx.shutdown.requested() => return,
        }
    }
}

/// Waits until no change has come for a moment, but not for ever: a Deployment may keep changing.
async fn drain(triggers: &mut (impl futures::Stream<Item = ()> + Unpin)) {
    let rest = async { while let Ok(Some(())) = tokio::time::timeout(SETTLE, triggers.next()).await {} };
    let _elapsed = tokio::time::timeout(4 * SETTLE, rest).await;
}

/// One reconcile of all components.
///
/// # Errors
/// When the object itself cannot be read or its status cannot be written; a component's own failure is a condition.
pub async fn reconcile(ctx: &InstallContext, cache: &ApplyCache) -> Result<Reconciled, apiserver::Error> {
    let configs: Api<NovaClusterConfig> = Api::all(ctx.apiserver.client());
    let Some(config) = verbs::get(&configs, NAME).await? else {
        let empty = NovaClusterConfig::new(NAME, ClusterConfigSpec::default());
        verbs::create_if_absent(&configs, &empty).await?;
        return Ok(Reconciled::Unsettled);
    };
    trace::name_in_span(&config);
    let Some(components) = &config.spec.components else {
        report::write_awaiting(&configs).await?;
        return Ok(Reconciled::Settled);
    };
    report::write_endpoint(&configs, components).await?;
    let authority = Authority::ensure(&ctx.apiserver.client(), &ctx.state_namespace).await;
    let mut authority = authority.map_err(|error| Outcome::failed("CertificateAuthorityFailed", chain(&error)));
    let installer = Installer { ctx, cache, configs: &configs, config: &config, components, authority: &authority };
    // Capsule and KubeVela do not wait for each other; the proxy starts when all kinds are there.
    let (capsule, kubevela) =
        future::join(installer.settle(Component::Capsule, ""), installer.settle(Component::KubeVela, "")).await;
    let crd_set = if components.capsule_proxy.component.enabled { crd_set(ctx).await? } else { String::new() };
    let proxy = installer.settle(Component::CapsuleProxy, &crd_set).await;
    let settled = [capsule?, kubevela?, proxy?].into_iter().all(|settled| settled);
    if settled
        && let Ok(authority) = &mut authority
        && let Err(error) = authority.is_trusted_by_all(&ctx.apiserver.client(), &ctx.state_namespace).await
    {
        tracing::warn!(error = chain(&error), "could not note that the next authority is trusted; trying again");
        return Ok(Reconciled::Unsettled);
    }
    Ok(if settled { Reconciled::Settled } else { Reconciled::Unsettled })
}

/// What one reconcile works with.
struct Installer<'a> {
    ctx: &'a InstallContext,
    cache: &'a ApplyCache,
    configs: &'a Api<NovaClusterConfig>,
    config: &'a NovaClusterConfig,
    components: &'a Components,
    authority: &'a Result<Authority, Outcome>,
}

impl Installer<'_> {
    /// Brings one component to what is configured and writes its condition. True when nothing is missing.
    async fn settle(&self, component: Component, crd_set: &str) -> Result<bool, apiserver::Error> {
        let common = spec::common(self.components, component);
        let outcome = match self.authority {
            _ if common.paused && common.enabled => self.paused(component).await?,
            _ if !common.enabled => remove::remove(self.ctx, component).await,
            Err(outcome) => outcome.clone(),
            Ok(authority) => {
                let desired = DesiredComponent {
                    component,
                    components: self.components,
                    former_version: report::version(self.config, component),
                    crd_set,
                };
                install::install(self.ctx, self.cache, self.configs, authority, &desired).await
            }
        };
        report::write_outcome(self.ctx, self.configs, component, &outcome).await?;
        Ok(matches!(outcome, Outcome::Disabled | Outcome::Ready { .. } | Outcome::Paused { .. }))
    }

    async fn paused(&self, component: Component) -> Result<Outcome, apiserver::Error> {
        let deployments: Api<Deployment> = Api::namespaced(self.ctx.apiserver.client(), component.namespace());
        let deployment = verbs::get(&deployments, component.deployment()).await?;
        let available = deployment.and_then(|deployment| deployment.status?.available_replicas);
        Ok(Outcome::Paused { is_available: available.is_some_and(|available| available > 0) })
    }
}

/// Only names are read: a definition has up to 500 KB.
async fn crd_set(ctx: &InstallContext) -> Result<String, apiserver::Error> {
    let crds: Api<CustomResourceDefinition> = Api::all(ctx.apiserver.client());
    let listed = verbs::list_metadata(&crds, "").await?;
    let names: Vec<String> = listed.into_iter().filter_map(|metadata| metadata.name).collect();
    Ok(capsule_proxy::crd_set(names.iter().map(String::as_str)))
}
