//! Cancelling a command. The Manager cancels what was not sent: from then on only the cluster knows what became of it. An operation it
//! can keep from beginning.

use crate::{
    command::{Command, CommandState},
    refusal::{Reason, Refusal},
};

/// What is left to do about a command that is not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    /// Nothing: it is cancelled.
    Done,
    /// It is an operation: its cluster can keep it from beginning.
    Ask,
}

/// What a request to cancel a command does that is not queued.
///
/// # Errors
/// When it has ended otherwise, or is a document that was sent.
pub fn decide(command: &Command) -> Result<Cancel, Refusal> {
    let Command { state, cluster_name, .. } = command;
    let state_text = state.as_str();
    match state {
        CommandState::Cancelled => Ok(Cancel::Done),
        state if state.is_terminal() => {
            Err(Refusal::new(Reason::CommandEnded, format!("the command has ended already: it is {state_text}")))
        }
        _ if command.is_operation() && command.not_after.is_some() => Ok(Cancel::Ask),
        _ if command.is_operation() => Err(Refusal::new(
            Reason::CommandSent,
            format!("the command is {state_text}: it cancels an operation itself; request the operation again"),
        )),
        _ => Err(Refusal::new(
            Reason::CommandSent,
            format!(
                "the command is {state_text}: cluster {cluster_name} may have carried it out already; write the version before \
                     of {} again, so that a newer command takes its place",
                command.object_key
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::example;

    #[test]
    fn each_state_says_whether_it_is_too_late() {
        for state in CommandState::ALL {
            let decided = decide(&example(state));
            let expected = match state {
                CommandState::Cancelled => None,
                CommandState::Queued | CommandState::Sent | CommandState::Acknowledged | CommandState::Running => {
                    Some(Reason::CommandSent)
                }
                _ => Some(Reason::CommandEnded),
            };
            assert_eq!(decided.as_ref().err().map(|refused| refused.reason), expected, "{state:?}");
            assert!(decided.err().is_none_or(|refused| refused.detail.contains(state.as_str())));
        }
    }

    #[test]
    fn a_sent_operation_is_for_its_cluster_to_keep_from_beginning() {
        let of = |state, not_after| {
            let object_key = "operation/0198".to_owned();
            decide(&Command { object_key, not_after, ..example(state) }).map_err(|refused| refused.reason)
        };
        let deadline = Some(jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(of(CommandState::Running, deadline), Ok(Cancel::Ask));
        assert_eq!(of(CommandState::Expired, deadline), Err(Reason::CommandEnded));
        assert_eq!(of(CommandState::Sent, None), Err(Reason::CommandSent), "a cancellation");
    }
}
