//! Controllers: each makes one kind true.
//!
//! [`dispatch`] turns inbox records into objects; the others make the cluster look like those objects, and [`report`]
//! says how they are. You get a name, not a reason: every pass starts from the beginning.

pub mod application;
pub mod cluster_config;
pub mod dispatch;
pub mod orphans;
pub mod report;
pub mod tenant;
pub mod work;
