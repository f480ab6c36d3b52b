//! `cargo dev`: the front door of this repository.
//!
//! Plans, checks the machine, builds the real servers that the tests use, then runs the demo or
//! the tests. It starts talking within seconds on a machine that has built nothing yet, so it
//! depends on no crate of ours and on few others. What it says goes to stderr; what a command
//! is asked for (a plan, the output of tests) goes to stdout.
//!
//! Read next: `command.rs` (what can be asked), `plan.rs` (what will be done), `servers.rs`
//! (how a server comes to be), `test.rs` and `demo.rs` (the two commands all of this is for).

mod check;
mod clean;
mod command;
mod demo;
mod executables;
mod generate;
mod jobs;
mod places;
mod plan;
mod policy;
mod preflight;
mod process;
mod progress;
mod servers;
mod test;
mod tool;

use std::process::ExitCode;

use command::Command;
use places::Places;

fn main() -> ExitCode {
    let command = match command::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(mistake) => {
            progress::say(&format!("cargo dev: {mistake}"));
            return ExitCode::from(2);
        }
    };
    match run(command) {
        Ok(code) => code,
        Err(error) => {
            progress::say(&format!("cargo dev: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    process::forward_signals()?;
    let places = match command {
        Command::Help(topic) => {
            progress::print(command::help(topic));
            return Ok(ExitCode::SUCCESS);
        }
        _ => Places::find()?,
    };
    match command {
        Command::Help(_) => Ok(ExitCode::SUCCESS),
        Command::Servers { plan_only, names } => servers::command(&places, plan_only, &names),
        Command::Test(options) => test::command(&places, &options),
        Command::Check => check::command(&places),
        Command::Generate { args } => generate::command(&places, &args),
        Command::Demo(options) => demo::command(&places, &options),
        Command::Bench { args } => demo::bench(&places, &args),
        Command::Clean { yes } => clean::command(&places, yes),
    }
}
