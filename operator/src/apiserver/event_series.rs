//! Which events were published lately: the same again is counted in the one that is there, as `kubectl describe` shows it
//! (`x5 over 3m`), and is no event of its own.

use jiff::{SignedDuration, Timestamp};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// An event that was not seen for so long begins again, as with Kubernetes' own controllers.
const SERIES_MAX: SignedDuration = SignedDuration::from_mins(6);
/// Events that are remembered. Beyond it all are forgotten, which costs one event more each.
const REMEMBERED_MAX: usize = 1_000;

/// What makes two events the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EventKey {
    /// The object, by kind, namespace, name and UID.
    pub(super) about: [String; 4],
    pub(super) kind: &'static str,
    pub(super) reason: String,
    pub(super) note: String,
}

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct EventSeries(Arc<Mutex<BTreeMap<EventKey, Seen>>>);

#[derive(Debug)]
struct Seen {
    name: String,
    count: i32,
    last: Timestamp,
}

impl EventSeries {
    /// The name of the event that is there already, and how often it was seen with this time; none when it begins a series.
    pub(super) fn again(&self, key: &EventKey, now: Timestamp) -> Option<(String, i32)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, seen| now.duration_since(seen.last) < SERIES_MAX);
        let seen = all.get_mut(key)?;
        seen.count = seen.count.saturating_add(1);
        seen.last = now;
        Some((seen.name.clone(), seen.count))
    }

    /// The event was published for the first time.
    pub(super) fn began(&self, key: EventKey, name: String, now: Timestamp) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED_MAX {
            all.clear();
        }
        all.insert(key, Seen { name, count: 1, last: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(note: &str) -> EventKey {
        let about = ["NovaTenant", "", "acme", "u"].map(str::to_owned);
        EventKey { about, kind: "Warning", reason: "NamespaceTaken".to_owned(), note: note.to_owned() }
    }

    fn at(minute: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minute)
    }

    #[test]
    fn the_same_again_is_counted_and_another_message_is_another_event() {
        let series = EventSeries::default();
        assert_eq!(series.again(&key("a"), at(0)), None);
        series.began(key("a"), "acme.1".to_owned(), at(0));
        assert_eq!(series.again(&key("a"), at(5)), Some(("acme.1".to_owned(), 2)));
        assert_eq!(series.again(&key("a"), at(10)), Some(("acme.1".to_owned(), 3)), "each keeps the series going");
        assert_eq!(series.again(&key("b"), at(10)), None, "its remedy is another one");
        assert_eq!(series.again(&key("a"), at(16)), None, "a series that has ended");
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let series = EventSeries::default();
        for number in 0..=REMEMBERED_MAX {
            series.began(key(&number.to_string()), String::new(), at(0));
        }
        assert_eq!(series.0.lock().unwrap().len(), 1);
    }
}
