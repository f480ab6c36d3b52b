//! Where others than `helm install` apply the chart: Argo CD, Flux, a chart that has it as a dependency; the examples of
//! docs/operations/gitops.md are taken from there.

use crate::rendered::{chart, copy, helm, objects, one, parsed, pods, render_with, repository, template};
use serde_json::{Value, json};
use std::fs;

/// The block of docs/operations/gitops.md that is marked with this word.
fn example(mark: &str) -> Value {
    let page = fs::read_to_string(repository().join("docs/operations/gitops.md")).expect("the page is there");
    let (_, block) =
        page.split_once(&format!("```yaml {mark}\n")).unwrap_or_else(|| panic!("there is no example {mark}"));
    serde_saphyr::from_str(block.split("```").next().expect("a block ends")).expect("an example is YAML")
}

/// Renders with these values, as Argo CD and Flux do.
fn with_values(values: &Value) -> Vec<Value> {
    let folder = tempfile::tempdir().expect("a folder for temporary files can be written");
    let file = folder.path().join("values.yaml");
    fs::write(&file, values.to_string()).expect("the file can be written");
    parsed(&template(&chart(), &["-f", file.to_str().expect("the path is text")]).expect("the example renders"))
}

#[test]
fn the_examples_for_argo_cd_and_flux_render() {
    let application = example("argocd");
    assert_eq!(application["spec"]["destination"]["namespace"], "kubenova-system");
    let all = with_values(&application["spec"]["source"]["helm"]["valuesObject"]);
    one(&all, "Namespace", "kubenova-system");
    let release = example("flux");
    assert_eq!(release["spec"]["targetNamespace"], "kubenova-system");
    let all = with_values(&release["spec"]["values"]);
    let operator = pods(&all).into_iter().find(|(name, _)| name == "kubenova-operator").unwrap().1;
    let token = operator["volumes"].as_array().unwrap().iter().find(|it| it["name"] == "enrollment").unwrap();
    assert_eq!(token["secret"]["secretName"], "kubenova-token");
    assert_eq!(token["secret"]["optional"], true, "it may be deleted once the cluster has enrolled");
}

#[test]
fn an_upgrade_renders_what_an_install_does_and_the_cluster_is_asked_nothing() {
    for file in walk(&chart().join("templates")) {
        let text = fs::read_to_string(&file).unwrap();
        for word in ["IsInstall", "IsUpgrade", "lookup ", ".Release.Revision"] {
            assert!(!text.contains(word), "{}: {word}", file.display());
        }
    }
    let install = render_with(&chart(), "", &[], &[]).unwrap();
    assert_eq!(install, render_with(&chart(), "", &[], &["--is-upgrade"]).unwrap());
    let refused = template(&chart(), &[]).unwrap_err();
    assert!(refused.contains("enrollment token") && refused.contains("existingSecret"), "{refused}");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of templates").flatten() {
        if entry.path().is_dir() { files.extend(walk(&entry.path())) } else { files.push(entry.path()) }
    }
    files
}

#[test]
fn what_outlives_the_release_outlives_it_under_argo_cd_as_well() {
    let all = objects("", &["namespaces.createOwn=true"]);
    let annotation = |object: &Value, name: &str| object["metadata"]["annotations"][name].as_str().map(str::to_owned);
    let kept: Vec<&Value> =
        all.iter().filter(|it| annotation(it, "helm.sh/resource-policy").as_deref() == Some("keep")).collect();
    let kinds: std::collections::BTreeSet<&str> = kept.iter().map(|it| it["kind"].as_str().unwrap()).collect();
    for kind in ["ClusterRole", "Namespace", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"] {
        assert!(kinds.contains(kind), "{kinds:?}");
    }
    let own = ["ClusterRole", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"];
    for object in kept.iter().filter(|it| own.contains(&it["kind"].as_str().unwrap())) {
        let option = annotation(object, "argocd.argoproj.io/sync-options");
        assert_eq!(option.as_deref(), Some("Delete=false"), "{} {}", object["kind"], object["metadata"]["name"]);
    }
}

/// A chart that has this one as a dependency, as the page describes it.
fn site(values: &Value) -> (tempfile::TempDir, std::path::PathBuf) {
    let (folder, operator) = copy();
    let site = folder.path().join("site");
    fs::create_dir_all(site.join("charts")).expect("the folder can be made");
    fs::create_dir_all(site.join("templates")).expect("the folder can be made");
    fs::write(site.join("Chart.yaml"), example("dependency").to_string()).expect("the file can be written");
    fs::write(site.join("values.yaml"), values.to_string()).expect("the file can be written");
    fs::write(site.join("templates/own.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: own}\n")
        .expect("the file can be written");
    fs::rename(operator, site.join("charts/kubenova-operator")).expect("the chart can be moved");
    (folder, site)
}

#[test]
fn a_chart_that_has_it_as_a_dependency_turns_it_on_and_off_and_gives_it_globals() {
    let (_folder, path) = site(&example("dependency-values"));
    let all = parsed(&template(&path, &[]).unwrap());
    one(&all, "ConfigMap", "own");
    one(&all, "Deployment", "kubenova-operator");
    for (name, pod) in pods(&all) {
        let image = pod["containers"][0]["image"].as_str().unwrap();
        assert!(image.starts_with("mirror.example.com/"), "{name}: {image}");
    }
    let off = parsed(&template(&path, &["--set", "kubenova-operator.enabled=false"]).unwrap());
    assert_eq!(off.len(), 1, "only the chart's own object is left");
    let others = template(&path, &["--set", "global.storageClass=fast"]);
    assert!(others.is_ok(), "globals of other charts are none of its business: {others:?}");
    let linted = helm(&["lint", path.to_str().unwrap(), "-n", "kubenova-system"]);
    assert!(linted.status.success(), "{}", String::from_utf8_lossy(&linted.stdout));
    let refused = template(&path, &["--set", "kubenova-operator.unknown=1"]).unwrap_err();
    assert!(refused.contains("unknown"), "{refused}");
}

#[test]
fn the_chart_lints_without_a_remark() {
    let path = chart();
    let linted = helm(&[
        "lint",
        path.to_str().unwrap(),
        "--strict",
        "-n",
        "kubenova-system",
        "--set",
        "enrollment.existingSecret=t",
    ]);
    let said = String::from_utf8_lossy(&linted.stdout).into_owned();
    assert!(linted.status.success() && !said.contains("[INFO]") && !said.contains("[WARNING]"), "{said}");
}

#[test]
fn the_preflight_is_a_hook_that_only_reads_and_takes_the_token_from_where_it_is() {
    let all = objects("templates/preflight.yaml", &[]);
    for object in &all {
        assert_eq!(object["metadata"]["annotations"]["helm.sh/hook"], "pre-install,pre-upgrade", "{object}");
    }
    for rule in one(&all, "ClusterRole", "kubenova:preflight")["rules"].as_array().unwrap() {
        let verbs = rule["verbs"].as_array().unwrap();
        assert!(verbs.iter().all(|verb| ["get", "list"].contains(&verb.as_str().unwrap())), "{rule}");
    }
    let source = |all: &[Value]| pods(all)[0].1["volumes"][0]["projected"]["sources"][0]["secret"]["name"].clone();
    assert_eq!(source(&all), "token");
    let text = template(&chart(), &["--set", "enrollment.token=kn1.abc", "--show-only", "templates/preflight.yaml"]);
    let given = parsed(&text.unwrap());
    assert_eq!(source(&given), "kubenova-preflight");
    assert_eq!(one(&given, "Secret", "kubenova-preflight")["stringData"]["token"], "kn1.abc");
    // Where hooks are not known, a Job with other contents must have another name.
    let name = |values: &[&str]| pods(&objects("templates/preflight.yaml", values))[0].0.clone();
    assert_eq!(name(&[]), name(&["log=debug"]));
    assert_ne!(name(&[]), name(&["image.tag=other"]));
    let args =
        pods(&objects("templates/preflight.yaml", &["preflight.enforce=false"]))[0].1["containers"][0]["args"].clone();
    assert_eq!(args, json!(["doctor", "preflight", "--only-warn"]));
    assert!(objects("", &["preflight.enabled=false"]).iter().all(|it| it["kind"] != "Job"));
}

#[test]
fn policies_that_the_chart_has_no_more_are_deleted_by_an_upgrade_and_nothing_else_can_be() {
    assert!(objects("", &[]).iter().all(|it| it["metadata"]["name"] != "kubenova:dropped-policies"), "there is none");
    let (_folder, chart) = copy();
    let file = chart.join("files/policies.yaml");
    let names = fs::read_to_string(&file).unwrap().replace("dropped: []", "dropped:\n  - kubenova-old");
    assert!(names.contains("kubenova-old"), "{names}");
    fs::write(file, names).unwrap();
    let all = render_with(&chart, "templates/dropped-policies.yaml", &[], &[]).unwrap();
    let rules = &one(&all, "ClusterRole", "kubenova:dropped-policies")["rules"];
    assert_eq!(rules.as_array().unwrap().len(), 1);
    assert_eq!(rules[0]["resourceNames"], json!(["kubenova-old"]));
    assert_eq!(rules[0]["verbs"], json!(["get", "delete"]));
    assert_eq!(pods(&all)[0].1["containers"][0]["args"], json!(["delete-policies", "kubenova-old"]));
}
