//! The bridge: gRPC for clusters whose way out allows HTTP/2 only.
//!
//! `kubenova-manager bridge` runs it as a process of its own. For each session it makes one connection to the broker, with a certificate
//! of its own, passes the broker's first line on, and from then on bytes, both ways. The login goes from the cluster to the broker: the
//! server's nonce, the user JWT and the signature pass through like everything else.
//!
//! Guarantees: it has no authority (no database, no user of the broker, no signing key) and no state, so any number of replicas may
//! stand behind one address; what it holds of a session is bounded, whoever is slow; a stop ends its sessions spread over some time, so
//! that they do not all come to the other replicas at once; no cluster, and no address, takes the places of others. Must not: read what it
//! carries, or decide anything else by who it is from. That a certificate is a cluster's is all it asks.
//!
//! Before it: the Operator's relay (`kubenova_bus::relay`). After it: nats-server.

mod certificates;
mod listener;
pub mod metrics;
mod peer;
mod service;
mod session;
pub mod settings;
mod shares;
mod usage;
mod verifier;

use anyhow::{Context as _, Result};
use certificates::Certificates;
use kubenova_bus::bridge::{
    CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, KEEPALIVE_TIMEOUT, STREAM_WINDOW_BYTES,
    proto::bridge_server::BridgeServer,
};
use kubenova_runtime::{
    listen,
    metrics::{Registry, serve},
    probe::{self, Gates},
    shutdown::Shutdown,
};
use metrics::Metrics;
use service::Service;
use settings::Settings;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tonic::transport::Server;

/// Streams of one connection: a session, health checks, and sessions that end while another begins.
const STREAMS_MAX: u32 = 8;
/// Names and values of a request's headers; ours are a few hundred bytes.
const HEADER_BYTES_MAX: u32 = 8 * 1024;
/// For the last session to end, after its turn has come.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// A running bridge.
#[derive(Debug)]
pub struct Running {
    /// Where clusters connect.
    pub address: SocketAddr,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
}

/// Starts it. It stops when a stop is requested: it accepts no connection any more, sends GOAWAY on those that it has, and ends its
/// sessions within the settings' `drainSeconds`.
///
/// # Errors
/// When certificates cannot be read or addresses not be bound.
pub async fn start(settings: Settings, shutdown: Shutdown) -> Result<Running> {
    let mut registry = Registry::new(metrics::PREFIX);
    let metrics = Metrics::register(&mut registry);
    let certificates = Certificates::open(settings.tls.files(), settings.trust_domain.clone(), metrics.clone())?;
    let bound = listen::tcp_for_tasks(settings.listen);
    let listener = bound.with_context(|| format!("could not listen on {}", settings.listen))?;
    let address = listener.local_addr()?;
    let metrics_address = match settings.metrics.listen {
        Some(address) => Some(serve_metrics(address, registry, &shutdown)?),
        None => None,
    };
    let gates = Gates::default();
    gates.set(STOPPING, None);
    if let Some(path) = settings.probe_socket.clone() {
        serve_probes(path, gates.clone(), &shutdown);
    }
    spawn(&settings, listener, certificates, metrics, gates, &shutdown);
    Ok(Running { address, metrics: metrics_address })
}

/// The gate that is closed while the bridge stops. There is none for the broker: without it every replica would be closed at once, and
/// clusters would see a closed port instead of the reason.
const STOPPING: &str = "stopping";

fn spawn(
    settings: &Settings,
    listener: TcpListener,
    certificates: Certificates,
    metrics: Metrics,
    gates: Gates,
    shutdown: &Shutdown,
) {
    let files = Arc::clone(&certificates.current);
    let incoming = listener::Incoming::start(listener, files, settings.accepting(), metrics.clone(), shutdown);
    let reload = shutdown.clone();
    shutdown.spawn("certificates", async move { certificates.keep(&reload).await });
    let (drain, keepalive) = (settings.drain(), settings.keepalive());
    let service = Service::new(settings, metrics, shutdown.clone());
    let stop = shutdown.clone();
    shutdown.spawn("grpc", async move {
        let (health, health_server) = tonic_health::server::health_reporter();
        health.set_serving::<BridgeServer<Service>>().await;
        let bridge = BridgeServer::new(service)
            .max_decoding_message_size(FRAME_BYTES_MAX)
            .max_encoding_message_size(FRAME_BYTES_MAX);
        let stopping = stop.clone();
        let served = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(STREAMS_MAX)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .http2_keepalive_interval(Some(keepalive))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_service(health_server)
            .add_service(bridge)
            .serve_with_incoming_shutdown(incoming, async move {
                stopping.requested().await;
                gates.set(STOPPING, Some("no more sessions".to_owned()));
                health.set_not_serving::<BridgeServer<Service>>().await;
            });
        let limited = async {
            stop.requested().await;
            tokio::time::sleep(drain + DRAIN_GRACE).await;
        };
        tokio::select! {
            served = served => {
                if let Err(error) = served {
                    tracing::error!(error = %kubenova_runtime::telemetry::chain(&error), "the gRPC server ended");
                }
            }
            // A health check that is watched would keep it open for ever.
            () = limited => tracing::warn!("some connections did not end in time; ending without them"),
        }
    });
}

/// Longest time of a stop.
#[must_use]
pub fn stop_max(settings: &Settings) -> Duration {
    settings.drain() + 2 * DRAIN_GRACE
}

fn serve_metrics(address: SocketAddr, registry: Registry, shutdown: &Shutdown) -> Result<SocketAddr> {
    let bound = listen::tcp_for_tasks(address);
    let listener = bound.with_context(|| format!("could not serve metrics on {address}"))?;
    let address = listener.local_addr()?;
    shutdown.spawn("metrics", serve(listener, Arc::new(registry), shutdown.clone()));
    Ok(address)
}

fn serve_probes(path: std::path::PathBuf, gates: Gates, shutdown: &Shutdown) {
    let stop = shutdown.clone();
    shutdown.spawn("probes", async move {
        tokio::select! {
            served = probe::serve(&path, gates) => {
                if let Err(error) = served {
                    tracing::error!(path = %path.display(), %error, "could not answer probes");
                }
            }
            () = stop.requested() => {}
        }
    });
}
