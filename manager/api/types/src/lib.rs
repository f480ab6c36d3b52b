//! The HTTP bodies, as the server writes and clients read them: camelCase JSON, times in RFC 3339 UTC, 64-bit integers
//! as strings. The OpenAPI document is made from these types.

pub mod applications;
pub mod clusters;
pub mod commands;
pub mod list;
pub mod meta;
pub mod problem;
pub mod tenants;
pub mod usage;
