//! A person's word that more tenants of a cluster may be deleted than are deleted at once.
//!
//! The statement names the cluster, its UID, the tenants and a time. Where the cluster's policy names keys, one of those must have
//! signed its exact bytes; where it names none, the Manager's signature over the command that carries it is enough.

use crate::{
    message, mutant,
    signature::{AcceptedKeys, PayloadType},
    v1::{Command, DeletionConfirmation, DeletionStatement},
};
use jiff::Timestamp;

/// Why a command's confirmation does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotConfirmed {
    /// It carries none.
    #[error("the command carries no confirmation")]
    Missing,
    /// The statement cannot be read.
    #[error("the confirmation cannot be read")]
    Unreadable,
    /// It is about another cluster, or another Kubernetes cluster of this name.
    #[error("the confirmation is about another cluster")]
    OtherCluster,
    /// It does not name the tenant.
    #[error("the confirmation does not name this tenant")]
    OtherTenant,
    /// Its time has passed.
    #[error("the confirmation counted until {until}, and it is {now} by the Manager's clock")]
    Expired {
        /// As the statement says.
        until: String,
        /// When it was checked.
        now: Timestamp,
    },
    /// No key of the policy signed it.
    #[error("the confirmation is signed by no key that the policy of this cluster names")]
    Signature,
}

/// Checks the confirmation of a verified command to delete a tenant. `keys` are those of the cluster's policy; none when it names
/// none. `now` is the Manager's time: the statement's was set by it, or by the person's own clock.
///
/// # Errors
/// With the first reason for which it does not count.
pub fn check(
    command: &Command,
    tenant_id: &str,
    keys: Option<&AcceptedKeys>,
    now: Timestamp,
) -> Result<DeletionStatement, NotConfirmed> {
    let DeletionConfirmation { statement: text, signature } =
        command.confirmation.as_ref().ok_or(NotConfirmed::Missing)?;
    if let Some(keys) = keys
        && !mutant::is_on("confirmation.signature")
    {
        keys.verify(PayloadType::DeletionStatement, text.as_bytes(), Some(signature))
            .map_err(|_| NotConfirmed::Signature)?;
    }
    let statement = read(text).ok_or(NotConfirmed::Unreadable)?;
    if (&statement.cluster_id, &statement.cluster_uid) != (&command.cluster_id, &command.cluster_uid) {
        return Err(NotConfirmed::OtherCluster);
    }
    if !statement.tenant_ids.iter().any(|id| id == tenant_id) {
        return Err(NotConfirmed::OtherTenant);
    }
    if statement.not_after.parse::<Timestamp>().is_ok_and(|deadline| now <= deadline) {
        Ok(statement)
    } else {
        Err(NotConfirmed::Expired { until: statement.not_after, now })
    }
}

/// Reads the exact text of a statement.
#[must_use]
pub fn read(text: &str) -> Option<DeletionStatement> {
    message::from_json(text.as_bytes()).ok()
}

/// The exact text of a statement, which is signed.
#[must_use]
pub fn text(statement: &DeletionStatement) -> String {
    String::from_utf8(message::to_json(statement)).expect("JSON is UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::SigningKey;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn person() -> SigningKey {
        SigningKey::from_seed(&[5; 32]).unwrap()
    }

    fn statement() -> DeletionStatement {
        DeletionStatement {
            cluster_id: "c1".into(),
            cluster_uid: "uid".into(),
            tenant_ids: vec!["t1".into(), "t2".into()],
            not_after: "1970-01-01T00:01:40Z".into(),
            confirmed_by: "ann".into(),
        }
    }

    fn command(statement: &DeletionStatement, signer: Option<&SigningKey>) -> Command {
        let text = text(statement);
        let sign = |key: &SigningKey| key.sign(PayloadType::DeletionStatement, text.as_bytes());
        let signature = signer.map(sign).unwrap_or_default();
        Command {
            cluster_id: "c1".into(),
            cluster_uid: "uid".into(),
            confirmation: Some(DeletionConfirmation { statement: text, signature }),
            ..Command::default()
        }
    }

    #[test]
    fn only_a_key_of_the_policy_confirms_where_the_policy_names_keys() {
        let keys = AcceptedKeys::new([(person().id().to_owned(), person().public_key())]);
        let check =
            |command: &Command| check(command, "t1", Some(&keys), at(100)).map(|statement| statement.confirmed_by);
        assert_eq!(check(&command(&statement(), Some(&person()))), Ok("ann".to_owned()));
        let manager = SigningKey::from_seed(&[9; 32]).unwrap();
        for signer in [None, Some(&manager)] {
            assert_eq!(check(&command(&statement(), signer)), Err(NotConfirmed::Signature), "a stolen Manager");
        }
        let mut changed = command(&statement(), Some(&person()));
        let confirmation = changed.confirmation.as_mut().unwrap();
        confirmation.statement = confirmation.statement.replace("t2", "t3");
        assert_eq!(check(&changed), Err(NotConfirmed::Signature));
    }

    #[test]
    fn each_part_of_a_statement_counts() {
        let check = |change: fn(&mut DeletionStatement), tenant: &str, now| {
            let mut statement = statement();
            change(&mut statement);
            check(&command(&statement, None), tenant, None, at(now)).err()
        };
        assert_eq!(check(|_| {}, "t2", 100), None, "the Manager's word, where the policy names no key");
        assert_eq!(check(|_| {}, "t3", 100), Some(NotConfirmed::OtherTenant));
        let expired = |until: &str, now| Some(NotConfirmed::Expired { until: until.to_owned(), now: at(now) });
        assert_eq!(check(|_| {}, "t1", 101), expired("1970-01-01T00:01:40Z", 101));
        assert_eq!(check(|it| it.cluster_id = "c2".into(), "t1", 100), Some(NotConfirmed::OtherCluster));
        assert_eq!(check(|it| it.cluster_uid = "other".into(), "t1", 100), Some(NotConfirmed::OtherCluster));
        assert_eq!(check(|it| it.not_after.clear(), "t1", 100), expired("", 100));
        assert_eq!(super::check(&Command::default(), "t1", None, at(0)), Err(NotConfirmed::Missing));
    }
}
