//! One component: preflight, render, record what will be applied, apply, prune.

use super::{
    apply::{self, ApplyCache},
    authority::Authority,
    chart,
    context::InstallContext,
    desired::DesiredComponent,
    outcome::{Outcome, refused},
    preflight, report,
};
use crate::apiserver::error::chain;
use kube::Api;
use kubenova_crds::cluster_config::NovaClusterConfig;
use kubenova_operator_core::components::{self, Plan, Settings, capsule_proxy, inventory, render};
use serde_json::Value;
use std::path::Path;

/// Installs one component as it is configured.
pub(super) async fn install(
    ctx: &InstallContext,
    cache: &ApplyCache,
    configs: &Api<NovaClusterConfig>,
    authority: &Authority,
    desired: &DesiredComponent,
) -> Outcome {
    let client = ctx.apiserver.client();
    let attempt = async {
        // Before the roles: a version that this Operator does not carry needs another release of it, which brings its
        // roles along.
        let folder = chart::locate(&ctx.charts_dir, desired.component, &desired.version)
            .map_err(|error| Outcome::failed(error.reason(), chain(&error)))?;
        preflight::check_roles(&client, desired).await?;
        preflight::check_other_installs(&client, desired).await?;
        let (plan, objects) = build(ctx, authority, desired, &folder).await?;
        let inventory = inventory::lines(&objects);
        let union = inventory::union(&desired.inventory, &inventory);
        report::write_intent(configs, desired.component, &desired.version, &union)
            .await
            .map_err(|error| refused(&error))?;
        apply::apply(&client, cache, authority, &plan, objects).await?;
        apply::prune(&client, desired.component, &union, &inventory).await?;
        Ok(Outcome::Ready { version: desired.version.clone(), inventory })
    };
    attempt.await.unwrap_or_else(|outcome| outcome)
}

/// Renders the chart and prepares its objects.
async fn build(
    ctx: &InstallContext,
    authority: &Authority,
    desired: &DesiredComponent,
    chart: &Path,
) -> Result<(Plan, Vec<Value>), Outcome> {
    let component = desired.component;
    let public_host = match desired.public_url.as_str() {
        "" => None,
        url => Some(capsule_proxy::host_of(url).ok_or_else(|| {
            let message =
                format!("spec.components.capsuleProxy.publicURL {url:?} is not of the form https://<host>[:<port>]");
            Outcome::failed("InvalidSpec", message)
        })?),
    };
    let settings = Settings {
        version: desired.version.clone(),
        replicas: desired.replicas,
        operator_user: format!("system:serviceaccount:{}:kubenova-operator", ctx.state_namespace),
        ca_bundle: authority.bundle().to_owned(),
        public_host,
        crd_set: desired.crd_set.clone(),
    };
    let plan = components::plan(component, &settings);
    let server = ctx.apiserver.version().await.map_err(|error| refused(&error))?;
    let rendered = chart::render(&ctx.helm, chart, &plan, &server).await;
    let rendered = rendered.map_err(|error| Outcome::failed(error.reason(), chain(&error)))?;
    let objects = render::prepare(&plan, &settings, &rendered);
    let objects = objects.map_err(|error| Outcome::failed("RenderFailed", chain(&error)))?;
    Ok((plan, objects))
}
