//! The Operator's chart: its schema knows every value that the chart has, or `helm install` refuses its own defaults.

use serde_json::Value;

fn chart(file: &str) -> String {
    let path = kubenova_gen::repository_root().join("deploy/helm/operator").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_default_values_fit_the_schema() {
    let schema: Value = serde_json::from_str(&chart("values.schema.json")).expect("the schema is JSON");
    let values: Value = serde_saphyr::from_str(&chart("values.yaml")).expect("the values are YAML");
    let validator = jsonschema::validator_for(&schema).expect("the schema is a JSON schema");
    let refused: Vec<String> =
        validator.iter_errors(&values).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(refused.is_empty(), "helm would refuse the chart's own values:\n{}", refused.join("\n"));
    for (key, value) in values.as_object().expect("values are an object") {
        let known = &schema["properties"][key];
        assert!(known.is_object(), "{key} has no schema");
        for inner in value.as_object().into_iter().flatten().map(|(inner, _)| inner) {
            let closed = known["additionalProperties"] == Value::Bool(false);
            assert!(!closed || known["properties"][inner].is_object(), "{key}.{inner} has no schema");
        }
    }
}
