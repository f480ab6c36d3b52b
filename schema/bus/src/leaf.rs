//! A leaf node between a client and the hub: a server that takes the client's messages and passes them on while it has a connection to the
//! hub.
//!
//! The client's own connection says nothing of the second one. So the hub is asked by way of the leaf node before a connection counts as
//! made, and again and again while it stands: a leaf node that has lost its hub is a connection that is down, and one that has found it
//! again is a reconnect, because the pulls and subscriptions that the hub had are gone. Before it: [`crate::connection`].

use crate::BusError;
use async_nats::{Client, RequestErrorKind, connection::State};
use bytes::Bytes;
use std::{path::PathBuf, time::Duration};
use tokio::{sync::watch, task::JoinHandle};

/// How a leaf node is reached. It lets the cluster in by its nkey.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// `tls://host:port`.
    pub url: String,
    /// PEM file of the CAs that may have signed its certificate, read again at every connection attempt.
    pub ca: PathBuf,
    /// Subject that only the hub answers: where nothing passes it on, a leaf node says at once that it has no responder.
    pub asks: String,
}

/// Time for the hub's answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Time for a leaf node to connect to the hub: it tries every five seconds.
const HUB_WITHIN: Duration = Duration::from_secs(10);
/// Time between questions while the hub is not reached. The leaf node itself answers them.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Questions without any answer after which the hub counts as lost: one answer may get lost while it restarts.
const SILENT_MAX: u32 = 2;

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The hub answers.
    Hub,
    /// The leaf node says that there is no responder.
    NoResponder,
    /// Nothing in time.
    Silence,
}

impl Answer {
    const fn problem(self) -> &'static str {
        match self {
            Self::NoResponder => "it has no connection to the hub, or the hub lets this cluster ask nothing",
            Self::Hub | Self::Silence => "the hub does not answer",
        }
    }
}

pub(crate) fn is_connected(client: &Client) -> bool {
    client.connection_state() == State::Connected
}

async fn ask(client: &Client, leaf: &Leaf) -> Answer {
    match tokio::time::timeout(ANSWER_WITHIN, client.request(leaf.asks.clone(), Bytes::new())).await {
        Ok(Ok(_)) => Answer::Hub,
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => Answer::NoResponder,
        Ok(Err(_)) | Err(_) => Answer::Silence,
    }
}

/// Asks until the hub answers.
///
/// # Errors
/// When it does not within [`HUB_WITHIN`].
pub(crate) async fn wait_for_hub(client: &Client, leaf: &Leaf) -> Result<(), BusError> {
    let mut last = Answer::Silence;
    let answered = async {
        loop {
            last = ask(client, leaf).await;
            if last == Answer::Hub {
                return;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    let answered = tokio::time::timeout(HUB_WITHIN, answered).await;
    answered.map_err(|_| without_hub(leaf, last))
}

fn without_hub(leaf: &Leaf, answer: Answer) -> BusError {
    BusError::LeafWithoutHub { url: leaf.url.clone(), problem: answer.problem() }
}

/// Whether the hub is reached by way of the leaf node, as of the last question.
#[derive(Debug)]
pub(crate) struct HubWatch {
    leaf: Leaf,
    is_reached: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Drop for HubWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HubWatch {
    /// Of a connection by which the hub has just answered.
    pub(crate) fn start(
        client: Client,
        leaf: &Leaf,
        every: Duration,
        connects: watch::Sender<u64>,
        last_error: watch::Sender<Option<String>>,
    ) -> Self {
        let (sender, is_reached) = watch::channel(true);
        let reports = Reports { is_reached: sender, connects, last_error };
        let task = tokio::spawn(keep_asking(client, leaf.clone(), every, reports));
        Self { leaf: leaf.clone(), is_reached, task }
    }

    /// Asks once.
    pub(crate) async fn check(&self, client: &Client) -> Result<(), BusError> {
        match ask(client, &self.leaf).await {
            Answer::Hub => Ok(()),
            answer => Err(without_hub(&self.leaf, answer)),
        }
    }

    pub(crate) fn is_reached(&self) -> bool {
        *self.is_reached.borrow()
    }
}

/// Where it is said that the hub was lost or found.
struct Reports {
    is_reached: watch::Sender<bool>,
    connects: watch::Sender<u64>,
    last_error: watch::Sender<Option<String>>,
}

impl Reports {
    fn lost(&self, answer: Answer) {
        if self.is_reached.send_replace(false) {
            let problem = answer.problem();
            tracing::warn!(problem, "lost the hub behind the leaf node");
            self.last_error.send_replace(Some(format!("the leaf node was reached, but not the hub: {problem}")));
        }
    }

    fn found(&self) {
        if !self.is_reached.send_replace(true) {
            tracing::info!("reached the hub behind the leaf node again");
            self.last_error.send_replace(None);
            self.connects.send_modify(|count| *count += 1);
        }
    }
}

async fn keep_asking(client: Client, leaf: Leaf, every: Duration, reports: Reports) {
    let mut silent = 0;
    loop {
        let is_reached = *reports.is_reached.borrow();
        tokio::time::sleep(if is_reached { every } else { ASK_AGAIN }).await;
        // Without the leaf node nothing is known of the hub, and the client reports that itself.
        if !is_connected(&client) {
            continue;
        }
        match ask(&client, &leaf).await {
            Answer::Hub => {
                silent = 0;
                reports.found();
            }
            Answer::Silence if silent + 1 < SILENT_MAX => silent += 1,
            answer => reports.lost(answer),
        }
    }
}
