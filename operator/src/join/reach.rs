//! The first two steps of a join: resolve a name, open a connection to the Manager's port. Apart from TLS, so that a firewall and a wrong
//! certificate have different reasons. Behind a proxy the name is the proxy's to resolve, and the connection its to open.

use super::conditions::JoinError;
use kubenova_bus::dial::{
    Dialer, Socket, Target,
    error::{DialError, ProxyProblem, TcpError},
    proxy::Proxy,
    tcp,
};
use kubenova_crds::cluster_config::condition;
use kubenova_operator_core::conditions::ConditionSet;
use kubenova_runtime::telemetry;
use std::io::ErrorKind;

/// A connection to the target, and the conditions of the steps that were made.
///
/// # Errors
/// With the condition of the step that failed.
pub async fn connect(dialer: &Dialer, to: &Target, conditions: &mut ConditionSet) -> Result<Socket, JoinError> {
    match dialer.proxy_for(to) {
        Some(proxy) => through(&proxy, to, conditions).await,
        None => directly(to, conditions).await,
    }
}

async fn directly(to: &Target, conditions: &mut ConditionSet) -> Result<Socket, JoinError> {
    let addresses = tcp::resolve(to).await.map_err(|error| direct_error(&error))?;
    let shown = addresses.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(", ");
    conditions.set_true(condition::DNS_RESOLVED, "Resolved", format!("{} is {shown}", to.host));
    let stream = tcp::connect(to, &addresses).await.map_err(|error| direct_error(&error))?;
    conditions.set_true(condition::ENDPOINT_REACHABLE, "Connected", format!("connected to TCP {to}"));
    Ok(Box::new(stream))
}

async fn through(proxy: &Proxy, to: &Target, conditions: &mut ConditionSet) -> Result<Socket, JoinError> {
    let connected = proxy.connect(to).await;
    let name_fails = matches!(&connected, Err(error) if proxy_error(error).condition == condition::DNS_RESOLVED);
    if !name_fails {
        conditions.set_true(condition::DNS_RESOLVED, "ByProxy", format!("the proxy {proxy} resolves {}", to.host));
    }
    let stream = connected.map_err(|error| proxy_error(&error))?;
    let message = format!("connected to {to} through the proxy {proxy}");
    conditions.set_true(condition::ENDPOINT_REACHABLE, "ConnectedByProxy", message);
    Ok(stream)
}

fn direct_error(error: &TcpError) -> JoinError {
    let (condition, reason, remedy) = match error {
        TcpError::NameNotFound { .. } => (
            condition::DNS_RESOLVED,
            "NameNotFound",
            "check the cluster's DNS, or make the Manager's name known to it; behind a proxy that resolves names, set proxy.httpsProxy",
        ),
        TcpError::NameTimedOut { .. } => (
            condition::DNS_RESOLVED,
            "NameServerTimeout",
            "check the cluster's DNS, or make the Manager's name known to it; behind a proxy that resolves names, set proxy.httpsProxy",
        ),
        TcpError::Connect { source, .. } => {
            let reason = match source.kind() {
                ErrorKind::ConnectionRefused => "ConnectionRefused",
                ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => "NoRoute",
                ErrorKind::TimedOut => "ConnectionTimedOut",
                _ => "ConnectionFailed",
            };
            let remedy = match reason {
                "ConnectionRefused" => "check that the Manager runs there and listens on this port",
                _ => "allow outbound TCP from kubenova-system to it, or set proxy.httpsProxy where only a proxy may",
            };
            (condition::ENDPOINT_REACHABLE, reason, remedy)
        }
    };
    JoinError::new(condition, reason, format!("{}; {remedy}", telemetry::chain(error)))
}

/// Reason and remedy of what went wrong with a proxy. For the Manager and for the broker they are the same.
fn proxy_error(error: &DialError) -> JoinError {
    match error {
        DialError::Target(error) => direct_error(error),
        DialError::Proxy { problem, .. } => {
            let (reason, remedy) = explain(problem);
            let condition = match reason {
                "ProxyNameNotFound" => condition::DNS_RESOLVED,
                _ => condition::ENDPOINT_REACHABLE,
            };
            JoinError::new(condition, reason, format!("{error}; {remedy}"))
        }
    }
}

const fn explain(problem: &ProxyProblem) -> (&'static str, &'static str) {
    match problem {
        ProxyProblem::Unreached(TcpError::Connect { .. }) => PROXY_UNREACHABLE,
        ProxyProblem::Unreached(_) => PROXY_NAME_NOT_FOUND,
        ProxyProblem::Tls(_) => PROXY_TLS_FAILED,
        ProxyProblem::Files(_) => PROXY_FILES_UNUSABLE,
        ProxyProblem::AuthenticationRequired => PROXY_AUTHENTICATION_REQUIRED,
        ProxyProblem::Refused { .. } => PROXY_REFUSED,
        ProxyProblem::CannotConnect { .. } => PROXY_CANNOT_CONNECT,
        ProxyProblem::Answer(_) => PROXY_ANSWER_INVALID,
        ProxyProblem::TimedOut => PROXY_TIMED_OUT,
    }
}

/// A reason of conditions, and what to do about it.
pub type Explained = (&'static str, &'static str);

pub const PROXY_NAME_NOT_FOUND: Explained =
    ("ProxyNameNotFound", "correct proxy.httpsProxy, or make the proxy's name known to the cluster's DNS");
pub const PROXY_UNREACHABLE: Explained =
    ("ProxyUnreachable", "check proxy.httpsProxy, and allow outbound TCP from kubenova-system to the proxy");
pub const PROXY_TLS_FAILED: Explained = (
    "ProxyTlsFailed",
    "set proxy.caBundle to the CA of the proxy's certificate, or write http:// in proxy.httpsProxy if the proxy speaks no TLS",
);
pub const PROXY_FILES_UNUSABLE: Explained = (
    "ProxyFilesUnusable",
    "check proxy.caBundle, and that the Secret proxy.existingSecret has the keys username and password",
);
pub const PROXY_AUTHENTICATION_REQUIRED: Explained = (
    "ProxyAuthenticationRequired",
    "put username and password into a Secret of kubenova-system and set proxy.existingSecret to its name, or correct them there",
);
pub const PROXY_REFUSED: Explained =
    ("ProxyRefused", "allow CONNECT from this cluster to this host and port in the proxy's rules");
pub const PROXY_CANNOT_CONNECT: Explained =
    ("ProxyCannotConnect", "check that the proxy's host resolves the name and reaches the port");
pub const PROXY_ANSWER_INVALID: Explained =
    ("ProxyAnswerInvalid", "check that proxy.httpsProxy is an HTTP proxy that allows CONNECT, and its scheme and port");
pub const PROXY_TIMED_OUT: Explained = (
    "ProxyTimedOut",
    "check that the proxy works and that it reaches the host: it may wait for a firewall that drops packets",
);

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_bus::dial::proxy::{ProxyFiles, ProxySettings};
    use kubenova_test_nats::connect_proxy::{Behavior, ConnectProxy};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_literal_address_needs_no_name_server_and_a_closed_port_has_its_reason() {
        let to = Target::new("127.0.0.1", 1);
        let mut found = ConditionSet::new();
        let error = connect(&Dialer::default(), &to, &mut found).await.err().unwrap();
        assert_eq!((error.condition, error.reason.as_str()), (condition::ENDPOINT_REACHABLE, "ConnectionRefused"));
        assert!(found.get(condition::DNS_RESOLVED).is_some());
    }

    /// The target's name and the reason when it is reached by this proxy.
    async fn reason(url: &str) -> (&'static str, String) {
        let variable = |name: &str| (name == "HTTPS_PROXY").then(|| url.to_owned());
        let dialer = Dialer::new(ProxySettings::read(variable, ProxyFiles::default()).unwrap());
        let mut found = ConditionSet::new();
        let to = Target::new("manager.kubenova.invalid", 8443);
        match connect(&dialer, &to, &mut found).await {
            Ok(_) => {
                let update = found.get(condition::ENDPOINT_REACHABLE).unwrap();
                (condition::ENDPOINT_REACHABLE, update.reason.clone())
            }
            Err(error) => {
                assert!(!error.message.contains("secret"), "{}", error.message);
                assert_eq!(found.get(condition::DNS_RESOLVED).is_some(), error.condition != condition::DNS_RESOLVED);
                (error.condition, error.reason)
            }
        }
    }

    #[tokio::test]
    async fn a_proxy_that_knows_the_name_is_enough_and_each_of_its_failures_has_its_reason() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let names = [("manager.kubenova.invalid:8443", server.local_addr().unwrap())];
        let proxy = ConnectProxy::start("127.0.0.1:0", &names).await;
        let url = format!("http://user:secret@{}", proxy.address());
        let reachable = |reason: &str| (condition::ENDPOINT_REACHABLE, reason.to_owned());
        assert_eq!(reason(&url).await, reachable("ConnectedByProxy"));
        for (behavior, expected) in [
            (Behavior::Refuse(403), "ProxyRefused"),
            (Behavior::Refuse(502), "ProxyCannotConnect"),
            (Behavior::Refuse(407), "ProxyAuthenticationRequired"),
            (Behavior::Nonsense, "ProxyAnswerInvalid"),
            (Behavior::Hang, "ProxyTimedOut"),
        ] {
            proxy.behave(behavior);
            assert_eq!(reason(&url).await, reachable(expected));
        }
        assert_eq!(reason("http://user:secret@127.0.0.1:1").await, reachable("ProxyUnreachable"));
        let unknown = reason("http://user:secret@proxy.kubenova.invalid:1").await;
        assert_eq!(unknown, (condition::DNS_RESOLVED, "ProxyNameNotFound".to_owned()));
    }
}
