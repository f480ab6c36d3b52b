//! Attacks by way of the bridge, and by whoever has it, each with its case of the matrix (`tests/attacks`).
//!
//! The bridge sees logins pass and can change them. A login is the answer to one nonce of the broker: no other session accepts it. What
//! it could change in the messages of a session is not told here, but where it is noticed: commands at the Operator
//! (`operator/tests/attacks`), usage at the Manager (`manager/tests/attacks`).

use crate::{
    raw::{self, Raw},
    support::{A, ANSWER_MAX, Bridge, Hub, validity},
};
use async_nats::ConnectOptions;
use futures::StreamExt as _;
use kubenova_bus::{Credentials, connection, dial::Dialer, tls::Files, transport::TransportChoice};
use kubenova_schema::{streams, subjects};
use kubenova_test_attacks::stopped;
use kubenova_trust::{
    authority::{Identity, Validity},
    keyring::Keyring,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpSocket, TcpStream},
    time::timeout,
};

const B: &str = "c0123456789abcdefghjkmnpqrt";

/// Files of a cluster's certificate as this authority issues it.
fn cluster_files(hub: &Hub, keyring: &Keyring, name: &str, validity: Validity) -> Files {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let chain_pem = keyring.authority.cluster(&csr, A, "1", validity).unwrap();
    let identity = Identity { chain_pem, key_pem: key.serialize_pem() };
    hub.files(name, &identity.chain_pem, &identity.key_pem)
}

/// What the product's client says of a connection by this URL with these files.
async fn cause(hub: &Hub, url: &str, files: Files) -> String {
    let settings =
        kubenova_bus::Settings { files, transport: TransportChoice::Auto, ..hub.settings(&[url], Dialer::default()) };
    let failed = timeout(ANSWER_MAX, connection::check(&settings)).await.unwrap().unwrap_err();
    format!("{:?}", failed.cause())
}

#[tokio::test]
async fn no_session_without_the_certificate_of_a_cluster() {
    let hub = Hub::start();
    let bridge = hub.bridge("").await;
    let address = bridge.running.address;

    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::pem_file_iter(hub.server.folder().join("ca.crt")).unwrap().map(Result::unwrap);
    roots.add_parsable_certificates(ca);
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap();
    let mut all = Vec::new();
    let ended = timeout(ANSWER_MAX, stream.read_to_end(&mut all)).await.expect("the bridge ends it");
    stopped("A-106", &format!("{ended:?}"));

    let other = rcgen::generate_simple_self_signed([A.to_owned()]).unwrap();
    let foreign = || hub.files("other", &other.cert.pem(), &other.signing_key.serialize_pem());
    let at = |now| Validity { now, lifetime: Duration::from_secs(60) };
    let expired = cluster_files(&hub, &hub.keyring, "expired", at(validity().now - Duration::from_secs(7200)));
    let to_come = cluster_files(&hub, &hub.keyring, "to-come", at(validity().now + Duration::from_secs(7200)));
    stopped("A-107", &cause(&hub, &bridge.url(), foreign()).await);
    stopped("A-108", &cause(&hub, &bridge.url(), expired).await);
    stopped("A-279", &cause(&hub, &bridge.url(), to_come).await);
    stopped("A-109", &cause(&hub, &format!("wss://{}", hub.websocket), foreign()).await);

    stopped("A-110", &cause(&hub, &bridge.url(), hub.own_files("ops")).await);
    let elsewhere = hub.keyring_of("elsewhere.test");
    let foreign_domain = cluster_files(&hub, &elsewhere, "elsewhere", validity());
    stopped("A-111", &cause(&hub, &bridge.url(), foreign_domain).await);
    let own = cluster_files(&hub, &hub.keyring, "own", validity());
    assert!(Raw::open(address, &own).await.is_ok(), "a cluster has its session");
}

/// What the broker says to these first bytes in a session.
async fn said(bridge: &Bridge, files: &Files, until: &str, bytes: impl FnOnce(&str) -> String) -> String {
    let mut session = Raw::open(bridge.running.address, files).await.unwrap();
    let bytes = bytes(&session.nonce());
    session.send(&bytes).await;
    session.until(until).await
}

#[tokio::test]
async fn a_login_counts_for_its_session_and_its_cluster() {
    let hub = Hub::start();
    let bridge = hub.bridge("").await;
    let (files, own, other) = (hub.cluster_files(A), hub.credentials(A), hub.credentials(B));
    let mut first = Raw::open(bridge.running.address, &files).await.unwrap();
    let login = Raw::login(&own, &first.nonce());
    first.send(&login).await;
    assert!(first.until("PONG").await.contains("PONG"));
    stopped("A-112", &said(&bridge, &files, "-ERR", |_| login.clone()).await);
    let changed = |nonce: &str| Raw::login(&own, &nonce.replace(|_: char| true, "x"));
    stopped("A-113", &said(&bridge, &files, "-ERR", changed).await);
    let swapped = Credentials { user_jwt: other.user_jwt, seed: own.seed.clone() };
    stopped("A-114", &said(&bridge, &files, "-ERR", |nonce| Raw::login(&swapped, nonce)).await);
    let report = format!("PUB {} 2\r\n{{}}\r\n", subjects::outcome(A));
    stopped("A-115", &said(&bridge, &files, "-ERR", |_| report.clone()).await);
    assert!(said(&bridge, &files, "PONG", |nonce| Raw::login(&own, nonce)).await.contains("PONG"), "each its own");
}

#[tokio::test]
async fn who_has_the_bridge_has_no_login_of_its_own() {
    let hub = Hub::start();
    let bridge = hub.bridge("").await;
    let folder = hub.server.folder();
    let connect = ConnectOptions::new()
        .require_tls(true)
        .add_root_certificates(folder.join("ca.crt"))
        .add_client_certificate(folder.join("tls/bridge.pem"), folder.join("tls/bridge.key"))
        .connect(format!("tls://{}", hub.nats));
    stopped("A-116", &connect.await.unwrap_err().to_string());
    hub.cluster(&[&bridge.url()]).await.client.flush().await.unwrap();
}

/// A session of A that has logged in.
async fn logged_in(hub: &Hub, bridge: &Bridge) -> Raw {
    let mut session = Raw::open(bridge.running.address, &hub.cluster_files(A)).await.unwrap();
    session.send(&Raw::login(&hub.credentials(A), &session.nonce())).await;
    session.until("PONG").await;
    session
}

/// Who has the bridge can write into a session. It speaks there as that cluster and as no other.
#[tokio::test]
async fn what_is_put_into_a_session_is_of_its_cluster() {
    let hub = Hub::start();
    let bridge = hub.bridge("").await;
    let manager = hub.manager().await;
    let mut beats = manager.client.subscribe(subjects::every::HEARTBEAT).await.unwrap();
    let mut session = logged_in(&hub, &bridge).await;
    for (id, bytes) in [
        ("A-117", format!("PUB {} 2\r\n{{}}\r\n", subjects::outcome(B))),
        ("A-118", format!("PUB {} 2\r\n{{}}\r\n", subjects::command(A, "apply-tenant"))),
        ("A-119", format!("SUB {} 1\r\n", subjects::control(B))),
    ] {
        session.send(&bytes).await;
        stopped(id, &session.until("-ERR").await);
    }
    session.send(&format!("PUB {} 4\r\nof a\r\nPING\r\n", subjects::heartbeat(A))).await;
    session.until("PONG").await;
    assert_eq!(timeout(ANSWER_MAX, beats.next()).await.unwrap().unwrap().payload, "of a");
    let bytes = streams::CLUSTER_MESSAGE_BYTES_MAX + 1;
    session.send(&format!("PUB {} {bytes}\r\n", subjects::status(A))).await;
    stopped("A-120", &session.until("-ERR").await);
}

#[tokio::test]
async fn a_frame_beyond_the_limit_ends_its_session_alone() {
    let hub = Hub::start();
    let bridge = hub.bridge("").await;
    let other = logged_in(&hub, &bridge).await;
    let mut large = logged_in(&hub, &bridge).await;
    large.send(&"x".repeat(kubenova_bus::bridge::FRAME_BYTES_MAX + 1)).await;
    while let Ok(Ok(Some(_))) = timeout(ANSWER_MAX, large.down.message()).await {}
    bridge.wait("sessions", 1).await;
    let lost = bridge.metric("sessions_ended_total{end=\"lost\"}").await;
    stopped("A-121", &format!("{lost} session was lost"));
    drop(other);
}

#[tokio::test]
async fn one_cluster_does_not_take_the_places_of_all_others() {
    let hub = Hub::start();
    let bridge = hub.bridge("").await;
    let files = hub.cluster_files(A);
    let mut held = Vec::new();
    let refused = loop {
        match Raw::open(bridge.running.address, &files).await {
            Ok(session) => held.push(session),
            Err(status) => break status,
        }
        assert!(held.len() < 100, "a cluster may have as many sessions as it likes");
    };
    stopped("A-122", refused.message());
    let other = hub.cluster_files(B);
    Raw::open(bridge.running.address, &other).await.unwrap();
    drop(held.pop());
    bridge.wait("sessions", 7).await;
    Raw::open(bridge.running.address, &files).await.unwrap();
}

/// Without the limit of one cluster they take all places that a bridge for one session has.
#[tokio::test]
async fn connections_without_a_byte_keep_no_other_cluster_out() {
    const OPENED: u64 = 70;
    let hub = Hub::start();
    let bridge = hub.bridge("sessionsMax: 1").await;
    let (files, other) = (hub.cluster_files(A), hub.cluster_files(B));
    let mut held = Vec::new();
    for _ in 0..OPENED {
        held.push(raw::tls(bridge.running.address, &files).await);
    }
    let closed = "connections_closed_total{reason=\"cluster\"}";
    bridge.wait(closed, OPENED - 12).await;
    stopped("A-281", &format!("{} of {OPENED} connections are closed", bridge.metric(closed).await));
    assert!(Raw::open(bridge.running.address, &other).await.is_ok(), "another cluster has its session");
    drop(held);
}

/// The session of a cluster outlasts two connections that have none: one that never had, and one whose session has ended.
#[tokio::test]
async fn a_connection_that_no_session_uses_is_closed() {
    let hub = Hub::start();
    let bridge = hub.bridge("").await;
    let mut session = logged_in(&hub, &bridge).await;
    let files = hub.cluster_files(B);
    let mut silent = raw::tls(bridge.running.address, &files).await;
    let channel = raw::channel(bridge.running.address, &files).await;
    drop(Raw::open_on(channel.clone()).await.unwrap());
    bridge.wait("sessions", 1).await;
    let closed = "connections_closed_total{reason=\"unused\"}";
    assert_eq!(bridge.metric(closed).await, 0, "it has time to begin a session");
    bridge.wait(closed, 2).await;
    stopped("A-282", &format!("{} unused connections are closed", bridge.metric(closed).await));
    let mut all = Vec::new();
    let _with_or_without_notice = timeout(ANSWER_MAX, silent.read_to_end(&mut all)).await.expect("the bridge ends it");
    assert!(Raw::open_on(channel).await.is_err(), "the connection is closed");
    session.send("PING\r\n").await;
    assert!(session.until("PONG").await.contains("PONG"), "a session that is quiet stays");
}

/// More of them than there may be handshakes, and less time for the other cluster than a handshake has.
#[tokio::test]
async fn silent_connections_of_one_address_keep_no_other_out() {
    let hub = Hub::start();
    let bridge = hub.bridge("").await;
    let files = hub.cluster_files(A);
    let mut silent = Vec::new();
    for _ in 0..300 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        silent.push(socket.connect(bridge.running.address).await.unwrap());
    }
    let opened = timeout(Duration::from_secs(5), Raw::open(bridge.running.address, &files)).await;
    assert!(opened.is_ok_and(|opened| opened.is_ok()), "a cluster of another address has its session");
    // What came before the cluster was accepted before it.
    let closed = bridge.metric("connections_closed_total{reason=\"address\"}").await;
    stopped("A-283", if closed > 0 { "more are closed at once" } else { "all are kept" });
    // Those that were not closed at once wait for the first message of TLS, and for less than the whole time of a handshake.
    let first = timeout(Duration::from_secs(8), silent[0].read(&mut [0])).await.expect("the bridge ends it");
    assert!(!first.is_ok_and(|read| read > 0), "the bridge says nothing");
}
