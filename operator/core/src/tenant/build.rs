//! The objects a tenant is made of, in the order in which they are applied. Cannot fail.
//!
//! The walls are the settings of `reference/isolation.md`: the tenant's only Capsule owners are the administrators (an
//! owner could relabel its namespaces), roles come only through the Tenant, the deployer acts in `-apps` alone and lives
//! in `-owner`, where no pod runs.

use super::Wanted;
use kubenova_crds::{labels, tenant::PodSecurity};
use kubenova_schema::applications::DEPLOYER;
use serde_json::{Value, json};

/// Roles of the Operator's chart.
const ROLE_OWNER: &str = "kubenova:tenant-owner";
const ROLE_READER: &str = "kubenova:tenant-reader";
const ROLE_DEPLOYER: &str = "kubenova:deployer";
const ROLE_OPERATOR: &str = "kubenova:operator-in-tenant";

/// Namespace of identities; no pod runs there.
#[must_use]
pub fn owner_namespace(tenant: &str) -> String {
    format!("{tenant}-owner")
}

/// Namespace of applications.
#[must_use]
pub fn apps_namespace(tenant: &str) -> String {
    format!("{tenant}-apps")
}

/// Where the two people-facing ServiceAccounts live: name and namespace.
#[must_use]
pub fn subjects(tenant: &str) -> [(&'static str, String); 2] {
    [("owner", owner_namespace(tenant)), ("readonly", apps_namespace(tenant))]
}

/// Names of the tenant's TenantOwners.
#[must_use]
pub fn tenant_owner_names(tenant: &str) -> [String; 2] {
    [format!("{tenant}-owner"), format!("{tenant}-readonly")]
}

fn metadata(wanted: &Wanted, name: &str, namespace: Option<&str>) -> Value {
    let mut metadata = json!({ "name": name, "labels": own_labels(wanted) });
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    metadata
}

fn own_labels(wanted: &Wanted) -> Value {
    json!({
        labels::TENANT: wanted.name,
        labels::TENANT_ID: wanted.tenant_id,
        "app.kubernetes.io/managed-by": "kubenova",
    })
}

/// The Capsule Tenant.
#[must_use]
pub fn capsule_tenant(wanted: &Wanted, operator_user: &str) -> Value {
    let account =
        |name: &str, namespace: String| json!({ "kind": "ServiceAccount", "name": name, "namespace": namespace });
    let [(owner, owner_in), (reader, reader_in)] = subjects(&wanted.name);
    json!({
        "apiVersion": "capsule.clastix.io/v1beta2",
        "kind": "Tenant",
        "metadata": metadata(wanted, &wanted.name, None),
        "spec": {
            "preventDeletion": true,
            "cordoned": false,
            "namespaceOptions": { "quota": 2 },
            "additionalRoleBindings": [
                { "clusterRoleName": ROLE_OWNER, "subjects": [account(owner, owner_in)] },
                { "clusterRoleName": ROLE_READER, "subjects": [account(reader, reader_in)] },
                { "clusterRoleName": ROLE_OPERATOR, "subjects": [subject(operator_user)] },
            ],
            "rules": [{
                "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": apps_namespace(&wanted.name) } },
                "permissions": { "bindings": [
                    { "clusterRoleName": ROLE_DEPLOYER, "subjects": [account(DEPLOYER, owner_namespace(&wanted.name))] },
                ] },
            }],
        },
    })
}

fn subject(user: &str) -> Value {
    let account = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, name)) => json!({ "kind": "ServiceAccount", "name": name, "namespace": namespace }),
        None => json!({ "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user }),
    }
}

/// The two namespaces. The label alone makes Capsule, asked by an administrator, take them into the tenant.
#[must_use]
pub fn namespaces(wanted: &Wanted) -> [Value; 2] {
    let apps_level = match wanted.spec.pod_security {
        PodSecurity::Baseline => "baseline",
        PodSecurity::Restricted => "restricted",
    };
    let namespace = |name: String, level: &str| {
        let mut namespace =
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata(wanted, &name, None) });
        let entries = &mut namespace["metadata"]["labels"];
        entries[labels::CAPSULE_TENANT] = wanted.name.clone().into();
        entries[labels::PROJECT] = wanted.name.clone().into();
        entries["pod-security.kubernetes.io/enforce"] = level.into();
        entries["pod-security.kubernetes.io/warn"] = "restricted".into();
        namespace
    };
    [namespace(owner_namespace(&wanted.name), "restricted"), namespace(apps_namespace(&wanted.name), apps_level)]
}

/// ServiceAccounts and what Capsule Proxy needs to know of them. `proxy`: ProxySettings are served.
#[must_use]
pub fn identities(wanted: &Wanted, proxy: bool) -> Vec<Value> {
    let tenant = &wanted.name;
    let account = |name: &str, namespace: &str| {
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": metadata(wanted, name, Some(namespace)),
            "automountServiceAccountToken": false,
        })
    };
    let mut objects = vec![account(DEPLOYER, &owner_namespace(tenant))];
    let people = subjects(tenant);
    objects.extend(people.iter().map(|(name, namespace)| account(name, namespace)));
    let roles = [ROLE_OWNER, ROLE_READER];
    for (((name, namespace), owner), role) in people.iter().zip(tenant_owner_names(tenant)).zip(roles) {
        // No tenant label: it makes the account a Capsule user, whose lists are filtered, and owner of nothing.
        objects.push(json!({
            "apiVersion": "capsule.clastix.io/v1beta2", "kind": "TenantOwner",
            "metadata": metadata(wanted, &owner, None),
            "spec": {
                "kind": "ServiceAccount",
                "name": format!("system:serviceaccount:{namespace}:{name}"),
                "aggregate": true,
                "clusterRoles": [role],
            },
        }));
    }
    if proxy {
        let user = |(name, namespace): &(&str, String)| json!({ "kind": "ServiceAccount", "name": format!("system:serviceaccount:{namespace}:{name}") });
        objects.push(json!({
            "apiVersion": "capsule.clastix.io/v1beta1", "kind": "ProxySetting",
            "metadata": metadata(wanted, "kubenova", Some(&owner_namespace(tenant))),
            "spec": { "subjects": people.iter().map(user).collect::<Vec<_>>() },
        }));
    }
    objects
}

/// Quota, limits and network policies.
#[must_use]
pub fn limits(wanted: &Wanted) -> Vec<Value> {
    let (owner, apps) = (owner_namespace(&wanted.name), apps_namespace(&wanted.name));
    let quota = &wanted.spec.quota;
    let object = |api: &str, kind: &str, name: &str, namespace: &str, spec: Value| json!({ "apiVersion": api, "kind": kind, "metadata": metadata(wanted, name, Some(namespace)), "spec": spec });
    vec![
        object("v1", "ResourceQuota", "kubenova", &owner, json!({ "hard": { "pods": "0" } })),
        object(
            "v1",
            "ResourceQuota",
            "kubenova",
            &apps,
            json!({ "hard": {
            "requests.cpu": quota.cpu, "requests.memory": quota.memory, "pods": quota.pods.to_string(),
        } }),
        ),
        // A quota refuses pods that name no requests; these are theirs then.
        object(
            "v1",
            "LimitRange",
            "kubenova",
            &apps,
            json!({ "limits": [
            // No container of nothing: it would run without a bill and outside every quota.
            { "type": "Container", "min": { "cpu": "1m", "memory": "1Mi" }, "defaultRequest": { "cpu": "100m", "memory": "128Mi" } },
        ] }),
        ),
        // From the tenant's own pods and from namespaces of no tenant (ingress controllers, monitoring).
        object(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            "kubenova-isolation",
            &apps,
            json!({
                "podSelector": {},
                "policyTypes": ["Ingress"],
                "ingress": [{ "from": [
                    { "podSelector": {} },
                    { "namespaceSelector": { "matchExpressions": [{ "key": labels::CAPSULE_TENANT, "operator": "DoesNotExist" }] } },
                ] }],
            }),
        ),
        // The cloud's metadata service hands out the node's credentials.
        object(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            "kubenova-no-metadata",
            &apps,
            json!({
                "podSelector": {},
                "policyTypes": ["Egress"],
                "egress": [{ "to": [
                    { "namespaceSelector": {} },
                    { "ipBlock": { "cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"] } },
                    { "ipBlock": { "cidr": "::/0", "except": ["fd00:ec2::254/128"] } },
                ] }],
            }),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_crds::tenant::TenantSpec;

    fn wanted() -> Wanted {
        Wanted {
            name: "acme".into(),
            tenant_id: "id-1".into(),
            spec: TenantSpec { tenant_id: "id-1".into(), ..TenantSpec::default() },
        }
    }

    const OPERATOR: &str = "system:serviceaccount:kubenova-system:kubenova-operator";

    #[test]
    fn the_tenant_has_no_owner_of_its_own_and_two_namespaces_at_most() {
        let tenant = capsule_tenant(&wanted(), OPERATOR);
        assert!(tenant["spec"].get("owners").is_none());
        assert_eq!(tenant["spec"]["namespaceOptions"]["quota"], 2);
        assert_eq!(tenant["spec"]["preventDeletion"], true);
    }

    #[test]
    fn the_deployer_is_bound_in_apps_alone() {
        let tenant = capsule_tenant(&wanted(), OPERATOR);
        assert!(!tenant["spec"]["additionalRoleBindings"].to_string().contains(ROLE_DEPLOYER));
        let rule = &tenant["spec"]["rules"][0];
        assert_eq!(rule["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], "acme-apps");
        assert_eq!(rule["permissions"]["bindings"][0]["subjects"][0]["namespace"], "acme-owner");
    }

    #[test]
    fn tenant_owners_carry_no_tenant_label_of_capsule() {
        for object in identities(&wanted(), true) {
            let entries = object["metadata"]["labels"].as_object().unwrap();
            assert!(
                !entries.keys().any(|key| key.contains("projectcapsule.dev") || key.contains("clastix")),
                "{object}"
            );
        }
        assert!(identities(&wanted(), false).iter().all(|object| object["kind"] != "ProxySetting"));
    }

    #[test]
    fn namespaces_follow_the_plan() {
        let [owner, apps] = namespaces(&wanted());
        assert_eq!(owner["metadata"]["name"], "acme-owner");
        assert_eq!(owner["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
        assert_eq!(apps["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "baseline");
        assert_eq!(apps["metadata"]["labels"][labels::CAPSULE_TENANT], "acme");
    }

    #[test]
    fn no_pod_runs_beside_the_identities() {
        let objects = limits(&wanted());
        assert_eq!(objects[0]["metadata"]["namespace"], "acme-owner");
        assert_eq!(objects[0]["spec"]["hard"]["pods"], "0");
        assert_eq!(objects[1]["spec"]["hard"]["requests.memory"], "16Gi");
    }
}
