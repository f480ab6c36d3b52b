//! The one error a person sees: a stable reason, what went wrong in their words, and what to do about it.
//!
//! Everything internal stays in the log. HTTP mapping lives in `api/error.rs`; `docs/errors.md` is the catalogue below.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal, $status:literal, $title:literal, $remedy:literal;)*) => {
        /// Why a request was refused. The text never changes once released.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[doc = $doc])* $name,)* }

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

            /// What to do about it.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)* }
            }
        }
    };
}

reasons! {
    /// The request's body is not JSON or YAML of the expected shape.
    BodyMalformed = "BODY_MALFORMED", 400, "Body could not be read", "correct the body at the place named in the detail";
    /// A query parameter is unknown or has an impossible value.
    QueryInvalid = "QUERY_INVALID", 400, "Query is not valid", "see the parameters of this path in /openapi.json";
    /// A header has an impossible value.
    HeaderInvalid = "HEADER_INVALID", 400, "Header is not valid", "see the headers of this path in /openapi.json";
    /// A cursor was altered or belongs to another list or filter.
    CursorInvalid = "CURSOR_INVALID", 400, "Cursor is not valid", "start the list again without a cursor";
    /// No credentials, or credentials nobody knows.
    Unauthenticated = "UNAUTHENTICATED", 401, "Who are you?", "send Authorization: Bearer with a token that is not expired; an administrator makes one with kubenova-manager token create";
    /// ClusterRecord, but not allowed.
    Forbidden = "FORBIDDEN", 403, "Not allowed", "ask an administrator for a role that allows this";
    /// No such path.
    RouteNotFound = "ROUTE_NOT_FOUND", 404, "No such path", "see the paths in /openapi.json";
    /// No such cluster.
    ClusterNotFound = "CLUSTER_NOT_FOUND", 404, "No such cluster", "list clusters with GET /api/v1/clusters";
    /// No such tenant, or another's.
    TenantNotFound = "TENANT_NOT_FOUND", 404, "No such tenant", "list tenants with GET /api/v1/tenants";
    /// No such application, or another tenant's.
    ApplicationNotFound = "APPLICATION_NOT_FOUND", 404, "No such application", "list applications with GET /api/v1/tenants/{tenant}/apps";
    /// No such command, or another tenant's.
    CommandNotFound = "COMMAND_NOT_FOUND", 404, "No such command", "list commands with GET /api/v1/commands";
    /// The path exists, the verb does not.
    MethodNotAllowed = "METHOD_NOT_ALLOWED", 405, "No such verb here", "see the verbs of this path in the Allow header";
    /// The request's body did not arrive in time.
    RequestTimeout = "REQUEST_TIMEOUT", 408, "Request body too slow", "send the whole body without pausing, then try again";
    /// The name belongs to another object.
    NameTaken = "NAME_TAKEN", 409, "Name is taken", "choose another name, or use the object that has it";
    /// The tenant is on that cluster already.
    PlacementExists = "PLACEMENT_EXISTS", 409, "Already placed", "nothing to do: the tenant is on this cluster";
    /// A request with this key is being worked on.
    IdempotencyKeyInUse = "IDEMPOTENCY_KEY_IN_USE", 409, "Still being worked on", "repeat the request after a second; it will be answered with the first one's answer";
    /// The cluster's trust was taken back or never given.
    ClusterNotUsable = "CLUSTER_NOT_USABLE", 409, "Cluster takes no changes", "see the cluster's state with GET /api/v1/clusters/{cluster}";
    /// The application is being deleted.
    ApplicationDeleting = "APPLICATION_DELETING", 409, "Application is being deleted", "wait until its clusters have removed it, see GET /api/v1/tenants/{tenant}/apps/{application}/status; or choose another name";
    /// The object changed since it was read.
    EtagMismatch = "ETAG_MISMATCH", 412, "Object changed meanwhile", "read it again and repeat the change with the new ETag";
    /// The body is above the limit.
    BodyTooLarge = "BODY_TOO_LARGE", 413, "Body is too large", "send a smaller body; the limit stands in the detail";
    /// A body of a kind this path does not read.
    MediaTypeUnsupported = "MEDIA_TYPE_UNSUPPORTED", 415, "Unknown kind of body", "send Content-Type: application/json, or application/yaml where the path says so";
    /// A name that is not a good DNS label, or reserved.
    NameInvalid = "NAME_INVALID", 422, "Name is not valid", "use 1 to 50 lower-case letters, digits and dashes, beginning with a letter and ending with a letter or digit";
    /// A field has an impossible value.
    FieldInvalid = "FIELD_INVALID", 422, "A field is not valid", "correct the field named in the detail";
    /// Several clusters are possible and none was named.
    PlacementRequired = "PLACEMENT_REQUIRED", 422, "Which cluster?", "name the clusters in clusters; see GET /api/v1/tenants/{tenant}/placements";
    /// A named cluster is not one of the tenant's.
    NotPlaced = "NOT_PLACED", 422, "Tenant is not on that cluster", "place the tenant first with POST /api/v1/tenants/{tenant}/placements";
    /// The Application breaks a rule.
    ApplicationInvalid = "APPLICATION_INVALID", 422, "Application is not valid", "correct the Application at the place named in the detail";
    /// The Application names a namespace that is not the tenant's.
    ApplicationNamespace = "APPLICATION_NAMESPACE", 422, "Another namespace", "leave metadata.namespace out, or set it to <tenant>-apps";
    /// The key was used for another request.
    IdempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED", 422, "Key was used for another request", "make a new Idempotency-Key for a new request";
    /// The token is unknown.
    EnrollmentTokenUnknown = "ENROLLMENT_TOKEN_UNKNOWN", 401, "Unknown enrollment token", "copy the token whole from the answer to POST /clusters";
    /// The token was used by another installation.
    EnrollmentTokenUsed = "ENROLLMENT_TOKEN_USED", 409, "Enrollment token was used", "make a new token for this cluster";
    /// The token's time is over.
    EnrollmentTokenExpired = "ENROLLMENT_TOKEN_EXPIRED", 410, "Enrollment token expired", "make a new token for this cluster";
    /// The token was taken back.
    EnrollmentTokenRevoked = "ENROLLMENT_TOKEN_REVOKED", 410, "Enrollment token was revoked", "make a new token for this cluster";
    /// Another Kubernetes cluster shows itself under this record.
    ClusterUidMismatch = "CLUSTER_UID_MISMATCH", 409, "Another cluster is enrolled here", "create a new cluster for this installation";
    /// What the Operator sent cannot be certified.
    EnrollmentRequestInvalid = "ENROLLMENT_REQUEST_INVALID", 422, "Enrollment request is not valid", "see the detail; upgrade the Operator if it persists";
    /// The clocks are too far apart.
    ClockSkew = "CLOCK_SKEW", 422, "Clocks disagree", "synchronize the cluster's clock";
    /// Too many requests.
    RateLimited = "RATE_LIMITED", 429, "Too many requests", "wait as long as Retry-After says";
    /// Our fault.
    Internal = "INTERNAL", 500, "Something broke here", "try again; report the requestId if it persists";
    /// Something we need does not answer.
    DependencyDown = "DEPENDENCY_DOWN", 503, "Not available now", "try again shortly; see /readyz";
    /// It took too long.
    Timeout = "TIMEOUT", 503, "Took too long", "try again shortly";
}

impl Reason {
    /// The reason as it stands in a URL: lower case with dashes.
    #[must_use]
    pub fn slug(self) -> String {
        self.as_str().to_ascii_lowercase().replace('_', "-")
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
}

impl Refusal {
    /// A refusal about the whole request.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), field: None }
    }

    /// A refusal about one field, by JSON pointer.
    #[must_use]
    pub fn at(reason: Reason, field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), field: Some(field.into()) }
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
        "# Errors\n\nEvery refused request is answered with `application/problem+json`. `reason` is stable and made for \
         programs; the texts may improve.\nThis page is generated from `manager/core/src/refusal.rs`.\n\n\
         | Reason | Status | Meaning | What to do |\n| --- | --- | --- | --- |\n",
    );
    for reason in Reason::ALL {
        let (status, title, remedy) = (reason.status(), reason.title(), reason.remedy());
        text.push_str(&format!("| `{reason}` | {status} | {title} | {remedy} |\n"));
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
        }
    }
}
