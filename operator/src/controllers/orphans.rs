//! What a deleted Application left behind.
//!
//! - Objects that it created: a `garbage-collect` policy can tell KubeVela to leave them. Found by KubeVela's label, deleted
//!   as the tenant's deployer.
//! - KubeVela's ResourceTrackers of it. KubeVela looks at them only while their Application exists, and it lets an Application
//!   go when its informer shows no tracker: after a restart of the API server that may be one moment too early, and what the
//!   tracker names stays with it for ever.

use crate::apiserver::{Error, kinds, verbs};
use kube::{Api, Client, ResourceExt, core::DynamicObject};

/// Kinds the deployer may create: group, version, kind.
const KINDS: [(&str, &str, &str); 9] = [
    ("apps", "v1", "Deployment"),
    ("apps", "v1", "StatefulSet"),
    ("apps", "v1", "DaemonSet"),
    ("batch", "v1", "Job"),
    ("batch", "v1", "CronJob"),
    ("autoscaling", "v2", "HorizontalPodAutoscaler"),
    ("networking.k8s.io", "v1", "Ingress"),
    ("", "v1", "Service"),
    ("", "v1", "ConfigMap"),
];

/// Finalizer of KubeVela's trackers.
const TRACKER_FINALIZER: &str = "resourcetracker.core.oam.dev/finalizer";

/// Label KubeVela puts on what it creates; the value is the Application's name.
pub const NAME_LABEL: &str = "app.oam.dev/name";

/// Label KubeVela puts on its trackers; the value is the Application's namespace.
const NAMESPACE_LABEL: &str = "app.oam.dev/namespace";

/// What Applications left behind, as it was found.
#[derive(Debug)]
pub struct LeftBehind {
    /// Objects that they created.
    objects: Vec<Orphan>,
    /// KubeVela's ResourceTrackers; not looked for while one of the objects is there.
    trackers: Vec<DynamicObject>,
    tracker_api: Api<DynamicObject>,
}

/// What of it was still there, by name.
#[derive(Debug, Default)]
pub struct Left {
    /// Objects that Applications created, `<Kind>/<name>`.
    pub objects: Vec<String>,
    /// KubeVela's ResourceTrackers.
    pub trackers: Vec<String>,
}

/// Finds what the Applications of a namespace left behind, or the one of this name. The objects come first: while one of them
/// is there, the trackers that name it stay.
///
/// Call it only when the Applications are gone: the tracker of one that exists is KubeVela's.
///
/// # Errors
/// When a call fails.
pub async fn find(
    client: &Client,
    deployer: &Client,
    namespace: &str,
    application: Option<&str>,
) -> Result<LeftBehind, Error> {
    let selector = application.map_or_else(|| NAME_LABEL.to_owned(), |name| format!("{NAME_LABEL}={name}"));
    let tracker_api = kinds::resource_trackers(client);
    let objects = find_objects(deployer, namespace, &selector).await?;
    let trackers = if objects.is_empty() {
        kinds::list_if_served(&tracker_api, &format!("{selector},{NAMESPACE_LABEL}={namespace}")).await?
    } else {
        Vec::new()
    };
    Ok(LeftBehind { objects, trackers, tracker_api })
}

impl LeftBehind {
    /// Nothing was left behind.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.trackers.is_empty()
    }

    /// Deletes it, exactly as it was found. Ask before whether that is still wanted: an Application that is written again from then on
    /// creates other objects, or makes these its own, which is a write.
    ///
    /// # Errors
    /// When a call fails.
    pub async fn delete(self) -> Result<Left, Error> {
        for (_, api, object) in &self.objects {
            if let (Some(uid), true) = (object.uid(), object.metadata.deletion_timestamp.is_none()) {
                let version = object.resource_version();
                match verbs::delete_exact(api, &object.name_any(), &uid, version.as_deref()).await {
                    Err(error) if error.is_conflict() => {}
                    deleted => drop(deleted?),
                }
            }
        }
        let objects = self.objects.iter().map(|(kind, _, object)| format!("{kind}/{}", object.name_any())).collect();
        Ok(Left { objects, trackers: delete_trackers(&self.tracker_api, self.trackers).await? })
    }
}

/// Deletes ResourceTrackers, with KubeVela's finalizer, and returns those that are still there.
async fn delete_trackers(api: &Api<DynamicObject>, found: Vec<DynamicObject>) -> Result<Vec<String>, Error> {
    let mut left = Vec::new();
    for mut tracker in found {
        let name = tracker.name_any();
        let uid = tracker.uid().unwrap_or_default();
        tracing::warn!(
            tracker.name = name,
            "deleting a ResourceTracker of an application that is gone: KubeVela has left it behind"
        );
        tracker.finalizers_mut().retain(|finalizer| finalizer != TRACKER_FINALIZER);
        match verbs::replace(api, &tracker).await {
            Err(error) if error.is_conflict() => left.push(name),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
            Ok(_) => match verbs::delete_exact(api, &name, &uid, None).await? {
                verbs::Deleted::Gone => {}
                verbs::Deleted::Terminating => left.push(name),
            },
        }
    }
    Ok(left)
}

/// An object with its kind, and where it is deleted.
type Orphan = (&'static str, Api<DynamicObject>, DynamicObject);

/// What matches the selector. A kind that the deployer may not list counts as absent: it could not have created one either.
async fn find_objects(deployer: &Client, namespace: &str, selector: &str) -> Result<Vec<Orphan>, Error> {
    let mut found = Vec::new();
    for (group, version, kind) in KINDS {
        let api = kinds::namespaced(deployer, group, version, kind, namespace);
        let objects = match kinds::list_if_served(&api, selector).await {
            Err(error) if error.is_forbidden() => continue,
            listed => listed?,
        };
        found.extend(objects.into_iter().map(|object| (kind, api.clone(), object)));
    }
    Ok(found)
}
