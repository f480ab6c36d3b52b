//! One component: preflight, render, record what will be applied, apply, prune.

use super::{
    adopt,
    apply::{self, ApplyCache},
    authority::Authority,
    chart,
    context::InstallContext,
    desired::DesiredComponent,
    inventory,
    outcome::{Outcome, refused},
    preflight, report,
};
use crate::apiserver::error::chain;
use kube::Api;
use kubenova_crds::cluster_config::NovaClusterConfig;
use kubenova_operator_core::components::{self, Plan, Settings, inventory as lines, render, spec};
use serde_json::Value;
use std::path::Path;

/// Installs one component as it is configured.
pub(super) async fn install(
    ctx: &InstallContext,
    cache: &ApplyCache,
    configs: &Api<NovaClusterConfig>,
    authority: &Authority,
    desired: &DesiredComponent<'_>,
) -> Outcome {
    let client = ctx.apiserver.client();
    let component = desired.component;
    let attempt = async {
        report::write_desired(configs, component, desired.version()).await.map_err(|error| refused(&error))?;
        if let Some(problem) = spec::problem(desired.components, component) {
            return Err(Outcome::failed("InvalidSpec", problem));
        }
        // Before the roles: a version that this Operator does not carry needs another release of it, which brings its
        // roles along.
        let folder = chart::locate(&ctx.charts_dir, component, desired.version())
            .map_err(|error| Outcome::failed(error.reason(), chain(&error)))?;
        preflight::check_roles(&client, desired).await?;
        preflight::check_other_installs(&client, desired).await?;
        let (plan, mut objects) = build(ctx, authority, desired, &folder).await?;
        if desired.common().adopt {
            adopt::merge(&client, &plan, &mut objects).await?;
        }
        let new = lines::lines(&objects);
        let namespace = &ctx.state_namespace;
        let old = inventory::read(&client, namespace, component).await.map_err(|error| refused(&error))?;
        let union = lines::union(&old, &new);
        let intended = inventory::write(&client, namespace, component, &old, &union).await;
        intended.map_err(|error| refused(&error))?;
        apply::apply(&client, cache, authority, &plan, objects, &desired.former_version).await?;
        apply::prune(&client, component, &union, &new).await?;
        let settled = inventory::write(&client, namespace, component, &union, &new).await;
        settled.map_err(|error| refused(&error))?;
        if desired.common().adopt {
            adopt::check_leftovers(&client, component).await?;
        }
        Ok(Outcome::Ready { version: desired.version().to_owned() })
    };
    attempt.await.unwrap_or_else(|outcome| outcome)
}

/// Renders the chart and prepares its objects.
async fn build(
    ctx: &InstallContext,
    authority: &Authority,
    desired: &DesiredComponent<'_>,
    chart: &Path,
) -> Result<(Plan, Vec<Value>), Outcome> {
    let settings = Settings {
        components: desired.components.clone(),
        state_namespace: ctx.state_namespace.clone(),
        operator_user: format!("system:serviceaccount:{}:kubenova-operator", ctx.state_namespace),
        ca_bundle: authority.bundle().to_owned(),
        crd_set: desired.crd_set.to_owned(),
    };
    let plan = components::plan(desired.component, &settings);
    let server = ctx.apiserver.version().await.map_err(|error| refused(&error))?;
    let rendered = chart::render(&ctx.helm, chart, &plan, &server).await;
    let rendered = rendered.map_err(|error| Outcome::failed(error.reason(), chain(&error)))?;
    let objects = render::prepare(&plan, &settings, &rendered);
    let objects = objects.map_err(|error| Outcome::failed("RenderFailed", chain(&error)))?;
    Ok((plan, objects))
}
