//! What cannot be read off an operation's shape: the refusals that its own rules add, and whether it has an ETag.

use kubenova_core::refusal::Reason;

/// What the document says of one operation beyond its shape.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// `operationId`.
    pub operation: &'static str,
    /// Reasons that its own rules add to those of its shape.
    pub refusals: &'static [Reason],
    /// Its successful answer carries the object's `ETag`.
    pub etag: bool,
    /// It honors `If-Match`.
    pub if_match: bool,
}

const fn reads(operation: &'static str) -> Facts {
    Facts { operation, refusals: &[], etag: false, if_match: false }
}

const fn changes(operation: &'static str, refusals: &'static [Reason]) -> Facts {
    Facts { operation, refusals, etag: false, if_match: false }
}

impl Facts {
    const fn with_etag(self) -> Self {
        Self { etag: true, ..self }
    }

    const fn with_if_match(self) -> Self {
        Self { if_match: true, ..self }
    }
}

use Reason as R;

const NAME: [Reason; 3] = [R::NameInvalid, R::NameReserved, R::NameTaken];
const CREATE_CLUSTER: &[Reason] = &NAME;
const CREATE_TENANT: &[Reason] = &[R::NameInvalid, R::NameReserved, R::NameTaken, R::ClusterNotUsable];
const DECIDE: &[Reason] =
    &[R::EnrollmentNotPending, R::EnrollmentFingerprintMismatch, R::EnrollmentTokenExpired, R::EnrollmentTokenRevoked];
const PLACE: &[Reason] = &[R::PlacementExists, R::ClusterNotUsable];
const WRITE_APPLICATION: &[Reason] = &[
    R::NameInvalid,
    R::NameReserved,
    R::ApplicationDeleting,
    R::PlacementRequired,
    R::NotPlaced,
    R::ApplicationInvalid,
    R::ApplicationNamespace,
];
const CREATE_APPLICATION: &[Reason] = &[
    R::NameInvalid,
    R::NameReserved,
    R::NameTaken,
    R::ApplicationDeleting,
    R::PlacementRequired,
    R::NotPlaced,
    R::ApplicationInvalid,
    R::ApplicationNamespace,
];

const RETRY_COMMAND: &[Reason] =
    &[R::CommandNotRetryable, R::CommandOutdated, R::ClusterNotUsable, R::ApplicationDeleting];

/// Every operation.
pub const OPERATIONS: &[Facts] = &[
    reads("getFrontPage"),
    reads("getHealth"),
    reads("getReadiness"),
    reads("getOpenApi"),
    Facts { refusals: &[R::RouteNotFound], ..reads("getProblem") },
    reads("getMe"),
    changes("createCluster", CREATE_CLUSTER).with_etag(),
    changes("createClusterAtRoot", CREATE_CLUSTER).with_etag(),
    reads("listClusters"),
    reads("getCluster").with_etag(),
    changes("changeCluster", &[R::ClusterNotUsable]).with_etag().with_if_match(),
    reads("listComponents"),
    reads("getComponent").with_etag(),
    changes("replaceComponent", &[R::ClusterNotUsable]).with_etag().with_if_match(),
    reads("getClusterSync"),
    changes("compareCluster", &[]),
    changes("createEnrollment", &[R::ClusterNotUsable]),
    changes("releaseCluster", &[R::ClusterStateUnfit]),
    changes("revokeCluster", &[R::ClusterStateUnfit]),
    changes("detachCluster", &[R::ClusterStateUnfit]),
    changes("undeleteCluster", &[R::ClusterStateUnfit]),
    reads("listEnrollments"),
    reads("getEnrollment"),
    changes("revokeEnrollment", &[R::EnrollmentCompleted]),
    changes("approveEnrollment", DECIDE),
    changes("rejectEnrollment", DECIDE),
    changes("purgeCluster", &[R::ClusterInSession]),
    changes("confirmDeletions", &[]),
    changes("createRollout", &[R::ClusterNotFound, R::ClusterNotUsable, R::RolloutOverlaps]),
    reads("listRollouts"),
    reads("getRollout"),
    changes("pauseRollout", &[R::RolloutStateUnfit]),
    changes("resumeRollout", &[R::RolloutStateUnfit]),
    changes("cancelRollout", &[R::RolloutStateUnfit]),
    changes("rollbackRollout", &[R::RolloutStateUnfit, R::RolloutOverlaps]),
    changes("createTenant", CREATE_TENANT).with_etag(),
    reads("listTenants"),
    reads("getTenant").with_etag(),
    changes("createPlacement", PLACE),
    reads("listPlacements"),
    changes("createApplication", CREATE_APPLICATION).with_etag(),
    changes("createApplicationAtRoot", CREATE_APPLICATION).with_etag(),
    changes("createApplicationOfUser", CREATE_APPLICATION).with_etag(),
    reads("listApplications"),
    reads("getApplication").with_etag(),
    changes("replaceApplication", WRITE_APPLICATION).with_etag().with_if_match(),
    changes("deleteApplication", &[]).with_if_match(),
    reads("getApplicationStatus"),
    reads("getApplicationStatusAtRoot"),
    changes("restartApplication", &[R::ApplicationDeleting]),
    changes("restartApplicationAtRoot", &[R::ApplicationDeleting]),
    changes("suspendWorkflow", &[R::ApplicationDeleting]),
    changes("resumeWorkflow", &[R::ApplicationDeleting]),
    changes("terminateWorkflow", &[R::ApplicationDeleting]),
    Facts { refusals: &[R::TenantNotFound, R::ClusterNotFound], ..reads("listCommands") },
    reads("getCommand"),
    changes("cancelCommand", &[R::CommandSent, R::CommandEnded]),
    changes("retryCommand", RETRY_COMMAND),
    Facts { refusals: &[R::ClusterNotFound], ..reads("listDeadLetters") },
    reads("getDeadLetter"),
    changes("discardDeadLetter", &[]),
    Facts { refusals: &[R::TenantNotFound, R::ClusterNotFound], ..reads("listUsage") },
];

/// What is known of an operation; nothing of one that is missing above, which a test reports.
pub(super) fn facts(operation: &str) -> &'static Facts {
    const UNKNOWN: Facts = reads("");
    OPERATIONS.iter().find(|facts| facts.operation == operation).unwrap_or(&UNKNOWN)
}
