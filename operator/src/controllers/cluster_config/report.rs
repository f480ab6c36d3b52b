//! What a pass came to, in the status of NovaClusterConfig: one condition a component, versions, inventories.

use super::install::Outcome;
use crate::apiserver::{self, status};
use kube::Api;
use kubenova_crds::{
    cluster_config::{ClusterConfigStatus, ComponentStatus, NAME, NovaClusterConfig},
    conditions::{self, ConditionStatus},
};
use kubenova_operator_core::components::Component;
use kubenova_runtime::clock;

/// The recorded inventory of a component.
pub(super) fn inventory(config: &NovaClusterConfig, component: Component) -> Vec<String> {
    let recorded = config.status.iter().flat_map(|status| &status.components);
    recorded.filter(|status| status.name == component.name()).flat_map(|status| status.inventory.clone()).collect()
}

/// Records what is about to be applied, before it is.
pub(super) async fn intent(
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
pub(super) async fn outcome(
    configs: &Api<NovaClusterConfig>,
    component: Component,
    outcome: &Outcome,
) -> Result<(), apiserver::Error> {
    let (truth, reason, message) = outcome.words(component);
    let mut was = None;
    change(configs, |status, generation| {
        was = status.conditions.iter().find(|c| c.type_ == component.condition()).map(|c| c.reason.clone());
        let mut changed = set(status, component, truth, reason, &message, generation);
        if let Outcome::Ready { version, inventory } = outcome {
            let entry = entry(status, component);
            changed |= entry.version != *version || entry.inventory != *inventory;
            version.clone_into(&mut entry.version);
            inventory.clone_into(&mut entry.inventory);
        }
        changed
    })
    .await?;
    if was.as_deref() != Some(reason) {
        tracing::info!(component = component.name(), reason, message, "a component's condition changed");
    }
    Ok(())
}

/// Says that nothing was asked for yet.
pub(super) async fn awaiting(configs: &Api<NovaClusterConfig>) -> Result<(), apiserver::Error> {
    let message = "no command has said which components this cluster should have; the Manager sends one after it joins";
    change(configs, |status, generation| {
        let mut changed = false;
        for component in Component::ALL {
            changed |= set(status, component, ConditionStatus::Unknown, "AwaitingCommand", message, generation);
        }
        changed
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
        let ready = ready_count(status);
        if status.components_ready != ready {
            status.components_ready = ready;
            changed = true;
        }
        changed
    })
    .await
    .map(|_| ())
}

fn set(
    status: &mut ClusterConfigStatus,
    component: Component,
    truth: ConditionStatus,
    reason: &str,
    message: &str,
    generation: Option<i64>,
) -> bool {
    conditions::set(&mut status.conditions, component.condition(), truth, reason, message, generation, clock::now())
}

fn ready_count(status: &ClusterConfigStatus) -> String {
    let ready = |component: &&Component| conditions::is_true(&status.conditions, component.condition());
    format!("{}/{}", Component::ALL.iter().filter(ready).count(), Component::ALL.len())
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

    #[test]
    fn ready_components_are_counted() {
        let mut status = ClusterConfigStatus::default();
        assert_eq!(ready_count(&status), "0/3");
        set(&mut status, Component::Capsule, ConditionStatus::True, "Available", "x", None);
        set(&mut status, Component::KubeVela, ConditionStatus::False, "NotAvailable", "x", None);
        assert_eq!(ready_count(&status), "1/3");
    }

    #[test]
    fn a_component_has_one_entry() {
        let mut status = ClusterConfigStatus::default();
        entry(&mut status, Component::Capsule).version = "1".to_owned();
        assert_eq!(entry(&mut status, Component::Capsule).version, "1");
        assert_eq!(status.components.len(), 1);
    }
}
