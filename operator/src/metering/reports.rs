//! A report's fields to bytes and back.

use data_encoding::BASE64;
use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use kubenova_crds::usage_report::{ReportState, UsageReportSpec};
use kubenova_operator_core::metering::seal::Sealed;
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

/// The spec of an open window.
pub(super) fn open(window: Window, checkpoint: &[u8]) -> UsageReportSpec {
    UsageReportSpec {
        window: window.to_string(),
        state: ReportState::Open,
        checkpoint: pack(checkpoint),
        ..UsageReportSpec::default()
    }
}

/// The spec of a sealed window.
pub(super) fn sealed(sealed: &Sealed, signature: String) -> UsageReportSpec {
    UsageReportSpec {
        window: sealed.window.to_string(),
        state: ReportState::Sealed,
        records: sealed.record_count,
        manifest: BASE64.encode(&sealed.manifest),
        manifest_signature: signature,
        payload: pack(&sealed.records),
        ..UsageReportSpec::default()
    }
}

/// The checkpoint of an open report.
pub(super) fn checkpoint(spec: &UsageReportSpec) -> Result<Vec<u8>, ReportError> {
    unpack(spec, &spec.checkpoint)
}

/// The records of a sealed report.
pub(super) fn records(spec: &UsageReportSpec) -> Result<Vec<u8>, ReportError> {
    unpack(spec, &spec.payload)
}

/// The manifest of a sealed report.
pub(super) fn manifest(spec: &UsageReportSpec) -> Result<Vec<u8>, ReportError> {
    BASE64.decode(spec.manifest.as_bytes()).map_err(|_| ReportError::Base64(spec.window.clone()))
}

/// Hex SHA-256 of a sealed report's manifest.
pub(super) fn manifest_sha256(spec: &UsageReportSpec) -> Result<String, ReportError> {
    manifest(spec).map(|bytes| sha256_hex(&bytes))
}

fn pack(bytes: &[u8]) -> String {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    let packed = encoder.write_all(bytes).and_then(|()| encoder.finish());
    BASE64.encode(&packed.expect("writing to memory cannot fail"))
}

fn unpack(spec: &UsageReportSpec, text: &str) -> Result<Vec<u8>, ReportError> {
    let packed = BASE64.decode(text.as_bytes()).map_err(|_| ReportError::Base64(spec.window.clone()))?;
    let mut bytes = Vec::new();
    DeflateDecoder::new(packed.as_slice())
        .take(UNPACKED_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|source| ReportError::Packed { name: spec.window.clone(), source })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_read_back() {
        let window = Window { start: 10, seconds: 10 };
        assert_eq!(checkpoint(&open(window, b"bytes")).unwrap(), b"bytes");
        let bytes = Sealed {
            window,
            record_count: 3,
            manifest: b"m".to_vec(),
            manifest_sha256: String::new(),
            records: b"r".to_vec(),
        };
        let spec = sealed(&bytes, "s".into());
        assert_eq!((manifest(&spec).unwrap(), records(&spec).unwrap()), (b"m".to_vec(), b"r".to_vec()));
        assert_eq!(manifest_sha256(&spec).unwrap(), sha256_hex(b"m"));
        assert!(checkpoint(&UsageReportSpec { checkpoint: "?".into(), ..UsageReportSpec::default() }).is_err());
    }
}
