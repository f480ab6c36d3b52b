//! The rules: who may do what, which names are good, what a change means for which clusters.
//!
//! No I/O, no serde, no clock and no randomness: values come in as arguments, decisions go out as values. The API parses
//! into these types and trusts them from there on; the store writes them.

// Others read these types without their code: every public item says what it means.
#![warn(missing_docs)]

pub mod access;
pub mod account_rollout;
pub mod application;
pub mod application_document;
pub mod application_form;
pub mod audit;
pub mod change;
pub mod cluster;
pub mod command;
pub mod command_cancel;
pub mod command_retry;
pub mod dead_letter;
mod deadline;
pub mod deletion_confirmation;
pub mod enrollment;
pub mod enrollment_approval;
pub mod enrollment_request;
pub mod enrollment_token;
pub mod label;
pub mod listing;
pub mod metadata;
pub mod operation;
pub mod page;
pub mod plain_text;
pub mod pointer;
pub mod quantity;
pub mod rate_limit;
pub mod recovery;
pub mod refusal;
pub mod renewal;
pub mod rollout;
pub mod session;
pub mod superseded;
pub mod tenant;
pub mod usage;
