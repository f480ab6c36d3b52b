//! Applications: what a caller may decide about one, and on which clusters it runs.

use crate::{
    cluster::ClusterId,
    label::{id_type, name_type},
    refusal::{Reason, Refusal},
    tenant::{TenantId, TenantName},
};
use jiff::Timestamp;
use std::collections::BTreeMap;

id_type! {
    /// An application's id (UUIDv7).
    ApplicationId
}

name_type! {
    /// An application's name, unique within its tenant.
    ApplicationName, "application", |_| Ok(())
}

/// Longest document of one application. Every part of the way carries it (broker messages, the inbox record, KubeVela's
/// revisions in etcd, whose limit is 1.5 MiB for all of them together).
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// What the Manager wishes for one application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    /// Its id.
    pub id: ApplicationId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Its name.
    pub name: ApplicationName,
    /// How it was asked for.
    pub form: Form,
    /// The caller's labels.
    pub labels: BTreeMap<String, String>,
    /// The caller's annotations.
    pub annotations: BTreeMap<String, String>,
    /// The Application's `spec`, exact JSON.
    pub spec: String,
    /// Version of this resource, from 1.
    pub generation: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the wish last changed.
    pub updated_at: Timestamp,
    /// Who created it.
    pub created_by: String,
}

/// How an application was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// By the typed form; holds it as exact JSON, so that a read returns what the create accepted.
    Typed(String),
    /// As a KubeVela Application.
    Raw,
}

/// The metadata of an Application as its caller wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`; empty when absent.
    pub namespace: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// Names of other fields in `metadata`.
    pub others: Vec<String>,
}

/// Prefixes of labels and annotations that decide about rights and identity: ours, and KubeVela's own (its
/// `app.oam.dev/username` says with whose rights an application runs).
const RESERVED_PREFIXES: [&str; 4] = ["kubenova.io/", "app.oam.dev/", "oam.dev/", "projectcapsule.dev/"];

/// What `kubectl get -o yaml` adds; dropped, so that people can send back what they got.
const DROPPED_FIELDS: [&str; 6] =
    ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"];
const DROPPED_ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

impl Metadata {
    /// Checks the metadata for a tenant; what is left of it is the caller's to decide.
    ///
    /// # Errors
    /// When it names another namespace, a reserved label or annotation, or a field that is not the caller's.
    pub fn accept(mut self, tenant: &TenantName) -> Result<Accepted, Refusal> {
        let name = ApplicationName::parse(&self.name)
            .map_err(|refusal| Refusal { field: Some("/metadata/name".into()), ..refusal })?;
        let namespace = tenant.apps_namespace();
        if !self.namespace.is_empty() && self.namespace != namespace {
            let detail = format!(
                "the application names namespace {:?}; applications of this tenant run in {namespace:?}",
                self.namespace
            );
            return Err(Refusal::at(Reason::ApplicationNamespace, "/metadata/namespace", detail));
        }
        self.annotations.remove(DROPPED_ANNOTATION);
        refuse_reserved("labels", &self.labels)?;
        refuse_reserved("annotations", &self.annotations)?;
        if let Some(field) = self.others.iter().find(|field| !DROPPED_FIELDS.contains(&field.as_str())) {
            let detail = format!("metadata.{field} is not yours to set; leave it out");
            return Err(Refusal::at(Reason::ApplicationInvalid, format!("/metadata/{field}"), detail));
        }
        Ok(Accepted { name, labels: self.labels, annotations: self.annotations })
    }
}

/// What a caller may decide in an Application's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The name.
    pub name: ApplicationName,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

fn refuse_reserved(what: &str, entries: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let reserved = |key: &&String| {
        let domain = key.split('/').next().unwrap_or_default();
        RESERVED_PREFIXES.iter().any(|prefix| {
            let reserved = prefix.trim_end_matches('/');
            key.contains('/') && (domain == reserved || domain.ends_with(&format!(".{reserved}")))
        })
    };
    match entries.keys().find(reserved) {
        Some(key) => {
            let pointer = format!("/metadata/{what}/{}", key.replace('~', "~0").replace('/', "~1"));
            Err(Refusal::at(
                Reason::ApplicationInvalid,
                pointer,
                format!("{key:?} in metadata.{what} is reserved; leave it out"),
            ))
        }
        None => Ok(()),
    }
}

/// The clusters an application runs on: those named, else the tenant's only one.
///
/// # Errors
/// With [`Reason::PlacementRequired`] when the tenant has no placement, or several and none was named;
/// with [`Reason::NotPlaced`] when a named one is not the tenant's.
pub fn choose_clusters(placements: &[ClusterId], named: Option<&[ClusterId]>) -> Result<Vec<ClusterId>, Refusal> {
    let required = |detail: &str| Err(Refusal::at(Reason::PlacementRequired, "/clusters", detail));
    let mut chosen = match (placements, named) {
        ([], _) => {
            return required("the tenant is on no cluster yet: place it with POST /api/v1/tenants/{tenant}/placements");
        }
        (_, Some([])) => return required("clusters is empty: name at least one"),
        ([only], None) => vec![only.clone()],
        (several, None) => {
            return required(&format!(
                "the tenant is on {} clusters and the request names none of them",
                several.len()
            ));
        }
        (_, Some(named)) => named.to_vec(),
    };
    if let Some(foreign) = chosen.iter().find(|cluster| !placements.contains(cluster)) {
        return Err(Refusal::at(Reason::NotPlaced, "/clusters", format!("the tenant is not on cluster \"{foreign}\"")));
    }
    chosen.sort();
    chosen.dedup();
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn cluster(number: u128) -> ClusterId {
        ClusterId::from_uuid(Uuid::from_u128(number))
    }

    fn acme() -> TenantName {
        TenantName::parse("acme").unwrap()
    }

    fn metadata() -> Metadata {
        Metadata { name: "shop".into(), ..Metadata::default() }
    }

    #[test]
    fn one_placement_needs_no_name_and_several_do() {
        let (a, b) = (cluster(1), cluster(2));
        assert_eq!(choose_clusters(std::slice::from_ref(&a), None), Ok(vec![a.clone()]));
        let both = [a.clone(), b.clone()];
        assert_eq!(choose_clusters(&both, None).unwrap_err().reason, Reason::PlacementRequired);
        assert_eq!(choose_clusters(&[], None).unwrap_err().reason, Reason::PlacementRequired);
        assert_eq!(choose_clusters(&both, Some(&[])).unwrap_err().reason, Reason::PlacementRequired);
        assert_eq!(choose_clusters(&both, Some(&[b.clone(), a.clone(), b.clone()])), Ok(vec![a, b]));
        assert_eq!(choose_clusters(&both, Some(&[cluster(3)])).unwrap_err().reason, Reason::NotPlaced);
    }

    #[test]
    fn metadata_of_another_namespace_is_refused() {
        assert!(metadata().accept(&acme()).is_ok());
        assert!(Metadata { namespace: "acme-apps".into(), ..metadata() }.accept(&acme()).is_ok());
        for namespace in ["acme-owner", "other-apps", "kube-system", "default"] {
            let refusal = Metadata { namespace: namespace.into(), ..metadata() }.accept(&acme()).unwrap_err();
            assert_eq!(refusal.reason, Reason::ApplicationNamespace, "{namespace}");
        }
    }

    #[test]
    fn reserved_annotations_and_foreign_fields_are_refused_and_noise_is_dropped() {
        let with = |key: &str| BTreeMap::from([(key.to_owned(), "x".to_owned())]);
        for key in ["app.oam.dev/username", "kubenova.io/tenant", "x.app.oam.dev/y", "oam.dev/z"] {
            let refusal = Metadata { annotations: with(key), ..metadata() }.accept(&acme()).unwrap_err();
            assert_eq!(refusal.reason, Reason::ApplicationInvalid, "{key}");
            assert!(Metadata { labels: with(key), ..metadata() }.accept(&acme()).is_err(), "{key}");
        }
        assert!(Metadata { annotations: with("team"), ..metadata() }.accept(&acme()).is_ok());
        assert!(Metadata { others: vec!["ownerReferences".into()], ..metadata() }.accept(&acme()).is_err());
        let noisy = Metadata { others: vec!["uid".into()], annotations: with(DROPPED_ANNOTATION), ..metadata() };
        assert!(noisy.accept(&acme()).unwrap().annotations.is_empty());
    }
}
