//! Watches that only make work sooner: whoever uses one also looks at its objects on a timer.

use super::verbs::{self, Object};
use futures::{Stream, StreamExt as _, future};
use kube::{
    Api,
    core::{ApiResource, DynamicObject},
    runtime::{WatchStreamExt as _, watcher},
};

/// Objects as they are created, changed and deleted, without end. An object that cannot be decoded is skipped; a broken
/// watch is opened again after growing waits.
pub fn changes<K>(api: Api<K>, label_selector: &str) -> impl Stream<Item = K> + Send + use<K>
where
    K: Object<DynamicType = ()> + Send + Sync + 'static,
{
    dynamic(untyped(api), label_selector).filter_map(|object| future::ready(typed(object)))
}

/// The same with the beginning and the end of each list, for a cache.
pub(super) fn events<K>(
    api: Api<K>,
    label_selector: &str,
) -> impl Stream<Item = watcher::Event<DynamicObject>> + Send + use<K>
where
    K: Object<DynamicType = ()> + Send + Sync + 'static,
{
    let api = untyped(api);
    let kind = verbs::kind_of(&api);
    watcher(api, config(label_selector))
        .default_backoff()
        .filter_map(move |event| future::ready(unbroken(&kind, event)))
}

/// Decoded one by one: a watch of typed objects breaks, and breaks again, at the first one that cannot be decoded.
fn untyped<K>(api: Api<K>) -> Api<DynamicObject>
where
    K: Object<DynamicType = ()>,
{
    let resource = ApiResource::erase::<K>(&());
    let namespace = api.namespace().map(str::to_owned);
    let client = api.into_client();
    match namespace {
        Some(namespace) => Api::namespaced_with(client, &namespace, &resource),
        None => Api::all_with(client, &resource),
    }
}

fn config(label_selector: &str) -> watcher::Config {
    watcher::Config::default().labels(label_selector).page_size(verbs::PAGE)
}

/// The same for objects of a kind that is known only at run time.
pub fn dynamic(api: Api<DynamicObject>, label_selector: &str) -> impl Stream<Item = DynamicObject> + Send + use<> {
    let kind = verbs::kind_of(&api);
    watcher(api, config(label_selector))
        .default_backoff()
        .touched_objects()
        .filter_map(move |event| future::ready(unbroken(&kind, event)))
}

fn unbroken<T>(kind: &str, event: watcher::Result<T>) -> Option<T> {
    event.inspect_err(|error| tracing::debug!(kind, %error, "a watch broke; opening it again")).ok()
}

pub(super) fn typed<K: Object>(object: DynamicObject) -> Option<K> {
    let metadata = object.metadata.clone();
    object.try_parse().inspect_err(|error| verbs::log_skipped(&metadata, &error.to_string())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_crds::cluster_config::NovaClusterConfig;
    use serde_json::json;

    #[test]
    fn a_watched_object_that_cannot_be_decoded_is_skipped() {
        let config = |replicas: u64| -> DynamicObject {
            let config = json!({
                "apiVersion": "kubenova.io/v1alpha1",
                "kind": "NovaClusterConfig",
                "metadata": {"name": "default"},
                "spec": {"components": {"capsule": {"replicas": replicas}}}
            });
            serde_json::from_value(config).unwrap()
        };
        assert!(typed::<NovaClusterConfig>(config(5_000_000_000)).is_none());
        assert!(typed::<NovaClusterConfig>(config(2)).is_some());
    }
}
