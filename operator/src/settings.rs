//! `operator.yaml`, read once. Unknown keys fail; secrets are not in it but in files and Secrets it names.

use kubenova_bus::{
    dial::{
        Dialer, Target,
        proxy::{ProxyFiles, ProxySettings, ProxySettingsError},
    },
    transport::{BrokerUrl, TransportChoice},
};
use kubenova_crds::SYSTEM_NAMESPACE;
use kubenova_operator_core::tenant::limits::SiteLimits;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where probes connect by default.
pub const PROBE_SOCKET: &str = "/run/kubenova/probe.sock";

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Folder with one directory per chart.
    pub charts_dir: PathBuf,
    /// The helm program.
    pub helm: PathBuf,
    /// Namespace of inbox, usage, Lease and keys.
    pub state_namespace: String,
    pub usage: Usage,
    pub heartbeat_seconds: u64,
    pub nats: Nats,
    /// What may be spoken to the broker.
    pub transport: TransportChoice,
    /// A leaf node in front of the broker. None: there is none, and no files are written for one.
    pub leaf: Option<LeafSettings>,
    /// Files about the proxy that the environment names.
    pub proxy: ProxyPaths,
    pub lease: LeaseSettings,
    pub metrics: MetricsSettings,
    pub tracing: TracingSettings,
    /// Log filter, such as `info,kubenova_operator=debug`.
    pub log: String,
    /// What the site gives each tenant.
    pub tenants: TenantSettings,
    /// Logs as JSON, one object a line.
    pub log_json: bool,
    /// File with the enrollment token; may be absent once the cluster is enrolled.
    pub token_file: PathBuf,
    /// The sovereign policy.
    pub policy_file: PathBuf,
    /// Where probes connect.
    pub probe_socket: PathBuf,
    /// Where certificate files for the broker's client are written.
    pub work_dir: PathBuf,
    /// A command that is not Ready after this time has failed; its document is reconciled all the same.
    pub progress_deadline_seconds: u32,
    /// The Operator's own user name, as policies and roles know it.
    pub operator_user: String,
    /// The pod's UID, from `POD_UID`: holder of the Lease.
    #[serde(skip)]
    pub pod_uid: String,
    /// How Manager and broker are reached: `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY` and the files of [`ProxyPaths`].
    #[serde(skip)]
    pub dialer: Dialer,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProxyPaths {
    /// PEM file of the CAs that may have signed the certificate of an `https://` proxy. None: those of the image.
    pub ca_file: Option<PathBuf>,
    /// Folder with the files `username` and `password`, read for each connection. None: what the proxy's URL says.
    pub credentials: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeafSettings {
    /// `tls://host:port` as the Operator reaches it. Its certificate is made for this host.
    pub url: String,
    /// Whether it reaches the hub by the proxy that the Operator would use for that: it runs beside the Operator. (The Operator connects to
    /// the leaf node itself without a proxy in any case.)
    #[serde(default)]
    pub uses_proxy: bool,
}

impl LeafSettings {
    /// What the URL says; it was read once, so it can be read again.
    #[must_use]
    pub fn target(&self) -> Option<Target> {
        BrokerUrl::of_leaf(&self.url).map(|url| url.target)
    }
}

/// What the site gives each tenant, whatever the Manager says: [`SiteLimits`].
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TenantSettings {
    pub storage: String,
    pub storage_classes: BTreeMap<String, String>,
    pub ephemeral_storage: String,
    pub load_balancers: u32,
    pub metadata_addresses: Vec<String>,
}

impl TenantSettings {
    #[must_use]
    pub fn limits(&self) -> SiteLimits {
        let Self { storage, storage_classes, ephemeral_storage, load_balancers, metadata_addresses } = self.clone();
        SiteLimits { storage, storage_classes, ephemeral_storage, load_balancers, metadata_addresses }
    }
}

impl Default for TenantSettings {
    fn default() -> Self {
        let SiteLimits { storage, storage_classes, ephemeral_storage, load_balancers, metadata_addresses } =
            SiteLimits::default();
        Self { storage, storage_classes, ephemeral_storage, load_balancers, metadata_addresses }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Usage {
    pub window_seconds: u32,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Nats {
    /// Time between pings; two missed end the connection.
    pub ping_seconds: u64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LeaseSettings {
    /// Another pod takes over when the holder has not renewed for this long.
    pub duration_seconds: u32,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MetricsSettings {
    /// Address of the metrics listener, such as `[::]:9090`. None: no metrics are served.
    pub listen: Option<SocketAddr>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TracingSettings {
    /// `http://` URL of an OTLP collector. None: that of `OTEL_EXPORTER_OTLP_ENDPOINT`; without both, no spans are sent.
    pub otlp_endpoint: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            charts_dir: "/charts".into(),
            helm: "/usr/local/bin/helm".into(),
            state_namespace: SYSTEM_NAMESPACE.to_owned(),
            usage: Usage::default(),
            heartbeat_seconds: 15,
            nats: Nats::default(),
            transport: TransportChoice::default(),
            leaf: None,
            proxy: ProxyPaths::default(),
            lease: LeaseSettings::default(),
            metrics: MetricsSettings::default(),
            tracing: TracingSettings::default(),
            log: "info".to_owned(),
            tenants: TenantSettings::default(),
            log_json: true,
            token_file: "/var/run/kubenova/enrollment/token".into(),
            policy_file: "/etc/kubenova/policy/policy.yaml".into(),
            probe_socket: PROBE_SOCKET.into(),
            work_dir: "/tmp/kubenova".into(),
            progress_deadline_seconds: 600,
            operator_user: format!("system:serviceaccount:{SYSTEM_NAMESPACE}:kubenova-operator"),
            pod_uid: String::new(),
            dialer: Dialer::default(),
        }
    }
}

impl Default for Usage {
    fn default() -> Self {
        Self { window_seconds: 3600 }
    }
}

impl Default for Nats {
    fn default() -> Self {
        Self { ping_seconds: 15 }
    }
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self { duration_seconds: 15 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("could not open the file")]
    Open(#[source] std::io::Error),
    #[error("an unknown key or a wrong value")]
    Parse(#[source] Box<serde_saphyr::Error>),
    #[error("the environment names a proxy that cannot be used")]
    Proxy(#[source] ProxySettingsError),
    #[error("leaf.url must be tls://host:port, and is {0:?}")]
    LeafUrl(String),
    #[error("transport is leaf, and there is no leaf node: set leaf.url, or another transport")]
    NoLeaf,
    #[error("{0} must be at least {1}")]
    TooSmall(&'static str, u64),
}

impl Settings {
    /// Reads the file, the pod's UID, and what the environment says of proxies.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(path).map_err(SettingsError::Open)?;
        let mut settings = Self::parse(&text)?;
        let ProxyPaths { ca_file, credentials } = settings.proxy.clone();
        let proxy = ProxySettings::from_env(ProxyFiles { ca_file, credentials }).map_err(SettingsError::Proxy)?;
        settings.dialer = Dialer::new(proxy);
        settings.pod_uid = std::env::var("POD_UID")
            .ok()
            .filter(|uid| !uid.is_empty())
            .unwrap_or_else(|| kubenova_runtime::random::uuid_v4().to_string());
        Ok(settings)
    }

    fn parse(text: &str) -> Result<Self, SettingsError> {
        let settings: Self = serde_saphyr::from_str(text).map_err(|error| SettingsError::Parse(Box::new(error)))?;
        let at_least = |name, value: u64, least: u64| {
            if value < least { Err(SettingsError::TooSmall(name, least)) } else { Ok(()) }
        };
        at_least("usage.windowSeconds", u64::from(settings.usage.window_seconds), 1)?;
        at_least("heartbeatSeconds", settings.heartbeat_seconds, 1)?;
        at_least("nats.pingSeconds", settings.nats.ping_seconds, 1)?;
        at_least("lease.durationSeconds", u64::from(settings.lease.duration_seconds), 3)?;
        match &settings.leaf {
            Some(leaf) if leaf.target().is_none() => return Err(SettingsError::LeafUrl(leaf.url.clone())),
            None if settings.transport == TransportChoice::Leaf => return Err(SettingsError::NoLeaf),
            _ => {}
        }
        Ok(settings)
    }

    #[must_use]
    pub const fn heartbeat(&self) -> Duration {
        Duration::from_secs(self.heartbeat_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_s_file_is_read_and_the_rest_has_defaults() {
        let text = "chartsDir: /charts\nhelm: /usr/local/bin/helm\nstateNamespace: kubenova-system\nusage:\n  windowSeconds: 5\n\
                    heartbeatSeconds: 15\nnats:\n  pingSeconds: 15\nlog: \"info\"\n";
        let settings = Settings::parse(text).unwrap();
        assert_eq!(settings.usage.window_seconds, 5);
        assert_eq!((settings.progress_deadline_seconds, settings.metrics.listen), (600, None));
        let settings = Settings::parse("metrics:\n  listen: \"[::]:9090\"\n").unwrap();
        assert_eq!(settings.metrics.listen, Some(([0_u16; 8], 9090).into()));
        let settings = Settings::parse("transport: websocket\nproxy:\n  caFile: /etc/kubenova/proxy/ca.crt\n").unwrap();
        assert_eq!(settings.transport, TransportChoice::Websocket);
        assert_eq!(settings.proxy.ca_file.as_deref(), Some(Path::new("/etc/kubenova/proxy/ca.crt")));
        assert_eq!(Settings::parse("").unwrap().transport, TransportChoice::Auto);
        let settings = Settings::parse("transport: leaf\nleaf:\n  url: tls://leaf.example:4222\n").unwrap();
        assert_eq!(settings.leaf.unwrap().target().unwrap().to_string(), "leaf.example:4222");
        let settings = Settings::parse("tracing:\n  otlpEndpoint: \"http://collector:4318\"\n").unwrap();
        assert_eq!(settings.tracing.otlp_endpoint.as_deref(), Some("http://collector:4318"));
    }

    #[test]
    fn unknown_keys_and_impossible_numbers_fail() {
        assert!(matches!(Settings::parse("windowSecond: 5"), Err(SettingsError::Parse(_))));
        assert!(matches!(Settings::parse("transport: carrier"), Err(SettingsError::Parse(_))));
        assert!(matches!(Settings::parse("transport: leaf"), Err(SettingsError::NoLeaf)));
        assert!(matches!(Settings::parse("leaf: { url: wss://leaf }"), Err(SettingsError::LeafUrl(_))));
        assert!(matches!(Settings::parse("heartbeatSeconds: 0"), Err(SettingsError::TooSmall("heartbeatSeconds", 1))));
    }
}
