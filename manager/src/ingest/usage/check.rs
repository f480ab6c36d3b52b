//! Is a window what its signed manifest says? Everything must fit before anything is counted.

use super::assembly::Whole;
use data_encoding::BASE32_NOPAD;
use jiff::{SignedDuration, Timestamp};
use kubenova_core::tenant::{TenantId, TenantName};
use kubenova_runtime::clock;
use kubenova_schema::{
    message,
    meters::Meter,
    signature::{AcceptedKeys, PayloadType, SignatureError, key_id, sha256_hex},
    v1::{UsageGap, UsageManifest, UsageRecord, UsageRecords},
};
use kubenova_store::{
    ledger::{NewRow, Quantities},
    windows::NewWindow,
};
use std::collections::{BTreeMap, BTreeSet};

/// A window may end this long after our own clock says so: clocks that differ more are not in session either.
const AHEAD_MAX: SignedDuration = SignedDuration::from_mins(5);
/// Offset of clocks from which a row says so.
const SKEW_MS: u64 = 2_000;

/// Why a message can never be counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUsage {
    /// The subject names no cluster and window.
    #[error("subject \"{0}\" names no cluster and window")]
    Subject(String),
    /// Not the protobuf it should be.
    #[error("message cannot be read: {0}")]
    Unreadable(String),
    /// An impossible chunk.
    #[error("chunk {index} of {count} is impossible")]
    Chunk {
        /// Its index.
        index: u32,
        /// Of so many.
        count: u32,
    },
    /// No `<nkey public>:<base64>`.
    #[error("manifest signature is not of the form <nkey public>:<base64>")]
    SignatureForm,
    /// A key that was never enrolled for this cluster.
    #[error("manifest is signed by \"{0}\", which was never enrolled for this cluster")]
    UnknownKey(String),
    /// The signature does not fit.
    #[error("manifest signature does not fit: {0}")]
    Signature(SignatureError),
    /// Manifest and subject, or manifest and records, disagree.
    #[error("manifest does not fit its {0}")]
    Disagrees(&'static str),
    /// A number that is none, negative, or more than there can be.
    #[error("record of tenant \"{tenant}\" has no good {meter}")]
    Quantity {
        /// The tenant.
        tenant: String,
        /// The meter.
        meter: String,
    },
    /// A tenant's name that is none.
    #[error("name of tenant \"{0}\" is no name")]
    Name(String),
    /// A tenant id that is none, or stands twice.
    #[error("tenant id \"{0}\" is not a UUID or stands twice")]
    Tenant(String),
    /// More was covered than there is, or a gap lies outside.
    #[error("coverage or a gap does not lie within the window")]
    Coverage,
    /// The window is not over.
    #[error("window is not over yet; look at the cluster's clock")]
    Future,
}

/// A window that may be counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The window's row.
    pub window: NewWindow,
    /// The ledger's rows.
    pub rows: Vec<NewRow>,
    /// `gap`, `skew`.
    pub quality: Vec<String>,
}

/// The nkey that a signature names.
///
/// # Errors
/// When it is not of the form.
pub fn signer(signature: &str) -> Result<&str, InvalidUsage> {
    signature.split_once(':').map(|(nkey, _)| nkey).filter(|nkey| !nkey.is_empty()).ok_or(InvalidUsage::SignatureForm)
}

/// Checks a manifest's signature against the nkey it names. The caller has found that nkey among the enrolled ones, so
/// its text is good.
///
/// # Errors
/// When it does not fit.
pub fn verify(manifest: &[u8], signature: &str) -> Result<(), InvalidUsage> {
    let (nkey, encoded) = signature.split_once(':').ok_or(InvalidUsage::SignatureForm)?;
    // An nkey's text: one byte that says what it is, 32 of key, two of checksum.
    let bytes = BASE32_NOPAD.decode(nkey.as_bytes()).map_err(|_| InvalidUsage::SignatureForm)?;
    let key = bytes.get(1..33).filter(|_| bytes.len() == 35).ok_or(InvalidUsage::SignatureForm)?;
    let id = key_id(key);
    let header = format!("{id}:{encoded}");
    AcceptedKeys::new([(id, key.to_vec())])
        .verify(PayloadType::Usage, manifest, Some(&header))
        .map_err(InvalidUsage::Signature)
}

/// Checks a window whose signature is good.
///
/// # Errors
/// With the first thing that does not fit.
pub fn check(whole: &Whole, now: Timestamp) -> Result<Checked, InvalidUsage> {
    let unreadable =
        |error: message::MessageError| InvalidUsage::Unreadable(kubenova_runtime::telemetry::chain(&error));
    let manifest: UsageManifest = message::from_binary(&whole.manifest).map_err(unreadable)?;
    let disagrees = |what| Err(InvalidUsage::Disagrees(what));
    if manifest.cluster_id != whole.key.cluster.as_str() || manifest.window != whole.key.window.to_string() {
        return disagrees("subject");
    }
    if manifest.revision != 0 {
        return disagrees("sender: an operator makes revision 0 only");
    }
    if manifest.records_sha256 != sha256_hex(&whole.records) {
        return disagrees("records");
    }
    let over_by = now.as_millisecond().saturating_sub(whole.key.window.end_ms());
    if SignedDuration::from_millis(over_by) < -AHEAD_MAX {
        return Err(InvalidUsage::Future);
    }
    let (start_ms, end_ms) = (whole.key.window.start_ms(), whole.key.window.end_ms());
    let outside = |gap: &UsageGap| gap.start_ms < start_ms || gap.end_ms > end_ms || gap.end_ms < gap.start_ms;
    if i64::try_from(manifest.coverage_ms).map_or(true, |covered| covered > end_ms - start_ms)
        || manifest.gaps.iter().any(outside)
    {
        return Err(InvalidUsage::Coverage);
    }
    let records: UsageRecords = message::from_binary(&whole.records).map_err(unreadable)?;
    if usize::try_from(manifest.record_count).ok() != Some(records.records.len()) {
        return disagrees("count of records");
    }
    let rows = rows(&records.records, end_ms - start_ms)?;
    if totals(&rows) != total_texts(&manifest)? {
        return disagrees("totals");
    }
    let mut quality = Vec::new();
    if !manifest.gaps.is_empty() {
        quality.push("gap".to_owned());
    }
    if manifest.clock_offset_ms.unsigned_abs() > SKEW_MS {
        quality.push("skew".to_owned());
    }
    Ok(Checked { window: window(whole, &manifest), rows, quality })
}

fn window(whole: &Whole, manifest: &UsageManifest) -> NewWindow {
    NewWindow {
        cluster: whole.key.cluster.clone(),
        window: whole.key.window,
        revision: 0,
        manifest_sha256: whole.key.manifest_sha256.clone(),
        previous_manifest_sha256: manifest.previous_manifest_sha256.clone(),
        manifest: whole.manifest.clone(),
        manifest_signature: whole.manifest_signature.clone(),
        record_count: i32::try_from(manifest.record_count).unwrap_or(i32::MAX),
        coverage_ms: i64::try_from(manifest.coverage_ms).unwrap_or(i64::MAX),
        gaps: manifest.gaps.iter().map(gap).collect(),
        clock_offset_ms: manifest.clock_offset_ms,
        incarnation: manifest.incarnation.clone(),
        sealed_at: manifest.sealed_at.clone(),
    }
}

/// A gap as people and subscribers see it. A meter that is missing in `bound` has no known bound.
fn gap(gap: &UsageGap) -> serde_json::Value {
    let at = |ms| Timestamp::from_millisecond(ms).map(clock::rfc3339_ms).unwrap_or_default();
    serde_json::json!({ "reason": gap.reason, "start": at(gap.start_ms), "end": at(gap.end_ms), "bound": gap.bound })
}

/// Highest level of any meter: an exabyte of memory. With it a quintillion windows still add up in 39 digits.
const LEVEL_MAX: i128 = 1_000_000_000_000_000_000;

fn rows(records: &[UsageRecord], length_ms: i64) -> Result<Vec<NewRow>, InvalidUsage> {
    let mut seen = BTreeSet::new();
    records
        .iter()
        .map(|record| {
            let tenant = TenantId::parse(&record.tenant_id).filter(|tenant| seen.insert(tenant.0));
            let name =
                TenantName::parse(&record.tenant_name).map_err(|_| InvalidUsage::Name(record.tenant_id.clone()))?;
            let quantities = quantities(&record.tenant_id, &record.meters)?;
            let most = LEVEL_MAX * i128::from(length_ms);
            if let Some(meter) = Meter::ALL.into_iter().find(|meter| quantities[*meter as usize] > most) {
                return Err(InvalidUsage::Quantity {
                    tenant: record.tenant_id.clone(),
                    meter: meter.as_str().to_owned(),
                });
            }
            Ok(NewRow {
                tenant: tenant.ok_or_else(|| InvalidUsage::Tenant(record.tenant_id.clone()))?,
                tenant_name: name.to_string(),
                quantities,
                payload_sha256: record_sha256(record),
            })
        })
        .collect()
}

/// Every known meter, none negative. A meter this release does not know is refused: it could not be billed.
fn quantities(tenant: &str, meters: &BTreeMap<String, String>) -> Result<Quantities, InvalidUsage> {
    let bad = |meter: &str| InvalidUsage::Quantity { tenant: tenant.to_owned(), meter: meter.to_owned() };
    if let Some(unknown) = meters.keys().find(|name| Meter::parse(name).is_none()) {
        return Err(bad(unknown));
    }
    let mut quantities = Quantities::default();
    for meter in Meter::ALL {
        let text = meters.get(meter.as_str()).ok_or_else(|| bad(meter.as_str()))?;
        let value: i128 = text.parse().map_err(|_| bad(meter.as_str()))?;
        if value < 0 {
            return Err(bad(meter.as_str()));
        }
        quantities[meter as usize] = value;
    }
    Ok(quantities)
}

fn total_texts(manifest: &UsageManifest) -> Result<Quantities, InvalidUsage> {
    quantities("total", &manifest.totals)
}

fn totals(rows: &[NewRow]) -> Quantities {
    let mut totals = Quantities::default();
    for row in rows {
        for (total, quantity) in totals.iter_mut().zip(row.quantities) {
            *total = total.saturating_add(quantity);
        }
    }
    totals
}

/// Hash of a record, field by field.
fn record_sha256(record: &UsageRecord) -> String {
    let mut text = format!("{}\n{}\n", record.tenant_id, record.tenant_name);
    for (meter, value) in &record.meters {
        text.push_str(&format!("{meter}={value}\n"));
    }
    sha256_hex(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::usage::assembly::Key;
    use data_encoding::BASE64;
    use kubenova_core::cluster::ClusterId;
    use kubenova_schema::{message::Named, signature::SigningKey, window::Window};

    fn encode<M: Named>(message: &M) -> Vec<u8> {
        message.encode_to_vec()
    }

    fn record(tenant: u128, pods: i128) -> UsageRecord {
        let meters = Meter::ALL.into_iter().map(|meter| {
            (meter.as_str().to_owned(), if meter == Meter::Pods { pods.to_string() } else { "0".to_owned() })
        });
        UsageRecord {
            tenant_id: uuid::Uuid::from_u128(tenant).to_string(),
            tenant_name: "acme".into(),
            meters: meters.collect(),
        }
    }

    fn whole(records: &[UsageRecord], change: impl Fn(&mut UsageManifest)) -> Whole {
        let cluster = ClusterId::from_uuid(uuid::Uuid::from_u128(5));
        let window = Window { start: 3600, seconds: 3600 };
        let total: i128 = records.iter().map(|record| record.meters["podCountMs"].parse::<i128>().unwrap()).sum();
        let records_bytes = encode(&UsageRecords { records: records.to_vec() });
        let mut manifest = UsageManifest {
            cluster_id: cluster.to_string(),
            window: window.to_string(),
            record_count: u32::try_from(records.len()).unwrap(),
            totals: record(0, total).meters,
            coverage_ms: 3_600_000,
            records_sha256: sha256_hex(&records_bytes),
            ..UsageManifest::default()
        };
        change(&mut manifest);
        let manifest = encode(&manifest);
        Whole {
            key: Key { cluster, window, manifest_sha256: sha256_hex(&manifest) },
            manifest,
            manifest_signature: String::new(),
            records: records_bytes,
            payload: bytes::Bytes::new(),
            acknowledgers: Vec::new(),
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(7200).unwrap()
    }

    #[test]
    fn a_good_window_becomes_rows() {
        let checked = check(&whole(&[record(1, 5), record(2, 7)], |_| {}), now()).unwrap();
        assert_eq!(checked.rows.len(), 2);
        assert_eq!(checked.rows[1].quantities[Meter::Pods as usize], 7);
        assert!(checked.quality.is_empty());
        assert!(check(&whole(&[], |_| {}), now()).unwrap().rows.is_empty());
    }

    #[test]
    fn gaps_and_skew_are_said() {
        let checked = check(
            &whole(&[record(1, 5)], |manifest| {
                manifest.gaps.push(UsageGap {
                    reason: "X".into(),
                    start_ms: 3_600_000,
                    end_ms: 3_601_000,
                    ..UsageGap::default()
                });
                manifest.clock_offset_ms = -2_001;
            }),
            now(),
        );
        let checked = checked.unwrap();
        assert_eq!(checked.quality, ["gap", "skew"]);
        assert_eq!(checked.window.gaps[0]["start"], "1970-01-01T01:00:00.000Z");
    }

    #[test]
    fn whatever_does_not_fit_is_refused() {
        let cases: [(Whole, InvalidUsage); 8] = [
            (whole(&[], |manifest| manifest.cluster_id = "c1".into()), InvalidUsage::Disagrees("subject")),
            (whole(&[], |manifest| manifest.window = "w0-3600".into()), InvalidUsage::Disagrees("subject")),
            (whole(&[record(1, 5)], |manifest| manifest.record_count = 2), InvalidUsage::Disagrees("count of records")),
            (
                whole(&[record(1, 5)], |manifest| manifest.totals = record(0, 6).meters),
                InvalidUsage::Disagrees("totals"),
            ),
            (whole(&[], |manifest| manifest.records_sha256 = "00".into()), InvalidUsage::Disagrees("records")),
            (whole(&[record(1, 5), record(1, 5)], |_| {}), InvalidUsage::Tenant(uuid::Uuid::from_u128(1).to_string())),
            (
                whole(&[record(1, -5)], |_| {}),
                InvalidUsage::Quantity { tenant: uuid::Uuid::from_u128(1).to_string(), meter: "podCountMs".into() },
            ),
            (
                whole(&[], |manifest| manifest.revision = 1),
                InvalidUsage::Disagrees("sender: an operator makes revision 0 only"),
            ),
        ];
        for (whole, expected) in cases {
            assert_eq!(check(&whole, now()), Err(expected));
        }
        assert_eq!(check(&whole(&[], |_| {}), Timestamp::from_second(6000).unwrap()), Err(InvalidUsage::Future));
        assert_eq!(check(&whole(&[], |manifest| manifest.coverage_ms += 1), now()), Err(InvalidUsage::Coverage));
        let gap = UsageGap { start_ms: 0, end_ms: 3_601_000, ..UsageGap::default() };
        let outside = whole(&[], |manifest| manifest.gaps.push(gap.clone()));
        assert_eq!(check(&outside, now()), Err(InvalidUsage::Coverage));
        let exabytes = whole(&[record(1, LEVEL_MAX * 3_600_001)], |_| {});
        assert!(matches!(check(&exabytes, now()), Err(InvalidUsage::Quantity { .. })));
        let mut nameless = record(1, 5);
        nameless.tenant_name = "a\0b".into();
        assert!(matches!(check(&whole(&[nameless], |_| {}), now()), Err(InvalidUsage::Name(_))));
    }

    #[test]
    fn a_signature_is_checked_against_the_nkey_it_names() {
        let key = SigningKey::from_seed(&[3; 32]).unwrap();
        let mut bytes = vec![20 << 3];
        bytes.extend(key.public_key());
        bytes.extend([0, 0]);
        let nkey = BASE32_NOPAD.encode(&bytes);
        let header = key.sign(PayloadType::Usage, b"m");
        let signature = format!("{nkey}:{}", header.split_once(':').unwrap().1);
        assert_eq!(signer(&signature), Ok(nkey.as_str()));
        assert_eq!(verify(b"m", &signature), Ok(()));
        assert!(matches!(verify(b"n", &signature), Err(InvalidUsage::Signature(_))));
        assert_eq!(verify(b"m", &format!("UABC:{}", BASE64.encode(b"x"))), Err(InvalidUsage::SignatureForm));
        assert_eq!(signer("x"), Err(InvalidUsage::SignatureForm));
    }
}
