//! The stream of a connection whose HTTP version is known before hyper reads it. From `serve.rs`, after the TLS handshake.
//!
//! hyper takes a connection that begins like HTTP/2 for one and waits for the rest of its preface as long as it takes; its own time limits
//! begin after that. Here the preface is read, so that the time for it can be limited, and passed on as if it had not been.

use crate::connection_slots::ConnectionSlot;
use bytes::Bytes;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// How an HTTP/2 connection begins (RFC 9113, section 3.4).
const HTTP2_PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream with the slot that it has until it is closed.
#[derive(Debug)]
pub(crate) struct HttpStream<S> {
    stream: S,
    /// What was read and is not passed on yet.
    opening: Bytes,
    _slot: ConnectionSlot,
}

impl<S: AsyncRead + Unpin> HttpStream<S> {
    /// Reads until the bytes differ from the preface of HTTP/2, or all of it is there, or the client sends no more.
    pub(crate) async fn open(mut stream: S, slot: ConnectionSlot) -> io::Result<Self> {
        let (mut opening, mut length) = ([0_u8; HTTP2_PREFACE.len()], 0);
        while length < opening.len() && HTTP2_PREFACE.starts_with(&opening[..length]) {
            match stream.read(&mut opening[length..]).await? {
                0 => break,
                read => length += read,
            }
        }
        Ok(Self { stream, opening: Bytes::copy_from_slice(&opening[..length]), _slot: slot })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HttpStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.opening.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let length = this.opening.len().min(buf.remaining());
        buf.put_slice(&this.opening.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HttpStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection_slots::ConnectionSlots;
    use futures::FutureExt as _;
    use std::net::{IpAddr, Ipv4Addr};
    use tokio::io::AsyncWriteExt as _;

    fn slot() -> ConnectionSlot {
        ConnectionSlots::new(1, 1).take(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap()
    }

    #[tokio::test]
    async fn what_was_read_to_find_the_version_is_passed_on_with_what_follows() {
        let http2 = [&HTTP2_PREFACE[..], b"frames"].concat();
        for sent in [&b"GET / HTTP/1.1\r\n"[..], b"PUT / HTTP/1.1\r\n", b"G", b"PRI * HTTP/1.1", b"P", b"", &http2[..]]
        {
            let (mut client, server) = tokio::io::duplex(1024);
            client.write_all(sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut stream = HttpStream::open(server, slot()).await.unwrap();
            let mut passed_on = Vec::new();
            stream.read_to_end(&mut passed_on).await.unwrap();
            assert_eq!(passed_on, sent);
        }
    }

    #[tokio::test]
    async fn a_preface_in_parts_is_waited_for_and_anything_else_is_not() {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut opened = Box::pin(HttpStream::open(server, slot()));
        for part in HTTP2_PREFACE.chunks(5) {
            assert!(opened.as_mut().now_or_never().is_none(), "before {part:?}");
            client.write_all(part).await.unwrap();
        }
        assert!(opened.as_mut().now_or_never().is_some());
        let (mut client, server) = tokio::io::duplex(1024);
        client.write_all(b"PRX").await.unwrap();
        assert!(HttpStream::open(server, slot()).now_or_never().is_some());
    }
}
