//! The objects a tenant is made of, in the order in which they are applied. Cannot fail.
//!
//! Isolation as in the design: the tenant's only Capsule owners are the administrators (an owner could relabel its
//! namespaces), roles come only through the Tenant, the deployer acts in `-apps` alone and lives in `-owner`, where no
//! pod runs.

use super::{
    DesiredTenant, apps_namespace,
    capsule::{
        self, IngressOptions, NamespaceOptions, Permissions, ProxySettingSpec, ProxySubject, RoleBinding, Rule,
        TenantOwnerSpec, TenantSpec,
    },
    owner_namespace, service_accounts, tenant_owner_names, to_value,
};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, ServiceAccount},
        rbac::v1::Subject,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kubenova_crds::{labels, tenant::PodSecurity};
use kubenova_schema::applications::DEPLOYER;
use serde_json::Value;
use std::collections::BTreeMap;

/// Roles of the Operator's chart.
const ROLE_OWNER: &str = "kubenova:tenant-owner";
const ROLE_READER: &str = "kubenova:tenant-reader";
const ROLE_DEPLOYER: &str = "kubenova:deployer";
const ROLE_OPERATOR: &str = "kubenova:operator-in-tenant";

/// `-owner` and `-apps`.
const NAMESPACES: u32 = 2;

pub(super) fn metadata(tenant: &DesiredTenant, name: &str, namespace: Option<&str>) -> ObjectMeta {
    let labels = [
        (labels::TENANT, tenant.name.as_str()),
        (labels::TENANT_ID, tenant.tenant_id.as_str()),
        ("app.kubernetes.io/managed-by", "kubenova"),
    ];
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.map(str::to_owned),
        labels: Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()),
        ..ObjectMeta::default()
    }
}

/// The Capsule Tenant.
#[must_use]
pub fn capsule_tenant(tenant: &DesiredTenant, operator_user: &str) -> Value {
    let bind =
        |role: &str, subject: Subject| RoleBinding { cluster_role_name: role.to_owned(), subjects: vec![subject] };
    let [(owner, owner_in), (reader, reader_in)] = service_accounts(&tenant.name);
    let deployer = service_account_subject(DEPLOYER, &owner_namespace(&tenant.name));
    let apps_label = ("kubernetes.io/metadata.name".to_owned(), apps_namespace(&tenant.name));
    let spec = TenantSpec {
        prevent_deletion: true,
        cordoned: false,
        namespace_options: NamespaceOptions { quota: NAMESPACES },
        // A host and path of another tenant would take that one's requests, or part of them.
        ingress_options: IngressOptions { hostname_collision_scope: "Cluster" },
        additional_role_bindings: vec![
            bind(ROLE_OWNER, service_account_subject(owner, &owner_in)),
            bind(ROLE_READER, service_account_subject(reader, &reader_in)),
            bind(ROLE_OPERATOR, user_subject(operator_user)),
        ],
        rules: vec![Rule {
            namespace_selector: LabelSelector {
                match_labels: Some(BTreeMap::from([apps_label])),
                ..LabelSelector::default()
            },
            permissions: Permissions { bindings: vec![bind(ROLE_DEPLOYER, deployer)] },
        }],
    };
    capsule::tenant(metadata(tenant, &tenant.name, None), spec)
}

fn service_account_subject(name: &str, namespace: &str) -> Subject {
    Subject {
        kind: "ServiceAccount".to_owned(),
        name: name.to_owned(),
        namespace: Some(namespace.to_owned()),
        api_group: None,
    }
}

fn user_subject(user: &str) -> Subject {
    let account = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, name)) => service_account_subject(name, namespace),
        None => Subject {
            kind: "User".to_owned(),
            name: user.to_owned(),
            namespace: None,
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
        },
    }
}

/// The two namespaces. Capsule takes a namespace that an administrator labels so into the tenant.
#[must_use]
pub fn namespaces(tenant: &DesiredTenant) -> [Value; 2] {
    let apps_level = match tenant.spec.pod_security {
        PodSecurity::Baseline => "baseline",
        PodSecurity::Restricted => "restricted",
    };
    let namespace = |name: String, level: &str| {
        let mut metadata = metadata(tenant, &name, None);
        metadata.labels.get_or_insert_default().extend(
            [
                (labels::CAPSULE_TENANT, tenant.name.as_str()),
                (labels::PROJECT, tenant.name.as_str()),
                ("pod-security.kubernetes.io/enforce", level),
                ("pod-security.kubernetes.io/warn", "restricted"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        to_value(&Namespace { metadata, ..Namespace::default() })
    };
    [namespace(owner_namespace(&tenant.name), "restricted"), namespace(apps_namespace(&tenant.name), apps_level)]
}

/// ServiceAccounts, and what Capsule Proxy needs to know of them. `with_proxy`: ProxySettings are served.
#[must_use]
pub fn identities(tenant: &DesiredTenant, with_proxy: bool) -> Vec<Value> {
    let account = |name: &str, namespace: &str| {
        to_value(&ServiceAccount {
            metadata: metadata(tenant, name, Some(namespace)),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        })
    };
    let accounts = service_accounts(&tenant.name);
    let mut objects = vec![account(DEPLOYER, &owner_namespace(&tenant.name))];
    objects.extend(accounts.iter().map(|(name, namespace)| account(name, namespace)));
    let roles = [ROLE_OWNER, ROLE_READER];
    for (((name, namespace), owner), role) in accounts.iter().zip(tenant_owner_names(&tenant.name)).zip(roles) {
        // No tenant label: it makes the account a Capsule user, whose lists are filtered, and owner of nothing.
        let spec = TenantOwnerSpec {
            kind: "ServiceAccount".to_owned(),
            name: user_name(name, namespace),
            aggregate: true,
            cluster_roles: vec![role.to_owned()],
        };
        objects.push(capsule::tenant_owner(metadata(tenant, &owner, None), spec));
    }
    if with_proxy {
        let subject = |(name, namespace): &(&str, String)| ProxySubject {
            kind: "ServiceAccount".to_owned(),
            name: user_name(name, namespace),
        };
        let spec = ProxySettingSpec { subjects: accounts.iter().map(subject).collect() };
        let metadata = metadata(tenant, "kubenova", Some(&owner_namespace(&tenant.name)));
        objects.push(capsule::proxy_setting(metadata, spec));
    }
    objects
}

fn user_name(account: &str, namespace: &str) -> String {
    format!("system:serviceaccount:{namespace}:{account}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::tests::tenant;

    const OPERATOR: &str = "system:serviceaccount:kubenova-system:kubenova-operator";

    #[test]
    fn the_tenant_has_no_owner_of_its_own_and_two_namespaces_at_most() {
        let tenant = capsule_tenant(&tenant(), OPERATOR);
        assert_eq!((&tenant["apiVersion"], &tenant["kind"]), (&"capsule.clastix.io/v1beta2".into(), &"Tenant".into()));
        assert!(tenant["spec"].get("owners").is_none());
        assert_eq!(tenant["spec"]["namespaceOptions"]["quota"], 2);
        assert_eq!(tenant["spec"]["preventDeletion"], true);
        assert_eq!(tenant["spec"]["ingressOptions"]["hostnameCollisionScope"], "Cluster");
    }

    #[test]
    fn the_deployer_is_bound_in_apps_alone() {
        let tenant = capsule_tenant(&tenant(), OPERATOR);
        assert!(!tenant["spec"]["additionalRoleBindings"].to_string().contains(ROLE_DEPLOYER));
        let rule = &tenant["spec"]["rules"][0];
        assert_eq!(rule["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], "acme-apps");
        assert_eq!(rule["permissions"]["bindings"][0]["subjects"][0]["namespace"], "acme-owner");
    }

    #[test]
    fn tenant_owners_carry_no_tenant_label_of_capsule() {
        for object in identities(&tenant(), true) {
            let entries = object["metadata"]["labels"].as_object().unwrap();
            assert!(
                !entries.keys().any(|key| key.contains("projectcapsule.dev") || key.contains("clastix")),
                "{object}"
            );
        }
        assert!(identities(&tenant(), false).iter().all(|object| object["kind"] != "ProxySetting"));
    }

    #[test]
    fn accounts_hand_out_no_tokens_to_pods() {
        let objects = identities(&tenant(), false);
        let accounts: Vec<&Value> = objects.iter().filter(|object| object["kind"] == "ServiceAccount").collect();
        assert_eq!(accounts.len(), 3);
        assert!(accounts.iter().all(|account| account["automountServiceAccountToken"] == false));
    }

    #[test]
    fn namespaces_enforce_the_level_of_the_spec() {
        let [owner, apps] = namespaces(&tenant());
        assert_eq!(owner["metadata"]["name"], "acme-owner");
        assert_eq!(owner["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
        assert_eq!(apps["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "baseline");
        assert_eq!(apps["metadata"]["labels"][labels::CAPSULE_TENANT], "acme");
        let mut strict = tenant();
        strict.spec.pod_security = PodSecurity::Restricted;
        assert_eq!(namespaces(&strict)[1]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
    }
}
