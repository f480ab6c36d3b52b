//! The chart, rendered.

use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The root of the checkout.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The Operator's chart.
pub(crate) fn chart() -> PathBuf {
    repository().join("deploy/helm/operator")
}

/// Runs the real helm.
pub(crate) fn helm(arguments: &[&str]) -> Output {
    let servers = std::env::var_os("KUBENOVA_SERVERS")
        .expect("KUBENOVA_SERVERS is not set: run `cargo dev servers` and set it to ~/.cache/kubenova/sets/latest");
    let home = tempfile::tempdir().expect("a folder for temporary files can be written");
    let mut helm = Command::new(PathBuf::from(servers).join("bin/helm"));
    helm.args(arguments).env("HOME", home.path());
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "XDG_CACHE_HOME"] {
        helm.env_remove(variable);
    }
    helm.output().expect("helm starts")
}

/// What `helm template` prints for a chart in kubenova-system, or why it refuses.
pub(crate) fn template(chart: &Path, arguments: &[&str]) -> Result<String, String> {
    let chart = chart.to_str().expect("the path is text");
    let rendered = helm(&[&["template", "kubenova-operator", chart, "-n", "kubenova-system"], arguments].concat());
    if !rendered.status.success() {
        return Err(String::from_utf8_lossy(&rendered.stderr).into_owned());
    }
    Ok(String::from_utf8(rendered.stdout).expect("manifests are text"))
}

/// The objects of a text of manifests.
pub(crate) fn parsed(text: &str) -> Vec<Value> {
    let documents = text.split("\n---\n").map(|it| it.trim_start_matches("---\n"));
    let objects = documents.map(|object| serde_saphyr::from_str::<Value>(object).expect("an object is YAML"));
    objects.filter(|object| !object.is_null()).collect()
}

/// With these values and a Secret that holds the token: the objects of one template, or of all without one.
pub(crate) fn render(template: &str, values: &[&str]) -> Result<Vec<Value>, String> {
    render_with(&chart(), template, values, &[])
}

/// The same of a copy of the chart, with further arguments.
pub(crate) fn render_with(
    chart: &Path,
    template: &str,
    values: &[&str],
    arguments: &[&str],
) -> Result<Vec<Value>, String> {
    let mut all = if template.is_empty() { Vec::new() } else { vec!["--show-only", template] };
    for value in values.iter().chain(&["enrollment.existingSecret=token"]) {
        all.extend(["--set", value]);
    }
    all.extend(arguments);
    self::template(chart, &all).map(|text| parsed(&text))
}

/// The same where the values are accepted.
pub(crate) fn objects(template: &str, values: &[&str]) -> Vec<Value> {
    render(template, values).unwrap_or_else(|refused| panic!("{values:?}: {refused}"))
}

/// The object of this kind and name, which is there once.
pub(crate) fn one<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found = objects.iter().filter(|it| it["kind"] == kind && it["metadata"]["name"] == name);
    let object = found.next().unwrap_or_else(|| panic!("there is no {kind} {name}"));
    assert!(found.next().is_none(), "{kind} {name} is there twice");
    object
}

/// The specification of every pod that an object makes, with the object's name.
pub(crate) fn pods(objects: &[Value]) -> Vec<(String, &Value)> {
    let of = |object: &'_ Value| match object["kind"].as_str() {
        Some("Deployment" | "Job") => Some("/spec/template/spec"),
        Some("Pod") => Some("/spec"),
        _ => None,
    };
    objects
        .iter()
        .filter_map(|object| Some((object["metadata"]["name"].as_str()?.to_owned(), object.pointer(of(object)?)?)))
        .collect()
}

/// A copy of the chart, to change.
pub(crate) fn copy() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder for temporary files can be written");
    let copy = folder.path().join("kubenova-operator");
    let copied = Command::new("cp").arg("-r").arg(chart()).arg(&copy).status().expect("cp starts");
    assert!(copied.success());
    (folder, copy)
}
