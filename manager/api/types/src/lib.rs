//! The HTTP bodies, as the server writes and clients read them: camelCase JSON, times in RFC 3339 UTC, 64-bit integers
//! as strings. The OpenAPI document is made from these types.

// Others read these types without their code: every public item says what it means.
#![warn(missing_docs)]

pub mod applications;
pub mod cluster_components;
pub mod clusters;
pub mod commands;
pub mod components;
pub mod dead_letters;
pub mod enrollments;
pub mod list;
pub mod meta;
pub mod problem;
pub mod rollouts;
pub mod sync;
pub mod tenants;
pub mod usage;
