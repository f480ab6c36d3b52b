//! Who is at the other end of a connection: a cluster, by the SPIFFE id in the certificate that TLS has verified.

use crate::{
    metrics::Metrics,
    shares::Share,
    usage::{UNUSED_MAX, Usage},
};
use rustls::pki_types::CertificateDer;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep},
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use x509_parser::{extensions::GeneralName, prelude::FromDer as _};

/// What requests of a connection carry.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// The cluster's id.
    pub(crate) cluster: Arc<str>,
    /// The connection's sessions.
    pub(crate) usage: Arc<Usage>,
}

/// The id of the cluster whose certificate this is, from `spiffe://<domain>/cluster/<id>/<incarnation>`.
pub(crate) fn cluster(certificate: &CertificateDer<'_>, trust_domain: &str) -> Option<String> {
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let ids = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => of_uri(uri, trust_domain),
        _ => None,
    });
    ids.map(str::to_owned).next()
}

fn of_uri<'a>(uri: &'a str, trust_domain: &str) -> Option<&'a str> {
    let path = uri.strip_prefix("spiffe://")?.strip_prefix(trust_domain)?.strip_prefix("/cluster/")?;
    let (id, incarnation) = path.split_once('/')?;
    let is_plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_plain(id) && is_plain(incarnation)).then_some(id)
}

/// The places that a connection takes until it is closed.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) _of_cluster: Share<Arc<str>>,
    pub(crate) _of_all: OwnedSemaphorePermit,
}

/// A connection with its peer. It ends with an error once no session has used it for [`UNUSED_MAX`].
pub(crate) struct PeerStream {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    unused: Pin<Box<Sleep>>,
    is_closed: bool,
    metrics: Metrics,
    _places: Places,
}

impl PeerStream {
    /// Of a connection that is made now.
    pub(crate) fn new(stream: TlsStream<TcpStream>, cluster: Arc<str>, places: Places, metrics: Metrics) -> Self {
        let peer = Peer { cluster, usage: Arc::new(Usage::new(Instant::now())) };
        let unused = Box::pin(sleep(UNUSED_MAX));
        Self { stream, peer, unused, is_closed: false, metrics, _places: places }
    }

    /// Fails once the connection was without a session for too long, and wakes the task then. Every operation asks: a peer that takes
    /// nothing lets reads wait for writes.
    fn check_used(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.is_closed && self.unused.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let end = self.peer.usage.unused_at(now);
            self.is_closed = end <= now;
            if self.is_closed {
                self.metrics.closed("unused");
                tracing::debug!(cluster.id = &*self.peer.cluster, "closed a connection: no session used it");
            } else {
                self.unused.as_mut().reset(end);
            }
        }
        if self.is_closed {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no session used the connection"));
        }
        Ok(())
    }
}

impl Connected for PeerStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_used(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check_used(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_used(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_used(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_id_of_a_cluster_in_the_own_domain_is_one() {
        let read = |uri| of_uri(uri, "kubenova.test");
        assert_eq!(read("spiffe://kubenova.test/cluster/c1/2"), Some("c1"));
        for other in [
            "spiffe://kubenova.test/manager",
            "spiffe://kubenova.test/cluster/c1",
            "spiffe://kubenova.test/cluster//2",
            "spiffe://kubenova.test/cluster/c1/",
            "spiffe://kubenova.test/cluster/c1/2/3",
            "spiffe://kubenova.test.elsewhere/cluster/c1/2",
            "https://kubenova.test/cluster/c1/2",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
