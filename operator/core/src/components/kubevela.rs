//! KubeVela: applications, each run with the rights of its tenant's deployer.
//!
//! The chart has no value for what matters most: resources outside the application's namespace, Applications inside
//! Applications, and objects fetched from URLs are closed by arguments added here. Of its definitions only those listed
//! in `kubenova_schema::applications` are applied: others print tenants' secrets, reach any address, or start pods as
//! another account.

use super::{certificate::Certificate, component::Component, object::Key, patch, settings::Settings};
use kubenova_crds::components::LogLevel;
use kubenova_schema::applications;
use serde_json::{Value, json};

/// Revisions kept of an application. Rolling back needs several; the chart keeps two.
const REVISIONS: u32 = 10;
/// What its chart chooses.
const CONCURRENT_RECONCILES: u32 = 4;
const RESYNC_MINUTES: u32 = 5;
const CLIENT_QPS: u32 = 400;
const CLIENT_BURST: u32 = 600;
const SECRET: &str = "kubevela-vela-core-admission";

/// Arguments the chart has no value for. Unknown flags are accepted silently by vela-core, so a name that changes with
/// a version is noticed only by the attacks in the scenarios.
const ARGUMENTS: [(&str, &str); 3] = [
    ("--allow-cross-namespace-resource", "false"),
    ("--ref-objects-available-scope", "namespace"),
    ("--allow-resource-types", "blacklist:Application.v1beta1.core.oam.dev"),
];
const GATE: &str = "--feature-gates=DisableReferObjectsFromURL=true";

/// True for a definition that may be applied.
#[must_use]
pub fn is_allowed(kind: &str, name: &str) -> bool {
    match kind {
        "ComponentDefinition" => applications::COMPONENT_TYPES.contains(&name),
        "TraitDefinition" => applications::TRAIT_TYPES.contains(&name),
        "PolicyDefinition" => applications::POLICY_TYPES.contains(&name),
        "WorkflowStepDefinition" => applications::STEP_TYPES.contains(&name),
        _ => false,
    }
}

/// Values of its chart.
#[must_use]
pub fn values(settings: &Settings) -> Value {
    let values = &settings.components.kubevela.values;
    json!({
        "replicaCount": settings.replicas(Component::KubeVela),
        "image": {"tag": format!("v{}", settings.version(Component::KubeVela)), "pullPolicy": "IfNotPresent"},
        "logDebug": values.log_level == LogLevel::Debug,
        "concurrentReconciles": values.concurrent_reconciles.unwrap_or(CONCURRENT_RECONCILES),
        "controllerArgs": {"reSyncPeriod": format!("{}m", values.resync_minutes.unwrap_or(RESYNC_MINUTES))},
        "kubeClient": {
            "qps": values.client.qps.unwrap_or(CLIENT_QPS),
            "burst": values.client.burst.unwrap_or(CLIENT_BURST),
        },
        "multicluster": {"enabled": false, "metrics": {"enabled": false}},
        "admissionWebhooks": {
            "enabled": true,
            "failurePolicy": "Fail",
            // With its own patch job the hooks would be born with Ignore, and unstamped Applications would slip in.
            "patch": {"enabled": false},
            "certManager": {"enabled": false},
        },
        // The user who last wrote an Application is stamped on it, and it runs with that user's rights.
        "authentication": {"enabled": true, "withUser": true, "defaultUser": "kubevela:vela-core", "groupPattern": "kubevela:*"},
        "applicationRevisionLimit": values.revision_limit.unwrap_or(REVISIONS),
        "optimize": {"markWithProb": 1.0},
        "featureGates": {
            // Revisions stay readable, for rollback and for kubectl.
            "zstdApplicationRevision": false,
            "gzipApplicationRevision": false,
            "zstdResourceTracker": false,
            "gzipResourceTracker": false,
            // Else it wants to list every node at its start.
            "disableBootstrapClusterInfo": true,
        },
        // CUE packages from elsewhere would run in the controller.
        "workflow": {
            "enableExternalPackageForDefaultCompiler": false,
            "enableExternalPackageWatchForDefaultCompiler": false,
        },
        "core": {"metrics": {"enabled": false}},
        // The chart waits 30 s before the first probe; the process answers after two.
        "readinessProbe": {"initialDelaySeconds": 1, "periodSeconds": 2},
        "podSecurityContext": {
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    })
}

/// Its webhook's certificate.
#[must_use]
pub fn certificates() -> Vec<Certificate> {
    vec![Certificate::for_service(Component::KubeVela.namespace(), SECRET, "vela-core-webhook", "ca")]
}

/// Adds the arguments the chart has no value for. One replica needs no leader election: after a crash it would wait
/// 17–20 s for its own lease.
pub fn patch(settings: &Settings, object: &mut Value) {
    let is_controller =
        Key::of(object).is_some_and(|key| key.kind == "Deployment" && key.name == Component::KubeVela.deployment());
    if !is_controller {
        return;
    }
    for (flag, value) in ARGUMENTS {
        patch::set_argument(object, flag, value);
    }
    patch::add_argument(object, GATE);
    if settings.replicas(Component::KubeVela) <= 1 {
        patch::drop_argument(object, "--enable-leader-election");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::components::tests::{settings, with_replicas};

    fn deployment() -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "kubevela-vela-core", "namespace": "vela-system"},
            "spec": {"template": {"spec": {"containers": [{"args": [
                "--enable-leader-election", "--feature-gates=AuthenticateApplication=true"
            ]}]}}}
        })
    }

    #[test]
    fn the_escapes_without_a_value_are_closed_by_arguments() {
        let mut deployment = deployment();
        patch(&settings(), &mut deployment);
        let args = deployment["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
        for argument in [
            "--allow-cross-namespace-resource=false",
            "--ref-objects-available-scope=namespace",
            "--allow-resource-types=blacklist:Application.v1beta1.core.oam.dev",
            "--feature-gates=DisableReferObjectsFromURL=true",
            "--feature-gates=AuthenticateApplication=true",
        ] {
            assert!(args.contains(argument), "{argument} is missing in {args}");
        }
        assert!(!args.contains("leader-election"));
    }

    #[test]
    fn several_replicas_keep_their_leader_election() {
        let mut deployment = deployment();
        patch(&with_replicas(2), &mut deployment);
        assert!(deployment.to_string().contains("--enable-leader-election"));
    }

    #[test]
    fn definitions_that_reach_out_or_print_secrets_are_never_applied() {
        for step in [
            "read-config",
            "list-config",
            "request",
            "webhook",
            "notification",
            "check-metrics",
            "vela-cli",
            "apply-application",
            "read-object",
            "apply-object",
        ] {
            assert!(!is_allowed("WorkflowStepDefinition", step), "{step}");
        }
        assert!(!is_allowed("ComponentDefinition", "ref-objects"));
        assert!(!is_allowed("ComponentDefinition", "raw"));
        assert!(!is_allowed("TraitDefinition", "service-account"));
        for policy in ["shared-resource", "take-over", "read-only"] {
            assert!(!is_allowed("PolicyDefinition", policy), "{policy}");
        }
        assert!(is_allowed("ComponentDefinition", "webservice") && is_allowed("TraitDefinition", "securitycontext"));
        assert!(!is_allowed("ConfigMap", "webservice"));
    }

    #[test]
    fn values_take_the_place_of_the_charts() {
        let mut settings = settings();
        let chosen = &mut settings.components.kubevela.values;
        (chosen.resync_minutes, chosen.concurrent_reconciles, chosen.revision_limit) = (Some(30), Some(8), Some(20));
        let values = values(&settings);
        assert_eq!(values["controllerArgs"]["reSyncPeriod"], "30m");
        assert_eq!(values["concurrentReconciles"], 8);
        assert_eq!(values["applicationRevisionLimit"], 20);
        assert_eq!(values["kubeClient"], json!({"qps": CLIENT_QPS, "burst": CLIENT_BURST}));
    }

    #[test]
    fn authentication_is_on_and_compression_off() {
        let values = values(&settings());
        assert_eq!(values["authentication"]["enabled"], true);
        assert_eq!(values["authentication"]["withUser"], true);
        assert_eq!(values["featureGates"]["zstdApplicationRevision"], false);
        assert!(values["applicationRevisionLimit"].as_u64().unwrap() >= 10);
        assert_eq!(values["admissionWebhooks"]["patch"]["enabled"], false);
    }
}
