//! Records as they were stored a moment ago, for the dispatcher: it carries out each without reading it again.
//!
//! Whoever takes one compares its version with what is known of the record. Should there be a newer one all the same, progress is
//! written with the version of the one that was taken, which the API server then refuses.

use kube::ResourceExt as _;
use kubenova_crds::command::NovaCommand;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

/// Records that are kept at once: about those that are stored while the dispatcher is busy. An older one is read again.
const RECORDS_MAX: usize = 64;
/// Bytes of a body that is kept: all together stay below 4 MiB.
const BODY_MAX: usize = 64 * 1024;

/// The newest stored records that the dispatcher did not take yet. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct JustStored(Arc<Mutex<VecDeque<NovaCommand>>>);

impl JustStored {
    /// Keeps a record instead of an earlier one of its object.
    pub fn put(&self, record: NovaCommand) {
        let name = record.name_any();
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        records.retain(|kept| kept.name_any() != name);
        if record.spec.body.len() > BODY_MAX {
            return;
        }
        if records.len() >= RECORDS_MAX {
            records.pop_front();
        }
        records.push_back(record);
    }

    /// The record, once.
    #[must_use]
    pub fn take(&self, name: &str) -> Option<NovaCommand> {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = records.iter().position(|kept| kept.name_any() == name)?;
        records.remove(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_crds::command::CommandSpec;

    fn record(name: &str, command_id: &str, bytes: usize) -> NovaCommand {
        let spec = CommandSpec { command_id: command_id.to_owned(), body: "x".repeat(bytes), ..CommandSpec::default() };
        NovaCommand::new(name, spec)
    }

    #[test]
    fn each_record_is_taken_once_and_as_it_was_stored_last() {
        let stored = JustStored::default();
        stored.put(record("a", "1", 1));
        stored.put(record("b", "2", 1));
        stored.put(record("a", "3", 1));
        assert_eq!(stored.take("a").unwrap().spec.command_id, "3");
        assert!(stored.take("a").is_none());
        assert!(stored.take("b").is_some());
    }

    #[test]
    fn few_are_kept_and_no_large_one() {
        let stored = JustStored::default();
        stored.put(record("large", "1", 1));
        stored.put(record("large", "2", BODY_MAX + 1));
        assert!(stored.take("large").is_none(), "nor an earlier one in its place");
        for number in 0..=RECORDS_MAX {
            stored.put(record(&number.to_string(), "1", 1));
        }
        assert!(stored.take("0").is_none());
        assert!(stored.take("1").is_some());
    }
}
