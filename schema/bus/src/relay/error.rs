//! Why a relayed connection was not made, or ended.

use crate::{
    bridge::problem::BridgeProblem,
    cause::{ConnectCause, of_tls},
    dial::error::{DialError, ProxyProblem, TcpError},
};
use std::{error::Error, io, sync::Arc};

/// Why there is no connection by way of the relay.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RelayError {
    /// No stream to the broker's port.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The cluster's own certificate files cannot be used.
    #[error("{0}")]
    Files(String),
    /// TLS failed in the handshake, or afterwards because the broker does not accept our certificate.
    #[error("TLS with the broker failed")]
    Tls(#[source] Arc<io::Error>),
    /// Something answered that does not open a WebSocket there.
    #[error("the WebSocket was refused with HTTP {status}")]
    UpgradeRefused {
        /// HTTP status.
        status: u16,
    },
    /// What answered is no NATS server, or no WebSocket.
    #[error("what answered is no NATS server: {0}")]
    NotNats(String),
    /// The bridge refused or ended the session.
    #[error("{problem}: {message}")]
    Bridge {
        /// What is the matter.
        problem: BridgeProblem,
        /// The bridge's words.
        message: String,
    },
    /// What answered is not the bridge.
    #[error("what answered is not the bridge: {0}")]
    NotBridge(String),
    /// The connection broke.
    #[error("the connection ended")]
    Ended(#[source] Option<Arc<io::Error>>),
    /// An answer did not come in time.
    #[error("{step} took longer than {seconds} s")]
    TimedOut {
        /// What was waited for.
        step: &'static str,
        /// How long.
        seconds: u64,
    },
}

impl RelayError {
    /// Of a stream that broke. TLS 1.3 says only after the handshake that it does not accept a client's certificate.
    pub(crate) fn ended(error: io::Error) -> Self {
        if tls_error(&error).is_some() { Self::Tls(Arc::new(error)) } else { Self::Ended(Some(Arc::new(error))) }
    }

    /// The cause with a remedy.
    #[must_use]
    pub fn cause(&self) -> ConnectCause {
        match self {
            Self::Dial(DialError::Target(TcpError::NameNotFound { .. } | TcpError::NameTimedOut { .. })) => {
                ConnectCause::NameNotFound
            }
            Self::Dial(DialError::Target(TcpError::Connect { source, .. })) => match source.kind() {
                io::ErrorKind::TimedOut => ConnectCause::TimedOut,
                _ => ConnectCause::Unreachable,
            },
            Self::Dial(DialError::Proxy { problem, .. }) => of_proxy(problem),
            Self::Files(_) => ConnectCause::Unusable,
            Self::Tls(error) => tls_error(error).map_or(ConnectCause::Tls, of_tls),
            Self::UpgradeRefused { .. } => ConnectCause::UpgradeRefused,
            Self::Bridge { problem, .. } => of_bridge(*problem),
            Self::NotBridge(_) => ConnectCause::BridgeAnswer,
            // It was closed in good order by what does not understand us.
            Self::NotNats(_) | Self::Ended(None) => ConnectCause::NotNats,
            Self::Ended(Some(_)) => ConnectCause::Unreachable,
            Self::TimedOut { .. } => ConnectCause::TimedOut,
        }
    }
}

const fn of_bridge(problem: BridgeProblem) -> ConnectCause {
    match problem {
        BridgeProblem::Broker => ConnectCause::BridgeCannotConnect,
        BridgeProblem::Draining => ConnectCause::BridgeDraining,
        BridgeProblem::Full | BridgeProblem::Stalled => ConnectCause::BridgeBusy,
    }
}

fn of_proxy(problem: &ProxyProblem) -> ConnectCause {
    match problem {
        ProxyProblem::Unreached(TcpError::Connect { .. }) => ConnectCause::ProxyUnreachable,
        ProxyProblem::Unreached(_) => ConnectCause::ProxyNameNotFound,
        ProxyProblem::Tls(_) => ConnectCause::ProxyTls,
        ProxyProblem::Files(_) => ConnectCause::ProxyFiles,
        ProxyProblem::AuthenticationRequired => ConnectCause::ProxyAuthenticationRequired,
        ProxyProblem::Refused { .. } => ConnectCause::ProxyRefused,
        ProxyProblem::CannotConnect { .. } => ConnectCause::ProxyCannotConnect,
        ProxyProblem::Answer(_) => ConnectCause::ProxyAnswer,
        ProxyProblem::TimedOut => ConnectCause::ProxyTimedOut,
    }
}

/// The TLS library's error, which an I/O error carries.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    let carried: &(dyn Error + 'static) = error.get_ref()?;
    carried.downcast_ref()
}
