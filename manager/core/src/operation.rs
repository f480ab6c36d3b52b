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
use kubenova_schema::kinds::CommandKind;

/// Deadline of an operation whose request names none: longer than a broker or an Operator takes to come back, short enough that
/// who asked is still there.
pub const DEADLINE_DEFAULT_SECONDS: u32 = 600;
/// Shortest deadline: a command takes a second to its cluster, on a busy machine several.
pub const DEADLINE_MIN_SECONDS: u32 = 10;
/// Longest deadline: who wants more wants a document, not an operation.
pub const DEADLINE_MAX_SECONDS: u32 = 24 * 3600;

/// What is done with the workflow of an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkflowOperation {
    /// Run it once more.
    Restart,
    /// Hold it where it is.
    Suspend,
    /// Have it go on from where it is held.
    Resume,
    /// End it.
    Terminate,
}

impl WorkflowOperation {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Restart, Self::Suspend, Self::Resume, Self::Terminate];

    /// Of a command's kind; none when it is no operation on a workflow.
    #[must_use]
    pub fn of(kind: CommandKind) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.kind() == kind)
    }

    /// The kind of its command.
    #[must_use]
    pub const fn kind(self) -> CommandKind {
        match self {
            Self::Restart => CommandKind::RestartWorkflow,
            Self::Suspend => CommandKind::SuspendWorkflow,
            Self::Resume => CommandKind::ResumeWorkflow,
            Self::Terminate => CommandKind::TerminateWorkflow,
        }
    }

    /// Its word in the audit log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Terminate => "terminate",
        }
    }
}

/// What a cluster is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// With the workflow of the application.
    pub workflow: WorkflowOperation,
    /// Whose application.
    pub tenant_id: TenantId,
    /// Its name.
    pub application: ApplicationName,
    /// The application's generation.
    pub generation: i64,
}

impl Operation {
    /// On the workflow of this application.
    #[must_use]
    pub fn on(application: &Application, workflow: WorkflowOperation) -> Self {
        let Application { tenant_id, name, generation, .. } = application;
        Self { workflow, tenant_id: *tenant_id, application: name.clone(), generation: *generation }
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
