//! A report's status to bytes and back.

use data_encoding::BASE64;
use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kubenova_crds::{
    conditions::ConditionStatus,
    usage_report::{NovaUsageReport, UsageReportStatus, condition},
};
use kubenova_operator_core::{conditions::ConditionSet, metering::seal::Sealed};
use kubenova_schema::{signature::sha256_hex, window::Window};
use std::io::{Read as _, Write as _};

/// Most bytes a stored field may unpack to: a damaged or hostile one must not fill the memory.
const UNPACKED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Fields that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReportError {
    /// Not base64.
    #[error("a field of usage report \"{0}\" is not base64")]
    Base64(String),
    /// Not compressed bytes.
    #[error("a field of usage report \"{name}\" cannot be unpacked")]
    Packed {
        /// The report.
        name: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// The status of an open window.
pub(super) fn open(window: Window, checkpoint: &[u8]) -> UsageReportStatus {
    UsageReportStatus {
        conditions: open_conditions(window),
        checkpoint: pack(checkpoint),
        ..UsageReportStatus::default()
    }
}

/// The status of a window that is sealed now.
pub(super) fn sealed(sealed: &Sealed, signature: String, now: Timestamp) -> UsageReportStatus {
    let mut status = UsageReportStatus {
        conditions: open_conditions(sealed.window),
        records: sealed.record_count,
        manifest: BASE64.encode(&sealed.manifest),
        manifest_signature: signature,
        payload: pack(&sealed.records),
        ..UsageReportStatus::default()
    };
    set(
        &mut status,
        condition::SEALED,
        ConditionStatus::True,
        "Sealed",
        "the window is over and its bytes are final",
        now,
    );
    set_received(&mut status, None, now);
    status
}

/// Marks a sealed report as received by the Manager at that time, or as no longer there.
pub(super) fn set_received(status: &mut UsageReportStatus, received_at: Option<&str>, now: Timestamp) {
    received_at.unwrap_or_default().clone_into(&mut status.received_at);
    let (is_received, reason, message) = match received_at {
        Some(_) => (ConditionStatus::True, "Confirmed", "the Manager has the bytes and counts them"),
        None => (ConditionStatus::False, "NotConfirmed", WAITING),
    };
    set(status, condition::RECEIVED, is_received, reason, message, now);
}

/// What a report waits for that is sealed and not received.
const WAITING: &str = "the Manager has not confirmed the bytes yet; they are sent again until it does, also after the cluster was away: if \
                       this stays so, see: kubectl describe nova default";

/// Since the window began: a checkpoint changes neither.
fn open_conditions(window: Window) -> Vec<Condition> {
    let since = Timestamp::from_second(window.start).unwrap_or_default();
    let mut status = UsageReportStatus::default();
    set(&mut status, condition::SEALED, ConditionStatus::False, "Measuring", "the window is being measured", since);
    set(&mut status, condition::RECEIVED, ConditionStatus::False, "NotSealed", "it is sent once it is sealed", since);
    status.conditions
}

fn set(
    status: &mut UsageReportStatus,
    condition: &'static str,
    is: ConditionStatus,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let mut found = ConditionSet::new();
    found.set(condition, is, reason, message);
    // To the second, as the API server gives it back.
    let now = Timestamp::from_second(now.as_second()).unwrap_or_default();
    let _merged = found.merge_into(&mut status.conditions, None, now);
}

/// When the Manager received it; none until then.
pub(super) fn received_at(report: &NovaUsageReport) -> Option<Timestamp> {
    report.status.as_ref()?.received_at.parse().ok()
}

/// The status of a sealed report; none of an open one.
pub(super) fn sealed_status(report: &NovaUsageReport) -> Option<&UsageReportStatus> {
    report.status.as_ref().filter(|status| status.is_sealed())
}

/// The checkpoint of an open report.
pub(super) fn checkpoint(window: &str, status: &UsageReportStatus) -> Result<Vec<u8>, ReportError> {
    unpack(window, &status.checkpoint)
}

/// The records of a sealed report.
pub(super) fn records(window: &str, status: &UsageReportStatus) -> Result<Vec<u8>, ReportError> {
    unpack(window, &status.payload)
}

/// The manifest of a sealed report.
pub(super) fn manifest(window: &str, status: &UsageReportStatus) -> Result<Vec<u8>, ReportError> {
    BASE64.decode(status.manifest.as_bytes()).map_err(|_| ReportError::Base64(window.to_owned()))
}

/// Hex SHA-256 of a sealed report's manifest; none of a report that is open or damaged.
pub(super) fn manifest_sha256(report: &NovaUsageReport) -> Option<String> {
    let status = sealed_status(report)?;
    manifest(&report.spec.window, status).ok().map(|bytes| sha256_hex(&bytes))
}

fn pack(bytes: &[u8]) -> String {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    let packed = encoder.write_all(bytes).and_then(|()| encoder.finish());
    BASE64.encode(&packed.expect("writing to memory cannot fail"))
}

fn unpack(window: &str, text: &str) -> Result<Vec<u8>, ReportError> {
    let packed = BASE64.decode(text.as_bytes()).map_err(|_| ReportError::Base64(window.to_owned()))?;
    let mut bytes = Vec::new();
    DeflateDecoder::new(packed.as_slice())
        .take(UNPACKED_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|source| ReportError::Packed { name: window.to_owned(), source })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_crds::usage_report::UsageReportSpec;

    const WINDOW: Window = Window { start: 10, seconds: 10 };

    fn sealed_now() -> UsageReportStatus {
        let bytes = Sealed {
            window: WINDOW,
            record_count: 3,
            manifest: b"m".to_vec(),
            manifest_sha256: String::new(),
            records: b"r".to_vec(),
        };
        sealed(&bytes, "s".into(), Timestamp::from_second(20).unwrap())
    }

    #[test]
    fn fields_read_back() {
        let status = open(WINDOW, b"bytes");
        assert!(!status.is_sealed());
        assert_eq!(checkpoint("w", &status).unwrap(), b"bytes");
        let status = sealed_now();
        assert_eq!((manifest("w", &status).unwrap(), records("w", &status).unwrap()), (b"m".to_vec(), b"r".to_vec()));
        let mut report = NovaUsageReport::new("w10-10", UsageReportSpec { window: "w10-10".into() });
        assert_eq!(manifest_sha256(&report), None, "created, and its status not written yet");
        report.status = Some(status);
        assert_eq!(manifest_sha256(&report), Some(sha256_hex(b"m")));
        assert!(
            checkpoint("w", &UsageReportStatus { checkpoint: "?".into(), ..UsageReportStatus::default() }).is_err()
        );
    }

    #[test]
    fn conditions_say_who_has_the_window_and_since_when() {
        let said = |status: &UsageReportStatus| {
            let said = |condition: &Condition| {
                (condition.status.clone(), condition.reason.clone(), condition.last_transition_time.0.as_second())
            };
            status.conditions.iter().map(said).collect::<Vec<_>>()
        };
        let expect = |sealed: (&str, &str, i64), received: (&str, &str, i64)| {
            [sealed, received].map(|(status, reason, at)| (status.to_owned(), reason.to_owned(), at)).to_vec()
        };
        assert_eq!(said(&open(WINDOW, b"1")), expect(("False", "Measuring", 10), ("False", "NotSealed", 10)));
        assert_eq!(open(WINDOW, b"1").conditions, open(WINDOW, b"2").conditions, "a checkpoint changes none");
        let mut status = sealed_now();
        assert_eq!(said(&status), expect(("True", "Sealed", 20), ("False", "NotConfirmed", 10)));
        let now = Timestamp::from_millisecond(30_500).unwrap();
        set_received(&mut status, Some("1970-01-01T00:00:30.500Z"), now);
        assert_eq!(said(&status), expect(("True", "Sealed", 20), ("True", "Confirmed", 30)));
        set_received(&mut status, None, now);
        assert_eq!(status.received_at, "");
        assert_eq!(said(&status)[1].0, "False");
    }
}
