//! RFC 9457 problems: every refused request is answered with one.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Path of the explanation, `/problems/<slug>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A short title, the same for every problem of this kind.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// Path of the request.
    pub instance: String,
    /// Stable text for programs; docs/errors.md lists all of them.
    #[schema(example = "NAME_TAKEN")]
    pub reason: String,
    /// Always `kubenova.io`.
    pub domain: String,
    /// What to do about it.
    pub remedy: String,
    /// True when the same request may succeed later without a change.
    pub retryable: bool,
    /// The fields that are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<ProblemField>,
    /// Id of the request, to be found in the Manager's log.
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

/// A kind of problem: what it means and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProblemType {
    /// Stable text for programs.
    #[schema(example = "NAME_TAKEN")]
    pub reason: String,
    /// HTTP status.
    pub status: u16,
    /// A short title.
    pub title: String,
    /// What it means, in one sentence.
    pub meaning: String,
    /// What to do about it.
    pub remedy: String,
    /// True when the same request may succeed later without a change.
    pub retryable: bool,
}
