//! Entry point: installs the one TLS provider, reads the command line, hands over to `wiring`.

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use kubenova_operator::{
    apiserver::client::Apiserver,
    doctor::{self, PreflightFiles, Scope},
    leave::{self, Leaving},
    settings::Settings,
    wiring,
};
use kubenova_operator_core::{
    doctor::{self as core_doctor, Severity},
    leaving::Options,
};
use kubenova_runtime::{
    panic_log, probe as probes,
    shutdown::Shutdown,
    telemetry::{self, TelemetryOptions},
    tls,
};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

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
    /// Says what is wrong with this cluster and what to do about it; changes nothing. Runs in the Operator's pod, or anywhere with an
    /// administrator's kubeconfig (KUBECONFIG). The exit code is 1 when something does not work.
    Doctor {
        /// What to look at.
        #[arg(default_value = "cluster")]
        scope: Examined,
        /// How long to wait until it works; for `connected`.
        #[arg(long, default_value_t = 0)]
        wait_seconds: u64,
        /// The exit code is 0 whatever is found.
        #[arg(long)]
        only_warn: bool,
        /// Shows what does not work or needs attention, and nothing else.
        #[arg(long)]
        quiet: bool,
        /// The running Operator's socket.
        #[arg(long, default_value = kubenova_operator::settings::PROBE_SOCKET)]
        socket: PathBuf,
        /// File with the enrollment token; for `preflight`.
        #[arg(long, default_value = "/etc/kubenova/enrollment/token")]
        token_file: PathBuf,
        /// Folder with `ca.crt`, `username` and `password` of the HTTP proxy; for `preflight`.
        #[arg(long, default_value = "/etc/kubenova/proxy")]
        proxy_files: PathBuf,
    },
    /// Deletes admission policies that the chart has no more, with their bindings. The chart runs it after an upgrade.
    #[command(hide = true)]
    DeletePolicies {
        /// Their names.
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// What the doctor looks at.
#[derive(Clone, Copy, ValueEnum)]
enum Examined {
    /// Everything that runs: join, components, rights, roles, policies.
    Cluster,
    /// What keeps a cluster from joining, before the chart is installed.
    Preflight,
    /// Whether a session with the Manager is open and a command was carried out.
    Connected,
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
        Command::Doctor { scope, wait_seconds, only_warn, quiet, socket, token_file, proxy_files } => {
            let scope = match scope {
                Examined::Cluster => Scope::Cluster,
                Examined::Connected => Scope::Connected { wait: Duration::from_secs(wait_seconds) },
                Examined::Preflight => {
                    Scope::Preflight { files: PreflightFiles { token: token_file, proxy: proxy_files } }
                }
            };
            let worst = examine(&scope, &socket, quiet).await;
            if only_warn || worst < Severity::Failure { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Command::DeletePolicies { names } => match doctor::delete_policies(&names).await {
            Ok(deleted) => {
                print(&format!("deleted {}: {}", deleted.len(), deleted.join(", ")));
                ExitCode::SUCCESS
            }
            Err(error) => {
                say(&format!("error: {error:#}"));
                ExitCode::FAILURE
            }
        },
    }
}

/// Prints what is found, and says how bad it is.
async fn examine(scope: &Scope, socket: &Path, quiet: bool) -> Severity {
    let found = match doctor::examine(scope, socket).await {
        Ok(found) => found,
        Err(error) => {
            say(&format!("error: {error:#}"));
            return Severity::Failure;
        }
    };
    for finding in found.iter().filter(|finding| !quiet || finding.severity > Severity::Good) {
        print(&finding.to_string());
    }
    let count = |severity| found.iter().filter(|finding| finding.severity == severity).count();
    let (failures, warnings) = (count(Severity::Failure), count(Severity::Warning));
    print(&format!("{failures} do not work, {warnings} need attention, {} are in order", count(Severity::Good)));
    core_doctor::worst(&found)
}

fn print(text: &str) {
    use std::io::Write as _;
    let _closed = writeln!(std::io::stdout(), "{text}");
}

fn say(text: &str) {
    use std::io::Write as _;
    let _closed = writeln!(std::io::stderr(), "{text}");
}

async fn run(config: &Path) -> anyhow::Result<()> {
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

async fn probe(check: Check, socket: &Path) -> ExitCode {
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
