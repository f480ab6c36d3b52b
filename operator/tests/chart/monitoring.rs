//! Alerts and dashboard: what they name exists.

use crate::rendered::{objects, one, render, repository};
use serde_json::Value;
use std::{collections::BTreeSet, fs};

const ALL: [&str; 4] = [
    "metrics.enabled=true",
    "metrics.serviceMonitor.enabled=true",
    "metrics.prometheusRule.enabled=true",
    "metrics.dashboard.enabled=true",
];

fn document(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names of our metrics in an expression.
fn metrics(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("kubenova_")).map(str::to_owned).collect()
}

/// Whether `docs/metrics.md`, which is made from the registry, has a metric; histograms are there without the suffix of a series.
fn exists(page: &str, metric: &str) -> bool {
    let suffixes = ["", "_bucket", "_count", "_sum"];
    suffixes
        .iter()
        .any(|suffix| metric.strip_suffix(suffix).is_some_and(|name| page.contains(&format!("| `{name}` |"))))
}

/// The values of the label `name` in an expression.
fn labels<'a>(expression: &'a str, name: &str) -> Vec<&'a str> {
    let marked = format!("{name}=\"");
    expression.split(marked.as_str()).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn every_alert_is_about_metrics_that_exist_says_what_to_do_and_has_its_section() {
    let (page, runbooks) = (document("docs/metrics.md"), document("docs/operations/alerts.md"));
    let all =
        objects("templates/monitoring.yaml", &[&ALL[..], &["metrics.prometheusRule.alertLabels.team=edge"]].concat());
    let service = one(&all, "Service", "kubenova-operator-metrics")["metadata"]["name"].as_str().unwrap().to_owned();
    let rules = one(&all, "PrometheusRule", "kubenova-operator").pointer("/spec/groups/0/rules").unwrap();
    let rules = rules.as_array().unwrap();
    assert!(rules.len() >= 8, "{}", rules.len());
    for rule in rules {
        let (name, expression) = (rule["alert"].as_str().unwrap(), rule["expr"].as_str().unwrap());
        for metric in metrics(expression) {
            assert!(exists(&page, &metric), "{name}: docs/metrics.md does not have {metric}");
        }
        assert!(!metrics(expression).is_empty() || expression.contains("up{"), "{name}: {expression}");
        // Prometheus names a job after the Service.
        assert!(labels(expression, "job").iter().all(|job| *job == service), "{name}: {expression}");
        for verdict in labels(expression, "verdict") {
            assert!(page.contains(&format!("`{verdict}`")), "{name}: no metric has verdict {verdict}");
        }
        assert!(!expression.contains("THREE_WINDOWS"), "{name}: {expression}");
        assert_eq!(expression.matches('(').count(), expression.matches(')').count(), "{name}: {expression}");
        let text = |key: &str| rule["annotations"][key].as_str().unwrap_or_default().to_owned();
        assert!(text("summary").ends_with('.') && text("description").ends_with('.'), "{name}");
        assert!(["info", "warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{name}");
        assert_eq!(rule["labels"]["team"], "edge", "{name}");
        assert!(runbooks.contains(&format!("\n## {name}\n")), "docs/operations/alerts.md has no section {name}");
    }
    let sections = runbooks.lines().filter(|line| line.starts_with("## KubeNova")).count();
    assert_eq!(sections, rules.len(), "docs/operations/alerts.md has sections of no alert");
}

#[test]
fn every_panel_of_the_dashboard_is_about_metrics_that_exist() {
    let page = document("docs/metrics.md");
    let all = objects("templates/monitoring.yaml", &ALL);
    let json =
        one(&all, "ConfigMap", "kubenova-operator-dashboard")["data"]["kubenova-operator.json"].as_str().unwrap();
    let dashboard: Value = serde_json::from_str(json).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().unwrap();
    let mut shown = BTreeSet::new();
    for panel in panels {
        for target in panel["targets"].as_array().unwrap() {
            for metric in metrics(target["expr"].as_str().unwrap()) {
                assert!(exists(&page, &metric), "{}: {metric}", panel["title"]);
                shown.insert(metric);
            }
        }
    }
    assert!(shown.len() >= 8, "{shown:?}");
}

#[test]
fn a_service_monitor_selects_the_service_and_without_metrics_there_is_neither() {
    let all = objects("", &ALL);
    let service = one(&all, "Service", "kubenova-operator-metrics");
    let selected =
        one(&all, "ServiceMonitor", "kubenova-operator")["spec"]["selector"]["matchLabels"].as_object().unwrap();
    for (label, value) in selected {
        assert_eq!(&service["metadata"]["labels"][label], value, "{label}");
    }
    let deployment = one(&all, "Deployment", "kubenova-operator");
    assert_eq!(service["spec"]["selector"], deployment["spec"]["selector"]["matchLabels"]);
    assert_eq!(deployment.pointer("/spec/template/spec/containers/0/ports/0/name").unwrap(), "metrics");
    assert!(objects("", &[]).iter().all(|it| it["metadata"]["name"] != "kubenova-operator-metrics"));
    let refused = render("", &["metrics.serviceMonitor.enabled=true"]).unwrap_err();
    assert!(refused.contains("metrics.enabled=true"), "{refused}");
}
