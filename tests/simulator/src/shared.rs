//! What the process of a simulated cluster shares with its owner.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kubenova_bus::Settings;
use kubenova_operator::join::identity::Identity;
use tokio::sync::watch;

use crate::inbox::Inbox;

/// How a simulated cluster behaves.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Time between pings of the broker.
    pub ping: Duration,
}

impl Default for Options {
    /// As the Operators of scenarios: short, because tests wait for them.
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(2), ping: Duration::from_secs(2) }
    }
}

/// When a running Operator came to a point for the first time since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moments {
    /// Connected to the broker.
    pub connected: Option<Instant>,
    /// Its hello was answered.
    pub in_session: Option<Instant>,
    /// A command was applied.
    pub applied: Option<Instant>,
}

/// What the running process shares with its owner.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) bus: Mutex<Settings>,
    pub(crate) options: Options,
    pub(crate) inbox: Mutex<Inbox>,
    /// What is stored stays `running`.
    pub(crate) holds: AtomicBool,
    /// Number of the open session.
    pub(crate) session: watch::Sender<Option<u64>>,
    /// Why there is none.
    pub(crate) last_error: watch::Sender<String>,
    /// How often the running process has connected to the broker. Its own receiver: a client would be kept alive by a clone.
    pub(crate) connects: Mutex<Option<watch::Receiver<u64>>>,
    /// How long the answer to the last accepted hello took.
    pub(crate) hello_took: watch::Sender<Option<Duration>>,
    pub(crate) moments: watch::Sender<Moments>,
}

impl Shared {
    pub(crate) fn holds(&self) -> bool {
        self.holds.load(Ordering::SeqCst)
    }

    /// How often the running process has connected.
    pub(crate) fn connects(&self) -> MutexGuard<'_, Option<watch::Receiver<u64>>> {
        self.connects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the running process connects, or the next one will.
    pub(crate) fn bus(&self) -> MutexGuard<'_, Settings> {
        self.bus.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a moment, unless it was there before.
    pub(crate) fn note(&self, moment: impl FnOnce(&mut Moments) -> &mut Option<Instant>) {
        self.moments.send_if_modified(|moments| {
            let moment = moment(moments);
            let is_first = moment.is_none();
            moment.get_or_insert_with(Instant::now);
            is_first
        });
    }

    /// The API server in memory. It is never held across an await.
    pub(crate) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
