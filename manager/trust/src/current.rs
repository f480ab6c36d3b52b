//! The keys in use. Another command may replace some while the Manager runs; whoever uses a key asks for it each time.

use crate::keyring::Keyring;
use std::sync::Arc;
use tokio::sync::watch;

/// Puts other keys into use.
#[derive(Debug)]
pub struct KeyringSender(watch::Sender<Arc<Keyring>>);

/// The keys as they are now.
#[derive(Debug, Clone)]
pub struct CurrentKeyring(watch::Receiver<Arc<Keyring>>);

/// Of keys that were just opened.
#[must_use]
pub fn channel(keyring: Keyring) -> (KeyringSender, CurrentKeyring) {
    let (sender, receiver) = watch::channel(Arc::new(keyring));
    (KeyringSender(sender), CurrentKeyring(receiver))
}

impl KeyringSender {
    /// The keys in use.
    #[must_use]
    pub fn get(&self) -> Arc<Keyring> {
        Arc::clone(&self.0.borrow())
    }

    /// Puts these into use.
    pub fn replace(&self, keyring: Keyring) {
        self.0.send_replace(Arc::new(keyring));
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
        Arc::clone(&self.0.borrow())
    }

    /// Resolves once others are in use than at the last call; never once nothing replaces them any more.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
