//! Events: the messages of conditions, where `kubectl describe` shows them. One that cannot be written is lost; it
//! never holds up work.

use super::{
    client::Apiserver,
    error::{Error, Verb},
    event_series::EventKey,
    verbs,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Resource as _,
    api::{ObjectMeta, Patch, PatchParams},
};
use kubenova_crds::{
    FIELD_MANAGER,
    cluster_config::{NAME, NovaClusterConfig},
};
use kubenova_runtime::clock;
use serde_json::json;

/// Which kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something went well.
    Normal,
    /// It needs attention.
    Warning,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Who publishes.
const CONTROLLER: &str = "kubenova-operator";
/// Longest note the API server takes.
const NOTE_BYTES_MAX: usize = 1024;
/// Of a longer message, bytes that are kept of its end: the remedy.
const REMEDY_BYTES: usize = 400;
/// What stands in the place of the middle of a longer message.
const LEFT_OUT: &str = " [...] ";
/// Longest part of an event's name that is the object's: names end at 253, and a time follows.
const NAME_BYTES_MAX: usize = 200;
/// Where events about objects without a namespace are.
const DEFAULT_NAMESPACE: &str = "default";

/// Publishes an event about an object. `kubectl describe` shows it with the object that has the reference's UID.
pub async fn publish(apiserver: &Apiserver, kind: Kind, reason: &str, message: &str, about: ObjectReference) {
    if let Err(error) = write(apiserver, kind, reason, &note_of(message), about).await {
        tracing::debug!(error = %error.reason(), reason, "could not write an event");
    }
}

/// Publishes an event about the cluster's configuration, as it is there now.
pub async fn publish_about_cluster(apiserver: &Apiserver, kind: Kind, reason: &str, message: &str) {
    let configs: Api<NovaClusterConfig> = Api::all(apiserver.client());
    match verbs::get(&configs, NAME).await {
        Ok(Some(config)) => publish(apiserver, kind, reason, message, config.object_ref(&())).await,
        Ok(None) => {}
        Err(error) => tracing::debug!(error = %error.reason(), reason, "could not write an event"),
    }
}

async fn write(
    apiserver: &Apiserver,
    kind: Kind,
    reason: &str,
    note: &str,
    about: ObjectReference,
) -> Result<(), Error> {
    let now = clock::now();
    let namespace = about.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let events: Api<Event> = Api::namespaced(apiserver.client(), namespace);
    let key = EventKey {
        about: [&about.kind, &about.namespace, &about.name, &about.uid].map(|part| part.clone().unwrap_or_default()),
        kind: kind.as_str(),
        reason: reason.to_owned(),
        note: note.to_owned(),
    };
    if let Some((name, count)) = apiserver.event_series().again(&key, now) {
        let series = json!({ "series": { "count": count, "lastObservedTime": MicroTime(now) } });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patched = events.patch(&name, &params, &Patch::Merge(&series)).await;
        match patched.map_err(|source| Error::new(Verb::Apply, "events", &name, source)) {
            // The API server keeps events for an hour.
            Err(error) if error.is_not_found() => {}
            patched => return patched.map(drop),
        }
    }
    let name = name_of(about.name.as_deref().unwrap_or_default(), now);
    verbs::create(&events, &event(&name, kind, reason, note, about, now)).await?;
    apiserver.event_series().began(key, name, now);
    Ok(())
}

fn event(name: &str, kind: Kind, reason: &str, note: &str, about: ObjectReference, now: Timestamp) -> Event {
    let namespace = about.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    Event {
        metadata: ObjectMeta { name: Some(name.to_owned()), namespace: Some(namespace), ..ObjectMeta::default() },
        event_time: Some(MicroTime(now)),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(CONTROLLER.to_owned()),
        action: Some("Reconcile".to_owned()),
        reason: Some(reason.to_owned()),
        type_: Some(kind.as_str().to_owned()),
        note: Some(note.to_owned()),
        regarding: Some(about),
        ..Event::default()
    }
}

fn name_of(object: &str, now: Timestamp) -> String {
    let begin = &object[..object.floor_char_boundary(NAME_BYTES_MAX)];
    format!("{}.{:x}", begin.trim_end_matches(['.', '-']), now.as_nanosecond())
}

/// As much of a message as the API server takes. Messages end with the remedy, so of a longer one the middle is left out.
fn note_of(message: &str) -> String {
    if message.len() <= NOTE_BYTES_MAX {
        return message.to_owned();
    }
    let end = &message[message.ceil_char_boundary(message.len() - REMEDY_BYTES)..];
    let begin = &message[..message.floor_char_boundary(NOTE_BYTES_MAX - LEFT_OUT.len() - end.len())];
    format!("{begin}{LEFT_OUT}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_in_the_middle_at_the_limit_of_the_api_server_and_never_inside_a_character() {
        let message = "x".repeat(NOTE_BYTES_MAX);
        assert_eq!(note_of(&message), message);
        let remedy = "; do what is to be done";
        for filler in ["x", "é", "한"] {
            for length in 1_000..1_030 {
                let note = note_of(&format!("the cause{}{remedy}", filler.repeat(length)));
                assert!(note.len() <= NOTE_BYTES_MAX && note.len() > NOTE_BYTES_MAX - 8, "{}", note.len());
                assert!(note.starts_with("the cause") && note.ends_with(remedy), "{note}");
            }
        }
    }

    #[test]
    fn the_name_of_an_event_is_one_that_the_api_server_takes() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        assert_eq!(name_of("acme", now), "acme.18fae27693b40000");
        let long = format!("{}.{}", "a".repeat(NAME_BYTES_MAX - 1), "b".repeat(50));
        assert_eq!(name_of(&long, now), format!("{}.18fae27693b40000", "a".repeat(NAME_BYTES_MAX - 1)));
    }
}
