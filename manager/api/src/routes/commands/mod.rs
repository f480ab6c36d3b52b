//! Commands: the messages to clusters, and their progress.

pub mod get;
pub mod list;
