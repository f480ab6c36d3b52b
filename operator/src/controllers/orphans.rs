//! Orphans: objects that a deleted Application left behind, which a `garbage-collect` policy can tell KubeVela to do.
//! Found by KubeVela's label, deleted as the tenant's deployer.

use crate::apiserver::{Error, kinds, verbs};
use kube::{Client, ResourceExt as _};

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

/// Label KubeVela puts on what it creates; the value is the Application's name.
pub const NAME_LABEL: &str = "app.oam.dev/name";

/// Deletes what matches the selector and returns what was still there, `<Kind>/<name>`. A kind that the deployer may not
/// list counts as absent: it could not have created one either.
///
/// # Errors
/// When a call fails for another reason.
pub async fn delete_orphans(deployer: &Client, namespace: &str, selector: &str) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for (group, version, kind) in KINDS {
        let api = kinds::namespaced(deployer, group, version, kind, namespace);
        let objects = match kinds::list_if_served(&api, selector).await {
            Err(error) if error.is_forbidden() => continue,
            listed => listed?,
        };
        for object in objects {
            let name = object.name_any();
            if let (Some(uid), true) = (object.uid(), object.metadata.deletion_timestamp.is_none()) {
                match verbs::delete_exact(&api, &name, &uid, None).await {
                    Err(error) if error.is_conflict() => {}
                    deleted => drop(deleted?),
                }
            }
            found.push(format!("{kind}/{name}"));
        }
    }
    Ok(found)
}
