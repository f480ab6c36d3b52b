//! `kubenova-manager`: reads the command line and hands over.

use clap::Parser as _;
use kubenova_manager::commands::{Cli, run};
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    kubenova_runtime::tls::install_provider();
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Logging may not have begun, so this goes to standard error as it is.
            let _nobody_reads =
                std::io::Write::write_all(&mut std::io::stderr(), format!("error: {error:#}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}
