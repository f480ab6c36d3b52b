//! A stored command, verified once more before it is carried out.
//!
//! A record says what to do only as far as the Manager signed it: whoever else may write NovaCommands, or bring one from another
//! cluster or under another name, commands nothing. Before this file: `inbox.rs`. After it: the dispatcher.

use crate::{
    command::{self, Recipient, Rejected, Unreadable, VerifiedCommand, record_name},
    outcome::CommandProgress,
};
use kube::ResourceExt as _;
use kubenova_crds::command::{CommandSpec, NovaCommand};
use kubenova_schema::{mutant, signature::AcceptedKeys};

/// Reason of a record that the Manager did not sign as it stands.
pub const UNVERIFIED: &str = "RecordUnverified";

/// What a record must be signed by and for.
#[derive(Debug, Clone)]
pub struct RecordVerifier {
    /// Also former keys of the Manager: a document stays wanted when its key is replaced.
    pub keys: AcceptedKeys,
    /// This cluster's id.
    pub cluster_id: String,
    /// UID of its kube-system namespace.
    pub cluster_uid: String,
}

/// Why a record is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// The Manager did not sign it for this cluster as it stands.
    #[error("{0}")]
    Foreign(String),
    /// A newer release stored it.
    #[error("{message}")]
    Newer {
        /// CamelCase, for programs.
        reason: &'static str,
        /// What to do about it.
        message: String,
    },
}

impl Unverified {
    /// How the command ends.
    #[must_use]
    pub fn progress(&self) -> CommandProgress {
        match self {
            Self::Newer { reason, message } => CommandProgress::failed(*reason, message.clone()),
            Self::Foreign(cause) => CommandProgress::failed(
                UNVERIFIED,
                format!(
                    "this is no command of the Manager for this cluster, so it is not carried out: {cause}; find out who else may \
                     write NovaCommands, and delete this one: the Manager sends again what the cluster lacks"
                ),
            ),
        }
    }
}

impl From<Unreadable> for Unverified {
    fn from(error: Unreadable) -> Self {
        Self::Foreign(match error {
            Unreadable::Signature(cause) => cause.to_string(),
            Unreadable::Body(cause) => cause.to_string(),
        })
    }
}

impl From<Rejected> for Unverified {
    fn from(Rejected { reason, message, unsupported, .. }: Rejected) -> Self {
        if unsupported { Self::Newer { reason, message } } else { Self::Foreign(message) }
    }
}

impl RecordVerifier {
    /// The command of a record.
    ///
    /// # Errors
    /// When the Manager did not sign it for this cluster, under this name, with these fields.
    pub fn verify(&self, record: &NovaCommand) -> Result<VerifiedCommand, Unverified> {
        let CommandSpec { body, signature, .. } = &record.spec;
        let command = command::verify(body.as_bytes(), Some(signature), &self.keys)?;
        let recipient = Recipient { cluster_id: &self.cluster_id, cluster_uid: &self.cluster_uid };
        let verified = command::accept(command, recipient)?;
        match difference(record, &verified) {
            Some(field) if !mutant::is_on("record.fields") => {
                Err(Unverified::Foreign(format!("the record's {field} is not the one of the signed command in it")))
            }
            _ => Ok(verified),
        }
    }
}

/// The first field by which a record is fenced, found or carried out that the signed bytes do not say.
fn difference(record: &NovaCommand, verified: &VerifiedCommand) -> Option<&'static str> {
    let spec = &record.spec;
    let signed = verified.record_spec(spec.body.as_bytes(), Some(&spec.signature), spec.stored_at.clone());
    let fields = [
        ("name", record.name_any() == record_name(&verified.key)),
        ("kind", spec.kind == signed.kind),
        ("key", spec.key == signed.key),
        ("commandId", spec.command_id == signed.command_id),
        ("revision", spec.revision == signed.revision),
        ("epoch", spec.epoch == signed.epoch),
        ("commandSha256", spec.command_sha256 == signed.command_sha256),
    ];
    fields.into_iter().find(|(_, same)| !same).map(|(field, _)| field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_schema::{
        kinds::{CommandKind, ObjectKey},
        message,
        signature::{self, PayloadType, SigningKey},
        v1::Command,
    };

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32]).unwrap()
    }

    fn verifier() -> RecordVerifier {
        RecordVerifier {
            keys: AcceptedKeys::new([(key(3).id().to_owned(), key(3).public_key())]),
            cluster_id: "c1".into(),
            cluster_uid: "uid".into(),
        }
    }

    fn command() -> Command {
        Command {
            id: "0198".into(),
            cluster_id: "c1".into(),
            cluster_uid: "uid".into(),
            epoch: 2,
            revision: 7,
            kind: "apply-tenant".into(),
            key: "tenant/t1".into(),
            document: "{}".into(),
            ..Command::default()
        }
    }

    fn record(command: Command, signer: u8) -> NovaCommand {
        let body = message::to_json(&command);
        let signature = key(signer).sign(PayloadType::Command, &body);
        let key = ObjectKey::parse(&command.key).unwrap();
        let sha256 = signature::command_sha256(&command.kind, &command.key, &command.document);
        let kind = CommandKind::parse(&command.kind).unwrap();
        let verified = VerifiedCommand { command, kind, key, sha256 };
        let spec = verified.record_spec(&body, Some(&signature), "2026-01-01T00:00:00.000Z".into());
        NovaCommand::new(&record_name(&verified.key), spec)
    }

    fn cause(record: &NovaCommand) -> String {
        verifier().verify(record).unwrap_err().progress().message
    }

    #[test]
    fn what_the_manager_signed_for_this_cluster_is_carried_out() {
        let verified = verifier().verify(&record(command(), 3)).unwrap();
        assert_eq!((verified.command, verified.kind), (command(), CommandKind::ApplyTenant));
    }

    #[test]
    fn another_author_another_cluster_and_changed_bytes_command_nothing() {
        assert!(cause(&record(command(), 4)).contains("not accepted here"));
        let of_another = Command { cluster_id: "c2".into(), ..command() };
        assert!(cause(&record(of_another, 3)).contains("names another cluster"));
        let mut changed = record(command(), 3);
        changed.spec.body = changed.spec.body.replace("apply-tenant", "delete-tenant");
        assert!(cause(&changed).contains("does not fit the message"));
        changed.spec.signature.clear();
        assert!(cause(&changed).contains("not of the form"));
    }

    #[test]
    fn the_fields_and_the_name_of_a_record_are_those_of_the_signed_command() {
        type Change = (&'static str, fn(&mut NovaCommand));
        let changes: [Change; 7] = [
            ("name", |record| record.metadata.name = Some("tenant.t2".into())),
            ("kind", |record| record.spec.kind = "delete-tenant".into()),
            ("key", |record| record.spec.key = "tenant/t2".into()),
            ("commandId", |record| record.spec.command_id = "0199".into()),
            ("revision", |record| record.spec.revision = 8),
            ("epoch", |record| record.spec.epoch = 3),
            ("commandSha256", |record| record.spec.command_sha256 = "x".into()),
        ];
        for (field, change) in changes {
            let mut changed = record(command(), 3);
            change(&mut changed);
            assert!(cause(&changed).contains(&format!("the record's {field} is not")), "{field}");
        }
    }

    #[test]
    fn a_command_of_a_newer_release_asks_for_an_upgrade() {
        let newer = Command { requires: vec!["magic".into()], ..command() };
        let unsupported = verifier().verify(&record(newer, 3)).unwrap_err();
        assert_eq!(unsupported.progress().reason, "UnsupportedRequirement");
    }
}
