//! What every custom resource definition must be, for whoever reads `kubectl explain`, applies an object, or waits for one.

use serde_json::{Map, Value};

/// Every schema in a definition, with the path that `kubectl explain` shows it at.
fn schemas(definition: &Value) -> Vec<(String, &Value)> {
    let kind = definition["spec"]["names"]["kind"].as_str().expect("a definition names its kind");
    let root = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut found = vec![(kind.to_owned(), root)];
    let mut next = 0;
    while next < found.len() {
        let (path, schema) = found[next].clone();
        let properties = schema["properties"].as_object().into_iter().flatten();
        found.extend(properties.map(|(name, schema)| (format!("{path}.{name}"), schema)));
        for inner in ["items", "additionalProperties"] {
            found.extend(
                schema.get(inner).filter(|schema| schema.is_object()).map(|schema| (format!("{path}[]"), schema)),
            );
        }
        next += 1;
    }
    found
}

fn definitions() -> Vec<Value> {
    let definitions = kubenova_crds::all();
    definitions.iter().map(|definition| serde_json::to_value(definition).expect("definitions are JSON")).collect()
}

fn for_every_schema(check: impl Fn(&str, &Map<String, Value>)) {
    for definition in definitions() {
        for (path, schema) in schemas(&definition) {
            check(&path, schema.as_object().expect("a schema is an object"));
        }
    }
}

/// Text, with which `kubectl explain` would show source code instead of an explanation.
const OF_THE_SOURCE: [&str; 6] = ["Auto-generated", "[`", "](", "::", "See [", "TODO"];

#[test]
fn every_field_and_every_kind_is_explained_in_plain_words() {
    for_every_schema(|path, schema| {
        let is_item = path.ends_with("[]") && schema.get("properties").is_none();
        let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
        assert!(is_item || text.len() > 10, "kubectl explain says nothing of {path}: {text:?}");
        for stray in OF_THE_SOURCE {
            assert!(!text.contains(stray), "{path}: {text}");
        }
    });
}

/// `kubectl apply` warns about any other.
#[test]
fn every_format_is_known_to_kubernetes() {
    for_every_schema(|path, schema| {
        let format = schema.get("format").and_then(Value::as_str);
        assert!(format.is_none_or(|format| ["int32", "int64", "date-time"].contains(&format)), "{path}: {format:?}");
    });
}

/// A number that the API server takes and the Operator cannot hold makes an object that nothing reads.
#[test]
fn every_number_has_bounds_of_its_type() {
    for_every_schema(|path, schema| {
        let is_bounded =
            schema.contains_key("format") || (schema.contains_key("minimum") && schema.contains_key("maximum"));
        assert!(schema.get("type").is_none_or(|kind| kind != "integer") || is_bounded, "{path}");
    });
}

#[test]
fn conditions_are_a_map_by_type_and_every_kind_has_some() {
    for definition in definitions() {
        let schemas = schemas(&definition);
        let kind = &schemas[0].0;
        let conditions = schemas.iter().filter(|(path, _)| path.ends_with(".conditions"));
        let conditions: Vec<&Value> = conditions.map(|(_, schema)| *schema).collect();
        // What is no more than a list of names has nothing to wait for.
        if definition["spec"]["versions"][0]["subresources"].get("status").is_none() {
            assert!(conditions.is_empty(), "{kind}");
            continue;
        }
        assert_eq!(conditions.len(), 1, "kubectl wait needs a condition of {kind}");
        assert_eq!(conditions[0]["x-kubernetes-list-type"], "map", "{kind}");
        assert_eq!(conditions[0]["x-kubernetes-list-map-keys"], serde_json::json!(["type"]), "{kind}");
    }
}

/// What a person reads who is refused: a sentence with what to do.
#[test]
fn every_rule_has_a_message() {
    for_every_schema(|path, schema| {
        for rule in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
            let message = rule["message"].as_str().unwrap_or_default();
            assert!(message.len() > 40 && !message.ends_with('.') && !message.contains('\n'), "{path}: {rule}");
        }
    });
}

#[test]
fn every_kind_has_a_short_name_the_category_and_the_columns_that_say_whether_all_is_well() {
    for definition in definitions() {
        let names = &definition["spec"]["names"];
        assert!(names["shortNames"][0].as_str().is_some_and(|name| name.starts_with("nova")), "{names}");
        assert_eq!(names["categories"], serde_json::json!(["kubenova"]), "{names}");
        let columns =
            definition["spec"]["versions"][0]["additionalPrinterColumns"].as_array().cloned().unwrap_or_default();
        assert!(columns.iter().any(|column| column["name"] == "Age" && column.get("priority").is_none()), "{names}");
    }
}
