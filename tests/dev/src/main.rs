//! `cargo dev`: builds, tests and runs everything in this repository.
//!
//! Plans, checks the machine, builds the real servers that the tests use, then runs the demo or
//! the tests. It starts talking within seconds on a machine that has built nothing yet, so it
//! depends on no crate of ours and on few others. What it says goes to stderr; what a command
//! was called for (a plan, the output of tests) goes to stdout.
//!
//! Read next: `command.rs` (the command line), `plan.rs` (what will be done), `servers.rs`
//! (how a server comes to be), `test.rs` and `demo.rs` (the two commands all of this is for).

mod campaign;
mod check;
mod clean;
mod command;
mod count;
mod demo;
mod executables;
mod generate;
mod images;
mod jobs;
mod mutants;
mod mutate;
mod places;
mod plan;
mod policy;
mod preflight;
mod process;
mod progress;
mod reason;
mod servers;
mod test;
mod tool;

use std::process::ExitCode;

use clap::Parser as _;
use command::{Command, CommandLine, Drive};
use places::Places;

fn main() -> ExitCode {
    match run(CommandLine::parse().command) {
        Ok(code) => code,
        Err(error) => {
            progress::say(&format!("cargo dev: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    process::forward_signals()?;
    let places = Places::find()?;
    match command {
        Command::Servers { plan, names } => servers::command(&places, plan, &names),
        Command::Test(options) => test::command(&places, &options),
        Command::Check => check::command(&places),
        Command::Mutants { filter } => mutate::command(&places, filter.as_deref()),
        Command::Gen { args } => generate::command(&places, &args),
        Command::Measure { write } => generate::measure(&places, write),
        Command::Demo(options) => demo::command(&places, &Drive::from(options)),
        Command::Up(options) => demo::command(&places, &Drive::from(options)),
        Command::Bench { name, args } => demo::bench(&places, name, &args),
        Command::Images { args } => images::command(&places, &args),
        Command::Campaign(options) => campaign::command(&places, &options),
        Command::Clean { yes } => clean::command(&places, yes),
    }
}
