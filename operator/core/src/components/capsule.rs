//! Capsule: the isolation of tenants.
//!
//! The Operator is its administrator; the roles it may bind are ours; the hooks that would freeze every pod of the
//! cluster when Capsule is away are off (quotas are native ones); its client limits are lifted, because its webhooks
//! read the settings again each time and 20 requests a second make every write of a tenant take up to 850 ms.

use super::{certificate::Certificate, component::Component, object::Key, settings::Settings};
use kubenova_crds::components::LogLevel;
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
    let (values, replicas) = (&settings.components.capsule.values, settings.replicas(Component::Capsule));
    let timeout = values.webhook_timeout_seconds.unwrap_or(HOOK_TIMEOUT_SECONDS);
    json!({
        // Namespaces, roles and hook jobs are not the Operator's to apply; CRDs come from the chart's folder.
        "crds": {"install": false, "inline": false},
        "global": {"jobs": {"postInstall": {"enabled": false}, "preDelete": {"enabled": false}}},
        "proxy": {"enabled": false},
        "replicaCount": replicas,
        "certManager": {"generateCertificates": false},
        "tls": {"create": false, "enableController": false, "name": SECRET},
        "manager": {
            "image": {"tag": format!("v{}", settings.version(Component::Capsule))},
            "rbac": {"create": false, "strict": true},
            "options": {
                "capsuleConfiguration": "default",
                "logLevel": log_level(values.log_level),
                "clientConnectionQPS": values.client.qps.unwrap_or(CLIENT_QPS),
                "clientConnectionBurst": values.client.burst.unwrap_or(CLIENT_BURST),
                "leaderElection": {"enabled": replicas > 1},
                "administrators": [{"kind": "ServiceAccount", "name": settings.operator_user}],
                // Users come by TenantOwner; the default's group would let its members create namespaces.
                "users": [],
                "allowServiceAccountPromotion": false,
                "protectedNamespaceRegex": protected_namespaces(&settings.state_namespace),
                // Administrators need no role in tenants beyond the one the Tenant itself binds.
                "rbac": {"administrationClusterRoles": [], "promotionClusterRoles": []},
            },
        },
        "webhooks": {
            "mutatingWebhooksTimeoutSeconds": timeout,
            "validatingWebhooksTimeoutSeconds": timeout,
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

/// Namespaces that no tenant may have: the cluster's, the Operator's and those of the components.
fn protected_namespaces(state_namespace: &str) -> String {
    let mut namespaces = vec![state_namespace];
    namespaces.extend(Component::ALL.map(Component::namespace));
    namespaces.sort_unstable();
    namespaces.dedup();
    format!("^(kube-.*|default|{})$", namespaces.join("|"))
}

const fn log_level(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Error => "error",
    }
}

/// Its settings.
#[must_use]
pub fn settings_key() -> Key {
    key("capsule.clastix.io", "v1beta2", "CapsuleConfiguration", "default")
}

/// The webhook configurations it makes from its settings.
#[must_use]
pub fn webhook_configurations() -> [Key; 2] {
    ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"]
        .map(|kind| key("admissionregistration.k8s.io", "v1", kind, "capsule-dynamic-webhook"))
}

fn key(group: &str, version: &str, kind: &str, name: &str) -> Key {
    Key {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        namespace: String::new(),
        name: name.to_owned(),
    }
}

/// A merge patch of its settings after which it has no webhook.
#[must_use]
pub fn without_webhooks() -> Value {
    json!({"spec": {"admission": {"validating": {"webhooks": null}, "mutating": {"webhooks": null}}}})
}

/// Its webhook's certificate.
#[must_use]
pub fn certificates() -> Vec<Certificate> {
    vec![Certificate::for_service(Component::Capsule.namespace(), SECRET, "capsule-webhook-service", "ca.crt")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::components::tests::{settings, with_replicas};

    #[test]
    fn the_operator_is_administrator_and_no_group_is_a_user() {
        let values = values(&settings());
        let options = &values["manager"]["options"];
        assert_eq!(options["administrators"][0]["name"], "system:serviceaccount:kubenova-system:kubenova-operator");
        assert_eq!(options["users"], json!([]));
        assert_eq!(options["rbac"]["administrationClusterRoles"], json!([]));
    }

    #[test]
    fn hooks_that_freeze_the_cluster_are_off() {
        let values = values(&settings());
        assert_eq!(values["webhooks"]["hooks"]["generic"]["enabled"], false);
        assert_eq!(values["webhooks"]["hooks"]["globalresourcequotas"]["enabled"], false);
        assert_eq!(values["webhooks"]["validatingWebhooksTimeoutSeconds"], 3);
    }

    #[test]
    fn only_several_replicas_elect_a_leader() {
        let one = values(&settings());
        assert_eq!(one["manager"]["options"]["leaderElection"]["enabled"], false);
        let two = values(&with_replicas(2));
        assert_eq!(two["manager"]["options"]["leaderElection"]["enabled"], true);
        assert_eq!(two["replicaCount"], 2);
    }

    #[test]
    fn values_take_the_place_of_our_choice() {
        let mut settings = settings();
        let values_of = &mut settings.components.capsule.values;
        values_of.log_level = LogLevel::Debug;
        values_of.webhook_timeout_seconds = Some(10);
        values_of.client.qps = Some(7);
        let values = values(&settings);
        let options = &values["manager"]["options"];
        assert_eq!((&options["logLevel"], &options["clientConnectionQPS"]), (&json!("debug"), &json!(7)));
        assert_eq!(options["clientConnectionBurst"], CLIENT_BURST);
        assert_eq!(values["webhooks"]["mutatingWebhooksTimeoutSeconds"], 10);
    }

    #[test]
    fn no_tenant_may_have_a_namespace_of_ours() {
        let values = values(&settings());
        let protected = values["manager"]["options"]["protectedNamespaceRegex"].as_str().unwrap();
        assert!(protected.starts_with("^(kube-.*|default|") && protected.ends_with(")$"), "{protected}");
        for namespace in Component::ALL.map(Component::namespace).into_iter().chain(["kubenova-system"]) {
            assert_eq!(protected.matches(&format!("|{namespace}")).count(), 1, "{protected}");
        }
    }

    #[test]
    fn the_certificate_names_the_webhook_service() {
        assert_eq!(certificates()[0].dns_names[0], "capsule-webhook-service.capsule-system.svc");
    }
}
