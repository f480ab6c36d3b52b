//! Usage: whether a sealed window can be counted, and which of its records.
//!
//! A record that cannot be right is set aside alone: the sealed bytes can never change, so refusing the window would leave the
//! usage of all other tenants uncounted for good. Decoding and the signature are checked before
//! (`manager/src/ingest/usage`).

use crate::tenant::{TenantId, TenantName};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// A window may end this long after our own clock says so: a cluster whose clock differs more is not in session either.
pub const AHEAD_MAX: SignedDuration = SignedDuration::from_mins(5);

/// Difference of clocks from which the window's rows say so: above what NTP leaves, below what matters for an hour.
pub const SKEW_MAX_MS: u64 = 2_000;

/// Highest level of any meter: an exabyte of memory. With it a quintillion windows still add up in 39 digits.
pub const LEVEL_MAX: i128 = 1_000_000_000_000_000_000;

/// A window as its cluster sealed it, as far as it decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedWindow<'a> {
    /// First instant, in milliseconds since the Unix epoch.
    pub start_ms: i64,
    /// First instant after it.
    pub end_ms: i64,
    /// Milliseconds in which the cluster observed everything.
    pub coverage_ms: u64,
    /// Spans that were not observed, first and last instant.
    pub gaps: Vec<(i64, i64)>,
    /// Operator clock minus Manager clock.
    pub clock_offset_ms: i64,
    /// Number of records that the cluster signed for.
    pub record_count: u32,
    /// Sum of each meter that the cluster signed for.
    pub totals: &'a BTreeMap<String, String>,
    /// One a tenant.
    pub records: Vec<Record<'a>>,
}

/// What a cluster says one tenant used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// The tenant's id.
    pub tenant_id: &'a str,
    /// Its name at that time.
    pub tenant_name: &'a str,
    /// Quantity of each meter, as decimal text.
    pub meters: &'a BTreeMap<String, String>,
}

/// What one tenant used, in the order of the meters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantUsage<const METERS: usize> {
    /// The tenant.
    pub tenant: TenantId,
    /// Its name at that time.
    pub name: TenantName,
    /// Level times milliseconds of each meter.
    pub quantities: [i128; METERS],
}

/// A window whose records were checked one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedRecords<const METERS: usize> {
    /// What each tenant used, with the place of its record.
    pub used: Vec<(usize, TenantUsage<METERS>)>,
    /// Why the other records can never be counted.
    pub set_aside: Vec<InvalidRecord>,
}

/// What a reader must know about the rows of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    /// Part of the window was not observed.
    Gap,
    /// The cluster's clock was off by more than [`SKEW_MAX_MS`].
    Skew,
}

impl Quality {
    /// The text in the ledger, in REST and in billing events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Skew => "skew",
        }
    }
}

/// Why a window can never be counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWindow {
    /// It is not over.
    #[error("the window is not over yet: check the clock of the cluster's nodes")]
    Future,
    /// More was covered than there is, or a gap lies outside.
    #[error("coverage or a gap does not lie within the window")]
    Coverage,
    /// Not as many records as signed for.
    #[error("the manifest is signed for {signed} records, the message has {found}")]
    RecordCount {
        /// As signed.
        signed: u32,
        /// As sent.
        found: usize,
    },
    /// The records do not add up to what was signed for.
    #[error("the records do not add up to the manifest's totals")]
    Totals,
}

/// Why a record can never be counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRecord {
    /// A tenant id that is none, or stands twice.
    #[error("tenant id \"{0}\" is not a UUID or occurs twice")]
    Tenant(String),
    /// A tenant's name that is none.
    #[error("the name of tenant \"{0}\" is not a tenant's name")]
    Name(String),
    /// A quantity that is missing, no number, negative, or more than there can be; or a meter that is not known.
    #[error("{meter} of tenant \"{tenant}\" is missing, unknown or no possible quantity")]
    Quantity {
        /// The tenant.
        tenant: String,
        /// The meter.
        meter: String,
    },
}

/// Checks a window and returns what each tenant used. `meters` names all meters, in the order of the quantities.
///
/// # Errors
/// With the first thing about the window that does not fit. That the records add up is checked when all quantities can be
/// read.
pub fn check<const METERS: usize>(
    window: &SealedWindow<'_>,
    meters: [&'static str; METERS],
    now: Timestamp,
) -> Result<CheckedRecords<METERS>, InvalidWindow> {
    let ahead_ms = window.end_ms.saturating_sub(now.as_millisecond());
    if SignedDuration::from_millis(ahead_ms) > AHEAD_MAX {
        return Err(InvalidWindow::Future);
    }
    let length_ms = window.end_ms - window.start_ms;
    let outside = |(from, to): &(i64, i64)| *from < window.start_ms || *to > window.end_ms || to < from;
    if i64::try_from(window.coverage_ms).map_or(true, |covered| covered > length_ms) || window.gaps.iter().any(outside)
    {
        return Err(InvalidWindow::Coverage);
    }
    if usize::try_from(window.record_count).ok() != Some(window.records.len()) {
        return Err(InvalidWindow::RecordCount { signed: window.record_count, found: window.records.len() });
    }
    let read: Vec<_> =
        window.records.iter().map(|record| quantities(record.tenant_id, record.meters, meters)).collect();
    let signed = quantities("total", window.totals, meters).map_err(|_| InvalidWindow::Totals)?;
    if read.iter().all(Result::is_ok) && total(read.iter().flatten()) != signed {
        return Err(InvalidWindow::Totals);
    }
    let most = LEVEL_MAX * i128::from(length_ms);
    let mut seen = BTreeSet::new();
    let mut checked = CheckedRecords { used: Vec::new(), set_aside: Vec::new() };
    for (place, (record, quantities)) in window.records.iter().zip(read).enumerate() {
        let used = quantities.and_then(|quantities| tenant_usage(record, quantities, meters, most));
        match used {
            Ok(used) if seen.insert(used.tenant.0) => checked.used.push((place, used)),
            Ok(_) => checked.set_aside.push(InvalidRecord::Tenant(record.tenant_id.to_owned())),
            Err(invalid) => checked.set_aside.push(invalid),
        }
    }
    Ok(checked)
}

/// What a reader must know about the rows of this window.
#[must_use]
pub fn qualities(window: &SealedWindow<'_>) -> Vec<Quality> {
    let gap = (!window.gaps.is_empty()).then_some(Quality::Gap);
    let skew = (window.clock_offset_ms.unsigned_abs() > SKEW_MAX_MS).then_some(Quality::Skew);
    gap.into_iter().chain(skew).collect()
}

fn tenant_usage<const METERS: usize>(
    record: &Record<'_>,
    quantities: [i128; METERS],
    meters: [&'static str; METERS],
    most: i128,
) -> Result<TenantUsage<METERS>, InvalidRecord> {
    let id = || record.tenant_id.to_owned();
    let tenant = TenantId::parse(record.tenant_id).ok_or_else(|| InvalidRecord::Tenant(id()))?;
    let name = TenantName::parse(record.tenant_name).map_err(|_| InvalidRecord::Name(id()))?;
    match meters.into_iter().zip(quantities).find(|(_, quantity)| *quantity > most) {
        Some((meter, _)) => Err(InvalidRecord::Quantity { tenant: id(), meter: meter.to_owned() }),
        None => Ok(TenantUsage { tenant, name, quantities }),
    }
}

/// Every meter, none negative. A meter that this release does not know is refused: it could not be billed.
fn quantities<const METERS: usize>(
    tenant: &str,
    given: &BTreeMap<String, String>,
    meters: [&'static str; METERS],
) -> Result<[i128; METERS], InvalidRecord> {
    let bad = |meter: &str| InvalidRecord::Quantity { tenant: tenant.to_owned(), meter: meter.to_owned() };
    if let Some(unknown) = given.keys().find(|name| !meters.contains(&name.as_str())) {
        return Err(bad(unknown));
    }
    let mut quantities = [0; METERS];
    for (quantity, meter) in quantities.iter_mut().zip(meters) {
        let parsed = given.get(meter).and_then(|text| text.parse().ok());
        *quantity = parsed.filter(|value: &i128| *value >= 0).ok_or_else(|| bad(meter))?;
    }
    Ok(quantities)
}

fn total<'a, const METERS: usize>(all: impl Iterator<Item = &'a [i128; METERS]>) -> [i128; METERS] {
    let mut totals = [0_i128; METERS];
    for quantities in all {
        for (total, quantity) in totals.iter_mut().zip(quantities) {
            *total = total.saturating_add(*quantity);
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    const METERS: [&str; 2] = ["cpu", "pods"];
    const HOUR_MS: i64 = 3_600_000;

    fn meters(pods: i128) -> BTreeMap<String, String> {
        [("cpu".to_owned(), "0".to_owned()), ("pods".to_owned(), pods.to_string())].into()
    }

    struct Given {
        tenants: Vec<(String, String, BTreeMap<String, String>)>,
        totals: BTreeMap<String, String>,
    }

    fn given(pods: &[i128]) -> Given {
        let tenants = pods
            .iter()
            .zip(1_u128..)
            .map(|(pods, id)| (Uuid::from_u128(id).to_string(), "acme".to_owned(), meters(*pods)));
        Given { tenants: tenants.collect(), totals: meters(pods.iter().sum()) }
    }

    impl Given {
        /// The second hour of the epoch.
        fn window(&self) -> SealedWindow<'_> {
            SealedWindow {
                start_ms: HOUR_MS,
                end_ms: 2 * HOUR_MS,
                coverage_ms: 3_600_000,
                gaps: Vec::new(),
                clock_offset_ms: 0,
                record_count: u32::try_from(self.tenants.len()).unwrap(),
                totals: &self.totals,
                records: self
                    .tenants
                    .iter()
                    .map(|(tenant_id, tenant_name, meters)| Record { tenant_id, tenant_name, meters })
                    .collect(),
            }
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_millisecond(2 * HOUR_MS).unwrap()
    }

    proptest! {
        #[test]
        fn records_that_add_up_are_counted_as_they_are(pods in proptest::collection::vec(0..=LEVEL_MAX, 0..20)) {
            let given = given(&pods);
            let checked = check(&given.window(), METERS, now()).unwrap();
            prop_assert_eq!(checked.used.iter().map(|(_, one)| one.quantities[1]).collect::<Vec<_>>(), pods);
            prop_assert!(checked.set_aside.is_empty());
        }
    }

    #[test]
    fn gaps_and_skew_are_stated() {
        let given = given(&[5]);
        assert_eq!(qualities(&given.window()), []);
        let gap = SealedWindow { gaps: vec![(HOUR_MS, HOUR_MS + 1000)], ..given.window() };
        assert!(check(&gap, METERS, now()).is_ok());
        assert_eq!(qualities(&gap), [Quality::Gap]);
        let both = SealedWindow { clock_offset_ms: -2_001, ..gap };
        assert_eq!(qualities(&both).into_iter().map(Quality::as_str).collect::<Vec<_>>(), ["gap", "skew"]);
    }

    #[test]
    fn a_window_that_is_not_over_or_covers_more_than_itself_is_refused() {
        let given = given(&[5]);
        let refused = |window: SealedWindow<'_>| check(&window, METERS, now()).unwrap_err();
        let early = Timestamp::from_millisecond(2 * HOUR_MS - 300_001).unwrap();
        assert_eq!(check(&given.window(), METERS, early), Err(InvalidWindow::Future));
        assert_eq!(refused(SealedWindow { coverage_ms: 3_600_001, ..given.window() }), InvalidWindow::Coverage);
        assert_eq!(refused(SealedWindow { coverage_ms: u64::MAX, ..given.window() }), InvalidWindow::Coverage);
        for gap in [(0, HOUR_MS + 1), (HOUR_MS, 2 * HOUR_MS + 1), (HOUR_MS + 2, HOUR_MS + 1)] {
            assert_eq!(refused(SealedWindow { gaps: vec![gap], ..given.window() }), InvalidWindow::Coverage);
        }
    }

    #[test]
    fn records_that_do_not_fit_what_was_signed_are_refused() {
        let refused = |given: &Given| check(&given.window(), METERS, now()).unwrap_err();
        let one = given(&[5]);
        let counted = SealedWindow { record_count: 2, ..one.window() };
        assert_eq!(check(&counted, METERS, now()), Err(InvalidWindow::RecordCount { signed: 2, found: 1 }));
        assert_eq!(refused(&Given { totals: meters(6), ..given(&[5]) }), InvalidWindow::Totals);
        let unreadable = Given { totals: BTreeMap::new(), ..given(&[5]) };
        assert_eq!(refused(&unreadable), InvalidWindow::Totals);
    }

    /// The reason of the first record, which is set aside while the second is counted.
    fn set_aside(change: impl FnOnce(&mut (String, String, BTreeMap<String, String>))) -> InvalidRecord {
        let mut given = given(&[5, 7]);
        change(&mut given.tenants[0]);
        let mut checked = check(&given.window(), METERS, now()).unwrap();
        let counted: Vec<_> = checked.used.iter().map(|(place, one)| (*place, one.quantities[1])).collect();
        assert_eq!(counted, [(1, 7)], "the other record of the window is counted");
        checked.set_aside.remove(0)
    }

    #[test]
    fn a_record_that_cannot_be_right_is_set_aside_alone() {
        let first = Uuid::from_u128(1).to_string();
        assert_eq!(set_aside(|record| record.0 = "acme".to_owned()), InvalidRecord::Tenant("acme".to_owned()));
        assert_eq!(set_aside(|record| record.1 = "a\0b".to_owned()), InvalidRecord::Name(first));
        let mut twice = given(&[5, 5]);
        twice.tenants[1].0 = twice.tenants[0].0.clone();
        let checked = check(&twice.window(), METERS, now()).unwrap();
        assert_eq!((checked.used.len(), checked.used[0].0), (1, 0), "the first one counts");
        assert_eq!(checked.set_aside, [InvalidRecord::Tenant(twice.tenants[0].0.clone())]);
    }

    #[test]
    fn a_quantity_that_cannot_be_is_set_aside_by_its_name() {
        let meter = |change: fn(&mut BTreeMap<String, String>)| match set_aside(|record| change(&mut record.2)) {
            InvalidRecord::Quantity { meter, .. } => meter,
            other => panic!("{other:?}"),
        };
        assert_eq!(meter(|meters| meters.extend([("pods".to_owned(), "-5".to_owned())])), "pods");
        assert_eq!(meter(|meters| meters.extend([("pods".to_owned(), "1e3".to_owned())])), "pods");
        assert_eq!(meter(|meters| meters.extend([("gpus".to_owned(), "1".to_owned())])), "gpus");
        assert_eq!(meter(|meters| drop(meters.remove("cpu"))), "cpu");
        let most = LEVEL_MAX * i128::from(HOUR_MS);
        assert_eq!(check(&given(&[most]).window(), METERS, now()).unwrap().used.len(), 1);
        let beyond = check(&given(&[most + 1]).window(), METERS, now()).unwrap();
        assert!(matches!(beyond.set_aside[..], [InvalidRecord::Quantity { .. }]) && beyond.used.is_empty());
    }
}
