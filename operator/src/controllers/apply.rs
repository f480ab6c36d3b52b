//! Applying a desired object only when the live one is not it already: the decision is `operator/core/src/drift.rs`,
//! which objects were repaired lately is kept here. An object whose fields another client keeps changing has a Warning
//! event with the reason [`CONTESTED`] after each repair that did not last.

use crate::apiserver::{self, client::Apiserver, dynamic, event};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Client, api::ObjectMeta, core::DynamicObject};
use kubenova_operator_core::{
    components::object::Key,
    drift::{self, Action, Contention, Repairs},
};
use kubenova_runtime::clock;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Reason of the event about an object whose fields another client keeps changing.
const CONTESTED: &str = "FieldsContested";
/// Objects whose repairs are remembered. Beyond it all are forgotten, which costs one more repair each.
const REMEMBERED_MAX: usize = 10_000;

/// What to do about a live object.
#[derive(Debug)]
pub enum Decision {
    /// Nothing: it is as desired.
    Keep,
    /// Nothing for a while: another client takes the same fields back after each repair.
    LeaveFor(LeftContested),
    Apply,
    /// Apply, then [`DriftGuard::remember`] it.
    Repair(Repair),
}

/// What became of an object.
#[derive(Debug)]
pub enum Ensured {
    /// It was as desired.
    AsDesired,
    /// It is left as another client made it, for so long.
    LeftFor(Duration),
    Applied(Box<DynamicObject>),
}

/// An object that is left as another client made it.
#[derive(Debug)]
pub struct LeftContested {
    key: Key,
    contention: Contention,
    /// Found for the first time since the last repair.
    is_new: bool,
}

impl LeftContested {
    /// Time to the next repair.
    pub const fn pause(&self) -> Duration {
        self.contention.pause.unsigned_abs()
    }

    /// Writes the event, once for each repair that did not last.
    pub async fn report(&self, apiserver: &Apiserver, live: &ObjectMeta) {
        if !self.is_new {
            return;
        }
        let message = self.contention.message();
        tracing::warn!(object = %self.key, message, "another client keeps changing fields that KubeNova applies");
        event::publish(apiserver, event::Kind::Warning, CONTESTED, &message, reference(&self.key, live)).await;
    }
}

fn reference(key: &Key, live: &ObjectMeta) -> ObjectReference {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    ObjectReference {
        api_version: Some(match key.group.as_str() {
            "" => key.version.clone(),
            group => format!("{group}/{}", key.version),
        }),
        kind: some(&key.kind),
        namespace: some(&key.namespace),
        name: some(&key.name),
        uid: live.uid.clone(),
        ..ObjectReference::default()
    }
}

/// A repair that is about to be made.
#[derive(Debug)]
pub struct Repair {
    key: Key,
    repairs: Repairs,
}

/// The repairs of an object.
#[derive(Debug)]
struct Remembered {
    repairs: Repairs,
    /// It was reported that the last one did not last.
    is_reported: bool,
}

/// Decides what to apply, and remembers which objects were repaired lately.
#[derive(Debug, Default)]
pub struct DriftGuard(Mutex<BTreeMap<Key, Remembered>>);

impl DriftGuard {
    /// Decides about a live object and the stamped desired one.
    pub fn decide(&self, live: Option<&ObjectMeta>, desired: &Value) -> Decision {
        let Some(key) = Key::of(desired) else { return Decision::Apply };
        let now = clock::now();
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match drift::decide(live, desired, remembered.get(&key).map(|it| it.repairs), now) {
            Action::Apply => Decision::Apply,
            Action::Keep => {
                if remembered.get(&key).is_some_and(|it| it.repairs.is_forgotten(now)) {
                    remembered.remove(&key);
                }
                Decision::Keep
            }
            Action::Repair { fields, repairs } => {
                tracing::info!(object = %key, ?fields, "another client changed fields that KubeNova applies; repairing");
                Decision::Repair(Repair { key, repairs })
            }
            Action::LeaveContested(contention) => {
                let reported = remembered.get_mut(&key).map(|it| std::mem::replace(&mut it.is_reported, true));
                Decision::LeaveFor(LeftContested { key, contention, is_new: reported == Some(false) })
            }
        }
    }

    /// Remembers that a repair was made.
    pub fn remember(&self, repair: Repair) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(repair.key, Remembered { repairs: repair.repairs, is_reported: false });
    }

    /// Stamps a desired object and applies it, also when the live one is it already: for objects that a webhook
    /// completes when it sees them written.
    ///
    /// # Errors
    /// When the apply fails: not found when the kind is not served, a conflict when another object has taken the place of the live one.
    pub async fn apply(
        &self,
        client: &Client,
        live: Option<&ObjectMeta>,
        desired: &Value,
    ) -> Result<DynamicObject, apiserver::Error> {
        let mut desired = desired.clone();
        drift::stamp(&mut desired);
        dynamic::apply(client, &over(live, desired)).await
    }

    /// Stamps a desired object and applies it unless the live one is it already.
    ///
    /// # Errors
    /// When a call fails: not found when the kind is not served.
    pub async fn ensure(&self, apiserver: &Apiserver, desired: &Value) -> Result<Ensured, apiserver::Error> {
        let live = match Key::of(desired) {
            Some(key) => dynamic::get(&apiserver.client(), &key).await?,
            None => None,
        };
        self.ensure_over(apiserver, live.as_ref().map(|live| &live.metadata), desired).await
    }

    /// Like [`Self::ensure`] with the live object that was read already.
    ///
    /// # Errors
    /// When the apply fails: not found when the kind is not served, a conflict when another object has taken the place of the live one.
    pub async fn ensure_over(
        &self,
        apiserver: &Apiserver,
        live: Option<&ObjectMeta>,
        desired: &Value,
    ) -> Result<Ensured, apiserver::Error> {
        let mut desired = desired.clone();
        drift::stamp(&mut desired);
        let repair = match self.decide(live, &desired) {
            Decision::Keep => return Ok(Ensured::AsDesired),
            Decision::LeaveFor(left) => {
                left.report(apiserver, live.unwrap_or(&ObjectMeta::default())).await;
                return Ok(Ensured::LeftFor(left.pause()));
            }
            Decision::Apply => None,
            Decision::Repair(repair) => Some(repair),
        };
        let applied = dynamic::apply(&apiserver.client(), &over(live, desired)).await?;
        if let Some(repair) = repair {
            self.remember(repair);
        }
        Ok(Ensured::Applied(Box::new(applied)))
    }
}

/// The desired object, to be applied over this very live one and no other of its name.
fn over(live: Option<&ObjectMeta>, mut desired: Value) -> Value {
    if let Some(uid) = live.and_then(|live| live.uid.as_deref()) {
        desired["metadata"]["uid"] = uid.into();
    }
    desired
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
        let left = || match guard.decide(Some(&live), &desired) {
            Decision::LeaveFor(left) => left,
            other => panic!("a repair that did not last was not left alone: {other:?}"),
        };
        let (first, second) = (left(), left());
        assert_eq!((first.is_new, second.is_new), (true, false), "reported once");
        assert!(first.pause() > Duration::ZERO);
        assert!(matches!(guard.decide(None, &desired), Decision::Apply), "a deleted object is created at once");
    }

    #[test]
    fn the_event_names_the_object() {
        let live = ObjectMeta { uid: Some("u".to_owned()), ..ObjectMeta::default() };
        let key: Key = "core.oam.dev/v1beta1/Application/n/a".parse().unwrap();
        let found = reference(&key, &live);
        assert_eq!((found.api_version.as_deref(), found.uid.as_deref()), (Some("core.oam.dev/v1beta1"), Some("u")));
        assert_eq!((found.namespace.as_deref(), found.name.as_deref()), (Some("n"), Some("a")));
        let key: Key = "/v1/Namespace//a".parse().unwrap();
        let found = reference(&key, &live);
        assert_eq!((found.api_version.as_deref(), found.namespace), (Some("v1"), None));
    }
}
