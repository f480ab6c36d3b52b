//! Reading and judging a hello. Pure: what the cluster says against what the Manager holds.

use jiff::Timestamp;
use kubenova_core::cluster::ClusterId;
use kubenova_runtime::telemetry;
use kubenova_schema::{message, subjects, v1::Hello};
use kubenova_store::sessions::{ClusterRecord, HelloRequest};
use uuid::Uuid;

/// A hello that could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    /// What is kept of it.
    pub(super) hello: HelloRequest,
    /// UID of the kube-system namespace.
    pub(super) cluster_uid: String,
    /// Command id of the highest revision stored there.
    pub(super) highest_command: Option<Uuid>,
    /// Highest epoch seen there.
    pub(super) epoch: u64,
}

/// Why no session is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    /// One CamelCase word.
    pub(super) reason: &'static str,
    /// A sentence with the remedy.
    pub(super) message: String,
}

/// Reads a hello; the subject, which the broker's permissions vouch for, says whose it is.
pub(super) fn read(subject: &str, payload: &[u8], now: Timestamp) -> Result<Asked, Refused> {
    let malformed = |message: String| Refused { reason: "HelloMalformed", message };
    let hello: Hello = message::from_json(payload).map_err(|error| malformed(telemetry::chain(&error)))?;
    let cluster = subjects::cluster_of(subject).and_then(ClusterId::parse);
    let cluster_id = cluster
        .filter(|cluster| cluster.as_str() == hello.cluster_id)
        .ok_or_else(|| malformed(format!("subject \"{subject}\" is not that of cluster \"{}\"", hello.cluster_id)))?;
    let number = |value: u64| i64::try_from(value).map_err(|_| malformed(format!("{value} is too large")));
    let their_clock: Timestamp = hello.at.parse().map_err(|_| malformed(format!("\"{}\" is no time", hello.at)))?;
    Ok(Asked {
        hello: HelloRequest {
            cluster_id,
            incarnation: hello.incarnation,
            boot_id: hello.boot_id,
            lease_term: number(hello.lease_term)?,
            operator_version: hello.operator_version,
            kubernetes_version: hello.kubernetes_version,
            highest_revision: number(hello.highest_revision)?,
            clock_offset_ms: their_clock.as_millisecond() - now.as_millisecond(),
        },
        cluster_uid: hello.cluster_uid,
        highest_command: hello.highest_command_id.parse().ok(),
        epoch: hello.epoch,
    })
}

/// The epoch of the session, or why there is none.
pub(super) fn judge(asked: &Asked, known: Option<&ClusterRecord>, agrees: bool) -> Result<i64, Refused> {
    let refused = |reason, message: &str| Err(Refused { reason, message: message.to_owned() });
    let Some(known) = known else {
        return refused(
            "ClusterUnknown",
            "the Manager does not know this cluster: create it and install with a new token",
        );
    };
    if known.state != "enrolled" {
        return Err(Refused {
            reason: "ClusterNotTrusted",
            message: format!("the Manager holds this cluster as {}: make a new enrollment token for it", known.state),
        });
    }
    if known.kubernetes_uid.as_deref() != Some(asked.cluster_uid.as_str()) {
        return refused(
            "ClusterUidMismatch",
            "another cluster enrolled under this record: its credentials were copied; create a cluster of its own for this one",
        );
    }
    if !agrees || asked.epoch > u64::try_from(known.epoch).unwrap_or_default() {
        return refused(
            "Diverged",
            "the cluster holds commands that the Manager does not know: its database was restored to the past; nothing is sent to this cluster until it is restored to a later point",
        );
    }
    Ok(known.epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        let hello = br#"{"clusterId":"c0123456789abcdefghjkmnpqrs","clusterUid":"uid","at":"2026-01-01T00:00:00.000Z","epoch":"1"}"#;
        read(&subjects::hello("c0123456789abcdefghjkmnpqrs"), hello, Timestamp::from_second(1_767_225_600).unwrap())
            .unwrap()
    }

    fn known() -> ClusterRecord {
        ClusterRecord { epoch: 1, kubernetes_uid: Some("uid".to_owned()), state: "enrolled".to_owned() }
    }

    #[test]
    fn only_the_cluster_of_the_subject_may_say_hello() {
        let hello = br#"{"clusterId":"c0123456789abcdefghjkmnpqrs","at":"2026-01-01T00:00:00.000Z"}"#;
        let other = read(&subjects::hello("c1123456789abcdefghjkmnpqrs"), hello, Timestamp::UNIX_EPOCH);
        assert_eq!(other.unwrap_err().reason, "HelloMalformed");
    }

    #[test]
    fn each_reason_to_refuse_has_its_name() {
        let reason =
            |known: Option<&ClusterRecord>, agrees| judge(&asked(), known, agrees).map_err(|refused| refused.reason);
        assert_eq!(reason(Some(&known()), true), Ok(1));
        assert_eq!(reason(None, true), Err("ClusterUnknown"));
        assert_eq!(reason(Some(&known()), false), Err("Diverged"));
        assert_eq!(
            reason(Some(&ClusterRecord { state: "quarantined".to_owned(), ..known() }), true),
            Err("ClusterNotTrusted")
        );
        assert_eq!(
            reason(Some(&ClusterRecord { kubernetes_uid: Some("other".to_owned()), ..known() }), true),
            Err("ClusterUidMismatch")
        );
        assert_eq!(reason(Some(&ClusterRecord { epoch: 0, ..known() }), true), Err("Diverged"));
    }
}
