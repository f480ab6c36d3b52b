//! Entry point: installs the one TLS provider, reads the command line, hands over to `wiring`.

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use kubenova_operator::{settings::Settings, wiring};
use kubenova_runtime::{
    probe as probes,
    shutdown::Shutdown,
    telemetry::{self, TelemetryOptions},
    tls,
};
use std::{path::PathBuf, process::ExitCode};

/// The KubeNova Operator: joins this cluster to a Manager and makes it look as the Manager says.
#[derive(Parser)]
#[command(name = "kubenova-operator", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs until SIGTERM or Ctrl-C.
    Run {
        /// The settings file.
        #[arg(long, default_value = "/etc/kubenova/operator.yaml")]
        config: PathBuf,
    },
    /// Checks the running Operator; the exit code is 0 when it is ready or alive.
    Probe {
        /// What to check.
        check: Check,
        /// The running Operator's socket.
        #[arg(long, default_value = kubenova_operator::settings::PROBE_SOCKET)]
        socket: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Check {
    /// Every part is ready.
    Ready,
    /// The Operator answers.
    Live,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    tls::install_provider();
    match Arguments::parse().command {
        Command::Run { config } => run(&config).await.map(|()| ExitCode::SUCCESS),
        Command::Probe { check, socket } => Ok(probe(check, &socket).await),
    }
}

async fn run(config: &std::path::Path) -> anyhow::Result<()> {
    let settings = Settings::read(config).with_context(|| format!("could not read {}", config.display()))?;
    let telemetry = telemetry::init(&TelemetryOptions {
        service: "kubenova-operator",
        filter: &settings.log,
        json: settings.log_json,
        otlp_endpoint: settings.tracing.otlp_endpoint.as_deref(),
    })
    .context("could not start logging")?;
    let shutdown = Shutdown::new();
    shutdown.on_signals().context("could not listen for signals")?;
    let running = wiring::start(settings, shutdown);
    // The future holds every part, which makes it large.
    let ended = Box::pin(running).await;
    telemetry.finish().await;
    ended
}

async fn probe(check: Check, socket: &std::path::Path) -> ExitCode {
    use std::io::Write as _;
    match (probes::ask(socket).await, check) {
        (Ok(_), Check::Live) => ExitCode::SUCCESS,
        (Ok(answer), Check::Ready) if answer == "ok" => ExitCode::SUCCESS,
        (Ok(answer), Check::Ready) => {
            let _caller_gone = writeln!(std::io::stderr(), "not ready: {answer}");
            ExitCode::FAILURE
        }
        (Err(error), _) => {
            let _caller_gone = writeln!(std::io::stderr(), "the Operator does not answer: {error}");
            ExitCode::FAILURE
        }
    }
}
