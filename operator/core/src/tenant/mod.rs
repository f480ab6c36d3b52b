//! Tenants: which objects a NovaTenant stands for, how far they are, and in which order they are deleted. No client.

pub mod applications;
pub mod build;
pub mod capsule;
pub mod deletion;
pub mod digest;
pub mod limits;
pub mod ownership;
pub mod quota;
pub mod report;

use kube::ResourceExt as _;
use kubenova_crds::tenant::{NovaTenant, TenantObject};
use serde::Serialize;
use serde_json::Value;

/// Finalizer of a NovaTenant whose deletion the Manager has commanded: a tenant's objects are deleted in a fixed order. No other has it.
pub const FINALIZER: &str = "kubenova.io/tenant";

/// Longest tenant name: `<name>-owner` and `<name>-apps` are namespaces, whose names end at 63.
pub const NAME_MAX: usize = 57;

/// A NovaTenant that objects can be built from.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredTenant {
    pub name: String,
    /// The Manager's id.
    pub tenant_id: String,
    pub spec: kubenova_crds::tenant::TenantSpec,
    /// What is known to be this tenant's, see [`ownership`].
    pub objects: Vec<TenantObject>,
}

impl DesiredTenant {
    /// Of a NovaTenant, valid or not.
    #[must_use]
    pub fn of(tenant: &NovaTenant) -> Self {
        Self {
            name: tenant.name_any(),
            tenant_id: tenant.spec.tenant_id.clone(),
            spec: tenant.spec.clone(),
            objects: tenant.status.as_ref().map(|status| status.objects.clone()).unwrap_or_default(),
        }
    }
}

/// Why nothing can be built until the NovaTenant changes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTenant {
    #[error(
        "tenant name \"{0}\" is longer than {NAME_MAX} characters, so namespaces cannot be named after it; delete this \
         tenant and create it with a shorter name"
    )]
    Name(String),
    #[error("spec.tenantId is empty; delete this object and create the tenant through the Manager")]
    NoId,
}

/// Validates a NovaTenant.
///
/// # Errors
/// When nothing can be built from it: wait for a change.
pub fn validate(tenant: &NovaTenant) -> Result<DesiredTenant, InvalidTenant> {
    let name = tenant.name_any();
    if name.len() > NAME_MAX {
        return Err(InvalidTenant::Name(name));
    }
    if tenant.spec.tenant_id.is_empty() {
        return Err(InvalidTenant::NoId);
    }
    Ok(DesiredTenant::of(tenant))
}

/// Namespace of identities; no pod runs there.
#[must_use]
pub fn owner_namespace(tenant: &str) -> String {
    format!("{tenant}-owner")
}

/// Namespace of applications.
#[must_use]
pub fn apps_namespace(tenant: &str) -> String {
    format!("{tenant}-apps")
}

/// The ServiceAccounts that kubeconfigs are made for: name and namespace.
#[must_use]
pub fn service_accounts(tenant: &str) -> [(&'static str, String); 2] {
    [("owner", owner_namespace(tenant)), ("readonly", apps_namespace(tenant))]
}

/// Names of the tenant's TenantOwners, in the order of [`service_accounts`].
#[must_use]
pub fn tenant_owner_names(tenant: &str) -> [String; 2] {
    [format!("{tenant}-owner"), format!("{tenant}-readonly")]
}

/// The tenant whose namespace or TenantOwner has this name, if any has.
#[must_use]
pub fn tenant_of(name: &str) -> Option<&str> {
    ["-owner", "-apps", "-readonly"].iter().find_map(|suffix| name.strip_suffix(suffix))
}

fn to_value(object: &impl Serialize) -> Value {
    serde_json::to_value(object).expect("objects of Kubernetes have text keys and no other map")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use kubenova_crds::tenant::TenantSpec;

    pub(crate) fn tenant() -> DesiredTenant {
        DesiredTenant {
            name: "acme".into(),
            tenant_id: "id-1".into(),
            spec: TenantSpec { tenant_id: "id-1".into(), ..TenantSpec::default() },
            objects: Vec::new(),
        }
    }

    #[test]
    fn a_tenant_needs_an_id_and_a_name_that_fits() {
        let tenant =
            |name: &str, id: &str| NovaTenant::new(name, TenantSpec { tenant_id: id.into(), ..TenantSpec::default() });
        assert!(validate(&tenant("acme", "id")).is_ok());
        assert_eq!(validate(&tenant("acme", "")), Err(InvalidTenant::NoId));
        assert!(matches!(validate(&tenant(&"a".repeat(58), "id")), Err(InvalidTenant::Name(_))));
    }

    #[test]
    fn what_is_named_after_a_tenant_names_it() {
        let names = tenant_owner_names("acme").into_iter().chain([owner_namespace("acme"), apps_namespace("acme")]);
        for name in names {
            assert_eq!(tenant_of(&name), Some("acme"), "{name}");
        }
        assert_eq!(tenant_of("kube-system"), None);
    }
}
