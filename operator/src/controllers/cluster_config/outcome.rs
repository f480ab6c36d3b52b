//! What installing a component came to, and how that reads as its condition.

use crate::apiserver::{self, error::chain};
use kubenova_operator_core::{
    components::{Component, standing::DISABLED},
    conditions::ConditionSet,
};

/// What installing a component came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Switched off; what runs is left alone.
    Disabled,
    /// It runs as desired.
    Ready { version: String, inventory: Vec<String> },
    /// It does not, for this reason.
    NotReady { reason: &'static str, message: String },
}

impl Outcome {
    pub(super) fn failed(reason: &'static str, message: impl Into<String>) -> Self {
        Self::NotReady { reason, message: message.into() }
    }

    /// The component's condition.
    pub(super) fn condition(&self, component: Component) -> ConditionSet {
        let (condition, title) = (component.condition(), component.title());
        let mut set = ConditionSet::new();
        match self {
            Self::Disabled => {
                let message =
                    format!("{title} is off in spec.components.{}; nothing was removed", component.spec_key());
                set.set_true(condition, DISABLED, message);
            }
            Self::Ready { version, .. } => {
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
    use kubenova_crds::conditions::ConditionStatus;

    #[test]
    fn every_outcome_is_a_condition_with_reason_and_message() {
        let outcomes = [
            (Outcome::Disabled, ConditionStatus::True),
            (Outcome::Ready { version: "1".to_owned(), inventory: Vec::new() }, ConditionStatus::True),
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
