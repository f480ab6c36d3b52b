//! What the Operator decides, without a client, a clock or randomness.
//!
//! In the order of the flow: an order is verified ([`order`]), allowed ([`policy`]), fenced ([`inbox`]) and reported on
//! ([`outcome`]); what should exist is computed ([`components`], [`tenant`], [`application`]); what was used is added
//! up ([`metering`]).

pub mod application;
pub mod command;
pub mod components;
pub mod drift;
pub mod inbox;
pub mod listing;
pub mod metering;
pub mod observed;
pub mod outcome;
pub mod policy;
pub mod tenant;
