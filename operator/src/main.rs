//! Entry point: installs the one TLS provider, reads the command line, hands over to `wiring`.

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use kubenova_operator::{settings::Settings, wiring};
use kubenova_runtime::{probe, shutdown::Shutdown, telemetry, tls};
use std::{path::PathBuf, process::ExitCode};

/// KubeNova's Operator.
#[derive(Parser)]
#[command(name = "kubenova-operator", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs until told to stop.
    Run {
        /// The settings file.
        #[arg(long, default_value = "/etc/kubenova/operator.yaml")]
        config: PathBuf,
    },
    /// Asks the running Operator how it is; exit code 0 means well.
    Probe {
        /// What to ask.
        question: Question,
        /// The running Operator's socket.
        #[arg(long, default_value = kubenova_operator::settings::PROBE_SOCKET)]
        socket: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Question {
    /// Is every part ready?
    Ready,
    /// Does it answer at all?
    Live,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    tls::install_provider();
    match Arguments::parse().command {
        Command::Run { config } => run(&config).await.map(|()| ExitCode::SUCCESS),
        Command::Probe { question, socket } => Ok(ask(question, &socket).await),
    }
}

async fn run(config: &std::path::Path) -> anyhow::Result<()> {
    let settings = Settings::read(config).with_context(|| format!("could not read {}", config.display()))?;
    telemetry::init(&settings.log, settings.log_json).context("could not read the log filter")?;
    let shutdown = Shutdown::new();
    shutdown.on_signals().context("could not listen for signals")?;
    let running = wiring::start(settings, shutdown);
    // Its future is large: every part hangs on it.
    Box::pin(running).await
}

async fn ask(question: Question, socket: &std::path::Path) -> ExitCode {
    use std::io::Write as _;
    match (probe::ask(socket).await, question) {
        (Ok(_), Question::Live) => ExitCode::SUCCESS,
        (Ok(answer), Question::Ready) if answer == "ok" => ExitCode::SUCCESS,
        (Ok(answer), Question::Ready) => {
            let _kubelet_left = writeln!(std::io::stderr(), "not ready: {answer}");
            ExitCode::FAILURE
        }
        (Err(error), _) => {
            let _kubelet_left = writeln!(std::io::stderr(), "no answer from the Operator: {error}");
            ExitCode::FAILURE
        }
    }
}
