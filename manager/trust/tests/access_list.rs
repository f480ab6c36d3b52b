//! What the broker lets whom do, asked of a real nats-server with the configuration that `kubenova-manager nats config`
//! writes: what each role needs works, and every attack of [`attacks`] is refused.
//!
//! Needs `KUBENOVA_SERVERS`, a folder with `bin/nats-server` (made by `cargo dev servers`); nothing else.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

mod attacks;
mod broker;
#[path = "broker/handshake.rs"]
mod handshake;
#[path = "broker/session.rs"]
mod session;

use async_nats::{HeaderMap, jetstream};
use broker::{A, B};
use futures::StreamExt as _;
use kubenova_schema::{
    streams,
    subjects::{self, accounts},
};
use session::{ANSWER_MAX, Broker, furnish, furnish_bill, messages, named};

#[tokio::test]
async fn a_cluster_does_its_own_things() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    let jetstream = furnish(&manager).await;
    let a = broker.cluster(A).await;

    // Reports are stored, its durable can be asked about and pulled from.
    for subject in [subjects::outcome(A), subjects::status(A), subjects::usage(A, "w0-60")] {
        assert!(a.ask(&subject, "{}").await.contains("\"seq\":"), "{subject}");
    }
    let [next, info, ..] = accounts::CLUSTER_PUBLISH;
    assert!(a.ask(&named(info, A), "").await.contains(A));
    jetstream.publish(subjects::command(A, "apply-tenant"), "for a".into()).await.unwrap().await.unwrap();
    assert_eq!(a.pull(&named(next, A)).await.payload, "for a");

    // What the Manager asks of it, and of no other.
    let mut requests = a.client.subscribe(subjects::control(A)).await.unwrap();
    // An answer to a later request proves that the server has the subscription.
    assert!(a.ask(&subjects::outcome(A), "{}").await.contains("\"seq\":"));
    for cluster in [B, A] {
        manager.client.publish(subjects::control(cluster), cluster.into()).await.unwrap();
    }
    let heard = tokio::time::timeout(ANSWER_MAX, requests.next()).await.unwrap().unwrap();
    assert_eq!(heard.payload, A);
}

/// Deduplication is per stream, not per subject (reference: NATS, attack 3). The broker does not prevent it, so ids must
/// be random: the scenario `access_forgery` reads them off the wire.
#[tokio::test]
async fn a_known_message_id_can_be_spent_by_another_cluster() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    let jetstream = furnish(&manager).await;
    let (a, b) = (broker.cluster(A).await, broker.cluster(B).await);
    let mut headers = HeaderMap::new();
    headers.insert(async_nats::header::NATS_MESSAGE_ID, "use-b-w0-60");
    a.client.request_with_headers(subjects::usage(A, "w0-60"), headers.clone(), "a".into()).await.unwrap();
    let answer = b.client.request_with_headers(subjects::usage(B, "w0-60"), headers, "b".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&answer.payload).contains("\"duplicate\": true"), "{:?}", answer.payload);
    assert_eq!(messages(&jetstream, streams::USAGE.name).await, 1, "what B reported is lost");
}

#[tokio::test]
async fn people_look() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    let jetstream = furnish(&manager).await;
    let ops = broker.ops().await;
    let looking = jetstream::new(ops.client.clone());
    let stream = looking.get_stream(streams::COMMANDS.name).await.unwrap();
    assert_eq!(stream.cached_info().state.messages, 1);
    assert_eq!(stream.get_raw_message(1).await.unwrap().payload, "for b");

    let mut tap = ops.client.subscribe(subjects::ALL).await.unwrap();
    // An answer to a later request proves that the server has the subscription.
    looking.get_stream(streams::COMMANDS.name).await.unwrap();
    jetstream.publish(subjects::command(A, "apply-tenant"), "live".into()).await.unwrap().await.unwrap();
    let seen = tokio::time::timeout(ANSWER_MAX, tap.next()).await.unwrap().unwrap();
    assert_eq!(seen.payload, "live");
}

#[tokio::test]
async fn a_billing_subscriber_reads_its_own_durable() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    let jetstream = furnish(&manager).await;
    furnish_bill(&jetstream, &["books"]).await;
    let books = broker.subscriber("books").await;
    let [next, ..] = accounts::BILLING_PUBLISH;
    assert_eq!(books.pull(&named(next, "books")).await.payload, "event");
}
