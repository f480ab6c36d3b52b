//! What the API server was asked, by whom, and what it answered: its audit log, read back.
//!
//! Guarantees: every finished request but the control plane's own is in it, and the beginning and end of
//! every pod, whoever requested it.

use std::path::Path;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Deserialize;

/// The policy: one line for each finished request, without bodies; the simulated control plane's
/// own traffic is left out, because no scenario asks about it and it is most of the volume. Pods are the exception: what
/// was used is counted from their answers.
pub(crate) const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
omitManagedFields: true
rules:
- level: RequestResponse
  verbs: [create, delete]
  resources: [{group: "", resources: [pods]}]
- level: None
  users:
  - system:apiserver
  - system:kube-controller-manager
  - system:kube-scheduler
  - kubenova-test:kwok
  - kubenova-test:pod-runner
- level: None
  userGroups: [system:nodes]
- level: None
  nonResourceURLs: [/healthz*, /livez*, /readyz*, /version, /openapi*]
- level: Metadata
"#;

/// One finished request.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEvent {
    /// `get`, `create`, `patch` …
    pub verb: String,
    /// Path and query.
    #[serde(rename = "requestURI")]
    pub uri: String,
    /// Who called.
    pub user: AuditUser,
    /// Whom the caller impersonated.
    pub impersonated_user: Option<AuditUser>,
    /// From where.
    #[serde(default, rename = "sourceIPs")]
    pub source_ips: Vec<String>,
    /// The object, where the request was about one.
    pub object_ref: Option<AuditObject>,
    /// The answer.
    pub response_status: Option<AuditStatus>,
    /// The answered object, of requests about pods alone.
    pub response_object: Option<serde_json::Value>,
    /// When the request came in.
    #[serde(rename = "requestReceivedTimestamp")]
    pub received_at: Timestamp,
    /// When it was answered.
    #[serde(rename = "stageTimestamp")]
    pub answered_at: Timestamp,
}

impl AuditEvent {
    /// The HTTP status, 0 when the request ended without one.
    pub fn code(&self) -> u16 {
        self.response_status.as_ref().and_then(|status| status.code).unwrap_or(0)
    }

    /// Whether the request changed anything.
    pub fn is_write(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
    }
}

/// A caller.
#[derive(Clone, Debug, Deserialize)]
pub struct AuditUser {
    /// The user's name.
    #[serde(default)]
    pub username: String,
    /// The groups.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// What a request was about.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
pub struct AuditObject {
    /// Plural resource name.
    pub resource: String,
    /// Subresource, empty if none.
    pub subresource: String,
    /// Namespace, empty if none.
    pub namespace: String,
    /// Name, empty for lists.
    pub name: String,
    /// API group, empty for the core group.
    pub api_group: String,
}

/// An answer.
#[derive(Clone, Debug, Deserialize)]
pub struct AuditStatus {
    /// HTTP status.
    pub code: Option<u16>,
    /// Why it was refused, where it was.
    pub message: Option<String>,
}

/// Reads a log; a last line that is still being written is left out.
pub(crate) fn read(path: &Path) -> Result<Vec<AuditEvent>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    parse(&text)
}

fn parse(text: &str) -> Result<Vec<AuditEvent>> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).with_context(|| format!("not an audit event: {line}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"a","stage":"ResponseComplete","requestURI":"/api/v1/namespaces?fieldManager=x","verb":"create","user":{"username":"admin","groups":["system:masters"]},"impersonatedUser":{"username":"other"},"sourceIPs":["10.77.1.11"],"objectRef":{"resource":"namespaces","name":"a","apiVersion":"v1"},"responseStatus":{"metadata":{},"code":201},"requestReceivedTimestamp":"2026-11-25T03:00:00.000001Z","stageTimestamp":"2026-11-25T03:00:00.100000Z"}"#;

    #[test]
    fn a_line_is_read_and_a_torn_one_left() {
        let events = parse(&format!("{LINE}\n{}", &LINE[..40])).unwrap();
        assert_eq!(events.len(), 1);
        let event = &events[0];
        assert_eq!((event.verb.as_str(), event.code(), event.is_write()), ("create", 201, true));
        assert_eq!(event.user.username, "admin");
        assert_eq!(event.impersonated_user.as_ref().unwrap().username, "other");
        assert_eq!(event.source_ips, ["10.77.1.11"]);
        assert_eq!(event.object_ref.as_ref().unwrap().resource, "namespaces");
        assert!(event.answered_at > event.received_at);
    }

    #[test]
    fn the_policy_is_yaml() {
        let policy: serde_json::Value = serde_saphyr::from_str(POLICY).unwrap();
        assert_eq!(policy["kind"], "Policy");
    }
}
