//! How long to wait before trying again: exponential with full jitter, bounded.

use backon::{BackoffBuilder as _, ExponentialBuilder};
use std::time::Duration;

/// Waits between attempts of something that must succeed in the end: 0.2 s doubling to 15 s, jittered, without end.
/// 15 s keeps a healed link's first success within one heartbeat.
pub fn forever() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(15))
        .with_jitter()
        .without_max_times()
        .build()
}
