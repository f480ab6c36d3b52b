//! The highest revision in the inbox and its command, as every heartbeat states them: the Manager counts a heartbeat only if
//! its database knows them.

use kubenova_operator_core::{digest::RecordDigest, listing};
use std::sync::{Arc, Mutex, PoisonError};

/// Cheap to clone. Revision 0 while the inbox is empty or was not read.
#[derive(Debug, Clone, Default)]
pub struct Highest(Arc<Mutex<(u64, String)>>);

impl Highest {
    /// Revision and command id.
    #[must_use]
    pub fn now(&self) -> (u64, String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over what these records hold.
    pub fn raise<'a>(&self, records: impl IntoIterator<Item = &'a RecordDigest>) {
        let Some(found) = listing::highest(records) else { return };
        let mut highest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if found.0 > highest.0 {
            *highest = found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_crds::command::{CommandSpec, NovaCommand};

    #[test]
    fn it_rises_with_what_is_stored_and_never_falls() {
        let record = |revision, command: &str| {
            let spec = CommandSpec { revision, command_id: command.to_owned(), ..CommandSpec::default() };
            RecordDigest::of(&NovaCommand::new("x", spec))
        };
        let highest = Highest::default();
        assert_eq!(highest.now(), (0, String::new()));
        highest.raise(&[record(4, "d"), record(5, "e")]);
        highest.raise(&[record(3, "c")]);
        assert_eq!(highest.now(), (5, "e".to_owned()));
    }
}
