//! Tenants: what a NovaTenant becomes in the cluster, and how far it got. No client here.

pub mod build;
pub mod deletion;

use kube::ResourceExt as _;
use kubenova_crds::tenant::NovaTenant;
use serde_json::Value;

/// Finalizer of NovaTenants: walls are taken down in order, never by chance.
pub const FINALIZER: &str = "kubenova.io/tenant";

/// Longest tenant name: `<name>-owner` and `<name>-apps` are namespaces, whose names end at 63.
pub const NAME_MAX: usize = 57;

/// A NovaTenant that can be built from.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// The Manager's id.
    pub tenant_id: String,
    /// The spec.
    pub spec: kubenova_crds::tenant::TenantSpec,
}

/// Why nothing can be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The name makes no namespaces.
    #[error("tenant name \"{0}\" is longer than {NAME_MAX} characters; its namespaces could not be named after it")]
    Name(String),
    /// No id.
    #[error("spec.tenantId is empty; tenants are created through the Manager")]
    NoId,
}

/// Validates.
///
/// # Errors
/// When nothing can be built: wait for a change.
pub fn validate(tenant: &NovaTenant) -> Result<Wanted, Invalid> {
    let name = tenant.name_any();
    if name.len() > NAME_MAX {
        return Err(Invalid::Name(name));
    }
    if tenant.spec.tenant_id.is_empty() {
        return Err(Invalid::NoId);
    }
    Ok(Wanted { name, tenant_id: tenant.spec.tenant_id.clone(), spec: tenant.spec.clone() })
}

/// What Capsule says about the Tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capsule {
    /// Ready at the present generation.
    pub ready: bool,
    /// Its words when it is not.
    pub message: String,
    /// Active, Cordoned or Terminating.
    pub state: String,
    /// Namespaces it lists, with their UIDs.
    pub spaces: Vec<(String, String)>,
}

/// Reads a Capsule Tenant.
#[must_use]
pub fn capsule(live: &Value) -> Capsule {
    let status = &live["status"];
    let ready = status["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == "Ready");
    let observed = status["observedGeneration"].as_i64();
    // Not every release of Capsule writes observedGeneration; where it does it must be the present one.
    let current = observed.is_none() || observed == live["metadata"]["generation"].as_i64();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Capsule {
        ready: current && ready.is_some_and(|condition| condition["status"] == "True"),
        // Only what is not well has something to say: a Tenant that is going still reads "reconciled".
        message: ready
            .filter(|condition| condition["status"] != "True")
            .map(|condition| text(&condition["message"]))
            .unwrap_or_default(),
        state: text(&status["state"]),
        spaces: status["spaces"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|space| (text(&space["name"]), text(&space["uid"])))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_crds::tenant::TenantSpec;
    use serde_json::json;

    #[test]
    fn a_tenant_needs_an_id_and_a_name_that_fits() {
        let tenant =
            |name: &str, id: &str| NovaTenant::new(name, TenantSpec { tenant_id: id.into(), ..TenantSpec::default() });
        assert!(validate(&tenant("acme", "id")).is_ok());
        assert_eq!(validate(&tenant("acme", "")), Err(Invalid::NoId));
        assert!(matches!(validate(&tenant(&"a".repeat(58), "id")), Err(Invalid::Name(_))));
    }

    #[test]
    fn capsule_is_ready_only_at_the_present_generation() {
        let live = |observed: i64| {
            json!({"metadata":{"generation":2},"status":{"observedGeneration":observed,"state":"Active",
            "conditions":[{"type":"Ready","status":"True"}],"spaces":[{"name":"acme-apps","uid":"u"}]}})
        };
        assert!(capsule(&live(2)).ready);
        assert!(!capsule(&live(1)).ready);
        assert_eq!(capsule(&live(2)).spaces, [("acme-apps".to_owned(), "u".to_owned())]);
    }
}
