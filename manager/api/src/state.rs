//! What every handler may use.

use crate::{body::BODY_TIMEOUT, write_slots::WriteSlots};
use jiff::{SignedDuration, Timestamp};
use kubenova_core::cluster::{Component, Components};
use kubenova_runtime::{clock, probe::Gates};
use kubenova_store::pool::Store;
use kubenova_trust::current::CurrentKeyring;
use std::{sync::Arc, time::Duration};

/// What every handler may use; cheap to clone.
#[derive(Debug, Clone)]
pub struct AppState {
    /// Postgres.
    pub store: Store,
    /// What the operator of this Manager decided.
    pub settings: Arc<Settings>,
    /// What this process waits for; shown by `/readyz`.
    pub gates: Gates,
    /// When this process began to receive heartbeats; that none arrived before means nothing.
    pub listening_since: Timestamp,
    /// [`crate::body::BODY_TIMEOUT`], or less in a test.
    pub body_timeout: Duration,
    /// Places for changes.
    pub writes: WriteSlots,
}

impl AppState {
    /// On this database, with settings that lead nowhere: for tests, and to serve the API where no cluster is.
    #[must_use]
    pub fn without_clusters(store: Store) -> Self {
        let enrollment = EnrollmentSettings {
            endpoints: vec!["https://manager.example.com".to_owned()],
            ca: PinnedCa::Nobodys,
            token_ttl: TOKEN_TTL,
            chart: "oci://example.com/operator".to_owned(),
        };
        Self {
            writes: WriteSlots::of_pool(store.connections_max()),
            store,
            settings: Arc::new(Settings { enrollment, components: default_components() }),
            gates: Gates::default(),
            listening_since: clock::now(),
            body_timeout: BODY_TIMEOUT,
        }
    }
}

/// What the operator of this Manager decided.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How clusters enroll.
    pub enrollment: EnrollmentSettings,
    /// The components of new clusters, unless the request names others.
    pub components: Components,
}

/// The CA that enrollment tokens pin.
#[derive(Debug, Clone)]
pub enum PinnedCa {
    /// The root of these keys, as it is when a token is made.
    Of(CurrentKeyring),
    /// One that no server has.
    Nobodys,
}

impl PinnedCa {
    /// Hex SHA-256 of its DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_sha256(&self) -> String {
        match self {
            Self::Of(keyring) => keyring.get().authority.ca_spki_sha256().to_owned(),
            Self::Nobodys => "0".repeat(64),
        }
    }
}

/// How clusters enroll.
#[derive(Debug, Clone)]
pub struct EnrollmentSettings {
    /// `https://` URLs that clusters call, tried in order.
    pub endpoints: Vec<String>,
    /// The CA that tokens pin.
    pub ca: PinnedCa,
    /// How long a fresh token works.
    pub token_ttl: SignedDuration,
    /// Chart reference in the helm command of an enrollment.
    pub chart: String,
}

/// Default life of an enrollment token (design §3).
pub const TOKEN_TTL: SignedDuration = SignedDuration::from_hours(72);

/// Default chart reference: the folder in this repository.
pub const CHART: &str = "deploy/helm/operator";

/// Default components of a new cluster: Capsule and KubeVela in the versions this release is tested
/// with; Capsule Proxy needs a URL first.
#[must_use]
pub fn default_components() -> Components {
    let on = |version: &str| Component { enabled: true, version: version.to_owned(), ..Component::default() };
    Components { capsule: on("0.14.0"), capsule_proxy: Component::default(), kubevela: on("1.10.9") }
}
