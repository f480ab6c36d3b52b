//! How metering is doing, for the condition `UsageReporting` and the heartbeat.

use tokio::sync::watch;

/// What can be said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageHealth {
    /// The condition's status: usage is measured and stored.
    pub reporting: bool,
    /// One CamelCase word.
    pub reason: &'static str,
    /// A sentence with the remedy.
    pub message: String,
    /// Sealed windows without a receipt.
    pub unreceipted_windows: u32,
    /// The newest sealed window.
    pub last_sealed: Option<String>,
}

impl UsageHealth {
    pub(super) fn starting() -> Self {
        Self {
            reporting: false,
            reason: "Starting",
            message: "waiting for the first lists of namespaces, pods and applications".to_owned(),
            unreceipted_windows: 0,
            last_sealed: None,
        }
    }
}

/// All is well.
pub(super) fn well(health: &watch::Sender<UsageHealth>) {
    health.send_if_modified(|health| {
        let changed = !health.reporting;
        health.reporting = true;
        health.reason = "Measuring";
        "usage is measured and stored in the cluster".clone_into(&mut health.message);
        changed
    });
}

/// Something does not work, though metering goes on.
pub(super) fn unwell(health: &watch::Sender<UsageHealth>, reason: &'static str, message: String) {
    health.send_if_modified(|health| {
        let changed = health.reporting || health.reason != reason || health.message != message;
        health.reporting = false;
        health.reason = reason;
        health.message = message;
        changed
    });
}
