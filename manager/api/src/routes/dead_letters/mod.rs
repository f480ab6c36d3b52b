//! Dead letters: messages of clusters that can never be handled.

pub mod discard;
pub mod get;
pub mod list;
#[cfg(test)]
pub(crate) mod testing;

use crate::error::ApiError;
use kubenova_api_types::dead_letters as api;
use kubenova_core::{
    dead_letter::{DeadLetter, DeadLetterId, DeadLetterKind},
    refusal::{Reason, Refusal},
};
use kubenova_store::{connection::Connection, dead_letters};

async fn find(connection: &mut Connection, named: &str) -> Result<DeadLetter, ApiError> {
    let found = match DeadLetterId::parse(named) {
        Some(id) => dead_letters::find(connection, id).await?,
        None => None,
    };
    let missing = || Refusal::new(Reason::DeadLetterNotFound, format!("there is no dead letter {named:?}"));
    Ok(found.ok_or_else(missing)?)
}

/// A dead letter without its bytes.
fn view(letter: &DeadLetter) -> api::DeadLetter {
    api::DeadLetter {
        id: letter.id.to_string(),
        cluster_id: letter.cluster.clone(),
        kind: match letter.kind {
            DeadLetterKind::Outcome => api::DeadLetterKind::Outcome,
            DeadLetterKind::Status => api::DeadLetterKind::Status,
            DeadLetterKind::Usage => api::DeadLetterKind::Usage,
            DeadLetterKind::Other => api::DeadLetterKind::Other,
        },
        subject: letter.subject.clone(),
        reason: letter.reason.clone(),
        deliveries: letter.times.to_string(),
        first_seen_at: letter.first_seen_at,
        last_seen_at: letter.last_seen_at,
        payload_bytes: letter.payload_bytes.to_string(),
        payload_sha256: letter.payload_sha256.clone(),
        cluster_dropped: letter.cluster_dropped.to_string(),
        text: None,
        payload: None,
    }
}
