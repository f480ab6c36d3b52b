//! The status of NovaClusterConfig: one condition a component, versions, health and the last error.

use super::{context::InstallContext, outcome::Outcome};
use crate::apiserver::{self, event, status};
use kube::Api;
use kubenova_crds::{
    cluster_config::{ClusterConfigStatus, ComponentStatus, NAME, NovaClusterConfig},
    components::Components,
    conditions::{self, ConditionStatus},
};
use kubenova_operator_core::{
    components::{Component, endpoint, health, spec, standing},
    conditions::{ConditionSet, MergedConditions},
};
use kubenova_runtime::clock;

/// The version of a component that was last available.
pub(super) fn version(config: &NovaClusterConfig, component: Component) -> String {
    let mut entries = config.status.iter().flat_map(|status| &status.components);
    entries.find(|entry| entry.name == component.name()).map(|entry| entry.version.clone()).unwrap_or_default()
}

/// Records which version is to be installed.
pub(super) async fn write_desired(
    configs: &Api<NovaClusterConfig>,
    component: Component,
    version: &str,
) -> Result<(), apiserver::Error> {
    change(configs, |status, _| {
        let entry = entry(status, component);
        let changed = entry.desired_version != version;
        version.clone_into(&mut entry.desired_version);
        changed
    })
    .await
}

/// Records the outcome of a component, and says it in an event when it is another than before.
pub(super) async fn write_outcome(
    ctx: &InstallContext,
    configs: &Api<NovaClusterConfig>,
    component: Component,
    outcome: &Outcome,
) -> Result<(), apiserver::Error> {
    let condition = outcome.condition(component);
    let mut merged = MergedConditions::default();
    change(configs, |status, generation| {
        let now = clock::now();
        merged = condition.merge_into(&mut status.conditions, generation, now);
        let mut changed = merged.changed;
        let entry = entry(status, component);
        changed |= health::note(entry, &outcome.standing(), now);
        if matches!(outcome, Outcome::Ready { .. }) {
            changed |= standing::note_available(entry, &clock::rfc3339_ms(now));
        }
        let stalled = health::stalled(status).merge_into(&mut status.conditions, generation, now);
        merged.transitions.extend(stalled.transitions);
        changed | stalled.changed
    })
    .await?;
    for update in &merged.transitions {
        tracing::info!(
            component = component.name(),
            condition = update.condition,
            status = update.status.as_str(),
            reason = update.reason,
            message = update.message,
            "a component's condition changed"
        );
    }
    for update in merged.transitions.iter().filter(|update| update.condition == component.condition()) {
        let is_good = update.status == ConditionStatus::True;
        let kind = if is_good { event::Kind::Normal } else { event::Kind::Warning };
        let message = format!("{}: {}", update.condition, update.message);
        event::publish_about_cluster(&ctx.apiserver, kind, &update.reason, &message).await;
    }
    Ok(())
}

/// Records whether tenants' kubeconfigs have an address.
pub(super) async fn write_endpoint(
    configs: &Api<NovaClusterConfig>,
    components: &Components,
) -> Result<(), apiserver::Error> {
    let condition = endpoint::condition(components);
    change(configs, |status, generation| condition.merge_into(&mut status.conditions, generation, clock::now()).changed)
        .await
}

/// Records that no command has configured the components yet.
pub(super) async fn write_awaiting(configs: &Api<NovaClusterConfig>) -> Result<(), apiserver::Error> {
    let message = "no command has configured the components of this cluster yet; the Manager sends one after it joins";
    let mut conditions = ConditionSet::new();
    for component in Component::ALL {
        conditions.set_unknown(component.condition(), "AwaitingCommand", message);
    }
    change(configs, |status, generation| {
        conditions.merge_into(&mut status.conditions, generation, clock::now()).changed
    })
    .await
}

async fn change(
    configs: &Api<NovaClusterConfig>,
    mut change: impl FnMut(&mut ClusterConfigStatus, Option<i64>) -> bool,
) -> Result<(), apiserver::Error> {
    status::update(configs, NAME, |config| {
        let generation = config.metadata.generation;
        let status = config.status.get_or_insert_default();
        let mut changed = change(status, generation);
        let ready = ready_count(config.spec.components.as_ref(), status);
        if status.components_ready != ready {
            status.components_ready = ready;
            changed = true;
        }
        changed
    })
    .await
    .map(|_| ())
}

/// The components that are ready, of those enabled. A disabled one has the condition True as well, since nothing is
/// missing, but does not count.
fn ready_count(components: Option<&Components>, status: &ClusterConfigStatus) -> String {
    let is_enabled =
        |component: &Component| components.is_some_and(|components| spec::common(components, *component).enabled);
    let enabled: Vec<Component> = Component::ALL.into_iter().filter(is_enabled).collect();
    let ready = |component: &&Component| conditions::is_true(&status.conditions, component.condition());
    format!("{}/{}", enabled.iter().filter(ready).count(), enabled.len())
}

fn entry(status: &mut ClusterConfigStatus, component: Component) -> &mut ComponentStatus {
    let position = status.components.iter().position(|entry| entry.name == component.name());
    // In one sequence, whichever was installed first.
    let rank = |name: &str| Component::ALL.iter().position(|component| component.name() == name);
    let index = position.unwrap_or_else(|| {
        let before = |entry: &ComponentStatus| rank(&entry.name) < rank(component.name());
        let index = status.components.partition_point(before);
        let new = ComponentStatus { name: component.name().to_owned(), ..ComponentStatus::default() };
        status.components.insert(index, new);
        index
    });
    &mut status.components[index]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_components_are_counted() {
        let mut status = ClusterConfigStatus::default();
        assert_eq!(ready_count(None, &status), "0/0", "not configured yet");
        let mut components = Components::default();
        components.capsule.component.enabled = true;
        components.kubevela.component.enabled = true;
        assert_eq!(ready_count(Some(&components), &status), "0/2");
        let mut set = ConditionSet::new();
        set.set_true(Component::Capsule.condition(), "Available", "x");
        set.set_false(Component::KubeVela.condition(), "NotAvailable", "x");
        set.set_true(Component::CapsuleProxy.condition(), "Disabled", "x");
        let _merged = set.merge_into(&mut status.conditions, None, clock::now());
        assert_eq!(ready_count(Some(&components), &status), "1/2");
    }

    #[test]
    fn a_component_has_one_entry() {
        let mut status = ClusterConfigStatus::default();
        entry(&mut status, Component::Capsule).version = "1".to_owned();
        assert_eq!(entry(&mut status, Component::Capsule).version, "1");
        assert_eq!(status.components.len(), 1);
    }
}
