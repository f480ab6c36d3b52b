//! What is kept in memory of each NovaTenant: enough to know whether commands about its applications can be carried out.

use kube::ResourceExt as _;
use kubenova_crds::{
    conditions, labels,
    tenant::{NovaTenant, condition},
};

/// One tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantDigest {
    pub name: String,
    /// Empty when label and spec name different ones: then another client changed one, and neither can be trusted.
    pub tenant_id: String,
    /// Everything its present generation asks for is in place.
    pub is_ready: bool,
}

impl TenantDigest {
    #[must_use]
    pub fn of(tenant: &NovaTenant) -> Self {
        let label = tenant.labels().get(labels::TENANT_ID);
        let tenant_id = label.filter(|label| **label == tenant.spec.tenant_id).cloned().unwrap_or_default();
        Self { name: tenant.name_any(), tenant_id, is_ready: is_ready(tenant) }
    }
}

/// Everything its present generation asks for is in place.
#[must_use]
pub fn is_ready(tenant: &NovaTenant) -> bool {
    let status = tenant.status.as_ref();
    tenant.metadata.deletion_timestamp.is_none()
        && status.is_some_and(|status| {
            status.observed_generation == tenant.metadata.generation
                && conditions::is_true(&status.conditions, condition::READY)
        })
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
        assert!(!TenantDigest::of(&tenant).is_ready, "of the generation before");
        tenant.metadata.generation = Some(1);
        let digest = TenantDigest { name: "acme".to_owned(), tenant_id: "t1".to_owned(), is_ready: true };
        assert_eq!(TenantDigest::of(&tenant), digest);
        tenant.labels_mut().insert(labels::TENANT_ID.to_owned(), "t2".to_owned());
        assert_eq!(TenantDigest::of(&tenant).tenant_id, "", "another label");
    }
}
