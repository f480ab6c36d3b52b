//! Quota, container limits and network policies of a tenant's namespaces.

use super::{DesiredTenant, apps_namespace, build, owner_namespace, to_value};
use k8s_openapi::{
    api::{
        core::v1::{LimitRange, LimitRangeItem, LimitRangeSpec, ResourceQuota, ResourceQuotaSpec},
        networking::v1::{
            IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
            NetworkPolicySpec,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
    },
};
use kubenova_crds::labels;
use serde_json::Value;
use std::collections::BTreeMap;

/// Name of the quota and of the limits.
pub const NAME: &str = "kubenova";
/// Requests of a container that names none: a quota refuses pods without requests.
const DEFAULT_REQUESTS: [(&str, &str); 3] = [("cpu", "100m"), ("memory", "128Mi"), ("ephemeral-storage", "256Mi")];
/// Limits of a container that names none: as far above the default requests as [`MAX_RATIO`] allows.
const DEFAULT_LIMITS: [(&str, &str); 3] = [("cpu", "1"), ("memory", "256Mi"), ("ephemeral-storage", "1Gi")];
/// How many times its requests a container may use. Quota and bill count requests, so what is used beyond them is free: processor time
/// that is left over may be, memory and disk that other pods then lack may hardly be.
const MAX_RATIO: [(&str, &str); 3] = [("cpu", "10"), ("memory", "2"), ("ephemeral-storage", "4")];
/// Least requests of a container: one that requests nothing would run outside every quota and every bill.
const LEAST_REQUESTS: [(&str, &str); 2] = [("cpu", "1m"), ("memory", "1Mi")];
/// Objects of a kind, each of which the cluster keeps and watches: more than a tenant of 100 applications has, with the ten revisions that
/// KubeVela and Kubernetes keep of each. Kinds of KubeVela are not among them: Kubernetes counts a new kind only some time after it is served,
/// and refuses until then what has a quota.
const OBJECTS: [(&str, &str); 15] = [
    ("count/configmaps", "300"),
    ("count/controllerrevisions.apps", "2000"),
    ("count/cronjobs.batch", "100"),
    ("count/daemonsets.apps", "20"),
    ("count/deployments.apps", "200"),
    ("count/horizontalpodautoscalers.autoscaling", "200"),
    ("count/ingresses.networking.k8s.io", "200"),
    ("count/jobs.batch", "500"),
    ("count/poddisruptionbudgets.policy", "200"),
    ("count/replicasets.apps", "2500"),
    ("count/secrets", "200"),
    ("count/services", "200"),
    ("count/statefulsets.apps", "100"),
    ("persistentvolumeclaims", "100"),
    ("count/replicationcontrollers", "0"),
];

/// What the site gives each tenant beside what the tenant's own quota says, and what it keeps from all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteLimits {
    /// Sum of the requests of all claims.
    pub storage: String,
    /// The same of one storage class, by its name.
    pub storage_classes: BTreeMap<String, String>,
    /// Sum of the requests for storage of nodes.
    pub ephemeral_storage: String,
    /// Services of type LoadBalancer, where the tenant may have some at all.
    pub load_balancers: u32,
    /// Networks to which no pod of a tenant connects: they hand out the credentials of nodes.
    pub metadata_addresses: Vec<String>,
}

impl Default for SiteLimits {
    fn default() -> Self {
        Self {
            storage: "100Gi".to_owned(),
            storage_classes: BTreeMap::new(),
            ephemeral_storage: "50Gi".to_owned(),
            load_balancers: 2,
            // AWS, GCP, Azure, OpenStack; Azure's wire server; AWS' for pods; Alibaba; the first two again by IPv6.
            metadata_addresses: [
                "169.254.169.254/32",
                "168.63.129.16/32",
                "169.254.170.2/32",
                "169.254.170.23/32",
                "100.100.100.200/32",
                "fd00:ec2::254/128",
                "fd00:ec2::23/128",
            ]
            .map(str::to_owned)
            .to_vec(),
        }
    }
}

/// All of them, in the order in which they are applied.
#[must_use]
pub fn limits(tenant: &DesiredTenant, site: &SiteLimits) -> Vec<Value> {
    let (owner, apps) = (owner_namespace(&tenant.name), apps_namespace(&tenant.name));
    vec![
        // No pod runs beside the identities.
        resource_quota(tenant, &owner, quantities(&[("pods", "0")])),
        resource_quota(tenant, &apps, apps_quota(tenant, site)),
        limit_range(tenant, &apps),
        isolation(tenant, &apps),
        no_metadata_service(tenant, &apps, &site.metadata_addresses),
    ]
}

fn apps_quota(tenant: &DesiredTenant, site: &SiteLimits) -> BTreeMap<String, Quantity> {
    let quota = &tenant.spec.quota;
    let (pods, balancers) = (quota.pods.to_string(), site.load_balancers.to_string());
    let mut hard = quantities(&[
        ("requests.cpu", &quota.cpu),
        ("requests.memory", &quota.memory),
        ("pods", &pods),
        ("requests.storage", &site.storage),
        ("requests.ephemeral-storage", &site.ephemeral_storage),
        ("services.loadbalancers", &balancers),
    ]);
    hard.extend(quantities(&OBJECTS));
    let of_classes = site.storage_classes.iter().map(|(class, amount)| {
        (format!("{class}.storageclass.storage.k8s.io/requests.storage"), Quantity(amount.clone()))
    });
    hard.extend(of_classes);
    hard
}

fn resource_quota(tenant: &DesiredTenant, namespace: &str, hard: BTreeMap<String, Quantity>) -> Value {
    to_value(&ResourceQuota {
        metadata: build::metadata(tenant, NAME, Some(namespace)),
        spec: Some(ResourceQuotaSpec { hard: Some(hard), ..ResourceQuotaSpec::default() }),
        ..ResourceQuota::default()
    })
}

fn limit_range(tenant: &DesiredTenant, namespace: &str) -> Value {
    let item = LimitRangeItem {
        type_: "Container".to_owned(),
        min: Some(quantities(&LEAST_REQUESTS)),
        default_request: Some(quantities(&DEFAULT_REQUESTS)),
        default: Some(quantities(&DEFAULT_LIMITS)),
        max_limit_request_ratio: Some(quantities(&MAX_RATIO)),
        ..LimitRangeItem::default()
    };
    to_value(&LimitRange {
        metadata: build::metadata(tenant, NAME, Some(namespace)),
        spec: Some(LimitRangeSpec { limits: vec![item] }),
    })
}

/// Lets in the tenant's own pods and namespaces of no tenant (ingress controllers, monitoring).
fn isolation(tenant: &DesiredTenant, namespace: &str) -> Value {
    let no_tenant = LabelSelectorRequirement {
        key: labels::TENANT_ID.to_owned(),
        operator: "DoesNotExist".to_owned(),
        values: None,
    };
    let own_pods = NetworkPolicyPeer { pod_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() };
    let others = NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector {
            match_expressions: Some(vec![no_tenant]),
            ..LabelSelector::default()
        }),
        ..NetworkPolicyPeer::default()
    };
    let spec = NetworkPolicySpec {
        policy_types: Some(vec!["Ingress".to_owned()]),
        ingress: Some(vec![NetworkPolicyIngressRule { from: Some(vec![own_pods, others]), ports: None }]),
        ..every_pod()
    };
    network_policy(tenant, namespace, "kubenova-isolation", spec)
}

/// Lets everything out but requests to what hands out the credentials of nodes.
fn no_metadata_service(tenant: &DesiredTenant, namespace: &str, addresses: &[String]) -> Value {
    let everywhere_but = |cidr: &str, is_ipv6: bool| {
        let except: Vec<String> = addresses.iter().filter(|it| it.contains(':') == is_ipv6).cloned().collect();
        NetworkPolicyPeer {
            ip_block: Some(IPBlock { cidr: cidr.to_owned(), except: Some(except).filter(|it| !it.is_empty()) }),
            ..NetworkPolicyPeer::default()
        }
    };
    let every_namespace =
        NetworkPolicyPeer { namespace_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() };
    let to = vec![every_namespace, everywhere_but("0.0.0.0/0", false), everywhere_but("::/0", true)];
    let spec = NetworkPolicySpec {
        policy_types: Some(vec!["Egress".to_owned()]),
        egress: Some(vec![NetworkPolicyEgressRule { to: Some(to), ports: None }]),
        ..every_pod()
    };
    network_policy(tenant, namespace, "kubenova-no-metadata", spec)
}

fn every_pod() -> NetworkPolicySpec {
    NetworkPolicySpec { pod_selector: Some(LabelSelector::default()), ..NetworkPolicySpec::default() }
}

fn network_policy(tenant: &DesiredTenant, namespace: &str, name: &str, spec: NetworkPolicySpec) -> Value {
    to_value(&NetworkPolicy { metadata: build::metadata(tenant, name, Some(namespace)), spec: Some(spec) })
}

fn quantities(entries: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    entries.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::tests::tenant;
    use serde_json::json;

    fn objects() -> Vec<Value> {
        limits(&tenant(), &SiteLimits::default())
    }

    #[test]
    fn no_pod_runs_beside_the_identities() {
        let objects = objects();
        assert_eq!(objects[0]["kind"], "ResourceQuota");
        assert_eq!(objects[0]["metadata"]["namespace"], "acme-owner");
        assert_eq!(objects[0]["spec"]["hard"], json!({"pods": "0"}));
    }

    #[test]
    fn nothing_that_costs_is_without_a_quota() {
        let site = SiteLimits {
            storage: "1Ti".into(),
            storage_classes: [("fast".to_owned(), "10Gi".to_owned())].into(),
            load_balancers: 7,
            ..SiteLimits::default()
        };
        let hard = &limits(&tenant(), &site)[1]["spec"]["hard"];
        for (resource, amount) in [
            ("requests.cpu", "8"),
            ("requests.memory", "16Gi"),
            ("pods", "50"),
            ("requests.storage", "1Ti"),
            ("fast.storageclass.storage.k8s.io/requests.storage", "10Gi"),
            ("requests.ephemeral-storage", "50Gi"),
            ("services.loadbalancers", "7"),
        ] {
            assert_eq!(hard[resource], amount, "{resource}");
        }
        assert!(hard["count/configmaps"].is_string(), "{hard}");
    }

    #[test]
    fn a_container_without_requests_gets_some_and_none_uses_much_more_than_it_requests() {
        let limits = &objects()[2]["spec"]["limits"][0];
        assert_eq!(limits["min"], json!({"cpu": "1m", "memory": "1Mi"}));
        assert_eq!(limits["defaultRequest"], json!({"cpu": "100m", "memory": "128Mi", "ephemeral-storage": "256Mi"}));
        assert_eq!(limits["default"], json!({"cpu": "1", "memory": "256Mi", "ephemeral-storage": "1Gi"}));
        assert_eq!(limits["maxLimitRequestRatio"], json!({"cpu": "10", "memory": "2", "ephemeral-storage": "4"}));
    }

    #[test]
    fn other_tenants_and_the_metadata_service_are_out_of_reach() {
        let objects = objects();
        let isolation = &objects[3]["spec"];
        assert_eq!(isolation["podSelector"], json!({}));
        assert_eq!(isolation["policyTypes"], json!(["Ingress"]));
        assert_eq!(
            isolation["ingress"],
            json!([{"from": [
                {"podSelector": {}},
                {"namespaceSelector": {"matchExpressions": [{"key": "kubenova.io/tenant-id", "operator": "DoesNotExist"}]}},
            ]}])
        );
        let egress = &objects[4]["spec"]["egress"][0]["to"];
        assert_eq!(egress[0], json!({"namespaceSelector": {}}));
        let except = &egress[1]["ipBlock"]["except"];
        for address in ["169.254.169.254/32", "168.63.129.16/32", "169.254.170.23/32", "100.100.100.200/32"] {
            assert!(except.as_array().unwrap().contains(&address.into()), "{address}: {except}");
        }
        assert!(!except.to_string().contains("169.254.20.10"), "the node-local DNS cache stays in reach");
        assert_eq!(egress[2]["ipBlock"]["except"], json!(["fd00:ec2::254/128", "fd00:ec2::23/128"]));
    }

    #[test]
    fn no_address_of_a_family_is_kept_from_tenants_when_the_site_names_none() {
        let site = SiteLimits { metadata_addresses: vec!["192.0.2.1/32".into()], ..SiteLimits::default() };
        let egress = &limits(&tenant(), &site)[4]["spec"]["egress"][0]["to"];
        assert_eq!(egress[1]["ipBlock"], json!({"cidr": "0.0.0.0/0", "except": ["192.0.2.1/32"]}));
        assert_eq!(egress[2]["ipBlock"], json!({"cidr": "::/0"}));
    }
}
