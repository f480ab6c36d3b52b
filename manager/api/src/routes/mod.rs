//! The endpoints, one a file.

pub mod applications;
pub mod clusters;
pub mod commands;
pub mod components;
pub mod dead_letters;
pub mod enrollments;
pub mod meta;
pub mod rollouts;
pub mod tenants;
pub mod usage;
