//! `Connect`: from a request to a session, or to the reason why there is none.

use crate::{
    metrics::{Metrics, RefusalLabels},
    peer::Peer,
    session::{self, End, Session},
    settings::Settings,
    shares::{Share, Shares},
    usage::InUse,
};
use futures::stream::BoxStream;
use kubenova_bus::{
    bridge::{
        FRAMES_WAITING,
        problem::BridgeProblem,
        proto::{Frame, bridge_server::Bridge},
    },
    dial::Dialer,
    relay::broker::{self, Greeted},
    tls::Files,
    transport::BrokerUrl,
};
use kubenova_runtime::{random, shutdown::Shutdown, telemetry};
use std::{sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Time for the connection to the broker: less than the ten seconds for which a cluster waits, so that the answer says why there is none.
const BROKER_LIMIT: Duration = Duration::from_secs(8);

/// Sessions of one cluster: its Operator has one, and another while it is replaced. A cluster whose keys were stolen must not take the
/// places of all others.
const SESSIONS_OF_CLUSTER_MAX: usize = 8;

/// The service of one process.
pub(crate) struct Service {
    urls: Vec<BrokerUrl>,
    files: Files,
    room: Arc<Semaphore>,
    drain: Duration,
    clusters: Arc<Shares<Arc<str>>>,
    metrics: Metrics,
    shutdown: Shutdown,
}

impl Service {
    pub(crate) fn new(settings: &Settings, metrics: Metrics, shutdown: Shutdown) -> Self {
        Self {
            urls: settings.broker_urls(),
            files: settings.tls.files(),
            room: Arc::new(Semaphore::new(settings.sessions_max)),
            drain: settings.drain(),
            clusters: Arc::new(Shares::new(SESSIONS_OF_CLUSTER_MAX)),
            metrics,
            shutdown,
        }
    }

    async fn open(&self, peer: &Peer) -> Result<(Counted, Greeted), (BridgeProblem, String)> {
        if self.shutdown.is_requested() {
            return Err((BridgeProblem::Draining, "connect again".to_owned()));
        }
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            return Err((BridgeProblem::Full, "another replica may have room".to_owned()));
        };
        let Some(counted) = Counted::new(peer, room, Arc::clone(&self.clusters), self.metrics.clone()) else {
            return Err((BridgeProblem::Full, format!("this cluster has {SESSIONS_OF_CLUSTER_MAX} sessions already")));
        };
        let greeted = tokio::select! {
            connected = tokio::time::timeout(BROKER_LIMIT, self.broker()) => {
                connected.unwrap_or_else(|_| Err(format!("it did not answer within {} s", BROKER_LIMIT.as_secs())))
            }
            () = self.shutdown.requested() => return Err((BridgeProblem::Draining, "connect again".to_owned())),
        };
        let greeted = greeted.map_err(|message| (BridgeProblem::Broker, message))?;
        Ok((counted, greeted))
    }

    /// The first of the URLs that works. Certificates are read for each connection.
    async fn broker(&self) -> Result<Greeted, String> {
        let mut failed = Vec::new();
        for url in &self.urls {
            match broker::connect(url, &Dialer::default(), &self.files).await {
                Ok(greeted) => return Ok(greeted),
                Err(error) => failed.push(format!("{}: {}", url.text, telemetry::chain(&error))),
            }
        }
        Err(failed.join("; "))
    }

    /// When a session ends after a stop was requested: anywhere in the time that there is for all of them.
    fn end_after(&self) -> Duration {
        let [low, high] = random::bytes::<2>();
        self.drain.mul_f64(f64::from(u16::from_le_bytes([low, high])) / f64::from(u16::MAX))
    }
}

#[tonic::async_trait]
impl Bridge for Service {
    type ConnectStream = BoxStream<'static, Result<Frame, Status>>;

    async fn connect(&self, request: Request<Streaming<Frame>>) -> Result<Response<Self::ConnectStream>, Status> {
        let Some(peer) = request.extensions().get::<Peer>().cloned() else {
            return Err(Status::internal("the request is not known to be of a connection"));
        };
        let (counted, greeted) = self.open(&peer).await.map_err(|(problem, message)| {
            self.metrics.refused.get_or_create(&RefusalLabels { reason: problem.name() }).inc();
            tracing::warn!(cluster.id = &*peer.cluster, reason = problem.name(), message, "refused a session");
            problem.status(message)
        })?;
        let (to_cluster, frames) = mpsc::channel(FRAMES_WAITING);
        let session = Session {
            from_cluster: request.into_inner(),
            to_cluster,
            broker: greeted,
            metrics: self.metrics.clone(),
            shutdown: self.shutdown.clone(),
            end_after: self.end_after(),
        };
        tracing::info!(cluster.id = &*counted.cluster, "a session begins");
        self.shutdown.spawn_work("session", async move {
            let end = session::run(session).await;
            counted.end(&end);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(frames))))
    }
}

/// A session that counts, from before it is connected to the broker until the value is dropped.
struct Counted {
    cluster: Arc<str>,
    /// Until it is dropped.
    share: Option<Share<Arc<str>>>,
    clusters: Arc<Shares<Arc<str>>>,
    metrics: Metrics,
    _room: OwnedSemaphorePermit,
    _in_use: InUse,
}

impl Counted {
    /// None when the cluster has as many as it may.
    fn new(peer: &Peer, room: OwnedSemaphorePermit, clusters: Arc<Shares<Arc<str>>>, metrics: Metrics) -> Option<Self> {
        let cluster = Arc::clone(&peer.cluster);
        let share = Some(clusters.take(&cluster)?);
        metrics.sessions.inc();
        let counted = Self { cluster, share, clusters, metrics, _room: room, _in_use: peer.usage.begin() };
        counted.show_clusters();
        Some(counted)
    }

    fn show_clusters(&self) {
        self.metrics.clusters.set(i64::try_from(self.clusters.takers()).unwrap_or(i64::MAX));
    }

    fn end(self, end: &End) {
        self.metrics.ended.get_or_create(&crate::metrics::EndLabels { end: end.name() }).inc();
        tracing::info!(cluster.id = &*self.cluster, end = end.name(), "a session ended");
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.sessions.dec();
        self.share = None;
        self.show_clusters();
    }
}
