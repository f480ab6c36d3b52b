//! Whose an object is that has the name of one of a tenant's: the Capsule Tenant, a namespace, a TenantOwner.
//!
//! The label with the tenant's id says so. Whoever may write the object may take the label away, so the NovaTenant's status keeps
//! the UIDs of what had it: such an object is still the tenant's. An object with another UID and without the label was made by
//! another client under the same name and is left alone.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kubenova_crds::{labels, tenant::TenantObject};
use kubenova_schema::mutant;

/// Whose a live object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// It has the tenant's label.
    Labelled,
    /// It is the tenant's and has lost the label.
    Unlabelled,
    /// It is not the tenant's.
    Foreign,
}

impl Ownership {
    /// Decides about a live object.
    #[must_use]
    pub fn of(live: &ObjectMeta, tenant_id: &str, known: &[TenantObject]) -> Self {
        let label = live.labels.as_ref().and_then(|labels| labels.get(labels::TENANT_ID));
        if label.is_some_and(|label| label == tenant_id) {
            return Self::Labelled;
        }
        if mutant::is_on("tenant.label-alone") {
            return Self::Foreign;
        }
        let uid = live.uid.as_deref().filter(|uid| !uid.is_empty());
        if uid.is_some_and(|uid| known.iter().any(|object| object.uid == uid)) {
            return Self::Unlabelled;
        }
        Self::Foreign
    }

    #[must_use]
    pub fn is_own(self) -> bool {
        self != Self::Foreign
    }
}

/// What a condition says of an object that is not the tenant's.
#[must_use]
pub fn taken(kind: &str, name: &str, tenant_id: &str) -> String {
    let label = labels::TENANT_ID;
    format!(
        "{kind} \"{name}\" exists and does not belong to this tenant; delete it, or give it the label {label}={tenant_id} if it is to \
         become this tenant's, or delete this tenant and create it with another name"
    )
}

/// What an event says of an object that has the label again.
#[must_use]
pub fn repaired(kind: &str, name: &str) -> String {
    let label = labels::TENANT_ID;
    format!(
        "{kind} \"{name}\" had lost the label {label} and has it again; the API server's audit log says who changed it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_lost_its_label_is_known_by_its_uid() {
        let live = |uid: &str, label: Option<&str>| ObjectMeta {
            uid: Some(uid.to_owned()),
            labels: label.map(|label| [(labels::TENANT_ID.to_owned(), label.to_owned())].into()),
            ..ObjectMeta::default()
        };
        let known = [TenantObject { kind: "Namespace".into(), name: "acme-apps".into(), uid: "u1".into() }];
        for (uid, label, expected) in [
            ("u2", Some("t"), Ownership::Labelled),
            ("u1", None, Ownership::Unlabelled),
            ("u1", Some("other"), Ownership::Unlabelled),
            ("u2", None, Ownership::Foreign),
            ("u2", Some("other"), Ownership::Foreign),
            ("", None, Ownership::Foreign),
        ] {
            assert_eq!(Ownership::of(&live(uid, label), "t", &known), expected, "{uid} {label:?}");
        }
        let nothing_known = [TenantObject::default()];
        assert_eq!(Ownership::of(&live("", None), "t", &nothing_known), Ownership::Foreign, "no uid equals no uid");
    }
}
