//! Retrying a command: its object is sent again, as it is wanted now, under a new revision.
//!
//! Every change of what is wanted of an object on a cluster writes a command, so that only the newest one may be retried:
//! an older one carries what is not wanted any more.

use crate::{
    command::{Command, CommandState},
    refusal::{Reason, Refusal},
};

/// Whether a command in this state can be retried at all.
///
/// # Errors
/// With [`Reason::CommandNotRetryable`].
pub fn check_state(command: &Command) -> Result<(), Refusal> {
    let detail = match command.state {
        CommandState::Failed | CommandState::Refused | CommandState::Cancelled | CommandState::Expired => return Ok(()),
        CommandState::Succeeded => "the command has succeeded: there is nothing to retry".to_owned(),
        CommandState::Superseded => "the command was superseded: a newer one takes its place".to_owned(),
        open => format!(
            "the command is {}: it is sent again by itself until cluster {} reports how it ended",
            open.as_str(),
            command.cluster_name
        ),
    };
    Err(Refusal::new(Reason::CommandNotRetryable, detail))
}

/// Whether the command is still the newest about its object on its cluster.
///
/// # Errors
/// With [`Reason::CommandOutdated`], which says what is wanted now.
pub fn check_newest(command: &Command, newest: &Command) -> Result<(), Refusal> {
    if newest.id == command.id {
        return Ok(());
    }
    let Command { id, kind, object_key, generation, cluster_name, state, .. } = newest;
    Err(outdated(format!(
        "what is wanted of {object_key} on cluster {cluster_name} has changed since: command {id} ({kind}, generation {generation}) \
         is {}",
        state.as_str()
    )))
}

/// The refusal of a command whose object is not wanted like this any more.
#[must_use]
pub fn outdated(detail: impl Into<String>) -> Refusal {
    Refusal::new(Reason::CommandOutdated, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{CommandId, example};

    #[test]
    fn what_ended_without_success_can_be_retried() {
        for state in CommandState::ALL {
            let retried = matches!(
                state,
                CommandState::Failed | CommandState::Refused | CommandState::Cancelled | CommandState::Expired
            );
            let checked = check_state(&example(state));
            assert_eq!(checked.is_ok(), retried, "{state:?}");
        }
    }

    #[test]
    fn an_older_command_says_what_is_wanted_now() {
        let command = example(CommandState::Failed);
        assert_eq!(check_newest(&command, &command), Ok(()));
        let newest = Command { id: CommandId(uuid::Uuid::max()), generation: 7, ..example(CommandState::Running) };
        let refused = check_newest(&command, &newest).unwrap_err();
        assert_eq!(refused.reason, Reason::CommandOutdated);
        assert!(refused.detail.contains("generation 7) is running"), "{}", refused.detail);
    }
}
