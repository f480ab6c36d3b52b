//! Failpoints: named places where a debug build aborts on demand, to prove that the rest of the system recovers.
//!
//! `KUBENOVA_FAILPOINT=<name>` or `<name>:<n>` exits the process (as `kill -9` would) at the n-th passage, by default
//! the first. Release builds contain none of it.

/// Aborts here if the environment says so.
pub fn passing(name: &'static str) {
    if cfg!(debug_assertions) {
        debug::passing(name);
    }
}

mod debug {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    };

    static PASSAGES: AtomicU32 = AtomicU32::new(0);
    static WANTED: OnceLock<Option<(String, u32)>> = OnceLock::new();

    pub(super) fn passing(name: &'static str) {
        let wanted = WANTED.get_or_init(|| {
            let text = std::env::var("KUBENOVA_FAILPOINT").ok()?;
            let (name, nth) = text.split_once(':').unwrap_or((&text, "1"));
            Some((name.to_owned(), nth.parse().ok()?))
        });
        if let Some((wanted_name, nth)) = wanted
            && wanted_name == name
            && PASSAGES.fetch_add(1, Ordering::SeqCst) + 1 == *nth
        {
            tracing::warn!(failpoint = name, "aborting at a failpoint");
            std::process::abort();
        }
    }
}
