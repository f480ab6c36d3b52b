//! The session with the Manager: connect to the broker, say hello after every connect, keep what the answer says.
//!
//! Only with an open session does the Operator pull orders and report status; usage needs none. While there is no
//! session, `BusConnected` says why. Before this: `join`. After it: `inbound` and `outbound`.

pub mod hello;
pub mod state;

use crate::{
    join::{
        conditions::{ConditionSet, JoinError, StatusReporter},
        identity::Identity,
    },
    settings::Settings,
};
use hello::{HelloClient, Refused};
use kubenova_bus::{BusError, Connection, Credentials};
use kubenova_crds::cluster_config::condition;
use kubenova_runtime::{backoff, probe::Gates, shutdown::Shutdown, telemetry};
use kubenova_schema::subjects;
use state::Session;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// Where the session's parts are told.
#[derive(Debug)]
pub struct Senders {
    /// The connection, once there is one.
    pub bus: watch::Sender<Option<Connection>>,
    /// The session, while there is one.
    pub session: watch::Sender<Option<Session>>,
    /// Asks for a new hello.
    pub rehello: Arc<Notify>,
}

/// Two hellos are never closer than this: each purges what is on the wire.
const HELLO_INTERVAL_MIN: Duration = Duration::from_secs(3);

/// Runs until the process stops.
pub async fn run(
    settings: Arc<Settings>,
    identity: Arc<Identity>,
    reporter: StatusReporter,
    asker: HelloClient,
    senders: Senders,
    gates: Gates,
    shutdown: Shutdown,
) {
    gates.set("session", Some("not connected to the broker yet".to_owned()));
    let Some(connection) = connect(&settings, &identity, &reporter, &gates, &shutdown).await else { return };
    senders.bus.send_replace(Some(connection.clone()));
    let mut connects = connection.connects.clone();
    loop {
        connects.mark_unchanged();
        let opened = open(&connection, &asker, &reporter, &gates, &shutdown).await;
        let Some(session) = opened else { return };
        senders.session.send_replace(Some(session));
        gates.set("session", None);
        tokio::time::sleep(HELLO_INTERVAL_MIN).await;
        tokio::select! {
            () = shutdown.requested() => return,
            () = senders.rehello.notified() => tracing::info!("asking for a new session: a stream or the durable is gone"),
            changed = connects.changed() => {
                if changed.is_err() {
                    return;
                }
                tracing::info!("connected again; asking for a new session");
            }
            () = lost(&connection) => tracing::info!("the connection to the broker is down; the session is over"),
        }
        senders.session.send_replace(None);
    }
}

/// Resolves when the connection is found down. The client reconnects by itself; hello follows then.
async fn lost(connection: &Connection) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if !connection.is_connected() {
            return;
        }
    }
}

async fn connect(
    settings: &Settings,
    identity: &Identity,
    reporter: &StatusReporter,
    gates: &Gates,
    shutdown: &Shutdown,
) -> Option<Connection> {
    for wait in backoff::forever() {
        let fault = match attempt(settings, identity).await {
            Ok(connection) => return Some(connection),
            Err(fault) => fault,
        };
        tell_fault(reporter, gates, &fault).await;
        tokio::select! {
            () = shutdown.requested() => return None,
            () = tokio::time::sleep(wait) => {}
        }
    }
    None
}

async fn attempt(settings: &Settings, identity: &Identity) -> Result<Connection, JoinError> {
    let files = write_files(&settings.work_dir, identity).await.map_err(|error| {
        let message = format!(
            "could not write certificate files into {}: {error}; the folder must be writable",
            settings.work_dir.display()
        );
        JoinError::new(condition::BUS_CONNECTED, "FilesUnwritable", message)
    })?;
    let cluster = identity.cluster_id();
    let settings = kubenova_bus::Settings {
        urls: identity.answer.broker_urls.clone(),
        name: format!("kubenova-operator {cluster}"),
        ca_file: files.ca,
        cert_file: files.certificate,
        key_file: files.key,
        credentials: Credentials { user_jwt: identity.answer.user_jwt.clone(), seed: identity.keys.nkey_seed.clone() },
        inbox_prefix: Some(subjects::inbox_prefix(cluster)),
        api_prefix: Some(subjects::API_PREFIX.to_owned()),
        ping_interval: Duration::from_secs(settings.nats.ping_seconds),
    };
    kubenova_bus::connect(settings).await.map_err(|error| connect_fault(&error))
}

fn connect_fault(error: &BusError) -> JoinError {
    let cause = telemetry::chain(error);
    // The cause alone: the URLs in the message say "tls" too.
    let lower = std::error::Error::source(error).map(telemetry::chain).unwrap_or_default().to_ascii_lowercase();
    let (reason, remedy) = words(&lower);
    JoinError::new(condition::BUS_CONNECTED, reason, format!("{cause}; {remedy}"))
}

/// While the client tries to connect again by itself: what the last attempt said.
fn away_fault(connection: &Connection) -> JoinError {
    let last = connection.last_error.borrow().clone().unwrap_or_else(|| "the connection was lost".to_owned());
    let (reason, remedy) = words(&last.to_ascii_lowercase());
    JoinError::new(condition::BUS_CONNECTED, reason, format!("not connected to the broker: {last}; {remedy}"))
}

/// Reason and remedy for what the client or the server said, in lower case.
fn words(lower: &str) -> (&'static str, &'static str) {
    if lower.contains("authorization") {
        (
            "CredentialsRefused",
            "the broker does not accept this cluster's credentials: revoked or expired; install with a new token",
        )
    } else if lower.contains("dns") || lower.contains("lookup") || lower.contains("resolve") {
        ("BrokerNameNotFound", "make the broker's name known to the cluster's DNS")
    } else if lower.contains("certificate") || lower.contains("tls") {
        ("BrokerTlsFailed", "the broker's certificate does not verify under the CA that enrollment gave")
    } else {
        ("BrokerUnreachable", "allow outbound TCP from kubenova-system to the broker")
    }
}

struct Files {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

/// Writes what the broker's client reads at every connection attempt. The folder is the pod's own and in no volume that
/// outlives it; the key's file is readable by this user alone.
async fn write_files(folder: &Path, identity: &Identity) -> io::Result<Files> {
    tokio::fs::create_dir_all(folder).await?;
    let files = Files { ca: folder.join("ca.pem"), certificate: folder.join("tls.crt"), key: folder.join("tls.key") };
    tokio::fs::write(&files.ca, &identity.answer.ca_bundle_pem).await?;
    tokio::fs::write(&files.certificate, &identity.answer.certificate_chain_pem).await?;
    let _absent = tokio::fs::remove_file(&files.key).await;
    let mut options = tokio::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&files.key).await?;
    tokio::io::AsyncWriteExt::write_all(&mut file, identity.keys.tls_key_pem.as_bytes()).await?;
    tokio::io::AsyncWriteExt::flush(&mut file).await?;
    Ok(files)
}

/// Says hello until the Manager accepts it.
async fn open(
    connection: &Connection,
    asker: &HelloClient,
    reporter: &StatusReporter,
    gates: &Gates,
    shutdown: &Shutdown,
) -> Option<Session> {
    let mut connects = connection.connects.clone();
    for wait in backoff::forever() {
        connects.mark_unchanged();
        let asked = if connection.is_connected() { Some(asker.ask(connection).await) } else { None };
        let fault = match asked {
            None => away_fault(connection),
            Some(Ok(session)) => {
                tracing::info!(
                    session = session.number,
                    epoch = session.epoch,
                    clock.offset_ms = session.clock_offset_ms,
                    "session is open"
                );
                let mut conditions = ConditionSet::default();
                crate::join::tell_clock(Some(session.clock_offset_ms), &mut conditions);
                conditions.passed(
                    condition::BUS_CONNECTED,
                    "SessionOpen",
                    "connected to the broker, and the Manager answers",
                );
                tell(reporter, &conditions).await;
                return Some(session);
            }
            Some(Err(Refused { reason, message })) => JoinError::new(condition::BUS_CONNECTED, reason, message),
        };
        tell_fault(reporter, gates, &fault).await;
        tokio::select! {
            () = shutdown.requested() => return None,
            () = tokio::time::sleep(wait.max(Duration::from_secs(1))) => {}
            // A link that heals is used at once.
            _ = connects.changed() => {}
        }
    }
    None
}

async fn tell_fault(reporter: &StatusReporter, gates: &Gates, fault: &JoinError) {
    gates.set("session", Some(fault.message.clone()));
    let mut conditions = ConditionSet::default();
    conditions.stopped(fault);
    tell(reporter, &conditions).await;
}

async fn tell(reporter: &StatusReporter, conditions: &ConditionSet) {
    if let Err(error) = reporter.tell(conditions).await {
        tracing::warn!(error = %crate::apiserver::error::chain(&error), "could not write the condition BusConnected");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_says_has_its_own_reason() {
        let reason = |text: &str| words(text).0;
        assert_eq!(reason("authorization violation"), "CredentialsRefused");
        assert_eq!(reason("io error: connection refused (os error 111)"), "BrokerUnreachable");
        assert_eq!(reason("io error: failed to lookup address information"), "BrokerNameNotFound");
        assert_eq!(reason("tls error: invalid peer certificate: unknownissuer"), "BrokerTlsFailed");
    }
}
