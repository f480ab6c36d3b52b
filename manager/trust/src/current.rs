//! The keys in use. Another command may replace some while the Manager runs; whoever uses a key asks for it each time.

use crate::keyring::Keyring;
use kubenova_runtime::signal::Signal;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::watch;

/// Puts other keys into use.
#[derive(Debug)]
pub struct KeyringSender {
    keyring: watch::Sender<Arc<Keyring>>,
    is_outdated: Arc<AtomicBool>,
}

/// The keys as they are now.
#[derive(Debug, Clone)]
pub struct CurrentKeyring {
    keyring: watch::Receiver<Arc<Keyring>>,
    is_outdated: Arc<AtomicBool>,
}

/// Of keys that were just opened.
#[must_use]
pub fn channel(keyring: Keyring) -> (KeyringSender, CurrentKeyring) {
    let (sender, receiver) = watch::channel(Arc::new(keyring));
    let is_outdated = Arc::new(AtomicBool::new(false));
    let sender = KeyringSender { keyring: sender, is_outdated: Arc::clone(&is_outdated) };
    (sender, CurrentKeyring { keyring: receiver, is_outdated })
}

impl KeyringSender {
    /// The keys in use.
    #[must_use]
    pub fn get(&self) -> Arc<Keyring> {
        Arc::clone(&self.keyring.borrow())
    }

    /// Notes whether the database has others, which cannot be opened.
    pub fn set_outdated(&self, is_outdated: bool) {
        self.is_outdated.store(is_outdated, Ordering::Relaxed);
    }

    /// Puts these into use.
    pub fn replace(&self, keyring: Keyring) {
        self.keyring.send_replace(Arc::new(keyring));
    }
}

impl CurrentKeyring {
    /// Keys that nothing replaces.
    #[must_use]
    pub fn fixed(keyring: Keyring) -> Self {
        channel(keyring).1
    }

    /// The keys in use.
    #[must_use]
    pub fn get(&self) -> Arc<Keyring> {
        Arc::clone(&self.keyring.borrow())
    }

    /// Whether the database has others, which could not be opened: what differs from these is not outdated.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.is_outdated.load(Ordering::Relaxed)
    }
}

/// Once others are in use than at the last signal.
impl Signal for CurrentKeyring {
    fn signaled(&mut self) -> impl Future<Output = ()> + Send {
        self.keyring.signaled()
    }
}
