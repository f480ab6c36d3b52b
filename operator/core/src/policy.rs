//! What the sovereign policy of a cluster allows: a file from chart values that no command can write, and the limit on deletions.
//!
//! Pure: the caller passes in what was deleted lately. A refusal is reported with its reason, never swallowed.

use crate::{
    command::VerifiedCommand,
    components::{Component, spec},
};
use jiff::{SignedDuration, Timestamp};
use kubenova_crds::{cluster_config::ClusterConfigSpec, components::Components};
use kubenova_schema::{
    deletion_confirmation::{self, NotConfirmed},
    kinds::{CommandKind, ObjectKey},
    mutant,
    signature::AcceptedKeys,
};
use serde::Deserialize;

/// The sovereign policy.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Policy {
    /// Kinds of commands that are accepted; empty means all.
    pub allowed_command_kinds: Vec<String>,
    /// Whether the Manager may change versions of components.
    pub component_upgrades: bool,
    /// Deletes accepted in any hour.
    pub deletes_per_hour: u32,
    /// Nothing the Manager sends changes this cluster.
    pub freeze: bool,
    /// Ed25519 public keys (base64) of persons who may confirm that more tenants are deleted than are deleted at once. Empty: the
    /// Manager's word is enough.
    pub deletion_confirmation_keys: Vec<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            allowed_command_kinds: Vec::new(),
            component_upgrades: true,
            deletes_per_hour: 20,
            freeze: false,
            deletion_confirmation_keys: Vec::new(),
        }
    }
}

/// What the policy is checked against.
#[derive(Debug, Clone, Default)]
pub struct PolicyInput {
    /// When commands to delete anything were stored, of those still known.
    pub deletes: Vec<Timestamp>,
    /// When commands to delete tenants were stored, of those still known.
    pub tenant_deletes: Vec<Timestamp>,
    /// Tenants in the cluster.
    pub tenants: usize,
    /// Components as configured at present.
    pub components: Option<Components>,
}

/// The time by both clocks: what the cluster wrote down is compared with its own, what the Manager or a person signed with the
/// Manager's.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    /// This cluster's.
    pub cluster: Timestamp,
    /// The Manager's.
    pub manager: Timestamp,
}

/// Why the sovereign policy does not accept a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// CamelCase, for programs.
    pub reason: &'static str,
    /// What happened and what to do about it.
    pub message: String,
    /// Set when the command is not refused for good: send it again after this time.
    pub retry_after_seconds: Option<u32>,
}

/// Tenants that may be deleted within [`TENANT_DELETES_SPAN`] however few there are.
const TENANT_DELETES_MIN: usize = 5;
/// The time in which deletes of tenants are counted.
const TENANT_DELETES_SPAN: SignedDuration = SignedDuration::from_mins(10);

/// Checks a command that is not a replay.
///
/// # Errors
/// When the sovereign policy does not allow it, or not now.
pub fn check(policy: &Policy, command: &VerifiedCommand, input: &PolicyInput, now: Clocks) -> Result<(), Denial> {
    let refused = |reason, message: String| Err(Denial { reason, message, retry_after_seconds: None });
    // It changes nothing: it only keeps an operation from beginning.
    if command.kind == CommandKind::CancelOperation {
        return Ok(());
    }
    if policy.freeze {
        return refused(
            "ClusterFrozen",
            "the sovereign policy of this cluster freezes it (sovereignPolicy.freeze); ask its administrator"
                .to_owned(),
        );
    }
    let kind = command.kind.as_str();
    if !policy.allowed_command_kinds.is_empty() && !policy.allowed_command_kinds.iter().any(|allowed| allowed == kind) {
        let message = format!(
            "the sovereign policy of this cluster does not accept \"{kind}\" (sovereignPolicy.allowedCommandKinds); ask its administrator"
        );
        return refused("KindNotAllowed", message);
    }
    if command.kind == CommandKind::ApplyClusterConfig && !policy.component_upgrades && changes_versions(command, input)
    {
        let message = "the sovereign policy of this cluster does not accept other component versions (sovereignPolicy.componentUpgrades); ask its administrator";
        return refused("ComponentUpgradesForbidden", message.to_owned());
    }
    if command.kind.is_delete() {
        let hour = since(&input.deletes, now.cluster, SignedDuration::from_hours(1));
        if hour >= usize::try_from(policy.deletes_per_hour).unwrap_or(usize::MAX) {
            let message = format!(
                "{hour} deletes were accepted within the hour and the sovereign policy of this cluster allows {} (sovereignPolicy.deletesPerHour); this one is tried again",
                policy.deletes_per_hour
            );
            return Err(Denial { reason: "DeletesPerHour", message, retry_after_seconds: Some(600) });
        }
    }
    if command.kind == CommandKind::DeleteTenant && !mutant::is_on("policy.tenant-deletes") {
        let lately = since(&input.tenant_deletes, now.cluster, TENANT_DELETES_SPAN);
        let is_limit = lately >= TENANT_DELETES_MIN.max((input.tenants + lately).div_ceil(10));
        if is_limit && let Err(why) = confirmed(policy, command, now.manager) {
            let message = format!(
                "{lately} tenants were deleted within ten minutes, as many as are deleted at once, and {why}; a person confirms it with \
                 POST /api/v1/clusters/{}/deletion-confirmations, else it is tried again",
                command.command.cluster_id
            );
            return Err(Denial { reason: "DeletionConfirmation", message, retry_after_seconds: Some(600) });
        }
    }
    Ok(())
}

/// Whether a person's word about this tenant came with the command. The Manager's signature over the command that carries it is enough
/// only where the policy names no keys.
fn confirmed(policy: &Policy, command: &VerifiedCommand, now: Timestamp) -> Result<(), NotConfirmed> {
    let ObjectKey::Tenant { tenant_id } = &command.key else { return Err(NotConfirmed::OtherTenant) };
    let public_keys = policy.deletion_confirmation_keys.iter();
    let keys = AcceptedKeys::of_public_keys(public_keys.map(String::as_str));
    let keys = (!policy.deletion_confirmation_keys.is_empty()).then_some(&keys);
    deletion_confirmation::check(&command.command, tenant_id, keys, now).map(drop)
}

fn since(times: &[Timestamp], now: Timestamp, span: SignedDuration) -> usize {
    times.iter().filter(|at| now.duration_since(**at) < span).count()
}

fn changes_versions(command: &VerifiedCommand, input: &PolicyInput) -> bool {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        spec: ClusterConfigSpec,
    }
    let Some(present) = &input.components else { return false };
    let Ok(document) = serde_json::from_str::<Document>(&command.command.document) else { return false };
    let Some(desired) = document.spec.components else { return false };
    Component::ALL.into_iter().any(|component| {
        let (now, then) = (spec::common(present, component), spec::common(&desired, component));
        // Another image is another version, whatever it is called.
        let runs_another = now.version != then.version || now.images.registry != then.images.registry;
        now.enabled && (runs_another || now.images.digest != then.images.digest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_schema::{
        signature::{PayloadType, SigningKey},
        v1::{Command, DeletionConfirmation, DeletionStatement},
    };

    fn command(kind: CommandKind, document: &str) -> VerifiedCommand {
        VerifiedCommand {
            command: Command { document: document.to_owned(), ..Command::default() },
            kind,
            key: ObjectKey::ClusterConfig,
            sha256: String::new(),
        }
    }

    fn reason(policy: &Policy, command: &VerifiedCommand, input: &PolicyInput) -> Option<&'static str> {
        let now = Timestamp::from_second(10_000).unwrap();
        check(policy, command, input, Clocks { cluster: now, manager: now }).err().map(|denial| denial.reason)
    }

    #[test]
    fn the_default_policy_lets_everything_in() {
        for kind in CommandKind::ALL {
            assert_eq!(reason(&Policy::default(), &command(kind, "{}"), &PolicyInput::default()), None);
        }
    }

    #[test]
    fn freeze_and_kinds_are_refused_for_good() {
        let frozen = Policy { freeze: true, ..Policy::default() };
        assert_eq!(
            reason(&frozen, &command(CommandKind::ApplyTenant, "{}"), &PolicyInput::default()),
            Some("ClusterFrozen")
        );
        assert_eq!(reason(&frozen, &command(CommandKind::CancelOperation, "{}"), &PolicyInput::default()), None);
        let some = Policy { allowed_command_kinds: vec!["apply-tenant".into()], ..Policy::default() };
        assert_eq!(reason(&some, &command(CommandKind::ApplyTenant, "{}"), &PolicyInput::default()), None);
        assert_eq!(
            reason(&some, &command(CommandKind::DeleteTenant, "{}"), &PolicyInput::default()),
            Some("KindNotAllowed")
        );
    }

    #[test]
    fn deletes_are_counted_within_their_span_only() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let policy = Policy { deletes_per_hour: 2, ..Policy::default() };
        let two = PolicyInput { deletes: vec![at(9_000), at(9_999)], tenants: 100, ..PolicyInput::default() };
        assert_eq!(reason(&policy, &command(CommandKind::DeleteApplication, "{}"), &two), Some("DeletesPerHour"));
        let old = PolicyInput { deletes: vec![at(1_000), at(9_999)], tenants: 100, ..PolicyInput::default() };
        assert_eq!(reason(&policy, &command(CommandKind::DeleteApplication, "{}"), &old), None);
        let many = PolicyInput { tenant_deletes: vec![at(9_900); 5], tenants: 5, ..PolicyInput::default() };
        assert_eq!(
            reason(&Policy::default(), &command(CommandKind::DeleteTenant, "{}"), &many),
            Some("DeletionConfirmation")
        );
        assert_eq!(reason(&Policy::default(), &command(CommandKind::DeleteApplication, "{}"), &many), None);
    }

    #[test]
    fn a_tenth_of_many_tenants_is_the_limit() {
        let input = |deleted: usize, left: usize| PolicyInput {
            tenant_deletes: vec![Timestamp::from_second(9_900).unwrap(); deleted],
            tenants: left,
            ..PolicyInput::default()
        };
        let of = |deleted, left| {
            reason(&Policy::default(), &command(CommandKind::DeleteTenant, "{}"), &input(deleted, left))
        };
        let waits = Some("DeletionConfirmation");
        assert_eq!((of(9, 91), of(10, 90)), (None, waits), "ten of a hundred");
        assert_eq!((of(10, 91), of(11, 90)), (None, waits), "eleven of a hundred and one");
        assert_eq!((of(4, 6), of(5, 5)), (None, waits), "five, however few there are");
    }

    #[test]
    fn a_confirmation_counts_by_the_managers_clock_and_deletes_are_counted_by_the_clusters() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let statement = deletion_confirmation::text(&DeletionStatement {
            tenant_ids: vec!["t1".to_owned()],
            not_after: at(10_000).to_string(),
            ..DeletionStatement::default()
        });
        let delete = VerifiedCommand {
            command: Command {
                confirmation: Some(DeletionConfirmation { statement, signature: String::new() }),
                ..Command::default()
            },
            key: ObjectKey::Tenant { tenant_id: "t1".to_owned() },
            ..command(CommandKind::DeleteTenant, "{}")
        };
        let denied = |cluster: i64, manager: i64, stored: i64| {
            let input = PolicyInput { tenant_deletes: vec![at(stored); 5], tenants: 8, ..PolicyInput::default() };
            let now = Clocks { cluster: at(cluster), manager: at(manager) };
            check(&Policy::default(), &delete, &input, now).err().map(|denial| denial.message)
        };
        for off in [-7_200, 7_200] {
            assert_eq!(denied(9_999 + off, 9_999, 9_999 + off), None, "it still counts: {off}");
            let expired = denied(10_001 + off, 10_001, 10_001 + off).unwrap();
            assert!(expired.contains("1970-01-01T02:46:40Z") && expired.contains("1970-01-01T02:46:41Z"), "{expired}");
            assert_eq!(denied(10_001 + off, 10_001, 9_000 + off), None, "deleted more than ten minutes ago: {off}");
        }
    }

    #[test]
    fn other_versions_are_refused_when_the_site_says_so() {
        let policy = Policy { component_upgrades: false, ..Policy::default() };
        let mut present = Components::default();
        present.capsule.component.enabled = true;
        present.capsule.component.version = "0.14.0".into();
        let input = PolicyInput { components: Some(present), ..PolicyInput::default() };
        let same = r#"{"spec":{"components":{"capsule":{"enabled":true,"version":"0.14.0"}}}}"#;
        assert_eq!(reason(&policy, &command(CommandKind::ApplyClusterConfig, same), &input), None);
        for other in [
            r#"{"spec":{"components":{"capsule":{"enabled":true,"version":"0.15.0"}}}}"#,
            r#"{"spec":{"components":{"capsule":{"enabled":true,"version":"0.14.0","images":{"registry":"r.test"}}}}}"#,
        ] {
            let found = reason(&policy, &command(CommandKind::ApplyClusterConfig, other), &input);
            assert_eq!(found, Some("ComponentUpgradesForbidden"), "{other}");
        }
    }

    #[test]
    fn more_tenants_are_deleted_only_with_the_word_of_a_person_whom_the_policy_names() {
        let person = SigningKey::from_seed(&[5; 32]).unwrap();
        let key = data_encoding::BASE64.encode(&person.public_key());
        let named = Policy { deletion_confirmation_keys: vec![key], ..Policy::default() };
        let lately = Timestamp::from_second(9_900).unwrap();
        let input = PolicyInput { tenant_deletes: vec![lately; 5], tenants: 8, ..PolicyInput::default() };
        let statement = deletion_confirmation::text(&DeletionStatement {
            tenant_ids: vec!["t1".to_owned()],
            not_after: "1970-01-01T03:00:00Z".to_owned(),
            ..DeletionStatement::default()
        });
        let delete = |tenant: &str, signature: Option<String>| VerifiedCommand {
            command: Command {
                confirmation: signature
                    .map(|signature| DeletionConfirmation { statement: statement.clone(), signature }),
                ..Command::default()
            },
            kind: CommandKind::DeleteTenant,
            key: ObjectKey::Tenant { tenant_id: tenant.to_owned() },
            sha256: String::new(),
        };
        let signed = person.sign(PayloadType::DeletionStatement, statement.as_bytes());
        let waits = Some("DeletionConfirmation");
        for policy in [&named, &Policy::default()] {
            assert_eq!(reason(policy, &delete("t1", None), &input), waits);
            assert_eq!(reason(policy, &delete("t1", Some(signed.clone())), &input), None);
            assert_eq!(reason(policy, &delete("t2", Some(signed.clone())), &input), waits, "another tenant");
        }
        assert_eq!(reason(&named, &delete("t1", Some(String::new())), &input), waits, "the Manager's word alone");
        assert_eq!(reason(&Policy::default(), &delete("t1", Some(String::new())), &input), None);
        let broken = Policy { deletion_confirmation_keys: vec!["no key".to_owned()], ..Policy::default() };
        assert_eq!(
            reason(&broken, &delete("t1", Some(signed)), &input),
            waits,
            "a key that cannot be read confirms nothing"
        );
    }
}
