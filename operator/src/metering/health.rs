//! Whether usage is measured and stored, for the condition `UsageReporting` and the heartbeat.

use tokio::sync::watch;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageHealth {
    /// Usage is measured and stored.
    pub reporting: bool,
    pub reason: &'static str,
    /// What is wrong and what to do about it.
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

/// Usage is measured and stored.
pub(super) fn set_healthy(health: &watch::Sender<UsageHealth>) {
    health.send_if_modified(|health| {
        let changed = !health.reporting;
        health.reporting = true;
        health.reason = "Measuring";
        "usage is measured and stored in the cluster".clone_into(&mut health.message);
        changed
    });
}

/// Something fails while metering continues.
pub(super) fn set_problem(health: &watch::Sender<UsageHealth>, reason: &'static str, message: String) {
    health.send_if_modified(|health| {
        let changed = health.reporting || health.reason != reason || health.message != message;
        health.reporting = false;
        health.reason = reason;
        health.message = message;
        changed
    });
}
