//! One page of a list.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One page. The list ends where `nextCursor` is absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct List<T> {
    /// The objects.
    pub items: Vec<T>,
    /// Send it as `cursor` with the same filter to read the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}
