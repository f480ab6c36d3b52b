//! Cancelling a command. Only one that was not sent can be: from then on only the cluster knows what became of it.

use crate::{
    command::{Command, CommandState},
    refusal::{Reason, Refusal},
};

/// Why a command that is not queued cannot be cancelled; none when it is cancelled already.
#[must_use]
pub fn refusal(command: &Command) -> Option<Refusal> {
    let Command { state, cluster_name, .. } = command;
    let state_text = state.as_str();
    match state {
        CommandState::Cancelled => None,
        state if state.is_terminal() => {
            Some(Refusal::new(Reason::CommandEnded, format!("the command has ended already: it is {state_text}")))
        }
        _ => Some(Refusal::new(
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
            let refused = refusal(&example(state));
            let expected = match state {
                CommandState::Cancelled => None,
                CommandState::Queued | CommandState::Sent | CommandState::Acknowledged | CommandState::Running => {
                    Some(Reason::CommandSent)
                }
                _ => Some(Reason::CommandEnded),
            };
            assert_eq!(refused.as_ref().map(|refused| refused.reason), expected, "{state:?}");
            assert!(refused.is_none_or(|refused| refused.detail.contains(state.as_str())));
        }
    }
}
