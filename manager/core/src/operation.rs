//! Named operations: what a cluster does once, at once, and not after a deadline.
//!
//! An operation is no document: nothing is wanted for good, so none is sent again under another revision, and one that did not
//! begin in time is over.

use crate::{
    application::{Application, ApplicationName},
    deadline,
    refusal::Refusal,
    tenant::TenantId,
};
use jiff::Timestamp;

/// Deadline of an operation whose request names none: longer than a broker or an Operator takes to come back, short enough that
/// who asked is still there.
pub const DEADLINE_DEFAULT_SECONDS: u32 = 600;
/// Shortest deadline: a command takes a second to its cluster, on a busy machine several.
pub const DEADLINE_MIN_SECONDS: u32 = 10;
/// Longest deadline: who wants more wants a document, not an operation.
pub const DEADLINE_MAX_SECONDS: u32 = 24 * 3600;

/// What a cluster is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Run the workflow of an application once more.
    RestartWorkflow {
        /// Whose application.
        tenant_id: TenantId,
        /// Its name.
        application: ApplicationName,
        /// The application's generation.
        generation: i64,
    },
}

impl Operation {
    /// Run the workflow of this application once more.
    #[must_use]
    pub fn restart_workflow(application: &Application) -> Self {
        let Application { tenant_id, name, generation, .. } = application;
        Self::RestartWorkflow { tenant_id: *tenant_id, application: name.clone(), generation: *generation }
    }
}

/// The deadline of an operation that is requested now.
///
/// # Errors
/// With [`crate::refusal::Reason::FieldInvalid`] when it is out of range.
pub fn deadline(seconds: Option<u32>, now: Timestamp) -> Result<Timestamp, Refusal> {
    let seconds = seconds.unwrap_or(DEADLINE_DEFAULT_SECONDS);
    deadline::after(now, seconds, DEADLINE_MIN_SECONDS..=DEADLINE_MAX_SECONDS, "deadlineSeconds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_bounded_and_has_a_default() {
        let now = Timestamp::UNIX_EPOCH;
        let seconds = |seconds| deadline(seconds, now).map(|at| at.as_second());
        assert_eq!(seconds(None), Ok(600));
        assert_eq!(seconds(Some(10)), Ok(10));
        assert_eq!(seconds(Some(86_400)), Ok(86_400));
        for refused in [0, 9, 86_401] {
            assert_eq!(seconds(Some(refused)).unwrap_err().field.as_deref(), Some("/deadlineSeconds"));
        }
    }
}
