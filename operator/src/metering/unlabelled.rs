//! Namespaces whose label does not say whose they are: whoever may change a namespace may take its label away, and what runs in it
//! goes on being counted. NovaTenants keep the UIDs of their namespaces, which tell a start whose they are; a tenant that has no
//! NovaTenant any more is counted no longer.

use super::meter::Running;
use crate::apiserver::usage;
use kube::ResourceExt as _;
use kubenova_crds::tenant::NovaTenant;
use kubenova_operator_core::metering::observed::TenantRef;
use std::collections::BTreeSet;

/// The tenants' namespaces by UID.
pub(super) fn namespaces(tenants: &[NovaTenant]) -> Vec<(String, TenantRef)> {
    let namespaces = tenants.iter().flat_map(|tenant| {
        let objects = tenant.status.iter().flat_map(|status| &status.objects);
        let namespaces = objects.filter(|object| object.kind == "Namespace");
        let whose = TenantRef { id: tenant.spec.tenant_id.clone(), name: tenant.name_any() };
        namespaces.map(move |namespace| (namespace.uid.clone(), whose.clone()))
    });
    namespaces.collect()
}

impl Running {
    /// Ends the count of unlabelled namespaces whose tenant has no NovaTenant.
    pub(super) async fn release_unlabelled(&mut self, now_ms: i64) {
        if self.engine.unlabelled().next().is_none() {
            return;
        }
        let tenants = match usage::tenants(&self.parts.client).await {
            Ok(tenants) => tenants,
            Err(error) => {
                tracing::debug!(error = %error.reason(), "could not read tenants; unlabelled namespaces go on counting");
                return;
            }
        };
        let present: BTreeSet<&str> = tenants.iter().map(|tenant| tenant.spec.tenant_id.as_str()).collect();
        let gone = self.engine.unlabelled().filter(|(_, tenant)| !present.contains(tenant.id.as_str()));
        let gone: Vec<String> = gone.map(|(uid, _)| uid.to_owned()).collect();
        for uid in gone {
            tracing::info!(namespace.uid = uid, "an unlabelled namespace counts no longer: its tenant is gone");
            self.engine.release(&uid, now_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_crds::tenant::{TenantObject, TenantSpec, TenantStatus};

    #[test]
    fn namespaces_are_known_by_what_their_tenant_keeps() {
        let object =
            |kind: &str, uid: &str| TenantObject { kind: kind.into(), name: "acme-apps".into(), uid: uid.into() };
        let mut tenant = NovaTenant::new("acme", TenantSpec { tenant_id: "t".into(), ..TenantSpec::default() });
        assert!(namespaces(std::slice::from_ref(&tenant)).is_empty(), "without a status");
        let objects = vec![object("Namespace", "u1"), object("Tenant", "u2")];
        tenant.status = Some(TenantStatus { objects, ..TenantStatus::default() });
        let whose = TenantRef { id: "t".into(), name: "acme".into() };
        assert_eq!(namespaces(&[tenant]), [("u1".to_owned(), whose)]);
    }
}
