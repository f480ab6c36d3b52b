//! How many connections are open at once. Each is a file descriptor of the process, and so is what Postgres, the broker and the key files
//! need: without a limit whoever reaches the port could use all of them up.
//!
//! Before it: a listener has accepted a connection. After it: its TLS handshake (`serve.rs`).

use kubenova_core::rate_limit::{Bucket, Rate};
use kubenova_runtime::{open_files, peer::Peer};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Of all addresses together. A cluster opens a connection for each request and closes it, a browser keeps one.
const OF_ALL_MAX: usize = 8192;
/// Of one address: a thousand clusters behind one may enroll at once.
const OF_PEER_MAX: usize = 1024;
/// Connections that were refused are logged so often, with their number.
const LOGGED: Rate = Rate { burst: 1, refill: Duration::from_mins(1) };

/// The slots of connections. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionSlots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    start: Instant,
    of_all_max: usize,
    of_peer_max: usize,
    open: Mutex<Open>,
}

/// What is open, and what was not let in.
#[derive(Debug, Default)]
struct Open {
    of_all: usize,
    of_peers: BTreeMap<Peer, usize>,
    refused: u64,
    logged: Bucket,
}

/// A slot of one connection; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    slots: ConnectionSlots,
    peer: Peer,
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut guard = self.slots.open();
        let open = &mut *guard;
        open.of_all -= 1;
        if let Entry::Occupied(mut of_peer) = open.of_peers.entry(self.peer) {
            *of_peer.get_mut() -= 1;
            if *of_peer.get() == 0 {
                of_peer.remove();
            }
        }
    }
}

impl ConnectionSlots {
    /// As many as leave half of the files that this process may open to everything else.
    pub(crate) fn of_process() -> Self {
        let (of_all_max, of_peer_max) = of_files(open_files::limit().unwrap_or(u64::MAX));
        Self::new(of_all_max, of_peer_max)
    }

    /// So many of all addresses, and of each.
    pub(crate) fn new(of_all_max: usize, of_peer_max: usize) -> Self {
        Self(Arc::new(Inner { start: Instant::now(), of_all_max, of_peer_max, open: Mutex::default() }))
    }

    /// A slot for a connection from this address; none when too many are open.
    pub(crate) fn take(&self, address: IpAddr) -> Option<ConnectionSlot> {
        let peer = Peer::from(address);
        let (refused, of_all, of_peer) = {
            let mut guard = self.open();
            let open = &mut *guard;
            let of_peer = open.of_peers.get(&peer).copied().unwrap_or_default();
            if open.of_all < self.0.of_all_max && of_peer < self.0.of_peer_max {
                open.of_all += 1;
                open.of_peers.insert(peer, of_peer + 1);
                return Some(ConnectionSlot { slots: self.clone(), peer });
            }
            (open.refuse(self.0.start.elapsed()), open.of_all, of_peer)
        };
        if let Some(refused) = refused {
            tracing::warn!(
                refused, peer = %address.to_canonical(), open = of_all, open_from_peer = of_peer,
                "closed new connections at once, the last one from this address: the process has as many open as its limit of open files \
                 allows, or one address has more than its part"
            );
        }
        None
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Counts a connection that is not let in; how many there were since the last log record when it is time for another one.
    fn refuse(&mut self, now: Duration) -> Option<u64> {
        self.refused += 1;
        if self.logged.wait(LOGGED, now).is_some() {
            return None;
        }
        self.logged.charge(LOGGED, now);
        Some(std::mem::take(&mut self.refused))
    }
}

/// How many connections of all addresses, and of one, a process may have that may open so many files.
fn of_files(files: u64) -> (usize, usize) {
    let of_all = usize::try_from(files / 2).unwrap_or(usize::MAX).clamp(2, OF_ALL_MAX);
    // One address never has all of them.
    (of_all, OF_PEER_MAX.min(of_all / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn connections_of_one_address_leave_slots_to_others_and_a_closed_one_is_free_again() {
        let slots = ConnectionSlots::new(3, 2);
        let (first, second) = (slots.take(address("192.0.2.1")), slots.take(address("192.0.2.1")));
        assert!(first.is_some() && second.is_some());
        assert!(slots.take(address("::ffff:192.0.2.1")).is_none(), "the same address");
        let third = slots.take(address("2001:db8::1"));
        assert!(third.is_some() && slots.take(address("192.0.2.3")).is_none(), "of all together there are three");
        drop(first);
        let _fourth = slots.take(address("192.0.2.1")).expect("a slot is free again");
        drop((second, third));
        assert_eq!(slots.open().of_peers.len(), 1, "an address without a connection is forgotten");
        assert_eq!(slots.open().of_all, 1);
    }

    #[test]
    fn half_of_the_files_stay_for_everything_else() {
        assert_eq!(of_files(1024), (512, 256));
        assert_eq!(of_files(20_000), (8192, 1024));
        assert_eq!(of_files(u64::MAX), (8192, 1024));
        assert_eq!(of_files(0), (2, 1));
    }

    #[test]
    fn refused_connections_are_logged_once_a_minute_with_their_number() {
        let (mut open, at) = (Open::default(), Duration::from_secs);
        assert_eq!(open.refuse(at(0)), Some(1));
        assert_eq!((open.refuse(at(1)), open.refuse(at(59))), (None, None));
        assert_eq!(open.refuse(at(60)), Some(3));
    }
}
