//! `cargo dev demo`: the whole product on this machine, told as the ring, with real servers.
//!
//! Manager and hub are up and usable while the cluster servers are still being built. Then two sovereign clusters join,
//! get their components, a tenant, an application; status and usage come back. `--once` ends with 0 only if all of it
//! was seen; otherwise it stays until Ctrl-C and takes keys (then Enter): `p` cuts cluster beta off, `h` heals it, `u`
//! shows the last ledger row beside an independent integral.

#![expect(clippy::print_stdout, reason = "the demo talks to a person")]

use std::ffi::OsStr;
use std::io::BufRead as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use kubenova_env::forward::{Forward, ForwardRequest};
use kubenova_env::network::Cut;
use kubenova_env::poll::{self, Step};
use kubenova_env::sandbox::{self, HUB_ADDRESS, Options, Sandbox};
use kubenova_env::servers::Servers;
use kubenova_scenarios::integral;
use kubenova_scenarios::platform::{MANAGER_PORT, Platform, PlatformOptions};
use kubenova_scenarios::site::{Site, text};
use kubenova_scenarios::story;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

const COMPONENTS_MAX: Duration = Duration::from_secs(300);
const ORDER_MAX: Duration = Duration::from_secs(180);
/// Clusters of the demo.
const NAMES: [&str; 2] = ["alpha", "beta"];

/// The whole product on this machine.
#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// Run through the story, then stop and clean up.
    #[arg(long)]
    once: bool,
    /// Copy what the run wrote beside the logs before it is removed.
    #[arg(long)]
    keep: bool,
}

fn main() -> Result<ExitCode> {
    if let Some(code) = sandbox::play_stage() {
        return Ok(code);
    }
    let arguments = Arguments::parse();
    if Sandbox::require().is_err() {
        return go_inside();
    }
    let runtime = tokio::runtime::Runtime::new().context("could not make a runtime")?;
    runtime.block_on(Box::pin(until_stopped(arguments)))
}

fn go_inside() -> Result<ExitCode> {
    let names = ["manager", "nats"].into_iter().chain(NAMES);
    let forwards = names.map(|name| ForwardRequest { name: name.to_owned(), port: 0 }).collect();
    sandbox::enter_ourselves(&Options { forwards, with_parent: true, typed: true })
}

async fn until_stopped(arguments: Arguments) -> Result<ExitCode> {
    let mut interrupted = signal(SignalKind::interrupt()).context("could not listen for Ctrl-C")?;
    let mut terminated = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    tokio::select! {
        outcome = Box::pin(tell(&arguments)) => outcome,
        _ = interrupted.recv() => Ok(ExitCode::SUCCESS),
        _ = terminated.recv() => Ok(ExitCode::SUCCESS),
    }
}

/// The story's clock and the milestone that is being worked for.
struct Teller {
    began: Instant,
    milestone: &'static str,
}

impl Teller {
    fn reach(&mut self, milestone: &'static str) {
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

async fn tell(arguments: &Arguments) -> Result<ExitCode> {
    let mut teller = Teller { began: Instant::now(), milestone: "the hub" };
    let mut fleet = Fleet::default();
    let outcome = Box::pin(story_of(arguments, &mut teller, &mut fleet)).await;
    if arguments.keep {
        keep()?;
    }
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            println!("\nthe demo did not reach: {}", teller.milestone);
            println!("  {error:#}");
            for site in &fleet.sites {
                if let Some(first) = first_false(site) {
                    println!("  cluster {}: {first}", site.name);
                }
            }
            println!("  logs: {}", Sandbox::require()?.run().display());
            println!("  again: cargo dev demo --once");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn first_false(site: &Site) -> Option<String> {
    let conditions = site.conditions().ok()?;
    let (kind, status, reason, message) = conditions.into_iter().find(|(_, status, _, _)| status != "True")?;
    Some(format!("{kind}={status} ({reason}): {message}"))
}

async fn story_of(arguments: &Arguments, teller: &mut Teller, fleet: &mut Fleet) -> Result<()> {
    let platform = Platform::start(&PlatformOptions::default()).await?;
    let mut inherited = platform.sandbox.inherited()?;
    let manager = inherited.forward("manager", None, format!("{HUB_ADDRESS}:{MANAGER_PORT}").parse()?)?;
    let nats = inherited.forward("nats", None, platform.hub.address())?;
    teller.say(&format!("Postgres, hub and Manager are up: https://{}", manager.address()));
    println!("          token: {}   CA: {}", platform.token_file.display(), platform.ca_file.display());

    teller.reach("the cluster servers");
    Servers::wait_until_built(|progress| println!("          building: {progress}")).await?;
    for (name, index) in NAMES.into_iter().zip(1_u8..) {
        teller.reach("joining");
        let site = Site::join(&platform, name, index).await?;
        let forward = inherited.forward(name, Some(site.cluster.network().netns()), site.cluster.api_address())?;
        site.cluster.write_kubeconfig(&kubeconfig(&platform, name), forward.address())?;
        teller.say(&format!("cluster {name} is up; its Operator was installed with one token"));
        fleet.sites.push(site);
        fleet.forwards.push(forward);
    }
    for site in &fleet.sites {
        site.wait_condition("BusConnected", "True", ORDER_MAX).await?;
        teller.say(&format!("cluster {} dialed out and joined (BusConnected)", site.name));
    }
    teller.reach("Capsule and KubeVela, installed by the Operator");
    for site in &fleet.sites {
        site.wait_condition("Ready", "True", COMPONENTS_MAX).await?;
        teller.say(&format!("cluster {}: Capsule and KubeVela are ready", site.name));
    }

    teller.reach("tenant acme on both clusters");
    let tenant = story::create_tenant(&platform, "acme", &NAMES).await?;
    teller.say("POST /api/v1/tenants answered 202: the wish and its outbox rows are committed");
    story::wait_commands(&platform, &tenant["commands"], "succeeded", ORDER_MAX).await?;
    teller.say("tenant acme is Ready on both clusters");

    teller.reach("application shop running on both clusters");
    let shop = story::web_application("shop", 3, &NAMES);
    let accepted = platform.rest.post("/users/acme/apps", &shop).await?.expect(202)?;
    story::wait_commands(&platform, &accepted["commands"], "succeeded", ORDER_MAX).await?;
    for site in &fleet.sites {
        let pods = story::ready_pods(site, "acme", "shop")?;
        if pods != 3 {
            bail!("{pods} of 3 pods of shop are ready in cluster {}", site.name);
        }
    }
    teller.say("application running on both clusters: 3 pods each, read by kubectl");

    teller.reach("usage in the ledger");
    let tenant_id = text(&tenant, "/id")?;
    for site in &fleet.sites {
        wait_usage(&platform, &tenant_id, site).await?;
        teller.say(&format!("cluster {}: a sealed usage window is in the ledger", site.name));
    }
    teller.reach("billing events on the bus");
    wait_billing(&platform).await?;
    teller.say("one CloudEvent a ledger row is on KN_BILL");

    if arguments.once {
        println!("\nall of it was seen; without --once it stays up and prints ready commands");
        return Ok(());
    }
    describe(&platform, &manager, &nats)?;
    println!(
        "\nkeys, then Enter:  p cut cluster beta off   h heal it   u usage beside an independent integral   Ctrl-C ends"
    );
    take_keys(&platform, &tenant_id, &fleet.sites).await
}

async fn wait_usage(platform: &Platform, tenant_id: &str, site: &Site) -> Result<()> {
    let path = format!("/api/v1/usage?tenant={tenant_id}&cluster={}", site.id);
    poll::until(format!("usage of {}", site.name), ORDER_MAX, || async {
        let body = platform.rest.get(&path).await?.expect(200)?;
        let pods = body.pointer("/totals/podCountMs").and_then(serde_json::Value::as_str).unwrap_or("0").to_owned();
        Ok(Step::when(pods != "0", (), body.to_string()))
    })
    .await
}

async fn wait_billing(platform: &Platform) -> Result<()> {
    let nats = platform.nats()?;
    poll::until("billing events", ORDER_MAX, || async {
        let seen = nats.run(&["stream", "subjects", "KN_BILL", "--json"])?;
        Ok(Step::when(seen.contains(".usage"), (), seen))
    })
    .await
}

fn kubeconfig(platform: &Platform, name: &str) -> PathBuf {
    platform.sandbox.run().join(format!("{name}.kubeconfig"))
}

/// Ready commands with full paths.
fn describe(platform: &Platform, manager: &Forward, nats: &Forward) -> Result<()> {
    let servers = Servers::find()?;
    let (kubectl, nats_cli) = (servers.binary("kubectl")?, servers.binary("nats")?);
    let (token, ca) = (platform.token_file.display(), platform.ca_file.display());
    println!("\nfront page   https://{}/", manager.address());
    println!(
        "REST         curl --cacert {ca} -H \"Authorization: Bearer $(cat {token})\" https://{}/api/v1/clusters",
        manager.address()
    );
    for name in NAMES {
        println!(
            "kubectl      {} --kubeconfig {} get pods -A",
            kubectl.display(),
            kubeconfig(platform, name).display()
        );
    }
    let inbox = kubeconfig(platform, NAMES[0]);
    println!("inbox        {} --kubeconfig {} get novacommands -n kubenova-system", kubectl.display(), inbox.display());
    let home = platform.nats()?.config_home;
    println!(
        "nats         XDG_CONFIG_HOME={} {} --context kubenova-ops --server tls://{} stream ls",
        home.display(),
        nats_cli.display(),
        nats.address()
    );
    Ok(())
}

async fn take_keys(platform: &Platform, tenant_id: &str, sites: &[Site]) -> Result<()> {
    let (sender, mut keys) = mpsc::channel::<String>(8);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let beta = sites.iter().find(|site| site.name == "beta").context("cluster beta")?;
    loop {
        let Some(key) = keys.recv().await else {
            // Nobody types: stay until a signal.
            std::future::pending::<()>().await;
            return Ok(());
        };
        match key.trim() {
            "p" => {
                beta.cluster.cut(Cut::Silent)?;
                println!(
                    "cluster beta is cut off; after 45 s of silence the Manager calls it stale, and what is ordered for it waits"
                );
            }
            "h" => {
                beta.cluster.heal()?;
                println!("cluster beta is connected again");
            }
            "u" => match integral::compare_newest(platform, tenant_id, beta).await {
                Ok(comparison) => println!("cluster beta, {comparison}"),
                Err(error) => println!("could not compare: {error:#}"),
            },
            "" => {}
            other => println!("no key \"{other}\": p, h or u"),
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
