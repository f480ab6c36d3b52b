//! The whole product on the fleet of real servers: what scenarios and the demo share.
//!
//! In reading order: the [`platform`] (Postgres, hub, Manager), a [`site`] (a sovereign cluster that joins it) or many
//! [`simulated`] ones, [`writers`] that go on while things break with
//! the [`oracle`] that knows what they were promised, [`failpoints`], clusters with [`many_commands`], and the instruments that read
//! independently of the product: [`rest`], an [`observer`] and the [`quiescence`] of a cluster, [`nats_cli`], [`broker`], the commands
//! of a [`document`]; [`attempts`] at an API server. The [`shell`] is for the person beside it.

pub mod attempts;
pub mod broker;
pub mod document;
pub mod failpoints;
pub mod integral;
pub mod leaf_node;
pub mod many_commands;
pub mod nats_cli;
pub mod observer;
pub mod operators;
pub mod oracle;
pub mod platform;
pub mod quiescence;
pub mod rest;
pub mod second_manager;
pub mod seed;
pub mod shell;
pub mod simulated;
pub mod site;
pub mod steps;
pub mod writers;
