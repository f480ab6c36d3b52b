//! Capsule: the isolation of tenants.
//!
//! The Operator is its administrator; the roles it may bind are ours; the hooks that would freeze every pod of the
//! cluster when Capsule is away are off (quotas are native ones); its client limits are lifted, because its webhooks
//! read the settings again each time and 20 requests a second make every write of a tenant take up to 850 ms.

use super::{
    certificate::Certificate,
    component::{Component, Settings},
};
use serde_json::{Value, json};

/// Seconds a caller waits for a hook. The one hook that ignores failures still delays every write of a tenant by this
/// much while Capsule is away.
const HOOK_TIMEOUT_SECONDS: u32 = 3;
/// Requests a second and burst that let a webhook answer at once, measured: 150–850 ms a write before, 10 ms after.
const CLIENT_QPS: u32 = 1000;
const CLIENT_BURST: u32 = 2000;

/// Values of its chart.
#[must_use]
pub fn values(settings: &Settings) -> Value {
    json!({
        // Namespaces, roles and hook jobs are not the Operator's to apply; CRDs come from the chart's folder.
        "crds": {"install": false, "inline": false},
        "global": {"jobs": {"postInstall": {"enabled": false}, "preDelete": {"enabled": false}}},
        "proxy": {"enabled": false},
        "replicaCount": settings.replicas,
        "certManager": {"generateCertificates": false},
        "tls": {"create": false, "enableController": false, "name": SECRET},
        "manager": {
            "image": {"tag": format!("v{}", settings.version)},
            "rbac": {"create": false, "strict": true},
            "options": {
                "capsuleConfiguration": "default",
                "clientConnectionQPS": CLIENT_QPS,
                "clientConnectionBurst": CLIENT_BURST,
                "leaderElection": {"enabled": settings.replicas > 1},
                "administrators": [{"kind": "ServiceAccount", "name": settings.operator_user}],
                // Users come by TenantOwner; the default's group would let its members create namespaces.
                "users": [],
                "allowServiceAccountPromotion": false,
                "protectedNamespaceRegex": "^(kube-.*|default|kubenova-system|capsule-system|capsule-proxy-system|vela-system)$",
                // Administrators need no role in tenants beyond the one the Tenant itself binds.
                "rbac": {"administrationClusterRoles": [], "promotionClusterRoles": []},
            },
        },
        "webhooks": {
            "mutatingWebhooksTimeoutSeconds": HOOK_TIMEOUT_SECONDS,
            "validatingWebhooksTimeoutSeconds": HOOK_TIMEOUT_SECONDS,
            "service": {"caBundle": data_encoding::BASE64.encode(settings.ca_bundle.as_bytes())},
            "hooks": {
                // Both match every kind with Fail: with Capsule away they stop pod status writes in the whole cluster.
                "generic": {"enabled": false},
                "globalresourcequotas": {"enabled": false},
            },
        },
    })
}

const SECRET: &str = "capsule-tls";

/// Its webhook's certificate.
#[must_use]
pub fn certificates() -> Vec<Certificate> {
    vec![Certificate::for_service(Component::Capsule.namespace(), SECRET, "capsule-webhook-service", "ca.crt")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::components::tests::settings;

    #[test]
    fn the_operator_is_administrator_and_no_group_is_a_user() {
        let values = values(&settings(Component::Capsule));
        let options = &values["manager"]["options"];
        assert_eq!(options["administrators"][0]["name"], "system:serviceaccount:kubenova-system:kubenova-operator");
        assert_eq!(options["users"], json!([]));
        assert_eq!(options["rbac"]["administrationClusterRoles"], json!([]));
    }

    #[test]
    fn hooks_that_freeze_the_cluster_are_off() {
        let values = values(&settings(Component::Capsule));
        assert_eq!(values["webhooks"]["hooks"]["generic"]["enabled"], false);
        assert_eq!(values["webhooks"]["hooks"]["globalresourcequotas"]["enabled"], false);
        assert_eq!(values["webhooks"]["validatingWebhooksTimeoutSeconds"], 3);
    }

    #[test]
    fn only_several_replicas_elect_a_leader() {
        let one = values(&settings(Component::Capsule));
        assert_eq!(one["manager"]["options"]["leaderElection"]["enabled"], false);
        let two = values(&Settings { replicas: 2, ..settings(Component::Capsule) });
        assert_eq!(two["manager"]["options"]["leaderElection"]["enabled"], true);
        assert_eq!(two["replicaCount"], 2);
    }

    #[test]
    fn the_certificate_names_the_webhook_service() {
        assert_eq!(certificates()[0].dns_names[0], "capsule-webhook-service.capsule-system.svc");
    }
}
