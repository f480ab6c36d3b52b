//! The raw stage of heartbeats: a client that receives what the Manager receives, and does nothing with it.
//!
//! It runs on a thread of its own, with a runtime of its own, so that its processor time is the thread's.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use futures::StreamExt as _;
use kubenova_bus::Settings;
use kubenova_schema::subjects;
use tokio::sync::oneshot;

use crate::processes;

/// A running consumer.
#[derive(Debug)]
pub(crate) struct NullConsumer {
    received: Arc<AtomicU64>,
    schedstat: PathBuf,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<()>>,
}

impl NullConsumer {
    /// Subscribes to every heartbeat.
    pub(crate) async fn start(settings: Settings) -> Result<Self> {
        let received: Arc<AtomicU64> = Arc::default();
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let counted = Arc::clone(&received);
        let thread = std::thread::Builder::new().name("null consumer".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(consume(settings, &counted, ready, stopped))
        })?;
        match is_ready.await {
            Ok(schedstat) => Ok(Self { received, schedstat, stop, thread }),
            Err(_) => Err(joined(thread).err().unwrap_or_else(|| anyhow!("the null consumer ended"))),
        }
    }

    /// Heartbeats so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Processor time so far.
    pub(crate) fn spent(&self) -> Result<Duration> {
        processes::of_thread(&self.schedstat)
    }

    /// Ends it.
    pub(crate) fn stop(self) -> Result<()> {
        // It may have ended, and says so below.
        drop(self.stop);
        joined(self.thread)
    }
}

fn joined(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().map_err(|_| anyhow!("the null consumer panicked"))?
}

async fn consume(
    settings: Settings,
    received: &AtomicU64,
    ready: oneshot::Sender<PathBuf>,
    mut stopped: oneshot::Receiver<()>,
) -> Result<()> {
    let connection = kubenova_bus::connect(settings).await.context("the null consumer could not connect")?;
    let mut heartbeats = connection.client.subscribe(subjects::every::HEARTBEAT).await?;
    connection.client.flush().await?;
    drop(ready.send(processes::this_thread()?));
    loop {
        tokio::select! {
            message = heartbeats.next() => {
                message.context("the null consumer's subscription ended")?;
                received.fetch_add(1, Ordering::Relaxed);
            }
            _ = &mut stopped => return Ok(()),
        }
    }
}
