//! Deletes that arrive after their deadline. Each is signed again when it is sent again, so one that is late twice was not slow on its
//! way: a clock is wrong, and sending it every second is of no use.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// The first time it may only have been slow.
const RETRY_MIN_SECONDS: u32 = 1;
/// Whoever corrects a clock does not wait longer than this for the deletes.
const RETRY_MAX_SECONDS: u32 = 64;
/// Commands that are remembered, far more than are late when no clock is wrong; beyond it all are forgotten, which costs a few
/// attempts.
const COMMANDS_MAX: usize = 1_024;

/// How often a command was late so far.
#[derive(Debug, Default)]
pub(super) struct LateCommands(Mutex<BTreeMap<String, u32>>);

/// What to do about a late command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Late {
    pub(super) retry_after_seconds: u32,
    /// It was late before.
    pub(super) is_repeated: bool,
}

impl LateCommands {
    /// Counts one more time.
    pub(super) fn again(&self, command_id: &str) -> Late {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if times.len() >= COMMANDS_MAX && !times.contains_key(command_id) {
            times.clear();
        }
        let times = times.entry(command_id.to_owned()).or_default();
        let retry_after_seconds = RETRY_MIN_SECONDS.checked_shl(*times).unwrap_or(u32::MAX).min(RETRY_MAX_SECONDS);
        let late = Late { retry_after_seconds, is_repeated: *times > 0 };
        *times = (*times + 1).min(u32::BITS - 1);
        late
    }

    /// It has been stored.
    pub(super) fn forget(&self, command_id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(command_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_is_late_again_waits_longer_up_to_a_minute() {
        let late = LateCommands::default();
        let waits: Vec<u32> = (0..40).map(|_| late.again("a").retry_after_seconds).collect();
        assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 64, 64]);
        assert_eq!(waits[39], 64);
        assert_eq!(late.again("b"), Late { retry_after_seconds: 1, is_repeated: false }, "each for itself");
        late.forget("a");
        assert!(!late.again("a").is_repeated);
    }

    #[test]
    fn few_are_remembered() {
        let late = LateCommands::default();
        for number in 0..=COMMANDS_MAX {
            late.again(&number.to_string());
        }
        assert!(late.0.lock().unwrap().len() <= COMMANDS_MAX);
    }
}
