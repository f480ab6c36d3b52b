//! Entry point: installs the one TLS provider, reads the command line, hands over to `wiring`.

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use kubenova_operator::{
    apiserver::client::Apiserver,
    leave::{self, Leaving},
    settings::Settings,
    wiring,
};
use kubenova_operator_core::leaving::Options;
use kubenova_runtime::{
    panic_log, probe as probes,
    shutdown::Shutdown,
    telemetry::{self, TelemetryOptions},
    tls,
};
use std::{path::PathBuf, process::ExitCode, time::Duration};

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
    /// Has KubeNova let go of this cluster: lists what changes and what stays, and does it with --yes. For an administrator of the cluster,
    /// with the credentials of $KUBECONFIG; the Operator must be stopped.
    Leave(LeaveArguments),
    /// Checks the running Operator; the exit code is 0 when it is ready or alive.
    Probe {
        /// What to check.
        check: Check,
        /// The running Operator's socket.
        #[arg(long, default_value = kubenova_operator::settings::PROBE_SOCKET)]
        socket: PathBuf,
    },
}

#[derive(clap::Args)]
struct LeaveArguments {
    /// Delete every tenant of KubeNova with its applications, volumes and namespaces.
    #[arg(long)]
    remove_tenants: bool,
    /// Delete Capsule, Capsule Proxy and KubeVela, and the roles and policies that the chart leaves behind.
    #[arg(long)]
    remove_components: bool,
    /// Do it; without this the list is shown and nothing is changed.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Show the list and change nothing; the exit code is 0 when nothing stands against it.
    #[arg(long)]
    dry_run: bool,
    /// Seconds that it may take.
    #[arg(long, default_value_t = 1800)]
    timeout_seconds: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Check {
    /// Every part is ready.
    Ready,
    /// The Operator answers.
    Live,
}

#[tokio::main]
async fn main() -> ExitCode {
    tls::install_provider();
    match Arguments::parse().command {
        Command::Run { config } => match run(&config).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Logging may not be set up, so this goes to standard error as it is.
                say(&format!("error: {error:#}"));
                ExitCode::FAILURE
            }
        },
        Command::Leave(arguments) => leave(&arguments).await.unwrap_or_else(|error| {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }),
        Command::Probe { check, socket } => probe(check, &socket).await,
    }
}

fn say(text: &str) {
    use std::io::Write as _;
    let _closed = writeln!(std::io::stderr(), "{text}");
}

async fn run(config: &std::path::Path) -> anyhow::Result<()> {
    let settings = Settings::read(config).with_context(|| {
        format!("settings {} are not usable: the chart writes them; name another file with --config", config.display())
    })?;
    let telemetry = telemetry::init(&TelemetryOptions {
        service: "kubenova-operator",
        filter: &settings.log,
        json: settings.log_json,
        otlp_endpoint: settings.tracing.otlp_endpoint.as_deref(),
    })
    .context("could not start logging")?;
    panic_log::install();
    let shutdown = Shutdown::new();
    shutdown.on_signals().context("could not listen for signals")?;
    let running = wiring::start(settings, shutdown);
    // The future holds every part, which makes it large.
    let ended = Box::pin(running).await;
    telemetry.finish().await;
    ended
}

async fn leave(arguments: &LeaveArguments) -> anyhow::Result<ExitCode> {
    let apiserver = Apiserver::connect().await.context("could not reach the cluster's API server")?;
    let leaving = Leaving {
        options: Options { remove_tenants: arguments.remove_tenants, remove_components: arguments.remove_components },
        is_confirmed: arguments.yes,
        limit: Duration::from_secs(arguments.timeout_seconds),
    };
    let is_done = Box::pin(leave::run(&apiserver, &leaving, &mut std::io::stdout())).await?;
    if is_done || arguments.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    say("nothing was changed; do it with the same command and --yes");
    Ok(ExitCode::FAILURE)
}

async fn probe(check: Check, socket: &std::path::Path) -> ExitCode {
    match (probes::ask(socket).await, check) {
        (Ok(_), Check::Live) => ExitCode::SUCCESS,
        (Ok(answer), Check::Ready) if answer == "ok" => ExitCode::SUCCESS,
        (Ok(answer), Check::Ready) => {
            say(&format!("not ready: {answer}"));
            ExitCode::FAILURE
        }
        (Err(error), _) => {
            say(&format!("the Operator does not answer: {error}"));
            ExitCode::FAILURE
        }
    }
}
