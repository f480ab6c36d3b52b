//! Applications: what a caller may decide about one, and on which clusters it runs.

use crate::{
    cluster::ClusterId,
    command::CommandState,
    label::{id_type, name_type},
    refusal::{Reason, Refusal},
    tenant::TenantId,
};
use jiff::Timestamp;
use std::collections::BTreeMap;

id_type! {
    /// An application's id (UUIDv7).
    ApplicationId
}

name_type! {
    /// An application's name, unique within its tenant.
    ApplicationName, "application", |_| Ok(())
}

/// Longest document of one application. Every part of the way carries it (broker messages, the inbox record, KubeVela's
/// revisions in etcd, whose limit is 1.5 MiB for all of them together).
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// The desired state of one application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    /// Its id.
    pub id: ApplicationId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Its name.
    pub name: ApplicationName,
    /// How it was described.
    pub form: Form,
    /// The caller's labels.
    pub labels: BTreeMap<String, String>,
    /// The caller's annotations.
    pub annotations: BTreeMap<String, String>,
    /// The Application's `spec`, exact JSON.
    pub spec: String,
    /// Version of this resource, from 1.
    pub generation: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the desired state last changed.
    pub updated_at: Timestamp,
    /// Who created it.
    pub created_by: String,
    /// When its delete was accepted. It stays until every cluster has reported that nothing of it is left.
    pub deleting_since: Option<Timestamp>,
}

impl Application {
    /// True when the other one asks clusters for the same: labels, annotations, spec and how it was described.
    #[must_use]
    pub fn is_same_request(&self, other: &Self) -> bool {
        self.form.is_same(&other.form)
            && self.labels == other.labels
            && self.annotations == other.annotations
            && self.spec == other.spec
    }
}

/// How an application was described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// By the typed form; holds it as exact JSON, so that a read returns what the create accepted.
    Typed(String),
    /// As a KubeVela Application.
    Raw,
}

impl Form {
    /// Compares the values, not the text: the database keeps another text of the same JSON.
    fn is_same(&self, other: &Self) -> bool {
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
        match (self, other) {
            (Self::Raw, Self::Raw) => true,
            (Self::Typed(one), Self::Typed(another)) => value(one) == value(another),
            _ => false,
        }
    }
}

/// What a delete has to do about one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Nothing of the application was ever sent there: it is gone at once.
    Forget,
    /// A delete command is on its way, or was carried out a moment ago.
    Wait,
    /// The cluster needs a delete command: it has none yet, or the last one ended without success.
    Command,
}

impl Removal {
    /// Decides from whether anything about the application was ever sent to the cluster, and where the delete command is
    /// that an earlier delete left there.
    #[must_use]
    pub fn decide(ever_sent: bool, delete_command: Option<CommandState>) -> Self {
        match delete_command {
            Some(state) if !state.is_terminal() || state == CommandState::Succeeded => Self::Wait,
            Some(_) => Self::Command,
            None if ever_sent => Self::Command,
            None => Self::Forget,
        }
    }
}

/// True when a cluster needs a command about a desired state that has not changed: it got none, or the newest one ended
/// without success, so that the same request is how a caller tries again.
#[must_use]
pub fn needs_command_again(newest: Option<CommandState>) -> bool {
    newest
        .is_none_or(|state| state.is_terminal() && !matches!(state, CommandState::Succeeded | CommandState::Superseded))
}

/// The clusters an application runs on: those named, else the tenant's only one.
///
/// # Errors
/// With [`Reason::PlacementRequired`] when the tenant has several placements and none was named; with
/// [`Reason::NotPlaced`] when it has none, or a named one is not the tenant's.
pub fn choose_clusters(placements: &[ClusterId], named: Option<&[ClusterId]>) -> Result<Vec<ClusterId>, Refusal> {
    let required = |detail: &str| Err(Refusal::at(Reason::PlacementRequired, "/clusters", detail));
    let mut chosen = match (placements, named) {
        ([], _) => return Err(Refusal::at(Reason::NotPlaced, "/clusters", "the tenant is on no cluster yet")),
        (_, Some([])) => return required("clusters is empty: name at least one"),
        ([only], None) => vec![only.clone()],
        (several, None) => {
            return required(&format!(
                "the tenant is on {} clusters and the request names none of them",
                several.len()
            ));
        }
        (_, Some(named)) => named.to_vec(),
    };
    if let Some(foreign) = chosen.iter().find(|cluster| !placements.contains(cluster)) {
        return Err(Refusal::at(Reason::NotPlaced, "/clusters", format!("the tenant is not on cluster \"{foreign}\"")));
    }
    chosen.sort();
    chosen.dedup();
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn cluster(number: u128) -> ClusterId {
        ClusterId::from_uuid(Uuid::from_u128(number))
    }

    #[test]
    fn one_placement_needs_no_name_and_several_do() {
        let (a, b) = (cluster(1), cluster(2));
        assert_eq!(choose_clusters(std::slice::from_ref(&a), None), Ok(vec![a.clone()]));
        let both = [a.clone(), b.clone()];
        assert_eq!(choose_clusters(&both, None).unwrap_err().reason, Reason::PlacementRequired);
        assert_eq!(choose_clusters(&[], None).unwrap_err().reason, Reason::NotPlaced);
        assert_eq!(choose_clusters(&both, Some(&[])).unwrap_err().reason, Reason::PlacementRequired);
        assert_eq!(choose_clusters(&both, Some(&[b.clone(), a.clone(), b.clone()])), Ok(vec![a, b]));
        assert_eq!(choose_clusters(&both, Some(&[cluster(3)])).unwrap_err().reason, Reason::NotPlaced);
    }

    #[test]
    fn only_a_cluster_that_was_never_sent_anything_forgets_at_once() {
        assert_eq!(Removal::decide(false, None), Removal::Forget);
        assert_eq!(Removal::decide(true, None), Removal::Command);
        for state in CommandState::ALL {
            let expected = match state {
                CommandState::Queued
                | CommandState::Sent
                | CommandState::Acknowledged
                | CommandState::Running
                | CommandState::Succeeded => Removal::Wait,
                _ => Removal::Command,
            };
            assert_eq!(Removal::decide(true, Some(state)), expected, "{state:?}");
            assert_ne!(Removal::decide(false, Some(state)), Removal::Forget, "{state:?}");
        }
    }

    #[test]
    fn an_unchanged_request_is_sent_again_only_where_it_ended_without_success() {
        assert!(needs_command_again(None));
        for state in CommandState::ALL {
            let ended_badly = matches!(
                state,
                CommandState::Failed | CommandState::Refused | CommandState::Cancelled | CommandState::Expired
            );
            assert_eq!(needs_command_again(Some(state)), ended_badly, "{state:?}");
        }
    }

    #[test]
    fn requests_are_compared_by_value() {
        let typed = |text: &str| Application {
            id: ApplicationId(Uuid::nil()),
            tenant_id: TenantId(Uuid::nil()),
            name: ApplicationName::parse("shop").unwrap(),
            form: Form::Typed(text.to_owned()),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            spec: "{}".into(),
            generation: 1,
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
            created_by: "ann".into(),
            deleting_since: None,
        };
        let first = typed(r#"{"name":"shop","image":"x"}"#);
        assert!(first.is_same_request(&Application { generation: 7, ..typed(r#"{ "image": "x", "name": "shop" }"#) }));
        assert!(!first.is_same_request(&typed(r#"{"name":"shop","image":"y"}"#)));
        assert!(!first.is_same_request(&Application { form: Form::Raw, ..first.clone() }));
        assert!(!first.is_same_request(&Application { spec: "{\"a\":1}".into(), ..first.clone() }));
        let labels = BTreeMap::from([("team".to_owned(), "web".to_owned())]);
        assert!(!first.is_same_request(&Application { labels, ..first.clone() }));
    }
}
