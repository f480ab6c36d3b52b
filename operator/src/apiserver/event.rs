//! Events: the same words as in conditions, where `kubectl describe` shows them. One that cannot be written is lost; it
//! never holds up work.

use super::client::Apiserver;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

/// Which kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something went well.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Longest note the API server takes.
const NOTE_BYTES_MAX: usize = 1024;

/// Publishes an event about an object.
pub async fn publish(apiserver: &Apiserver, kind: Kind, reason: &str, message: &str, about: ObjectReference) {
    let reporter = Reporter { controller: "kubenova-operator".to_owned(), instance: None };
    let recorder = Recorder::new(apiserver.client(), reporter);
    let note: String = message.chars().take(NOTE_BYTES_MAX / 4).collect();
    let event = Event {
        type_: match kind {
            Kind::Normal => EventType::Normal,
            Kind::Warning => EventType::Warning,
        },
        reason: reason.to_owned(),
        note: Some(note),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&event, &about).await {
        tracing::debug!(%error, reason, "could not write an event");
    }
}
