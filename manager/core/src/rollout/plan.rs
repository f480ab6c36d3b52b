//! What a request for a rollout may ask for, and the wave of each cluster.

use crate::{
    cluster::{Cluster, ClusterId},
    refusal::{Reason, Refusal},
};
use jiff::SignedDuration;
use std::collections::{BTreeMap, BTreeSet};

/// Most clusters of one rollout: each step reads all of them, and their states are one answer.
pub const CLUSTERS_MAX: usize = 1000;
/// Longest pause between two waves.
pub const PAUSE_MAX_SECONDS: u32 = 7 * 24 * 3600;
/// Time for one cluster when the request does not say: images are pulled, and replicas change one after the other.
pub const PROGRESS_DEADLINE_DEFAULT_SECONDS: u32 = 900;
/// Shortest time for one cluster: a component that becomes ready at once is reported within half a minute.
pub const PROGRESS_DEADLINE_MIN_SECONDS: u32 = 30;
/// Longest time for one cluster.
pub const PROGRESS_DEADLINE_MAX_SECONDS: u32 = 24 * 3600;

/// A part of the clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// So many.
    Count(u32),
    /// Of a hundred, rounded up.
    Percent(u32),
}

impl Amount {
    /// Reads what a caller wrote in `field`, where one of both must stand.
    ///
    /// # Errors
    /// With [`Reason::FieldInvalid`].
    pub fn read(count: Option<u32>, percent: Option<u32>, field: &str) -> Result<Self, Refusal> {
        let refuse = |at: &str, why: &str| Err(Refusal::at(Reason::FieldInvalid, format!("{field}{at}"), why));
        match (count, percent) {
            (Some(0), None) => refuse("/count", "count is 0, it must be at least 1"),
            (Some(count), None) => Ok(Self::Count(count)),
            (None, Some(percent)) if !(1..=100).contains(&percent) => {
                refuse("/percent", "percent must be from 1 to 100")
            }
            (None, Some(percent)) => Ok(Self::Percent(percent)),
            _ => refuse("", "give either count or percent"),
        }
    }

    /// How many of these, at least one.
    #[must_use]
    pub fn of(self, total: usize) -> usize {
        let many = match self {
            Self::Count(count) => usize::try_from(count).unwrap_or(usize::MAX),
            Self::Percent(percent) => total.saturating_mul(usize::try_from(percent).unwrap_or(100)).div_ceil(100),
        };
        many.clamp(1, total.max(1))
    }
}

/// The wave of each of `total` clusters, in their order: first the canary, then batches; without a size all the others at once.
#[must_use]
pub fn waves(total: usize, canary: Option<Amount>, batch: Option<Amount>) -> Vec<u32> {
    let canary = canary.map_or(0, |amount| amount.of(total));
    let batch = batch.map_or(total.max(1), |amount| amount.of(total));
    let first = u32::from(canary > 0);
    let wave = |index: usize| match index.checked_sub(canary) {
        None => 0,
        Some(after) => first + u32::try_from(after / batch).unwrap_or(u32::MAX - 1),
    };
    (0..total).map(wave).collect()
}

/// The length of a pause in seconds that a caller chose.
///
/// # Errors
/// With [`Reason::FieldInvalid`].
pub fn pause(seconds: Option<u32>) -> Result<SignedDuration, Refusal> {
    within(seconds.unwrap_or(0), 0, PAUSE_MAX_SECONDS, "pauseSeconds")
}

/// The time for one cluster in seconds that a caller chose.
///
/// # Errors
/// With [`Reason::FieldInvalid`].
pub fn progress_deadline(seconds: Option<u32>) -> Result<SignedDuration, Refusal> {
    let seconds = seconds.unwrap_or(PROGRESS_DEADLINE_DEFAULT_SECONDS);
    within(seconds, PROGRESS_DEADLINE_MIN_SECONDS, PROGRESS_DEADLINE_MAX_SECONDS, "progressDeadlineSeconds")
}

fn within(seconds: u32, min: u32, max: u32, field: &str) -> Result<SignedDuration, Refusal> {
    if (min..=max).contains(&seconds) {
        return Ok(SignedDuration::from_secs(i64::from(seconds)));
    }
    let detail = format!("{field} is {seconds}, possible is {min} to {max}");
    Err(Refusal::at(Reason::FieldInvalid, format!("/{field}"), detail))
}

/// Which clusters a rollout is for, as its request says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// These, by id or name.
    pub names: Vec<String>,
    /// And those that have all of these labels; none when empty.
    pub labels: BTreeMap<String, String>,
}

impl Selection {
    /// Whether a cluster has all the labels.
    #[must_use]
    pub fn has_labels(&self, cluster: &Cluster) -> bool {
        !self.labels.is_empty() && self.labels.iter().all(|(key, value)| cluster.labels.get(key) == Some(value))
    }

    /// The clusters, each once: those named, in the order of the request, then the others by age. Whoever names a cluster means it, so
    /// that one which takes no changes is refused; labels pass such a cluster over.
    ///
    /// # Errors
    /// With [`Reason::ClusterNotFound`], [`Reason::ClusterNotUsable`], and [`Reason::FieldInvalid`] when there is none, or are too many.
    pub fn choose(&self, all: &[Cluster]) -> Result<Vec<(ClusterId, String)>, Refusal> {
        let mut seen = BTreeSet::new();
        let mut chosen = Vec::new();
        for (index, name) in self.names.iter().enumerate() {
            let found = all.iter().find(|cluster| cluster.id.as_str() == name || cluster.name.as_str() == name);
            let field = format!("/clusters/names/{index}");
            let cluster = found.ok_or_else(|| {
                Refusal::at(Reason::ClusterNotFound, field.clone(), format!("there is no cluster {name:?}"))
            })?;
            if !cluster.state.takes_changes() {
                let detail = format!("cluster \"{}\" is {}", cluster.name, cluster.state.as_str());
                return Err(Refusal::at(Reason::ClusterNotUsable, field, detail));
            }
            if seen.insert(cluster.id.clone()) {
                chosen.push((cluster.id.clone(), cluster.name.to_string()));
            }
        }
        for cluster in all.iter().filter(|cluster| cluster.state.takes_changes() && self.has_labels(cluster)) {
            if seen.insert(cluster.id.clone()) {
                chosen.push((cluster.id.clone(), cluster.name.to_string()));
            }
        }
        let refuse = |detail: String| Err(Refusal::at(Reason::FieldInvalid, "/clusters", detail));
        match chosen.len() {
            0 => refuse("no cluster is chosen: name clusters in names, or give labels that clusters have".to_owned()),
            many if many > CLUSTERS_MAX => {
                refuse(format!("{many} clusters are chosen, the most is {CLUSTERS_MAX}: begin several rollouts"))
            }
            _ => Ok(chosen),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{ClusterName, ClusterState, example};

    #[test]
    fn an_amount_is_a_count_or_a_percentage_of_at_least_one() {
        assert_eq!(Amount::read(Some(3), None, "/canary"), Ok(Amount::Count(3)));
        assert_eq!(Amount::read(None, Some(100), "/canary"), Ok(Amount::Percent(100)));
        for (count, percent, pointer) in [
            (None, None, "/canary"),
            (Some(1), Some(1), "/canary"),
            (Some(0), None, "/canary/count"),
            (None, Some(0), "/canary/percent"),
            (None, Some(101), "/canary/percent"),
        ] {
            let refused = Amount::read(count, percent, "/canary").unwrap_err();
            assert_eq!(refused.field.as_deref(), Some(pointer), "{count:?} {percent:?}");
        }
        assert_eq!((Amount::Percent(1).of(10), Amount::Percent(25).of(10), Amount::Percent(100).of(10)), (1, 3, 10));
        assert_eq!((Amount::Count(3).of(2), Amount::Count(3).of(10)), (2, 3));
    }

    #[test]
    fn waves_are_a_canary_then_batches() {
        let of = |canary, batch| waves(7, canary, batch);
        assert_eq!(of(None, None), [0; 7]);
        assert_eq!(of(Some(Amount::Count(1)), None), [0, 1, 1, 1, 1, 1, 1]);
        assert_eq!(of(Some(Amount::Count(2)), Some(Amount::Count(2))), [0, 0, 1, 1, 2, 2, 3]);
        assert_eq!(of(None, Some(Amount::Percent(50))), [0, 0, 0, 0, 1, 1, 1]);
        assert_eq!(of(Some(Amount::Percent(100)), Some(Amount::Count(1))), [0; 7]);
        assert_eq!(waves(0, None, None), [0; 0]);
    }

    #[test]
    fn times_have_bounds() {
        assert_eq!(pause(None), Ok(SignedDuration::ZERO));
        assert_eq!(progress_deadline(None).unwrap().as_secs(), 900);
        assert_eq!(pause(Some(604_801)).unwrap_err().field.as_deref(), Some("/pauseSeconds"));
        for bad in [29, 86_401] {
            assert_eq!(progress_deadline(Some(bad)).unwrap_err().field.as_deref(), Some("/progressDeadlineSeconds"));
        }
    }

    fn clusters() -> Vec<Cluster> {
        let cluster = |number: u128, name: &str, tier: &str, state| Cluster {
            name: ClusterName::parse(name).unwrap(),
            labels: BTreeMap::from([("tier".to_owned(), tier.to_owned())]),
            state,
            ..example(number)
        };
        vec![
            cluster(1, "a", "gold", ClusterState::Enrolled),
            cluster(2, "b", "gold", ClusterState::Purged),
            cluster(3, "c", "iron", ClusterState::PendingBootstrap),
            cluster(4, "d", "gold", ClusterState::Quarantined),
        ]
    }

    #[test]
    fn clusters_are_chosen_by_name_first_and_each_once() {
        let choose = |names: &[&str], labels: &[(&str, &str)]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let chosen = Selection { names, labels }.choose(&clusters())?;
            Ok::<_, Refusal>(chosen.into_iter().map(|(_, name)| name).collect::<Vec<_>>())
        };
        assert_eq!(choose(&["d", "c", "d"], &[("tier", "gold")]).unwrap(), ["d", "c", "a"]);
        assert_eq!(choose(&[], &[("tier", "gold")]).unwrap(), ["a", "d"], "a purged one has no part in it");
        let refused = |names: &[&str], labels: &[(&str, &str)]| {
            let refusal = choose(names, labels).unwrap_err();
            (refusal.reason, refusal.field.unwrap())
        };
        assert_eq!(refused(&["a", "x"], &[]), (Reason::ClusterNotFound, "/clusters/names/1".to_owned()));
        assert_eq!(refused(&["b"], &[]), (Reason::ClusterNotUsable, "/clusters/names/0".to_owned()));
        assert_eq!(refused(&[], &[]), (Reason::FieldInvalid, "/clusters".to_owned()));
        assert_eq!(refused(&[], &[("tier", "gold"), ("zone", "x")]), (Reason::FieldInvalid, "/clusters".to_owned()));
    }
}
