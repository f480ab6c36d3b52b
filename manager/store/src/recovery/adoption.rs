//! What an adoption is given, what it takes, and why it may be refused.

use crate::{error::StoreError, outbox::Issuer};
use kubenova_core::{
    cluster::ClusterId,
    recovery::{Action, HeldCommand},
};
use kubenova_schema::signature::AcceptedKeys;
use std::collections::{BTreeMap, BTreeSet};

/// Author of what a recovery writes; usage that came before it is counted by this name.
pub const RECOVERY_AUTHOR: &str = "kubenova-manager recover";

/// Why nothing was adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// A person has to decide something first.
    #[error("{0}; nothing was changed")]
    Refused(String),
    /// Postgres.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What to adopt.
#[derive(Debug, Clone, Copy)]
pub struct Adoption<'a> {
    /// The cluster.
    pub cluster: &'a ClusterId,
    /// The Manager's own command keys, the previous one included.
    pub keys: &'a AcceptedKeys,
    /// Objects that are left as they are in the cluster: not known here, shown as unknown.
    pub leave: &'a BTreeSet<String>,
    /// Who does it.
    pub issuer: Issuer<'a>,
}

/// What was adopted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// Keys of each action.
    pub keys: BTreeMap<Action, usize>,
    /// The cluster's epoch from now on.
    pub epoch: i64,
    /// Its counter.
    pub counter: i64,
}

/// A command of the cluster with what becomes of it.
pub(super) struct Taken {
    pub(super) command: HeldCommand,
    pub(super) action: Action,
    /// It is recorded as replaced, and its object stays unknown.
    pub(super) is_left: bool,
}

pub(super) fn refused(why: impl Into<String>) -> AdoptError {
    AdoptError::Refused(why.into())
}
