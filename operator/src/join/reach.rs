//! The first two questions of a join: does the Manager's name resolve, does its port answer? Asked apart from TLS, so
//! that a firewall and a wrong certificate are told apart.

use super::conditions::JoinError;
use kubenova_crds::cluster_config::condition;
use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use url_parts::HostPort;

/// Time for a name server's answer.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);
/// Time for a TCP handshake with one address.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried; more would outlast the 30 s within which a reason must be shown.
const ADDRESSES_MAX: usize = 3;

/// Host and port of an `https://` URL.
pub mod url_parts {
    /// Where to dial.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct HostPort {
        /// Name or literal address.
        pub host: String,
        /// TCP port.
        pub port: u16,
    }

    impl HostPort {
        /// Reads an `https://host[:port][/...]` URL; none for anything else.
        #[must_use]
        pub fn parse(url: &str) -> Option<Self> {
            let url = reqwest::Url::parse(url).ok().filter(|url| url.scheme() == "https")?;
            let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']').to_owned();
            Some(Self { host, port: url.port_or_known_default()? })
        }
    }
}

/// The name's addresses, and the reason for a True condition.
///
/// # Errors
/// With the fault to show when there are none.
pub async fn resolve(target: &HostPort) -> Result<(Vec<SocketAddr>, &'static str), JoinError> {
    let HostPort { host, port } = target;
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok((vec![SocketAddr::new(address, *port)], "Address"));
    }
    let fault = |reason, message: String| JoinError::new(condition::DNS_RESOLVED, reason, message);
    let remedy = "check the cluster's DNS, or make the Manager's name known to it";
    match tokio::time::timeout(RESOLVE_LIMIT, tokio::net::lookup_host((host.as_str(), *port))).await {
        Ok(Ok(addresses)) => {
            let addresses: Vec<SocketAddr> = addresses.take(ADDRESSES_MAX).collect();
            if addresses.is_empty() {
                return Err(fault("NameNotFound", format!("\"{host}\" has no address; {remedy}")));
            }
            Ok((addresses, "Resolved"))
        }
        Ok(Err(error)) => Err(fault("NameNotFound", format!("could not resolve \"{host}\": {error}; {remedy}"))),
        Err(_) => {
            Err(fault("NameServerTimeout", format!("no name server answered for \"{host}\" within 5 s; {remedy}")))
        }
    }
}

/// Opens a TCP connection to one of the addresses and closes it.
///
/// # Errors
/// With the fault to show when none answers.
pub async fn connect(target: &HostPort, addresses: &[SocketAddr]) -> Result<(), JoinError> {
    let HostPort { host, port } = target;
    let mut last = None;
    for address in addresses {
        last = Some(match tokio::time::timeout(CONNECT_LIMIT, tokio::net::TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => {
                let reason = match error.kind() {
                    ErrorKind::ConnectionRefused => "ConnectionRefused",
                    ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => "NoRoute",
                    ErrorKind::TimedOut => "ConnectionTimedOut",
                    _ => "ConnectionFailed",
                };
                (reason, format!("could not open TCP {host}:{port} ({address}): {error}"))
            }
            Err(_) => ("ConnectionTimedOut", format!("TCP {host}:{port} ({address}) did not answer within 5 s")),
        });
    }
    let (reason, what) = last.unwrap_or(("ConnectionFailed", format!("\"{host}\" has no address")));
    let remedy = match reason {
        "ConnectionRefused" => "is the Manager running there, and is the port right?",
        _ => "allow outbound TCP from kubenova-system to it",
    };
    Err(JoinError::new(condition::ENDPOINT_REACHABLE, reason, format!("{what}; {remedy}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_literal_address_needs_no_name_server_and_a_closed_port_has_its_reason() {
        let target = HostPort::parse("https://127.0.0.1:1/x").unwrap();
        let (addresses, reason) = resolve(&target).await.unwrap();
        assert_eq!(reason, "Address");
        assert_eq!(connect(&target, &addresses).await.unwrap_err().reason, "ConnectionRefused");
        assert_eq!(HostPort::parse("http://x"), None);
        assert_eq!(HostPort::parse("https://[::1]:8443").unwrap().host, "::1");
    }
}
