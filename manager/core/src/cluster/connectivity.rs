//! Whether a cluster is connected.

use jiff::{SignedDuration, Timestamp};

/// Whether a cluster is connected, by its heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Connectivity {
    /// It never opened a session, or this Manager has not been listening long enough to know.
    Unknown,
    /// Its heartbeat is fresh.
    Connected,
    /// Three heartbeats are missing; what is known of it is from before.
    Stale,
    /// It has sent no heartbeat for minutes.
    Offline,
}

/// Time without a heartbeat after which a cluster is stale: three heartbeats of 15 s (design §4).
pub const STALE_AFTER: SignedDuration = SignedDuration::from_secs(45);
/// Time without a heartbeat after which a cluster is offline.
pub const OFFLINE_AFTER: SignedDuration = SignedDuration::from_mins(5);

impl Connectivity {
    /// The text in REST.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Connected => "connected",
            Self::Stale => "stale",
            Self::Offline => "offline",
        }
    }

    /// By the time since the last heartbeat. A Manager that has been listening for less time than a limit does not
    /// apply it: it could not have received the heartbeat.
    #[must_use]
    pub fn of(last_heartbeat_at: Option<Timestamp>, listening_since: Timestamp, now: Timestamp) -> Self {
        let Some(last_heartbeat_at) = last_heartbeat_at else { return Self::Unknown };
        let silence = now.duration_since(last_heartbeat_at);
        let listened = now.duration_since(listening_since);
        if silence < STALE_AFTER {
            Self::Connected
        } else if listened < STALE_AFTER {
            Self::Unknown
        } else if silence < OFFLINE_AFTER || listened < OFFLINE_AFTER {
            Self::Stale
        } else {
            Self::Offline
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_applies_only_to_a_manager_that_listened_as_long() {
        let at = |second: i64| Timestamp::from_second(1_000_000 + second).unwrap();
        let long = at(-1_000_000);
        let of = |heartbeat, since| Connectivity::of(Some(at(heartbeat)), since, at(1000));
        assert_eq!(of(990, long), Connectivity::Connected);
        assert_eq!(of(950, long), Connectivity::Stale);
        assert_eq!(of(100, long), Connectivity::Offline);
        assert_eq!(of(100, at(990)), Connectivity::Unknown, "the Manager has just started");
        assert_eq!(of(100, at(900)), Connectivity::Stale);
        assert_eq!(Connectivity::of(None, long, at(0)), Connectivity::Unknown);
    }
}
