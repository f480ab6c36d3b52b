//! `bridge.yaml`, read once. Unknown keys fail; paths are relative to the file.

use anyhow::{Context as _, Result, anyhow, bail};
use kubenova_bus::{
    bridge::KEEPALIVE_INTERVAL,
    tls::Files,
    transport::{BrokerUrl, Transport},
};
use serde::Deserialize;
use std::{
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// The settings file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Where clusters connect.
    #[serde(default = "listen")]
    pub listen: SocketAddr,
    /// Certificates.
    pub tls: TlsSettings,
    /// Trust domain of clusters' SPIFFE ids, as in the Manager's settings.
    #[serde(default = "trust_domain")]
    pub trust_domain: String,
    /// The broker.
    pub nats: Nats,
    /// Sessions at once. One costs two sockets and at most 2 MB while both sides are slow.
    #[serde(default = "sessions_max")]
    pub sessions_max: usize,
    /// Seconds within which the sessions end once a stop is requested, spread over them.
    #[serde(default = "drain_seconds")]
    pub drain_seconds: u64,
    /// Seconds between HTTP/2 pings on each connection. Load balancers forget what is quiet for longer.
    #[serde(default = "keepalive_seconds")]
    pub keepalive_seconds: u64,
    /// Unix socket for probes; none without.
    #[serde(default)]
    pub probe_socket: Option<PathBuf>,
    /// Metrics.
    #[serde(default)]
    pub metrics: MetricsSettings,
    /// Logs.
    #[serde(default)]
    pub log: Log,
}

/// Certificates: PEM files, read again when they change.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsSettings {
    /// The Manager's authority: of the clusters, and of the broker.
    pub ca_file: PathBuf,
    /// The bridge's own certificate, for clusters and for the broker.
    pub certificate_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
}

/// The broker.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Nats {
    /// `tls://host:port`; each session takes the first that works.
    pub urls: Vec<String>,
}

/// Metrics.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MetricsSettings {
    /// Address of the Prometheus endpoint `/metrics`: plain HTTP without access control. None: no metrics are served.
    pub listen: Option<SocketAddr>,
}

/// Logs.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Log {
    /// A tracing filter; `RUST_LOG` wins.
    pub filter: String,
    /// True: one JSON object a line. False: text.
    pub json: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), json: true }
    }
}

const fn listen() -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 8444)
}

fn trust_domain() -> String {
    "kubenova.local".to_owned()
}

/// Two thousand sessions with both sides slow are 4 GB; usually they are idle, and about 110 KB each, as `cargo dev bench
/// bridge-sessions` measures.
const fn sessions_max() -> usize {
    2_000
}

/// Less than the 30 seconds that Kubernetes gives a pod by default.
const fn drain_seconds() -> u64 {
    20
}

const fn keepalive_seconds() -> u64 {
    KEEPALIVE_INTERVAL.as_secs()
}

impl Settings {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, has an unknown key, or a value is invalid.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!("could not read the bridge's settings {}: name them with --config", path.display())
        })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text, folder).with_context(|| format!("the bridge's settings {} are not valid", path.display()))
    }

    /// Reads the text of a file in this folder.
    ///
    /// # Errors
    /// When it has an unknown key, or a value is invalid.
    pub fn parse(text: &str, folder: &Path) -> Result<Self> {
        let mut settings: Self =
            serde_saphyr::from_str(text).map_err(|error| anyhow!("{}", error.without_snippet()))?;
        let tls = &mut settings.tls;
        for path in [&mut tls.ca_file, &mut tls.certificate_file, &mut tls.key_file] {
            *path = folder.join(&*path);
        }
        if settings.broker_urls().len() != settings.nats.urls.len() || settings.nats.urls.is_empty() {
            bail!("nats.urls must be one or more tls://host:port: the broker accepts TLS only");
        }
        if settings.sessions_max == 0 || settings.keepalive_seconds == 0 {
            bail!("sessionsMax and keepaliveSeconds must be at least 1");
        }
        Ok(settings)
    }

    /// The broker's URLs.
    pub(crate) fn broker_urls(&self) -> Vec<BrokerUrl> {
        let read = self.nats.urls.iter().filter_map(|url| BrokerUrl::parse(url));
        read.filter(|url| url.transport == Transport::Nats).collect()
    }

    /// Time for the sessions to end.
    pub(crate) const fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }

    /// Time between HTTP/2 pings.
    pub(crate) const fn keepalive(&self) -> Duration {
        Duration::from_secs(self.keepalive_seconds)
    }

    /// What the listener needs to know.
    pub(crate) fn accepting(&self) -> crate::listener::Accepting {
        crate::listener::Accepting { trust_domain: self.trust_domain.clone(), sessions_max: self.sessions_max }
    }
}

impl TlsSettings {
    /// As a client of the broker, and as the server of clusters.
    pub(crate) fn files(&self) -> Files {
        Files { ca: self.ca_file.clone(), certificate: self.certificate_file.clone(), key: self.key_file.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = "
tls: { caFile: ca.crt, certificateFile: tls.crt, keyFile: tls.key }
nats: { urls: ['tls://hub.example:4222'] }
";

    fn parse(text: &str) -> Result<Settings> {
        Settings::parse(text, Path::new("/etc/kubenova/bridge"))
    }

    #[test]
    fn the_smallest_file_has_defaults() {
        let settings = parse(SMALLEST).unwrap();
        assert_eq!(settings.tls.key_file, Path::new("/etc/kubenova/bridge/tls.key"));
        assert_eq!((settings.listen.port(), settings.sessions_max, settings.drain_seconds), (8444, 2_000, 20));
    }

    #[test]
    fn the_example_is_valid() {
        parse(include_str!("../../../deploy/bridge/bridge.example.yaml")).unwrap();
    }

    #[test]
    fn unknown_keys_and_impossible_values_fail() {
        for (from, to) in [("nats:", "colour: red\nnats:"), ("tls://", "wss://"), ("['tls://hub.example:4222']", "[]")]
        {
            assert!(parse(&SMALLEST.replace(from, to)).is_err(), "{to}");
        }
        assert!(parse(&format!("{SMALLEST}sessionsMax: 0\n")).is_err());
        assert!(parse(&format!("{SMALLEST}keepaliveSeconds: 0\n")).is_err());
    }
}
