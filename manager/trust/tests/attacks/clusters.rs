//! A cluster with its own credentials on what belongs to another, to the Manager, or to all.

use crate::{
    broker::{A, B},
    session::{ANSWER_MAX, Broker, Session, furnish, named},
};
use futures::StreamExt as _;
use kubenova_schema::{
    streams,
    subjects::{self, accounts, servers},
};
use kubenova_test_attacks::stopped;

#[tokio::test]
async fn a_cluster_writes_nothing_in_the_name_of_another() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    furnish(&manager).await;
    let (mut a, b) = (broker.cluster(A).await, broker.cluster(B).await);
    for (id, subject) in
        [("A-013", subjects::outcome(B)), ("A-014", subjects::status(B)), ("A-015", subjects::usage(B, "w0-60"))]
    {
        stopped(id, &a.may_not_publish(&subject).await);
        assert!(b.ask(&subject, "{}").await.contains("\"seq\":"), "{subject}: B may");
    }
    for (id, subject, every) in [
        ("A-016", subjects::heartbeat(B), subjects::every::HEARTBEAT),
        ("A-017", subjects::hello(B), subjects::every::HELLO),
        ("A-018", subjects::listing(B), subjects::every::LISTING),
        ("A-019", subjects::records(B), subjects::every::RECORDS),
    ] {
        let mut heard = manager.client.subscribe(every).await.unwrap();
        manager.ask("$JS.API.INFO", "").await;
        stopped(id, &a.may_not_publish(&subject).await);
        b.client.publish(subject.clone(), "of b".into()).await.unwrap();
        let first = tokio::time::timeout(ANSWER_MAX, heard.next()).await.unwrap().unwrap();
        assert_eq!((first.subject.as_str(), &*first.payload), (subject.as_str(), &b"of b"[..]));
    }
}

#[tokio::test]
async fn a_cluster_does_not_touch_the_durable_of_another() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    furnish(&manager).await;
    let (mut a, b) = (broker.cluster(A).await, broker.cluster(B).await);
    let [next, info, _, ack_v2, ..] = accounts::CLUSTER_PUBLISH;
    stopped("A-020", &a.may_not_publish(&named(next, B)).await);
    stopped("A-021", &a.may_not_publish(&named(info, B)).await);
    assert!(b.ask(&named(info, B), "").await.contains("\"num_ack_pending\":0"));
    let command = b.pull(&named(next, B)).await;
    assert_eq!(command.payload, "for b");
    let acknowledgement = command.reply.unwrap();
    stopped("A-022", &a.may_not_publish(&acknowledgement).await);
    stopped("A-023", &a.may_not_publish(&named(ack_v2, B).replace('*', "1")).await);
    // The name of A where the other form of an acknowledgement has the account, and B as the consumer.
    let mixed = acknowledgement.replacen(".KN_CMD.", &format!(".{A}.KN_CMD."), 1);
    stopped("A-024", &a.may_not_publish(&mixed).await);
    let stream = streams::COMMANDS.name;
    stopped("A-025", &a.may_not_publish(&format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{B}")).await);
    assert!(b.ask(&named(info, B), "").await.contains("\"num_ack_pending\":1"), "nobody acknowledged it");
    b.ask(&acknowledgement, "").await;
    assert!(b.ask(&named(info, B), "").await.contains("\"num_ack_pending\":0"), "B may");
}

#[tokio::test]
async fn a_cluster_writes_nothing_that_is_the_manager_s() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    furnish(&manager).await;
    let mut a = broker.cluster(A).await;
    for (id, subject) in [
        ("A-026", subjects::command(B, "apply-tenant")),
        ("A-027", subjects::command(A, "apply-tenant")),
        ("A-028", subjects::receipt(A)),
        ("A-029", subjects::bill("tenant", A, "usage")),
    ] {
        stopped(id, &a.may_not_publish(&subject).await);
        assert!(manager.ask(&subject, "{}").await.contains("\"seq\":"), "{subject}: the Manager may");
    }
    let b = broker.cluster(B).await;
    let mut asked = b.client.subscribe(subjects::control(B)).await.unwrap();
    b.ask(&subjects::outcome(B), "{}").await;
    stopped("A-030", &a.may_not_publish(&subjects::control(B)).await);
    manager.client.publish(subjects::control(B), "of the manager".into()).await.unwrap();
    let first = tokio::time::timeout(ANSWER_MAX, asked.next()).await.unwrap().unwrap();
    assert_eq!(first.payload, "of the manager");
    let mut inbox = b.client.subscribe(format!("{}.known", subjects::inbox_prefix(B))).await.unwrap();
    stopped("A-031", &a.may_not_publish(&format!("{}.known", subjects::inbox_prefix(B))).await);
    // The server writes there what answers a request of B, and nothing else.
    let to = format!("{}.known", subjects::inbox_prefix(B));
    b.client.publish_with_reply(subjects::outcome(B), to, "{}".into()).await.unwrap();
    let first = tokio::time::timeout(ANSWER_MAX, inbox.next()).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&first.payload).contains("\"seq\":"), "{:?}", first.payload);
    // Kinds of reports and questions that there are not.
    stopped("A-032", &a.may_not_publish(&subjects::status(A).replace("status", "other")).await);
    stopped("A-033", &a.may_not_publish(&subjects::hello(A).replace("hello", "other")).await);
}

#[tokio::test]
async fn a_cluster_receives_nothing_but_what_is_its_own() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    let jetstream = furnish(&manager).await;
    let (mut a, ops) = (broker.cluster(A).await, broker.ops().await);
    for (id, subject) in [
        ("A-034", ">".to_owned()),
        ("A-035", subjects::commands_to(B)),
        ("A-036", subjects::commands_to(A)),
        ("A-037", subjects::every::HEARTBEAT.to_owned()),
        ("A-038", subjects::control(B)),
        ("A-039", format!("{}.>", subjects::inbox_prefix(B))),
        ("A-040", "_R_.>".to_owned()),
        ("A-041", "$JS.EVENT.ADVISORY.>".to_owned()),
        ("A-042", servers::STATS.to_owned()),
    ] {
        stopped(id, &a.may_not_subscribe(&subject).await);
    }
    // Who may hear it all does, so there was something to be heard; and A hears what is its own.
    let mut tap = ops.client.subscribe(subjects::ALL).await.unwrap();
    ops.ask("$JS.API.INFO", "").await;
    jetstream.publish(subjects::command(B, "apply-tenant"), "live".into()).await.unwrap().await.unwrap();
    assert_eq!(tokio::time::timeout(ANSWER_MAX, tap.next()).await.unwrap().unwrap().payload, "live");
    let mut own = a.client.subscribe(subjects::control(A)).await.unwrap();
    a.ask(&subjects::outcome(A), "{}").await;
    manager.client.publish(subjects::control(A), "for a".into()).await.unwrap();
    assert_eq!(tokio::time::timeout(ANSWER_MAX, own.next()).await.unwrap().unwrap().payload, "for a");
}

/// What the Manager is answered who may do it.
async fn allowed(manager: &Session, subject: &str, body: &str) {
    let answer = manager.ask(subject, body).await;
    assert!(!answer.contains("\"error\""), "{subject}: {answer}");
}

#[tokio::test]
async fn a_cluster_has_nothing_of_the_api_of_streams_and_servers() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    furnish(&manager).await;
    let mut a = broker.cluster(A).await;
    let (stream, status) = (streams::COMMANDS.name, streams::STATUS.name);
    let consumer = format!(
        r#"{{"stream_name":"{stream}","config":{{"durable_name":"{A}","filter_subject":"{}","ack_policy":"explicit"}}}}"#,
        subjects::commands_to(B)
    );
    let taking = r#"{"name":"TAKEN","subjects":["taken.>"]}"#;
    for (id, subject, body) in [
        ("A-043", format!("$JS.API.STREAM.INFO.{stream}"), ""),
        ("A-044", format!("$JS.API.STREAM.MSG.GET.{stream}"), r#"{"seq":1}"#),
        ("A-045", format!("$JS.API.CONSUMER.LIST.{stream}"), "{}"),
        ("A-046", format!("$JS.API.CONSUMER.PAUSE.{stream}.{B}"), r#"{"pause_until":"2100-01-01T00:00:00Z"}"#),
        ("A-047", format!("$JS.API.CONSUMER.DELETE.{stream}.{A}"), ""),
        ("A-048", format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{A}"), consumer.as_str()),
        ("A-049", "$JS.API.STREAM.CREATE.TAKEN".to_owned(), taking),
        ("A-050", format!("$JS.API.STREAM.UPDATE.{}", "TAKEN"), taking),
        ("A-051", format!("$JS.API.STREAM.PURGE.{stream}"), ""),
        ("A-052", format!("$JS.API.STREAM.DELETE.{status}"), ""),
    ] {
        stopped(id, &a.may_not_publish(&subject).await);
        allowed(&manager, &subject, body).await;
    }
    // Another token in front of it: the prefix of clusters has the two questions of their own durable, and no more.
    let prefixed = format!("{}.STREAM.INFO.{stream}", subjects::API_PREFIX);
    stopped("A-053", &a.may_not_publish(&prefixed).await);
    stopped("A-054", &a.may_not_publish(servers::PUSH_ACCOUNT).await);
    stopped("A-055", &a.may_not_publish(servers::PING).await);
}

#[tokio::test]
async fn a_cluster_has_no_more_subscriptions_than_it_needs() {
    let broker = Broker::start().await;
    let manager = broker.manager().await;
    furnish(&manager).await;
    let mut a = broker.cluster(A).await;
    let mut held = Vec::new();
    for number in 0..60 {
        let subject = format!("{}.{number}", subjects::inbox_prefix(A));
        held.push(a.client.subscribe(subject).await.unwrap());
        if number == 20 {
            assert!(a.ask(&subjects::outcome(A), "{}").await.contains("\"seq\":"), "twenty are no problem");
        }
    }
    a.client.flush().await.unwrap();
    let said = tokio::time::timeout(ANSWER_MAX, a.said_about("maximum subscriptions")).await;
    stopped("A-056", &said.expect("the server lets a cluster have as many subscriptions as it likes"));
}
