//! RFC 9457 problems: every refused request is answered with one.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// `https://kubenova.io/problems/<slug>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every occurrence.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// Path of the request.
    pub instance: String,
    /// Stable text for programs, see docs/errors.md.
    #[schema(example = "NAME_TAKEN")]
    pub reason: String,
    /// Always `kubenova.io`.
    pub domain: String,
    /// What to do about it.
    pub remedy: String,
    /// True when the same request may succeed later.
    pub retryable: bool,
    /// Fields that are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<ProblemField>,
    /// For questions to whoever runs this: it stands in the log, too.
    pub request_id: String,
}

/// A field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProblemField {
    /// JSON pointer into the body.
    pub pointer: String,
    /// The reason again.
    pub reason: String,
}
