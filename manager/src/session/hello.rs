//! Reads the hello of a cluster. What it means is decided in `core/session.rs`.

use jiff::Timestamp;
use kubenova_core::{cluster::ClusterId, listing};
use kubenova_runtime::telemetry;
use kubenova_schema::{message, subjects, v1::Hello};
use kubenova_store::sessions::HelloRequest;
use uuid::Uuid;

/// A hello that could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReceivedHello {
    /// What the session's row keeps of it.
    pub(super) request: HelloRequest,
    /// UID of the kube-system namespace.
    pub(super) cluster_uid: String,
    /// Id of the command with the highest revision stored there.
    pub(super) highest_command: Option<Uuid>,
    /// Highest epoch seen there.
    pub(super) epoch: u64,
    /// Hash of its listing.
    pub(super) listing_sha256: String,
}

/// Why a hello cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum MalformedHello {
    #[error("could not decode the hello: {0}")]
    Undecodable(String),
    #[error("the hello names cluster \"{named}\", its subject \"{subject}\" another one")]
    OtherCluster { named: String, subject: String },
    #[error("{0} is too large")]
    Number(u64),
    #[error("\"{0}\" is not an RFC 3339 time")]
    Time(String),
}

impl MalformedHello {
    /// The reason of the condition in the cluster.
    pub(super) const REASON: &str = "HelloMalformed";
}

pub(super) fn decode(payload: &[u8]) -> Result<Hello, MalformedHello> {
    message::from_json(payload).map_err(|error| MalformedHello::Undecodable(telemetry::chain(&error)))
}

/// Reads a hello. Whose it is says the subject, where the broker lets only that cluster publish.
pub(super) fn read(subject: &str, hello: Hello, now: Timestamp) -> Result<ReceivedHello, MalformedHello> {
    let cluster = subjects::cluster_of(subject).and_then(ClusterId::parse);
    let Some(cluster_id) = cluster.filter(|cluster| cluster.as_str() == hello.cluster_id) else {
        return Err(MalformedHello::OtherCluster { named: hello.cluster_id, subject: subject.to_owned() });
    };
    let number = |value: u64| i64::try_from(value).map_err(|_| MalformedHello::Number(value));
    let Ok(cluster_clock) = hello.at.parse::<Timestamp>() else { return Err(MalformedHello::Time(hello.at)) };
    Ok(ReceivedHello {
        request: HelloRequest {
            cluster_id,
            incarnation: hello.incarnation,
            boot_id: plain(&hello.boot_id),
            lease_term: number(hello.lease_term)?,
            operator_version: hello.operator_version,
            kubernetes_version: hello.kubernetes_version,
            key_set_id: plain(&hello.key_set_id),
            highest_revision: number(hello.highest_revision)?,
            clock_offset_ms: cluster_clock.as_millisecond() - now.as_millisecond(),
        },
        cluster_uid: hello.cluster_uid,
        highest_command: hello.highest_command_id.parse().ok(),
        epoch: hello.epoch,
        listing_sha256: listing::hash(hello.listing_sha256),
    })
}

/// Longest id of a process or of keys; one of an Operator is a UUID.
const ID_LENGTH_MAX: usize = 64;

/// An id as administrators may see it in messages and logs.
fn plain(id: &str) -> String {
    let is_plain = |character: &char| character.is_ascii_alphanumeric() || *character == '-';
    id.chars().filter(is_plain).take(ID_LENGTH_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "c0123456789abcdefghjkmnpqrs";

    fn read_as(cluster: &str, hello: &str) -> Result<ReceivedHello, MalformedHello> {
        let now = Timestamp::from_second(1_767_225_600).unwrap();
        decode(hello.as_bytes()).and_then(|hello| read(&subjects::hello(cluster), hello, now))
    }

    #[test]
    fn a_hello_is_read_with_the_difference_of_the_clocks() {
        let text = format!(
            r#"{{"clusterId":"{CLUSTER}","clusterUid":"uid","at":"2026-01-01T00:00:01.500Z","epoch":"1","highestRevision":"7"}}"#
        );
        let hello = read_as(CLUSTER, &text).unwrap();
        assert_eq!((hello.cluster_uid.as_str(), hello.epoch), ("uid", 1));
        assert_eq!((hello.request.clock_offset_ms, hello.request.highest_revision), (1_500, 7));
        assert_eq!(hello.highest_command, None);
    }

    #[test]
    fn only_the_cluster_of_the_subject_may_say_hello() {
        let text = format!(r#"{{"clusterId":"{CLUSTER}","at":"2026-01-01T00:00:00.000Z"}}"#);
        assert!(read_as(CLUSTER, &text).is_ok());
        let other = read_as("c1123456789abcdefghjkmnpqrs", &text);
        assert!(matches!(other, Err(MalformedHello::OtherCluster { .. })), "{other:?}");
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        assert!(matches!(read_as(CLUSTER, "x"), Err(MalformedHello::Undecodable(_))));
        let no_time = format!(r#"{{"clusterId":"{CLUSTER}","at":"yesterday"}}"#);
        assert_eq!(read_as(CLUSTER, &no_time), Err(MalformedHello::Time("yesterday".to_owned())));
        let large = format!(
            r#"{{"clusterId":"{CLUSTER}","at":"2026-01-01T00:00:00.000Z","highestRevision":"18446744073709551615"}}"#
        );
        assert_eq!(read_as(CLUSTER, &large), Err(MalformedHello::Number(u64::MAX)));
    }
}
