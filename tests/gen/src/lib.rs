//! What is derived from the code and committed: CRD YAML in the Operator's chart, the OpenAPI document, the pages of
//! errors, metrics and attacks, and in the chart the table of values and the names of policies.
//!
//! Pure: every derived file as a path and its content. `main.rs` writes them, a test compares them.

mod attacks;
mod chart;

use anyhow::Context as _;
use std::path::PathBuf;

/// A file whose content follows from the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DerivedFile {
    /// Relative to the repository's root.
    pub path: PathBuf,
    /// What must be in it.
    pub content: String,
}

/// The root of this checkout. Asked while it runs: a program in a shared target folder may have been compiled in another.
#[must_use]
pub fn repository_root() -> PathBuf {
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.join("../..")
}

/// Every derived file.
///
/// # Errors
/// When a type cannot be written as YAML, an attack of the matrix has not exactly one test, or a value of the chart has no comment.
pub fn derived_files() -> anyhow::Result<Vec<DerivedFile>> {
    let mut files: Vec<DerivedFile> =
        kubenova_crds::all().iter().map(custom_resource_definition).collect::<anyhow::Result<_>>()?;
    files.push(DerivedFile {
        path: PathBuf::from("docs/openapi.json"),
        content: format!("{}\n", kubenova_api::router::openapi().trim_end()),
    });
    files.push(DerivedFile { path: PathBuf::from("docs/errors.md"), content: kubenova_core::refusal::catalogue() });
    files.push(DerivedFile { path: PathBuf::from("docs/metrics.md"), content: metrics_page() });
    files.push(DerivedFile { path: PathBuf::from("docs/attacks.md"), content: attacks::page(&repository_root())? });
    for (path, content) in [chart::policies(&repository_root())?, chart::readme(&repository_root())?] {
        files.push(DerivedFile { path: path.into(), content });
    }
    Ok(files)
}

/// Every metric of all processes, from their own registries.
fn metrics_page() -> String {
    let mut manager = kubenova_runtime::metrics::Registry::new(kubenova_manager::metrics::PREFIX);
    let _metrics = kubenova_manager::metrics::Metrics::register(&mut manager);
    let mut bridge = kubenova_runtime::metrics::Registry::new(kubenova_bridge::metrics::PREFIX);
    let _metrics = kubenova_bridge::metrics::Metrics::register(&mut bridge);
    let (operator, _metrics) = kubenova_operator::metrics::registry();
    format!(
        "# Metrics\n\n\
         <!-- Written by `cargo dev gen` from the code; do not edit. -->\n\n\
         Prometheus metrics in the OpenMetrics text format, at `/metrics` of a listener of their own: plain HTTP without \
         access control, so bind it to loopback or to a network that only the monitoring reaches. Every label is a closed \
         set; names, ids and error texts are never labels. Histograms of requests have buckets from 2 ms to 30 s, those of \
         rounds and lags from 10 ms to an hour.\n\n\
         ## Manager\n\n\
         `metrics.listen` of the settings file, `127.0.0.1:9464` by default, `null` switches it off. What only Postgres knows \
         is read every 15 s.\n\n{}\n\
         ## Bridge\n\n\
         Off until `metrics.listen` of the bridge's settings is set.\n\n{}\n\
         ## Operator\n\n\
         Off until the chart's `metrics.enabled` is set; then port 9090 of the pod, open to pods of the same cluster.\n\n{}",
        manager.markdown(),
        bridge.markdown(),
        operator.markdown()
    )
}

/// One CRD as a template of the Operator's chart, kept when the chart is uninstalled: removing a definition would
/// remove every object of its kind.
fn custom_resource_definition<T: serde::Serialize>(definition: &T) -> anyhow::Result<DerivedFile> {
    let mut value = serde_json::to_value(definition)?;
    value["metadata"]["annotations"] = serde_json::json!({ "helm.sh/resource-policy": "keep" });
    value["metadata"]["labels"] = serde_json::json!({ "app.kubernetes.io/part-of": "kubenova" });
    let name = value["metadata"]["name"].as_str().context("a definition has a name")?.to_owned();
    let plural = name.split('.').next().unwrap_or_default().to_owned();
    let yaml = serde_saphyr::to_string(&value).with_context(|| format!("could not write \"{name}\" as YAML"))?;
    let content = format!("# Written by `cargo dev gen` from crds/src; do not edit.\n{}\n", escape(yaml.trim_end()));
    Ok(DerivedFile { path: PathBuf::from(format!("deploy/helm/operator/templates/crds/{plural}.yaml")), content })
}

/// Helm reads double braces as its own; descriptions that hold them would break the chart.
fn escape(yaml: &str) -> String {
    yaml.replace("{{", "{ {").replace("}}", "} }")
}
