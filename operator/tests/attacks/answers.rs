//! Who answers in the Manager's place: hellos, and receipts for usage.

use crate::{ANSWER_MAX, CLUSTER, HERE, UID, accepted, manager, own};
use async_nats::{Client, HeaderMap};
use futures::StreamExt as _;
use kubenova_operator_core::{
    hello_answer,
    metering::receipts::{self, HeldReport},
};
use kubenova_runtime::telemetry;
use kubenova_schema::{
    message,
    signature::{HEADER, PayloadType},
    subjects,
    v1::{Hello, HelloAnswer, ReceiptList},
    window::Window,
};
use kubenova_test_attacks::stopped;
use kubenova_test_nats::NatsServer;
use tokio::time::timeout;

fn hello(nonce: &str) -> Hello {
    Hello {
        cluster_id: CLUSTER.to_owned(),
        cluster_uid: UID.to_owned(),
        boot_id: "boot".to_owned(),
        nonce: nonce.to_owned(),
        ..Hello::default()
    }
}

/// An answer that would move the cluster's fence beyond every command.
fn answer(to: &Hello) -> HelloAnswer {
    HelloAnswer {
        accepted: true,
        epoch: 1_000,
        floor: u64::from(u32::MAX),
        session: 1_000,
        cluster_id: to.cluster_id.clone(),
        boot_id: to.boot_id.clone(),
        nonce: to.nonce.clone(),
        ..HelloAnswer::default()
    }
}

/// What the cluster makes of an answer that another client than the Manager gives it over the broker.
async fn answered(cluster: &Client, other: &Client, body: Vec<u8>, signature: Option<String>) -> String {
    let asked = hello("this one");
    let mut hellos = other.subscribe(subjects::hello(CLUSTER)).await.unwrap();
    // That there is no responder proves that the server has the subscription.
    other.request("nobody", "".into()).await.unwrap_err();
    let answers = async {
        let request = hellos.next().await.unwrap();
        let mut headers = HeaderMap::new();
        if let Some(signature) = signature {
            headers.insert(HEADER, signature);
        }
        other.publish_with_headers(request.reply.unwrap(), headers, body.into()).await.unwrap();
    };
    let asks = cluster.request(subjects::hello(CLUSTER), message::to_json(&asked).into());
    let (reply, ()) = timeout(ANSWER_MAX, async { tokio::join!(asks, answers) }).await.unwrap();
    let reply = reply.unwrap();
    let signature =
        reply.headers.as_ref().and_then(|headers| headers.get(HEADER)).map(|value| value.as_str().to_owned());
    match hello_answer::verify(&reply.payload, signature.as_deref(), &accepted(), &asked) {
        Ok(_) => "it is believed".to_owned(),
        Err(error) => telemetry::chain(&error),
    }
}

#[tokio::test]
async fn only_the_manager_answers_a_hello() {
    let server = NatsServer::with_jetstream();
    let url = server.url().await;
    let (cluster, other) = (async_nats::connect(&url).await.unwrap(), async_nats::connect(&url).await.unwrap());
    let asked = hello("this one");
    let body = message::to_json(&answer(&asked));
    let signed = |answer: &HelloAnswer| {
        let body = message::to_json(answer);
        let signature = manager().sign(PayloadType::HelloAnswer, &body);
        (body, Some(signature))
    };
    for (id, (body, signature)) in [
        ("A-191", (body.clone(), None)),
        ("A-192", (body.clone(), Some(own().sign(PayloadType::HelloAnswer, &body)))),
        ("A-193", (body.clone(), Some(manager().sign(PayloadType::Receipt, &body)))),
        ("A-194", signed(&answer(&hello("an earlier one")))),
        ("A-195", signed(&HelloAnswer { cluster_id: "c1123456789abcdefghjkmnpqrs".to_owned(), ..answer(&asked) })),
        ("A-196", signed(&HelloAnswer { boot_id: "another".to_owned(), ..answer(&asked) })),
    ] {
        stopped(id, &answered(&cluster, &other, body, signature).await);
    }
    let (body, signature) = signed(&answer(&asked));
    assert_eq!(answered(&cluster, &other, body, signature).await, "it is believed");
}

/// A list that says that everything until now is in the ledger.
fn list() -> ReceiptList {
    ReceiptList {
        cluster_id: CLUSTER.to_owned(),
        cluster_uid: UID.to_owned(),
        windows: vec!["w0-3600".to_owned()],
        manifest_sha256: vec!["00".to_owned()],
        ..ReceiptList::default()
    }
}

#[test]
fn only_the_manager_gives_receipts() {
    let body = message::to_json(&list());
    let verdict = |body: &[u8], signature: Option<&str>| match receipts::verify(body, signature, &accepted(), HERE) {
        Ok(_) => "it is believed".to_owned(),
        Err(error) => telemetry::chain(&error),
    };
    let by = |payload_type| manager().sign(payload_type, &body);
    stopped("A-197", &verdict(&body, None));
    stopped("A-198", &verdict(&body, Some(&own().sign(PayloadType::Receipt, &body))));
    stopped("A-199", &verdict(&body, Some(&by(PayloadType::Command))));
    let of = |list: ReceiptList| {
        let body = message::to_json(&list);
        let signature = manager().sign(PayloadType::Receipt, &body);
        verdict(&body, Some(&signature))
    };
    stopped("A-200", &of(ReceiptList { cluster_id: "c1123456789abcdefghjkmnpqrs".to_owned(), ..list() }));
    stopped("A-201", &of(ReceiptList { cluster_uid: "0198c1d2-0000-7000-8000-000000000001".to_owned(), ..list() }));
    assert_eq!(verdict(&body, Some(&by(PayloadType::Receipt))), "it is believed");
}

/// A signed list of the past says of what it does not name nothing: else a replayed one would have everything sent again.
#[test]
fn an_older_list_takes_no_receipt_back() {
    let empty = ReceiptList {
        complete_from: 0,
        complete_until: 7_200,
        windows: Vec::new(),
        manifest_sha256: Vec::new(),
        ..list()
    };
    let report =
        || HeldReport { window: Window { start: 3_600, seconds: 3_600 }, manifest_sha256: "00", is_received: true };
    let changes = |is_newest| receipts::changes(&empty, [report()], is_newest).len();
    stopped("A-202", &format!("{} windows are marked as lost", changes(false)));
    assert_eq!(changes(true), 1, "the newest list is believed");
}
