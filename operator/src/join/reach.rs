//! The first two steps of a join: resolve the Manager's name, connect to its port. Apart from TLS, so that a firewall and
//! a wrong certificate have different reasons.

use super::conditions::JoinError;
use kubenova_crds::cluster_config::condition;
use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Time for a name server's answer.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);
/// Time for a TCP handshake with one address.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried; more would outlast the 30 s within which a reason must be shown.
const ADDRESSES_MAX: usize = 3;

/// Host and port of an `https://` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A DNS name or an address.
    pub host: String,
    pub port: u16,
}

impl HostPort {
    /// Reads `https://host[:port][/...]`; none for anything else.
    #[must_use]
    pub fn parse(url: &str) -> Option<Self> {
        let url = reqwest::Url::parse(url).ok().filter(|url| url.scheme() == "https")?;
        let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some(Self { host, port: url.port_or_known_default()? })
    }
}

/// The name's addresses, and the reason of the condition.
pub async fn resolve(target: &HostPort) -> Result<(Vec<SocketAddr>, &'static str), JoinError> {
    let HostPort { host, port } = target;
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok((vec![SocketAddr::new(address, *port)], "Address"));
    }
    let failed = |reason, message: String| JoinError::new(condition::DNS_RESOLVED, reason, message);
    let remedy = "check the cluster's DNS, or make the Manager's name known to it";
    match tokio::time::timeout(RESOLVE_LIMIT, tokio::net::lookup_host((host.as_str(), *port))).await {
        Ok(Ok(addresses)) => {
            let addresses: Vec<SocketAddr> = addresses.take(ADDRESSES_MAX).collect();
            if addresses.is_empty() {
                return Err(failed("NameNotFound", format!("\"{host}\" has no address; {remedy}")));
            }
            Ok((addresses, "Resolved"))
        }
        Ok(Err(error)) => Err(failed("NameNotFound", format!("could not resolve \"{host}\": {error}; {remedy}"))),
        Err(_) => {
            Err(failed("NameServerTimeout", format!("no name server answered for \"{host}\" within 5 s; {remedy}")))
        }
    }
}

/// Opens a TCP connection to one of the addresses and closes it.
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
        "ConnectionRefused" => "check that the Manager runs there and listens on this port",
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
