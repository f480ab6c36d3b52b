//! The settings file: YAML (or JSON), camelCase, read once. Unknown keys fail; secrets come from files and are not shown.
//!
//! Paths in it are relative to the file itself. Before it: `main.rs`. After it: `wiring.rs` hands each part only what it
//! needs.

mod addresses;
mod ranges;

use anyhow::{Context as _, Result, anyhow, bail};
use kubenova_core::cluster::{Component, ComponentName, Components};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// The settings file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// The database.
    pub database: Database,
    /// File with the key-encryption key: 32 bytes in base64. `init` creates it when there are no keys yet.
    pub kek_file: PathBuf,
    /// Addresses of REST and enrollment, TLS. An inherited socket (`KUBENOVA_LISTEN_FD`) is used instead of them.
    #[serde(default = "defaults::listen")]
    pub listen: Vec<SocketAddr>,
    /// DNS names and IP addresses in the certificates of Manager and broker.
    pub public_names: Vec<String>,
    /// `https://` URLs of the Manager, as clusters reach it; enrollment tokens contain them.
    pub endpoints: Vec<String>,
    /// The Operator's chart, as the `helm install` command that REST answers names it.
    #[serde(default = "defaults::chart")]
    pub chart: String,
    /// Trust domain of every SPIFFE id.
    #[serde(default = "defaults::trust_domain")]
    pub trust_domain: String,
    /// Folder for the Manager's own client certificate; it may be empty at every start.
    #[serde(default)]
    pub state_dir: Option<PathBuf>,
    /// The broker.
    pub nats: Nats,
    /// Lifetimes of identities.
    #[serde(default)]
    pub lifetimes: Lifetimes,
    /// Intervals of periodic work.
    #[serde(default)]
    pub intervals: Intervals,
    /// How long what has ended is kept.
    #[serde(default)]
    pub retention: Retention,
    /// Components of new clusters for which the request names none.
    #[serde(default)]
    pub components: Option<ComponentSettings>,
    /// Metering.
    #[serde(default)]
    pub usage: Usage,
    /// Logs.
    #[serde(default)]
    pub log: Log,
    /// Metrics.
    #[serde(default)]
    pub metrics: MetricsSettings,
    /// Traces.
    #[serde(default)]
    pub tracing: TracingSettings,
}

/// The database.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Database {
    /// `postgres://` URL. It may contain a password, then `urlFile` is better.
    #[serde(default)]
    pub url: Option<SecretString>,
    /// File with the URL.
    #[serde(default)]
    pub url_file: Option<PathBuf>,
    /// Maximum number of connections of this Manager.
    #[serde(default = "defaults::connections_max")]
    pub connections_max: u32,
}

/// The broker.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Nats {
    /// `tls://host:port` as the Manager reaches it.
    pub urls: Vec<String>,
    /// `tls://host:port`, `wss://host[:port][/path]` and `grpcs://host[:port]` (the bridge) as clusters reach it; those of the Manager
    /// when empty.
    #[serde(default)]
    pub public_urls: Vec<String>,
    /// `host:port` that `nats config` has it listen on; port 0 is any free one.
    #[serde(default = "defaults::nats_listen")]
    pub listen: String,
    /// `host:port` that `nats config` has it listen on for WebSockets; none by default.
    #[serde(default)]
    pub websocket_listen: Option<String>,
    /// `host:port` that `nats config` has it listen on for leaf nodes of clusters; none by default.
    #[serde(default)]
    pub leaf_listen: Option<String>,
    /// `tls://host:port`, or else `wss://host[:port]`, at which leaf nodes of clusters reach the hub: part of what a cluster is given with its
    /// credentials.
    #[serde(default)]
    pub leaf_public_urls: Vec<String>,
    /// `host:port` of its HTTP monitor, which has no access control; none by default.
    #[serde(default)]
    pub monitor: Option<SocketAddr>,
    /// Seconds between pings, on both sides.
    #[serde(default = "defaults::ping_interval_seconds")]
    pub ping_interval_seconds: u64,
}

/// Lifetimes of identities, in seconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Lifetimes {
    /// A cluster's certificate.
    pub certificate_seconds: u64,
    /// A cluster's user JWT.
    pub user_jwt_seconds: u64,
    /// An enrollment token.
    pub enrollment_token_seconds: u64,
    /// Certificates of Manager, broker and read-only users of the `nats` CLI; the Manager renews its own.
    pub server_seconds: u64,
}

/// Intervals of periodic work, in milliseconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Intervals {
    /// A cluster without a heartbeat for this long is out of session.
    pub heartbeat_stale_ms: u64,
    /// A command that is not acknowledged is sent again after this.
    pub resend_after_ms: u64,
    /// A command that is acknowledged and whose cluster has reported nothing new about it is sent again after this, so that
    /// the cluster reports again.
    pub report_again_after_ms: u64,
    /// Longest time between two rounds of the relay.
    pub poll_ms: u64,
}

/// How long what has ended is kept, in days. Responses of idempotency keys are kept for a day, which REST documents.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retention {
    /// Commands that have ended, and confirmations of deletes that have expired. The newest command that a cluster stored about each
    /// object stays, whatever its age.
    pub commands_days: u64,
    /// Records of the audit log.
    pub audit_days: u64,
    /// Messages of clusters that can never be handled.
    pub dead_letters_days: u64,
    /// Attempts to use an enrollment token.
    pub enrollment_attempts_days: u64,
    /// Refused hellos of clusters that have none newer.
    pub refused_hellos_days: u64,
}

/// Metering.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Usage {
    /// Length of the windows that clusters report.
    pub window_seconds: u32,
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

/// Metrics.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MetricsSettings {
    /// Address of the Prometheus endpoint `/metrics`: plain HTTP without access control. `null` switches it off.
    pub listen: Option<SocketAddr>,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { listen: Some(SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, METRICS_PORT))) }
    }
}

/// Traces.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TracingSettings {
    /// `http://` URL of an OTLP collector, such as `http://127.0.0.1:4318`. Without it that of the environment variable
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`; without both, no spans are sent.
    pub otlp_endpoint: Option<String>,
}

/// Port of the metrics listener when the settings name none: beside Prometheus' own exporters (9100 and up).
const METRICS_PORT: u16 = 9464;

/// Components of new clusters.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ComponentSettings {
    /// Capsule: isolates tenants from each other.
    pub capsule: ComponentSetting,
    /// Capsule Proxy: shows each tenant its own part of the API.
    pub capsule_proxy: ComponentSetting,
    /// KubeVela: runs applications.
    pub kubevela: ComponentSetting,
}

/// One component.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ComponentSetting {
    /// Whether it is installed.
    pub enabled: bool,
    /// Version; empty means the one that the Operator was built for.
    pub version: String,
    /// Take over an installation that exists already.
    pub adopt: bool,
    /// Replicas of its controller.
    pub replicas: u32,
    /// Capsule Proxy only: the URL that kubeconfigs carry.
    #[serde(rename = "publicURL")]
    pub public_url: String,
}

mod defaults {
    use std::net::{Ipv6Addr, SocketAddr};

    pub(super) fn listen() -> Vec<SocketAddr> {
        vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8443))]
    }
    pub(super) fn chart() -> String {
        kubenova_api::state::CHART.to_owned()
    }
    pub(super) fn trust_domain() -> String {
        "kubenova.local".to_owned()
    }
    pub(super) fn connections_max() -> u32 {
        kubenova_store::pool::CONNECTIONS_MAX
    }
    pub(super) fn nats_listen() -> String {
        // Of both families: to nats-server, as to every program in Go, it means all addresses of the host.
        "0.0.0.0:4222".to_owned()
    }
    pub(super) fn ping_interval_seconds() -> u64 {
        20
    }
}

const DAY_SECONDS: u64 = 24 * 3600;

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            certificate_seconds: 14 * DAY_SECONDS,
            user_jwt_seconds: 14 * DAY_SECONDS,
            enrollment_token_seconds: 3 * DAY_SECONDS,
            server_seconds: 90 * DAY_SECONDS,
        }
    }
}

impl Default for Intervals {
    fn default() -> Self {
        Self { heartbeat_stale_ms: 45_000, resend_after_ms: 30_000, report_again_after_ms: 600_000, poll_ms: 500 }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            commands_days: 90,
            // Where the law asks for accounts of who did what, it asks for up to ten years.
            audit_days: 3650,
            // Who looks for why a report was lost, or a cluster did not join, looks within days.
            dead_letters_days: 30,
            enrollment_attempts_days: 30,
            refused_hellos_days: 30,
        }
    }
}

impl Default for Usage {
    fn default() -> Self {
        Self { window_seconds: 3600 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), json: true }
    }
}

impl Default for ComponentSetting {
    fn default() -> Self {
        let plain = Component::default();
        Self {
            enabled: plain.enabled,
            version: plain.version,
            adopt: plain.adopt,
            replicas: plain.replicas,
            public_url: plain.public_url,
        }
    }
}

impl ComponentSettings {
    /// The components as core checks them.
    ///
    /// # Errors
    /// When a value is invalid.
    pub fn to_core(&self) -> Result<Components> {
        let one = |setting: &ComponentSetting, name: ComponentName| -> Result<Component> {
            let component = Component {
                enabled: setting.enabled,
                version: setting.version.clone(),
                adopt: setting.adopt,
                replicas: setting.replicas,
                public_url: setting.public_url.clone(),
                ..Component::default()
            };
            component.check(name, &format!("/components/{}", name.field())).context("settings are not valid")?;
            Ok(component)
        };
        Ok(Components {
            capsule: one(&self.capsule, ComponentName::Capsule)?,
            capsule_proxy: one(&self.capsule_proxy, ComponentName::CapsuleProxy)?,
            kubevela: one(&self.kubevela, ComponentName::KubeVela)?,
        })
    }
}

impl Settings {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, has an unknown key, or a value is invalid.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("could not read the settings {}: name them with --config", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text, folder).with_context(|| format!("settings {} are not valid", path.display()))
    }

    /// Reads the text of a file in this folder.
    ///
    /// # Errors
    /// When it has an unknown key, or a value is invalid.
    pub fn parse(text: &str, folder: &Path) -> Result<Self> {
        // Without the surrounding lines: one of them may contain the database's password.
        let mut settings: Self =
            serde_saphyr::from_str(text).map_err(|error| anyhow!("{}", error.without_snippet()))?;
        for path in
            [&mut settings.kek_file].into_iter().chain(&mut settings.state_dir).chain(&mut settings.database.url_file)
        {
            *path = folder.join(&*path);
        }
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<()> {
        if self.database.url.is_some() == self.database.url_file.is_some() {
            bail!("set exactly one of database.url and database.urlFile");
        }
        addresses::check(self)?;
        ranges::check(self)
    }

    /// The database's URL.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn database_url(&self) -> Result<SecretString> {
        match (&self.database.url, &self.database.url_file) {
            (Some(url), _) => Ok(url.clone()),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("could not read database.urlFile {}", path.display()))?;
                Ok(text.trim().to_owned().into())
            }
            (None, None) => bail!("set exactly one of database.url and database.urlFile"),
        }
    }

    /// URLs of the broker, as clusters reach it.
    #[must_use]
    pub fn cluster_broker_urls(&self) -> &[String] {
        if self.nats.public_urls.is_empty() { &self.nats.urls } else { &self.nats.public_urls }
    }

    /// Opens the store. Nothing connects yet.
    ///
    /// # Errors
    /// When the URL is not a `postgres://` URL.
    pub fn store(&self) -> Result<kubenova_store::pool::Store> {
        let url = self.database_url()?;
        Ok(kubenova_store::pool::Store::open(url.expose_secret(), self.database.connections_max)?)
    }

    /// Opens the store of a database that this very release prepared: with another one, statements would fail with errors of
    /// SQL.
    ///
    /// # Errors
    /// When the URL is not a `postgres://` URL, no connection can be made, or the database has other migrations than this release.
    pub async fn connect(&self) -> Result<kubenova_store::pool::Store> {
        let store = self.reach().await?;
        store.check_migrations().await?;
        Ok(store)
    }

    /// Opens the store, and applies the migrations that its database lacks.
    ///
    /// # Errors
    /// When the URL is not a `postgres://` URL, no connection can be made, or the database is newer than this release.
    pub async fn connect_and_migrate(&self) -> Result<kubenova_store::pool::Store> {
        let store = self.reach().await?;
        store.migrate().await?;
        Ok(store)
    }

    /// Makes a connection, so that a database that cannot be reached is reported as what it is.
    async fn reach(&self) -> Result<kubenova_store::pool::Store> {
        let store = self.store()?;
        store.connect().await?;
        Ok(store)
    }
}

impl Lifetimes {
    /// A cluster's certificate.
    #[must_use]
    pub const fn certificate(&self) -> Duration {
        Duration::from_secs(self.certificate_seconds)
    }

    /// A cluster's user JWT.
    #[must_use]
    pub const fn user_jwt(&self) -> Duration {
        Duration::from_secs(self.user_jwt_seconds)
    }

    /// Certificates of Manager, broker and read-only users of the `nats` CLI.
    #[must_use]
    pub const fn server(&self) -> Duration {
        Duration::from_secs(self.server_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const SMALLEST: &str = "
database: { urlFile: db.url }
kekFile: kek
publicNames: [manager.example]
endpoints: ['https://manager.example:8443']
nats: { urls: ['tls://hub.example:4222'] }
";

    pub(super) fn parse(text: &str) -> Result<Settings> {
        Settings::parse(text, Path::new("/etc/kubenova"))
    }

    #[test]
    fn the_smallest_file_has_the_designs_defaults() {
        let settings = parse(SMALLEST).unwrap();
        assert_eq!(settings.kek_file, Path::new("/etc/kubenova/kek"));
        assert_eq!(settings.lifetimes.certificate(), Duration::from_secs(14 * 86_400));
        assert_eq!(settings.intervals.heartbeat_stale_ms, 45_000);
        assert_eq!(settings.metrics.listen, Some("127.0.0.1:9464".parse().unwrap()));
        assert_eq!(settings.cluster_broker_urls(), ["tls://hub.example:4222"]);
    }

    #[test]
    fn unknown_keys_and_impossible_values_fail() {
        for extra in ["metrics: { listen: here }", "colour: red", "lifetimes: { userJwtSecond: 1 }", "listen: [here]"] {
            assert!(parse(&format!("{SMALLEST}{extra}\n")).is_err(), "{extra}");
        }
        assert!(parse(&SMALLEST.replace("urlFile: db.url", "url: 'postgres://a', urlFile: b")).is_err());
    }

    #[test]
    fn metrics_can_be_switched_off() {
        assert_eq!(parse(&format!("{SMALLEST}metrics: {{ listen: null }}\n")).unwrap().metrics.listen, None);
    }

    #[test]
    fn secrets_are_not_shown() {
        let settings = parse(&SMALLEST.replace("urlFile: db.url", "url: 'postgres://ann:hush@db/x'")).unwrap();
        assert!(!format!("{settings:?}").contains("hush"));
        let text =
            SMALLEST.replace("urlFile: db.url", "url: 'postgres://ann:hush@db/x'").replace("kekFile", "kekFiles");
        let error = format!("{:#}", parse(&text).unwrap_err());
        assert!(error.contains("kekFiles") && !error.contains("hush"), "{error}");
    }

    #[tokio::test]
    async fn a_command_says_which_is_newer_when_the_database_is_of_another_release() {
        let database = kubenova_test_postgres::Database::new().await;
        let url = format!("url: '{}'", database.url());
        let settings = parse(&SMALLEST.replace("urlFile: db.url", &url)).unwrap();
        settings.connect().await.unwrap();
        for (change, told) in [
            (
                "insert into _sqlx_migrations values (9999, 'next', now(), true, '', 0)",
                "the database is newer than this",
            ),
            (
                "delete from _sqlx_migrations where version = 9999
                    or version = (select max(version) from _sqlx_migrations where version < 9999)",
                "this kubenova-manager is newer than the database",
            ),
            ("update _sqlx_migrations set checksum = ''", "migration 1 is not the same"),
            ("drop table _sqlx_migrations", "the database was not prepared: run kubenova-manager init"),
        ] {
            database.execute(change).await;
            let error = settings.connect().await.unwrap_err().to_string();
            assert!(error.starts_with(told), "{error}");
        }
    }

    #[test]
    fn the_example_is_valid() {
        let example = include_str!("../../deploy/nats/manager.example.yaml");
        parse(example).unwrap();
    }
}
