//! Whether usage is measured and stored, for the condition `UsageReporting` and the heartbeat.

use tokio::sync::watch;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageHealth {
    /// Usage is measured and stored.
    pub reporting: bool,
    pub reason: &'static str,
    /// What is wrong and what to do about it.
    pub message: String,
    /// The Manager received other bytes of a window than the cluster holds: it stays so, however well measuring goes on.
    pub conflict: Option<String>,
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
            conflict: None,
            unreceipted_windows: 0,
            last_sealed: None,
        }
    }
}

/// A window of which the Manager received other bytes, in words.
pub(super) fn set_conflict(health: &watch::Sender<UsageHealth>, message: String) {
    health.send_if_modified(|health| {
        let changed = health.conflict.as_ref() != Some(&message);
        health.conflict = Some(message);
        changed
    });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_outlasts_what_measuring_says_and_is_announced_once() {
        let (health, mut seen) = watch::channel(UsageHealth::starting());
        set_conflict(&health, "window w".to_owned());
        seen.mark_unchanged();
        set_conflict(&health, "window w".to_owned());
        assert!(!seen.has_changed().unwrap());
        set_healthy(&health);
        assert!(seen.borrow_and_update().conflict.is_some());
        set_healthy(&health);
        assert!(!seen.has_changed().unwrap(), "it does not change with every window");
    }
}
