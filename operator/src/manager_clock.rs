//! The Manager's clock as last measured, for deadlines and for windows, which begin and end at the same moments in all clusters. While no
//! session is open the last measurement is the best one.
//!
//! From a measurement on the time goes by the monotonic clock, so a wall clock that is set within a session changes nothing
//! here. A machine that was suspended has lost time by it: then, and when deadlines do not make sense, it is measured again.

use jiff::Timestamp;
use kubenova_runtime::clock::{self, Reading};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The wall clock was set, or the machine suspended, when it is off by more than this since the measurement: time servers set a clock
/// at once when it is off by more, and adjust its pace otherwise.
const SET_MIN_MS: i64 = 3_000;
/// Measurements that are asked for are never closer: each is a new session, for which the Manager sends open commands again.
const ASK_INTERVAL: Duration = Duration::from_secs(60);

/// Cheap to clone. Unknown until the first session opens.
#[derive(Debug, Clone, Default)]
pub struct ManagerClock(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    measured: Option<Measured>,
    /// A deadline does not make sense: one of the clocks may be wrong.
    is_doubtful: bool,
    asked: Option<Reading>,
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    manager_ms: i64,
    at: Reading,
}

impl Measured {
    fn manager_ms(&self, now: &Reading) -> i64 {
        let elapsed = i64::try_from(now.elapsed_since(&self.at).as_millis()).unwrap_or(i64::MAX);
        self.manager_ms.saturating_add(elapsed)
    }
}

impl ManagerClock {
    /// Takes over what a hello has measured at this moment: this cluster's clock minus the Manager's.
    pub fn measured(&self, offset_ms: i64, at: Reading) {
        let mut state = self.state();
        state.measured = Some(Measured { manager_ms: at.wall_ms.saturating_sub(offset_ms), at });
        state.is_doubtful = false;
    }

    /// Has it measured again soon.
    pub fn doubt(&self) {
        self.state().is_doubtful = true;
    }

    /// Why it should be measured again now, if it should; asked for at most once a minute.
    #[must_use]
    pub fn wants_measurement(&self, now: Reading) -> Option<&'static str> {
        let mut state = self.state();
        let was_set = state.measured.is_some_and(|it| now.set_ahead_since_ms(&it.at).abs() > SET_MIN_MS);
        let why = match (was_set, state.is_doubtful) {
            (true, _) => "this cluster's clock was set, or its machine suspended",
            (false, true) => "commands arrive after their deadlines",
            (false, false) => return None,
        };
        if state.asked.is_some_and(|asked| now.elapsed_since(&asked) < ASK_INTERVAL) {
            return None;
        }
        state.asked = Some(now);
        Some(why)
    }

    /// The Manager's time; none when it was never measured.
    #[must_use]
    pub fn now(&self) -> Option<Timestamp> {
        self.at(&Reading::now())
    }

    /// The Manager's time, or this cluster's when it was never measured.
    #[must_use]
    pub fn now_or_local(&self) -> Timestamp {
        self.now().unwrap_or_else(clock::now)
    }

    /// This cluster's clock minus the Manager's; 0 when it was never measured.
    #[must_use]
    pub fn offset_ms(&self) -> i64 {
        self.offset_at_ms(&Reading::now())
    }

    /// The Manager's time, or this cluster's when it was never measured.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        let now = Reading::now();
        self.state().measured.map_or(now.wall_ms, |measured| measured.manager_ms(&now))
    }

    fn at(&self, now: &Reading) -> Option<Timestamp> {
        let measured = self.state().measured?;
        Timestamp::from_millisecond(measured.manager_ms(now)).ok()
    }

    fn offset_at_ms(&self, now: &Reading) -> i64 {
        self.state().measured.map_or(0, |measured| now.wall_ms.saturating_sub(measured.manager_ms(now)))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    /// So many seconds later, with the wall clock set ahead by so much.
    fn later(start: &Reading, seconds: u64, set_ms: i64) -> Reading {
        let elapsed = Duration::from_secs(seconds);
        let elapsed_ms = i64::try_from(elapsed.as_millis()).unwrap();
        Reading { wall_ms: start.wall_ms + elapsed_ms + set_ms, monotonic: start.monotonic + elapsed }
    }

    fn measured(offset_ms: i64) -> (ManagerClock, Reading) {
        let start = Reading { wall_ms: 1_000_000, ..Reading::now() };
        let clock = ManagerClock::default();
        clock.measured(offset_ms, start);
        (clock, start)
    }

    #[test]
    fn a_wall_clock_that_is_set_within_a_session_moves_no_deadline() {
        let (clock, start) = measured(500);
        for set_ms in [0, HOUR_MS, -HOUR_MS] {
            let now = later(&start, 10, set_ms);
            assert_eq!(clock.at(&now).unwrap().as_millisecond(), 1_009_500, "{set_ms}");
            assert_eq!(clock.offset_at_ms(&now), 500 + set_ms, "what the cluster's clock is off by is stated");
        }
    }

    #[test]
    fn a_clock_that_was_set_is_measured_again_at_most_once_a_minute() {
        let (clock, start) = measured(0);
        assert_eq!(clock.wants_measurement(later(&start, 600, 2_000)), None, "adjusted");
        assert!(clock.wants_measurement(later(&start, 601, -HOUR_MS)).is_some());
        assert_eq!(clock.wants_measurement(later(&start, 660, -HOUR_MS)), None, "asked for");
        assert!(clock.wants_measurement(later(&start, 661, -HOUR_MS)).is_some(), "no hello has come");
        let now = later(&start, 662, -HOUR_MS);
        clock.measured(-HOUR_MS, now);
        assert_eq!(clock.wants_measurement(later(&now, 600, 0)), None);
        assert_eq!(clock.at(&later(&now, 1, 0)).unwrap().as_millisecond(), 1_663_000);
    }

    #[test]
    fn deadlines_that_make_no_sense_ask_for_a_measurement() {
        let (clock, start) = measured(0);
        clock.doubt();
        assert!(clock.wants_measurement(later(&start, 1, 0)).is_some());
        clock.measured(0, later(&start, 2, 0));
        assert_eq!(clock.wants_measurement(later(&start, 600, 0)), None);
    }

    #[test]
    fn nothing_is_known_before_the_first_hello() {
        let clock = ManagerClock::default();
        assert_eq!((clock.now(), clock.offset_ms()), (None, 0));
        assert_eq!(clock.wants_measurement(Reading::now()), None);
    }
}
