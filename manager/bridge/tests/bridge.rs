//! Clusters reach a real nats-server by way of the bridge, with the accounts of `kubenova-manager nats config`; and what the bridge cannot
//! do, whoever has it ([`attacks`]).
//!
//! Needs `KUBENOVA_SERVERS`, a folder with `bin/nats-server` (made by `cargo dev servers`); nothing else.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

mod attacks;
#[path = "bridge/idle.rs"]
mod idle;
#[path = "support/raw.rs"]
mod raw;
mod support;

use futures::StreamExt as _;
use kubenova_bus::{
    cause::ConnectCause,
    connection,
    dial::{
        Dialer,
        proxy::{ProxyFiles, ProxySettings},
    },
    transport::TransportChoice,
};
use kubenova_schema::{streams, subjects};
use kubenova_test_nats::connect_proxy::ConnectProxy;
use raw::Raw;
use std::time::Duration;
use support::{A, ANSWER_MAX, BRIDGE, Hub, free, reaches_broker, with_command};
use tokio::time::timeout;
use tonic::Code;

/// About the largest message of a cluster; of the Manager.
const LARGE: usize = streams::CLUSTER_MESSAGE_BYTES_MAX - 1024;
const LARGEST: usize = 900 * 1024;

#[tokio::test]
async fn a_cluster_lives_by_way_of_the_bridge_as_directly() {
    let hub = Hub::start();
    let bridge = hub.bridge("").await;
    let (manager, cluster) = (hub.manager().await, hub.cluster(&[&bridge.url()]).await);
    assert_eq!(cluster.via().to_string(), "grpc");
    let info = cluster.client.server_info();
    assert!(!info.tls_required && info.connect_urls.is_empty() && info.max_payload > LARGE);

    let mut orders = cluster.client.subscribe(subjects::control(A)).await.unwrap();
    let mut beats = manager.client.subscribe(subjects::every::HEARTBEAT).await.unwrap();

    // A command is pulled and acknowledged. Answers come after the subscriptions before them are made.
    with_command(&manager).await;
    let durable = cluster
        .jetstream
        .get_consumer_from_stream::<async_nats::jetstream::consumer::pull::Config, _, _>(A, streams::COMMANDS.name);
    let mut batch = durable.await.unwrap().fetch().max_messages(1).messages().await.unwrap();
    let command = timeout(ANSWER_MAX, batch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(command.payload, "a command");
    command.double_ack().await.unwrap();

    // Messages of every size arrive in order, both ways.
    let sizes = [(0, 0), (1, 1), (4_000, 4_000), (70_000, 70_000), (LARGEST, LARGE)];
    for (down, up) in sizes {
        manager.client.publish(subjects::control(A), vec![b'x'; down].into()).await.unwrap();
        cluster.client.publish(subjects::heartbeat(A), vec![b'y'; up].into()).await.unwrap();
    }
    let all = async {
        for (down, up) in sizes {
            assert_eq!(orders.next().await.unwrap().payload.len(), down);
            assert_eq!(beats.next().await.unwrap().payload.len(), up);
        }
    };
    assert!(timeout(ANSWER_MAX, all).await.is_ok(), "not every message came");

    assert_eq!((bridge.metric("sessions").await, bridge.metric("clusters").await), (1, 1));
    assert!(bridge.metric("bytes_total{direction=\"to_cluster\"}").await > LARGEST as u64);
    drop((orders, cluster, batch, command));
    bridge.wait("sessions", 0).await;
    assert_eq!(bridge.metric("clusters").await, 0);
}

#[tokio::test]
async fn through_a_proxy_and_after_the_transports_with_fewer_layers() {
    let hub = Hub::start();
    let bridge = hub.bridge("keepaliveSeconds: 1").await;
    let name = format!("{BRIDGE}:{}", bridge.running.address.port());
    let proxy = ConnectProxy::start("127.0.0.1:0", &[(&name, bridge.running.address)]).await;
    let (at, closed) = (format!("http://{}", proxy.address()), free());
    let variable = |variable: &str| match variable {
        "HTTPS_PROXY" => Some(at.clone()),
        "NO_PROXY" => Some("127.0.0.1".to_owned()),
        _ => None,
    };
    let dialer = Dialer::new(ProxySettings::read(variable, ProxyFiles::default()).unwrap());
    let urls = [format!("grpcs://{name}"), format!("wss://{closed}"), format!("tls://{closed}")];
    let settings = hub.settings(&urls.each_ref().map(String::as_str), dialer);
    let cluster = timeout(ANSWER_MAX, connection::connect(settings)).await.unwrap().unwrap();
    assert_eq!(cluster.via().to_string(), format!("grpc through the proxy {at}"));
    reaches_broker(&cluster).await;
    // A load balancer that forgets a connection says so to neither side: the pings notice, the client's and the bridge's.
    let mut connects = cluster.connects.clone();
    timeout(ANSWER_MAX, connects.wait_for(|count| *count == 1)).await.unwrap().unwrap();
    proxy.forget_connections();
    timeout(ANSWER_MAX, connects.wait_for(|count| *count == 2)).await.expect("it is noticed").unwrap();
    bridge.wait("sessions", 1).await;
}

/// By default it listens on every address of both families; the certificate names the one that clusters use.
#[tokio::test]
async fn a_cluster_and_the_broker_are_reached_by_addresses_of_ipv6() {
    let hub = Hub::start_on("::1");
    let bridge = hub.bridge_at("[::]:0", &format!("tls://{}", hub.nats), "").await;
    let port = bridge.running.address.port();
    let proxy = ConnectProxy::start("[::1]:0", &[]).await;
    let at = format!("http://{}", proxy.address());
    let variable = |variable: &str| (variable == "HTTPS_PROXY").then(|| at.clone());
    let through = Dialer::new(ProxySettings::read(variable, ProxyFiles::default()).unwrap());
    for (host, dialer, via) in [
        ("[::1]", Dialer::default(), "grpc".to_owned()),
        ("127.0.0.1", Dialer::default(), "grpc".to_owned()),
        ("[::1]", through, format!("grpc through the proxy {at}")),
    ] {
        let settings = hub.settings(&[&format!("grpcs://{host}:{port}")], dialer);
        let cluster = timeout(ANSWER_MAX, connection::connect(settings)).await.unwrap().unwrap();
        assert_eq!(cluster.via().to_string(), via, "{host}");
        reaches_broker(&cluster).await;
    }
    assert_eq!(proxy.asked(), [format!("[::1]:{port}")]);
}

#[tokio::test]
async fn each_failure_has_its_own_cause() {
    let hub = Hub::start();
    let bridge = hub.bridge("sessionsMax: 1").await;
    let cause = async |settings: &kubenova_bus::Settings| {
        let failed = timeout(ANSWER_MAX, connection::check(settings)).await.unwrap().unwrap_err();
        (failed.cause(), kubenova_runtime::telemetry::chain(&failed))
    };
    let to = |url: &str| hub.settings(&[url], Dialer::default());
    for (url, expected) in [
        (format!("grpcs://{BRIDGE}"), ConnectCause::NameNotFound),
        ("grpcs://127.0.0.1:1".to_owned(), ConnectCause::Unreachable),
        (format!("grpcs://{}", hub.nats), ConnectCause::Tls),
        (format!("grpcs://localhost:{}", bridge.running.address.port()), ConnectCause::BrokerCertificate),
        (format!("grpcs://{}", hub.websocket), ConnectCause::BridgeAnswer),
    ] {
        let (cause, message) = cause(&to(&url)).await;
        assert_eq!(cause, expected, "{url}: {message}");
    }

    // The broker refuses the login, not the bridge: a seed that does not belong to the JWT.
    let mut settings = to(&bridge.url());
    settings.credentials.seed = nkeys::KeyPair::new_user().seed().unwrap();
    assert_eq!(cause(&settings).await.0, ConnectCause::CredentialsRefused);
    bridge.wait("sessions", 0).await;

    // Certificates: of the Manager's authority but no cluster's, and of another authority.
    let mut settings = to(&bridge.url());
    settings.files = hub.own_files("ops");
    let refused = cause(&settings).await;
    assert_eq!(refused.0, ConnectCause::ClientCertificate, "{}", refused.1);
    let other = rcgen::generate_simple_self_signed([A.to_owned()]).unwrap();
    settings.files = hub.files("other", &other.cert.pem(), &other.signing_key.serialize_pem());
    let refused = cause(&settings).await;
    assert_eq!(refused.0, ConnectCause::ClientCertificate, "{}", refused.1);
    // These two, and the cluster that found another name in the certificate.
    bridge.wait("handshake_failures_total", 3).await;

    let lost = hub.bridge_to("tls://127.0.0.1:1", "").await;
    let (cannot, message) = cause(&to(&lost.url())).await;
    assert_eq!(cannot, ConnectCause::BridgeCannotConnect);
    assert!(message.contains("could not open TCP 127.0.0.1:1"), "{message}");

    let _only = hub.cluster(&[&bridge.url()]).await;
    assert_eq!(cause(&to(&bridge.url())).await.0, ConnectCause::BridgeBusy);
    let mut other = to(&bridge.url());
    other.transport = TransportChoice::Websocket;
    assert_eq!(cause(&other).await.0, ConnectCause::NoUrl);
}

#[tokio::test]
async fn a_replica_that_stops_leaves_its_sessions_to_another() {
    let hub = Hub::start();
    let (first, second) = (hub.bridge("drainSeconds: 1").await, hub.bridge("").await);
    let cluster = hub.cluster(&[&first.url()]).await;
    let both = hub.cluster(&[&first.url(), &second.url()]).await;
    let mut connects = both.connects.clone();
    timeout(ANSWER_MAX, connects.wait_for(|count| *count == 1)).await.unwrap().unwrap();
    first.shutdown.request();
    let stopped = timeout(ANSWER_MAX, first.shutdown.finish(ANSWER_MAX)).await.unwrap();
    assert!(stopped && !first.shutdown.part_failed(), "it ends by itself");
    second.wait("sessions", 1).await;
    reaches_broker(&both).await;
    let error = cluster.last_error.borrow().clone().unwrap_or_default();
    assert!(!cluster.is_connected(), "{error}");
}

#[tokio::test]
async fn a_broker_that_comes_back_is_connected_to_again() {
    let mut hub = Hub::start();
    let bridge = hub.bridge("").await;
    let cluster = hub.cluster(&[&bridge.url()]).await;
    let mut connects = cluster.connects.clone();
    timeout(ANSWER_MAX, connects.wait_for(|count| *count == 1)).await.unwrap().unwrap();
    let config = hub.config.clone();
    hub.server.start_again(&config);
    timeout(ANSWER_MAX, connects.wait_for(|count| *count == 2)).await.expect("it comes back").unwrap();
    reaches_broker(&cluster).await;
    assert_eq!(bridge.metric("sessions").await, 1);
}

/// A cluster that reads nothing costs the bridge no more than its buffers; the broker gives it up by itself.
#[tokio::test]
async fn what_a_slow_reader_does_not_take_stays_with_the_broker() {
    let hub = Hub::start();
    let bridge = hub.bridge("").await;
    let manager = hub.manager().await;
    let mut slow = Raw::open(bridge.running.address, &hub.cluster_files(A)).await.unwrap();
    slow.send(&Raw::login(&hub.credentials(A), &slow.nonce())).await;
    slow.until("PONG").await;
    slow.send(&format!("SUB {} 1\r\nPING\r\n", subjects::control(A))).await;
    slow.until("PONG").await;
    for _ in 0..60 {
        manager.client.publish(subjects::control(A), vec![b'x'; LARGEST].into()).await.unwrap();
    }
    manager.client.flush().await.unwrap();
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let passed = bridge.metric("bytes_total{direction=\"to_cluster\"}").await;
        if passed == before {
            break;
        }
        before = passed;
    }
    assert!((1..4 * 1024 * 1024).contains(&before), "{before} of {} bytes", 60 * LARGEST);
    drop(slow);
    bridge.wait("sessions", 0).await;
}

#[tokio::test]
async fn health_is_told() {
    let hub = Hub::start();
    let bridge = hub.bridge("").await;
    let files = hub.cluster_files(A);

    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let mut health = HealthClient::new(raw::channel(bridge.running.address, &files).await);
    let mut ask = async |service: &str| {
        let request = HealthCheckRequest { service: service.to_owned() };
        health.check(request).await.map(|answer| answer.into_inner().status)
    };
    assert_eq!(ask("kubenova.bridge.v1.Bridge").await.unwrap(), 1, "SERVING");
    assert_eq!(ask("another").await.unwrap_err().code(), Code::NotFound);
}
