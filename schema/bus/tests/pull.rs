//! Pulling from a durable of a real nats-server: how much of it waits here, how quiet an idle pull is, and that a consumer that
//! ends leaves nothing behind. And that streams and durables which were changed by hand are set back.
//!
//! Needs `KUBENOVA_SERVERS`, a folder with `bin/nats-server` (made by `cargo dev servers`); nothing else.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

use async_nats::{
    Client,
    jetstream::{self, consumer::pull, stream},
};
use futures::StreamExt as _;
use kubenova_bus::{
    consume::{self, BATCH, BATCH_BYTES, Delivery, PULL_HEARTBEAT, PULL_LASTS, Verdict},
    durable,
};
use kubenova_runtime::shutdown::Shutdown;
use kubenova_schema::{streams, subjects};
use kubenova_test_nats::NatsServer;
use serde_json::Value;
use std::time::Duration;
use tokio::{sync::Notify, time::timeout};

const STREAM: &str = "TEST";
const DURABLE: &str = "one";
/// Pulls that a cluster's durable lets wait.
const WAITING_MAX: i64 = 8;
/// Longest that loopback may take for one answer; only a failing test waits so long.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// The largest command.
const LARGE: usize = 900 * 1024;

/// A broker that ends with the test.
struct Broker {
    server: NatsServer,
    client: Client,
    jetstream: jetstream::Context,
}

impl Broker {
    async fn start() -> Self {
        let server = NatsServer::with_jetstream();
        let client = async_nats::connect(server.url().await).await.unwrap();
        let jetstream = jetstream::new(client.clone());
        let config =
            stream::Config { name: STREAM.to_owned(), subjects: vec!["test".to_owned()], ..stream::Config::default() };
        let stream = jetstream.create_stream(config).await.unwrap();
        let durable = pull::Config {
            durable_name: Some(DURABLE.to_owned()),
            max_waiting: WAITING_MAX,
            ..pull::Config::default()
        };
        stream.create_consumer(durable).await.unwrap();
        Self { server, client, jetstream }
    }

    /// Kills it and starts it again with its store, where it listened before.
    fn restart(&mut self) {
        self.server.restart(self.client.server_info().port);
    }

    async fn publish(&self, body: Vec<u8>) {
        self.jetstream.publish("test", body.into()).await.unwrap().await.unwrap();
    }

    /// Delivered and unacknowledged, and pulls that wait.
    async fn outstanding(&self) -> (usize, usize) {
        let stream = self.jetstream.get_stream(STREAM).await.unwrap();
        let info = stream.consumer_info(DURABLE).await.unwrap();
        (info.num_ack_pending, info.num_waiting)
    }
}

#[tokio::test]
async fn large_messages_wait_at_the_broker_and_all_of_them_come() {
    let broker = Broker::start().await;
    for _ in 0..BATCH {
        broker.publish(vec![b'x'; LARGE]).await;
    }
    let (stop, first, go_on) = (Shutdown::new(), Notify::new(), Notify::new());
    let handled = std::sync::atomic::AtomicUsize::new(0);
    let handle = |_: Delivery| async {
        if handled.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
            first.notify_one();
            go_on.notified().await;
        }
        if handled.load(std::sync::atomic::Ordering::SeqCst) == BATCH {
            stop.request();
        }
        Verdict::Done
    };
    let missing = || async { panic!("the durable is there") };
    let look = async {
        first.notified().await;
        // The server has sent what was asked for once another request of the same connection is answered.
        let (delivered, _) = broker.outstanding().await;
        assert!((1..=2 * BATCH_BYTES / LARGE).contains(&delivered), "{delivered} messages wait here");
        go_on.notify_one();
    };
    let both = async { tokio::join!(consume::run(&broker.jetstream, STREAM, DURABLE, &stop, handle, missing), look) };
    assert!(timeout(ANSWER_MAX, both).await.is_ok(), "{handled:?} of {BATCH} came");
}

#[tokio::test]
async fn an_idle_pull_stands_long_and_ends_at_once_when_a_stop_is_requested() {
    let broker = Broker::start().await;
    let mut asked = broker.client.subscribe("$JS.API.CONSUMER.MSG.NEXT.>").await.unwrap();
    broker.client.flush().await.unwrap();
    let stop = Shutdown::new();
    let idle = consume::run(
        &broker.jetstream,
        STREAM,
        DURABLE,
        &stop,
        |_| async { Verdict::Done },
        || async { panic!("the durable is there") },
    );
    let look = async {
        let asked: Value = serde_json::from_slice(&asked.next().await.unwrap().payload).unwrap();
        let nanoseconds = |name: &str| Duration::from_nanos(asked[name].as_u64().unwrap());
        assert_eq!((nanoseconds("expires"), nanoseconds("idle_heartbeat")), (PULL_LASTS, PULL_HEARTBEAT));
        assert_eq!(asked["max_bytes"], BATCH_BYTES);
        stop.request();
    };
    assert!(timeout(ANSWER_MAX, async { tokio::join!(idle, look) }).await.is_ok(), "the stop was not noticed");
}

/// Pulls that were given up stand for two minutes; they must not use up those that a durable allows.
#[tokio::test]
async fn a_durable_that_is_opened_again_and_again_still_delivers() {
    let broker = Broker::start().await;
    for round in 0..3 * WAITING_MAX {
        let opened = Shutdown::new();
        let mut asked = broker.client.subscribe("$JS.API.CONSUMER.MSG.NEXT.>").await.unwrap();
        broker.client.flush().await.unwrap();
        let idle = consume::run(
            &broker.jetstream,
            STREAM,
            DURABLE,
            &opened,
            |_| async { Verdict::Done },
            || async { panic!("the durable is there") },
        );
        let pulled = timeout(ANSWER_MAX, async {
            tokio::select! {
                () = idle => panic!("ended by itself"),
                asked = asked.next() => drop(asked.unwrap()),
            }
        });
        assert!(pulled.await.is_ok(), "round {round} asked for nothing");
    }
    broker.publish(b"the last".to_vec()).await;
    let stop = Shutdown::new();
    let handle = |delivery: Delivery| {
        assert_eq!(&*delivery.payload, b"the last");
        stop.request();
        async { Verdict::Done }
    };
    let last = consume::run(&broker.jetstream, STREAM, DURABLE, &stop, handle, || async { panic!("it is there") });
    assert!(timeout(ANSWER_MAX, last).await.is_ok(), "nothing was delivered; {:?}", broker.outstanding().await);
}

/// The pull ended with the connection; waiting until its heartbeats are missed would take a minute.
#[tokio::test]
async fn what_comes_after_a_restart_of_the_broker_is_delivered_at_once() {
    let mut broker = Broker::start().await;
    let mut asked = broker.client.subscribe("$JS.API.CONSUMER.MSG.NEXT.>").await.unwrap();
    broker.client.flush().await.unwrap();
    let (stop, jetstream) = (Shutdown::new(), broker.jetstream.clone());
    let handle = |_: Delivery| {
        stop.request();
        async { Verdict::Done }
    };
    // Opened again as often as the server is away.
    let missing = || async { tokio::time::sleep(Duration::from_millis(100)).await };
    let restart = async {
        asked.next().await.unwrap();
        broker.restart();
        let publish = async || broker.jetstream.publish("test", "after".into()).await.ok()?.await.ok();
        while publish().await.is_none() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let both = async { tokio::join!(consume::run(&jetstream, STREAM, DURABLE, &stop, handle, missing), restart) };
    assert!(timeout(ANSWER_MAX, both).await.is_ok(), "nothing was delivered; {:?}", broker.outstanding().await);
}

/// A stream that was made by an earlier release, or edited by hand, has the settings of this one afterwards, and keeps what it
/// holds.
#[tokio::test]
async fn a_stream_that_was_changed_is_set_back() {
    let broker = Broker::start().await;
    let commands = streams::COMMANDS;
    let stream = changed_commands(&broker.jetstream).await;
    broker.jetstream.publish(subjects::command(DURABLE, "x"), "".into()).await.unwrap().await.unwrap();
    kubenova_bus::streams::ensure(&broker.jetstream, &commands).await.unwrap();
    let info = stream.get_info().await.unwrap();
    assert_eq!(info.config.description.as_deref(), Some(commands.description));
    assert_eq!((info.config.max_age, info.config.allow_rollup), (commands.max_age, false));
    assert_eq!(info.state.messages, 1);
}

/// Else its cluster would receive nothing for ever: a hello is answered only when the durable is as it must be.
#[tokio::test]
async fn a_durable_that_was_changed_is_set_back_also_what_no_update_can_change() {
    let broker = Broker::start().await;
    let stream = changed_commands(&broker.jetstream).await;
    let later = stream.cached_info().created + ANSWER_MAX;
    let named = |durable: pull::Config| pull::Config { durable_name: Some(DURABLE.to_owned()), ..durable };
    let updatable = pull::Config { max_waiting: WAITING_MAX, max_deliver: 3, ..pull::Config::default() };
    let other_waiting = pull::Config { max_waiting: 1, ..pull::Config::default() };
    for changed in [updatable, other_waiting] {
        let _absent_at_first = stream.delete_consumer(DURABLE).await;
        stream.create_consumer(named(changed)).await.unwrap();
        stream.pause_consumer(DURABLE, later).await.unwrap();
        durable::ensure_cluster(&broker.jetstream, DURABLE, "alpha").await.unwrap();
        let info = stream.consumer_info(DURABLE).await.unwrap();
        assert_eq!(info.config.description.as_deref(), Some("Commands for cluster alpha"));
        assert_eq!(info.config.filter_subject, subjects::commands_to(DURABLE));
        assert_eq!((info.config.max_waiting, info.config.max_deliver), (WAITING_MAX, -1));
        assert!(!info.paused, "it delivers again");
    }
}

/// When the broker comes back, every cluster says hello: what each costs it must not grow with their number.
#[tokio::test]
async fn a_durable_that_is_as_it_must_be_is_asked_for_and_not_written() {
    let broker = Broker::start().await;
    kubenova_bus::streams::ensure(&broker.jetstream, &streams::COMMANDS).await.unwrap();
    let requests = async || broker.jetstream.query_account().await.unwrap().requests.total;
    let ensure = async || durable::ensure_cluster(&broker.jetstream, DURABLE, "alpha").await.unwrap();
    let counted = requests().await;
    ensure().await;
    assert_eq!(requests().await - counted, 3, "asked for, created, counted");
    let counted = requests().await;
    ensure().await;
    assert_eq!(requests().await - counted, 2, "asked for, counted");
}

#[tokio::test]
async fn what_was_not_acknowledged_is_counted_and_what_was_is_not_unless_the_durable_forgot_it() {
    let broker = Broker::start().await;
    kubenova_bus::streams::ensure(&broker.jetstream, &streams::COMMANDS).await.unwrap();
    let ensure = async || durable::ensure_cluster(&broker.jetstream, DURABLE, "alpha").await.unwrap();
    let publish = async |cluster: &str| {
        let subject = subjects::command(cluster, "apply-tenant");
        broker.jetstream.publish(subject, "command".into()).await.unwrap().await.unwrap();
    };
    assert_eq!(ensure().await, 0);
    publish("another").await;
    assert_eq!(ensure().await, 0, "it is none of this cluster");
    publish(DURABLE).await;
    publish(DURABLE).await;
    assert_eq!(ensure().await, 2);
    let stream = broker.jetstream.get_stream(streams::COMMANDS.name).await.unwrap();
    let consumer: jetstream::consumer::PullConsumer = stream.get_consumer(DURABLE).await.unwrap();
    let delivered: Vec<_> = consumer.fetch().max_messages(2).messages().await.unwrap().collect().await;
    assert_eq!(ensure().await, 2, "it is delivered again when it is not acknowledged");
    for message in delivered {
        message.unwrap().double_ack().await.unwrap();
    }
    assert_eq!(ensure().await, 0);
    stream.delete_consumer(DURABLE).await.unwrap();
    assert_eq!(ensure().await, 2, "a new one delivers all");
    durable::purge_cluster(&broker.jetstream, DURABLE).await.unwrap();
    assert_eq!(ensure().await, 0);
    assert_eq!(stream.get_info().await.unwrap().state.messages, 1, "another cluster's is still there");
}

/// The stream of commands with settings that are not ours.
async fn changed_commands(jetstream: &jetstream::Context) -> stream::Stream {
    let config = stream::Config {
        name: streams::COMMANDS.name.to_owned(),
        subjects: vec![subjects::every::COMMAND.to_owned()],
        allow_rollup: true,
        ..stream::Config::default()
    };
    jetstream.create_stream(config).await.unwrap()
}
