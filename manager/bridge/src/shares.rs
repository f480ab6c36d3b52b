//! How much of something each one has, so that none takes all of it: handshakes of an address, connections and sessions of a cluster.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// What each one has taken.
#[derive(Debug)]
pub(crate) struct Shares<K> {
    most: usize,
    taken: Mutex<BTreeMap<K, usize>>,
}

impl<K: Ord + Clone> Shares<K> {
    /// Each may take so many.
    pub(crate) const fn new(most: usize) -> Self {
        Self { most, taken: Mutex::new(BTreeMap::new()) }
    }

    /// One more for this one; none when it has as many as it may.
    pub(crate) fn take(self: &Arc<Self>, of: &K) -> Option<Share<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.get(of).copied().unwrap_or_default();
        if count >= self.most {
            return None;
        }
        taken.insert(of.clone(), count + 1);
        drop(taken);
        Some(Share { of: of.clone(), shares: Arc::clone(self) })
    }

    /// How many have taken something.
    pub(crate) fn takers(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// One that is taken, until the value is dropped.
#[derive(Debug)]
pub(crate) struct Share<K: Ord> {
    of: K,
    shares: Arc<Shares<K>>,
}

impl<K: Ord> Drop for Share<K> {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.of) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_share_and_gives_it_back() {
        let shares = Arc::new(Shares::new(2));
        let (first, _second) = (shares.take(&"a").unwrap(), shares.take(&"a").unwrap());
        assert!(shares.take(&"a").is_none());
        let other = shares.take(&"b").unwrap();
        drop(first);
        let _again = shares.take(&"a").unwrap();
        assert!(shares.take(&"a").is_none());
        assert_eq!(shares.takers(), 2);
        drop(other);
        let taken = shares.taken.lock().unwrap();
        assert_eq!(*taken, BTreeMap::from([("a", 2)]), "who has nothing takes no memory");
    }
}
