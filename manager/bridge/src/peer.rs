//! Who is at the other end of a connection: a cluster, by the SPIFFE id in the certificate that TLS has verified.

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
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use x509_parser::{extensions::GeneralName, prelude::FromDer as _};

/// What requests of a connection carry.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// The cluster's id; none when the certificate is that of something else.
    pub(crate) cluster: Option<Arc<str>>,
}

impl Peer {
    pub(crate) fn of(certificate: &CertificateDer<'_>, trust_domain: &str) -> Self {
        Self { cluster: cluster(certificate, trust_domain).map(Arc::from) }
    }
}

/// `spiffe://<domain>/cluster/<id>/<incarnation>`.
fn cluster(certificate: &CertificateDer<'_>, trust_domain: &str) -> Option<String> {
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

/// A connection with its peer. It counts as one until it is closed.
pub(crate) struct PeerStream {
    pub(crate) stream: TlsStream<TcpStream>,
    pub(crate) peer: Peer,
    pub(crate) _counted: OwnedSemaphorePermit,
}

impl Connected for PeerStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
