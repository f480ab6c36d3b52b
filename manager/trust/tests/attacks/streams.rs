//! A cluster on its own subjects, with replies and headers that would reach further.

use crate::{
    broker::{A, B},
    session::{ANSWER_MAX, Broker, Session, furnish, messages, named},
};
use async_nats::{HeaderMap, jetstream};
use kubenova_schema::{
    streams,
    subjects::{self, accounts},
};
use kubenova_test_attacks::stopped;

/// Waits until a stream has more messages than before, and returns how many.
async fn more(jetstream: &jetstream::Context, stream: &str, before: u64) -> u64 {
    let looks = async {
        loop {
            let now = messages(jetstream, stream).await;
            if now > before {
                return now - before;
            }
        }
    };
    tokio::time::timeout(ANSWER_MAX, looks).await.unwrap_or_else(|_| panic!("nothing more is stored in {stream}"))
}

async fn publish(session: &Session, subject: &str, reply: &str, body: &str) {
    session.client.publish_with_reply(subject.to_owned(), reply.to_owned(), body.to_owned().into()).await.unwrap();
}

/// A reply is no publish of the cluster's: the broker checks its subject against no permission. In one account with the streams it would
/// be stored, as it is when the Manager does the same.
#[tokio::test]
async fn what_answers_a_cluster_is_stored_in_no_stream() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    let jetstream = furnish(&manager).await;
    let a = broker.cluster(A).await;
    jetstream.publish(subjects::command(A, "apply-tenant"), "old".into()).await.unwrap().await.unwrap();
    let [next, ..] = accounts::CLUSTER_PUBLISH;
    let api_next = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{A}", streams::COMMANDS.name);
    let pull = r#"{"batch":1,"no_wait":true}"#;
    let (command, outcome) = (subjects::command(B, "apply-tenant"), subjects::outcome(B));
    let usage = subjects::usage(A, "w0-60");
    for (id, subject, as_manager, aim, stream, body) in [
        ("A-057", &usage, &usage, &command, &streams::COMMANDS, "{}"),
        ("A-058", &usage, &usage, &outcome, &streams::STATUS, "{}"),
        ("A-059", &named(next, A), &api_next, &command, &streams::COMMANDS, pull),
    ] {
        let before = messages(&jetstream, stream.name).await;
        publish(&a, subject, aim, body).await;
        // An answer to a later request proves that the server is through with the one before it.
        a.ask(&usage, "{}").await;
        publish(&manager, as_manager, aim, body).await;
        // That of the Manager, which is in the account of the streams, and came later.
        let by_cluster = more(&jetstream, stream.name, before).await - 1;
        stopped(id, &format!("{by_cluster} answers are stored"));
    }
}

#[tokio::test]
async fn an_answer_cannot_be_an_acknowledgement() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    furnish(&manager).await;
    let (mut a, b) = (broker.cluster(A).await, broker.cluster(B).await);
    let [next, info, ..] = accounts::CLUSTER_PUBLISH;
    let acknowledgement = b.pull(&named(next, B)).await.reply.unwrap();
    publish(&a, &subjects::usage(A, "w0-60"), &acknowledgement, "{}").await;
    a.client.flush().await.unwrap();
    stopped("A-060", &a.refused(&acknowledgement).await);
    assert!(b.ask(&named(info, B), "").await.contains("\"num_ack_pending\":1"));
    b.ask(&acknowledgement, "").await;
    assert!(b.ask(&named(info, B), "").await.contains("\"num_ack_pending\":0"), "B may");
}

#[tokio::test]
async fn headers_that_would_change_the_stream_are_refused() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    let jetstream = furnish(&manager).await;
    let (mut a, b) = (broker.cluster(A).await, broker.cluster(B).await);
    b.ask(&subjects::status(B), "{}").await;
    let (own, other) = (subjects::status(A), subjects::status(B));
    for (id, headers) in [
        ("A-061", vec![("Nats-Rollup", "all")]),
        ("A-062", vec![("Nats-TTL", "1s")]),
        ("A-063", vec![("Nats-Schedule", "@every 1m"), ("Nats-Schedule-Target", other.as_str())]),
        ("A-064", vec![("Nats-Batch-Id", "x"), ("Nats-Batch-Sequence", "1"), ("Nats-Batch-Commit", "1")]),
        ("A-065", vec![("Nats-Incr", "+1")]),
    ] {
        stopped(id, &a.ask_with(&own, &headers).await);
    }
    assert!(a.ask(&own, "{}").await.contains("\"seq\":"), "without such a header");
    assert_eq!(messages(&jetstream, streams::STATUS.name).await, 2, "what B reported is there, and what A may");
    let mut traced = HeaderMap::new();
    let aim = format!("{}.x", subjects::inbox_prefix(B));
    traced.insert("Nats-Trace-Dest", aim.as_str());
    a.client.publish_with_headers(own, traced, "{}".into()).await.unwrap();
    a.client.flush().await.unwrap();
    stopped("A-066", &a.refused(&aim).await);
}
