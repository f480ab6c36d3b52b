//! `cargo dev demo` and `cargo dev up`: the whole product on this machine, on real servers.
//!
//! Manager and hub are up and usable while the cluster servers are still being built. Then the clusters join and get
//! Capsule and KubeVela from their Operators; `--empty` (`cargo dev up`) stops there. The demo goes on: a tenant, an
//! application, their status and usage. `--once` ends with 0 only if all of it was seen; otherwise the program stays until
//! Ctrl-C and takes keys (then Enter): `p` cuts the last cluster off, `h` connects it again, `u` compares its last ledger
//! row with an independent integral.

#![expect(clippy::print_stdout, reason = "what the demo shows is its output")]

use std::ffi::OsStr;
use std::io::BufRead as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Parser;
use kubenova_env::forward::{Forward, ForwardRequest, Inherited};
use kubenova_env::network::Cut;
use kubenova_env::poll::{self, Step};
use kubenova_env::process::ProcessWatch;
use kubenova_env::sandbox::{self, HUB_ADDRESS, Options, Sandbox};
use kubenova_env::servers::Servers;
use kubenova_scenarios::integral;
use kubenova_scenarios::platform::{MANAGER_PORT, Platform, PlatformOptions};
use kubenova_scenarios::shell::{self, Outside};
use kubenova_scenarios::site::{Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Names of the clusters; as many as asked for are used.
const NAMES: [&str; 4] = ["alpha", "beta", "gamma", "delta"];
/// Time between two looks at the Operators.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Tenant of the demo. Not the one of the front page's examples, which must work beside it.
const TENANT: &str = "demo";

/// The whole product on this machine.
#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// End when everything was seen to work.
    #[arg(long)]
    once: bool,
    /// Only clusters with Capsule and KubeVela: no tenant, no application.
    #[arg(long)]
    empty: bool,
    /// How many clusters; each takes about 600 MiB of memory.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=4))]
    clusters: u8,
    /// Copy what the run wrote beside the logs before it is removed.
    #[arg(long)]
    keep: bool,
}

impl Arguments {
    fn names(&self) -> &'static [&'static str] {
        &NAMES[..usize::from(self.clusters)]
    }
}

fn main() -> Result<ExitCode> {
    if let Some(code) = sandbox::play_stage() {
        return Ok(code);
    }
    let arguments = Arguments::parse();
    if Sandbox::require().is_err() {
        return go_inside(&arguments);
    }
    let runtime = tokio::runtime::Runtime::new().context("could not make a runtime")?;
    runtime.block_on(Box::pin(until_stopped(arguments)))
}

fn go_inside(arguments: &Arguments) -> Result<ExitCode> {
    let names = ["manager", "nats"].into_iter().chain(arguments.names().iter().copied());
    let forwards = names.map(|name| ForwardRequest { name: name.to_owned(), port: 0 }).collect();
    sandbox::enter_ourselves(&Options { forwards, with_parent: true, typed: true, ..Options::default() })
}

async fn until_stopped(arguments: Arguments) -> Result<ExitCode> {
    let mut interrupted = signal(SignalKind::interrupt()).context("could not listen for Ctrl-C")?;
    let mut terminated = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    let deaths = Deaths::default();
    tokio::select! {
        outcome = Box::pin(run(&arguments, &deaths)) => outcome,
        _ = interrupted.recv() => Ok(deaths.exit_code()),
        _ = terminated.recv() => Ok(deaths.exit_code()),
    }
}

/// Processes of the product that ended by themselves: said at once, and the run's folder with their logs is kept.
#[derive(Clone, Default)]
struct Deaths(Arc<watch::Sender<Option<String>>>);

impl Deaths {
    fn report(&self, text: String) {
        println!("\n{text}");
        self.0.send_replace(Some(text));
    }

    /// Waits for the first one.
    async fn first(&self) -> anyhow::Error {
        match self.0.subscribe().wait_for(Option::is_some).await {
            Ok(text) => anyhow!("{}", text.as_deref().unwrap_or_default()),
            Err(error) => error.into(),
        }
    }

    /// The sandbox removes the folder of a run that succeeded.
    fn exit_code(&self) -> ExitCode {
        if self.0.borrow().is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// Watches processes until it is dropped: whoever ends them drops it first, or their ends are reported as deaths.
struct Watches {
    deaths: Deaths,
    tasks: JoinSet<()>,
}

impl Watches {
    fn new(deaths: &Deaths) -> Self {
        Self { deaths: deaths.clone(), tasks: JoinSet::new() }
    }

    fn watch_process(&mut self, process: ProcessWatch) {
        let deaths = self.deaths.clone();
        self.tasks.spawn(async move { deaths.report(process.ended().await) });
    }

    /// The pod runner starts an Operator that ended again, as a kubelet does; a developer wants to know all the same.
    fn watch_operator(&mut self, site: &Site) -> Result<()> {
        let (deaths, pod, cluster) = (self.deaths.clone(), site.operator()?, site.name.clone());
        self.tasks.spawn(async move {
            let mut look = tokio::time::interval(WATCH_EVERY);
            let mut running = pod.pids();
            loop {
                look.tick().await;
                let now = pod.pids();
                if !running.is_empty() && now != running {
                    deaths.report(format!(
                        "the Operator of cluster {cluster} ended and is started again; its logs are in {}",
                        pod.logs().display()
                    ));
                }
                running = now;
            }
        });
        Ok(())
    }
}

/// When the run began, and which milestone it works for.
struct Progress {
    began: Instant,
    milestone: &'static str,
}

impl Progress {
    fn begin(&mut self, milestone: &'static str) {
        self.milestone = milestone;
    }

    fn say(&self, line: &str) {
        println!("{:>6.1} s  {line}", self.began.elapsed().as_secs_f32());
    }
}

/// The clusters and the ways in from outside.
#[derive(Default)]
struct Fleet {
    sites: Vec<Site>,
    forwards: Vec<Forward>,
}

async fn run(arguments: &Arguments, deaths: &Deaths) -> Result<ExitCode> {
    let mut progress = Progress { began: Instant::now(), milestone: "the hub" };
    let mut fleet = Fleet::default();
    let outcome = Box::pin(walk_through(arguments, &mut progress, &mut fleet, deaths)).await;
    if arguments.keep {
        keep()?;
    }
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            println!("\nfailed before: {}", progress.milestone);
            println!("  {error:#}");
            for site in &fleet.sites {
                if let Some(first) = first_false(site) {
                    println!("  cluster {}: {first}", site.name);
                }
            }
            println!("  logs: {}", Sandbox::require()?.run().display());
            println!("  try again: cargo dev {} --once", if arguments.empty { "up" } else { "demo" });
            Ok(ExitCode::FAILURE)
        }
    }
}

fn first_false(site: &Site) -> Option<String> {
    let conditions = site.conditions().ok()?;
    let (kind, status, reason, message) = conditions.into_iter().find(|(_, status, _, _)| status != "True")?;
    Some(format!("{kind}={status} ({reason}): {message}"))
}

async fn walk_through(
    arguments: &Arguments,
    progress: &mut Progress,
    fleet: &mut Fleet,
    deaths: &Deaths,
) -> Result<()> {
    let mut platform = Platform::start(&PlatformOptions::default()).await?;
    // Declared after the platform, and so dropped before it.
    let mut watches = Watches::new(deaths);
    watches.watch_process(platform.manager.process().context("the Manager was started")?.watch());
    watches.watch_process(platform.hub.process().watch());
    let mut inherited = platform.sandbox.inherited()?;
    let manager = inherited.forward("manager", None, format!("{HUB_ADDRESS}:{MANAGER_PORT}").parse()?)?;
    let nats = inherited.forward("nats", None, platform.hub.address())?;
    progress.say(&format!("Postgres, hub and Manager are up: https://{}", manager.address()));
    println!("          token: {}   CA: {}", platform.token_file.display(), platform.ca_file.display());

    let milestones = async {
        progress.begin("the cluster servers");
        Servers::wait_until_built(|line| println!("          building: {line}")).await?;
        join(arguments, &platform, &mut inherited, progress, fleet, &mut watches).await?;
        if arguments.empty { Ok(None) } else { run_workload(&platform, fleet, progress).await.map(Some) }
    };
    let tenant_id = tokio::select! {
        reached = milestones => reached?,
        death = deaths.first() => return Err(death),
    };
    if arguments.once {
        println!("\nall of it was seen; without --once it stays up and prints commands to copy");
        return Ok(());
    }
    describe(&platform, fleet, &manager, &nats)?;
    let last = fleet.sites.last().context("at least one cluster")?;
    println!("\nkeys, then Enter:  p cut cluster {0} off   h connect it again   Ctrl-C ends", last.name);
    if tenant_id.is_some() {
        println!("                   u compare its usage with an independent integral");
    }
    take_keys(&platform, tenant_id.as_deref(), last).await
}

/// Starts the clusters, installs the Operator with one token each, and waits for Capsule and KubeVela.
async fn join(
    arguments: &Arguments,
    platform: &Platform,
    inherited: &mut Inherited,
    progress: &mut Progress,
    fleet: &mut Fleet,
    watches: &mut Watches,
) -> Result<()> {
    for (name, index) in arguments.names().iter().zip(1_u8..) {
        progress.begin("joining");
        let site = Site::join(platform, name, index).await?;
        let forward = inherited.forward(name, Some(site.cluster.network().netns()), site.cluster.api_address())?;
        site.cluster.write_kubeconfig(&kubeconfig(platform, name), forward.address())?;
        progress.say(&format!("cluster {name} is up; its Operator was installed with one token"));
        fleet.sites.push(site);
        fleet.forwards.push(forward);
    }
    for site in &fleet.sites {
        site.wait_condition("BusConnected", "True", COMMAND_MAX).await?;
        watches.watch_operator(site)?;
        progress.say(&format!("cluster {} connected to the hub and joined (BusConnected)", site.name));
    }
    progress.begin("Capsule and KubeVela, installed by the Operator");
    for site in &fleet.sites {
        site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
        progress.say(&format!("cluster {}: Capsule and KubeVela are ready", site.name));
    }
    Ok(())
}

/// A tenant and an application on every cluster, until their usage is in the ledger; returns the tenant's id.
async fn run_workload(platform: &Platform, fleet: &Fleet, progress: &mut Progress) -> Result<String> {
    let clusters: Vec<&str> = fleet.sites.iter().map(|site| site.name.as_str()).collect();
    progress.begin("the tenant on every cluster");
    let tenant = steps::create_tenant(platform, TENANT, &clusters).await?;
    progress.say("POST /api/v1/tenants answered 202: the desired state and the commands are committed to Postgres");
    steps::wait_commands(platform, &tenant["commands"], "succeeded", COMMAND_MAX).await?;
    progress.say(&format!("tenant {TENANT} is Ready on every cluster"));

    progress.begin("application shop running on every cluster");
    let shop = steps::web_application("shop", 3, &clusters);
    let accepted = platform.rest.post(&format!("/users/{TENANT}/apps"), &shop).await?.expect(202)?;
    steps::wait_commands(platform, &accepted["commands"], "succeeded", COMMAND_MAX).await?;
    for site in &fleet.sites {
        let pods = steps::ready_pods(site, TENANT, "shop")?;
        if pods != 3 {
            bail!("{pods} of 3 pods of shop are ready in cluster {}", site.name);
        }
    }
    progress.say("application shop is running on every cluster: 3 pods each, read by kubectl");

    progress.begin("usage in the ledger");
    let tenant_id = text(&tenant, "/id")?;
    for site in &fleet.sites {
        wait_usage(platform, &tenant_id, site).await?;
        progress.say(&format!("cluster {}: a sealed usage window is in the ledger", site.name));
    }
    progress.begin("billing events on the bus");
    wait_billing(platform).await?;
    progress.say("one CloudEvent a ledger row is in stream KN_BILL");
    Ok(tenant_id)
}

async fn wait_usage(platform: &Platform, tenant_id: &str, site: &Site) -> Result<()> {
    let path = format!("/api/v1/usage?tenant={tenant_id}&cluster={}", site.id);
    poll::until(format!("usage of {}", site.name), COMMAND_MAX, || async {
        let body = platform.rest.get(&path).await?.expect(200)?;
        let pods = body.pointer("/totals/podCountMs").and_then(serde_json::Value::as_str).unwrap_or("0").to_owned();
        Ok(Step::when(pods != "0", (), body.to_string()))
    })
    .await
}

async fn wait_billing(platform: &Platform) -> Result<()> {
    let nats = platform.nats()?;
    poll::until("billing events", COMMAND_MAX, || async {
        let seen = nats.run(&["stream", "subjects", "KN_BILL", "--json"])?;
        Ok(Step::when(seen.contains(".usage"), (), seen))
    })
    .await
}

fn kubeconfig(platform: &Platform, name: &str) -> PathBuf {
    platform.sandbox.run().join(format!("{name}.kubeconfig"))
}

/// Commands to copy: the first sets the variables that the others, and the pages of `docs/operations`, use.
fn describe(platform: &Platform, fleet: &Fleet, manager: &Forward, nats: &Forward) -> Result<()> {
    let kubeconfig_of = |site: &Site| kubeconfig(platform, &site.name);
    let first = fleet.sites.first().context("at least one cluster")?;
    let outside = Outside { manager: manager.address(), nats: nats.address(), kubeconfig: kubeconfig_of(first) };
    let environment = shell::write(platform, &outside)?;
    println!("\nfront page   https://{}/", manager.address());
    println!("\nin another terminal, this first; then the commands below and those of docs/operations work as written");
    println!("shell        source {}", environment.display());
    println!("REST         curl -H \"Authorization: Bearer $TOKEN\" \"$MANAGER/api/v1/clusters\"");
    println!("kubectl      kubectl get pods -A        # cluster {}", first.name);
    for site in fleet.sites.iter().skip(1) {
        println!("             kubectl --kubeconfig {} get pods -A", kubeconfig_of(site).display());
    }
    println!("commands     kubectl get novacommands -n kubenova-system");
    println!("nats         nats stream ls");
    println!("             KN_CMD holds commands, KN_STS status, KN_USE usage windows, KN_BILL billing events");
    let ids: Vec<String> = fleet.sites.iter().map(|site| format!("{} = {}", site.name, site.id)).collect();
    println!("             subjects name clusters by id: {}", ids.join(", "));
    println!(
        "token        kubenova-manager token create --subject ann --role readOnly --out {}",
        platform.sandbox.run().join("ann.token").display()
    );
    if let Some(metrics) = metrics_address(&platform.manager.log()?) {
        println!("metrics      {} curl -s http://{metrics}/metrics", platform.sandbox.way_in());
    }
    Ok(())
}

/// The address that the Manager's log names when it is up.
fn metrics_address(log: &str) -> Option<String> {
    let line = log.lines().find(|line| line.contains("the Manager is running"))?;
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    Some(line["metrics"].as_str()?.to_owned())
}

async fn take_keys(platform: &Platform, tenant_id: Option<&str>, site: &Site) -> Result<()> {
    let (sender, mut keys) = mpsc::channel::<String>(8);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    loop {
        let Some(key) = keys.recv().await else {
            // Standard input has ended: stay until a signal.
            std::future::pending::<()>().await;
            return Ok(());
        };
        match (key.trim(), tenant_id) {
            ("p", _) => {
                site.cluster.cut(Cut::Silent)?;
                println!(
                    "cluster {} is cut off; after 45 s without a heartbeat the Manager calls it stale, and commands for it \
                     wait in Postgres",
                    site.name
                );
            }
            ("h", _) => {
                site.cluster.heal()?;
                println!("cluster {} is connected again", site.name);
            }
            ("u", Some(tenant_id)) => match integral::compare_newest(platform, tenant_id, site).await {
                Ok(comparison) => println!("cluster {}, {comparison}", site.name),
                Err(error) => println!("could not compare: {error:#}"),
            },
            ("", _) => {}
            (other, _) => println!("there is no key \"{other}\""),
        }
    }
}

/// Copies what the run wrote, apart from what lies in memory, beside the logs.
fn keep() -> Result<()> {
    let run = Sandbox::require()?.run().to_path_buf();
    let logs = std::env::var_os("KUBENOVA_LOGS")
        .context("--keep needs KUBENOVA_LOGS: start it with `cargo dev demo --keep`")?;
    let kept = PathBuf::from(logs).join("run");
    std::fs::create_dir_all(&kept)?;
    for entry in std::fs::read_dir(&run)?.flatten().filter(|entry| entry.file_name() != OsStr::new("memory")) {
        let status = std::process::Command::new("cp").arg("-a").arg(entry.path()).arg(&kept).status()?;
        if !status.success() {
            bail!("could not copy {} to {}", entry.path().display(), kept.display());
        }
    }
    println!("kept in {}", kept.display());
    Ok(())
}
