//! Applying a desired object only when the live one is not it already: the decision is `operator/core/src/drift.rs`,
//! the memory of repairs is here.

use crate::apiserver::{self, dynamic};
use kube::{Client, api::ObjectMeta, core::DynamicObject};
use kubenova_operator_core::{
    components::object::Key,
    drift::{self, Action, Repairs},
};
use kubenova_runtime::clock;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Objects whose repairs are remembered. Beyond it all are forgotten, which costs one more repair each.
const REMEMBERED_MAX: usize = 10_000;

/// What to do about a live object.
#[derive(Debug)]
pub enum Decision {
    /// Nothing: it is as desired.
    Keep,
    /// Nothing for this long: another client takes the same fields back after each repair.
    LeaveFor(Duration),
    Apply,
    /// Apply, then [`DriftGuard::remember`] it.
    Repair(Repair),
}

/// A repair that is about to be made.
#[derive(Debug)]
pub struct Repair {
    key: Key,
    repairs: Repairs,
}

/// Decides what to apply, and remembers which objects were repaired lately.
#[derive(Debug, Default)]
pub struct DriftGuard(Mutex<BTreeMap<Key, Repairs>>);

impl DriftGuard {
    /// Decides about a live object and the stamped desired one.
    pub fn decide(&self, live: Option<&ObjectMeta>, desired: &Value) -> Decision {
        let Some(key) = Key::of(desired) else { return Decision::Apply };
        let now = clock::now();
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match drift::decide(live, desired, remembered.get(&key).copied(), now) {
            Action::Apply => Decision::Apply,
            Action::Keep => {
                if remembered.get(&key).is_some_and(|repairs| repairs.is_forgotten(now)) {
                    remembered.remove(&key);
                }
                Decision::Keep
            }
            Action::Repair { fields, repairs } => {
                tracing::info!(object = %key, ?fields, "another client changed fields that KubeNova applies; repairing");
                Decision::Repair(Repair { key, repairs })
            }
            Action::LeaveContested { fields, pause } => {
                tracing::debug!(object = %key, ?fields, "another client keeps changing fields that KubeNova applies");
                Decision::LeaveFor(pause.unsigned_abs())
            }
        }
    }

    /// Remembers that a repair was made.
    pub fn remember(&self, repair: Repair) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(repair.key, repair.repairs);
    }

    /// Stamps a desired object and applies it, also when the live one is it already: for objects that a webhook
    /// completes when it sees them written.
    ///
    /// # Errors
    /// When the apply fails: not found when the kind is not served.
    pub async fn apply(&self, client: &Client, desired: &Value) -> Result<(), apiserver::Error> {
        let mut desired = desired.clone();
        drift::stamp(&mut desired);
        dynamic::apply(client, &desired).await.map(drop)
    }

    /// Stamps a desired object and applies it unless the live one is it already.
    ///
    /// # Errors
    /// When a call fails: not found when the kind is not served.
    pub async fn ensure(&self, client: &Client, desired: &Value) -> Result<(), apiserver::Error> {
        let live = match Key::of(desired) {
            Some(key) => dynamic::get(client, &key).await?,
            None => None,
        };
        self.ensure_over(client, live.as_ref(), desired).await
    }

    /// Like [`Self::ensure`] with the live object that was read already.
    ///
    /// # Errors
    /// When the apply fails: not found when the kind is not served.
    pub async fn ensure_over(
        &self,
        client: &Client,
        live: Option<&DynamicObject>,
        desired: &Value,
    ) -> Result<(), apiserver::Error> {
        let mut desired = desired.clone();
        drift::stamp(&mut desired);
        let repair = match self.decide(live.map(|live| &live.metadata), &desired) {
            Decision::Keep | Decision::LeaveFor(_) => return Ok(()),
            Decision::Apply => None,
            Decision::Repair(repair) => Some(repair),
        };
        dynamic::apply(client, &desired).await?;
        if let Some(repair) = repair {
            self.remember(repair);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_repair_that_was_made_is_remembered_and_one_that_failed_is_not() {
        let mut desired = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "n"}, "data": {"x": "1"},
        });
        drift::stamp(&mut desired);
        // Applied from this, but no field is ours any more.
        let applied = desired["metadata"]["annotations"][drift::APPLIED_SHA256].as_str().unwrap().to_owned();
        let live = ObjectMeta {
            annotations: Some([(drift::APPLIED_SHA256.to_owned(), applied)].into()),
            ..ObjectMeta::default()
        };
        let guard = DriftGuard::default();
        assert!(matches!(guard.decide(Some(&live), &desired), Decision::Repair(_)));
        let Decision::Repair(repair) = guard.decide(Some(&live), &desired) else {
            panic!("an apply that failed must be tried again");
        };
        guard.remember(repair);
        assert!(matches!(guard.decide(Some(&live), &desired), Decision::LeaveFor(_)));
        assert!(matches!(guard.decide(None, &desired), Decision::Apply), "a deleted object is created at once");
    }
}
