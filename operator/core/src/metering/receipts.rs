//! Whether a list of receipts is the Manager's, and what it changes in the sealed reports that are held.

use crate::command::Recipient;
use kubenova_schema::{
    message::{self, MessageError},
    mutant,
    signature::{AcceptedKeys, PayloadType, SignatureError},
    v1::ReceiptList,
    window::Window,
};
use std::collections::BTreeMap;

/// Why a list is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Unbelieved {
    /// Not signed by a key we accept.
    #[error("could not verify the signature of a list of receipts")]
    Signature(#[from] SignatureError),
    /// Signed, yet unreadable.
    #[error("could not read a signed list of receipts")]
    Body(#[from] MessageError),
    /// Signed for another cluster, or another Kubernetes cluster of this name.
    #[error("a list of receipts names another cluster")]
    OtherCluster,
}

/// Verifies the exact bytes, then reads them once: who forges a receipt has usage forgotten that was never billed.
///
/// # Errors
/// When nothing in it may be believed.
pub fn verify(
    body: &[u8],
    header: Option<&str>,
    keys: &AcceptedKeys,
    recipient: Recipient<'_>,
) -> Result<ReceiptList, Unbelieved> {
    keys.verify(PayloadType::Receipt, body, header)?;
    let list: ReceiptList = message::from_json(body)?;
    if list.cluster_id != recipient.cluster_id || list.cluster_uid != recipient.cluster_uid {
        return Err(Unbelieved::OtherCluster);
    }
    Ok(list)
}

/// A sealed report that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldReport<'a> {
    pub window: Window,
    pub manifest_sha256: &'a str,
    /// A receipt came for it.
    pub is_received: bool,
}

/// What changes for a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is in the ledger.
    Received,
    /// It was in the ledger and is not any more: the Manager's database was restored to an earlier point.
    Lost,
    /// Another report of the same window is in the ledger.
    Conflict,
}

/// Compares a list with the reports that are held. `is_newest`: no list was made after this one; an older one says nothing about
/// what is missing.
pub fn changes<'a>(
    list: &ReceiptList,
    held: impl IntoIterator<Item = HeldReport<'a>>,
    is_newest: bool,
) -> Vec<(Window, Change)> {
    let named = list.windows.iter().zip(&list.manifest_sha256);
    let named: BTreeMap<Window, &String> =
        named.filter_map(|(name, sha256)| Some((Window::parse(name)?, sha256))).collect();
    let complete =
        if is_newest || mutant::is_on("receipts.older-list") { list.complete_from..list.complete_until } else { 0..0 };
    let change = |report: HeldReport<'a>| match named.get(&report.window) {
        Some(sha256) if **sha256 != report.manifest_sha256 => (!report.is_received).then_some(Change::Conflict),
        Some(_) => (!report.is_received).then_some(Change::Received),
        None => (report.is_received && complete.contains(&report.window.start)).then_some(Change::Lost),
    };
    held.into_iter().filter_map(|report| Some((report.window, change(report)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u32 = 3600;

    fn window(start: i64) -> Window {
        Window { start, seconds: HOUR }
    }

    fn held(start: i64, manifest_sha256: &str, is_received: bool) -> HeldReport<'_> {
        HeldReport { window: window(start), manifest_sha256, is_received }
    }

    fn list(windows: &[(i64, &str)], complete: std::ops::Range<i64>) -> ReceiptList {
        ReceiptList {
            windows: windows.iter().map(|(start, _)| window(*start).to_string()).collect(),
            manifest_sha256: windows.iter().map(|(_, sha256)| (*sha256).to_owned()).collect(),
            complete_from: complete.start,
            complete_until: complete.end,
            ..ReceiptList::default()
        }
    }

    #[test]
    fn what_a_list_names_is_received_once_and_other_bytes_are_a_conflict() {
        let list = list(&[(0, "a"), (3600, "b"), (7200, "c")], 0..0);
        let reports = [held(0, "a", false), held(3600, "x", false), held(7200, "c", true), held(10800, "d", false)];
        let changes = changes(&list, reports, true);
        assert_eq!(changes, [(window(0), Change::Received), (window(3600), Change::Conflict)]);
    }

    #[test]
    fn what_a_newer_list_no_longer_names_in_its_range_is_sent_again() {
        let reports = || [held(0, "a", true), held(3600, "b", true), held(7200, "c", true), held(10800, "d", false)];
        let whole = list(&[(3600, "b")], 3600..14400);
        assert_eq!(changes(&whole, reports(), true), [(window(7200), Change::Lost)], "not the one before its range");
        assert_eq!(changes(&whole, reports(), false), [], "an older list may have been made before it came");
        assert_eq!(changes(&list(&[(3600, "b")], 0..0), reports(), true), [], "a list of the newest claims no range");
    }
}
