//! A window's final bytes: records sorted by tenant, the manifest over them, the chunks they travel in.
//!
//! Sealing happens once. The manifest names the previous one's hash, so a missing window shows.

use super::{
    Levels,
    engine::Engine,
    gap::{self, Gap},
    window::OpenWindow,
};
use kubenova_schema::{
    message::Named,
    meters::Meter,
    signature::sha256_hex,
    streams,
    v1::{UsageChunk, UsageGap, UsageManifest, UsageRecord, UsageRecords},
    window::Window,
};

/// Bytes of records in one message: what a cluster may send, less the manifest with its gaps.
pub const PART_BYTES: usize = streams::CLUSTER_MESSAGE_BYTES_MAX - 64 * 1024;

/// Who seals, and when.
#[derive(Debug, Clone)]
pub struct Sealer {
    /// The cluster's id.
    pub cluster_id: String,
    /// Its incarnation.
    pub incarnation: String,
    /// Operator clock minus Manager clock at the last hello.
    pub clock_offset_ms: i64,
    /// RFC 3339 UTC.
    pub sealed_at: String,
}

/// A sealed window, unsigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Which.
    pub window: Window,
    /// How many records.
    pub record_count: u32,
    /// Bytes of the `UsageManifest`.
    pub manifest: Vec<u8>,
    /// Hex SHA-256 of them.
    pub manifest_sha256: String,
    /// Bytes of the `UsageRecords`.
    pub records: Vec<u8>,
}

/// Seals a window of the engine; none when it is not open. The engine does not forget it: storing comes first.
#[must_use]
pub fn seal(engine: &Engine, window: Window, sealer: &Sealer) -> Option<Sealed> {
    let open = engine.windows.open.iter().find(|open| open.window == window)?;
    let records = records(engine, open);
    let totals = open.sums.values().fold(Levels::ZERO, |sum, sums| sum.plus(*sums));
    let gaps: Vec<UsageGap> = engine.gaps.iter().filter_map(|gap: &Gap| gap.within(window)).collect();
    let record_count = u32::try_from(records.records.len()).unwrap_or(u32::MAX);
    let records = encode(&records);
    let manifest = encode(&UsageManifest {
        cluster_id: sealer.cluster_id.clone(),
        incarnation: sealer.incarnation.clone(),
        window: window.to_string(),
        revision: 0,
        record_count,
        totals: totals.to_texts(),
        previous_manifest_sha256: engine.previous_manifest_sha256.clone(),
        coverage_ms: gap::coverage_ms(window, &gaps),
        gaps,
        clock_offset_ms: sealer.clock_offset_ms,
        records_sha256: sha256_hex(&records),
        sealed_at: sealer.sealed_at.clone(),
    });
    Some(Sealed { window, record_count, manifest_sha256: sha256_hex(&manifest), manifest, records })
}

fn records(engine: &Engine, open: &OpenWindow) -> UsageRecords {
    let records = open
        .sums
        .iter()
        .filter(|(_, sums)| !sums.is_zero())
        .map(|(id, sums)| UsageRecord {
            tenant_id: id.clone(),
            tenant_name: engine.windows.tenants.get(id).map(|tenant| tenant.name.clone()).unwrap_or_default(),
            meters: Meter::ALL
                .into_iter()
                .map(|meter| (meter.as_str().to_owned(), sums.get(meter).to_string()))
                .collect(),
        })
        .collect();
    UsageRecords { records }
}

/// What is published for a sealed window: at least one chunk, each with the manifest and its signature.
#[must_use]
pub fn chunks(manifest: &[u8], signature: &str, records: &[u8], part_bytes: usize) -> Vec<Vec<u8>> {
    let parts: Vec<&[u8]> = if records.is_empty() { vec![&[]] } else { records.chunks(part_bytes.max(1)).collect() };
    let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    (0..count)
        .zip(parts)
        .map(|(index, part)| {
            encode(&UsageChunk {
                manifest: manifest.to_vec(),
                manifest_signature: signature.to_owned(),
                index,
                count,
                part: part.to_vec(),
            })
        })
        .collect()
}

fn encode<M: Named>(message: &M) -> Vec<u8> {
    message.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metering::step_function::{Cause, Step};
    use kubenova_schema::message::from_binary;

    fn engine() -> Engine {
        let mut engine = Engine::fresh(10_000, 10);
        for (tenant, at_ms) in [("b", 12_000), ("a", 15_000)] {
            engine.windows.name(tenant, &format!("{tenant}-name"));
            engine.windows.apply(&Step {
                tenant_id: tenant.into(),
                at_ms,
                change: Levels::only(Meter::Pods, 1),
                cause: Cause::Created,
            });
        }
        engine.previous_manifest_sha256 = "aa".into();
        engine
    }

    fn sealer() -> Sealer {
        Sealer {
            cluster_id: "c1".into(),
            incarnation: "1".into(),
            clock_offset_ms: -3,
            sealed_at: "2026-01-01T00:00:00.000Z".into(),
        }
    }

    #[test]
    fn a_manifest_tells_the_truth_about_its_records() {
        let window = Window { start: 10, seconds: 10 };
        let sealed = seal(&engine(), window, &sealer()).unwrap();
        let manifest: UsageManifest = from_binary(&sealed.manifest).unwrap();
        let records: UsageRecords = from_binary(&sealed.records).unwrap();
        assert_eq!(manifest.record_count, 2);
        assert_eq!(manifest.records_sha256, sha256_hex(&sealed.records));
        assert_eq!(manifest.totals["podCountMs"], "13000");
        assert_eq!(manifest.coverage_ms, 10_000);
        assert_eq!(manifest.previous_manifest_sha256, "aa");
        let ids: Vec<&str> = records.records.iter().map(|record| record.tenant_id.as_str()).collect();
        assert_eq!(ids, ["a", "b"]);
        assert_eq!(records.records[0].tenant_name, "a-name");
        assert_eq!(seal(&engine(), window, &sealer()), Some(sealed), "the same bytes again");
        assert_eq!(seal(&engine(), window.next(), &sealer()), None);
    }

    #[test]
    fn chunks_put_together_are_the_records() {
        for (length, parts) in [(0, 1), (10, 1), (11, 2), (25, 3)] {
            let records: Vec<u8> = (0..length).collect();
            let chunks: Vec<UsageChunk> =
                chunks(b"m", "s", &records, 10).iter().map(|bytes| from_binary(bytes).unwrap()).collect();
            assert_eq!(chunks.len(), parts);
            assert!(
                chunks
                    .iter()
                    .enumerate()
                    .all(|(index, chunk)| chunk.index as usize == index && chunk.count as usize == parts)
            );
            assert_eq!(chunks.concat_parts(), records);
        }
    }

    trait ConcatParts {
        fn concat_parts(&self) -> Vec<u8>;
    }

    impl ConcatParts for Vec<UsageChunk> {
        fn concat_parts(&self) -> Vec<u8> {
            self.iter().flat_map(|chunk| chunk.part.clone()).collect()
        }
    }
}
