//! The clients of a campaign: started and stopped as a whole, with one history over all rounds.

use anyhow::{Context as _, Result};
use kubenova_scenarios::rest::Rest;
use kubenova_scenarios::writers::{Accepted, LossWindow, Writer};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::history::History;

/// Clients that write at once, each to clusters of its own.
const CLIENTS: usize = 4;

type Running = JoinHandle<(Writer, Result<Vec<Accepted>>)>;

/// All clients.
#[derive(Debug)]
pub(crate) struct Writing {
    idle: Vec<Writer>,
    running: Vec<Running>,
    stop: watch::Sender<bool>,
    /// When what they write may be lost with the database.
    pub(crate) window: LossWindow,
    /// What was accepted, in order for each application.
    pub(crate) accepted: Vec<Accepted>,
}

impl Writing {
    /// Clients of one tenant that share its clusters.
    pub(crate) fn new(rest: &Rest, tenant: &str, clusters: &[String], seed: u64) -> Self {
        let count = CLIENTS.min(clusters.len());
        let window = LossWindow::default();
        let client = |index: usize| {
            let own = clusters.iter().skip(index).step_by(count).cloned().collect();
            Writer::new(rest, tenant, own, seed, index as u64 + 1).with_window(&window)
        };
        let idle = (0..count).map(client).collect();
        Self { idle, running: Vec::new(), stop: watch::Sender::new(false), window, accepted: Vec::new() }
    }

    /// Lets them write.
    pub(crate) fn start(&mut self) {
        self.stop.send_replace(false);
        let start = |mut writer: Writer| {
            let stop = self.stop.subscribe();
            tokio::spawn(async move {
                let accepted = writer.write_until(stop).await;
                (writer, accepted)
            })
        };
        self.running = self.idle.drain(..).map(start).collect();
    }

    /// Lets each end the write it is at.
    pub(crate) async fn stop(&mut self, history: &mut History) -> Result<()> {
        self.stop.send_replace(true);
        for running in std::mem::take(&mut self.running) {
            let (writer, accepted) = running.await.context("a client panicked")?;
            let accepted = accepted.context("a write was not accepted")?;
            history.accepted(&accepted)?;
            self.accepted.extend(accepted);
            self.idle.push(writer);
        }
        Ok(())
    }
}
