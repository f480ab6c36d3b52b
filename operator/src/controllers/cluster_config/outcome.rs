//! What installing a component came to, and how that reads as its condition.

use crate::apiserver::{self, error::chain};
use kubenova_crds::conditions::ConditionStatus;
use kubenova_operator_core::{
    components::{Component, health::Standing, standing::DISABLED},
    conditions::ConditionSet,
};

/// What installing a component came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Switched off; what it had is gone.
    Disabled,
    /// Left as it is.
    Paused { is_available: bool },
    /// It runs as desired.
    Ready { version: String },
    /// It does not, for this reason.
    NotReady { reason: &'static str, message: String },
}

impl Outcome {
    pub(super) fn failed(reason: &'static str, message: impl Into<String>) -> Self {
        Self::NotReady { reason, message: message.into() }
    }

    /// The same for the component's entry in the status.
    pub(super) fn standing(&self) -> Standing {
        match self {
            Self::Disabled => Standing::Off,
            Self::Paused { is_available } => Standing::Paused { is_available: *is_available },
            Self::Ready { version } => Standing::Healthy { version: version.clone() },
            Self::NotReady { reason, message } => Standing::Unsettled { reason, message: message.clone() },
        }
    }

    /// The component's condition.
    pub(super) fn condition(&self, component: Component) -> ConditionSet {
        let (condition, title) = (component.condition(), component.title());
        let mut set = ConditionSet::new();
        match self {
            Self::Disabled => {
                let key = component.spec_key();
                let message =
                    format!("{title} is off in spec.components.{key}; what tenants have of it is left as it is");
                set.set_true(condition, DISABLED, message);
            }
            Self::Paused { is_available } => {
                let key = component.spec_key();
                let how = if *is_available { "it is available" } else { "it is not available" };
                let message = format!(
                    "{title} is paused, and nothing is applied or repaired; {how}; go on with spec.components.{key}.paused: false"
                );
                let status = if *is_available { ConditionStatus::True } else { ConditionStatus::False };
                set.set(condition, status, "Paused", message);
            }
            Self::Ready { version } => {
                set.set_true(condition, "Available", format!("{title} {version} is available"));
            }
            Self::NotReady { reason, message } => set.set_false(condition, *reason, message),
        }
        set
    }
}

/// A failed call as an outcome.
pub(super) fn refused(error: &apiserver::Error) -> Outcome {
    if error.is_forbidden() {
        let message = format!(
            "{}; if a right is missing, an administrator of this cluster grants it with: helm upgrade kubenova-operator \
             <chart of this release> --namespace kubenova-system --reset-then-reuse-values",
            chain(error)
        );
        return Outcome::failed("Forbidden", message);
    }
    Outcome::failed("ApplyFailed", format!("{}; trying again", chain(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_a_condition_with_reason_and_message() {
        let outcomes = [
            (Outcome::Disabled, ConditionStatus::True),
            (Outcome::Ready { version: "1".to_owned() }, ConditionStatus::True),
            (Outcome::Paused { is_available: true }, ConditionStatus::True),
            (Outcome::Paused { is_available: false }, ConditionStatus::False),
            (Outcome::failed("NotAvailable", "x"), ConditionStatus::False),
        ];
        for (outcome, status) in outcomes {
            let set = outcome.condition(Component::Capsule);
            let update = set.get(Component::Capsule.condition()).unwrap();
            assert_eq!(update.status, status);
            assert!(!update.reason.is_empty() && !update.message.is_empty());
        }
    }
}
