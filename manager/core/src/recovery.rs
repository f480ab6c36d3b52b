//! Recovery after the database was restored to an earlier point: what a cluster holds beside what Postgres has, key by key.
//!
//! A cluster makes nothing up: it sends back commands that the Manager signed, to the byte, and only what verifies under the
//! Manager's own command keys, for this cluster, is looked at. Decided without clock or database.

use crate::{
    cluster::ClusterId,
    command::{CommandId, CommandState},
};
use jiff::Timestamp;
use kubenova_schema::{
    kinds::{CommandKind, ObjectKey},
    message::{self, MessageError},
    signature::{AcceptedKeys, PayloadType, SignatureError, sha256_hex},
    v1::Command,
};

/// How far the epoch that a cluster names may lie above every other that is known: a number that a cluster made up must not use
/// up the epochs. Each enrollment and each recovery raises it by one.
const EPOCHS_AHEAD_MAX: i64 = 1000;

/// An inbox record as a cluster lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRecord {
    /// The object.
    pub key: String,
    /// What the command does.
    pub kind: String,
    /// Its revision.
    pub revision: i64,
    /// Its id.
    pub command_id: CommandId,
    /// Hex SHA-256 of its document.
    pub document_sha256: String,
}

/// A command that a cluster holds, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldCommand {
    /// Its id.
    pub id: CommandId,
    /// Its revision.
    pub revision: i64,
    /// Epoch under which it was signed.
    pub epoch: i64,
    /// What it does.
    pub kind: CommandKind,
    /// The object.
    pub key: ObjectKey,
    /// Exact JSON.
    pub document: String,
    /// Of an operation: it does not begin later.
    pub not_after: Option<Timestamp>,
}

/// Why what a cluster sent as a command of the Manager is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOurs {
    /// The signature does not verify.
    #[error("the Manager did not sign it: {0}; a key that was made after the database's backup is lost with it")]
    Signature(#[from] SignatureError),
    /// Signed, and no command.
    #[error("it is signed, but is no command: {0}")]
    Body(String),
    /// Signed for another cluster.
    #[error("it was signed for another cluster")]
    OtherCluster,
    /// Not what the listing says.
    #[error("its {0} is not the one that the cluster listed")]
    Unlike(&'static str),
    /// A number or id that no release writes.
    #[error("its {0} is out of range")]
    Range(&'static str),
}

/// Reads the signed bytes of a record, as the Manager itself signed them.
///
/// # Errors
/// With the first reason why they are not a command of ours to this cluster, or not the listed one.
pub fn verify(
    body: &[u8],
    signature: &str,
    keys: &AcceptedKeys,
    cluster: &ClusterId,
    listed: &ListedRecord,
) -> Result<HeldCommand, NotOurs> {
    keys.verify(PayloadType::Command, body, Some(signature))?;
    let unreadable = |error: MessageError| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        NotOurs::Body(format!("{error}{cause}"))
    };
    let command: Command = message::from_json(body).map_err(unreadable)?;
    if command.cluster_id != cluster.as_str() {
        return Err(NotOurs::OtherCluster);
    }
    let id = CommandId::parse(&command.id).ok_or(NotOurs::Range("id"))?;
    let revision = i64::try_from(command.revision).map_err(|_| NotOurs::Range("revision"))?;
    let epoch = i64::try_from(command.epoch).map_err(|_| NotOurs::Range("epoch"))?;
    let unlike = [
        ("key", command.key == listed.key),
        ("kind", command.kind == listed.kind),
        ("revision", revision == listed.revision),
        ("command id", id == listed.command_id),
        ("document", sha256_hex(command.document.as_bytes()) == listed.document_sha256),
    ];
    if let Some((what, _)) = unlike.into_iter().find(|(_, same)| !same) {
        return Err(NotOurs::Unlike(what));
    }
    let kind = CommandKind::parse(&command.kind).ok_or(NotOurs::Range("kind"))?;
    let key = ObjectKey::parse(&command.key).ok_or(NotOurs::Range("key"))?;
    // That of a delete is the relay's, which sets it at each send; a cancellation has none.
    let deadline = Some(command.not_after.as_str()).filter(|at| kind.is_operation() && !at.is_empty());
    let not_after = deadline.map(str::parse::<Timestamp>).transpose().map_err(|_| NotOurs::Range("deadline"))?;
    Ok(HeldCommand { id, revision, epoch, kind, key, document: command.document, not_after })
}

/// The newest command about a key in Postgres that is, or was, wanted: none that was replaced, cancelled or refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newest {
    /// Its id.
    pub id: CommandId,
    /// Its revision.
    pub revision: i64,
    /// Where it is.
    pub state: CommandState,
    /// Whether it deletes the object.
    pub is_delete: bool,
}

/// The command about a key that the cluster holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its id.
    pub id: CommandId,
    /// Its revision.
    pub revision: i64,
    /// Whether it deletes the object.
    pub is_delete: bool,
    /// Postgres has this command with this revision.
    pub is_known: bool,
}

/// What adopting does about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Both sides agree, or the cluster forgot a delete.
    Keep,
    /// Postgres takes over the document, and with it the object.
    AdoptApply,
    /// Postgres takes over that the object was deleted.
    AdoptDelete,
    /// A change that was requested after the restore is newer: the cluster's command is recorded, and the change is sent.
    SendNewer,
    /// The cluster holds less than it acknowledged: it is sent again.
    SendAgain,
}

impl Action {
    /// What a person reads.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "nothing",
            Self::AdoptApply => "adopt the cluster's document",
            Self::AdoptDelete => "adopt the delete",
            Self::SendNewer => "send the newer change of the database",
            Self::SendAgain => "send again what the cluster lost",
        }
    }
}

/// Decides about a key. Ids are UUIDv7: of two commands that were made in different histories the later one has the higher id,
/// while their revisions say nothing.
#[must_use]
pub fn decide(newest: Option<&Newest>, held: Option<&Held>) -> Action {
    let adopt = |held: &Held| if held.is_delete { Action::AdoptDelete } else { Action::AdoptApply };
    match (newest, held) {
        (None, None) => Action::Keep,
        (None, Some(held)) => {
            if held.is_known {
                Action::Keep
            } else {
                adopt(held)
            }
        }
        (Some(newest), None) if !newest.state.is_terminal() => Action::SendNewer,
        // A delete that the cluster forgot is as good as one that it remembers.
        (Some(newest), None) => {
            if newest.is_delete {
                Action::Keep
            } else {
                Action::SendAgain
            }
        }
        (Some(newest), Some(held)) if newest.id == held.id => Action::Keep,
        (Some(newest), Some(held)) if newest.id < held.id && !held.is_known => adopt(held),
        (Some(newest), Some(_)) if newest.state.is_terminal() => Action::SendAgain,
        (Some(_), Some(_)) => Action::SendNewer,
    }
}

/// The epoch after the recovery: above every epoch that the cluster may have seen, so that nothing of the lost history is
/// carried out any more. None when the cluster names one that cannot be.
#[must_use]
pub fn next_epoch(of_database: i64, of_commands: i64, named_by_cluster: i64) -> Option<i64> {
    let known = of_database.max(of_commands);
    (named_by_cluster <= known.saturating_add(EPOCHS_AHEAD_MAX)).then(|| known.max(named_by_cluster).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_schema::signature::SigningKey;
    use uuid::Uuid;

    fn id(number: u128) -> CommandId {
        CommandId(Uuid::from_u128(number))
    }

    fn newest(number: u128, state: CommandState, is_delete: bool) -> Newest {
        Newest { id: id(number), revision: 5, state, is_delete }
    }

    fn held(number: u128, is_delete: bool, is_known: bool) -> Held {
        Held { id: id(number), revision: 5, is_delete, is_known }
    }

    #[test]
    fn what_the_cluster_has_newer_is_adopted_and_what_was_requested_later_wins() {
        use CommandState::{Queued, Succeeded};
        for (newest, held, action) in [
            (None, Some(held(9, false, false)), Action::AdoptApply),
            (None, Some(held(9, true, false)), Action::AdoptDelete),
            (Some(newest(5, Succeeded, false)), Some(held(5, false, true)), Action::Keep),
            (Some(newest(5, Succeeded, false)), Some(held(9, false, false)), Action::AdoptApply),
            (Some(newest(5, Succeeded, false)), Some(held(9, true, false)), Action::AdoptDelete),
            (Some(newest(5, Queued, false)), Some(held(9, true, false)), Action::AdoptDelete),
            (Some(newest(11, Queued, false)), Some(held(9, false, false)), Action::SendNewer),
            (Some(newest(11, Queued, true)), Some(held(9, false, true)), Action::SendNewer),
            (Some(newest(11, Succeeded, false)), Some(held(9, false, true)), Action::SendAgain),
            (Some(newest(11, Succeeded, false)), None, Action::SendAgain),
            (Some(newest(11, Queued, false)), None, Action::SendNewer),
            (Some(newest(11, Succeeded, true)), None, Action::Keep),
        ] {
            assert_eq!(decide(newest.as_ref(), held.as_ref()), action, "{newest:?} {held:?}");
        }
    }

    #[test]
    fn the_epoch_rises_above_all_that_the_cluster_may_have_seen_and_not_without_bound() {
        assert_eq!(next_epoch(1, 1, 1), Some(2));
        assert_eq!(next_epoch(1, 4, 3), Some(5));
        assert_eq!(next_epoch(2, 1, 7), Some(8));
        assert_eq!(next_epoch(1, 1, i64::MAX), None);
    }

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32]).unwrap()
    }

    fn cluster() -> ClusterId {
        ClusterId::parse("c0123456789abcdefghjkmnpqrs").unwrap()
    }

    fn command() -> Command {
        Command {
            id: id(7).to_string(),
            cluster_id: cluster().to_string(),
            epoch: 2,
            revision: 55,
            kind: "apply-tenant".into(),
            key: "tenant/x".into(),
            document: "{}".into(),
            ..Command::default()
        }
    }

    fn verified(command: &Command, seed: u8, listed: &ListedRecord) -> Result<HeldCommand, NotOurs> {
        let keys = [3, 4].map(|seed| (key(seed).id().to_owned(), key(seed).public_key()));
        let body = message::to_json(command);
        verify(&body, &key(seed).sign(PayloadType::Command, &body), &AcceptedKeys::new(keys), &cluster(), listed)
    }

    fn listed() -> ListedRecord {
        ListedRecord {
            key: "tenant/x".into(),
            kind: "apply-tenant".into(),
            revision: 55,
            command_id: id(7),
            document_sha256: sha256_hex(b"{}"),
        }
    }

    #[test]
    fn what_the_manager_signed_is_read_also_under_its_previous_key() {
        for seed in [3, 4] {
            let held = verified(&command(), seed, &listed()).unwrap();
            assert_eq!((held.revision, held.epoch, held.id, held.document.as_str()), (55, 2, id(7), "{}"));
        }
    }

    #[test]
    fn an_operation_keeps_its_deadline_and_a_delete_gets_another_at_each_send() {
        let at = "2026-03-01T00:10:00Z";
        for (kind, not_after, kept) in [
            ("restart-workflow", at, Some(at)),
            ("cancel-operation", "", None),
            ("delete-tenant", at, None),
            ("apply-tenant", "", None),
        ] {
            let command = Command { kind: kind.into(), not_after: not_after.into(), ..command() };
            let held = verified(&command, 3, &ListedRecord { kind: kind.into(), ..listed() }).unwrap();
            assert_eq!(held.not_after, kept.map(|at| at.parse().unwrap()), "{kind}");
        }
        let broken = Command { kind: "restart-workflow".into(), not_after: "soon".into(), ..command() };
        let listed = ListedRecord { kind: "restart-workflow".into(), ..listed() };
        assert_eq!(verified(&broken, 3, &listed), Err(NotOurs::Range("deadline")));
    }

    #[test]
    fn a_cluster_can_make_nothing_up() {
        assert!(matches!(verified(&command(), 9, &listed()), Err(NotOurs::Signature(_))), "signed with another key");
        let keys = AcceptedKeys::new([(key(3).id().to_owned(), key(3).public_key())]);
        let mut body = message::to_json(&command());
        let signature = key(3).sign(PayloadType::Command, &body);
        let at = body.len() / 2;
        body[at] ^= 1;
        let tampered = verify(&body, &signature, &keys, &cluster(), &listed());
        assert!(matches!(tampered, Err(NotOurs::Signature(_))), "{tampered:?}");
        let other = Command { cluster_id: "c1123456789abcdefghjkmnpqrs".into(), ..command() };
        assert_eq!(verified(&other, 3, &listed()), Err(NotOurs::OtherCluster));
        for (listed, what) in [
            (ListedRecord { revision: 56, ..listed() }, "revision"),
            (ListedRecord { command_id: id(8), ..listed() }, "command id"),
            (ListedRecord { key: "tenant/y".into(), ..listed() }, "key"),
            (ListedRecord { kind: "delete-tenant".into(), ..listed() }, "kind"),
            (ListedRecord { document_sha256: sha256_hex(b"[]"), ..listed() }, "document"),
        ] {
            assert_eq!(verified(&command(), 3, &listed), Err(NotOurs::Unlike(what)));
        }
    }
}
