//! Rendering a chart with helm, as a child process: arguments as an array, values by file, a limit on time, killed when
//! the reconcile is dropped. Helm is given no way to reach the cluster.

use kubenova_operator_core::components::{Component, Plan};
use kubenova_runtime::random;
use serde_json::Value;
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;

/// Helm renders these charts in 0.2 s; a minute is a machine in trouble.
const LIMIT: Duration = Duration::from_secs(60);
/// Of helm's error message. Template errors name file and line at their start, and a condition must stay readable.
const HELM_MESSAGE_CHARS_MAX: usize = 600;

/// Why a chart could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// This Operator does not carry that version.
    #[error(
        "this Operator carries no chart of {component} {version}; set version {carried} or install the Operator \
         release that carries {version}"
    )]
    VersionNotCarried {
        /// The component.
        component: Component,
        /// The configured version.
        version: String,
        /// The version it carries.
        carried: &'static str,
    },
    /// The image has no such chart.
    #[error("the chart of {component} is not in {folder:?}; the Operator's image is incomplete, use the released one")]
    Missing {
        /// The component.
        component: Component,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A file could not be read or written.
    #[error("could not prepare the chart of {component} in a temporary folder")]
    Io {
        /// The component.
        component: Component,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `Chart.yaml` is no YAML.
    #[error("could not read Chart.yaml of {component}")]
    ChartFile {
        /// The component.
        component: Component,
        /// Why.
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    /// Helm could not be started.
    #[error("could not run helm at {path:?}")]
    Start {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Helm refused.
    #[error("helm could not render the chart of {component}: {message}")]
    Refused {
        /// The component.
        component: Component,
        /// Its error message.
        message: String,
    },
    /// Helm did not finish.
    #[error("helm did not render the chart of {component} within {limit:?}")]
    TimedOut {
        /// The component.
        component: Component,
        /// The limit.
        limit: Duration,
    },
}

impl ChartError {
    /// The reason in the component's condition.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::VersionNotCarried { .. } => "VersionNotCarried",
            Self::Missing { .. } => "ChartMissing",
            _ => "RenderFailed",
        }
    }
}

/// The folder of a component's chart: `<charts>/<name>-<version>`, or `<charts>/<name>` for the version the Operator
/// was built with.
///
/// # Errors
/// When there is none.
pub fn locate(charts_dir: &Path, component: Component, version: &str) -> Result<PathBuf, ChartError> {
    let versioned = charts_dir.join(format!("{}-{version}", component.name()));
    if versioned.join("Chart.yaml").is_file() {
        return Ok(versioned);
    }
    if version != component.default_version() {
        let carried = component.default_version();
        return Err(ChartError::VersionNotCarried { component, version: version.to_owned(), carried });
    }
    let plain = charts_dir.join(component.name());
    if plain.join("Chart.yaml").is_file() {
        return Ok(plain);
    }
    Err(ChartError::Missing { component, folder: plain })
}

/// What the chart renders with the plan's values, CRDs included.
///
/// # Errors
/// When the chart cannot be copied or helm does not render it.
pub async fn render(helm: &Path, folder: &Path, plan: &Plan, kube_version: &str) -> Result<String, ChartError> {
    let component = plan.component;
    let io = |source| ChartError::Io { component, source };
    let scratch = Scratch::new().map_err(io)?;
    let chart = scratch.path.join("chart");
    let (from, to) = (folder.to_owned(), chart.clone());
    let copied = tokio::task::spawn_blocking(move || copy_folder(&from, &to)).await;
    copied.map_err(|error| io(io::Error::other(error)))?.map_err(io)?;
    drop_dependencies(component, &chart)?;
    let values = scratch.path.join("values.json");
    fs::write(&values, plan.values.to_string()).map_err(io)?;

    let mut command = Command::new(helm);
    command
        .args(["template", component.name()])
        .arg(&chart)
        .args(["--namespace", component.namespace(), "--no-hooks", "--skip-tests", "--include-crds"])
        .args(["--kube-version", kube_version])
        .arg("--values")
        .arg(&values)
        .env_clear()
        .env("HOME", &scratch.path)
        .env("HELM_CACHE_HOME", scratch.path.join("cache"))
        .env("HELM_CONFIG_HOME", scratch.path.join("config"))
        .env("HELM_DATA_HOME", scratch.path.join("data"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output())
        .await
        .map_err(|_| ChartError::TimedOut { component, limit: LIMIT })?
        .map_err(|source| ChartError::Start { path: helm.to_owned(), source })?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        let message = message.trim().trim_start_matches("Error: ").chars().take(HELM_MESSAGE_CHARS_MAX).collect();
        return Err(ChartError::Refused { component, message });
    }
    String::from_utf8(output.stdout).map_err(|error| io(io::Error::other(error)))
}

/// A dependency that is not vendored stops helm; none of them is needed here.
fn drop_dependencies(component: Component, chart: &Path) -> Result<(), ChartError> {
    let io = |source| ChartError::Io { component, source };
    let file = chart.join("Chart.yaml");
    let text = fs::read_to_string(&file).map_err(io)?;
    let mut description: Value =
        serde_saphyr::from_str(&text).map_err(|error| ChartError::ChartFile { component, source: Box::new(error) })?;
    let had = description.as_object_mut().is_some_and(|description| description.remove("dependencies").is_some());
    if had {
        // JSON is YAML.
        fs::write(&file, description.to_string()).map_err(io)?;
    }
    match fs::remove_file(chart.join("Chart.lock")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io(error)),
        _ => Ok(()),
    }
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        // Follows links: a mounted folder may be made of them.
        if fs::metadata(entry.path())?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            // Not `fs::copy`: it would keep a read-only mode, and the copy is changed.
            fs::write(&target, fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

/// A temporary folder, deleted on drop.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("kubenova-chart-{}", random::uuid_v4()));
        fs::create_dir(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::debug!(error = %error, "could not remove a temporary folder");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_this_operator_does_not_carry_is_named() {
        let scratch = Scratch::new().unwrap();
        let error = locate(&scratch.path, Component::Capsule, "9.9.9").unwrap_err();
        assert_eq!(error.reason(), "VersionNotCarried");
        assert!(error.to_string().contains(Component::Capsule.default_version()), "{error}");
        let error = locate(&scratch.path, Component::Capsule, Component::Capsule.default_version()).unwrap_err();
        assert_eq!(error.reason(), "ChartMissing");
    }

    #[test]
    fn dependencies_are_dropped_from_the_copy_alone() {
        let scratch = Scratch::new().unwrap();
        let (chart, copy) = (scratch.path.join("a"), scratch.path.join("b"));
        fs::create_dir(&chart).unwrap();
        fs::create_dir(chart.join("templates")).unwrap();
        let text = "name: a\nversion: 0.0.0\ndependencies:\n  - {name: b, repository: oci://example, version: 1.0.0}\n";
        fs::write(chart.join("Chart.yaml"), text).unwrap();
        fs::write(chart.join("Chart.lock"), "x").unwrap();
        copy_folder(&chart, &copy).unwrap();
        drop_dependencies(Component::Capsule, &copy).unwrap();
        let changed: Value = serde_saphyr::from_str(&fs::read_to_string(copy.join("Chart.yaml")).unwrap()).unwrap();
        assert!(changed.get("dependencies").is_none());
        assert_eq!(changed["version"], "0.0.0");
        assert!(!copy.join("Chart.lock").exists() && copy.join("templates").is_dir());
        assert_eq!(fs::read_to_string(chart.join("Chart.yaml")).unwrap(), text);
    }
}
