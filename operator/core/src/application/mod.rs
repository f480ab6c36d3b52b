//! KubeVela Applications: the object that is applied for a command. Its status is read in [`status`], with what
//! the cluster says of its workloads ([`failure`]), and dated in [`since`]; [`made`] is what it left.
//!
//! A caller's document decides labels, annotations and spec; name, namespace and identity are never its own.

mod cue;
mod detail;
pub mod failure;
mod live;
pub mod made;
pub mod since;
pub mod status;

use crate::tenant::apps_namespace;
use kubenova_crds::labels;
use kubenova_schema::applications;
use serde_json::{Map, Value, json};

/// API version of Applications.
pub const API_VERSION: &str = "core.oam.dev/v1beta1";

/// Whose it is, and which command it comes from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// Name of the tenant.
    pub tenant: &'a str,
    /// Id of the tenant.
    pub tenant_id: &'a str,
    /// Name of the application.
    pub name: &'a str,
    /// Revision of the command.
    pub revision: u64,
    /// Id of the command.
    pub command_id: &'a str,
}

/// The Application to apply for a document.
///
/// # Errors
/// With a message when the document holds no Application spec.
pub fn build(document: &str, origin: Origin<'_>) -> Result<Value, String> {
    let document: Value =
        serde_json::from_str(document).map_err(|error| format!("the document is not JSON: {error}"))?;
    let kind = document.get("kind").and_then(Value::as_str).unwrap_or("Application");
    if kind != "Application" {
        return Err(format!("the document is a {kind}, not an Application"));
    }
    let Some(spec) = document.get("spec").filter(|spec| spec.is_object()) else {
        return Err("the document has no spec".to_owned());
    };
    let kept = |field: &str| -> Map<String, Value> {
        let entries = document.pointer(&format!("/metadata/{field}")).and_then(Value::as_object);
        entries
            .into_iter()
            .flatten()
            .filter(|(key, _)| !applications::is_reserved(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    let (mut labels, mut annotations) = (kept("labels"), kept("annotations"));
    for (key, value) in [
        (labels::TENANT_ID, origin.tenant_id),
        (labels::TENANT, origin.tenant),
        (labels::PROJECT, origin.tenant),
        (labels::APPLICATION, origin.name),
    ] {
        labels.insert(key.to_owned(), value.into());
    }
    annotations.insert(labels::REVISION.to_owned(), origin.revision.to_string().into());
    annotations.insert(labels::COMMAND_ID.to_owned(), origin.command_id.into());
    Ok(json!({
        "apiVersion": API_VERSION,
        "kind": "Application",
        "metadata": {
            "name": origin.name,
            "namespace": apps_namespace(origin.tenant),
            "labels": labels,
            "annotations": annotations,
        },
        "spec": spec,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin<'static> =
        Origin { tenant: "acme", tenant_id: "id", name: "shop", revision: 7, command_id: "cmd" };

    #[test]
    fn a_document_decides_neither_its_place_nor_its_identity() {
        let document = r#"{"metadata":{"name":"evil","namespace":"kube-system","labels":{"team":"a","kubenova.io/tenant":"other"},
            "annotations":{"app.oam.dev/username":"system:admin","note":"b"}},"spec":{"components":[]}}"#;
        let built = build(document, ORIGIN).unwrap();
        assert_eq!(built["metadata"]["name"], "shop");
        assert_eq!(built["metadata"]["namespace"], "acme-apps");
        assert_eq!(built["metadata"]["labels"]["team"], "a");
        assert_eq!(built["metadata"]["labels"][labels::TENANT], "acme");
        assert!(built["metadata"]["annotations"].get("app.oam.dev/username").is_none());
        assert_eq!(built["metadata"]["annotations"][labels::REVISION], "7");
        assert!(build(r#"{"kind":"Pod","spec":{}}"#, ORIGIN).is_err());
        assert!(build("{}", ORIGIN).is_err());
    }
}
