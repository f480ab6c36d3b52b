//! Small changes to rendered objects that charts have no value for.

use serde_json::{Map, Value};

/// The flag's name in an argument, with its dashes: `--x` of `--x=1`.
fn flag_of(argument: &str) -> &str {
    argument.split_once('=').map_or(argument, |(flag, _)| flag)
}

/// The arguments of the first container of a Deployment, made if absent.
fn arguments(deployment: &mut Value) -> Option<&mut Vec<Value>> {
    let container = deployment.pointer_mut("/spec/template/spec/containers/0")?.as_object_mut()?;
    container.entry("args").or_insert_with(|| Value::Array(Vec::new())).as_array_mut()
}

/// Removes every argument with this flag, whatever its value.
pub fn drop_argument(deployment: &mut Value, flag: &str) {
    if let Some(arguments) = arguments(deployment) {
        arguments.retain(|argument| argument.as_str().is_none_or(|argument| flag_of(argument) != flag));
    }
}

/// Sets a flag that stands once.
pub fn set_argument(deployment: &mut Value, flag: &str, value: &str) {
    drop_argument(deployment, flag);
    add_argument(deployment, &format!("{flag}={value}"));
}

/// Adds an argument if it does not stand there already; for flags that may stand several times.
pub fn add_argument(deployment: &mut Value, argument: &str) {
    if let Some(arguments) = arguments(deployment)
        && !arguments.iter().any(|present| present == argument)
    {
        arguments.push(Value::from(argument));
    }
}

/// Sets a label on the object.
pub fn set_label(object: &mut Value, key: &str, value: &str) {
    set_in(object, "/metadata", "labels", key, value);
}

/// Sets an annotation on the pods of a workload.
pub fn set_pod_annotation(workload: &mut Value, key: &str, value: &str) {
    if let Some(template) = workload.pointer_mut("/spec/template").and_then(Value::as_object_mut) {
        template.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    }
    set_in(workload, "/spec/template/metadata", "annotations", key, value);
}

fn set_in(object: &mut Value, parent: &str, map: &str, key: &str, value: &str) {
    if let Some(parent) = object.pointer_mut(parent).and_then(Value::as_object_mut) {
        let entry = parent.entry(map).or_insert_with(|| Value::Object(Map::new()));
        if entry.is_null() {
            *entry = Value::Object(Map::new());
        }
        if let Some(entries) = entry.as_object_mut() {
            entries.insert(key.to_owned(), Value::from(value));
        }
    }
}

/// Writes the authority into every webhook of a webhook configuration, in the encoding of that field.
pub fn inject_ca_bundle(configuration: &mut Value, ca_bundle_pem: &str) {
    let encoded = data_encoding::BASE64.encode(ca_bundle_pem.as_bytes());
    let webhooks = configuration.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten();
    for client in webhooks.filter_map(|webhook| webhook.get_mut("clientConfig")?.as_object_mut()) {
        client.insert("caBundle".to_owned(), Value::from(encoded.as_str()));
    }
}

/// Removes empty values from the metadata: a template that renders `annotations:` with nothing below sets nothing, and
/// server-side apply would have to own it.
pub fn clean_metadata(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|key, value| !value.is_null() && key != "creationTimestamp");
    }
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment() -> Value {
        json!({"spec": {"template": {"spec": {"containers": [
            {"name": "c", "args": ["--enable-leader-election", "--feature-gates=A=true", "--limit=2"]}
        ]}}}})
    }

    fn args(deployment: &Value) -> Vec<&str> {
        let args = &deployment["spec"]["template"]["spec"]["containers"][0]["args"];
        args.as_array().unwrap().iter().filter_map(Value::as_str).collect()
    }

    #[test]
    fn arguments_are_dropped_set_and_added_once() {
        let mut deployment = deployment();
        drop_argument(&mut deployment, "--enable-leader-election");
        set_argument(&mut deployment, "--limit", "10");
        add_argument(&mut deployment, "--feature-gates=B=true");
        add_argument(&mut deployment, "--feature-gates=B=true");
        assert_eq!(args(&deployment), ["--feature-gates=A=true", "--limit=10", "--feature-gates=B=true"]);
    }

    #[test]
    fn a_flag_is_not_taken_for_one_that_begins_like_it() {
        let mut deployment = deployment();
        drop_argument(&mut deployment, "--enable-leader");
        assert_eq!(args(&deployment).len(), 3);
    }

    #[test]
    fn every_webhook_gets_the_authority() {
        let mut configuration = json!({"webhooks": [
            {"name": "a", "clientConfig": {"caBundle": "Cg==", "service": {"name": "s"}}},
            {"name": "b", "clientConfig": {"service": {"name": "s"}}}
        ]});
        inject_ca_bundle(&mut configuration, "PEM");
        for webhook in configuration["webhooks"].as_array().unwrap() {
            assert_eq!(webhook["clientConfig"]["caBundle"], "UEVN");
        }
    }

    #[test]
    fn labels_and_annotations_appear_where_nothing_was() {
        let mut object =
            json!({"metadata": {"labels": null, "annotations": null, "name": "x"}, "spec": {"template": {}}});
        set_label(&mut object, "a", "b");
        set_pod_annotation(&mut object, "c", "d");
        clean_metadata(&mut object);
        assert_eq!(object["metadata"], json!({"labels": {"a": "b"}, "name": "x"}));
        assert_eq!(object["spec"]["template"]["metadata"]["annotations"]["c"], "d");
    }
}
