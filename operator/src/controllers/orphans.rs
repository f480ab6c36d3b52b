//! What a deleted Application left behind.
//!
//! - Objects that it created: a `garbage-collect` policy can tell KubeVela to leave them. Found by KubeVela's label and by what the
//!   record of the delete says, deleted as the tenant's deployer.
//! - Pods: KubeVela deletes a Job without saying what becomes of its pods, and the API server then has them run on. Those of other
//!   workloads are waited for.
//! - Claims of StatefulSets, which Kubernetes keeps.
//! - KubeVela's ResourceTrackers of it. KubeVela looks at them only while their Application exists, and it lets an Application
//!   go when its informer shows no tracker: after a restart of the API server that may be one moment too early, and what the
//!   tracker names stays with it for ever.

use crate::apiserver::{Error, kinds, verbs};
use k8s_openapi::{api::apps::v1::StatefulSet, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, ResourceExt as _, core::DynamicObject};
use kubenova_operator_core::application::made::{self, ClaimTemplate, Made, MadeObject, Workload};
use std::collections::BTreeSet;

/// Kinds the deployer may create: group, version, kind. Owners first, so that nothing is made again.
const KINDS: [(&str, &str, &str); 11] = [
    ("apps", "v1", "Deployment"),
    ("apps", "v1", "StatefulSet"),
    ("apps", "v1", "DaemonSet"),
    ("batch", "v1", "CronJob"),
    ("batch", "v1", "Job"),
    ("autoscaling", "v2", "HorizontalPodAutoscaler"),
    ("policy", "v1", "PodDisruptionBudget"),
    ("networking.k8s.io", "v1", "Ingress"),
    ("", "v1", "Service"),
    ("", "v1", "ConfigMap"),
    ("", "v1", "PersistentVolumeClaim"),
];

/// Names in one sentence: it is shown whole in tables.
const NAMED_MAX: usize = 10;

/// Finalizer of KubeVela's trackers.
const TRACKER_FINALIZER: &str = "resourcetracker.core.oam.dev/finalizer";

/// Label KubeVela puts on what it creates; the value is the Application's name.
pub const NAME_LABEL: &str = "app.oam.dev/name";

/// Label KubeVela puts on its trackers; the value is the Application's namespace.
const NAMESPACE_LABEL: &str = "app.oam.dev/namespace";

/// What Applications left behind, as it was found.
#[derive(Debug)]
pub struct LeftBehind {
    /// What is to be deleted.
    objects: Vec<Orphan>,
    /// Names of pods that go by themselves.
    going: Vec<String>,
    /// KubeVela's ResourceTrackers; not looked for while anything else is there.
    trackers: Vec<DynamicObject>,
    tracker_api: Api<DynamicObject>,
}

/// What of it was still there, by name.
#[derive(Debug, Default)]
pub struct Left {
    /// Objects that Applications created, and pods that nothing else deletes, `<Kind>/<name>`.
    pub objects: Vec<String>,
    /// Pods that go by themselves.
    pub going: Vec<String>,
    /// KubeVela's ResourceTrackers.
    pub trackers: Vec<String>,
}

impl Left {
    /// What is waited for: a reason and a sentence. None when nothing is left.
    #[must_use]
    pub fn waited_for(&self) -> Option<(&'static str, String)> {
        if !self.objects.is_empty() {
            return Some((
                "OrphansRemain",
                format!("deleting what the application left behind: {}", few(&self.objects)),
            ));
        }
        if !self.going.is_empty() {
            let message =
                format!("waiting for pods to end: {}; if their node is gone, delete the Node", few(&self.going));
            return Some(("OrphansRemain", message));
        }
        let trackers = Some(&self.trackers).filter(|trackers| !trackers.is_empty())?;
        Some(("TrackersRemain", format!("deleting KubeVela's ResourceTrackers: {}", few(trackers))))
    }
}

/// The first names, and how many more there are.
fn few(names: &[String]) -> String {
    match names.len().saturating_sub(NAMED_MAX) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..NAMED_MAX].join(", ")),
    }
}

/// An Application that is gone, and what was remembered of it.
#[derive(Debug, Clone, Copy)]
pub struct GoneApplication<'a> {
    pub name: &'a str,
    pub made: &'a Made,
}

impl GoneApplication<'_> {
    /// Whether an object that has the name of one of its own is another Application's: by KubeVela's label, or, without the label, because
    /// it was created later.
    fn is_of_another(&self, object: &ObjectMeta) -> bool {
        match application_of(object) {
            Some(application) => application != self.name,
            None => !self.made.is_old_enough(object),
        }
    }
}

/// Finds what the Applications of a namespace left behind, or this one. The objects come first: while one of them is there, the
/// trackers that name it stay. Pods and StatefulSets' claims are looked for only of one Application: those of all of them go with
/// the namespace.
///
/// Call it only when the Applications are gone: the tracker of one that exists is KubeVela's.
///
/// # Errors
/// When a call fails.
pub async fn find(
    client: &Client,
    deployer: &Client,
    namespace: &str,
    application: Option<GoneApplication<'_>>,
) -> Result<LeftBehind, Error> {
    let selector = application.map_or_else(|| NAME_LABEL.to_owned(), |gone| format!("{NAME_LABEL}={}", gone.name));
    let (mut objects, mut going) = (find_labelled(deployer, namespace, &selector).await?, Vec::new());
    if let (Some(gone), true) = (application, objects.is_empty()) {
        let sought = Sought { client, deployer, namespace, gone };
        (objects, going) = sought.find().await?;
    }
    let tracker_api = kinds::resource_trackers(client);
    let trackers = if objects.is_empty() && going.is_empty() {
        kinds::list_if_served(&tracker_api, &format!("{selector},{NAMESPACE_LABEL}={namespace}")).await?
    } else {
        Vec::new()
    };
    Ok(LeftBehind { objects, going, trackers, tracker_api })
}

impl LeftBehind {
    /// Nothing was left behind.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.going.is_empty() && self.trackers.is_empty()
    }

    /// Deletes it, exactly as it was found. Ask before whether that is still wanted: an Application that is written again from then on
    /// creates other objects, or makes these its own, which is a write.
    ///
    /// # Errors
    /// When a call fails.
    pub async fn delete(self) -> Result<Left, Error> {
        for Orphan { api, metadata, .. } in &self.objects {
            if let (Some(name), Some(uid), None) = (&metadata.name, &metadata.uid, &metadata.deletion_timestamp) {
                match verbs::delete_exact(api, name, uid, metadata.resource_version.as_deref()).await {
                    Err(error) if error.is_conflict() => {}
                    deleted => drop(deleted?),
                }
            }
        }
        let objects = self.objects.iter().map(Orphan::to_string).collect();
        let trackers = delete_trackers(&self.tracker_api, self.trackers).await?;
        Ok(Left { objects, going: self.going, trackers })
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

/// An object that was left, and where it is deleted.
#[derive(Debug)]
struct Orphan {
    kind: &'static str,
    api: Api<DynamicObject>,
    metadata: ObjectMeta,
}

impl std::fmt::Display for Orphan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind, self.metadata.name.as_deref().unwrap_or_default())
    }
}

/// What matches the selector. A kind that the deployer may not list counts as absent: it could not have created one either.
async fn find_labelled(deployer: &Client, namespace: &str, selector: &str) -> Result<Vec<Orphan>, Error> {
    let mut found = Vec::new();
    for (group, version, kind) in KINDS {
        let api = kinds::namespaced(deployer, group, version, kind, namespace);
        let objects = match verbs::list_metadata(&api, selector).await {
            Err(error) if error.is_forbidden() => continue,
            listed => listed?,
        };
        found.extend(objects.into_iter().map(|metadata| Orphan { kind, api: api.clone(), metadata }));
    }
    Ok(found)
}

/// What the label does not find of one Application.
struct Sought<'a> {
    client: &'a Client,
    deployer: &'a Client,
    namespace: &'a str,
    gone: GoneApplication<'a>,
}

impl<'a> Sought<'a> {
    /// What is to be deleted, and the pods that go by themselves.
    async fn find(&self) -> Result<(Vec<Orphan>, Vec<String>), Error> {
        let (mut left, others) = self.remembered().await?;
        let going = self.pods(&others, &mut left).await?;
        if left.is_empty() && going.is_empty() {
            left = self.claims().await?;
        }
        Ok((left, going))
    }

    /// What was remembered and is still there, and what has its name and is another Application's by now.
    async fn remembered(&self) -> Result<(Vec<Orphan>, BTreeSet<Workload<'a>>), Error> {
        let (mut left, mut others) = (Vec::new(), BTreeSet::new());
        for MadeObject { kind, name } in &self.gone.made.objects {
            let Some((group, version, kind)) = KINDS.into_iter().find(|(_, _, known)| known == kind) else { continue };
            let api = kinds::namespaced(self.deployer, group, version, kind, self.namespace);
            match verbs::get_metadata(&api, name).await? {
                Some(metadata) if self.gone.is_of_another(&metadata) => {
                    others.insert(Workload { kind, name });
                }
                Some(metadata) => left.push(Orphan { kind, api, metadata }),
                None => {}
            }
        }
        Ok((left, others))
    }

    /// Adds the pods that nothing else deletes; returns the others.
    async fn pods(&self, others: &BTreeSet<Workload<'_>>, left: &mut Vec<Orphan>) -> Result<Vec<String>, Error> {
        let (kind, mut going) = ("Pod", Vec::new());
        let api = kinds::namespaced(self.deployer, "", "v1", kind, self.namespace);
        for metadata in verbs::list_metadata(&api, "").await? {
            let is_made = self.gone.made.has_pod(&metadata);
            if self.gone.is_of_another(&metadata) || !(is_made || self.is_labelled(&metadata)) {
                continue;
            }
            let is_of_others = Workload::of(&metadata).is_some_and(|workload| others.contains(&workload));
            let orphan = Orphan { kind, api: api.clone(), metadata };
            if orphan.metadata.deletion_timestamp.is_some() {
                going.extend(orphan.metadata.name);
            } else if !made::has_controller(&orphan.metadata) {
                left.push(orphan);
            } else if is_made && !is_of_others {
                going.extend(orphan.metadata.name);
            }
        }
        Ok(going)
    }

    /// Claims of its StatefulSets, but those of a StatefulSet that is there: it is another Application's.
    async fn claims(&self) -> Result<Vec<Orphan>, Error> {
        if self.gone.made.claim_templates.is_empty() {
            return Ok(Vec::new());
        }
        let sets: Api<StatefulSet> = Api::namespaced(self.client.clone(), self.namespace);
        let used: Vec<ClaimTemplate> = verbs::list(&sets, "").await?.iter().flat_map(ClaimTemplate::of).collect();
        let kind = "PersistentVolumeClaim";
        let api = kinds::namespaced(self.deployer, "", "v1", kind, self.namespace);
        let is_left = |metadata: &ObjectMeta| {
            let name = metadata.name.as_deref().unwrap_or_default();
            let is_named = |templates: &[ClaimTemplate]| templates.iter().any(|template| template.names(name));
            is_named(&self.gone.made.claim_templates) && !is_named(&used) && !self.gone.is_of_another(metadata)
        };
        let found = verbs::list_metadata(&api, "").await?.into_iter().filter(is_left);
        Ok(found.map(|metadata| Orphan { kind, api: api.clone(), metadata }).collect())
    }

    fn is_labelled(&self, metadata: &ObjectMeta) -> bool {
        application_of(metadata) == Some(self.gone.name)
    }
}

fn application_of(metadata: &ObjectMeta) -> Option<&str> {
    metadata.labels.as_ref().and_then(|labels| labels.get(NAME_LABEL)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_that_another_application_made_later_is_left_alone() {
        let made = Made { gone_at: Some("2026-01-01T00:00:10Z".parse().unwrap()), ..Made::default() };
        let gone = GoneApplication { name: "shop", made: &made };
        let claim = |second: u32, application: Option<&str>| -> ObjectMeta {
            let labels = application.map(|name| json!({ NAME_LABEL: name }));
            let created = format!("2026-01-01T00:00:{second}Z");
            serde_json::from_value(json!({"name": "data-db-0", "creationTimestamp": created, "labels": labels}))
                .unwrap()
        };
        assert!(gone.is_of_another(&claim(11, None)), "created later");
        assert!(!gone.is_of_another(&claim(10, None)));
        assert!(gone.is_of_another(&claim(10, Some("cart"))));
        assert!(!gone.is_of_another(&claim(11, Some("shop"))), "by its label");
    }

    #[test]
    fn pods_that_end_by_themselves_are_waited_for_and_few_names_are_enough() {
        let names = |count: usize| (0..count).map(|number| format!("p{number}")).collect::<Vec<_>>();
        let of = |left: Left| left.waited_for().map(|(_, message)| message).unwrap_or_default();
        let going = |count: usize| of(Left { going: names(count), ..Left::default() });
        assert_eq!(going(2), "waiting for pods to end: p0, p1; if their node is gone, delete the Node");
        assert!(going(10).contains("p8, p9;"), "{}", going(10));
        assert!(going(13).contains("p8, p9 and 3 more;"), "{}", going(13));
        let both = of(Left { objects: names(12), going: names(1), ..Left::default() });
        assert!(
            both.starts_with("deleting what the application left behind: p0, p1") && both.ends_with("p9 and 2 more")
        );
        let trackers = Left { trackers: names(1), ..Left::default() };
        assert_eq!(trackers.waited_for().map(|(reason, _)| reason), Some("TrackersRemain"));
        assert_eq!(Left::default().waited_for(), None);
    }
}
