//! Why a session by way of the bridge is refused or ends, as a status says it.

use std::fmt;
use tonic::{Code, Status, metadata::MetadataValue};

/// Metadata with the problem's name: a status code alone does not tell them apart.
const HEADER: &str = "kubenova-cause";

/// What can be the matter with a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BridgeProblem {
    /// The bridge could not connect to the broker, or lost the connection.
    Broker,
    /// This replica of the bridge stops.
    Draining,
    /// This replica has as many sessions as it may.
    Full,
    /// One side took nothing for too long.
    Stalled,
}

impl BridgeProblem {
    const ALL: [Self; 4] = [Self::Broker, Self::Draining, Self::Full, Self::Stalled];

    /// Its name on the wire and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Draining => "draining",
            Self::Full => "full",
            Self::Stalled => "stalled",
        }
    }

    /// The status that says it, with a message for logs and conditions.
    #[must_use]
    pub fn status(self, message: impl Into<String>) -> Status {
        let code = match self {
            Self::Broker | Self::Draining => Code::Unavailable,
            Self::Full | Self::Stalled => Code::ResourceExhausted,
        };
        let mut status = Status::new(code, message);
        status.metadata_mut().insert(HEADER, MetadataValue::from_static(self.name()));
        status
    }

    /// The problem that a status names; none when it comes from something else than the bridge.
    #[must_use]
    pub fn of(status: &Status) -> Option<Self> {
        let name = status.metadata().get(HEADER)?.to_str().ok()?;
        Self::ALL.into_iter().find(|problem| problem.name() == name)
    }
}

impl fmt::Display for BridgeProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broker => "the bridge has no connection to the broker",
            Self::Draining => "the bridge stops",
            Self::Full => "the bridge has as many sessions as it may",
            Self::Stalled => "the bridge ended a session that stood still",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_names_its_problem_and_another_s_names_none() {
        for problem in BridgeProblem::ALL {
            let status = problem.status("why");
            assert_eq!((BridgeProblem::of(&status), status.message()), (Some(problem), "why"));
        }
        assert_eq!(BridgeProblem::of(&Status::unavailable("a router")), None);
    }
}
