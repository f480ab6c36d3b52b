//! What a pod listens on, read from the kernel's tables: "the Operator opens no port" is shown
//! with this.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A listening TCP or bound UDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListeningSocket {
    /// Where it listens.
    pub address: SocketAddr,
    /// TCP, else UDP.
    pub tcp: bool,
}

/// The kernel's number for LISTEN, and for an unconnected UDP socket.
const TCP_LISTEN: &str = "0A";
const UDP_UNCONNECTED: &str = "07";

/// All sockets that listen in the network namespace of a process.
pub(crate) fn listening(pid: u32) -> Vec<ListeningSocket> {
    let tables = [("tcp", TCP_LISTEN), ("tcp6", TCP_LISTEN), ("udp", UDP_UNCONNECTED), ("udp6", UDP_UNCONNECTED)];
    let mut found = Vec::new();
    for (table, state) in tables {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        let tcp = table.starts_with("tcp");
        found.extend(parse(&text, state).map(|address| ListeningSocket { address, tcp }));
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn parse<'a>(table: &'a str, state: &'a str) -> impl Iterator<Item = SocketAddr> + 'a {
    table.lines().skip(1).filter_map(move |line| {
        let mut columns = line.split_whitespace().skip(1);
        let local = columns.next()?;
        let is_state = columns.nth(1)? == state;
        is_state.then(|| address(local)).flatten()
    })
}

/// `0100007F:1F90` (words in host order) → `127.0.0.1:8080`.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Vec<[u8; 4]> = (0..host.len())
        .step_by(8)
        .map(|at| u32::from_str_radix(host.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect::<Option<_>>()?;
    let ip = match words.as_slice() {
        [word] => IpAddr::V4(Ipv4Addr::from(*word)),
        [_, _, _, _] => {
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
                     \x20  0: 0100007F:1F90 00000000:0000 0A 00000000\n\
                     \x20  1: 0B014D0A:D431 01004D0A:107E 01 00000000\n";
        let found: Vec<_> = parse(table, TCP_LISTEN).collect();
        assert_eq!(found, ["127.0.0.1:8080".parse().unwrap()]);
    }

    #[test]
    fn ipv6_is_read() {
        assert_eq!(address("00000000000000000000000000000000:2760"), Some("[::]:10080".parse().unwrap()));
        assert_eq!(address("00000000000000000000000001000000:0050"), Some("[::1]:80".parse().unwrap()));
    }
}
