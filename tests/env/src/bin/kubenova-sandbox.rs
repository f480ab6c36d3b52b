//! Runs a program inside a new sandbox: `kubenova-sandbox -- <program> <args>`.
//!
//! `cargo dev test` starts scenario executables with it. It is also the helper that becomes PID 1
//! of the sandbox and the containers of system pods.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use kubenova_env::forward::ForwardRequest;
use kubenova_env::sandbox::{self, Options};

/// Run a program in namespaces of its own; everything it started ends with it.
#[derive(Debug, Parser)]
struct Arguments {
    /// Bind a listener on 127.0.0.1 outside and hand it to the program: `name` or `name=port`.
    #[arg(long = "forward", value_name = "NAME[=PORT]")]
    forwards: Vec<ForwardRequest>,
    /// End when the process that started us ends.
    #[arg(long)]
    with_parent: bool,
    /// Pass our standard input on to the program.
    #[arg(long)]
    typed: bool,
    /// Only say whether this machine allows it.
    #[arg(long)]
    probe: bool,
    /// The program and its arguments.
    #[arg(last = true)]
    program: Vec<OsString>,
}

fn main() -> Result<ExitCode> {
    if let Some(code) = sandbox::play_stage() {
        return Ok(code);
    }
    let arguments = Arguments::parse();
    if arguments.probe {
        sandbox::probe()?;
        return Ok(ExitCode::SUCCESS);
    }
    let (program, args) = sandbox::program_and_args(arguments.program)?;
    let options = Options {
        forwards: arguments.forwards,
        with_parent: arguments.with_parent,
        typed: arguments.typed,
        ..Options::default()
    };
    sandbox::enter(&program, &args, &options)
}
