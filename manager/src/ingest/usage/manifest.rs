//! A complete window to rows: decodes manifest and records and has core check them.

use super::{assembly::Whole, invalid::InvalidUsage};
use jiff::Timestamp;
use kubenova_core::usage::{self, Record, SealedWindow, TenantUsage};
use kubenova_runtime::clock;
use kubenova_schema::{
    message::{self, MessageError},
    meters::Meter,
    mutant,
    signature::sha256_hex,
    v1::{UsageGap, UsageManifest, UsageRecord, UsageRecords},
};
use kubenova_store::{ledger::NewRow, windows::NewWindow};
use std::collections::BTreeMap;

/// A window that may be counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checked {
    /// The window's row.
    pub(super) window: NewWindow,
    /// The ledger's rows.
    pub(super) rows: Vec<NewRow>,
    /// Why other records can never be counted.
    pub(super) set_aside: Vec<String>,
    /// What a reader must know about them.
    pub(super) quality: Vec<String>,
}

/// Checks a window whose signature is good.
pub(super) fn check(whole: &Whole, now: Timestamp) -> Result<Checked, InvalidUsage> {
    let undecodable = |error: MessageError| InvalidUsage::Undecodable(kubenova_runtime::telemetry::chain(&error));
    let manifest: UsageManifest = message::from_binary(&whole.manifest).map_err(undecodable)?;
    agrees(whole, &manifest)?;
    let records: UsageRecords = message::from_binary(&whole.records).map_err(undecodable)?;
    let window = sealed(whole, &manifest, &records.records);
    let checked = usage::check(&window, Meter::ALL.map(Meter::as_str), now)?;
    let rows = checked.used.iter().map(|(place, used)| row(used, &records.records[*place])).collect();
    let set_aside = checked.set_aside.iter().map(ToString::to_string).collect();
    let quality = usage::qualities(&window).into_iter().map(|quality| quality.as_str().to_owned()).collect();
    Ok(Checked { window: new_window(whole, &manifest), rows, set_aside, quality })
}

/// Manifest, subject and records belong together.
fn agrees(whole: &Whole, manifest: &UsageManifest) -> Result<(), InvalidUsage> {
    if manifest.cluster_id != whole.key.cluster.as_str() || manifest.window != whole.key.window.to_string() {
        return Err(InvalidUsage::Disagrees("subject"));
    }
    if manifest.revision != 0 {
        return Err(InvalidUsage::Disagrees("sender: an Operator makes revision 0 only"));
    }
    if manifest.records_sha256 != sha256_hex(&whole.records) && !mutant::is_on("usage.records") {
        return Err(InvalidUsage::Disagrees("records"));
    }
    Ok(())
}

fn sealed<'a>(whole: &Whole, manifest: &'a UsageManifest, records: &'a [UsageRecord]) -> SealedWindow<'a> {
    SealedWindow {
        start_ms: whole.key.window.start_ms(),
        end_ms: whole.key.window.end_ms(),
        coverage_ms: manifest.coverage_ms,
        gaps: manifest.gaps.iter().map(|gap| (gap.start_ms, gap.end_ms)).collect(),
        clock_offset_ms: manifest.clock_offset_ms,
        record_count: manifest.record_count,
        totals: &manifest.totals,
        records: records
            .iter()
            .map(|record| Record {
                tenant_id: &record.tenant_id,
                tenant_name: &record.tenant_name,
                meters: &record.meters,
            })
            .collect(),
    }
}

fn row(used: &TenantUsage<{ Meter::ALL.len() }>, record: &UsageRecord) -> NewRow {
    NewRow {
        tenant: used.tenant,
        tenant_name: used.name.to_string(),
        quantities: used.quantities,
        payload_sha256: record_sha256(record),
    }
}

fn new_window(whole: &Whole, manifest: &UsageManifest) -> NewWindow {
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
        gaps: gaps(&manifest.gaps),
        clock_offset_ms: manifest.clock_offset_ms,
        incarnation: manifest.incarnation.clone(),
        sealed_at: manifest.sealed_at.clone(),
    }
}

/// Most gaps of a window that are kept one by one: they stand in every row and in every billing event of it.
const GAPS_MAX: usize = 128;
/// Longest reason of a gap, and longest bound: the digits of the largest sum.
const REASON_LENGTH_MAX: usize = 40;
const BOUND_LENGTH_MAX: usize = 39;
/// Reason of a gap whose own is not one word, and of the one that stands for more than there is room for.
const UNKNOWN: &str = "Unknown";

/// The gaps as REST and billing events show them. What a cluster may write in them is bounded: an event that is too large for
/// the broker would hold up all events behind it.
fn gaps(gaps: &[UsageGap]) -> serde_json::Value {
    if gaps.len() <= GAPS_MAX {
        return gaps.iter().map(gap).collect();
    }
    let (start_ms, end_ms) = (gaps.iter().map(|gap| gap.start_ms).min(), gaps.iter().map(|gap| gap.end_ms).max());
    let all =
        UsageGap { start_ms: start_ms.unwrap_or_default(), end_ms: end_ms.unwrap_or_default(), ..UsageGap::default() };
    std::iter::once(gap(&all)).collect()
}

/// A meter that is missing in `bound` has no known bound.
fn gap(gap: &UsageGap) -> serde_json::Value {
    let at = |ms| Timestamp::from_millisecond(ms).map(clock::rfc3339_ms).unwrap_or_default();
    let is_word = (1..=REASON_LENGTH_MAX).contains(&gap.reason.len())
        && gap.reason.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let reason = if is_word { &gap.reason } else { UNKNOWN };
    let is_number =
        |text: &str| (1..=BOUND_LENGTH_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let known = |meter: &str| Meter::ALL.iter().any(|known| known.as_str() == meter);
    let bound: BTreeMap<&String, &String> =
        gap.bound.iter().filter(|(meter, bound)| known(meter) && is_number(bound)).collect();
    serde_json::json!({ "reason": reason, "start": at(gap.start_ms), "end": at(gap.end_ms), "bound": bound })
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
    use kubenova_core::{
        cluster::ClusterId,
        usage::{InvalidRecord, InvalidWindow},
    };
    use kubenova_schema::{message::Named, window::Window};

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

    /// The second hour of the epoch, with a manifest that fits until `change` changes it.
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
    fn gaps_and_skew_are_in_the_rows_of_the_window() {
        let gap = UsageGap { reason: "X".into(), start_ms: 3_600_000, end_ms: 3_601_000, ..UsageGap::default() };
        let change = |manifest: &mut UsageManifest| {
            manifest.gaps.push(gap.clone());
            manifest.clock_offset_ms = -2_001;
        };
        let checked = check(&whole(&[record(1, 5)], change), now()).unwrap();
        assert_eq!(checked.quality, ["gap", "skew"]);
        assert_eq!(checked.window.gaps[0]["start"], "1970-01-01T01:00:00.000Z");
    }

    #[test]
    fn what_a_cluster_writes_in_its_gaps_is_bounded() {
        let gap = |reason: &str, bound: &[(&str, &str)]| UsageGap {
            reason: reason.into(),
            start_ms: 3_600_000,
            end_ms: 3_601_000,
            bound: bound.iter().map(|(meter, text)| ((*meter).to_owned(), (*text).to_owned())).collect(),
        };
        let hostile = gap(
            &"x".repeat(900_000),
            &[("podCountMs", "9 pods"), ("memoryRequestByteMs", ""), ("gpus", "1"), ("cpuRequestMillicoreMs", "7")],
        );
        let one = gaps(&[gap("HistoryLost", &[]), hostile]);
        assert_eq!((&one[0]["reason"], &one[1]["reason"]), (&"HistoryLost".into(), &UNKNOWN.into()));
        assert_eq!(one[1]["bound"], serde_json::json!({ "cpuRequestMillicoreMs": "7" }));
        let many = gaps(&vec![gap("HistoryLost", &[]); GAPS_MAX + 1]);
        assert_eq!(many.as_array().unwrap().len(), 1, "one gap over all of them, without a bound");
        assert_eq!(
            (&many[0]["start"], &many[0]["bound"]),
            (&"1970-01-01T01:00:00.000Z".into(), &serde_json::json!({}))
        );
    }

    #[test]
    fn a_manifest_that_does_not_agree_with_subject_or_records_is_refused() {
        let cases: [(Whole, &str); 4] = [
            (whole(&[], |manifest| manifest.cluster_id = "c1".into()), "subject"),
            (whole(&[], |manifest| manifest.window = "w0-3600".into()), "subject"),
            (whole(&[], |manifest| manifest.records_sha256 = "00".into()), "records"),
            (whole(&[], |manifest| manifest.revision = 1), "sender: an Operator makes revision 0 only"),
        ];
        for (whole, what) in cases {
            assert_eq!(check(&whole, now()), Err(InvalidUsage::Disagrees(what)));
        }
    }

    #[test]
    fn the_rules_of_core_are_applied() {
        let refused = |whole: &Whole| check(whole, now()).unwrap_err();
        let count = whole(&[record(1, 5)], |manifest| manifest.record_count = 2);
        assert_eq!(refused(&count), InvalidWindow::RecordCount { signed: 2, found: 1 }.into());
        let totals = whole(&[record(1, 5)], |manifest| manifest.totals = record(0, 6).meters);
        assert_eq!(refused(&totals), InvalidWindow::Totals.into());
        let negative = InvalidRecord::Quantity { tenant: record(1, 0).tenant_id, meter: "podCountMs".into() };
        let checked =
            check(&whole(&[record(1, -5), record(2, 7)], |manifest| manifest.totals = record(0, 0).meters), now());
        let checked = checked.unwrap();
        assert_eq!((checked.set_aside, checked.rows.len()), (vec![negative.to_string()], 1));
        assert_eq!(checked.rows[0].quantities[Meter::Pods as usize], 7);
        let early = Timestamp::from_second(6000).unwrap();
        assert_eq!(check(&whole(&[], |_| {}), early), Err(InvalidWindow::Future.into()));
        assert_eq!(refused(&whole(&[], |manifest| manifest.coverage_ms += 1)), InvalidWindow::Coverage.into());
    }
}
