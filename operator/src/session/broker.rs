//! The connection to the broker: credentials as files, and a reason with a remedy when it fails.

use crate::{
    join::{conditions::JoinError, identity::Identity, reach},
    leaf,
    settings::Settings,
};
use kubenova_bus::{
    BusError, Connection, Credentials, cause::ConnectCause, connection, dial::Dialer, leaf::Leaf, route, tls::Files,
    transport::TransportChoice,
};
use kubenova_crds::cluster_config::condition;
use kubenova_runtime::{
    clock,
    file::{self, Readers},
    telemetry,
};
use kubenova_schema::subjects;
use std::{io, path::Path, time::Duration};

/// What becomes of credentials that the broker refuses.
const RENEWING: &str = "the Operator asks the Manager for new ones; what it answers is in the condition IdentityIssued";

const LEAF_WITHOUT_HUB: &str = "LeafWithoutHub";

/// Reasons for which an answer to a renewal may help: the broker refuses who connects, and not the connection, or the last answer named no
/// hub for the leaf node. A leaf node that the hub refuses, as it does for a cluster that was revoked, passes no reason on.
const RENEWABLE: [&str; 6] = [
    "CredentialsExpired",
    "CredentialsRevoked",
    "CertificateRefused",
    "CredentialsRefused",
    LEAF_WITHOUT_HUB,
    leaf::HUB_UNKNOWN,
];

/// Whether a renewal of the credentials may help.
pub(super) fn may_renewal_help(error: &JoinError) -> bool {
    RENEWABLE.contains(&error.reason.as_str())
}

/// Connects to the broker with the cluster's credentials.
///
/// # Errors
/// With the condition `BusConnected`, its reason and what to do.
pub async fn connect(settings: &Settings, identity: &Identity) -> Result<Connection, JoinError> {
    let bus = own_settings(settings, identity)?;
    connection::connect(bus).await.map_err(|error| connect_error(&error, identity))
}

/// The same by the way that the site wants, where one of another kind is in use.
pub(super) async fn connect_by_first_choice(settings: &Settings, identity: &Identity) -> Result<Connection, JoinError> {
    let bus = own_settings(settings, identity)?;
    connection::connect_by_first_choice(bus).await.map_err(|error| connect_error(&error, identity))
}

/// Why a connection that is down does not come back: the client reconnects by itself and does not tell.
pub(super) async fn diagnose(settings: &Settings, identity: &Identity) -> JoinError {
    let bus = match own_settings(settings, identity) {
        Ok(bus) => bus,
        Err(error) => return error,
    };
    match connection::check(&bus).await {
        Ok(()) => bus_error("Reconnecting", "the broker accepts connections; reconnecting"),
        Err(error) => connect_error(&error, identity),
    }
}

/// Why nothing answers on a connection that is up, when it is not the Manager that is silent.
pub(super) async fn unanswered(connection: &Connection, identity: &Identity) -> Option<JoinError> {
    connection.check_hub().await.err().map(|error| connect_error(&error, identity))
}

fn own_settings(settings: &Settings, identity: &Identity) -> Result<kubenova_bus::Settings, JoinError> {
    let ping_interval = Duration::from_secs(settings.nats.ping_seconds);
    let own = bus_settings(identity, &settings.work_dir, ping_interval)?;
    let leaf = own_leaf(settings, identity);
    Ok(kubenova_bus::Settings { transport: settings.transport, dialer: settings.dialer.clone(), leaf, ..own })
}

fn own_leaf(settings: &Settings, identity: &Identity) -> Option<Leaf> {
    settings.leaf.as_ref().map(|leaf| Leaf {
        url: leaf.url.clone(),
        ca: leaf::authority_file(&settings.work_dir),
        asks: subjects::durable_info(identity.cluster_id()),
    })
}

/// Whether there is another way to the broker when one fails.
pub(super) fn has_alternatives(settings: &Settings, identity: &Identity) -> bool {
    let leaf = own_leaf(settings, identity);
    route::count(settings.transport, &settings.dialer, &identity.answer.broker_urls, leaf.as_ref()) > 1
}

/// How a cluster connects, without a proxy and without a leaf node. The client library wants certificates as files: they are written into the folder.
///
/// # Errors
/// When they cannot be written.
pub fn bus_settings(
    identity: &Identity,
    folder: &Path,
    ping_interval: Duration,
) -> Result<kubenova_bus::Settings, JoinError> {
    let files = write_files(folder, identity).map_err(|error| {
        let folder = folder.display();
        bus_error(
            "FilesUnwritable",
            format!("could not write the broker's certificates into {folder}: {error}; make it writable"),
        )
    })?;
    let cluster = identity.cluster_id();
    Ok(kubenova_bus::Settings {
        urls: identity.answer.broker_urls.clone(),
        name: format!("kubenova-operator {cluster}"),
        leaf: None,
        transport: TransportChoice::Auto,
        dialer: Dialer::default(),
        discover_servers: false,
        files,
        credentials: Credentials { user_jwt: identity.answer.user_jwt.clone(), seed: identity.keys.nkey_seed.clone() },
        inbox_prefix: Some(subjects::inbox_prefix(cluster)),
        api_prefix: Some(subjects::API_PREFIX.to_owned()),
        ping_interval,
    })
}

/// The folder is in a volume that does not outlive the pod.
fn write_files(folder: &Path, identity: &Identity) -> io::Result<Files> {
    std::fs::create_dir_all(folder)?;
    let files = Files { ca: folder.join("ca.crt"), certificate: folder.join("tls.crt"), key: folder.join("tls.key") };
    let answer = &identity.answer;
    file::replace(&files.ca, answer.ca_bundle_pem.as_bytes(), Readers::Everybody)?;
    file::replace(&files.certificate, answer.certificate_chain_pem.as_bytes(), Readers::Everybody)?;
    file::replace(&files.key, identity.keys.tls_key_pem.as_bytes(), Readers::Owner)?;
    Ok(files)
}

fn connect_error(error: &BusError, identity: &Identity) -> JoinError {
    let expired = identity.life().is_some_and(|life| life.has_ended(clock::now()));
    let (reason, remedy) = explain(error.cause(), expired);
    bus_error(reason, format!("{}; {remedy}", telemetry::chain(error)))
}

/// Reason and remedy. A broker that refuses credentials rarely says why, so whether they have expired is decided here.
fn explain(cause: ConnectCause, expired: bool) -> (&'static str, String) {
    let (reason, remedy) = match cause {
        ConnectCause::NameNotFound => ("BrokerNameNotFound", "make the broker's name known to the cluster's DNS"),
        ConnectCause::Unreachable => ("BrokerUnreachable", "allow outbound TCP from kubenova-system to the broker"),
        ConnectCause::TimedOut => (
            "BrokerTimedOut",
            "check that the broker runs and that no firewall between kubenova-system and the broker drops packets",
        ),
        ConnectCause::BrokerCertificate => (
            "BrokerCertificateInvalid",
            "renew the broker's certificate at the Manager (kubenova-manager nats config), or correct this node's clock",
        ),
        ConnectCause::Tls => ("BrokerTlsFailed", "check that the broker's port speaks NATS with TLS"),
        ConnectCause::CredentialsExpired => {
            return ("CredentialsExpired", format!("they have expired; {RENEWING}"));
        }
        ConnectCause::CredentialsRevoked => {
            return ("CredentialsRevoked", format!("they were revoked; {RENEWING}"));
        }
        // A leaf node does not say why the hub does not let it in, and does not know JWTs.
        ConnectCause::ClientCertificate | ConnectCause::CredentialsRefused | ConnectCause::LeafWithoutHub
            if expired =>
        {
            return ("CredentialsExpired", format!("this cluster's credentials have expired; {RENEWING}"));
        }
        ConnectCause::ClientCertificate => {
            return (
                "CertificateRefused",
                format!("the broker does not accept this cluster's certificate; {RENEWING}"),
            );
        }
        ConnectCause::CredentialsRefused => {
            let why = "the broker does not accept this cluster's credentials: perhaps the cluster was revoked, or the broker lacks the accounts of this Manager";
            return ("CredentialsRefused", format!("{why}; {RENEWING}"));
        }
        ConnectCause::Unusable => {
            let remedy = "enroll this cluster again: create a token (POST /api/v1/clusters/<cluster>/enrollments) and set it with helm upgrade";
            return ("CredentialsUnusable", format!("the stored credentials are damaged; {remedy}"));
        }
        ConnectCause::UpgradeRefused => (
            "WebSocketRefused",
            "check the path of the broker's wss:// URL, and that what answers there passes WebSockets on to the broker",
        ),
        ConnectCause::NotNats => (
            "BrokerAnswerInvalid",
            "check that the broker's URL names its port, and that nothing between answers in its place or closes the connection",
        ),
        ConnectCause::BridgeCannotConnect => (
            "BridgeCannotConnect",
            "the bridge was reached and does not reach the broker: have the Manager's side check that the broker runs and that the bridge's settings name it (nats.urls)",
        ),
        ConnectCause::BridgeDraining => (
            "BridgeDraining",
            "this replica of the bridge stops; another one answers with the next attempt, unless there is none",
        ),
        ConnectCause::BridgeBusy => (
            "BridgeBusy",
            "have the Manager's side run more replicas of the bridge, or raise sessionsMax in its settings",
        ),
        ConnectCause::BridgeAnswer => (
            "BridgeAnswerInvalid",
            "check that the broker's grpcs:// URL names the bridge, and that what stands in front of it passes TLS and HTTP/2 on",
        ),
        ConnectCause::LeafUnreachable => (
            "LeafUnreachable",
            "check that the leaf node runs (kubectl -n kubenova-system get pods -l app.kubernetes.io/name=kubenova-leaf, or where leaf.url says) and that kubenova-system may connect to it",
        ),
        ConnectCause::LeafCertificate => (
            "LeafCertificateInvalid",
            "have the leaf node use the certificate of the Secret kubenova-leaf: give it the Secret's files and reload or restart it",
        ),
        ConnectCause::LeafRefused => (
            "LeafRefused",
            "the leaf node does not accept this cluster's nkey, so it runs with the files of an earlier enrollment or of another cluster: give it those of the Secret kubenova-leaf and restart it (kubectl -n kubenova-system rollout restart deployment/kubenova-leaf)",
        ),
        ConnectCause::LeafWithoutHub => (
            LEAF_WITHOUT_HUB,
            "the leaf node's log says why (kubectl -n kubenova-system logs deployment/kubenova-leaf -c nats): allow TCP from it to the hub's port for leaf nodes, and see that it has the files of the Secret kubenova-leaf; if the hub refuses this cluster, the condition IdentityIssued says so within a minute",
        ),
        ConnectCause::NoUrl => (
            "TransportUnavailable",
            "have the Manager name such a URL (nats.publicUrls in its settings), or set another `transport` in the chart",
        ),
        ConnectCause::ProxyNameNotFound => reach::PROXY_NAME_NOT_FOUND,
        ConnectCause::ProxyUnreachable => reach::PROXY_UNREACHABLE,
        ConnectCause::ProxyTls => reach::PROXY_TLS_FAILED,
        ConnectCause::ProxyFiles => reach::PROXY_FILES_UNUSABLE,
        ConnectCause::ProxyAuthenticationRequired => reach::PROXY_AUTHENTICATION_REQUIRED,
        ConnectCause::ProxyRefused => reach::PROXY_REFUSED,
        ConnectCause::ProxyCannotConnect => reach::PROXY_CANNOT_CONNECT,
        ConnectCause::ProxyAnswer => reach::PROXY_ANSWER_INVALID,
        ConnectCause::ProxyTimedOut => reach::PROXY_TIMED_OUT,
    };
    (reason, remedy.to_owned())
}

fn bus_error(reason: &str, message: impl Into<String>) -> JoinError {
    JoinError::new(condition::BUS_CONNECTED, reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_cause_has_its_own_reason_and_a_refusal_after_the_end_is_an_expiry() {
        let causes = [
            ConnectCause::NameNotFound,
            ConnectCause::Unreachable,
            ConnectCause::TimedOut,
            ConnectCause::BrokerCertificate,
            ConnectCause::ClientCertificate,
            ConnectCause::Tls,
            ConnectCause::CredentialsExpired,
            ConnectCause::CredentialsRevoked,
            ConnectCause::CredentialsRefused,
            ConnectCause::Unusable,
            ConnectCause::UpgradeRefused,
            ConnectCause::NotNats,
            ConnectCause::BridgeCannotConnect,
            ConnectCause::BridgeDraining,
            ConnectCause::BridgeBusy,
            ConnectCause::BridgeAnswer,
            ConnectCause::LeafUnreachable,
            ConnectCause::LeafCertificate,
            ConnectCause::LeafRefused,
            ConnectCause::LeafWithoutHub,
            ConnectCause::NoUrl,
            ConnectCause::ProxyNameNotFound,
            ConnectCause::ProxyUnreachable,
            ConnectCause::ProxyTls,
            ConnectCause::ProxyFiles,
            ConnectCause::ProxyAuthenticationRequired,
            ConnectCause::ProxyRefused,
            ConnectCause::ProxyCannotConnect,
            ConnectCause::ProxyAnswer,
            ConnectCause::ProxyTimedOut,
        ];
        let reasons: BTreeSet<&str> = causes.iter().map(|cause| explain(*cause, false).0).collect();
        assert_eq!(reasons.len(), causes.len());
        assert_eq!(explain(ConnectCause::CredentialsRefused, true).0, "CredentialsExpired");
        assert_eq!(explain(ConnectCause::ClientCertificate, true).0, "CredentialsExpired");
        assert_eq!(explain(ConnectCause::LeafWithoutHub, true).0, "CredentialsExpired");
        let behind_leaf = explain(ConnectCause::LeafWithoutHub, false);
        assert!(
            may_renewal_help(&bus_error(behind_leaf.0, behind_leaf.1)),
            "the leaf node does not say that a cluster was revoked"
        );
        assert_eq!(explain(ConnectCause::Unreachable, true).0, "BrokerUnreachable");
    }
}
