//! Builds the parts in flow order and hands each what it needs. Whatever ends by surprise ends the process; a stop is
//! soft first, hard after [`SOFT_STOP`].

use crate::{
    apiserver::client::Apiserver,
    context::Context,
    controllers::{self, cluster_config},
    inbound, join,
    join::{conditions::StatusReporter, identity::Identity},
    lease::{self, LeaseConfig},
    metering::{self, MeteringContext},
    outbound::{self, outcomes::Outcomes, status::StatusCache},
    session::{self, Senders, hello::HelloClient},
    settings::Settings,
};
use anyhow::Context as _;
use kubenova_runtime::{
    probe::{self, Gates},
    random,
    shutdown::Shutdown,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Time for parts to finish what they are at; the pod's own limit is 30 s.
const SOFT_STOP: Duration = Duration::from_secs(15);
/// Receipt lists that wait for metering: newest wins, so few are enough.
const RECEIPTS_WAITING: usize = 8;

/// Runs the Operator until it is told to stop.
///
/// # Errors
/// When there is no API server to speak of, our own kinds are missing, or parts had to be left behind at the end.
pub async fn start(settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let settings = Arc::new(settings);
    let gates = Gates::default();
    serve_probes(&settings, &gates, &shutdown).await;
    gates.set("lease", Some("another pod holds the lease, or the API server is away".to_owned()));
    let apiserver = Apiserver::connect().await.context("could not reach the cluster's API server")?;
    let keeping = LeaseConfig {
        namespace: settings.state_namespace.clone(),
        holder: settings.pod_uid.clone(),
        duration: Duration::from_secs(u64::from(settings.lease.duration_seconds)),
    };
    let Some(held) = lease::acquire(&apiserver, keeping, &shutdown).await else { return Ok(()) };
    gates.set("lease", None);
    let lease_term = held.term;
    let (give_back, given_back) = oneshot::channel();
    let keeping_shutdown = shutdown.clone();
    shutdown.spawn("lease", async move {
        if let Some(held) = held.keep(keeping_shutdown).await {
            let _wiring_gone = give_back.send(held);
        }
    });
    let worked = work(Arc::clone(&settings), &apiserver, lease_term, &gates, &shutdown).await;
    shutdown.request();
    let finished = shutdown.finish(SOFT_STOP).await;
    // Only now may another pod begin.
    if let (Ok(held), true) = (given_back.await, finished) {
        held.release().await;
    }
    worked?;
    anyhow::ensure!(finished, "some parts did not stop within {} s", SOFT_STOP.as_secs());
    Ok(())
}

async fn work(
    settings: Arc<Settings>,
    apiserver: &Apiserver,
    lease_term: u64,
    gates: &Gates,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    gates.set(
        "join",
        Some("the cluster has not joined yet; see the conditions of NovaClusterConfig default".to_owned()),
    );
    let Some(here) = join::prepare(apiserver, shutdown).await? else { return Ok(()) };
    let Some(identity) = join::run(apiserver, &settings, &here, shutdown).await else { return Ok(()) };
    gates.set("join", None);
    let identity = Arc::new(identity);
    let parts = Parts::new(settings, apiserver, identity, lease_term, here.kubernetes_version, gates, shutdown);
    parts.spawn();
    shutdown.requested().await;
    Ok(())
}

/// Everything that is shared, before anything runs.
struct Parts {
    ctx: Context,
    senders: Senders,
    usage: watch::Sender<metering::UsageHealth>,
}

impl Parts {
    fn new(
        settings: Arc<Settings>,
        apiserver: &Apiserver,
        identity: Arc<Identity>,
        lease_term: u64,
        kubernetes_version: String,
        gates: &Gates,
        shutdown: &Shutdown,
    ) -> Self {
        let (bus_sender, bus) = watch::channel(None);
        let (session_sender, session) = watch::channel(None);
        let (usage_sender, usage) = metering::health();
        let hello_again = Arc::new(Notify::new());
        let ctx = Context {
            apiserver: apiserver.clone(),
            settings,
            boot_id: random::uuid_v4().to_string(),
            lease_term,
            kubernetes_version,
            outcomes: Outcomes::new(identity.cluster_id(), bus.clone()),
            identity,
            bus,
            session,
            hello_again: Arc::clone(&hello_again),
            usage,
            status_cache: StatusCache::default(),
            shutdown: shutdown.clone(),
            gates: gates.clone(),
        };
        let senders = Senders { bus: bus_sender, session: session_sender, hello_again };
        Self { ctx, senders, usage: usage_sender }
    }

    fn spawn(self) {
        let Self { ctx, senders, usage } = self;
        let shutdown = ctx.shutdown.clone();
        let (receipt_sender, receipts) = mpsc::channel(RECEIPTS_WAITING);
        let asker = HelloClient {
            apiserver: ctx.apiserver.clone(),
            namespace: ctx.settings.state_namespace.clone(),
            identity: Arc::clone(&ctx.identity),
            boot_id: ctx.boot_id.clone(),
            lease_term: ctx.lease_term,
            kubernetes_version: ctx.kubernetes_version.clone(),
        };
        let reporter = StatusReporter::new(&ctx.apiserver);
        let session = session::run(
            Arc::clone(&ctx.settings),
            Arc::clone(&ctx.identity),
            reporter,
            asker,
            senders,
            ctx.gates.clone(),
            shutdown.clone(),
        );
        shutdown.spawn("session", session);
        shutdown.spawn("inbound", inbound::run(ctx.clone(), receipt_sender));
        shutdown.spawn("dispatch", controllers::dispatch::run(ctx.clone()));
        shutdown.spawn(
            "cluster config",
            cluster_config::run(cluster_config::InstallContext {
                apiserver: ctx.apiserver.clone(),
                state_namespace: ctx.settings.state_namespace.clone(),
                charts_dir: ctx.settings.charts_dir.clone(),
                helm: ctx.settings.helm.clone(),
                shutdown: shutdown.clone(),
            }),
        );
        shutdown.spawn("tenants", controllers::tenant::run(ctx.clone()));
        shutdown.spawn("applications", controllers::application::run(ctx.clone()));
        shutdown.spawn("report", controllers::report::run(ctx.clone()));
        shutdown.spawn("outcomes", outbound::outcomes::run(ctx.clone()));
        shutdown.spawn("status", outbound::status::run(ctx.clone()));
        shutdown.spawn("heartbeat", outbound::heartbeat::run(ctx.clone()));
        spawn_metering(&ctx, receipts, usage);
    }
}

fn spawn_metering(
    ctx: &Context,
    receipts: mpsc::Receiver<metering::ReceiptDelivery>,
    health: watch::Sender<metering::UsageHealth>,
) {
    let (offset_sender, clock_offset_ms) = watch::channel(0);
    let mut session = ctx.session.clone();
    let shutdown = ctx.shutdown.clone();
    ctx.shutdown.spawn("clock offset", async move {
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                changed = session.changed() => if changed.is_err() { shutdown.requested().await; return },
            }
            // While no session is open the last measurement stays the best one.
            if let Some(open) = session.borrow_and_update().as_ref() {
                offset_sender.send_replace(open.clock_offset_ms);
            }
        }
    });
    ctx.shutdown.spawn(
        "metering",
        metering::run(MeteringContext {
            client: ctx.apiserver.client(),
            window_seconds: ctx.settings.usage.window_seconds,
            state_namespace: ctx.settings.state_namespace.clone(),
            cluster_id: ctx.identity.cluster_id().to_owned(),
            incarnation: ctx.identity.answer.incarnation.clone(),
            nkey_seed: ctx.identity.keys.nkey_seed.clone(),
            bus: ctx.bus.clone(),
            receipts,
            clock_offset_ms,
            shutdown: ctx.shutdown.clone(),
            gates: ctx.gates.clone(),
            health,
        }),
    );
}

/// Probes are answered from the first moment on. Without a folder for the socket the Operator works all the same.
async fn serve_probes(settings: &Settings, gates: &Gates, shutdown: &Shutdown) {
    if let Some(folder) = settings.probe_socket.parent() {
        let _there_already = tokio::fs::create_dir_all(folder).await;
    }
    let (path, gates, stop) = (settings.probe_socket.clone(), gates.clone(), shutdown.clone());
    shutdown.spawn("probes", async move {
        tokio::select! {
            () = stop.requested() => {}
            served = probe::serve(&path, gates) => {
                if let Err(error) = served {
                    tracing::warn!(%error, path = %path.display(), "could not serve probes");
                }
                stop.requested().await;
            }
        }
    });
}
