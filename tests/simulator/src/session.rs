//! The simulated Operator's process: connect, hello, and what a session consists of.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use async_nats::Subscriber;
use futures::{FutureExt as _, StreamExt as _};
use kubenova_bus::consume::{self, Delivery, Verdict};
use kubenova_bus::{Connection, publish};
use kubenova_operator::session::hello::ANSWER_LIMIT;
use kubenova_operator::session::{FIRST_CONNECT_LIMIT, HELLO_INTERVAL_MIN, HELLO_WAITS};
use kubenova_operator_core::hello_answer;
use kubenova_runtime::backoff::Backoff;
use kubenova_runtime::shutdown::Shutdown;
use kubenova_runtime::{clock, random};
use kubenova_schema::signature::AcceptedKeys;
use kubenova_schema::v1::{Heartbeat, Hello, HelloAnswer, Outcome};
use kubenova_schema::{message, signature, streams, subjects};
use tokio::sync::{Notify, mpsc};

use crate::inbox::Taken;
use crate::listing;
use crate::shared::Shared;

/// Publishes that wait for their acknowledgement at once.
const IN_FLIGHT: usize = 64;

/// What tells this process from an earlier one of the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) boot_id: String,
    pub(crate) lease_term: u64,
}

/// Runs until it is aborted.
pub(crate) async fn run(shared: Arc<Shared>, instance: Instance) {
    let mut backoff = Backoff::default();
    let connection = loop {
        let settings = shared.bus().clone();
        match kubenova_bus::connect(settings).await {
            Ok(connection) => break connection,
            Err(error) => note(&shared, &error.into()),
        }
        tokio::time::sleep(backoff.next_wait()).await;
    };
    let mut requests = match connection.client.subscribe(subjects::control(shared.identity.cluster_id())).await {
        Ok(requests) => requests,
        Err(error) => return note(&shared, &error.into()),
    };
    let mut connects = connection.connects.clone();
    *shared.connects() = Some(connects.clone());
    // Else the announcement of the first connect would end the first session.
    drop(tokio::time::timeout(FIRST_CONNECT_LIMIT, connects.wait_for(|count| *count > 0)).await);
    shared.note(|moments| &mut moments.connected);
    let mut backoff = Backoff::between(HELLO_WAITS.0, HELLO_WAITS.1);
    loop {
        connects.mark_unchanged();
        match hello(&shared, &connection, &instance).await {
            Ok(answer) => {
                backoff.reset();
                shared.session.send_replace(Some(answer.session));
                shared.note(|moments| &mut moments.in_session);
                let process = Process { shared: &shared, connection: &connection, instance: &instance, answer };
                process.serve(&mut requests, &mut connects).await;
                shared.session.send_replace(None);
            }
            Err(error) => {
                note(&shared, &error);
                let wait = backoff.next_wait();
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    _ = connects.changed() => {}
                }
            }
        }
    }
}

fn note(shared: &Shared, error: &anyhow::Error) {
    shared.last_error.send_replace(format!("{error:#}"));
}

async fn hello(shared: &Shared, connection: &Connection, instance: &Instance) -> Result<HelloAnswer> {
    let cluster = shared.identity.cluster_id();
    let request = {
        let inbox = shared.inbox();
        let (highest_revision, highest_command_id) = inbox.highest();
        Hello {
            cluster_id: cluster.to_owned(),
            cluster_uid: shared.identity.cluster_uid().to_owned(),
            incarnation: shared.identity.answer.incarnation.clone(),
            epoch: inbox.epoch().max(shared.identity.answer.epoch),
            highest_revision,
            highest_command_id,
            boot_id: instance.boot_id.clone(),
            lease_term: instance.lease_term,
            listing_sha256: inbox.listing_sha256(),
            operator_version: env!("CARGO_PKG_VERSION").to_owned(),
            at: clock::rfc3339_ms(clock::now()),
            nonce: random::uuid_v4().to_string(),
            ..Hello::default()
        }
    };
    let sent_at = Instant::now();
    let sent = connection.client.request(subjects::hello(cluster), message::to_json(&request).into());
    let reply = tokio::time::timeout(ANSWER_LIMIT, sent).await.context("the Manager does not answer a hello")??;
    let signature = reply.headers.as_ref().and_then(|headers| headers.get(signature::HEADER));
    let signature = signature.map(async_nats::HeaderValue::as_str);
    let answer = hello_answer::verify(&reply.payload, signature, &shared.identity.command_keys(), &request)?;
    if !answer.accepted {
        if answer.listing_wanted {
            listing::send_diverged(shared, connection).await?;
        }
        bail!("the Manager refuses the hello: {}: {}", answer.reason, answer.message);
    }
    shared.hello_took.send_replace(Some(sent_at.elapsed()));
    Ok(answer)
}

/// A session.
struct Process<'a> {
    shared: &'a Shared,
    connection: &'a Connection,
    instance: &'a Instance,
    answer: HelloAnswer,
}

impl Process<'_> {
    /// Until the Manager asks for another hello, the connection was lost, or a stream is missing.
    async fn serve(&self, requests: &mut Subscriber, connects: &mut tokio::sync::watch::Receiver<u64>) {
        let missing = Notify::new();
        let (outcomes, queue) = mpsc::unbounded_channel();
        let (names, work) = mpsc::unbounded_channel();
        {
            let inbox = self.shared.inbox();
            inbox.outcomes_above(self.answer.floor).into_iter().for_each(|outcome| drop(outcomes.send(outcome)));
            inbox.open().into_iter().for_each(|name| drop(names.send(name)));
        }
        let session = async {
            let pull = self.pull(&outcomes, &names, &missing);
            let parts = (pull, self.report(queue, &missing), self.work(work, &outcomes), self.heartbeats());
            tokio::join!(parts.0, parts.1, parts.2, parts.3, self.send_listing());
        };
        let ended = async {
            tokio::time::sleep(HELLO_INTERVAL_MIN).await;
            // What came before or during the last hello was answered by it.
            while requests.next().now_or_never().flatten().is_some() {}
            tokio::select! {
                _ = requests.next() => {}
                _ = connects.changed() => {}
                () = missing.notified() => {}
            }
        };
        tokio::select! {
            () = session => {}
            () = ended => {}
        }
    }

    async fn pull(
        &self,
        outcomes: &mpsc::UnboundedSender<Outcome>,
        names: &mpsc::UnboundedSender<String>,
        missing: &Notify,
    ) {
        let keys = self.shared.identity.command_keys();
        let receipt = subjects::receipt(self.shared.identity.cluster_id());
        let handle = |delivery: Delivery| {
            let (keys, receipt) = (&keys, &receipt);
            async move {
                if delivery.subject == *receipt {
                    return Verdict::Done;
                }
                self.take(&delivery, keys, outcomes, names).await
            }
        };
        let stop = Shutdown::new();
        let lost = || async { missing.notify_one() };
        let jetstream = &self.connection.jetstream;
        consume::run(jetstream, streams::COMMANDS.name, &self.answer.durable, &stop, handle, lost).await;
    }

    async fn take(
        &self,
        delivery: &Delivery,
        keys: &AcceptedKeys,
        outcomes: &mpsc::UnboundedSender<Outcome>,
        names: &mpsc::UnboundedSender<String>,
    ) -> Verdict {
        let taken = self.shared.inbox().take(&delivery.payload, delivery.header(signature::HEADER), keys);
        match taken {
            Ok(Taken::Stored(outcome, name)) => {
                drop(outcomes.send(outcome));
                drop(names.send(name));
                Verdict::Done
            }
            Ok(Taken::Verdict(outcome)) => match self.publish(&outcome).await {
                Ok(()) => Verdict::Done,
                Err(error) => {
                    note(self.shared, &error);
                    Verdict::Later(Duration::from_secs(1))
                }
            },
            Err(error) => Verdict::Terminate(error.to_string()),
        }
    }

    async fn work(&self, mut names: mpsc::UnboundedReceiver<String>, outcomes: &mpsc::UnboundedSender<Outcome>) {
        while let Some(name) = names.recv().await {
            for step in 0..2 {
                if step == 1 && self.shared.holds() {
                    break;
                }
                // Bound before the branch: the guard must not live into it.
                let outcome = self.shared.inbox().work(&name);
                if let Some(outcome) = outcome {
                    if step == 1 {
                        self.shared.note(|moments| &mut moments.applied);
                    }
                    drop(outcomes.send(outcome));
                }
                tokio::task::yield_now().await;
            }
        }
    }

    /// Publishes outcomes; what fails is published again until the session ends, and the next hello repeats it.
    async fn report(&self, mut queue: mpsc::UnboundedReceiver<Outcome>, missing: &Notify) {
        let mut backoff = Backoff::default();
        let mut batch = Vec::new();
        loop {
            if batch.is_empty() && queue.recv_many(&mut batch, IN_FLIGHT).await == 0 {
                return;
            }
            let sent = futures::future::join_all(batch.iter().map(|outcome| self.publish(outcome))).await;
            if let Some(error) = sent.iter().find_map(|sent| sent.as_ref().err()) {
                note(self.shared, error);
                missing.notify_one();
                tokio::time::sleep(backoff.next_wait()).await;
                continue;
            }
            backoff.reset();
            batch.clear();
        }
    }

    async fn publish(&self, outcome: &Outcome) -> Result<()> {
        let id = random::uuid_v4().to_string();
        let headers = publish::headers(&id, &[(signature::COMMAND_ID_HEADER, &outcome.command_id)]);
        let subject = subjects::outcome(self.shared.identity.cluster_id());
        publish::publish(&self.connection.jetstream, &subject, headers, message::to_json(outcome)).await?;
        Ok(())
    }

    async fn heartbeats(&self) {
        let mut ticks = tokio::time::interval(self.shared.options.heartbeat);
        loop {
            ticks.tick().await;
            let cluster = self.shared.identity.cluster_id();
            let heartbeat = {
                let inbox = self.shared.inbox();
                let (highest_revision, highest_command_id) = inbox.highest();
                Heartbeat {
                    cluster_id: cluster.to_owned(),
                    boot_id: self.instance.boot_id.clone(),
                    lease_term: self.instance.lease_term,
                    epoch: self.answer.epoch,
                    session: self.answer.session,
                    at: clock::rfc3339_ms(clock::now()),
                    operator_version: env!("CARGO_PKG_VERSION").to_owned(),
                    highest_revision,
                    highest_command_id,
                    listing_sha256: inbox.listing_sha256(),
                    ..Heartbeat::default()
                }
            };
            // A heartbeat that is lost is followed by another.
            let payload = message::to_json(&heartbeat).into();
            drop(self.connection.client.publish(subjects::heartbeat(cluster), payload).await);
        }
    }

    async fn send_listing(&self) {
        if self.answer.listing_wanted
            && let Err(error) = listing::send(self.shared, self.connection, self.answer.session).await
        {
            note(self.shared, &error);
        }
    }
}
