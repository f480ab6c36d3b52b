//! TCP sockets to listen on.
//!
//! Guarantees: `[::]` means every address of the host, the IPv4 ones too, whatever `net.ipv6.bindv6only` says; on a host whose kernel has no
//! IPv6 it means those of IPv4. So one setting fits every host.

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, listen, setsockopt, socket, sockopt,
    },
};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::{AsRawFd as _, OwnedFd},
};

/// Connections that wait to be accepted; the kernel takes fewer where `net.core.somaxconn` is lower.
const BACKLOG: i32 = 1024;

/// Listens, without blocking.
///
/// # Errors
/// When the address cannot be used.
pub fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    match of_family(address) {
        Err(Errno::EAFNOSUPPORT) if address.is_ipv6() && address.ip().is_unspecified() => {
            of_family(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        listening => listening,
    }
    .map(TcpListener::from)
    .map_err(io::Error::from)
}

/// The same, for tasks to accept from.
///
/// # Errors
/// As [`tcp`].
///
/// # Panics
/// Outside a runtime.
pub fn tcp_for_tasks(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    tcp(address).and_then(tokio::net::TcpListener::from_std)
}

fn of_family(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(family, SockType::Stream, flags, None)?;
    // A process that starts again need not wait for connections of before.
    setsockopt(&listener, sockopt::ReuseAddr, &true)?;
    match address {
        SocketAddr::V6(v6) => {
            setsockopt(&listener, sockopt::Ipv6V6Only, &!v6.ip().is_unspecified())?;
            bind(listener.as_raw_fd(), &SockaddrIn6::from(v6))?;
        }
        SocketAddr::V4(v4) => bind(listener.as_raw_fd(), &SockaddrIn::from(v4))?,
    }
    listen(&listener, Backlog::new(BACKLOG)?)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn every_address_is_that_of_both_families_and_a_single_one_is_not() {
        for (address, reached) in [
            ("[::]:0", ["127.0.0.1", "::1"].as_slice()),
            ("[::1]:0", &["::1"]),
            ("0.0.0.0:0", &["127.0.0.1"]),
            ("127.0.0.1:0", &["127.0.0.1"]),
        ] {
            let listener = tcp(address.parse().unwrap()).unwrap();
            let port = listener.local_addr().unwrap().port();
            for host in ["127.0.0.1", "::1"] {
                assert_eq!(TcpStream::connect((host, port)).is_ok(), reached.contains(&host), "{address} by {host}");
            }
        }
    }

    #[test]
    fn a_taken_port_is_an_error() {
        let listener = tcp("[::]:0".parse().unwrap()).unwrap();
        assert_eq!(tcp(listener.local_addr().unwrap()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
