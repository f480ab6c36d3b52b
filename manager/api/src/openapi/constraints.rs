//! Bounds that the types of the bodies cannot carry: keys and values of maps, and definitions that clusters have, whose
//! list stands in `kubenova_schema::applications`. The rules themselves stand in core and name the field that breaks them.

use kubenova_core::{application_form, cluster};
use kubenova_schema::applications::{COMPONENT_TYPES, TRAIT_TYPES};
use utoipa::openapi::{
    Array, Object, ObjectBuilder, OpenApi as Document, RefOr, Schema, Type,
    schema::{AdditionalProperties, ArrayItems, SchemaType},
};

/// A label key: a name, before it perhaps a DNS name and a slash.
const LABEL_KEY: &str = "^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?\
                         [A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
/// An annotation key: in the DNS name upper case is possible, too.
const ANNOTATION_KEY: &str = "^([A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?([.][A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*/)?\
                              [A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
/// A label value: a name or nothing.
const LABEL_VALUE: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$";
/// Longest key: a DNS name of 253 characters, a slash, a name of 63.
const KEY_LENGTH_MAX: usize = 253 + 1 + 63;
/// A cluster by id or name, in a list of clusters.
const CLUSTER: &str = "^[a-z0-9-]+$";
/// Longest name; ids are shorter.
const CLUSTER_LENGTH_MAX: usize = 50;
/// Name of an environment variable: visible ASCII without `=`.
const VARIABLE: &str = "^[!-<>-~]+$";

/// Adds the bounds to the schemas of the document.
pub(super) fn constrain(document: &mut Document) {
    let labels = || entries(LABEL_KEY, KEY_LENGTH_MAX, text().pattern(Some(LABEL_VALUE)).build());
    let mut cluster_labels = labels();
    cluster_labels.2 = Some(cluster::LABELS_MAX);
    bound(document, "ClusterCreate", "labels", cluster_labels);
    bound(document, "ClusterSelection", "labels", labels());
    let (key, value, _) = labels();
    bound(document, "ComponentPlacement", "nodeSelector", (key, value, Some(16)));
    for schema in ["EndpointService", "EndpointIngress"] {
        let (key, value, _) = entries(ANNOTATION_KEY, KEY_LENGTH_MAX, text().build());
        bound(document, schema, "annotations", (key, value, Some(32)));
    }
    bound(document, "KubeVelaMetadata", "labels", labels());
    bound(document, "KubeVelaMetadata", "annotations", entries(ANNOTATION_KEY, KEY_LENGTH_MAX, text().build()));
    let value = text().max_length(Some(application_form::VALUE_BYTES_MAX)).build();
    bound(document, "ApplicationForm", "env", entries(VARIABLE, application_form::WORD_BYTES_MAX, value));
    for schema in ["TenantCreate", "ApplicationForm", "ApplicationRaw", "ApplicationOperation"] {
        if let Some(field) = array(document, schema, "clusters") {
            let cluster = text().pattern(Some(CLUSTER)).min_length(Some(1)).max_length(Some(CLUSTER_LENGTH_MAX));
            field.items = ArrayItems::RefOrSchema(Box::new(RefOr::T(cluster.build().into())));
        }
    }
    for (schema, types) in [("KubeVelaComponent", COMPONENT_TYPES), ("KubeVelaTrait", TRAIT_TYPES)] {
        if let Some(field) = field(document, schema, "type") {
            // `webservice@v2` means a revision of the definition.
            field.pattern = Some(format!("^({})(@.*)?$", types.join("|")));
        }
    }
}

/// Schema of the keys, schema of the values, most entries.
type Entries = (Object, Object, Option<usize>);

fn entries(key: &str, key_length_max: usize, value: Object) -> Entries {
    (text().pattern(Some(key)).max_length(Some(key_length_max)).build(), value, None)
}

fn bound(document: &mut Document, schema: &str, name: &str, (key, value, most): Entries) {
    if let Some(field) = field(document, schema, name) {
        field.property_names = Some(Box::new(key.into()));
        field.additional_properties = Some(Box::new(AdditionalProperties::RefOr(RefOr::T(value.into()))));
        field.max_properties = most;
    }
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String))
}

/// A list of a named schema.
fn array<'a>(document: &'a mut Document, schema: &str, name: &str) -> Option<&'a mut Array> {
    match document.components.as_mut()?.schemas.get_mut(schema)? {
        RefOr::T(Schema::Object(object)) => match object.properties.get_mut(name)? {
            RefOr::T(Schema::Array(field)) => Some(field),
            _ => None,
        },
        _ => None,
    }
}

/// A field of a named schema; a test reports one that does not exist.
fn field<'a>(document: &'a mut Document, schema: &str, name: &str) -> Option<&'a mut Object> {
    match document.components.as_mut()?.schemas.get_mut(schema)? {
        RefOr::T(Schema::Object(object)) => match object.properties.get_mut(name)? {
            RefOr::T(Schema::Object(field)) => Some(field),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::router::openapi;
    use kubenova_core::{metadata, pointer::Pointer, refusal::Reason};
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    /// Whether the document lets a field of a schema have this value.
    fn fits(schema: &str, field: &str, value: &Value) -> bool {
        let document: Value = serde_json::from_str(&openapi()).unwrap();
        let schema = &document["components"]["schemas"][schema]["properties"][field];
        assert!(schema.is_object(), "there is such a field");
        jsonschema::draft202012::is_valid(schema, value)
    }

    #[test]
    fn keys_and_values_of_maps_are_bounded_as_the_rules_are() {
        let at = Pointer::default();
        let names =
            ["team", "A", "a-b.c/d", "example.com/name", "", "a b", "-a", "a-", "ü", "a/b/c", "Ex.com/a", "a..b/c"];
        for name in names.iter().map(|name| (*name).to_owned()).chain(["a".repeat(63), "a".repeat(64)]) {
            let key = BTreeMap::from([(name.clone(), String::new())]);
            let is_label = metadata::check_labels(&key, &at, Reason::FieldInvalid).is_ok();
            assert_eq!(fits("KubeVelaMetadata", "labels", &json!(key)), is_label, "key {name:?}");
            assert_eq!(fits("ClusterCreate", "labels", &json!(key)), is_label, "key {name:?}");
            let is_annotation = metadata::check_annotations(&key, &at, Reason::FieldInvalid).is_ok();
            assert_eq!(fits("KubeVelaMetadata", "annotations", &json!(key)), is_annotation, "key {name:?}");
            let value = BTreeMap::from([("a".to_owned(), name.clone())]);
            let is_value = metadata::check_labels(&value, &at, Reason::FieldInvalid).is_ok();
            assert_eq!(fits("KubeVelaMetadata", "labels", &json!(value)), is_value, "value {name:?}");
        }
        assert!(fits("ApplicationForm", "env", &json!({ "A.b": "any text" })));
        assert!(
            !fits("ApplicationForm", "env", &json!({ "A=B": "x" }))
                && !fits("ApplicationForm", "env", &json!({ "": "x" }))
        );
    }

    #[test]
    fn clusters_are_named_by_id_or_name() {
        for (schema, empty) in [("TenantCreate", true), ("ApplicationForm", false), ("ApplicationRaw", false)] {
            assert_eq!(fits(schema, "clusters", &json!([])), empty, "{schema}");
            assert!(fits(schema, "clusters", &json!(["dc1-a", "c01m8x5v2e3fq0000000000000a"])), "{schema}");
            assert!(!fits(schema, "clusters", &json!([""])) && !fits(schema, "clusters", &json!(["A"])), "{schema}");
        }
    }

    #[test]
    fn definitions_are_those_that_clusters_have() {
        for (name, known) in [("webservice", true), ("webservice@v2", true), ("webservce", false), ("", false)] {
            assert_eq!(fits("KubeVelaComponent", "type", &json!(name)), known, "{name:?}");
        }
        assert!(fits("KubeVelaTrait", "type", &json!("scaler")) && !fits("KubeVelaTrait", "type", &json!("scale")));
    }
}
