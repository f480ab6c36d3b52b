//! Commands beside each other: those about different objects at once, those about one object one after the other.
//!
//! A record whose storing hangs, as behind a webhook that does not answer, then holds up only the commands about its own object.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex as StdMutex, PoisonError},
};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// Commands that are handled at once: storing one takes milliseconds, so more would only burden the API server.
pub(super) const LANES: usize = 16;

/// Which objects have a command that is being handled.
#[derive(Debug, Default)]
pub(super) struct Lanes(StdMutex<BTreeMap<String, Arc<Mutex<()>>>>);

impl Lanes {
    /// Waits until no other command with this name is being handled, and holds it until the guard is dropped.
    pub(super) async fn enter(&self, name: &str) -> OwnedMutexGuard<()> {
        let lane = {
            let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody is in those that only the map holds.
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
            Arc::clone(lanes.entry(name.to_owned()).or_default())
        };
        lane.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn one_object_has_one_command_at_a_time_and_others_do_not_wait() {
        let lanes = Lanes::default();
        let first = lanes.enter("a").await;
        assert!(lanes.enter("a").now_or_never().is_none());
        let _other = lanes.enter("b").now_or_never().expect("another object");
        drop(first);
        assert!(lanes.enter("a").now_or_never().is_some());
        let _again = lanes.enter("c").await;
        assert_eq!(lanes.0.lock().unwrap().len(), 2, "what is done is forgotten");
    }
}
