//! The one error that a caller of the API sees: a stable reason, what went wrong, and what to do about it.
//!
//! Internal detail stays in the log. The mapping to HTTP is in `api/src/error.rs`; `docs/errors.md` and
//! `GET /problems/{slug}` are made from the catalogue below.

use std::time::Duration;

macro_rules! reasons {
    ($(#[doc = $doc:literal] $name:ident = $text:literal, $status:literal, $title:literal, $remedy:literal;)*) => {
        /// Why a request was refused. The text never changes once released.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $(#[doc = $doc] $name,)* }

        impl Reason {
            /// Every reason, in the catalogue's order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Stable text, UPPER_SNAKE.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// HTTP status.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// A short title, the same for every occurrence.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// What it means, in one sentence.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $doc.trim_start(),)* }
            }

            /// What to do about it.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)* }
            }
        }
    };
}

reasons! {
    /// The request's body is not valid JSON or YAML, or not an object.
    BodyMalformed = "BODY_MALFORMED", 400, "Malformed body", "correct the body at the place named in the detail";
    /// A query parameter is unknown, stands twice or has a value outside its documented range.
    QueryInvalid = "QUERY_INVALID", 400, "Invalid query parameter", "see the parameters of this path in /openapi.json";
    /// A request header has a value that cannot be used.
    HeaderInvalid = "HEADER_INVALID", 400, "Invalid header", "see the headers of this path in /openapi.json";
    /// The cursor was altered, or belongs to another list or filter.
    CursorInvalid = "CURSOR_INVALID", 400, "Invalid cursor", "start the list again without a cursor";
    /// The request carries no token, or one that is unknown, expired or revoked.
    Unauthenticated = "UNAUTHENTICATED", 401, "Not authenticated", "send Authorization: Bearer with a token that is not expired; an administrator creates one with kubenova-manager token create";
    /// The caller is known, but its role does not allow this operation.
    Forbidden = "FORBIDDEN", 403, "Not allowed", "ask an administrator for a role that allows this";
    /// The API has no such path.
    RouteNotFound = "ROUTE_NOT_FOUND", 404, "Path not found", "see the paths in /openapi.json";
    /// No cluster has this id or name.
    ClusterNotFound = "CLUSTER_NOT_FOUND", 404, "Cluster not found", "list the clusters with GET /api/v1/clusters";
    /// There is no component of this name.
    ComponentNotFound = "COMPONENT_NOT_FOUND", 404, "Component not found", "use capsule, capsule-proxy or kubevela";
    /// No rollout has this id: it was never there, or was deleted because of its age.
    RolloutNotFound = "ROLLOUT_NOT_FOUND", 404, "Rollout not found", "list the rollouts with GET /api/v1/rollouts";
    /// No tenant that the caller may see has this id or name.
    TenantNotFound = "TENANT_NOT_FOUND", 404, "Tenant not found", "list the tenants with GET /api/v1/tenants";
    /// The tenant has no application of this name.
    ApplicationNotFound = "APPLICATION_NOT_FOUND", 404, "Application not found", "list the applications with GET /api/v1/tenants/{tenant}/apps";
    /// No command that the caller may see has this id.
    CommandNotFound = "COMMAND_NOT_FOUND", 404, "Command not found", "list the commands with GET /api/v1/commands";
    /// No dead letter has this id: it was discarded, or deleted because of its age.
    DeadLetterNotFound = "DEAD_LETTER_NOT_FOUND", 404, "Dead letter not found", "list the dead letters with GET /api/v1/dead-letters";
    /// The cluster has no enrollment token with this id.
    EnrollmentNotFound = "ENROLLMENT_NOT_FOUND", 404, "Enrollment token not found", "list the tokens of the cluster with GET /api/v1/clusters/{cluster}/enrollments";
    /// The path exists, but not with this method.
    MethodNotAllowed = "METHOD_NOT_ALLOWED", 405, "Method not allowed", "use one of the methods in the Allow header";
    /// The request's body did not arrive in time.
    RequestTimeout = "REQUEST_TIMEOUT", 408, "Request body too slow", "send the whole body without pausing, then try again";
    /// Another object has this name.
    NameTaken = "NAME_TAKEN", 409, "Name already in use", "choose another name, or use the object that has it";
    /// The tenant is already placed on this cluster.
    PlacementExists = "PLACEMENT_EXISTS", 409, "Placement already exists", "nothing to do: the tenant is on this cluster";
    /// The first request with this Idempotency-Key is not finished yet.
    IdempotencyKeyInUse = "IDEMPOTENCY_KEY_IN_USE", 409, "Request still in progress", "repeat the request after a second; when the first one was accepted, it gets the same answer";
    /// The cluster's identity was revoked, or the cluster is detached or purged.
    ClusterNotUsable = "CLUSTER_NOT_USABLE", 409, "Cluster accepts no changes", "see its state and message at GET /api/v1/clusters/{cluster}: take a detached one back with POST /api/v1/clusters/{cluster}/undelete, enroll a revoked one with a token from POST /api/v1/clusters/{cluster}/enrollments, wait while one is revoking; or use another cluster";
    /// The cluster is in a state that this operation is not for.
    ClusterStateUnfit = "CLUSTER_STATE_UNFIT", 409, "Not in this state of the cluster", "see the state of the cluster and its message at GET /api/v1/clusters/{cluster}";
    /// The cluster is in session, so that it is not gone.
    ClusterInSession = "CLUSTER_IN_SESSION", 409, "Cluster is in session", "uninstall its Operator, or revoke its credentials with POST /api/v1/clusters/{cluster}/revoke; it can be purged 45 seconds after its last heartbeat";
    /// Another rollout that has not ended changes the same component on one of the clusters.
    RolloutOverlaps = "ROLLOUT_OVERLAPS", 409, "Another rollout is under way", "see the rollouts with GET /api/v1/rollouts: wait until the other one has ended, cancel it, or leave those clusters out";
    /// The rollout is in a state that this operation is not for.
    RolloutStateUnfit = "ROLLOUT_STATE_UNFIT", 409, "Not in this state of the rollout", "see the state of the rollout and its message at GET /api/v1/rollouts/{rollout}";
    /// No installation waits for approval with this token: none asked, or it was decided about, or the token was used.
    EnrollmentNotPending = "ENROLLMENT_NOT_PENDING", 409, "Nothing waits for approval", "see the token with GET /api/v1/clusters/{cluster}/enrollments/{enrollment}; create a new one when another installation is to be approved";
    /// The installation that waits for approval has other keys than the request names.
    EnrollmentFingerprintMismatch = "ENROLLMENT_FINGERPRINT_MISMATCH", 409, "Fingerprint does not match", "compare again: the cluster shows its own in condition TokenAccepted of NovaClusterConfig; when they differ, another installation used the token: reject it";
    /// The enrollment token was used, so that there is nothing to revoke.
    EnrollmentCompleted = "ENROLLMENT_COMPLETED", 409, "Enrollment token was used", "to refuse the credentials that the cluster holds, revoke them with POST /api/v1/clusters/{cluster}/revoke; when another installation may have the token, enroll the right one again with a new token";
    /// The application is being deleted.
    ApplicationDeleting = "APPLICATION_DELETING", 409, "Application is being deleted", "wait until its clusters have removed it, see GET /api/v1/tenants/{tenant}/apps/{application}/status; or choose another name";
    /// The command was sent to its cluster before it could be cancelled.
    CommandSent = "COMMAND_SENT", 409, "Command was sent already", "write the version before of the object again, for example with PUT /api/v1/tenants/{tenant}/apps/{application}: a newer command takes the place of this one";
    /// The command has reached a final state.
    CommandEnded = "COMMAND_ENDED", 409, "Command has ended", "see its state with GET /api/v1/commands/{command}; to undo what it did, write the version before of the object again";
    /// The command is under way, was carried out, or was replaced by a newer one.
    CommandNotRetryable = "COMMAND_NOT_RETRYABLE", 409, "Command cannot be retried", "see its state with GET /api/v1/commands/{command}: only a command that ended without success can be retried";
    /// What the command carries is not wanted any more.
    CommandOutdated = "COMMAND_OUTDATED", 409, "Command is out of date", "see in the detail what is wanted now; change the object itself if that is wrong";
    /// The object changed since the caller read it.
    EtagMismatch = "ETAG_MISMATCH", 412, "Object has changed", "read the object again and repeat the change with its new ETag";
    /// The body is larger than this API accepts.
    BodyTooLarge = "BODY_TOO_LARGE", 413, "Body too large", "send a smaller body; the limit is in the detail";
    /// The path and query together are longer than this API accepts.
    UriTooLong = "URI_TOO_LONG", 414, "URI too long", "shorten the path or the query; the limit is in the detail";
    /// The body's media type, character set or encoding is not one that this path reads.
    MediaTypeUnsupported = "MEDIA_TYPE_UNSUPPORTED", 415, "Unsupported media type", "send Content-Type: application/json, or application/yaml where /openapi.json lists it";
    /// The name is not a valid DNS label of this API.
    NameInvalid = "NAME_INVALID", 422, "Invalid name", "use 1 to 50 lower-case letters, digits and dashes, beginning with a letter and ending with a letter or digit";
    /// The name belongs to Kubernetes, to an installed component or to KubeNova itself.
    NameReserved = "NAME_RESERVED", 422, "Reserved name", "choose a name that does not begin with a reserved word; the detail names it";
    /// A field has a value that cannot be used.
    FieldInvalid = "FIELD_INVALID", 422, "Invalid field", "correct the value at the pointer in fields, as the detail says";
    /// The tenant is on several clusters and the request names none of them.
    PlacementRequired = "PLACEMENT_REQUIRED", 422, "Clusters not named", "name the clusters in clusters; see GET /api/v1/tenants/{tenant}/placements";
    /// The tenant is not placed on a cluster that the request names.
    NotPlaced = "NOT_PLACED", 422, "Tenant is not on this cluster", "place the tenant first with POST /api/v1/tenants/{tenant}/placements";
    /// The KubeVela Application breaks a rule of this API.
    ApplicationInvalid = "APPLICATION_INVALID", 422, "Invalid Application", "correct the Application at the pointer in fields, as the detail says";
    /// The KubeVela Application names a namespace that is not the tenant's.
    ApplicationNamespace = "APPLICATION_NAMESPACE", 422, "Wrong namespace", "leave metadata.namespace out, or set it to <tenant>-apps";
    /// The Idempotency-Key was used for a different request.
    IdempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED", 422, "Idempotency key reused", "use a new Idempotency-Key for a new request";
    /// The enrollment token is not one of this Manager, or is for another cluster.
    EnrollmentTokenUnknown = "ENROLLMENT_TOKEN_UNKNOWN", 401, "Unknown enrollment token", "copy the token whole from the answer to POST /clusters";
    /// The enrollment token was used by another installation, or by this one, which has connected since.
    EnrollmentTokenUsed = "ENROLLMENT_TOKEN_USED", 409, "Enrollment token already used", "create a new token with POST /api/v1/clusters/{cluster}/enrollments";
    /// The enrollment token is too old.
    EnrollmentTokenExpired = "ENROLLMENT_TOKEN_EXPIRED", 410, "Enrollment token expired", "create a new token with POST /api/v1/clusters/{cluster}/enrollments";
    /// The enrollment token was revoked.
    EnrollmentTokenRevoked = "ENROLLMENT_TOKEN_REVOKED", 410, "Enrollment token revoked", "create a new token with POST /api/v1/clusters/{cluster}/enrollments";
    /// An administrator rejected this enrollment.
    EnrollmentRejected = "ENROLLMENT_REJECTED", 403, "Enrollment rejected", "ask who rejected it, as the detail says; to try again, enroll with a new token from POST /api/v1/clusters/{cluster}/enrollments";
    /// Another Kubernetes cluster is enrolled under this record, or this one under another record.
    ClusterUidMismatch = "CLUSTER_UID_MISMATCH", 409, "Another Kubernetes cluster is enrolled here", "install with a token of a cluster of its own: POST /api/v1/clusters creates one; where this Kubernetes cluster is enrolled already, use a token of that one";
    /// The Operator's enrollment request cannot be certified.
    EnrollmentRequestInvalid = "ENROLLMENT_REQUEST_INVALID", 422, "Invalid enrollment request", "see the detail; upgrade the Operator if this persists";
    /// The nonce of a renewal is not one of this Manager, or is too old.
    RenewalNonceInvalid = "RENEWAL_NONCE_INVALID", 409, "Nonce not accepted", "ask for a new one with GET /enrollment/v1/nonce; the Operator does so by itself";
    /// A renewal is not signed with the key that was enrolled for this incarnation of the cluster.
    RenewalUnverified = "RENEWAL_UNVERIFIED", 401, "Renewal not verified", "enroll the cluster again with a token from POST /api/v1/clusters/{cluster}/enrollments; if this cluster did not ask, another client did";
    /// The cluster was enrolled again since, with other keys.
    IncarnationReplaced = "INCARNATION_REPLACED", 409, "Another incarnation is enrolled", "stop the installation that is not wanted any more; to go on with this one, enroll it with a token from POST /api/v1/clusters/{cluster}/enrollments";
    /// The cluster's credentials were revoked.
    CredentialsRevoked = "CREDENTIALS_REVOKED", 403, "Credentials revoked", "ask whoever revoked them; to go on, enroll the cluster with a token from POST /api/v1/clusters/{cluster}/enrollments";
    /// The cluster's credentials expired more than 90 days ago.
    CredentialsTooOld = "CREDENTIALS_TOO_OLD", 410, "Credentials expired too long ago", "enroll the cluster again with a token from POST /api/v1/clusters/{cluster}/enrollments";
    /// Too many enrollments or renewals from this address, of this key or of all together were refused or asked for.
    TooManyRequests = "TOO_MANY_REQUESTS", 429, "Too many requests", "wait for as many seconds as Retry-After says; the Operator does so by itself";
    /// The Manager failed; nothing was changed.
    Internal = "INTERNAL", 500, "Internal error", "try again; report the requestId if this persists";
    /// A service that the Manager needs does not respond.
    DependencyDown = "DEPENDENCY_DOWN", 503, "Temporarily unavailable", "try again shortly; see /readyz";
    /// Too many changes of the same objects, or of the same tenant, are being carried out; nothing was changed.
    Contended = "CONTENDED", 503, "Too many changes at once", "repeat the request after a second, and send changes of one object one after the other";
    /// The request took too long; whether a change was made is not known.
    Timeout = "TIMEOUT", 503, "Request took too long", "send it again with the same Idempotency-Key: a change is made once";
}

impl Reason {
    /// The reason as it stands in a URL: lower case with dashes.
    #[must_use]
    pub fn slug(self) -> String {
        self.as_str().to_ascii_lowercase().replace('_', "-")
    }

    /// The reason with this slug.
    #[must_use]
    pub fn from_slug(slug: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.slug() == slug)
    }

    /// True when the same request may succeed later without any change.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Internal
                | Self::DependencyDown
                | Self::Timeout
                | Self::RequestTimeout
                | Self::IdempotencyKeyInUse
                | Self::Contended
                | Self::TooManyRequests
        )
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refused request, as its caller sees it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Refusal {
    /// What kind of refusal.
    pub reason: Reason,
    /// What happened this time, for a person.
    pub detail: String,
    /// JSON pointer of the field that is wrong.
    pub field: Option<String>,
    /// Seconds after which it makes sense to ask again, where that is known.
    pub retry_after_seconds: Option<u64>,
}

impl Refusal {
    /// A refusal about the whole request.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), field: None, retry_after_seconds: None }
    }

    /// A refusal about one field, by JSON pointer.
    #[must_use]
    pub fn at(reason: Reason, field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(reason, detail) }
    }

    /// The same refusal, with the time after which it makes sense to ask again, in whole seconds.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self { retry_after_seconds: Some(seconds.max(1)), ..self }
    }

    /// The same refusal, said about this field when it names none.
    #[must_use]
    pub fn in_field(mut self, field: &str) -> Self {
        self.field.get_or_insert_with(|| field.to_owned());
        self
    }
}

/// `docs/errors.md`, from [`Reason::ALL`].
#[must_use]
pub fn catalogue() -> String {
    let mut text = String::from(
        "# Errors\n\nEvery refused request is answered with `application/problem+json` (RFC 9457). Programs should match \
         `reason`, which never changes; the other texts may improve. `type` is a path of the Manager that answers with \
         the explanation below. `/openapi.json` lists the reasons of each operation.\n\n\
         This page is generated from `manager/core/src/refusal.rs`.\n\n\
         | Reason | Status | Meaning | What to do |\n| --- | --- | --- | --- |\n",
    );
    for reason in Reason::ALL {
        let (status, title, meaning, remedy) = (reason.status(), reason.title(), reason.meaning(), reason.remedy());
        text.push_str(&format!("| `{reason}` | {status} | {title}. {meaning} | {remedy} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn reasons_are_unique_stable_texts_with_a_remedy() {
        let texts: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(texts.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            let text = reason.as_str();
            assert!(text.len() <= 63 && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'), "{text}");
            assert!((400..600).contains(&reason.status()), "{text}");
            assert!(
                !reason.title().is_empty() && !reason.remedy().is_empty() && !reason.remedy().ends_with('.'),
                "{text}"
            );
            assert!(!reason.title().ends_with(['?', '.']) && reason.meaning().ends_with('.'), "{text}");
            assert_eq!(Reason::from_slug(&reason.slug()), Some(*reason));
        }
    }
}
