//! Rendered objects: reading them, naming them, and knowing which of them live in a namespace.

use serde_json::Value;
use std::{fmt, str::FromStr};

/// Identity of an object in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// API group, empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Namespace, empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// The key of a rendered object; `None` when it has no kind or no name.
    #[must_use]
    pub fn of(object: &Value) -> Option<Self> {
        let api_version = object.get("apiVersion")?.as_str()?;
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, name) = (text("/kind"), text("/metadata/name"));
        if kind.is_empty() || name.is_empty() {
            return None;
        }
        Some(Self {
            group: group.to_owned(),
            version: version.to_owned(),
            kind,
            namespace: text("/metadata/namespace"),
            name,
        })
    }

    /// The same object whatever version it was read in.
    #[must_use]
    pub fn same_object(&self, other: &Self) -> bool {
        (&self.group, &self.kind, &self.namespace, &self.name)
            == (&other.group, &other.kind, &other.namespace, &other.name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}/{}", self.group, self.version, self.kind, self.namespace, self.name)
    }
}

/// An inventory line that is not five parts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("inventory line {0:?} is not <group>/<version>/<kind>/<namespace>/<name>")]
pub struct NotAKey(pub String);

impl FromStr for Key {
    type Err = NotAKey;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = line.split('/').collect();
        let [group, version, kind, namespace, name] = parts[..] else {
            return Err(NotAKey(line.to_owned()));
        };
        if version.is_empty() || kind.is_empty() || name.is_empty() {
            return Err(NotAKey(line.to_owned()));
        }
        Ok(Self {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

/// Kinds without a namespace that the charts render. Everything else they render has one.
const CLUSTER_SCOPED: [&str; 14] = [
    "APIService",
    "CapsuleConfiguration",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "FlowSchema",
    "GlobalProxySettings",
    "MutatingWebhookConfiguration",
    "Namespace",
    "PriorityClass",
    "PriorityLevelConfiguration",
    "TenantOwner",
    "ValidatingAdmissionPolicy",
    "ValidatingWebhookConfiguration",
];

/// True when objects of this kind have no namespace.
#[must_use]
pub fn is_cluster_scoped(kind: &str) -> bool {
    CLUSTER_SCOPED.contains(&kind)
}

/// Why rendered text could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is no YAML.
    #[error("could not read what the chart rendered")]
    Yaml(#[source] Box<serde_saphyr::Error>),
    /// A document lacks apiVersion, kind or name.
    #[error("the chart rendered a document without apiVersion, kind and metadata.name: {0}")]
    Nameless(String),
}

/// The documents of a rendered chart, empty ones left out.
///
/// # Errors
/// When the text is no YAML or a document has no name.
pub fn read(text: &str) -> Result<Vec<Value>, ReadError> {
    // YAML 1.1's `yes` and `on` are text to Helm and to Kubernetes, so they must be text here.
    let options = serde_saphyr::options! { strict_booleans: true };
    let documents: Vec<Value> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| ReadError::Yaml(Box::new(error)))?;
    let objects: Vec<Value> = documents.into_iter().filter(|document| !document.is_null()).collect();
    for object in &objects {
        if Key::of(object).is_none() {
            let start: String = object.to_string().chars().take(120).collect();
            return Err(ReadError::Nameless(start));
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_key_survives_its_line() {
        let key = Key::of(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "b"}
        }))
        .unwrap();
        assert_eq!(key.to_string(), "apps/v1/Deployment/b/a");
        assert_eq!(key.to_string().parse::<Key>().unwrap(), key);
        let core: Key = "/v1/ConfigMap/b/a".parse().unwrap();
        assert_eq!(core.group, "");
        assert!("v1/ConfigMap/b/a".parse::<Key>().is_err());
        assert!("//ConfigMap/b/a".parse::<Key>().is_err());
    }

    #[test]
    fn another_version_is_the_same_object() {
        let old: Key = "policy/v1beta1/PodDisruptionBudget/n/x".parse().unwrap();
        let new: Key = "policy/v1/PodDisruptionBudget/n/x".parse().unwrap();
        assert!(old.same_object(&new));
    }

    #[test]
    fn reading_leaves_empty_documents_out_and_keeps_words_as_words() {
        let text = "---\n# only a comment\n---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  x: yes\n  y: \"1\"\n  z: 0h30m0s\n";
        let objects = read(text).unwrap();
        assert_eq!(objects.len(), 1);
        assert_eq!(objects[0]["data"], json!({"x": "yes", "y": "1", "z": "0h30m0s"}));
    }

    #[test]
    fn a_document_without_a_name_is_refused() {
        assert!(matches!(read("apiVersion: v1\nkind: ConfigMap\n"), Err(ReadError::Nameless(_))));
        assert!(matches!(read("a: [1"), Err(ReadError::Yaml(_))));
    }
}
