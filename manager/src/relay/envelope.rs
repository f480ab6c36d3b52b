//! A command row as the exact bytes that are signed: what was committed, plus epoch, floor and deadline as they are when it
//! is sent.

use jiff::{SignedDuration, Timestamp};
use kubenova_core::cluster::ClusterId;
use kubenova_runtime::clock;
use kubenova_schema::{
    kinds::CommandKind,
    message, mutant,
    v1::{Command, DeletionConfirmation},
};
use kubenova_store::cluster_queue::{DueCommand, QueueState};

/// Deadline of a delete from each send: one that arrives later is answered `deferred`, and sent again with a new deadline.
/// A delete must not take effect long after it was decided.
const DELETE_DEADLINE: SignedDuration = SignedDuration::from_mins(15);

/// The message body.
pub(super) fn body(cluster: &ClusterId, queue: &QueueState, command: &DueCommand, now: Timestamp) -> Vec<u8> {
    let unsigned = |value: i64| u64::try_from(value).unwrap_or_default();
    message::to_json(&Command {
        id: command.id.to_string(),
        cluster_id: cluster.to_string(),
        cluster_uid: queue.kubernetes_uid.clone(),
        epoch: unsigned(queue.epoch),
        revision: unsigned(command.revision),
        floor: unsigned(queue.floor),
        kind: command.kind.clone(),
        key: command.object_key.clone(),
        document: command.document.clone(),
        requires: Vec::new(),
        issued: clock::rfc3339_ms(now),
        not_after: not_after(command, now).map(clock::rfc3339_ms).unwrap_or_default(),
        confirmation: command
            .confirmation
            .clone()
            .map(|(statement, signature)| DeletionConfirmation { statement, signature }),
    })
}

fn not_after(command: &DueCommand, now: Timestamp) -> Option<Timestamp> {
    let is_delete = CommandKind::parse(&command.kind).is_some_and(CommandKind::is_delete);
    let is_delete = is_delete && !mutant::is_on("relay.no-deadline");
    command.not_after.or_else(|| is_delete.then(|| now.checked_add(DELETE_DEADLINE).unwrap_or(now)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_core::command::CommandId;

    fn command(kind: &str) -> DueCommand {
        DueCommand {
            id: CommandId(uuid::Uuid::nil()),
            revision: 7,
            kind: kind.to_owned(),
            object_key: "tenant/x".to_owned(),
            document: r#"{"a":1.50}"#.to_owned(),
            not_after: None,
            send_count: 1,
            traceparent: None,
            confirmation: None,
        }
    }

    #[test]
    fn a_document_travels_to_the_byte_and_only_deletes_get_a_deadline() {
        let cluster = ClusterId::parse("c0123456789abcdefghjkmnpqrs").unwrap();
        let queue =
            QueueState { epoch: 2, kubernetes_uid: "uid".to_owned(), floor: 6, due: Vec::new(), is_full: false };
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let read = |kind: &str| message::from_json::<Command>(&body(&cluster, &queue, &command(kind), now)).unwrap();
        let apply = read("apply-tenant");
        assert_eq!((apply.epoch, apply.revision, apply.floor), (2, 7, 6));
        assert_eq!(apply.document, r#"{"a":1.50}"#);
        assert_eq!(apply.not_after, "");
        assert_eq!(read("delete-tenant").not_after, "2027-01-15T08:15:00.000Z");
    }
}
