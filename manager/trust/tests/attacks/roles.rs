//! People with the `nats` CLI, billing subscribers, and the Manager's user in the system account: each with more than its role.

use crate::{
    broker::{A, B, validity},
    session::{Broker, furnish, furnish_bill, named},
};
use kubenova_schema::{
    streams,
    subjects::{self, accounts, servers},
};
use kubenova_test_attacks::stopped;

#[tokio::test]
async fn a_reader_changes_nothing() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    furnish(&manager).await;
    let (mut ops, b) = (broker.ops().await, broker.cluster(B).await);
    let stream = streams::COMMANDS.name;
    let [next, ..] = accounts::CLUSTER_PUBLISH;
    for (id, subject) in [
        ("A-067", subjects::command(A, "apply-tenant")),
        ("A-068", subjects::status(A)),
        ("A-069", named(next, B)),
        ("A-070", format!("$JS.API.CONSUMER.CREATE.{stream}.reader")),
        ("A-071", format!("$JS.API.STREAM.PURGE.{stream}")),
        ("A-072", format!("$JS.API.STREAM.DELETE.{stream}")),
    ] {
        stopped(id, &ops.may_not_publish(&subject).await);
    }
    stopped("A-073", &ops.may_not_subscribe(&format!("{}.>", subjects::inbox_prefix(A))).await);
    let acknowledgement = b.pull(&named(next, B)).await.reply.unwrap();
    stopped("A-074", &ops.may_not_publish(&acknowledgement).await);
    b.ask(&acknowledgement, "").await;
    assert!(!ops.ask(&format!("$JS.API.STREAM.INFO.{stream}"), "").await.contains("\"error\""), "it may look");
    for subject in [format!("$JS.API.STREAM.PURGE.{stream}"), format!("$JS.API.STREAM.DELETE.{stream}")] {
        assert!(manager.ask(&subject, "").await.contains("\"success\":true"), "{subject}: the Manager may");
    }
}

#[tokio::test]
async fn a_billing_subscriber_reads_no_other_s_durable() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    let jetstream = furnish(&manager).await;
    furnish_bill(&jetstream, &["books", "other"]).await;
    let (mut books, other) = (broker.subscriber("books").await, broker.subscriber("other").await);
    let [next, info, ..] = accounts::BILLING_PUBLISH;
    let event = other.pull(&named(next, "other")).await;
    assert_eq!(event.payload, "event");
    let acknowledgement = event.reply.unwrap();
    let stream = streams::BILL.name;
    for (id, subject) in [
        ("A-075", named(next, "other")),
        ("A-076", named(info, "other")),
        ("A-077", acknowledgement.to_string()),
        ("A-078", subjects::bill("tenant", A, "usage")),
        ("A-079", format!("$JS.API.CONSUMER.CREATE.{stream}.books")),
        ("A-080", subjects::usage(A, "w0-60")),
    ] {
        stopped(id, &books.may_not_publish(&subject).await);
    }
    stopped("A-081", &books.may_not_subscribe(subjects::every::BILL).await);
    let unacknowledged = async || {
        let consumer = jetstream.get_stream(stream).await.unwrap().consumer_info("other").await;
        consumer.unwrap().num_ack_pending
    };
    assert_eq!(unacknowledged().await, 1, "nobody acknowledged it");
    other.ask(&acknowledgement, "").await;
    assert_eq!(unacknowledged().await, 0);
    assert_eq!(books.pull(&named(next, "books")).await.payload, "event", "what others read is not gone");
}

#[tokio::test]
async fn the_user_that_pushes_accounts_does_nothing_else_to_the_servers() {
    let broker = Broker::start().await;
    let identity = broker.keyring.authority.client("system", validity()).unwrap();
    let user = broker.keyring.nkeys.system_user(validity()).unwrap();
    let mut system = broker.connect("manager-system", Some(&identity), &user).await.unwrap();
    for (id, subject) in [
        ("A-082", "$SYS.REQ.CLAIMS.DELETE"),
        ("A-083", "$SYS.REQ.SERVER.PING.KICK"),
        ("A-084", "$SYS.REQ.SERVER.PING.CONNZ"),
    ] {
        stopped(id, &system.may_not_publish(subject).await);
    }
    stopped("A-085", &system.may_not_subscribe("$SYS.ACCOUNT.>").await);
    assert!(system.ask(servers::PING, "").await.contains("\"server\""), "what the Manager needs");
}
