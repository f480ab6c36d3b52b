//! Who may write to the broker what the Manager may, without its signing key: unsigned, forged, cut, replayed, reordered, and delivered
//! to another cluster. Each goes through the broker, and is decided about as `inbound` does before it stores anything.

use crate::{ANSWER_MAX, CLUSTER, HERE, UID, accepted, command, manager, own};
use async_nats::{HeaderMap, jetstream};
use data_encoding::BASE64;
use kubenova_bus::{
    consume::{self, Delivery, Verdict},
    durable, publish, streams as broker,
};
use kubenova_operator::join::identity::{Identity, Keys};
use kubenova_operator_core::{
    command::{self, Unreadable},
    inbox::{self, Decision, Fence, Held},
};
use kubenova_runtime::{shutdown::Shutdown, telemetry};
use kubenova_schema::{
    enrollment::{EnrollmentAnswer, PublicKey},
    message,
    signature::{AcceptedKeys, HEADER, PayloadType, SigningKey},
    streams, subjects,
    v1::Command,
};
use kubenova_test_attacks::stopped;
use kubenova_test_nats::NatsServer;
use tokio::{sync::mpsc, time::timeout};

/// The broker, with the cluster that pulls from it.
struct Wire {
    jetstream: jetstream::Context,
    deliveries: mpsc::UnboundedReceiver<Delivery>,
    stop: Shutdown,
    _server: NatsServer,
}

impl Wire {
    async fn start() -> Self {
        let server = NatsServer::with_jetstream();
        let jetstream = jetstream::new(async_nats::connect(server.url().await).await.unwrap());
        broker::ensure(&jetstream, &streams::COMMANDS).await.unwrap();
        durable::ensure_cluster(&jetstream, CLUSTER, "alpha").await.unwrap();
        let (arrived, deliveries) = mpsc::unbounded_channel();
        let (stop, pulled) = (Shutdown::new(), jetstream.clone());
        let shutdown = stop.clone();
        tokio::spawn(async move {
            let handle = move |delivery: Delivery| {
                let _the_test_is_over = arrived.send(delivery);
                std::future::ready(Verdict::Done)
            };
            consume::run(&pulled, streams::COMMANDS.name, CLUSTER, &shutdown, handle, || async {}).await;
        });
        Self { jetstream, deliveries, stop, _server: server }
    }

    /// What arrives at the cluster of what an attacker puts where its commands are.
    async fn deliver(&mut self, body: &[u8], signature: Option<&str>) -> Delivery {
        let mut headers = HeaderMap::new();
        if let Some(signature) = signature {
            headers.insert(HEADER, signature);
        }
        let subject = subjects::command(CLUSTER, "apply-tenant");
        publish::publish(&self.jetstream, &subject, headers, body.to_vec()).await.unwrap();
        timeout(ANSWER_MAX, self.deliveries.recv()).await.unwrap().unwrap()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.request();
    }
}

/// What the cluster holds about the object of the commands.
struct Cluster {
    keys: AcceptedKeys,
    held: Option<Held>,
    fence: Fence,
}

impl Cluster {
    fn new() -> Self {
        Self { keys: accepted(), held: None, fence: Fence::default() }
    }

    /// Decides about a delivery, and stores what is to be stored.
    fn take(&mut self, delivery: &Delivery) -> String {
        let read = command::verify(&delivery.payload, delivery.header(HEADER), &self.keys);
        let command = match read {
            Ok(command) => command,
            Err(error @ (Unreadable::Signature(_) | Unreadable::Body(_))) => return telemetry::chain(&error),
        };
        let verified = match command::accept(command, HERE) {
            Ok(verified) => verified,
            Err(rejected) => return format!("{}: {}", rejected.reason, rejected.message),
        };
        let decision = inbox::decide(self.held.as_ref(), &verified.held(), self.fence);
        if decision == Decision::Store {
            let Command { epoch, revision, floor, .. } = verified.command;
            self.fence = self.fence.raised_by(epoch, revision, floor);
            self.held = Some(verified.held());
        }
        match decision {
            Decision::Superseded(stale) => stale.reason().to_owned(),
            other => format!("{other:?}"),
        }
    }
}

fn signed(command: &Command) -> (Vec<u8>, String) {
    let body = message::to_json(command);
    let signature = manager().sign(PayloadType::Command, &body);
    (body, signature)
}

#[tokio::test]
async fn what_the_manager_did_not_sign_as_it_stands_is_not_read() {
    let (mut wire, mut cluster) = (Wire::start().await, Cluster::new());
    let (body, signature) = signed(&command(20));
    let (_, of_another) = signed(&command(19));
    let by_own_key = own().sign(PayloadType::Command, &body);
    let relabeled = format!("{}:{}", manager().id(), by_own_key.split_once(':').unwrap().1);
    let receipt = manager().sign(PayloadType::Receipt, &body);
    let mut changed = body.clone();
    let at = changed.iter().position(|byte| *byte == b'2').unwrap();
    changed[at] = b'3';
    let longer = [&body[..], b" "].concat();
    for (id, body, signature) in [
        ("A-174", &body[..], None),
        ("A-175", &body[..], Some("a signature")),
        ("A-176", &body[..], Some(by_own_key.as_str())),
        ("A-177", &body[..], Some(relabeled.as_str())),
        ("A-178", &body[..], Some(of_another.as_str())),
        ("A-179", &body[..], Some(receipt.as_str())),
        ("A-180", &changed[..], Some(signature.as_str())),
        ("A-181", &body[..body.len() - 1], Some(signature.as_str())),
        ("A-182", &longer[..], Some(signature.as_str())),
    ] {
        stopped(id, &cluster.take(&wire.deliver(body, signature).await));
    }
    assert_eq!(cluster.take(&wire.deliver(&body, Some(&signature)).await), "Store", "as the Manager signed it");
}

#[tokio::test]
async fn a_key_that_was_replaced_signs_nothing_that_arrives() {
    let (mut wire, mut cluster) = (Wire::start().await, Cluster::new());
    let public =
        |key: &SigningKey| PublicKey { key_id: key.id().to_owned(), public_key: BASE64.encode(&key.public_key()) };
    let answer = |key: &SigningKey| EnrollmentAnswer {
        key_set_id: String::new(),
        leaf_urls: Vec::new(),
        cluster_id: CLUSTER.to_owned(),
        incarnation: "1".to_owned(),
        epoch: 1,
        certificate_chain_pem: String::new(),
        user_jwt: String::new(),
        broker_urls: Vec::new(),
        ca_bundle_pem: String::new(),
        command_keys: vec![public(key)],
        endpoints: Vec::new(),
        issued_at: String::new(),
        expires_at: String::new(),
        manager_time: String::new(),
    };
    let former = SigningKey::from_seed(&[2; 32]).unwrap();
    let keys = Keys::make("kn1.x", UID).unwrap();
    let first = Identity::replacing(None, keys.clone(), answer(&former));
    let body = message::to_json(&command(20));
    let by_former = former.sign(PayloadType::Command, &body);
    cluster.keys = first.command_keys();
    assert_eq!(cluster.take(&wire.deliver(&body, Some(&by_former)).await), "Store", "before it was replaced");
    cluster.keys = Identity::replacing(Some(&first), keys, answer(&manager())).command_keys();
    let next = message::to_json(&command(21));
    let by_former = former.sign(PayloadType::Command, &next);
    stopped("A-183", &cluster.take(&wire.deliver(&next, Some(&by_former)).await));
}

#[tokio::test]
async fn what_the_manager_signed_for_another_is_not_carried_out_here() {
    let (mut wire, mut cluster) = (Wire::start().await, Cluster::new());
    let other = "c1123456789abcdefghjkmnpqrs".to_owned();
    for (id, command) in [
        ("A-184", Command { cluster_id: other, ..command(20) }),
        ("A-185", Command { cluster_uid: "0198c1d2-0000-7000-8000-000000000001".to_owned(), ..command(20) }),
    ] {
        let (body, signature) = signed(&command);
        stopped(id, &cluster.take(&wire.deliver(&body, Some(&signature)).await));
    }
    let (body, signature) = signed(&command(20));
    assert_eq!(cluster.take(&wire.deliver(&body, Some(&signature)).await), "Store");
}

#[tokio::test]
async fn the_past_changes_nothing() {
    let (mut wire, mut cluster) = (Wire::start().await, Cluster::new());
    let (old, newer) = (signed(&command(20)), signed(&command(30)));
    for (body, signature) in [&old, &newer] {
        assert_eq!(cluster.take(&wire.deliver(body, Some(signature)).await), "Store", "in their order");
    }
    stopped("A-186", &cluster.take(&wire.deliver(&newer.0, Some(&newer.1)).await));
    stopped("A-187", &cluster.take(&wire.deliver(&old.0, Some(&old.1)).await));
    let of_earlier_epoch = signed(&Command { epoch: 4, ..command(40) });
    stopped("A-188", &cluster.take(&wire.deliver(&of_earlier_epoch.0, Some(&of_earlier_epoch.1)).await));
    let same_revision = signed(&Command { document: "{}".to_owned(), ..command(30) });
    stopped("A-189", &cluster.take(&wire.deliver(&same_revision.0, Some(&same_revision.1)).await));
    // The record of another object was forgotten once its command was settled.
    cluster.held = None;
    let settled = signed(&command(9));
    stopped("A-190", &cluster.take(&wire.deliver(&settled.0, Some(&settled.1)).await));
    let later = signed(&command(40));
    assert_eq!(cluster.take(&wire.deliver(&later.0, Some(&later.1)).await), "Store");
}
