//! One simulated cluster: an identity, what its API server would hold, and a process that may be killed and started again.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use kubenova_bus::Settings;
use kubenova_operator::session::broker;
use kubenova_runtime::random;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::inbox::{Backup, Inbox};
use crate::shared::Shared;
pub use crate::shared::{Moments, Options};
use crate::{enroll, session};

/// A simulated cluster.
#[derive(Debug)]
pub struct SimulatedCluster {
    /// Its name at the Manager.
    pub name: String,
    shared: Arc<Shared>,
    process: Option<JoinHandle<()>>,
    term: u64,
    asked: u32,
}

impl SimulatedCluster {
    /// Enrolls with a token; the files that the broker's client wants are written below `folder`.
    ///
    /// # Errors
    /// When the Manager refuses the token.
    pub async fn enroll(name: &str, token: &str, folder: &Path, options: Options) -> Result<Self> {
        let (identity, asked) = enroll::enroll_counting(token).await?;
        let folder = folder.join(identity.cluster_id());
        let bus =
            broker::bus_settings(&identity, &folder, options.ping).map_err(|error| anyhow!("{}", error.message))?;
        let inbox = Mutex::new(Inbox::new(identity.cluster_id(), identity.cluster_uid()));
        let shared = Shared {
            identity,
            bus: Mutex::new(bus),
            options,
            inbox,
            holds: AtomicBool::new(false),
            session: watch::Sender::new(None),
            last_error: watch::Sender::new("not started".to_owned()),
            connects: Mutex::default(),
            hello_took: watch::Sender::new(None),
            moments: watch::Sender::default(),
        };
        Ok(Self { name: name.to_owned(), shared: Arc::new(shared), process: None, term: 0, asked })
    }

    /// Its id at the Manager.
    #[must_use]
    pub fn id(&self) -> &str {
        self.shared.identity.cluster_id()
    }

    /// Starts its Operator; one that runs is killed first.
    pub fn start(&mut self) {
        self.kill();
        self.term += 1;
        self.shared.moments.send_replace(Moments::default());
        let instance = session::Instance { boot_id: random::uuid_v4().to_string(), lease_term: self.term };
        self.process = Some(tokio::spawn(session::run(Arc::clone(&self.shared), instance)));
    }

    /// Ends its Operator at whatever it is doing. What the API server holds stays.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.abort();
        }
        self.shared.connects().take();
        self.shared.session.send_replace(None);
        self.shared.last_error.send_replace("killed".to_owned());
    }

    /// Puts a backup in the place of what its API server holds, as a restore of etcd does, and starts its Operator again.
    pub fn restore(&mut self, backup: Backup) {
        self.kill();
        self.inbox().restore(backup);
        self.start();
    }

    /// Whether commands stay `running` from now on. When they no longer do, those that are running go on at its next session.
    pub fn hold(&self, holds: bool) {
        self.shared.holds.store(holds, Ordering::SeqCst);
    }

    /// The number of its session, or why it has none.
    ///
    /// # Errors
    /// With the last reason when no session is open.
    pub fn session(&self) -> std::result::Result<u64, String> {
        let session = *self.shared.session.borrow();
        session.ok_or_else(|| self.shared.last_error.borrow().clone())
    }

    /// How often its running Operator has connected to the broker.
    #[must_use]
    pub fn connects(&self) -> u64 {
        self.shared.connects().as_ref().map_or(0, |count| *count.borrow())
    }

    /// How often it asked the Manager for an identity before it had one.
    #[must_use]
    pub const fn asked(&self) -> u32 {
        self.asked
    }

    /// How its Operator connects to the broker, with the credentials that it enrolled.
    #[must_use]
    pub fn bus_settings(&self) -> Settings {
        self.shared.bus().clone()
    }

    /// Has its Operator reach the broker by other URLs, from its next start on.
    pub fn reach_by(&self, urls: Vec<String>) {
        self.shared.bus().urls = urls;
    }

    /// When its running Operator came to each point.
    #[must_use]
    pub fn moments(&self) -> Moments {
        *self.shared.moments.borrow()
    }

    /// Waits until its running Operator has applied a command; when it came to each point.
    ///
    /// # Errors
    /// When it has applied none in time, with its last error.
    pub async fn applied(&self, within: Duration) -> Result<Moments> {
        let mut moments = self.shared.moments.subscribe();
        let applied = moments.wait_for(|moments| moments.applied.is_some());
        let waited = tokio::time::timeout(within, applied).await;
        let error = || format!("{} has applied nothing: {}", self.name, self.shared.last_error.borrow().clone());
        Ok(*waited.with_context(error)?.with_context(error)?)
    }

    /// How long the Manager took to answer the hello of its session.
    #[must_use]
    pub fn hello_took(&self) -> Option<Duration> {
        *self.shared.hello_took.borrow()
    }

    /// What its API server holds. Do not hold it across an await.
    pub fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.shared.inbox()
    }
}

impl Drop for SimulatedCluster {
    fn drop(&mut self) {
        self.kill();
    }
}
