//! The status of NovaClusterConfig: one condition a component, versions, inventories.

use super::{outcome::Outcome, spec_of};
use crate::apiserver::{self, status};
use kube::Api;
use kubenova_crds::{
    cluster_config::{ClusterConfigStatus, ComponentStatus, Components, NAME, NovaClusterConfig},
    conditions,
};
use kubenova_operator_core::{
    components::{Component, standing},
    conditions::{ConditionSet, MergedConditions},
};
use kubenova_runtime::clock;

/// The recorded inventory of a component.
pub(super) fn inventory(config: &NovaClusterConfig, component: Component) -> Vec<String> {
    let recorded = config.status.iter().flat_map(|status| &status.components);
    recorded.filter(|status| status.name == component.name()).flat_map(|status| status.inventory.clone()).collect()
}

/// Records what is about to be applied, before it is.
pub(super) async fn write_intent(
    configs: &Api<NovaClusterConfig>,
    component: Component,
    version: &str,
    inventory: &[String],
) -> Result<(), apiserver::Error> {
    change(configs, |status, _| {
        let entry = entry(status, component);
        let changed = entry.desired_version != version || entry.inventory != inventory;
        version.clone_into(&mut entry.desired_version);
        entry.inventory = inventory.to_vec();
        changed
    })
    .await
}

/// Records the outcome of a component.
pub(super) async fn write_outcome(
    configs: &Api<NovaClusterConfig>,
    component: Component,
    outcome: &Outcome,
) -> Result<(), apiserver::Error> {
    let condition = outcome.condition(component);
    let mut merged = MergedConditions::default();
    change(configs, |status, generation| {
        merged = condition.merge_into(&mut status.conditions, generation, clock::now());
        let mut changed = merged.changed;
        match outcome {
            Outcome::Ready { version, inventory } => {
                let entry = entry(status, component);
                changed |= entry.version != *version || entry.inventory != *inventory;
                version.clone_into(&mut entry.version);
                inventory.clone_into(&mut entry.inventory);
                changed |= standing::note_available(entry, &clock::rfc3339_ms(clock::now()));
            }
            Outcome::Disabled => changed |= standing::note_off(status, component),
            Outcome::NotReady { .. } => {}
        }
        changed
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
    Ok(())
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
        |component: &Component| components.is_some_and(|components| spec_of(components, *component).enabled);
    let enabled: Vec<Component> = Component::ALL.into_iter().filter(is_enabled).collect();
    let ready = |component: &&Component| conditions::is_true(&status.conditions, component.condition());
    format!("{}/{}", enabled.iter().filter(ready).count(), enabled.len())
}

fn entry(status: &mut ClusterConfigStatus, component: Component) -> &mut ComponentStatus {
    let position = status.components.iter().position(|entry| entry.name == component.name());
    let index = position.unwrap_or_else(|| {
        status.components.push(ComponentStatus { name: component.name().to_owned(), ..ComponentStatus::default() });
        status.components.len() - 1
    });
    &mut status.components[index]
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_crds::cluster_config::Component as ComponentSpec;

    #[test]
    fn ready_components_are_counted() {
        let mut status = ClusterConfigStatus::default();
        assert_eq!(ready_count(None, &status), "0/0", "not configured yet");
        let enabled = |enabled| ComponentSpec { enabled, ..ComponentSpec::default() };
        let components = Components { capsule: enabled(true), kubevela: enabled(true), capsule_proxy: enabled(false) };
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
