//! Clusters by the hundred, for tests that need more of them than a machine can run.
//!
//! A simulated cluster enrolls with a token, connects with its own certificate and JWT, says hello, pulls its commands, decides
//! about them, and reports outcomes, its listing, and the records that a restored database lost: enrollment, bus and the rules of `kubenova-operator-core` are those of the
//! Operator. What a real cluster keeps in its API server is in memory ([`inbox`]) and survives the end of the simulated Operator
//! ([`cluster`]). Nothing is installed, objects have no status, and no usage is measured.

pub mod cluster;
pub mod enroll;
pub mod inbox;
mod listing;
mod session;
mod shared;
