//! Names and TCP. Every address of a name is tried: the next begins when the one before failed or has not answered for a moment, as
//! RFC 8305 has it, so that a broken IPv6 network delays a connection and does not prevent it.

use super::{CONNECT_LIMIT, RESOLVE_LIMIT, Target, error::TcpError};
use futures::{StreamExt as _, stream::FuturesUnordered};
use nix::sys::socket::{setsockopt, sockopt};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpStream, time::Instant};

/// An address that has not answered for so long is no longer waited for alone (RFC 8305, section 8).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// A quiet connection is probed after so many seconds, and again after each of [`PROBE_SECONDS`]. Load balancers and firewalls forget
/// connections that are quiet for longer, four minutes being the shortest common limit.
const QUIET_SECONDS: u32 = 30;
const PROBE_SECONDS: u32 = 10;
const PROBES: u32 = 3;
/// Bytes that are not acknowledged for so long end the connection. The client's own pings notice sooner, unless what they are queued
/// behind fills the socket.
const UNACKNOWLEDGED_MS: u32 = 60_000;

/// The addresses of a target, IPv6 and IPv4 in turn. A literal address needs no name server.
///
/// # Errors
/// When there is none within [`RESOLVE_LIMIT`].
pub async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, TcpError> {
    let Target { host, port } = target;
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, *port)]);
    }
    let not_found = |error| TcpError::NameNotFound { host: host.clone(), source: Arc::new(error) };
    match tokio::time::timeout(RESOLVE_LIMIT, tokio::net::lookup_host((host.as_str(), *port))).await {
        Ok(Ok(found)) => {
            let addresses = in_turn(found.collect());
            if addresses.is_empty() {
                return Err(not_found(io::Error::new(io::ErrorKind::NotFound, "it has no address")));
            }
            Ok(addresses)
        }
        Ok(Err(error)) => Err(not_found(error)),
        Err(_) => Err(TcpError::NameTimedOut { host: host.clone() }),
    }
}

/// The resolver's order within each family; its first address decides which family begins.
fn in_turn(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for address in found {
        let family = if address.is_ipv6() == first_is_v6 { &mut first } else { &mut second };
        if !family.contains(&address) {
            family.push(address);
        }
    }
    let mut second = second.into_iter();
    let mut addresses = Vec::new();
    for address in first {
        addresses.push(address);
        addresses.extend(second.next());
    }
    addresses.extend(second);
    addresses.truncate(ADDRESSES_MAX);
    addresses
}

/// A connection to the first of the addresses that accepts one, without delay of small writes and with keepalive.
///
/// # Errors
/// When none does within [`CONNECT_LIMIT`].
pub async fn connect(target: &Target, addresses: &[SocketAddr]) -> Result<TcpStream, TcpError> {
    let failed = |error| TcpError::Connect { target: target.clone(), source: Arc::new(error) };
    let connected = tokio::time::timeout(CONNECT_LIMIT, first(addresses)).await;
    let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
    tune(&stream).map_err(failed)?;
    Ok(stream)
}

async fn first(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    let mut waiting = addresses.iter();
    let mut attempts = FuturesUnordered::new();
    let mut next_at = Instant::now();
    loop {
        tokio::select! {
            Some(done) = attempts.next(), if !attempts.is_empty() => match done {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    last = error;
                    next_at = Instant::now();
                }
            },
            () = tokio::time::sleep_until(next_at), if waiting.len() > 0 => {
                attempts.extend(waiting.next().map(TcpStream::connect));
                next_at = Instant::now() + NEXT_ADDRESS_AFTER;
            }
            else => return Err(last),
        }
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &QUIET_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &PROBE_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepCount, &PROBES)?;
    setsockopt(stream, sockopt::TcpUserTimeout, &UNACKNOWLEDGED_MS)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::getsockopt;
    use tokio::net::TcpListener;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn families_take_turns_and_none_is_left_out() {
        let found = ["[::1]:1", "[::2]:1", "[::2]:1", "1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"].map(address);
        let expected = ["[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1", "1.1.1.3:1"].map(address);
        assert_eq!(in_turn(found.to_vec()), expected);
    }

    #[tokio::test]
    async fn a_literal_address_needs_no_name_server() {
        assert_eq!(resolve(&Target::new("[::1]", 8443)).await.unwrap(), [address("[::1]:8443")]);
        assert_eq!(resolve(&Target::new("127.0.0.1", 1)).await.unwrap(), [address("127.0.0.1:1")]);
    }

    #[tokio::test]
    async fn addresses_that_refuse_or_do_not_answer_do_not_keep_the_last_from_being_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        // A closed port refuses; a full backlog does not answer, as a firewall that drops packets.
        let full = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = full.local_addr().unwrap();
        let mut fillers = Vec::new();
        while let Ok(Ok(filler)) = tokio::time::timeout(NEXT_ADDRESS_AFTER, TcpStream::connect(silent)).await {
            fillers.push(filler);
        }
        let target = Target::new("127.0.0.1", good.port());
        let stream = connect(&target, &[address("127.0.0.1:1"), silent, good]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
    }

    #[tokio::test]
    async fn a_refused_connection_says_so_with_the_target() {
        let target = Target::new("127.0.0.1", 1);
        let error = connect(&target, &[address("127.0.0.1:1")]).await.unwrap_err();
        let TcpError::Connect { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(error.to_string(), "could not open TCP 127.0.0.1:1");
    }

    #[tokio::test]
    async fn a_connection_does_not_wait_with_small_writes_and_is_probed_while_quiet() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::new("127.0.0.1", listener.local_addr().unwrap().port());
        let stream = connect(&target, &resolve(&target).await.unwrap()).await.unwrap();
        assert!(stream.nodelay().unwrap());
        assert!(getsockopt(&stream, sockopt::KeepAlive).unwrap());
        assert_eq!(getsockopt(&stream, sockopt::TcpKeepIdle).unwrap(), QUIET_SECONDS);
        assert_eq!(getsockopt(&stream, sockopt::TcpUserTimeout).unwrap(), UNACKNOWLEDGED_MS);
    }
}
