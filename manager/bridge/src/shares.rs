//! How much of something each one has, so that none takes all of it: handshakes of an address, connections of a cluster.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
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

/// Who connects, as far as its address says: one IPv4 address, or the /64 of an IPv6 address, all of which one host may use.
pub(crate) fn host(address: IpAddr) -> Ipv6Addr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)),
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
        drop(other);
        let taken = shares.taken.lock().unwrap();
        assert_eq!(*taken, BTreeMap::from([("a", 2)]), "who has nothing takes no memory");
    }

    #[test]
    fn one_host_has_one_address_of_ipv4_or_one_network_of_ipv6() {
        let read = |text: &str| host(text.parse().unwrap());
        assert_eq!(read("192.0.2.1"), read("::ffff:192.0.2.1"));
        assert_ne!(read("192.0.2.1"), read("192.0.2.2"));
        assert_eq!(read("2001:db8::1"), read("2001:db8::ffff:0:0:1"));
        assert_ne!(read("2001:db8::1"), read("2001:db8:0:1::1"));
    }
}
