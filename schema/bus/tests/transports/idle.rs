//! A load balancer that forgets connections which are quiet for too long, without a word to either end: nothing but pings flows, and the
//! connection stays.

use crate::support::{ANSWER_MAX, Broker, works};
use kubenova_bus::{Connection, Settings, connection, dial::Dialer, transport::TransportChoice};
use kubenova_test_nats::forwarder::Forwarder;
use std::{net::SocketAddr, time::Duration};
use tokio::time::timeout;

/// Scaled down with the pings.
const IDLE_LIMIT: Duration = Duration::from_secs(3);
const PING: Duration = Duration::from_millis(700);
/// As good as none.
const RARE_PING: Duration = Duration::from_secs(600);

/// Connects through a load balancer of its own in front of `to`.
async fn connected(broker: &Broker, to: SocketAddr, scheme: &str, ping_interval: Duration) -> (Forwarder, Connection) {
    let forwarder = Forwarder::start(to, IDLE_LIMIT).await;
    let url = format!("{scheme}://{}", forwarder.address());
    let settings = broker.settings(&[&url], TransportChoice::Auto, Dialer::default());
    let settings = Settings { ping_interval, ..settings };
    let connection = timeout(ANSWER_MAX, connection::connect(settings)).await.unwrap().unwrap();
    (forwarder, connection)
}

/// Whether the connection is still the one that was made, after three times the limit without use.
async fn stays((forwarder, connection): (Forwarder, Connection)) -> bool {
    let idle = async {
        while forwarder.forgotten() == 0 {
            tokio::time::sleep(PING).await;
        }
    };
    if timeout(3 * IDLE_LIMIT, idle).await.is_ok() {
        return false;
    }
    assert_eq!((forwarder.begun(), *connection.connects.borrow()), (1, 1));
    works(&connection).await;
    true
}

#[tokio::test]
async fn pings_of_one_side_keep_a_connection_in_the_memory_of_a_load_balancer() {
    let (rare, often) = (Broker::start().await, Broker::start_with(&format!("ping_interval: \"{PING:?}\"")).await);
    let of = async |broker: &Broker, ping_interval| {
        let (nats, websocket) = (
            connected(broker, broker.nats, "tls", ping_interval).await,
            connected(broker, broker.websocket, "wss", ping_interval).await,
        );
        let (nats, websocket) = tokio::join!(stays(nats), stays(websocket));
        [nats, websocket]
    };
    let (by_client, by_server, by_none) = tokio::join!(of(&rare, PING), of(&often, RARE_PING), of(&rare, RARE_PING));
    assert_eq!(by_client, [true, true], "the client pings");
    assert_eq!(by_server, [true, true], "the server pings");
    assert_eq!(by_none, [false, false], "neither pings");
}
