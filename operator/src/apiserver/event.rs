//! Events: the messages of conditions, where `kubectl describe` shows them. One that cannot be written is lost; it
//! never holds up work.

use super::client::Apiserver;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

/// Which kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something went well.
    Normal,
    /// It needs attention.
    Warning,
}

/// Longest note the API server takes.
const NOTE_BYTES_MAX: usize = 1024;

/// Publishes an event about an object.
pub async fn publish(apiserver: &Apiserver, kind: Kind, reason: &str, message: &str, about: ObjectReference) {
    let reporter = Reporter { controller: "kubenova-operator".to_owned(), instance: None };
    let recorder = Recorder::new(apiserver.client(), reporter);
    let event = Event {
        type_: match kind {
            Kind::Normal => EventType::Normal,
            Kind::Warning => EventType::Warning,
        },
        reason: reason.to_owned(),
        note: Some(note_of(message).to_owned()),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&event, &about).await {
        tracing::debug!(%error, reason, "could not write an event");
    }
}

/// As much of a message as the API server takes. Messages end with the remedy, so nothing is cut before the limit.
fn note_of(message: &str) -> &str {
    &message[..message.floor_char_boundary(NOTE_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_at_the_limit_of_the_api_server_and_never_inside_a_character() {
        let message = "x".repeat(1000);
        assert_eq!(note_of(&message), message);
        let long = "é".repeat(600);
        assert_eq!(note_of(&long).len(), 1024);
        assert_eq!(note_of(&format!("x{long}")).len(), 1023);
    }
}
