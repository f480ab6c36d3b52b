//! From bytes to a command: verified first, decoded once, meant for this cluster, of a form this release knows.
//!
//! Nothing here trusts a header but the signature. A body that cannot be verified has no author and gets no answer; a
//! command that is verified and unacceptable is answered with its reason. After this file: `policy.rs`, then `inbox.rs`.

use crate::inbox::Held;
use jiff::Timestamp;
use kubenova_crds::command::CommandSpec;
use kubenova_schema::{
    kinds::{CommandKind, ObjectKey},
    message, mutant,
    signature::{self, AcceptedKeys, PayloadType},
    v1::Command,
};

/// A command that is signed and meant for this cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedCommand {
    /// The decoded body.
    pub command: Command,
    /// Its kind.
    pub kind: CommandKind,
    /// What it is about.
    pub key: ObjectKey,
    /// SHA-256 of (kind, key, document).
    pub sha256: String,
}

impl VerifiedCommand {
    /// What the fence compares.
    #[must_use]
    pub fn held(&self) -> Held {
        Held {
            epoch: self.command.epoch,
            revision: self.command.revision,
            command_id: self.command.id.clone(),
            command_sha256: self.sha256.clone(),
        }
    }

    /// Its inbox record: the exact bytes that were signed, with their signature.
    #[must_use]
    pub fn record_spec(&self, body: &[u8], signature: Option<&str>, stored_at: String) -> CommandSpec {
        let command = &self.command;
        CommandSpec {
            body: String::from_utf8_lossy(body).into_owned(),
            signature: signature.unwrap_or_default().to_owned(),
            command_id: command.id.clone(),
            epoch: i64::try_from(command.epoch).unwrap_or(i64::MAX),
            revision: i64::try_from(command.revision).unwrap_or(i64::MAX),
            kind: command.kind.clone(),
            key: command.key.clone(),
            command_sha256: self.sha256.clone(),
            stored_at,
        }
    }
}

/// The cluster that commands must name.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'a> {
    /// This cluster's id.
    pub cluster_id: &'a str,
    /// UID of its kube-system namespace.
    pub cluster_uid: &'a str,
}

/// A body that must not be acted on.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Not signed by a key we accept.
    #[error("could not verify a command's signature")]
    Signature(#[from] signature::SignatureError),
    /// Signed, yet no command.
    #[error("could not read a signed command")]
    Body(#[from] message::MessageError),
}

/// A verified command that is not carried out.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    /// The command it answers.
    pub command: Box<Command>,
    /// True for what this release does not know, false for what it will not do.
    pub unsupported: bool,
    /// CamelCase, for programs.
    pub reason: &'static str,
    /// What happened and what to do about it.
    pub message: String,
}

/// What `requires` may name. Nothing yet.
const SUPPORTED_REQUIREMENTS: [&str; 0] = [];

/// Verifies the exact bytes.
///
/// # Errors
/// When the signature is missing, malformed, unknown or wrong, or the signed bytes are no command.
pub fn verify(body: &[u8], header: Option<&str>, keys: &AcceptedKeys) -> Result<Command, Unreadable> {
    keys.verify(PayloadType::Command, body, header)?;
    Ok(message::from_json::<Command>(body)?)
}

/// Checks a verified command by its own fields.
///
/// # Errors
/// When it is for another cluster, of an unknown kind, about another object than its kind allows, or unreadable inside.
pub fn accept(command: Command, recipient: Recipient<'_>) -> Result<VerifiedCommand, Rejected> {
    let refused = |command: Command, reason, message: String| Rejected {
        command: Box::new(command),
        unsupported: false,
        reason,
        message,
    };
    let unsupported = |command: Command, reason, message: String| Rejected {
        command: Box::new(command),
        unsupported: true,
        reason,
        message,
    };
    if command.cluster_id != recipient.cluster_id {
        return Err(refused(command, "OtherCluster", "the command names another cluster".to_owned()));
    }
    if command.cluster_uid != recipient.cluster_uid && !mutant::is_on("command.cluster-uid") {
        return Err(refused(
            command,
            "OtherClusterUid",
            "the command was signed for a cluster with another kube-system UID; enroll this cluster again".to_owned(),
        ));
    }
    let Some(kind) = CommandKind::parse(&command.kind) else {
        let message = format!("this Operator does not know commands of kind \"{}\"; upgrade it", command.kind);
        return Err(unsupported(command, "UnknownKind", message));
    };
    if let Some(required) =
        command.requires.iter().find(|required| !SUPPORTED_REQUIREMENTS.contains(&required.as_str()))
    {
        let message = format!("this Operator does not support \"{required}\"; upgrade it");
        return Err(unsupported(command, "UnsupportedRequirement", message));
    }
    let key = ObjectKey::parse(&command.key)
        .filter(|key| fits(kind, key) && is_of(&command, kind, key) && is_object_name(&record_name(key)));
    let Some(key) = key else {
        let message = format!("a command \"{}\" cannot have the key \"{}\"", command.kind, command.key);
        return Err(refused(command, "BadKey", message));
    };
    if let Err(error) = message::refuse_duplicate_keys(command.document.as_bytes()) {
        return Err(refused(command, "BadDocument", format!("the document is not acceptable JSON: {error}")));
    }
    if command.id.is_empty()
        || command.revision == 0
        || i64::try_from(command.revision).is_err()
        || i64::try_from(command.epoch).is_err()
    {
        return Err(refused(
            command,
            "BadCommand",
            "the command has no id, or a revision or epoch out of range".to_owned(),
        ));
    }
    let has_deadline = command.not_after.parse::<Timestamp>().is_ok();
    if kind.is_operation() && kind != CommandKind::CancelOperation && !has_deadline {
        let message = "the operation has no deadline (notAfter), and none is carried out without: request it again; if that does not \
                       help, Manager and Operator are of different releases";
        return Err(refused(command, "BadCommand", message.to_owned()));
    }
    let sha256 = signature::command_sha256(&command.kind, &command.key, &command.document);
    Ok(VerifiedCommand { command, kind, key, sha256 })
}

/// Name of the inbox record of an object.
#[must_use]
pub fn record_name(key: &ObjectKey) -> String {
    key.to_string().replace('/', ".")
}

const fn fits(kind: CommandKind, key: &ObjectKey) -> bool {
    matches!(
        (kind, key),
        (CommandKind::ApplyClusterConfig, ObjectKey::ClusterConfig)
            | (CommandKind::ApplyTenant | CommandKind::DeleteTenant, ObjectKey::Tenant { .. })
            | (CommandKind::ApplyApplication | CommandKind::DeleteApplication, ObjectKey::Application { .. })
    ) || matches!(key, ObjectKey::Operation { .. } if kind.is_operation())
}

/// An operation stands under its own id and its cancellation under the id of the operation: so no operation replaces another, and
/// a cancellation replaces nothing but its operation.
fn is_of(command: &Command, kind: CommandKind, key: &ObjectKey) -> bool {
    match key {
        ObjectKey::Operation { command_id } => (kind == CommandKind::CancelOperation) != (*command_id == command.id),
        _ => true,
    }
}

/// A DNS-1123 subdomain, as Kubernetes wants names.
fn is_object_name(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(inner)
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_schema::signature::SigningKey;

    const HERE: Recipient<'static> = Recipient { cluster_id: "c1", cluster_uid: "uid" };

    fn command() -> Command {
        Command {
            id: "0198".into(),
            cluster_id: "c1".into(),
            cluster_uid: "uid".into(),
            epoch: 1,
            revision: 7,
            kind: "apply-tenant".into(),
            key: "tenant/0198-aa".into(),
            document: "{}".into(),
            ..Command::default()
        }
    }

    #[test]
    fn only_signed_bytes_are_read() {
        let key = SigningKey::from_seed(&[3; 32]).unwrap();
        let keys = AcceptedKeys::new([(key.id().to_owned(), key.public_key())]);
        let body = message::to_json(&command());
        let header = key.sign(PayloadType::Command, &body);
        assert_eq!(verify(&body, Some(&header), &keys).unwrap(), command());
        assert!(matches!(verify(&body, None, &keys), Err(Unreadable::Signature(_))));
        let mut twice = body.clone();
        twice.pop();
        twice.extend_from_slice(br#","id":"other"}"#);
        let header = key.sign(PayloadType::Command, &twice);
        assert!(matches!(verify(&twice, Some(&header), &keys), Err(Unreadable::Body(_))));
    }

    #[test]
    fn each_unacceptable_command_has_its_own_reason() {
        let reason = |change: fn(&mut Command)| {
            let mut command = command();
            change(&mut command);
            accept(command, HERE).unwrap_err().reason
        };
        assert_eq!(reason(|command| command.cluster_id = "c2".into()), "OtherCluster");
        assert_eq!(reason(|command| command.cluster_uid = "other".into()), "OtherClusterUid");
        assert_eq!(reason(|command| command.kind = "drop".into()), "UnknownKind");
        assert_eq!(reason(|command| command.requires = vec!["magic".into()]), "UnsupportedRequirement");
        assert_eq!(reason(|command| command.key = "application/x/y".into()), "BadKey");
        assert_eq!(reason(|command| command.key = "tenant/UPPER".into()), "BadKey");
        assert_eq!(reason(|command| command.document = r#"{"a":1,"a":2}"#.into()), "BadDocument");
        assert_eq!(reason(|command| command.kind = "restart-workflow".into()), "BadKey");
        assert_eq!(reason(|command| command.revision = 0), "BadCommand");
        assert_eq!(accept(command(), HERE).unwrap().key.to_string(), "tenant/0198-aa");
    }

    #[test]
    fn an_operation_has_its_own_id_as_key_and_a_cancellation_the_one_of_another() {
        let accepted = |kind: &str, key: &str| {
            let not_after = "2026-01-01T00:00:00Z".to_owned();
            accept(Command { kind: kind.into(), key: key.into(), not_after, ..command() }, HERE).is_ok()
        };
        assert!(accepted("restart-workflow", "operation/0198"));
        assert!(!accepted("restart-workflow", "operation/0199"), "it would replace another operation");
        assert!(accepted("cancel-operation", "operation/0199"));
        assert!(!accepted("cancel-operation", "operation/0198"));
        assert!(!accepted("cancel-operation", "tenant/0199"), "it would replace a document");
        let endless = Command { kind: "restart-workflow".into(), key: "operation/0198".into(), ..command() };
        assert_eq!(accept(endless, HERE).unwrap_err().reason, "BadCommand", "an operation without a deadline");
    }
}
