//! Brings up bare clusters of real servers and stays until Ctrl-C: `cargo dev up --bare`.
//!
//! Each cluster gets a kubeconfig for use outside. Nothing of the product is installed; `cargo dev up` does that.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use kubenova_env::cluster::{Cluster, ClusterOptions};
use kubenova_env::forward::{Forward, ForwardRequest, Inherited};
use kubenova_env::sandbox::{self, Options, Sandbox};
use kubenova_env::servers::Servers;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Clusters of real servers, without a container engine.
#[derive(Clone, Debug, Parser)]
struct Arguments {
    /// How many clusters.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    clusters: u8,
    /// The first cluster's port on 127.0.0.1; the others follow. 0 takes free ones.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Where kubeconfigs are written (`<name>.kubeconfig`); the run's folder by default.
    #[arg(long)]
    kubeconfigs: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    if let Some(code) = sandbox::play_stage() {
        return Ok(code);
    }
    let arguments = Arguments::parse();
    if Sandbox::require().is_err() {
        return go_inside(&arguments);
    }
    // The client reports every refused connection while the API server boots; the waits report enough.
    let quiet = || EnvFilter::new("warn,kube_client=off");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| quiet());
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).init();
    let runtime = tokio::runtime::Runtime::new().context("could not make a runtime")?;
    runtime.block_on(Box::pin(run(arguments)))?;
    Ok(ExitCode::SUCCESS)
}

fn go_inside(arguments: &Arguments) -> Result<ExitCode> {
    let forwards = (0..arguments.clusters)
        .map(|number| {
            let port = if arguments.port == 0 { 0 } else { arguments.port + u16::from(number) };
            ForwardRequest { name: name_of(number), port }
        })
        .collect();
    sandbox::enter_ourselves(&Options { forwards, ..Options::default() })
}

fn name_of(number: u8) -> String {
    format!("cluster-{}", number + 1)
}

/// A cluster and the way to it from outside.
struct Up {
    cluster: Cluster,
    way_in: Forward,
    kubeconfig: PathBuf,
}

async fn run(arguments: Arguments) -> Result<()> {
    let mut interrupted = signal(SignalKind::interrupt()).context("could not listen for Ctrl-C")?;
    let mut terminated = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    let work = async {
        let clusters = bring_up(&arguments).await?;
        for up in &clusters {
            describe(up)?;
        }
        say("Ctrl-C ends everything.")?;
        std::future::pending::<Result<()>>().await
    };
    tokio::select! {
        outcome = Box::pin(work) => outcome,
        _ = interrupted.recv() => Ok(()),
        _ = terminated.recv() => Ok(()),
    }
}

async fn bring_up(arguments: &Arguments) -> Result<Vec<Up>> {
    let sandbox = Sandbox::require()?;
    Servers::wait_until_built(|progress| drop(say(&format!("building servers: {progress}")))).await?;
    let mut inherited = sandbox.inherited()?;
    let mut all = Vec::new();
    for number in 0..arguments.clusters {
        let began = Instant::now();
        let up = one(number, arguments, &sandbox, &mut inherited).await?;
        say(&format!("{} is up after {:.1} s", up.cluster.name(), began.elapsed().as_secs_f32()))?;
        all.push(up);
    }
    Ok(all)
}

async fn one(number: u8, arguments: &Arguments, sandbox: &Sandbox, inherited: &mut Inherited) -> Result<Up> {
    let name = name_of(number);
    let cluster = Box::pin(Cluster::start(ClusterOptions::new(&name, number + 1))).await?;
    let way_in = inherited.forward(&name, Some(cluster.network().netns()), cluster.api_address())?;
    let folder = arguments.kubeconfigs.clone().unwrap_or_else(|| sandbox.run().to_owned());
    std::fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    let kubeconfig = folder.join(format!("{name}.kubeconfig"));
    cluster.write_kubeconfig(&kubeconfig, way_in.address())?;
    Ok(Up { cluster, way_in, kubeconfig })
}

fn describe(up: &Up) -> Result<()> {
    let kubectl = up.cluster.servers().binary("kubectl")?;
    say(&format!(
        "\n{} listens at {}; logs in {}",
        up.cluster.name(),
        up.way_in.address(),
        up.cluster.folder().display()
    ))?;
    say(&format!("  export KUBECONFIG={}", up.kubeconfig.display()))?;
    say(&format!("  {} get pods -A", kubectl.display()))?;
    let helm = up.cluster.servers().binary("helm")?;
    say(&format!(
        "  {} install kubenova-operator deploy/helm/operator -n kubenova-system --create-namespace \
         --set-file enrollment.token=./kn-token",
        helm.display()
    ))?;
    Ok(())
}

/// Prints one line.
fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("could not write to standard output")
}
