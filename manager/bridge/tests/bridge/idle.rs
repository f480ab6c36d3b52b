//! Load balancers that forget connections which are quiet for too long, without a word to either end: one between cluster and bridge, one
//! between bridge and broker.

use crate::support::{ANSWER_MAX, Hub, reaches_broker};
use kubenova_bus::{Settings, connection, dial::Dialer};
use kubenova_test_nats::forwarder::Forwarder;
use std::time::Duration;
use tokio::time::timeout;

/// Scaled down with the pings.
const IDLE_LIMIT: Duration = Duration::from_secs(3);
const PING: Duration = Duration::from_millis(700);
/// As good as none.
const RARE_PING: Duration = Duration::from_secs(600);

/// Whether a load balancer in front of the bridge, and one in front of the broker, have the connection after three times their limit
/// without use.
async fn stays(keepalive_seconds: u64, ping_interval: Duration) -> [bool; 2] {
    let hub = Hub::start();
    let before_broker = Forwarder::start(hub.nats, IDLE_LIMIT).await;
    let broker = format!("tls://{}", before_broker.address());
    let bridge = hub.bridge_to(&broker, &format!("keepaliveSeconds: {keepalive_seconds}")).await;
    let before_bridge = Forwarder::start(bridge.running.address, IDLE_LIMIT).await;
    let url = format!("grpcs://{}", before_bridge.address());
    let settings = Settings { ping_interval, ..hub.settings(&[&url], Dialer::default()) };
    let cluster = timeout(ANSWER_MAX, connection::connect(settings)).await.unwrap().unwrap();

    tokio::time::sleep(3 * IDLE_LIMIT).await;
    let stayed = [&before_bridge, &before_broker].map(|forwarder| forwarder.forgotten() == 0);
    if stayed == [true, true] {
        let begun = (before_bridge.begun(), before_broker.begun(), *cluster.connects.borrow());
        assert_eq!(begun, (1, 1, 1), "it was not made again");
        reaches_broker(&cluster).await;
    }
    stayed
}

/// Pings of the client go to the broker, HTTP/2's stay between cluster and bridge.
#[tokio::test]
async fn pings_keep_both_connections_of_a_session_in_the_memory_of_load_balancers() {
    let (by_client, by_bridge, by_none) = tokio::join!(stays(600, PING), stays(1, RARE_PING), stays(600, RARE_PING));
    assert_eq!(by_client, [true, true], "the client pings");
    assert_eq!(by_bridge, [true, false], "the bridge pings");
    assert_eq!(by_none, [false, false], "neither pings");
}
