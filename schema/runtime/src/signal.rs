//! What can end a wait early: a [`Notify`], a changed `watch` value, or nothing.

use std::{future::Future, sync::Arc};
use tokio::sync::{Notify, watch};

/// Ends the wait of [`crate::periodic::Periodic`] and [`crate::retry::Retry`] before its time. A signal only makes things
/// sooner: the timer stays, so a lost signal costs time and nothing else.
pub trait Signal: Send {
    /// Resolves when it is signaled. Dropping the future loses no signal.
    fn signaled(&mut self) -> impl Future<Output = ()> + Send;
}

/// No signal: only the timer counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Never;

impl Signal for Never {
    fn signaled(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

impl Signal for &Notify {
    fn signaled(&mut self) -> impl Future<Output = ()> + Send {
        self.notified()
    }
}

impl Signal for Arc<Notify> {
    fn signaled(&mut self) -> impl Future<Output = ()> + Send {
        self.notified()
    }
}

impl<T: Send + Sync> Signal for watch::Receiver<T> {
    async fn signaled(&mut self) {
        if self.changed().await.is_err() {
            // The sender is gone, so there will be no other signal.
            std::future::pending::<()>().await;
        }
    }
}
