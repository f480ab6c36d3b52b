//! Being told of changes. A watch only makes work sooner: whoever uses one also looks on a timer.

use super::verbs::{self, Object};
use futures::{Stream, StreamExt as _, future};
use kube::{
    Api,
    runtime::{WatchStreamExt as _, watcher},
};

/// Objects as they appear, change and vanish, for ever: a broken watch is taken up again with growing pauses.
pub fn changes<K>(api: Api<K>, label_selector: &str) -> impl Stream<Item = K> + Send
where
    K: Object + Send + Sync + 'static,
    K::DynamicType: Clone,
{
    let kind = verbs::kind_of(&api);
    let config = watcher::Config::default().labels(label_selector);
    watcher(api, config).default_backoff().touched_objects().filter_map(move |event| {
        future::ready(match event {
            Ok(object) => Some(object),
            Err(error) => {
                tracing::debug!(kind, error = %error, "a watch broke; taking it up again");
                None
            }
        })
    })
}
