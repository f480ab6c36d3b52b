//! `kubenova-manager`: parses the command line and runs the command.

use clap::Parser as _;
use kubenova_manager::commands::{Cli, run};
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    kubenova_runtime::tls::install_provider();
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Logging may not be set up, so this goes to standard error as it is.
            let _closed = std::io::Write::write_all(&mut std::io::stderr(), format!("error: {error:#}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}
