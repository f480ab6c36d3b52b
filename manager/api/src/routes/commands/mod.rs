//! Commands: what was asked of clusters, and how far it got.

pub mod get;
pub mod list;
