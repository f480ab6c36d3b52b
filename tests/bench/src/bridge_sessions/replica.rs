//! One process of the bridge.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kubenova_env::manager::ManagerProcess;
use kubenova_env::process::Process;
use kubenova_env::sandbox::HUB_ADDRESS;
use kubenova_scenarios::platform::{HUB_HOST, HUB_PORT, Platform};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::processes;

/// Port of the replica that takes over.
pub(super) const SPARE_PORT: u16 = 9445;
/// Above each replica's own port.
const METRICS_ABOVE: u16 = 100;

/// A running bridge.
pub(super) struct Replica {
    process: ManagerProcess,
    metrics: SocketAddr,
}

impl Replica {
    /// Starts it with the settings that it has by default, and waits until it listens.
    pub(super) async fn start(platform: &Platform, name: &str, port: u16) -> Result<Self> {
        let at = |file: &str| platform.nats_folder.join(file);
        let metrics = SocketAddr::from(([127, 0, 0, 1], port + METRICS_ABOVE));
        let settings = json!({
            "listen": format!("{HUB_ADDRESS}:{port}"),
            "tls": { "caFile": at("ca.crt"), "certificateFile": at("tls/bridge.pem"), "keyFile": at("tls/bridge.key") },
            "nats": { "urls": [format!("tls://{HUB_HOST}:{HUB_PORT}")] },
            "metrics": { "listen": metrics },
        });
        let mut process = ManagerProcess::configure(&platform.sandbox, name, &settings.to_string())?;
        process.serve_bridge()?;
        process.wait_listening(format!("{HUB_ADDRESS}:{port}").parse().context("the bridge's address")?).await?;
        Ok(Self { process, metrics })
    }

    fn running(&mut self) -> Result<&mut Process> {
        self.process.process().context("the bridge was started")
    }

    /// Memory that is in RAM, in KiB.
    pub(super) fn kib(&mut self) -> Result<u64> {
        processes::memory(self.running()?.pid(), "VmRSS")
    }

    /// Its peak, in KiB.
    pub(super) fn peak_kib(&mut self) -> Result<u64> {
        processes::memory(self.running()?.pid(), "VmHWM")
    }

    /// Processor time so far.
    pub(super) fn spent(&mut self) -> Result<Duration> {
        processes::spent_by(self.running()?.pid())
    }

    /// Asks it to end, and waits; how long that took.
    pub(super) async fn stop(&mut self, within: Duration) -> Result<Duration> {
        let began = std::time::Instant::now();
        self.process.stop(within).await?;
        Ok(began.elapsed())
    }

    /// The sum of a metric over its labels.
    pub(super) async fn metric(&self, name: &str) -> Result<f64> {
        let mut stream = TcpStream::connect(self.metrics).await.context("the bridge's metrics")?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(sum(&text, name))
    }

    /// When it logged this of each cluster for the last time.
    pub(super) fn logged(&self, message: &str) -> Result<BTreeMap<String, Timestamp>> {
        Ok(moments(&self.process.log()?, message))
    }
}

/// The sum of a metric's lines.
fn sum(text: &str, name: &str) -> f64 {
    let is_of_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    let values = text.lines().filter(is_of_it).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    // Of nothing it is minus zero.
    values.sum::<f64>() + 0.0
}

/// When a log of JSON lines last has this message, by cluster.
fn moments(log: &str, message: &str) -> BTreeMap<String, Timestamp> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_it = lines.filter(|line| line["message"] == message || line["fields"]["message"] == message);
    let moment = |line: Value| {
        let field = |name: &str| line[name].as_str().or(line["fields"][name].as_str()).map(str::to_owned);
        Some((field("cluster.id")?, field("timestamp")?.parse().ok()?))
    };
    of_it.filter_map(moment).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_not_over_longer_names() {
        let text = "# HELP a help\na{x=\"1\"} 2\na{x=\"2\"} 3\nab 7\nc 5\n";
        assert_eq!((sum(text, "a"), sum(text, "c"), sum(text, "d")), (5.0, 5.0, 0.0));
    }

    #[test]
    fn the_last_moment_of_each_cluster_counts() {
        let line = |second: u8, cluster: &str, message: &str| {
            json!({ "timestamp": format!("2026-01-01T00:00:0{second}Z"), "message": message, "cluster.id": cluster })
                .to_string()
        };
        let log =
            [line(1, "a", "begins"), line(2, "a", "begins"), line(3, "a", "ended"), line(4, "b", "begins")].join("\n");
        let at = |second: u8| format!("2026-01-01T00:00:0{second}Z").parse().unwrap();
        assert_eq!(moments(&log, "begins"), BTreeMap::from([("a".to_owned(), at(2)), ("b".to_owned(), at(4))]));
    }
}
