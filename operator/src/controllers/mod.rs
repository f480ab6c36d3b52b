//! Controllers: each reconciles one kind.
//!
//! [`dispatch`] turns inbox records into objects; the others make the cluster match those objects; [`report`] reports
//! their status. A reconcile gets a key, not a reason: it starts from the beginning each time.

pub mod application;
pub mod apply;
pub mod cluster_config;
mod deployer;
pub mod dispatch;
pub mod orphans;
pub mod report;
pub mod tenant;
pub mod work;
