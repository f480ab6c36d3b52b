//! Tenants: ids, names, quotas, and which clusters each is on.

use crate::{
    cluster::ClusterId,
    label::{self, id_type, name_type},
    quantity,
    refusal::{Reason, Refusal},
};
use jiff::Timestamp;

id_type! {
    /// A tenant's id (UUIDv7). Keys and messages use it, never the name.
    TenantId
}

name_type! {
    /// A tenant's name, unique among tenants; its namespaces are named after it.
    TenantName, "tenant", |text| {
        label::check_not_reserved("tenant", text)?;
        match uuid::Uuid::try_parse(text) {
            Ok(_) => Err(Refusal::at(Reason::NameInvalid, "/name", "tenant name has the form of an id; choose a shorter one")),
            Err(_) => Ok(()),
        }
    }
}

impl TenantName {
    /// Namespace of the tenant's applications.
    #[must_use]
    pub fn apps_namespace(&self) -> String {
        format!("{self}-apps")
    }
}

/// How a path names a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantRef {
    /// By id.
    Id(TenantId),
    /// By name.
    Name(String),
}

impl TenantRef {
    /// Reads either form; any other text is a name.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        TenantId::parse(text).map_or_else(|| Self::Name(text.to_owned()), Self::Id)
    }
}

impl std::fmt::Display for TenantRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// One tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name.
    pub name: TenantName,
    /// Its limits on each cluster.
    pub quota: Quota,
    /// How strict its pods are checked.
    pub pod_security: PodSecurity,
    /// Version of this resource, from 1.
    pub generation: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When what is desired last changed.
    pub updated_at: Timestamp,
    /// Who created it.
    pub created_by: String,
}

impl Tenant {
    /// A tenant that is created now, with the limits of a caller who chooses none.
    #[must_use]
    pub fn new(id: TenantId, name: TenantName, now: Timestamp, creator: &str) -> Self {
        Self {
            id,
            name,
            quota: Quota::default(),
            pod_security: PodSecurity::default(),
            generation: 1,
            created_at: now,
            updated_at: now,
            created_by: creator.to_owned(),
        }
    }
}

/// A tenant on a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The tenant.
    pub tenant_id: TenantId,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The cluster's name.
    pub cluster_name: String,
    /// Since when.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
}

/// Limits of a tenant's `-apps` namespace, as Kubernetes quantities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// `requests.cpu`.
    pub cpu: String,
    /// `requests.memory`.
    pub memory: String,
    /// `pods`.
    pub pods: u32,
}

impl Default for Quota {
    fn default() -> Self {
        Self { cpu: "8".to_owned(), memory: "16Gi".to_owned(), pods: 50 }
    }
}

/// Most pods of one tenant on one cluster.
const PODS_MAX: u32 = 100_000;

impl Quota {
    /// Checks what a person may choose.
    ///
    /// # Errors
    /// With [`Reason::FieldInvalid`] and the pointer of the field.
    pub fn check(&self) -> Result<(), Refusal> {
        for (field, text) in [("/quota/cpu", &self.cpu), ("/quota/memory", &self.memory)] {
            quantity::check(field, text)?;
        }
        if self.pods > PODS_MAX {
            return Err(Refusal::at(
                Reason::FieldInvalid,
                "/quota/pods",
                format!("pods is {}, the most is {PODS_MAX}", self.pods),
            ));
        }
        Ok(())
    }
}

/// Level of pod security admission that is enforced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum PodSecurity {
    /// No privileged pods.
    #[default]
    Baseline,
    /// The strictest level.
    Restricted,
}

impl PodSecurity {
    /// The text in the database, in REST and in a NovaTenant.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }

    /// The level with this text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Baseline, Self::Restricted].into_iter().find(|level| level.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tenants() {
        assert_eq!(TenantName::parse("acme").unwrap().apps_namespace(), "acme-apps");
        for bad in ["kube-system", "Acme", "a1b2c3d4-a1b2-a1b2-a1b2-a1b2c3d4e5f6", "abcdefabcdefabcdefabcdefabcdefab"] {
            assert!(TenantName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_quota_names_its_field() {
        let quota = Quota { memory: "much".into(), ..Quota::default() };
        assert_eq!(quota.check().unwrap_err().field.as_deref(), Some("/quota/memory"));
        assert!(Quota::default().check().is_ok());
    }
}
