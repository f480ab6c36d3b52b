//! What is kept in memory of each inbox record: enough to fence, to count deletes and to hash the listing, without the body,
//! which may have 900 KB.

use crate::{
    inbox::Held,
    operation::{self, ApplicationTarget},
    outcome,
};
use jiff::Timestamp;
use kube::ResourceExt as _;
use kubenova_crds::command::NovaCommand;
use kubenova_schema::{kinds::CommandKind, message, signature::sha256_hex, v1::Command};

/// One record without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordDigest {
    pub name: String,
    pub uid: String,
    /// What a write made on the strength of this must name.
    pub resource_version: String,
    /// None for a kind of a newer release.
    pub kind: Option<CommandKind>,
    pub key: String,
    pub epoch: u64,
    pub revision: u64,
    pub command_id: String,
    /// Hex SHA-256 of (kind, key, document).
    pub command_sha256: String,
    /// Hex SHA-256 of the document; none when the body cannot be read.
    pub document_sha256: Option<String>,
    /// None when it cannot be read.
    pub stored_at: Option<Timestamp>,
    /// The command has reached a terminal state.
    pub has_ended: bool,
    /// The application that an operation is about.
    pub operates_on: Option<ApplicationTarget>,
}

impl RecordDigest {
    #[must_use]
    pub fn of(record: &NovaCommand) -> Self {
        let spec = &record.spec;
        let command = message::from_json::<Command>(spec.body.as_bytes()).ok();
        Self {
            name: record.name_any(),
            uid: record.uid().unwrap_or_default(),
            resource_version: record.resource_version().unwrap_or_default(),
            kind: CommandKind::parse(&spec.kind),
            key: spec.key.clone(),
            epoch: u64::try_from(spec.epoch).unwrap_or_default(),
            revision: u64::try_from(spec.revision).unwrap_or_default(),
            command_id: spec.command_id.clone(),
            command_sha256: spec.command_sha256.clone(),
            document_sha256: command.as_ref().map(|command| sha256_hex(command.document.as_bytes())),
            stored_at: spec.stored_at.parse().ok(),
            has_ended: outcome::has_ended(spec, record.status.as_ref()),
            operates_on: command
                .filter(|_| CommandKind::parse(&spec.kind).is_some_and(CommandKind::is_operation))
                .and_then(|command| operation::application_target(&command.document).ok()),
        }
    }

    /// It is of an operation that comes before the one of this revision about the same application and has not ended.
    #[must_use]
    pub fn is_open_before(&self, revision: u64, target: &ApplicationTarget) -> bool {
        !self.has_ended && self.revision < revision && self.operates_on.as_ref() == Some(target)
    }

    /// What the fence compares with.
    #[must_use]
    pub fn held(&self) -> Held {
        Held {
            epoch: self.epoch,
            revision: self.revision,
            command_id: self.command_id.clone(),
            command_sha256: self.command_sha256.clone(),
        }
    }

    /// The record is of a command that deletes its object.
    #[must_use]
    pub fn is_delete(&self) -> bool {
        self.kind.is_some_and(CommandKind::is_delete)
    }

    /// The record is of an operation or its cancellation.
    #[must_use]
    pub fn is_operation(&self) -> bool {
        self.kind.is_some_and(CommandKind::is_operation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_crds::command::{CommandSpec, CommandStatus};

    #[test]
    fn a_digest_says_of_a_record_what_its_body_and_status_say() {
        let body = message::to_json(&Command { document: "{}".to_owned(), ..Command::default() });
        let spec = CommandSpec {
            body: String::from_utf8(body).unwrap(),
            kind: "delete-tenant".to_owned(),
            command_id: "a".to_owned(),
            revision: 7,
            epoch: 2,
            stored_at: "2026-01-01T00:00:00.000Z".to_owned(),
            ..CommandSpec::default()
        };
        let mut record = NovaCommand::new("tenant.x", spec);
        let digest = RecordDigest::of(&record);
        assert_eq!((digest.revision, digest.epoch, digest.is_delete(), digest.has_ended), (7, 2, true, false));
        assert_eq!(digest.document_sha256, Some(sha256_hex(b"{}")));
        let ended = |command_id: &str| CommandStatus {
            command_id: command_id.to_owned(),
            state: "succeeded".to_owned(),
            ..CommandStatus::default()
        };
        record.status = Some(ended("an older command"));
        assert!(!RecordDigest::of(&record).has_ended);
        record.status = Some(ended("a"));
        assert!(RecordDigest::of(&record).has_ended);
        record.spec.body = "no command".to_owned();
        assert_eq!(RecordDigest::of(&record).document_sha256, None);
    }

    #[test]
    fn operations_on_one_application_come_one_after_the_other() {
        let record = |kind: &str, document: &str| {
            let command = Command { document: document.to_owned(), ..Command::default() };
            let body = String::from_utf8(message::to_json(&command)).unwrap();
            let spec = CommandSpec { body, kind: kind.to_owned(), revision: 7, ..CommandSpec::default() };
            RecordDigest::of(&NovaCommand::new("x", spec))
        };
        let shop = r#"{"tenantId":"t","application":"shop"}"#;
        let target = operation::application_target(shop).unwrap();
        let suspend = record("suspend-workflow", shop);
        assert!(suspend.is_open_before(8, &target));
        assert!(!suspend.is_open_before(7, &target), "itself");
        assert!(!RecordDigest { has_ended: true, ..suspend }.is_open_before(8, &target));
        let other = r#"{"tenantId":"t","application":"cart"}"#;
        assert!(!record("suspend-workflow", other).is_open_before(8, &target));
        assert!(!record("apply-application", shop).is_open_before(8, &target), "a document is no operation");
        assert!(!record("cancel-operation", r#"{"commandId":"a"}"#).is_open_before(8, &target));
    }
}
