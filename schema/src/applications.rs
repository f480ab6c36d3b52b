//! What both sides know about KubeVela Applications: which definitions clusters apply, which labels and annotations are
//! written by the platform, and as whom an application runs. The Manager refuses early what the Operator and the
//! cluster's admission would refuse late; one list for both, so they cannot disagree.

/// Component definitions that clusters apply. Others print tenants' secrets, reach any address, or start pods
/// with another identity.
pub const COMPONENT_TYPES: &[&str] =
    &["cron-task", "daemon", "k8s-objects", "statefulset", "task", "webservice", "worker"];

/// Trait definitions that clusters apply.
pub const TRAIT_TYPES: &[&str] = &[
    "affinity",
    "annotations",
    "command",
    "container-image",
    "container-ports",
    "cpuscaler",
    "env",
    "expose",
    "gateway",
    "hostalias",
    "hpa",
    "init-container",
    "k8s-update-strategy",
    "labels",
    "lifecycle",
    "podsecuritycontext",
    "resource",
    "scaler",
    "securitycontext",
    "sidecar",
    "startup-probe",
    "storage",
    "topologyspreadconstraints",
];

/// Policy definitions that clusters apply.
pub const POLICY_TYPES: &[&str] = &["apply-once", "garbage-collect", "override", "topology"];

/// Workflow step definitions that clusters apply.
pub const STEP_TYPES: &[&str] = &["apply-component", "depends-on-app", "deploy", "step-group", "suspend"];

/// Domains whose labels and annotations decide about rights, identity and what controllers do: ours, KubeVela's
/// (`app.oam.dev/username` says with whose rights an application runs, `controller.core.oam.dev/pause` stops its
/// removal) and Capsule's.
const RESERVED_DOMAINS: [&str; 4] = ["kubenova.io", "oam.dev", "projectcapsule.dev", "capsule.clastix.io"];

/// True when the domain before the slash is a reserved one or below one. Compared by whole segments.
#[must_use]
pub fn is_reserved(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return false };
    RESERVED_DOMAINS
        .iter()
        .any(|reserved| domain.strip_suffix(reserved).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// The ServiceAccount that applications run as, in `<tenant>-owner`.
pub const DEPLOYER: &str = "kubenova-deployer";

/// User name of a tenant's deployer.
#[must_use]
pub fn deployer(tenant: &str) -> String {
    format!("system:serviceaccount:{tenant}-owner:{DEPLOYER}")
}

/// The finalizer by which KubeVela removes what an application made.
pub const KUBEVELA_FINALIZER: &str = "app.oam.dev/resource-tracker-finalizer";

/// Labels of an application that the platform writes, with their values. Capsule writes its own beside ours.
#[must_use]
pub fn written_labels(tenant: &str, tenant_id: &str, application: &str) -> Vec<(&'static str, Option<String>)> {
    [
        ("kubenova.io/tenant-id", tenant_id),
        ("kubenova.io/tenant", tenant),
        ("kubenova.io/project", tenant),
        ("kubenova.io/application", application),
        ("capsule.clastix.io/managed-by", tenant),
        ("capsule.clastix.io/tenant", tenant),
        ("projectcapsule.dev/managed-by", tenant),
        ("projectcapsule.dev/tenant", tenant),
    ]
    .map(|(key, value)| (key, Some(value.to_owned())))
    .to_vec()
}

/// Annotations of an application that the platform writes, with their values; none where any value may stand.
#[must_use]
pub fn written_annotations(tenant: &str) -> Vec<(&'static str, Option<String>)> {
    vec![
        ("kubenova.io/revision", None),
        ("kubenova.io/command-id", None),
        ("kubenova.io/applied-sha256", None),
        ("app.oam.dev/username", Some(deployer(tenant))),
        ("app.oam.dev/group", Some(String::new())),
        ("app.oam.dev/last-applied-configuration", None),
        ("app.oam.dev/last-applied-time", None),
        ("app.oam.dev/kubevela-version", None),
        ("oam.dev/kubevela-version", None),
        ("kubectl.kubernetes.io/last-applied-configuration", None),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_domains_are_compared_by_segments() {
        for reserved in [
            "kubenova.io/tenant",
            "x.kubenova.io/tenant",
            "app.oam.dev/username",
            "oam.dev/kubevela-version",
            "controller.core.oam.dev/pause",
            "projectcapsule.dev/tenant",
            "capsule.clastix.io/managed-by",
            "oam.dev/",
        ] {
            assert!(is_reserved(reserved), "{reserved}");
        }
        for free in ["team", "oam.dev", "notoam.dev/x", "oam.dev.example/x", "clastix.io/x", "example.com/oam.dev", ""]
        {
            assert!(!is_reserved(free), "{free}");
        }
    }

    #[test]
    fn what_the_platform_writes_is_reserved() {
        let keys = written_labels("acme", "id", "shop").into_iter().map(|(key, _)| key);
        for key in keys.chain(written_annotations("acme").into_iter().map(|(key, _)| key)) {
            assert!(is_reserved(key) || key.starts_with("kubectl.kubernetes.io/"), "{key}");
        }
    }
}
