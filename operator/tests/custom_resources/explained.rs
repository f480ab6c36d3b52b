//! What `kubectl explain` shows: the API server's own OpenAPI document has a text at each of our fields.

use crate::server;
use serde_json::Value;

/// Fields of our kinds without a text, by path.
fn without_text(schema: &Value, path: &str, found: &mut Vec<String>) {
    let is_item = path.ends_with("[]") && schema.get("properties").is_none();
    // What Kubernetes adds to every kind is explained by a schema of its own.
    let has_text = schema["description"].as_str().is_some_and(|text| !text.is_empty()) || schema.get("allOf").is_some();
    if !is_item && !has_text {
        found.push(path.to_owned());
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        without_text(inner, &format!("{path}.{name}"), found);
    }
    if schema["items"].is_object() {
        without_text(&schema["items"], &format!("{path}[]"), found);
    }
}

#[test]
fn kubectl_explains_every_field_of_every_kind() {
    let server = server();
    let document = server.kubectl_ok(&["get", "--raw", "/openapi/v3/apis/kubenova.io/v1alpha1"], "");
    let document: Value = serde_json::from_str(&document).unwrap();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let mut found = Vec::new();
    let mut kinds = 0;
    for (name, schema) in schemas.iter().filter(|(name, _)| name.starts_with("io.kubenova.") && !name.ends_with("List"))
    {
        kinds += 1;
        without_text(schema, name, &mut found);
    }
    assert_eq!((kinds, found), (kubenova_crds::all().len(), Vec::new()));
    for (asked, says) in [
        ("novatenants", "A tenant on this cluster"),
        ("novatenants.spec.quota.cpu", "Sum of the CPU requests"),
        ("novaclusterconfigs.status.conditions", "Ready first"),
        ("novausagereports.status.receivedAt", "the Manager confirmed"),
    ] {
        let explained = server.kubectl_ok(&["explain", asked], "");
        assert!(explained.split_whitespace().collect::<Vec<_>>().join(" ").contains(says), "{explained}");
    }
}
