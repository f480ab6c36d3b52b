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
const NAME: &str = "kubenova";
/// Requests of a container that names none: a quota refuses pods without requests.
const DEFAULT_REQUESTS: [(&str, &str); 2] = [("cpu", "100m"), ("memory", "128Mi")];
/// Least requests of a container: one that requests nothing would run outside every quota and every bill.
const LEAST_REQUESTS: [(&str, &str); 2] = [("cpu", "1m"), ("memory", "1Mi")];
/// Addresses of the clouds' metadata services, which hand out the node's credentials.
const METADATA_IPV4: &str = "169.254.169.254/32";
const METADATA_IPV6: &str = "fd00:ec2::254/128";

/// All of them, in the order in which they are applied.
#[must_use]
pub fn limits(tenant: &DesiredTenant) -> Vec<Value> {
    let (owner, apps) = (owner_namespace(&tenant.name), apps_namespace(&tenant.name));
    let quota = &tenant.spec.quota;
    let pods = quota.pods.to_string();
    let apps_quota =
        [("requests.cpu", quota.cpu.as_str()), ("requests.memory", quota.memory.as_str()), ("pods", pods.as_str())];
    vec![
        // No pod runs beside the identities.
        resource_quota(tenant, &owner, &[("pods", "0")]),
        resource_quota(tenant, &apps, &apps_quota),
        limit_range(tenant, &apps),
        isolation(tenant, &apps),
        no_metadata_service(tenant, &apps),
    ]
}

fn resource_quota(tenant: &DesiredTenant, namespace: &str, hard: &[(&str, &str)]) -> Value {
    to_value(&ResourceQuota {
        metadata: build::metadata(tenant, NAME, Some(namespace)),
        spec: Some(ResourceQuotaSpec { hard: Some(quantities(hard)), ..ResourceQuotaSpec::default() }),
        ..ResourceQuota::default()
    })
}

fn limit_range(tenant: &DesiredTenant, namespace: &str) -> Value {
    let item = LimitRangeItem {
        type_: "Container".to_owned(),
        min: Some(quantities(&LEAST_REQUESTS)),
        default_request: Some(quantities(&DEFAULT_REQUESTS)),
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

/// Lets everything out but requests to the cloud's metadata service.
fn no_metadata_service(tenant: &DesiredTenant, namespace: &str) -> Value {
    let everywhere_but = |cidr: &str, except: &str| NetworkPolicyPeer {
        ip_block: Some(IPBlock { cidr: cidr.to_owned(), except: Some(vec![except.to_owned()]) }),
        ..NetworkPolicyPeer::default()
    };
    let every_namespace =
        NetworkPolicyPeer { namespace_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() };
    let to = vec![every_namespace, everywhere_but("0.0.0.0/0", METADATA_IPV4), everywhere_but("::/0", METADATA_IPV6)];
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

    #[test]
    fn no_pod_runs_beside_the_identities() {
        let objects = limits(&tenant());
        assert_eq!(objects[0]["kind"], "ResourceQuota");
        assert_eq!(objects[0]["metadata"]["namespace"], "acme-owner");
        assert_eq!(objects[0]["spec"]["hard"]["pods"], "0");
        assert_eq!(objects[1]["spec"]["hard"]["requests.memory"], "16Gi");
    }

    #[test]
    fn a_container_without_requests_gets_some_and_none_requests_nothing() {
        let limits = &limits(&tenant())[2]["spec"]["limits"][0];
        assert_eq!(limits["min"], json!({"cpu": "1m", "memory": "1Mi"}));
        assert_eq!(limits["defaultRequest"], json!({"cpu": "100m", "memory": "128Mi"}));
    }

    #[test]
    fn other_tenants_and_the_metadata_service_are_out_of_reach() {
        let objects = limits(&tenant());
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
        assert_eq!(egress[1]["ipBlock"], json!({"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}));
        assert_eq!(egress[2]["ipBlock"], json!({"cidr": "::/0", "except": ["fd00:ec2::254/128"]}));
    }
}
