//! Builds the parts in flow order and hands each what it needs. A part that ends unexpectedly ends the process; a stop is
//! soft first, hard after [`SOFT_STOP`].

use crate::{
    apiserver::{cache::Cache, client::Apiserver},
    context::{BrokerContext, ClusterContext},
    controllers::{self, cluster_config},
    inbound::{self, fence::FenceSource, highest::Highest, just_stored::JustStored, record::Records},
    join,
    join::{
        conditions::StatusReporter,
        current::{self, IdentitySender},
        identity::{Identity, IdentityStore},
        keep::{self, IdentityKeeper},
        token_file::{self, TokenFile},
    },
    leaf::{self, LeafFiles},
    lease::{self, LeaseConfig},
    manager_clock::ManagerClock,
    metering::{self, MeteringContext, UsageHealth, receipt::ReceiptDelivery},
    metrics::{self, Metrics},
    outbound::{self, outcome_queue::OutcomeQueue, status_cache::StatusCache},
    session::{
        self, Senders, SessionContext,
        hello::{HelloClient, Instance},
    },
    settings::Settings,
};
use anyhow::Context as _;
use jiff::SignedDuration;
use kube::Api;
use kubenova_operator_core::{
    components::standing::StandingComponents, digest::RecordDigest, tenant::digest::TenantDigest,
};
use kubenova_runtime::{
    clock::Reading,
    periodic::{Next, Periodic},
    probe::{self, Gates},
    random,
    shutdown::Shutdown,
};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Time for parts to finish their work; half of what the pod has before it is killed.
const SOFT_STOP: Duration = Duration::from_secs(15);
/// Receipt lists that wait for metering: the newest contains the others, so few are enough.
const RECEIPTS_WAITING: usize = 8;

/// Time between looks whether a clock was set: no command waits for it, since deadlines go by the monotonic clock.
const CLOCK_INTERVAL: Duration = Duration::from_secs(5);

/// Runs the Operator until a stop is requested. When the cluster has enrolled again, its parts are stopped and started with the new
/// identity, as another pod would.
///
/// # Errors
/// When no API server is configured, our own kinds are missing, or parts did not stop in time.
pub async fn start(settings: Settings, process: Shutdown) -> anyhow::Result<()> {
    let settings = Arc::new(settings);
    let gates = Gates::default();
    serve_probes(&settings, &gates, &process).await;
    let (registry, metrics) = metrics::registry();
    if let Some(address) = settings.metrics.listen {
        let listening = metrics::serve(address, registry, &process);
        listening.with_context(|| format!("could not listen for metrics on {address}"))?;
    }
    let apiserver = Apiserver::connect().await.context("could not reach the cluster's API server")?;
    loop {
        let stopped = run(&settings, &apiserver, &gates, &metrics, &process.child()).await?;
        if stopped != Stopped::EnrolledAgain || process.is_requested() {
            break;
        }
    }
    process.request();
    anyhow::ensure!(process.finish(SOFT_STOP).await, "some parts did not stop within {} s", SOFT_STOP.as_secs());
    Ok(())
}

/// Why the parts were stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopped {
    Requested,
    EnrolledAgain,
}

/// Takes the Lease, runs the parts until they are stopped, and returns the Lease.
async fn run(
    settings: &Arc<Settings>,
    apiserver: &Apiserver,
    gates: &Gates,
    metrics: &Metrics,
    shutdown: &Shutdown,
) -> anyhow::Result<Stopped> {
    gates.set("lease", Some("waiting for the API server to say who holds the lease".to_owned()));
    let config = LeaseConfig {
        namespace: settings.state_namespace.clone(),
        holder: settings.pod_uid.clone(),
        duration: Duration::from_secs(u64::from(settings.lease.duration_seconds)),
    };
    // A pod that can take over is ready: an eviction may take the other one.
    let stands_by = || gates.set("lease", None);
    let Some(held) = lease::acquire(apiserver, config, shutdown, stands_by).await else {
        return Ok(Stopped::Requested);
    };
    gates.set("lease", None);
    let lease_term = held.term;
    let (return_lease, returned_lease) = oneshot::channel();
    let renewing = shutdown.clone();
    shutdown.spawn("lease", async move {
        if let Some(held) = held.keep(renewing).await {
            let _wiring_gone = return_lease.send(held);
        }
    });
    let worked = work(Arc::clone(settings), apiserver, lease_term, gates, metrics.clone(), shutdown).await;
    shutdown.request();
    let finished = shutdown.finish(SOFT_STOP).await;
    // Only now may another pod begin.
    if let (Ok(held), true) = (returned_lease.await, finished) {
        held.release().await;
    }
    let stopped = worked?;
    anyhow::ensure!(finished, "some parts did not stop within {} s", SOFT_STOP.as_secs());
    // A part that has ended unexpectedly ends the process.
    Ok(if shutdown.part_failed() { Stopped::Requested } else { stopped })
}

async fn work(
    settings: Arc<Settings>,
    apiserver: &Apiserver,
    lease_term: u64,
    gates: &Gates,
    metrics: Metrics,
    shutdown: &Shutdown,
) -> anyhow::Result<Stopped> {
    gates.set("join", Some("the cluster has not joined yet: kubectl describe novaclusterconfig default".to_owned()));
    let Some(facts) = join::prepare(apiserver, shutdown).await? else { return Ok(Stopped::Requested) };
    let Some(identity) = join::run(apiserver, &settings, &facts, shutdown).await else {
        return Ok(Stopped::Requested);
    };
    gates.set("join", None);
    let instance = Instance {
        boot_id: random::uuid_v4().to_string(),
        lease_term,
        kubernetes_version: facts.kubernetes_version.clone(),
    };
    let (token_path, dialer) = (settings.token_file.clone(), settings.dialer.clone());
    let store = IdentityStore::new(apiserver, &settings.state_namespace);
    let parts = Parts::new(settings, apiserver.clone(), identity, instance, gates.clone(), metrics, shutdown.clone());
    let token_file = TokenFile {
        path: token_path,
        store,
        identity: parts.broker.identity.clone(),
        facts,
        dialer,
        reporter: StatusReporter::new(apiserver),
    };
    parts.spawn();
    Ok(tokio::select! {
        () = shutdown.requested() => Stopped::Requested,
        () = token_file::enrolled_again(token_file, shutdown.clone()) => Stopped::EnrolledAgain,
    })
}

/// Everything that is shared, before any part runs.
struct Parts {
    cluster: ClusterContext,
    broker: BrokerContext,
    instance: Arc<Instance>,
    keeper: IdentityKeeper,
    senders: Senders,
    usage_sender: watch::Sender<UsageHealth>,
    usage: watch::Receiver<UsageHealth>,
}

impl Parts {
    fn new(
        settings: Arc<Settings>,
        apiserver: Apiserver,
        identity: Identity,
        instance: Instance,
        gates: Gates,
        metrics: Metrics,
        shutdown: Shutdown,
    ) -> Self {
        let (bus_sender, bus) = watch::channel(None);
        let (session_sender, session) = watch::channel(None);
        let (usage_sender, usage) = metering::health();
        let rehello = Arc::new(Notify::new());
        let (identity_sender, identity, verifier) = current::channel(identity);
        let outcomes = OutcomeQueue::new(identity.cluster_id(), metrics.outcomes_pending.clone());
        let status = StatusCache::new(SignedDuration::from_secs(settings.progress_deadline_seconds.into()));
        let highest = Highest::default();
        let (inbox, tenants, configs) = (Cache::default(), Cache::default(), Cache::default());
        let cluster = ClusterContext {
            apiserver,
            settings,
            shutdown,
            gates,
            status,
            outcomes,
            inbox,
            verifier,
            just_stored: JustStored::default(),
            tenants,
            configs,
            highest,
            manager_clock: ManagerClock::default(),
            metrics,
        };
        let senders = Senders { bus: bus_sender, session: session_sender, rehello: Arc::clone(&rehello) };
        let broker = BrokerContext { identity, bus, session, rehello };
        let keeper = identity_keeper(&cluster, identity_sender);
        Self { cluster, broker, instance: Arc::new(instance), keeper, senders, usage_sender, usage }
    }

    /// Starts the parts in flow order.
    fn spawn(self) {
        let Self { cluster, broker, instance, keeper, senders, usage_sender, usage } = self;
        let shutdown = cluster.shutdown.clone();
        let (receipt_sender, receipts) = mpsc::channel(RECEIPTS_WAITING);
        spawn_caches(&cluster);
        let fence = FenceSource::new(&cluster.apiserver, &cluster.settings, cluster.inbox.clone());
        let session = session_context(&cluster, &broker, &instance, fence.clone(), senders, &keeper.renewal_wanted);
        shutdown.spawn("identity", keep::run(keeper, shutdown.clone()));
        if let Some(files) = session.leaf.clone() {
            shutdown.spawn("leaf", leaf::run(files, shutdown.clone()));
        }
        shutdown.spawn("session", session::run(session, shutdown.clone()));
        shutdown.spawn("inbound", inbound::run(cluster.clone(), broker.clone(), fence.clone(), receipt_sender));
        shutdown.spawn("dispatch", controllers::dispatch::run(cluster.clone(), fence));
        shutdown.spawn("cluster config", cluster_config::run(install_context(&cluster)));
        shutdown.spawn("tenants", controllers::tenant::run(cluster.clone()));
        shutdown.spawn("applications", controllers::application::run(cluster.clone()));
        shutdown.spawn("report", controllers::report::run(cluster.clone(), usage.clone()));
        shutdown.spawn("outcomes", outbound::outcomes::run(cluster.clone(), broker.clone()));
        shutdown.spawn("status", outbound::status::run(cluster.clone(), broker.clone()));
        shutdown.spawn("heartbeat", outbound::heartbeat::run(cluster.clone(), broker.clone(), instance, usage));
        shutdown.spawn("manager clock", check_manager_clock(cluster.clone(), broker.clone()));
        spawn_metering(&cluster, &broker, receipts, usage_sender);
    }
}

fn spawn_caches(cluster: &ClusterContext) {
    let (client, shutdown) = (cluster.apiserver.client(), &cluster.shutdown);
    let records = Api::namespaced(client.clone(), &cluster.settings.state_namespace);
    let inbox = cluster.inbox.clone().follow(records, RecordDigest::of, shutdown.clone());
    shutdown.spawn("inbox cache", inbox);
    let tenants = cluster.tenants.clone().follow(Api::all(client.clone()), TenantDigest::of, shutdown.clone());
    shutdown.spawn("tenant cache", tenants);
    let configs = cluster.configs.clone().follow(Api::all(client), StandingComponents::of, shutdown.clone());
    shutdown.spawn("configuration cache", configs);
}

fn session_context(
    cluster: &ClusterContext,
    broker: &BrokerContext,
    instance: &Arc<Instance>,
    fence: FenceSource,
    senders: Senders,
    renewal_wanted: &Arc<Notify>,
) -> SessionContext {
    let hello = HelloClient {
        inbox: cluster.inbox.clone(),
        identity: broker.identity.clone(),
        instance: Arc::clone(instance),
        highest: cluster.highest.clone(),
        fence,
        manager_clock: cluster.manager_clock.clone(),
    };
    SessionContext {
        settings: Arc::clone(&cluster.settings),
        identity: broker.identity.clone(),
        leaf: LeafFiles::new(&cluster.apiserver, &cluster.settings, &broker.identity),
        renewal_wanted: Arc::clone(renewal_wanted),
        reporter: StatusReporter::new(&cluster.apiserver),
        hello,
        records: Records::new(cluster),
        senders,
        gates: cluster.gates.clone(),
        open: cluster.metrics.session_open.clone(),
    }
}

fn identity_keeper(cluster: &ClusterContext, identity: IdentitySender) -> IdentityKeeper {
    IdentityKeeper {
        store: IdentityStore::new(&cluster.apiserver, &cluster.settings.state_namespace),
        identity,
        reporter: StatusReporter::new(&cluster.apiserver),
        dialer: cluster.settings.dialer.clone(),
        manager_clock: cluster.manager_clock.clone(),
        renewal_wanted: Arc::new(Notify::new()),
        expires: cluster.metrics.credentials_expire.clone(),
        failures: cluster.metrics.renewal_failures.clone(),
    }
}

fn install_context(cluster: &ClusterContext) -> cluster_config::InstallContext {
    cluster_config::InstallContext {
        apiserver: cluster.apiserver.clone(),
        state_namespace: cluster.settings.state_namespace.clone(),
        charts_dir: cluster.settings.charts_dir.clone(),
        helm: cluster.settings.helm.clone(),
        metrics: cluster.metrics.clone(),
        shutdown: cluster.shutdown.clone(),
    }
}

fn spawn_metering(
    cluster: &ClusterContext,
    broker: &BrokerContext,
    receipts: mpsc::Receiver<ReceiptDelivery>,
    health: watch::Sender<UsageHealth>,
) {
    let (shutdown, identity) = (&cluster.shutdown, broker.identity.get());
    shutdown.spawn(
        "metering",
        metering::run(MeteringContext {
            client: cluster.apiserver.client(),
            window_seconds: cluster.settings.usage.window_seconds,
            state_namespace: cluster.settings.state_namespace.clone(),
            cluster_id: broker.cluster_id().to_owned(),
            incarnation: identity.answer.incarnation.clone(),
            nkey_seed: identity.keys.nkey_seed.clone(),
            bus: broker.bus.clone(),
            receipts,
            manager_clock: cluster.manager_clock.clone(),
            shutdown: shutdown.clone(),
            gates: cluster.gates.clone(),
            metrics: cluster.metrics.clone(),
            health,
        }),
    );
}

/// Asks for a hello when the Manager's clock should be measured again.
async fn check_manager_clock(cluster: ClusterContext, broker: BrokerContext) {
    let round = || async {
        if broker.session.borrow().is_some()
            && let Some(why) = cluster.manager_clock.wants_measurement(Reading::now())
        {
            tracing::warn!(why, "comparing this cluster's clock with the Manager's again");
            broker.rehello.notify_one();
        }
        Ok::<_, Infallible>(Next::Wait)
    };
    Periodic::new("compare the clocks", CLOCK_INTERVAL).run(&cluster.shutdown, round).await;
}

/// Probes are answered from the start. An Operator that cannot serve them works all the same.
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
