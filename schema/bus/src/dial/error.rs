//! Why there is no stream. Each variant has a remedy of its own.

use super::Target;
use std::{io, sync::Arc};

/// Why a host could not be reached by TCP.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TcpError {
    /// The name has no address.
    #[error("could not resolve \"{host}\"")]
    NameNotFound {
        /// The name.
        host: String,
        /// What the resolver said.
        #[source]
        source: Arc<io::Error>,
    },
    /// No name server answered.
    #[error("no name server answered for \"{host}\" within {} s", super::RESOLVE_LIMIT.as_secs())]
    NameTimedOut {
        /// The name.
        host: String,
    },
    /// None of the addresses accepted a connection; with the last error.
    #[error("could not open TCP {target}")]
    Connect {
        /// Where.
        target: Target,
        /// The last address's error; `TimedOut` when none answered.
        #[source]
        source: Arc<io::Error>,
    },
}

/// Why there is no stream to a target.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DialError {
    /// The target itself was not reached.
    #[error(transparent)]
    Target(#[from] TcpError),
    /// The proxy was not reached, or did not connect us.
    #[error("the proxy {proxy} {problem}")]
    Proxy {
        /// Its URL, without credentials.
        proxy: String,
        /// What went wrong with it.
        problem: ProxyProblem,
    },
}

/// What can go wrong with a proxy.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProxyProblem {
    /// No TCP connection to the proxy itself.
    #[error("was not reached: {}", kubenova_runtime::telemetry::chain(.0))]
    Unreached(TcpError),
    /// TLS with an `https://` proxy failed.
    #[error("did not complete TLS: {0}")]
    Tls(Arc<io::Error>),
    /// The files with its CA or credentials cannot be used.
    #[error("cannot be used: {0}")]
    Files(String),
    /// It wants credentials, or other ones (407).
    #[error("requires authentication (HTTP 407)")]
    AuthenticationRequired,
    /// It answered that it does not allow the connection.
    #[error("refused to connect to {target} (HTTP {status})")]
    Refused {
        /// Where to.
        target: Target,
        /// HTTP status.
        status: u16,
    },
    /// It allows the connection and could not make it (5xx): the name or the way is unknown to the proxy.
    #[error("could not connect to {target} (HTTP {status})")]
    CannotConnect {
        /// Where to.
        target: Target,
        /// HTTP status.
        status: u16,
    },
    /// What came is no answer of an HTTP proxy.
    #[error("did not answer as an HTTP proxy does: {0}")]
    Answer(String),
    /// No answer in time.
    #[error("did not answer within {} s", super::PROXY_LIMIT.as_secs())]
    TimedOut,
}
