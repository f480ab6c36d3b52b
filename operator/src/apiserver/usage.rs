//! NovaUsageReports: read whole, created when absent, replaced only at a known resourceVersion.
//!
//! An answer may be lost after the write took place, and the next attempt meets a conflict. So on a conflict the stored
//! report is read: when its spec is the one that was to be written, that write succeeded.

use super::{
    error::{Error, Verb},
    verbs,
};
use kube::{Api, Client, ResourceExt as _};
use kubenova_crds::{
    tenant::NovaTenant,
    usage_report::{NovaUsageReport, UsageReportSpec},
};

/// Result of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It is stored, at this resourceVersion.
    Stored(String),
    /// Another writer changed it in between.
    Conflict,
}

fn api(client: &Client, namespace: &str) -> Api<NovaUsageReport> {
    Api::namespaced(client.clone(), namespace)
}

/// Every report.
pub async fn list(client: &Client, namespace: &str) -> Result<Vec<NovaUsageReport>, Error> {
    verbs::list(&api(client, namespace), "").await
}

/// One window's report.
pub async fn get(client: &Client, namespace: &str, window: &str) -> Result<Option<NovaUsageReport>, Error> {
    verbs::get(&api(client, namespace), window).await
}

/// Writes a report: creates it, or replaces the one at this resourceVersion.
///
/// # Errors
/// When the call fails otherwise than by a conflict.
pub async fn write(
    client: &Client,
    namespace: &str,
    spec: UsageReportSpec,
    resource_version: Option<&str>,
) -> Result<Written, Error> {
    let api = api(client, namespace);
    let mut report = NovaUsageReport::new(&spec.window.clone(), spec);
    report.metadata.namespace = Some(namespace.to_owned());
    report.metadata.resource_version = resource_version.map(str::to_owned);
    let written = match resource_version {
        None => verbs::create(&api, &report).await,
        Some(_) => verbs::replace(&api, &report).await,
    };
    match written {
        Ok(stored) => Ok(Written::Stored(stored.resource_version().unwrap_or_default())),
        Err(error) if error.is_conflict() || (error.is_not_found() && resource_version.is_some()) => {
            let stored = verbs::get(&api, &report.spec.window).await?;
            Ok(match stored.filter(|stored| stored.spec == report.spec) {
                Some(ours) => Written::Stored(ours.resource_version().unwrap_or_default()),
                None => Written::Conflict,
            })
        }
        Err(error) => Err(error),
    }
}

/// Deletes exactly the report that was read.
pub async fn delete(client: &Client, namespace: &str, report: &NovaUsageReport) -> Result<(), Error> {
    let uid = report.uid().ok_or_else(|| {
        let missing = <serde_json::Error as serde::de::Error>::custom("a stored report has no uid");
        Error::new(Verb::Delete, "novausagereports", &report.name_any(), kube::Error::SerdeError(missing))
    })?;
    let version = report.resource_version();
    verbs::delete_exact(&api(client, namespace), &report.name_any(), &uid, version.as_deref()).await.map(drop)
}

/// Every NovaTenant: their quotas bound the usage of a time that was not observed.
pub async fn tenants(client: &Client) -> Result<Vec<NovaTenant>, Error> {
    verbs::list(&Api::all(client.clone()), "").await
}
