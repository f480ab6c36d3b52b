//! What is metered, listed and watched as exactly as the API server can: lists at an exact resourceVersion, watches from
//! it, quorum reads that tell which version a watch must have reached.
//!
//! Unlike [`super::watch`] nothing is hidden: a compacted history is [`Listed::Gone`] or [`SourceEvent::Gone`], an absent
//! kind [`Listed::NotInstalled`], and the caller decides what that means for the meter.

use super::{
    error::{Error, Verb},
    verbs,
};
use futures::{Stream, StreamExt as _, stream::BoxStream};
use k8s_openapi::{
    api::core::v1::{Namespace, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource as _,
    api::{ListParams, VersionMatch, WatchEvent, WatchParams},
    core::{ApiResource, DeserializeGuard, DynamicObject, GroupVersionKind, ObjectList, PartialObjectMeta},
};
use kubenova_operator_core::metering::{
    counted,
    engine::{Change, Listing},
    observed::{Observation, Source},
};

/// Objects in one page of a list.
const PAGE: u32 = 500;
/// Seconds after which the server ends a watch; it is opened again from where it was.
const WATCH_SECONDS: u32 = 290;

/// A complete list, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// The objects, with the list's version.
    Objects(Listing),
    /// The API server no longer (or not yet) knows that version.
    Gone,
    /// The kind is not installed.
    NotInstalled,
}

/// One event of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceEvent {
    /// A change, or a bookmark.
    Change(Box<Change>),
    /// The version to continue from was compacted: list again.
    Gone,
}

fn applications(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("core.oam.dev", "v1beta1", "Application");
    Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&kind, "applications"))
}

fn namespaces(client: &Client) -> Api<Namespace> {
    Api::all(client.clone())
}

fn pods(client: &Client) -> Api<DeserializeGuard<Pod>> {
    Api::all(client.clone())
}

/// Lists a source completely: at exactly this version, or as it is now by a quorum read.
pub async fn list(client: &Client, source: Source, exactly: Option<u64>) -> Result<Listed, Error> {
    let mut params = ListParams::default().limit(PAGE);
    if let Some(version) = exactly {
        params = params.at(&version.to_string()).matching(VersionMatch::Exact);
    }
    let mut listing = Listing::default();
    loop {
        let page = match source {
            Source::Namespaces => page(namespaces(client).list_metadata(&params).await, |object| {
                Some(counted::namespace(&object.metadata))
            }),
            Source::Pods => page(pods(client).list(&params).await, pod),
            Source::Applications => page(applications(client).list_metadata(&params).await, |object| {
                Some(counted::application(&object.metadata))
            }),
        };
        let page = match page {
            Ok(page) => page,
            Err(error) if is_gone(&error) => return Ok(Listed::Gone),
            Err(error) if is_absent(&error) => return Ok(Listed::NotInstalled),
            Err(error) => return Err(Error::new(Verb::List, source.as_str(), "", error)),
        };
        listing.position = listing.position.or(page.version);
        listing.observations.extend(page.observations);
        match page.next {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(Listed::Objects(listing)),
        }
    }
}

/// The newest version of a source, by a quorum read; none when the kind is not installed.
pub async fn head(client: &Client, source: Source) -> Result<Option<u64>, Error> {
    Ok(versions_page(client, source, &ListParams::default().limit(1))
        .await?
        .map(|page| page.version.unwrap_or_default()))
}

/// UID and version of every object of a source, by a quorum read; none when the kind is not installed.
pub async fn versions(client: &Client, source: Source) -> Result<Option<Vec<(String, u64)>>, Error> {
    let mut params = ListParams::default().limit(PAGE);
    let mut versions = Vec::new();
    loop {
        let Some(page) = versions_page(client, source, &params).await? else { return Ok(None) };
        versions
            .extend(page.observations.into_iter().map(|observation| (observation.uid, observation.resource_version)));
        match page.next {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(Some(versions)),
        }
    }
}

async fn versions_page(client: &Client, source: Source, params: &ListParams) -> Result<Option<Page>, Error> {
    let page = match source {
        Source::Namespaces => {
            page(namespaces(client).list_metadata(params).await, |object| Some(counted::application(&object.metadata)))
        }
        Source::Pods => page(Api::<Pod>::all(client.clone()).list_metadata(params).await, |object| {
            Some(counted::application(&object.metadata))
        }),
        Source::Applications => page(applications(client).list_metadata(params).await, |object| {
            Some(counted::application(&object.metadata))
        }),
    };
    match page {
        Ok(page) => Ok(Some(page)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(Error::new(Verb::List, source.as_str(), "", error)),
    }
}

/// Watches a source from a version, with bookmarks. The stream ends when the server ends it: open it again from the last
/// version received.
pub async fn watch(
    client: &Client,
    source: Source,
    from: u64,
) -> Result<BoxStream<'static, Result<SourceEvent, Error>>, Error> {
    let params = WatchParams::default().timeout(WATCH_SECONDS);
    let from = from.to_string();
    let opened = match source {
        Source::Namespaces => namespaces(client).watch_metadata(&params, &from).await.map(|events| {
            events_of(source, events, |object: &PartialObjectMeta<Namespace>| {
                Some(counted::namespace(&object.metadata))
            })
        }),
        Source::Pods => pods(client).watch(&params, &from).await.map(|events| events_of(source, events, pod)),
        Source::Applications => applications(client).watch_metadata(&params, &from).await.map(|events| {
            events_of(source, events, |object: &PartialObjectMeta<DynamicObject>| {
                Some(counted::application(&object.metadata))
            })
        }),
    };
    match opened {
        Ok(stream) => Ok(stream),
        Err(error) if is_gone(&error) => Ok(futures::stream::once(async { Ok(SourceEvent::Gone) }).boxed()),
        Err(error) => Err(Error::new(Verb::List, source.as_str(), "", error)),
    }
}

fn events_of<K: HasMetadata + Send + 'static>(
    source: Source,
    events: impl Stream<Item = kube::Result<WatchEvent<K>>> + Send + 'static,
    observe: impl Fn(&K) -> Option<Observation> + Send + Sync + 'static,
) -> BoxStream<'static, Result<SourceEvent, Error>> {
    events
        .filter_map(move |event| {
            let event = match event {
                Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    observe(&object).map(|observation| Ok(change(Change::Put(observation))))
                }
                Ok(WatchEvent::Deleted(object)) => Some(Ok(change(Change::Removed {
                    uid: object.metadata().uid.clone().unwrap_or_default(),
                    resource_version: counted::resource_version(object.metadata()),
                }))),
                Ok(WatchEvent::Bookmark(bookmark)) => {
                    bookmark.metadata.resource_version.parse().ok().map(|version| Ok(change(Change::Bookmark(version))))
                }
                Ok(WatchEvent::Error(status)) => Some(match kube::Error::Api(status) {
                    error if is_gone(&error) => Ok(SourceEvent::Gone),
                    error => Err(Error::new(Verb::List, source.as_str(), "", error)),
                }),
                Err(error) if is_gone(&error) => Some(Ok(SourceEvent::Gone)),
                Err(error) => Some(Err(Error::new(Verb::List, source.as_str(), "", error))),
            };
            futures::future::ready(event)
        })
        .boxed()
}

fn change(change: Change) -> SourceEvent {
    SourceEvent::Change(Box::new(change))
}

fn pod(pod: &DeserializeGuard<Pod>) -> Option<Observation> {
    let pod = pod.0.as_ref().inspect_err(|invalid| verbs::log_skipped(&invalid.metadata, &invalid.error)).ok()?;
    match counted::pod(pod) {
        Ok(observation) => Some(observation),
        Err(error) => {
            tracing::error!(%error, "a pod is not metered: its requests cannot be read; please report this");
            None
        }
    }
}

/// Objects whose metadata can be read without knowing their kind.
trait HasMetadata {
    fn metadata(&self) -> &ObjectMeta;
}

impl HasMetadata for DeserializeGuard<Pod> {
    fn metadata(&self) -> &ObjectMeta {
        self.meta()
    }
}

impl<K> HasMetadata for PartialObjectMeta<K>
where
    K: kube::Resource,
{
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

struct Page {
    observations: Vec<Observation>,
    version: Option<u64>,
    next: Option<String>,
}

fn page<K: Clone>(
    listed: kube::Result<ObjectList<K>>,
    observe: impl Fn(&K) -> Option<Observation>,
) -> kube::Result<Page> {
    let list = listed?;
    Ok(Page {
        observations: list.items.iter().filter_map(observe).collect(),
        version: list.metadata.resource_version.as_deref().and_then(|text| text.parse().ok()),
        next: list.metadata.continue_.filter(|token| !token.is_empty()),
    })
}

/// 410: compacted. A version the server has not reached (etcd was restored) is answered as a timeout with its own message.
fn is_gone(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => {
            status.code == 410 || (status.code == 504 && status.message.contains("Too large resource version"))
        }
        _ => false,
    }
}

fn is_absent(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}
