//! The client of the NATS library goes on connecting when nothing holds it any more; it must not, with credentials that were replaced.

use crate::support::{ANSWER_MAX, Broker};
use kubenova_bus::{Connection, connection, dial::Dialer, transport::TransportChoice};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{net::TcpListener, time::timeout};

/// Attempts of the connection that is held, with waits that grow to seconds: another one would have made several meanwhile.
const ATTEMPTS: usize = 6;

async fn connected(broker: &Broker, url: String) -> Connection {
    let settings = broker.settings(&[&url], TransportChoice::Auto, Dialer::default());
    timeout(ANSWER_MAX, connection::connect(settings)).await.unwrap().unwrap()
}

/// Takes the place of a broker, and counts the connections to it, which it closes.
async fn count(address: SocketAddr) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(address).await.unwrap();
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    attempts
}

async fn more_than(attempts: &AtomicUsize, number: usize) {
    let grown = async {
        while attempts.load(Ordering::SeqCst) <= number {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(2 * ANSWER_MAX, grown).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_is_held_reconnects_and_an_abandoned_one_does_not() {
    for scheme in ["tls", "wss"] {
        let (mut one, mut other) = tokio::join!(Broker::start(), Broker::start());
        let at = |broker: &Broker| if scheme == "tls" { broker.nats } else { broker.websocket };
        let url = |broker: &Broker| format!("{scheme}://{}", at(broker));
        let (held, abandoned) = tokio::join!(connected(&one, url(&one)), connected(&other, url(&other)));
        one.server.kill();
        other.server.kill();
        let (by_held, by_abandoned) = (count(at(&one)).await, count(at(&other)).await);
        tokio::join!(more_than(&by_held, 0), more_than(&by_abandoned, 0));

        drop(abandoned);
        let before = by_abandoned.load(Ordering::SeqCst);
        more_than(&by_held, by_held.load(Ordering::SeqCst) + ATTEMPTS).await;
        // One may have been under way.
        let since = by_abandoned.load(Ordering::SeqCst) - before;
        assert!(since <= 1, "{scheme}: {since} attempts since nothing holds it");
        drop(held);
    }
}
