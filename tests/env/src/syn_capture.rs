//! Watching who opens connections across a cluster's uplink.
//!
//! Guarantees: every TCP SYN (without ACK) that passes the sandbox's end of the uplink while the
//! capture runs is listed with source and destination. This is how "KubeNova opens no inbound port
//! in a cluster" is shown on the wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use nix::libc::{PACKET_OTHERHOST, sockaddr_ll};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::network::ClusterNetwork;

/// How long a read may block before the thread looks whether it should end.
const LOOK_MS: i64 = 100;
/// IPv4 and TCP headers at their longest; those of IPv6 without extensions are shorter.
const HEADERS_MAX: usize = 120;

/// One attempt to open a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Syn {
    /// Who opens.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
}

/// A running capture; dropping it ends it.
#[derive(Debug)]
pub struct SynCapture {
    seen: Arc<Mutex<Vec<Syn>>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl SynCapture {
    /// Begins to listen at the sandbox's end of a cluster's uplink.
    pub fn start(network: &ClusterNetwork) -> Result<Self> {
        let interface = network.uplink();
        let index = if_nametoindex(interface.as_str()).with_context(|| format!("no interface {interface}"))?;
        let socket = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
            .context("could not open a packet socket")?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(LOOK_MS)).context("could not set a timeout")?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new()
            .name(format!("syn-{interface}"))
            .spawn({
                let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
                move || capture(&socket, index as usize, &seen, &stop)
            })
            .context("could not start the capture")?;
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// What was seen so far, retransmissions included.
    pub fn seen(&self) -> Vec<Syn> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for SynCapture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn capture(socket: &OwnedFd, interface: usize, seen: &Mutex<Vec<Syn>>, stop: &AtomicBool) {
    let mut packet = [0; HEADERS_MAX];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut packet) else {
            continue;
        };
        if from.is_some_and(|from| from.ifindex() == interface && !is_flooded(&from))
            && let Some(syn) = parse(&packet[..length.min(HEADERS_MAX)])
        {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(syn);
        }
    }
}

/// Whether a frame is for another receiver. The bridge in a cluster's namespace sends one to every port, the uplink's too, while it does
/// not know where the receiver's is; it is dropped at the other end, so nothing crossed.
fn is_flooded(from: &LinkAddr) -> bool {
    let from: &sockaddr_ll = from.as_ref();
    from.sll_pkttype == PACKET_OTHERHOST
}

/// The SYN in an IP packet, if it is one.
fn parse(packet: &[u8]) -> Option<Syn> {
    let first = *packet.first()?;
    let (source, destination, protocol, header) = match first >> 4 {
        4 => (ipv4(packet, 12)?, ipv4(packet, 16)?, *packet.get(9)?, usize::from(first & 0x0f) * 4),
        6 => (ipv6(packet, 8)?, ipv6(packet, 24)?, *packet.get(6)?, 40),
        _ => return None,
    };
    const TCP: u8 = 6;
    if protocol != TCP {
        return None;
    }
    let tcp = packet.get(header..)?;
    let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    let flags = *tcp.get(13)?;
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    if flags & (SYN | ACK) != SYN {
        return None;
    }
    Some(Syn { source: SocketAddr::new(source, port(0)?), destination: SocketAddr::new(destination, port(2)?) })
}

fn ipv4(packet: &[u8], at: usize) -> Option<IpAddr> {
    let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(bytes).into())
}

fn ipv6(packet: &[u8], at: usize) -> Option<IpAddr> {
    let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(flags: u8) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[9] = 6;
        packet[12..16].copy_from_slice(&[10, 77, 1, 11]);
        packet[16..20].copy_from_slice(&[10, 77, 0, 1]);
        packet[20..22].copy_from_slice(&40000_u16.to_be_bytes());
        packet[22..24].copy_from_slice(&4222_u16.to_be_bytes());
        packet[33] = flags;
        packet
    }

    #[test]
    fn only_the_first_packet_of_a_connection_counts() {
        let syn = parse(&packet(0x02)).unwrap();
        assert_eq!(syn.source, "10.77.1.11:40000".parse().unwrap());
        assert_eq!(syn.destination, "10.77.0.1:4222".parse().unwrap());
        assert_eq!(parse(&packet(0x12)), None, "SYN with ACK is the answer");
        assert_eq!(parse(&packet(0x10)), None);
    }

    #[test]
    fn a_connection_by_ipv6_is_one() {
        let mut by_ipv6 = vec![0; 60];
        by_ipv6[0] = 0x60;
        by_ipv6[6] = 6;
        by_ipv6[8..24].copy_from_slice(&"fd77:0:0:1::b".parse::<Ipv6Addr>().unwrap().octets());
        by_ipv6[24..40].copy_from_slice(&"fd77::1".parse::<Ipv6Addr>().unwrap().octets());
        by_ipv6[40..].copy_from_slice(&packet(0x02)[20..]);
        let syn = parse(&by_ipv6).unwrap();
        assert_eq!(syn.source, "[fd77:0:0:1::b]:40000".parse().unwrap());
        assert_eq!(syn.destination, "[fd77::1]:4222".parse().unwrap());
        by_ipv6[6] = 58;
        assert_eq!(parse(&by_ipv6), None, "neighbor discovery");
    }

    #[test]
    fn anything_else_is_no_syn() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&packet(0x02)[..30]), None, "cut short");
        let mut udp = packet(0x02);
        udp[9] = 17;
        assert_eq!(parse(&udp), None);
    }
}
