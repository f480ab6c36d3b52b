//! What the doctor looks for is what the chart installs.

use crate::rendered::{objects, one};
use kubenova_operator_core::doctor::{EXCESSIVE, NEEDED, PolicyNames, Right};
use serde_json::Value;
use std::collections::BTreeSet;

#[test]
fn it_knows_the_name_of_every_policy() {
    let all = objects("", &[]);
    let config = &one(&all, "ConfigMap", "kubenova-operator")["data"]["policies.yaml"];
    let names: PolicyNames = serde_saphyr::from_str(config.as_str().unwrap()).unwrap();
    let policies: BTreeSet<&str> = all
        .iter()
        .filter(|it| it["kind"] == "ValidatingAdmissionPolicy")
        .map(|it| it["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.current.iter().map(String::as_str).collect::<BTreeSet<_>>(), policies);
    for name in policies {
        let binding = one(&all, "ValidatingAdmissionPolicyBinding", name);
        assert_eq!(binding["spec"]["policyName"], name);
    }
}

/// Whether the roles that are bound to the Operator give a right.
fn gives(all: &[Value], right: Right) -> bool {
    let allows = |rule: &Value| {
        let has = |key: &str, word: &str| rule[key].as_array().into_iter().flatten().any(|it| it == word || it == "*");
        has("apiGroups", right.group)
            && has("resources", right.resource)
            && has("verbs", right.verb)
            && rule["resourceNames"].as_array().is_none_or(|names| names.iter().any(|it| right.name == it.as_str()))
    };
    let is_operator = |binding: &&Value| {
        binding["subjects"].as_array().into_iter().flatten().any(|it| it["name"] == "kubenova-operator")
    };
    let bindings = all
        .iter()
        .filter(|it| ["ClusterRoleBinding", "RoleBinding"].contains(&it["kind"].as_str().unwrap_or_default()));
    bindings.filter(is_operator).any(|binding| {
        let namespace = binding["metadata"]["namespace"].as_str();
        let role = all.iter().find(|it| {
            it["kind"] == binding["roleRef"]["kind"]
                && it["metadata"]["name"] == binding["roleRef"]["name"]
                && (it["kind"] == "ClusterRole" || it["metadata"]["namespace"].as_str() == namespace)
        });
        let applies = namespace.is_none() || namespace == right.namespace;
        applies && role.is_some_and(|role| role["rules"].as_array().into_iter().flatten().any(allows))
    })
}

#[test]
fn the_chart_gives_each_right_that_it_finds_missing_and_none_that_it_calls_excessive() {
    let all = objects("", &[]);
    for right in NEEDED {
        assert!(gives(&all, right), "{right}");
    }
    for right in EXCESSIVE {
        assert!(!gives(&all, right), "{right}");
    }
}

#[test]
fn the_test_s_pod_may_read_what_it_asks_for() {
    let all = objects("templates/tests/connected.yaml", &[]);
    let rules = |kind: &str| one(&all, kind, "kubenova:test")["rules"].to_string();
    assert!(rules("ClusterRole").contains("novaclusterconfigs") && rules("Role").contains("novacommands"));
    for object in &all {
        assert_eq!(object["metadata"]["annotations"]["helm.sh/hook"], "test");
    }
}
