//! NovaUsageReports: read whole, created empty when absent, their status replaced only at a known resourceVersion.
//!
//! An answer may be lost after the write took place, and the next attempt meets a conflict. So on a conflict the stored
//! report is read: when its status is the one that was to be written, that write succeeded. Who dies between creating a report
//! and writing its status leaves an empty one, which whoever writes the window next takes over.

use super::{
    error::{Error, Verb},
    status, verbs,
};
use kube::{Api, Client, ResourceExt as _};
use kubenova_crds::{
    tenant::NovaTenant,
    usage_report::{NovaUsageReport, UsageReportSpec, UsageReportStatus},
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

/// Writes a window's report: creates it, or replaces the one at this resourceVersion.
///
/// # Errors
/// When the call fails otherwise than by a conflict.
pub async fn write(
    client: &Client,
    namespace: &str,
    window: &str,
    measured: UsageReportStatus,
    resource_version: Option<&str>,
) -> Result<Written, Error> {
    let api = api(client, namespace);
    let mut report = NovaUsageReport::new(window, UsageReportSpec { window: window.to_owned() });
    report.metadata.namespace = Some(namespace.to_owned());
    report.metadata.resource_version = match resource_version {
        Some(version) => Some(version.to_owned()),
        None => match created(&api, &report).await? {
            Some(empty) => empty.resource_version(),
            None => return stored_as(&api, window, &measured).await,
        },
    };
    report.status = Some(measured);
    match (status::replace(&api, &report).await, &report.status) {
        (Ok(stored), _) => Ok(Written::Stored(stored.resource_version().unwrap_or_default())),
        (Err(error), Some(measured)) if error.is_conflict() || error.is_not_found() => {
            stored_as(&api, window, measured).await
        }
        (Err(error), _) => Err(error),
    }
}

/// The report as it was created now, or before without a status; none when another has written it.
async fn created(api: &Api<NovaUsageReport>, report: &NovaUsageReport) -> Result<Option<NovaUsageReport>, Error> {
    match verbs::create(api, report).await {
        Ok(created) => Ok(Some(created)),
        Err(error) if error.is_conflict() => {
            Ok(verbs::get(api, &report.name_any()).await?.filter(|stored| stored.status.is_none()))
        }
        Err(error) => Err(error),
    }
}

/// Whether what stands there is what was to be written.
async fn stored_as(api: &Api<NovaUsageReport>, window: &str, measured: &UsageReportStatus) -> Result<Written, Error> {
    let stored = verbs::get(api, window).await?;
    Ok(match stored.filter(|stored| stored.status.as_ref() == Some(measured)) {
        Some(ours) => Written::Stored(ours.resource_version().unwrap_or_default()),
        None => Written::Conflict,
    })
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
