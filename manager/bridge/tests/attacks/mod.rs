//! Attacks by way of the bridge, and by whoever has it, each with its case of the matrix (`tests/attacks`).
//!
//! The bridge sees logins pass and can change them. A login is the answer to one nonce of the broker: no other session accepts it. What
//! it could change in the messages of a session is not told here, but where it is noticed: commands at the Operator
//! (`operator/tests/attacks`), usage at the Manager (`manager/tests/attacks`).

use crate::{
    raw::Raw,
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
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};

const B: &str = "c0123456789abcdefghjkmnpqrt";

/// Why there is no session with these files.
async fn refusal(bridge: &Bridge, files: &Files) -> String {
    Raw::open(bridge.running.address, files)
        .await
        .err()
        .map_or("there is one".to_owned(), |status| format!("{status:?}"))
}

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

    stopped("A-110", &refusal(&bridge, &hub.own_files("ops")).await);
    let elsewhere = hub.keyring_of("elsewhere.test");
    stopped("A-111", &refusal(&bridge, &cluster_files(&hub, &elsewhere, "elsewhere", validity())).await);
    assert_eq!(refusal(&bridge, &cluster_files(&hub, &hub.keyring, "own", validity())).await, "there is one");
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
