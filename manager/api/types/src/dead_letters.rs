//! Dead letters: messages of clusters that can never be handled.

use crate::list::List;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A message of a cluster that the Manager can never handle. Of each cluster the newest 100 are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// Its id.
    pub id: String,
    /// The cluster that sent it; absent when its subject names none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster_id: String,
    /// What it was meant to report.
    pub kind: DeadLetterKind,
    /// The subject it was published on.
    pub subject: String,
    /// Why it cannot be handled.
    pub reason: String,
    /// How often it was delivered.
    pub deliveries: String,
    /// When it was delivered first.
    pub first_seen_at: Timestamp,
    /// When it was delivered last.
    pub last_seen_at: Timestamp,
    /// Its size in bytes.
    pub payload_bytes: String,
    /// SHA-256 of its bytes, in hex.
    pub payload_sha256: String,
    /// How many older ones of this cluster were deleted because it had more than 100.
    pub cluster_dropped: String,
    /// Its begin as text, when it is text. Only where one is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Its begin in base64: at most 64 KiB of it. Only where one is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
}

/// One page of dead letters.
pub type DeadLetterList = List<DeadLetter>;

/// What a message was meant to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum DeadLetterKind {
    /// How a command ended.
    Outcome,
    /// Observed objects.
    Status,
    /// Usage of a window.
    Usage,
    /// Its subject does not tell.
    Other,
}
