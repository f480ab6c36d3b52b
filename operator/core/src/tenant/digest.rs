//! What is kept in memory of each NovaTenant: enough to know whether commands about its applications can be carried out.

use kube::ResourceExt as _;
use kubenova_crds::{
    labels,
    tenant::{NovaTenant, condition},
};

/// One tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantDigest {
    pub name: String,
    /// Empty when label and spec name different ones: then another client changed one, and neither can be trusted.
    pub tenant_id: String,
    /// None when everything its present generation asks for is in place.
    pub not_ready: Option<NotReady>,
}

/// Why a tenant is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReady {
    pub reason: String,
    pub message: String,
}

impl NotReady {
    fn new(reason: &str, message: &str) -> Self {
        Self { reason: reason.to_owned(), message: message.to_owned() }
    }

    /// There is no NovaTenant with the id.
    #[must_use]
    pub fn absent() -> Self {
        Self::new("TenantMissing", "the tenant is not on this cluster")
    }
}

impl TenantDigest {
    #[must_use]
    pub fn of(tenant: &NovaTenant) -> Self {
        let label = tenant.labels().get(labels::TENANT_ID);
        let tenant_id = label.filter(|label| **label == tenant.spec.tenant_id).cloned().unwrap_or_default();
        Self { name: tenant.name_any(), tenant_id, not_ready: not_ready(tenant) }
    }

    /// Commands about its applications can be carried out.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.not_ready.is_none()
    }

    /// What commands about its applications depend on is the same. Why it is not ready may change often.
    #[must_use]
    pub fn serves_like(&self, other: &Self) -> bool {
        (&self.name, &self.tenant_id, self.is_ready()) == (&other.name, &other.tenant_id, other.is_ready())
    }
}

/// Everything its present generation asks for is in place.
#[must_use]
pub fn is_ready(tenant: &NovaTenant) -> bool {
    not_ready(tenant).is_none()
}

fn not_ready(tenant: &NovaTenant) -> Option<NotReady> {
    if tenant.metadata.deletion_timestamp.is_some() {
        return Some(NotReady::new("Deleting", "the tenant is being deleted"));
    }
    let status = tenant.status.as_ref();
    let ready = status.and_then(|status| status.conditions.iter().find(|found| found.type_ == condition::READY));
    match ready {
        Some(ready) if ready.status != "True" => Some(NotReady::new(&ready.reason, &ready.message)),
        Some(_) if status.is_some_and(|status| status.observed_generation == tenant.metadata.generation) => None,
        _ => Some(NotReady::new("Applying", "the tenant is being set up")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::ConditionSet;
    use kubenova_crds::tenant::{TenantSpec, TenantStatus};

    #[test]
    fn a_tenant_is_ready_at_its_present_generation_only() {
        let mut tenant = NovaTenant::new("acme", TenantSpec { tenant_id: "t1".to_owned(), ..TenantSpec::default() });
        assert_eq!(TenantDigest::of(&tenant).tenant_id, "", "no label");
        tenant.labels_mut().insert(labels::TENANT_ID.to_owned(), "t1".to_owned());
        tenant.metadata.generation = Some(2);
        let mut status = TenantStatus { observed_generation: Some(1), ..TenantStatus::default() };
        let mut ready = ConditionSet::new();
        ready.set_true(condition::READY, "Ready", "");
        let _changed = ready.merge_into(&mut status.conditions, Some(1), jiff::Timestamp::UNIX_EPOCH);
        tenant.status = Some(status);
        let before = TenantDigest::of(&tenant);
        assert!(!before.is_ready(), "of the generation before");
        tenant.metadata.generation = Some(1);
        let digest = TenantDigest { name: "acme".to_owned(), tenant_id: "t1".to_owned(), not_ready: None };
        assert_eq!(TenantDigest::of(&tenant), digest);
        assert!(!digest.serves_like(&before) && digest.serves_like(&digest));
        tenant.labels_mut().insert(labels::TENANT_ID.to_owned(), "t2".to_owned());
        assert_eq!(TenantDigest::of(&tenant).tenant_id, "", "another label");
    }

    #[test]
    fn a_tenant_says_why_it_is_not_ready() {
        let mut tenant = NovaTenant::new("acme", TenantSpec::default());
        let reason = |tenant: &NovaTenant| TenantDigest::of(tenant).not_ready.map(|why| why.reason);
        assert_eq!(reason(&tenant).as_deref(), Some("Applying"));
        let mut ready = ConditionSet::new();
        ready.set_false(condition::READY, "NamespaceTaken", "NamespacesReady: acme-apps is not ours");
        let mut status = TenantStatus::default();
        let _changed = ready.merge_into(&mut status.conditions, None, jiff::Timestamp::UNIX_EPOCH);
        tenant.status = Some(status);
        let taken = TenantDigest::of(&tenant);
        assert_eq!(reason(&tenant).as_deref(), Some("NamespaceTaken"));
        let other = TenantDigest { not_ready: Some(NotReady::absent()), ..taken.clone() };
        assert!(taken.serves_like(&other), "for another reason");
        tenant.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(reason(&tenant).as_deref(), Some("Deleting"));
    }
}
