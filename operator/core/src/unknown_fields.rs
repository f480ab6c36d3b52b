//! Fields of a document that its kind does not have. The API server would drop them without a word, and who wrote one
//! would believe that it works.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use serde_json::Value;

/// The paths of `spec` that a kind does not have, such as `spec.components.capsule.color`.
#[must_use]
pub fn of_spec<K: CustomResourceExt>(spec: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    let versions = K::crd().spec.versions;
    let schema = versions.first().and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref());
    if let Some(schema) = schema.and_then(|schema| schema.properties.as_ref()?.get("spec")) {
        collect(schema, spec, "spec", &mut unknown);
    }
    unknown
}

fn collect(schema: &JSONSchemaProps, value: &Value, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let at = format!("{path}.{name}");
                let known = schema.properties.as_ref().and_then(|properties| properties.get(name));
                match (known, &schema.additional_properties) {
                    (Some(schema), _) => collect(schema, value, &at, unknown),
                    (None, Some(JSONSchemaPropsOrBool::Schema(schema))) => collect(schema, value, &at, unknown),
                    (None, Some(JSONSchemaPropsOrBool::Bool(true))) => {}
                    (None, _) if schema.x_kubernetes_preserve_unknown_fields == Some(true) => {}
                    (None, _) => unknown.push(at),
                }
            }
        }
        Value::Array(items) => {
            if let Some(JSONSchemaPropsOrArray::Schema(schema)) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    collect(schema, item, &format!("{path}[{index}]"), unknown);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_crds::cluster_config::NovaClusterConfig;
    use serde_json::json;

    #[test]
    fn a_field_that_the_kind_lacks_is_found_however_deep() {
        let unknown = |spec: &Value| of_spec::<NovaClusterConfig>(spec);
        let known = json!({"components": {
            "capsule": {"enabled": true, "values": {"client": {"qps": 5}}, "placement": {"nodeSelector": {"any": "label"}}},
            "capsuleProxy": {"publicURL": "https://t.example", "endpoint": {"gateway": {"name": "a", "namespace": "b"}}},
        }});
        assert!(unknown(&known).is_empty());
        let spec = json!({"components": {
            "capsule": {"values": {"client": {"rate": 5}}},
            "kubevela": {"placement": {"tolerations": [{"key": "a"}, {"color": "b"}]}, "publicURL": "https://t"},
            "velaux": {},
        }});
        assert_eq!(
            unknown(&spec),
            [
                "spec.components.capsule.values.client.rate",
                "spec.components.kubevela.placement.tolerations[1].color",
                "spec.components.kubevela.publicURL",
                "spec.components.velaux",
            ]
        );
    }
}
