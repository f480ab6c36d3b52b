//! The session's state as other parts see it: open with these numbers, or not open.

use kubenova_runtime::shutdown::Shutdown;
use tokio::sync::watch;

/// An open session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The Manager's epoch.
    pub epoch: u64,
    /// Rises with every session of this cluster.
    pub number: u64,
    /// Every command at or below this revision is in a terminal state at the Manager.
    pub floor: u64,
    /// This cluster's clock minus the Manager's at the hello, in milliseconds.
    pub clock_offset_ms: i64,
    /// The durable consumer to pull from.
    pub durable: String,
    /// The Manager holds another listing than this cluster.
    pub listing_wanted: bool,
}

/// Waits for an open session; `None` when a stop was requested first.
pub async fn wait_for_session(session: &mut watch::Receiver<Option<Session>>, shutdown: &Shutdown) -> Option<Session> {
    tokio::select! {
        () = shutdown.requested() => None,
        open = session.wait_for(Option::is_some) => open.ok()?.clone(),
    }
}

/// Resolves when this session is no longer the open one.
pub async fn session_ended(session: &mut watch::Receiver<Option<Session>>, open: &Session) {
    let _sender_gone = session.wait_for(|now| now.as_ref() != Some(open)).await;
}
