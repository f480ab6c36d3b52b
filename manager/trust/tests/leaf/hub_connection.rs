//! How a leaf node reaches its hub: at addresses of both families, in a WebSocket, through an HTTP proxy; and that the connection stays
//! while nothing but pings flows.

use super::{A, Cluster, Hub, LeafNode, ask, connected, furnish, logged};
use kubenova_bus::Settings;
use kubenova_schema::subjects;
use kubenova_test_nats::{
    connect_proxy::{Behavior, ConnectProxy},
    forwarder::Forwarder,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio_rustls::TlsAcceptor;

/// `operator:pa:ss`, in base64.
const CREDENTIALS: &str = "Basic b3BlcmF0b3I6cGE6c3M=";
/// Scaled down with the pings.
const IDLE_LIMIT: Duration = Duration::from_secs(3);

/// A hello is answered through the leaf node.
async fn works(hub: &Hub, cluster: &Cluster, leaf: &LeafNode) {
    let connection = connected(hub.by(cluster, leaf).await).await;
    assert_eq!(ask(&connection.client, &subjects::hello(A)).await, subjects::hello(A));
}

#[tokio::test]
async fn a_leaf_node_reaches_its_hub_by_tls_and_in_a_websocket_at_addresses_of_both_families() {
    for host in ["127.0.0.1", "::1"] {
        let hub = Hub::start_on(host);
        let manager = hub.manager().await;
        furnish(&manager).await;
        let cluster = hub.cluster(A);
        for url in [hub.leaf_url(), format!("wss://{}", hub.websocket)] {
            let leaf = LeafNode::start_on(host, &hub, &cluster, &url, |text| text);
            works(&hub, &cluster, &leaf).await;
        }
    }
}

/// The block that an Operator writes behind the remote's other settings (`operator/core/src/leaf.rs`).
fn through(proxy: &str, password: &str, tls: &str) -> impl Fn(String) -> String {
    let block = format!("proxy {{\n url: \"{proxy}\"\n username: \"operator\"\n password: \"{password}\"\n {tls}\n }}");
    move |text| text.replace("first_info_timeout: \"10s\"\n", &format!("first_info_timeout: \"10s\"\n{block}\n"))
}

#[tokio::test]
async fn a_leaf_node_reaches_its_hub_through_a_proxy() {
    let hub = Hub::start();
    let manager = hub.manager().await;
    furnish(&manager).await;
    let cluster = hub.cluster(A);
    let proxy = ConnectProxy::start("127.0.0.1:0", &[]).await;
    proxy.behave(Behavior::Login(CREDENTIALS.to_owned()));
    let at = format!("http://{}", proxy.address());
    let urls = [format!("wss://{}", hub.websocket), hub.leaf_url()];
    for url in &urls {
        let leaf = LeafNode::start_on("127.0.0.1", &hub, &cluster, url, through(&at, "pa:ss", ""));
        works(&hub, &cluster, &leaf).await;
    }
    assert_eq!(proxy.asked(), [hub.websocket.to_string(), hub.leaf_address.to_string()]);

    let refused = LeafNode::start_on("127.0.0.1", &hub, &cluster, &urls[0], through(&at, "wrong", ""));
    let line = logged(&refused, &["proxy connect failed"]).await;
    assert!(line.contains("407"), "{line}");

    // With TLS to the proxy itself, under the site's own CA.
    let (ca_pem, acceptor) = authority();
    let secure = ConnectProxy::start_tls("127.0.0.1:0", &[], acceptor).await;
    let ca = hub.server.folder().join("proxy-ca.crt");
    std::fs::write(&ca, ca_pem).unwrap();
    let at = format!("https://{}", secure.address());
    let tls = format!("tls {{ ca_file: {ca:?} }}");
    let leaf = LeafNode::start_on("127.0.0.1", &hub, &cluster, &urls[0], through(&at, "pa:ss", &tls));
    works(&hub, &cluster, &leaf).await;
    assert_eq!(secure.asked(), [hub.websocket.to_string()]);
}

/// A CA, and a server with a certificate of it.
fn authority() -> (String, TlsAcceptor) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca_pem = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    (ca_pem, TlsAcceptor::from(Arc::new(config)))
}

/// Whether a load balancer in front of the hub still has the connection of a leaf node that pings so often, after three times its limit
/// in which no client was there.
async fn stays(hub: &Hub, to: SocketAddr, scheme: &str, ping_interval: &str) -> bool {
    let before_hub = Forwarder::start(to, IDLE_LIMIT).await;
    let url = format!("{scheme}://{}", before_hub.address());
    let changed = |text: String| text.replace("ping_interval: \"15s\"", &format!("ping_interval: \"{ping_interval}\""));
    let leaf = LeafNode::start_on("127.0.0.1", hub, &hub.cluster(A), &url, changed);
    logged(&leaf, &["leafnode connection created"]).await;
    tokio::time::sleep(3 * IDLE_LIMIT).await;
    before_hub.forgotten() == 0 && before_hub.begun() == 1
}

#[tokio::test]
async fn pings_keep_the_connection_of_a_leaf_node_in_the_memory_of_a_load_balancer() {
    // Of one cluster there is one leaf node at a time.
    let hubs = [(); 4].map(|()| Hub::start());
    let (tls, websocket, rare_tls, rare_websocket) = tokio::join!(
        stays(&hubs[0], hubs[0].leaf_address, "tls", "700ms"),
        stays(&hubs[1], hubs[1].websocket, "wss", "700ms"),
        stays(&hubs[2], hubs[2].leaf_address, "tls", "10m"),
        stays(&hubs[3], hubs[3].websocket, "wss", "10m"),
    );
    assert_eq!([tls, websocket], [true, true], "the leaf node pings");
    assert_eq!([rare_tls, rare_websocket], [false, false], "neither pings");
}

/// The Operator's own connection to its leaf node, which is asked for a sign of life of the hub as often as it is pinged.
#[tokio::test]
async fn pings_keep_the_connection_to_a_leaf_node_in_the_memory_of_a_load_balancer() {
    let hub = Hub::start();
    let manager = hub.manager().await;
    furnish(&manager).await;
    let cluster = hub.cluster(A);
    let leaf = LeafNode::start(&hub, &cluster);
    let to: SocketAddr = leaf.url().await.trim_start_matches("tls://").parse().unwrap();
    let before_leaf = Forwarder::start(to, IDLE_LIMIT).await;
    let settings = hub.settings(&cluster, &format!("tls://{}", before_leaf.address()), leaf.server.folder());
    let connection = connected(Settings { ping_interval: Duration::from_millis(700), ..settings }).await;
    tokio::time::sleep(3 * IDLE_LIMIT).await;
    assert_eq!((before_leaf.begun(), before_leaf.forgotten()), (1, 0));
    assert!(connection.is_connected());
}
