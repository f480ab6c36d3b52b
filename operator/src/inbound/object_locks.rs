//! Commands beside each other: those about different objects at once, those about one object one after the other.
//!
//! A record whose storing hangs, as behind a webhook that does not answer, then holds up only the commands about its own object.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex as StdMutex, PoisonError},
};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// Commands that are handled at once: storing one takes milliseconds, so more would only burden the API server.
pub(super) const COMMANDS_AT_ONCE: usize = 16;

/// Which objects have a command that is being handled.
#[derive(Debug, Default)]
pub(super) struct ObjectLocks(StdMutex<BTreeMap<String, Arc<Mutex<()>>>>);

impl ObjectLocks {
    /// Waits until no other command with this name is being handled, and holds it until the guard is dropped.
    pub(super) async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        let own = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // What only the map holds is locked by no command.
            all.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(all.entry(name.to_owned()).or_default())
        };
        own.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn one_object_has_one_command_at_a_time_and_others_do_not_wait() {
        let locks = ObjectLocks::default();
        let first = locks.lock("a").await;
        assert!(locks.lock("a").now_or_never().is_none());
        let _other = locks.lock("b").now_or_never().expect("another object");
        drop(first);
        assert!(locks.lock("a").now_or_never().is_some());
        let _again = locks.lock("c").await;
        assert_eq!(locks.0.lock().unwrap().len(), 2, "what is done is forgotten");
    }
}
