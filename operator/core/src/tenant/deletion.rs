//! Deleting a tenant, in the order of the design: uncordon, Applications, what they left behind, LoadBalancers and claims, the
//! Tenant, its TenantOwners. The first thing that is still there decides what is done next and what the condition says.

use crate::record::Unverified;
use kubenova_schema::{kinds::CommandKind, mutant};

/// Reason of the conditions while a NovaTenant is being deleted and the Manager has not commanded it.
pub const NOT_ORDERED: &str = "DeletionNotOrdered";

/// The event then, where the Manager wants the tenant.
pub const WRITTEN_AGAIN: &str = "this NovaTenant was deleted without a command of the Manager, which wants the tenant: nothing of it is \
                                 touched, and the NovaTenant is written again; delete the tenant at the Manager";

/// What becomes of a NovaTenant with a deletionTimestamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ordered {
    /// The Manager commanded it: everything of the tenant goes.
    Delete,
    /// The Manager wants the tenant: only the NovaTenant goes, and is written again from its command.
    Keep,
    /// No command says what is wanted: nothing happens, for this reason.
    Unknown(String),
}

/// Decides by the tenant's inbox record, as verified; none when there is none.
#[must_use]
pub fn ordered(record: Option<Result<CommandKind, Unverified>>) -> Ordered {
    match record {
        _ if mutant::is_on("tenant.deletion-not-ordered") => Ordered::Delete,
        Some(Ok(CommandKind::DeleteTenant)) => Ordered::Delete,
        Some(Ok(CommandKind::ApplyTenant)) => Ordered::Keep,
        Some(Ok(kind)) => Ordered::Unknown(format!("its record is of the command {}", kind.as_str())),
        Some(Err(unverified)) => Ordered::Unknown(format!("its record is not carried out: {unverified}")),
        None => Ordered::Unknown("it has no record".to_owned()),
    }
}

/// The message of the conditions then.
#[must_use]
pub fn not_ordered(why: &str) -> String {
    format!(
        "this NovaTenant was deleted, and no command of the Manager deletes or keeps the tenant: {why}; nothing of the tenant is \
         touched; delete it at the Manager, or remove the finalizer {} to forget it here with everything left in place",
        super::FINALIZER
    )
}

/// What is still there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remains {
    /// The Capsule Tenant exists.
    pub tenant: bool,
    /// It is cordoned: nothing in it can be deleted.
    pub cordoned: bool,
    /// It is being deleted.
    pub terminating: bool,
    /// It refuses deletion.
    pub prevent_deletion: bool,
    /// The message of its Ready condition when it is not ready.
    pub message: String,
    /// Applications.
    pub applications: Vec<String>,
    /// Objects labelled as an Application's although none is left, `<Kind>/<name>`.
    pub orphans: Vec<String>,
    /// KubeVela's ResourceTrackers of Applications that are gone.
    pub trackers: Vec<String>,
    /// Services of type LoadBalancer.
    pub balancers: Vec<String>,
    /// PersistentVolumeClaims.
    pub claims: Vec<String>,
    /// Namespaces.
    pub namespaces: Vec<String>,
    /// TenantOwners.
    pub owners: Vec<String>,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing in a cordoned Tenant can be deleted.
    Uncordon,
    /// As the deployer. KubeVela deletes what they created.
    DeleteApplications,
    /// As the deployer.
    DeleteOrphans,
    /// With KubeVela's finalizer.
    DeleteTrackers,
    /// As the deployer. They cost money until they are gone.
    DeleteOutside,
    /// Lift the Tenant's protection against deletion.
    AllowDeletion,
    /// Capsule deletes the namespaces with it.
    DeleteTenant,
    /// Capsule deletes the namespaces.
    AwaitTenant,
    /// Last, since they outlive the Tenant.
    DeleteOwners,
    /// Nothing is left.
    Done,
}

/// The next step.
#[must_use]
pub fn next(remains: &Remains) -> Step {
    if remains.tenant && !remains.terminating {
        return next_inside(remains);
    }
    if remains.tenant || !remains.namespaces.is_empty() {
        return Step::AwaitTenant;
    }
    if remains.owners.is_empty() { Step::Done } else { Step::DeleteOwners }
}

const fn next_inside(remains: &Remains) -> Step {
    if remains.cordoned {
        Step::Uncordon
    } else if !remains.applications.is_empty() {
        Step::DeleteApplications
    } else if !remains.orphans.is_empty() {
        Step::DeleteOrphans
    } else if !remains.trackers.is_empty() {
        Step::DeleteTrackers
    } else if !remains.balancers.is_empty() || !remains.claims.is_empty() {
        Step::DeleteOutside
    } else if remains.prevent_deletion {
        Step::AllowDeletion
    } else {
        Step::DeleteTenant
    }
}

/// Reason and message of the `Deleting` condition.
#[must_use]
pub fn words(step: Step, remains: &Remains) -> (&'static str, String) {
    let list = |what: &str, names: &[String]| {
        let shown: Vec<&str> = names.iter().take(5).map(String::as_str).collect();
        let more =
            if names.len() > shown.len() { format!(" and {} more", names.len() - shown.len()) } else { String::new() };
        format!("{what}: {}{more}", shown.join(", "))
    };
    match step {
        Step::Uncordon => {
            ("Uncordoning", "uncordoning the Capsule Tenant, since nothing in a cordoned one can be deleted".to_owned())
        }
        Step::DeleteApplications => ("ApplicationsRemain", list("deleting applications", &remains.applications)),
        Step::DeleteOrphans => {
            ("OrphansRemain", list("deleting objects that applications left behind", &remains.orphans))
        }
        Step::DeleteTrackers => {
            ("TrackersRemain", list("deleting KubeVela's ResourceTrackers of applications", &remains.trackers))
        }
        Step::DeleteOutside => {
            let both: Vec<String> = remains
                .balancers
                .iter()
                .map(|name| format!("Service/{name}"))
                .chain(remains.claims.iter().map(|name| format!("PersistentVolumeClaim/{name}")))
                .collect();
            ("OutsideResourcesRemain", list("deleting load balancers and volumes", &both))
        }
        Step::AllowDeletion | Step::DeleteTenant => ("RemovingTenant", "deleting the Capsule Tenant".to_owned()),
        Step::AwaitTenant if remains.message.is_empty() => {
            ("NamespacesRemain", list("waiting for Capsule to delete the namespaces", &remains.namespaces))
        }
        Step::AwaitTenant => {
            ("NamespacesRemain", format!("waiting for Capsule to delete the namespaces: {}", remains.message))
        }
        Step::DeleteOwners => ("OwnersRemain", list("deleting TenantOwners", &remains.owners)),
        Step::Done => ("Gone", "nothing of the tenant is left".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_managers_command_deletes_a_tenant() {
        assert_eq!(ordered(Some(Ok(CommandKind::DeleteTenant))), Ordered::Delete);
        assert_eq!(ordered(Some(Ok(CommandKind::ApplyTenant))), Ordered::Keep);
        let forged = Some(Err(Unverified::Foreign("no signature".into())));
        for record in [None, forged, Some(Ok(CommandKind::ApplyApplication))] {
            assert!(matches!(ordered(record.clone()), Ordered::Unknown(_)), "{record:?}");
        }
    }

    #[test]
    fn a_tenant_is_deleted_in_the_order_of_the_design() {
        let one = || vec!["x".to_owned()];
        let mut remains = Remains {
            tenant: true,
            cordoned: true,
            prevent_deletion: true,
            applications: one(),
            trackers: one(),
            orphans: one(),
            balancers: one(),
            claims: one(),
            namespaces: one(),
            owners: one(),
            ..Remains::default()
        };
        let mut seen = Vec::new();
        for _ in 0..20 {
            let step = next(&remains);
            assert!(!words(step, &remains).0.is_empty());
            seen.push(step);
            match step {
                Step::Uncordon => remains.cordoned = false,
                Step::DeleteApplications => remains.applications.clear(),
                Step::DeleteOrphans => remains.orphans.clear(),
                Step::DeleteTrackers => remains.trackers.clear(),
                Step::DeleteOutside => {
                    remains.balancers.clear();
                    remains.claims.clear();
                }
                Step::AllowDeletion => remains.prevent_deletion = false,
                Step::DeleteTenant => remains.terminating = true,
                Step::AwaitTenant => {
                    remains.tenant = false;
                    remains.namespaces.clear();
                }
                Step::DeleteOwners => remains.owners.clear(),
                Step::Done => break,
            }
        }
        assert_eq!(
            seen,
            [
                Step::Uncordon,
                Step::DeleteApplications,
                Step::DeleteOrphans,
                Step::DeleteTrackers,
                Step::DeleteOutside,
                Step::AllowDeletion,
                Step::DeleteTenant,
                Step::AwaitTenant,
                Step::DeleteOwners,
                Step::Done,
            ]
        );
    }
}
