//! Each connection between a cluster and the broker is kept alive by default before a load balancer forgets it. What the intervals do is
//! shown where they work: `schema/bus/tests/transports/idle.rs`, `manager/bridge/tests/bridge/idle.rs`,
//! `manager/trust/tests/leaf/hub_connection.rs`.

use std::{path::Path, time::Duration};

use kubenova_operator_core::leaf::{self, LeafNode};
use serde_json::Value;

/// What is quiet for longer is forgotten: nginx, HAProxy and some firewalls after a minute, Azure after four, AWS after six. One ping may
/// get lost, so there are two before.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

fn seconds(text: &str) -> u64 {
    text.trim_end_matches('s').parse().expect("whole seconds")
}

/// The client's pings, which pass through proxies, relays and the bridge up to the broker.
fn of_operator() -> [(&'static str, u64); 3] {
    let path = kubenova_gen::repository_root().join("deploy/helm/operator/values.yaml");
    let text = std::fs::read_to_string(path).expect("the chart has values");
    let values: Value = serde_saphyr::from_str(&text).expect("the values are YAML");
    let chart = values["nats"]["pingSeconds"].as_u64().expect("the chart has a value");
    let heartbeat = values["heartbeatSeconds"].as_u64().expect("the chart has a value");
    let own = kubenova_operator::settings::Settings::default().nats.ping_seconds;
    [("the Operator's settings", own), ("the Operator's chart", chart), ("heartbeats", heartbeat)]
}

/// Those of the broker, and of the Manager as its client.
fn of_manager() -> u64 {
    let smallest = "{ database: { url: 'postgres://x' }, kekFile: kek, publicNames: [x], endpoints: ['https://x'], nats: { urls: ['tls://x:1'] } }";
    let settings = kubenova_manager::settings::Settings::parse(smallest, Path::new("/")).expect("it is valid");
    settings.nats.ping_interval_seconds
}

/// HTTP/2 pings of the bridge, and of the cluster.
fn of_grpc() -> [(&'static str, u64); 2] {
    let smallest = "{ tls: { caFile: a, certificateFile: b, keyFile: c }, nats: { urls: ['tls://x:1'] } }";
    let bridge = kubenova_bridge::settings::Settings::parse(smallest, Path::new("/")).expect("it is valid");
    [
        ("the bridge", bridge.keepalive_seconds),
        ("gRPC of a cluster", kubenova_bus::bridge::KEEPALIVE_INTERVAL.as_secs()),
    ]
}

/// Those of a leaf node to its hub, and to its Operator.
fn of_leaf_node() -> u64 {
    let hub_urls = ["tls://hub:7422".to_owned()];
    let node = LeafNode { server_name: "leaf", nkey: "U1", port: 4222, hub_urls: &hub_urls, proxy: None };
    let configuration = leaf::configuration(&node);
    let line = configuration.lines().find_map(|line| line.strip_prefix("ping_interval: ")).expect("it has an interval");
    seconds(line.trim_matches('"'))
}

#[test]
fn by_default_every_connection_is_used_twice_before_a_load_balancer_forgets_it() {
    let others = [("the broker", of_manager()), ("a leaf node", of_leaf_node())];
    for (who, seconds) in of_operator().into_iter().chain(of_grpc()).chain(others) {
        assert!(2 * Duration::from_secs(seconds) <= IDLE_LIMIT, "{who}: every {seconds} s");
    }
}
