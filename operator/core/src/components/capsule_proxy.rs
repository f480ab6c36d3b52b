//! Capsule Proxy: a tenant's view of the API.
//!
//! Without the gate `ProxyClusterScoped` every tenant sees every node. It learns the namespaced kinds it filters once,
//! at its start, so its pods carry a digest of the cluster's set of CRDs and are replaced when the set changes.

use super::{certificate::Certificate, component::Component, endpoint, patch, settings::Settings};
use kubenova_crds::components::LogLevel;
use serde_json::{Value, json};

/// Annotation on its pods.
pub const CRD_SET: &str = "kubenova.io/crd-set";
/// The gate that hides cluster-scoped kinds.
const GATE: &str = "--feature-gates=ProxyClusterScoped=true";
const SECRET: &str = "capsule-proxy";
/// Requests a second and burst. Every list of a tenant costs several, and all tenants share them: with the chart's 20 and 30,
/// sixty lists took 7.5 s, directly 0.13 s.
const CLIENT_QPS: u32 = 500;
const CLIENT_BURST: u32 = 1000;

/// Values of its chart.
#[must_use]
pub fn values(settings: &Settings) -> Value {
    let proxy = &settings.components.capsule_proxy;
    let certificate = match proxy.endpoint.certificate.secret_name.as_str() {
        "" => SECRET,
        site => site,
    };
    json!({
        "crds": {"install": false},
        "replicaCount": settings.replicas(Component::CapsuleProxy),
        "image": {"tag": format!("v{}", settings.version(Component::CapsuleProxy))},
        "certManager": {"generateCertificates": false},
        "options": {
            "generateCertificates": false,
            "certificateVolumeName": certificate,
            "capsuleConfigurationName": "default",
            "logLevel": log_level(proxy.values.log_level),
            "clientConnectionQPS": proxy.values.client.qps.unwrap_or(CLIENT_QPS),
            "clientConnectionBurst": proxy.values.client.burst.unwrap_or(CLIENT_BURST),
            "extraArgs": [GATE],
        },
        "service": {"type": "ClusterIP"},
    })
}

/// Its verbosity: a number in the chart, which has no word for errors alone.
const fn log_level(level: LogLevel) -> u8 {
    match level {
        LogLevel::Info | LogLevel::Error => 4,
        LogLevel::Debug => 8,
    }
}

/// Its own serving certificate, unless the site brings one; the public name is what kubeconfigs carry.
#[must_use]
pub fn certificates(settings: &Settings) -> Vec<Certificate> {
    if !settings.components.capsule_proxy.endpoint.certificate.secret_name.is_empty() {
        return Vec::new();
    }
    let mut certificate = Certificate::for_service(Component::CapsuleProxy.namespace(), SECRET, "capsule-proxy", "ca");
    certificate.dns_names.extend(settings.public_host());
    vec![certificate]
}

/// Stamps the set of CRDs, the gate if the chart did not add it, and the type of its Service.
pub fn patch(settings: &Settings, object: &mut Value) {
    if object["kind"] == "Deployment" {
        patch::add_argument(object, GATE);
        patch::set_pod_annotation(object, CRD_SET, &settings.crd_set);
        if settings.components.capsule_proxy.values.log_level == LogLevel::Error {
            patch::set_argument(object, "--zap-log-level", "error");
        }
    }
    endpoint::expose(&settings.components.capsule_proxy.endpoint.service, object);
}

/// A digest of the names of the CRDs in a cluster, whatever their order. FNV-1a: it needs no resistance to attacks, and it must
/// be the same in every build.
#[must_use]
pub fn crd_set<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_unstable();
    let bytes = names.iter().flat_map(|name| name.bytes().chain([0]));
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::components::tests::settings;

    #[test]
    fn pods_are_replaced_when_the_set_of_crds_changes() {
        let one = crd_set(["b", "a"]);
        assert_eq!(one, crd_set(["a", "b"]));
        assert_ne!(one, crd_set(["a", "b", "c"]));
        assert_ne!(crd_set(["ab"]), crd_set(["a", "b"]));
        let mut deployment = json!({"kind": "Deployment", "spec": {"template": {"spec": {"containers": [{}]}}}});
        patch(&Settings { crd_set: one.clone(), ..settings() }, &mut deployment);
        let template = &deployment["spec"]["template"];
        assert_eq!(template["metadata"]["annotations"][CRD_SET], one);
        assert_eq!(template["spec"]["containers"][0]["args"], json!([GATE]));
    }

    #[test]
    fn the_certificate_is_valid_for_the_public_name() {
        let mut settings = settings();
        assert!(certificates(&settings)[0].dns_names.contains(&"tenants.example.test".to_owned()));
        settings.components.capsule_proxy.public_url.clear();
        assert_eq!(certificates(&settings)[0].dns_names.len(), 3);
    }

    #[test]
    fn a_certificate_of_the_site_takes_the_place_of_ours() {
        let mut settings = settings();
        assert_eq!(values(&settings)["options"]["certificateVolumeName"], SECRET);
        settings.components.capsule_proxy.endpoint.certificate.secret_name = "site".to_owned();
        assert_eq!(values(&settings)["options"]["certificateVolumeName"], "site");
        assert!(certificates(&settings).is_empty());
    }

    #[test]
    fn client_limits_are_ours_unless_configured() {
        let mut settings = settings();
        assert_eq!(values(&settings)["options"]["clientConnectionQPS"], CLIENT_QPS);
        settings.components.capsule_proxy.values.client.qps = Some(50);
        let values = values(&settings);
        assert_eq!(values["options"]["clientConnectionQPS"], 50);
        assert_eq!(values["options"]["clientConnectionBurst"], CLIENT_BURST);
    }
}
