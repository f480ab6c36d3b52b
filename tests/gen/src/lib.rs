//! What is derived from the code and committed: CRD YAML in the Operator's chart, the OpenAPI document, the page of
//! errors.
//!
//! Pure: every derived file as a path and its content. `main.rs` writes them, a test compares them.

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
/// When a type cannot be written as YAML.
pub fn derived_files() -> anyhow::Result<Vec<DerivedFile>> {
    let mut files: Vec<DerivedFile> =
        kubenova_crds::all().iter().map(custom_resource_definition).collect::<anyhow::Result<_>>()?;
    files.push(DerivedFile {
        path: PathBuf::from("docs/openapi.json"),
        content: format!("{}\n", kubenova_api::router::openapi().trim_end()),
    });
    files.push(DerivedFile { path: PathBuf::from("docs/errors.md"), content: kubenova_core::refusal::catalogue() });
    Ok(files)
}

/// One CRD as a template of the Operator's chart, kept when the chart is uninstalled: removing a definition would
/// remove every object of its kind.
fn custom_resource_definition<T: serde::Serialize>(definition: &T) -> anyhow::Result<DerivedFile> {
    let mut value = serde_json::to_value(definition)?;
    value["metadata"]["annotations"] = serde_json::json!({ "helm.sh/resource-policy": "keep" });
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
