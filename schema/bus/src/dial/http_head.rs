//! The head of one HTTP/1.1 answer, from a stream that goes on as something else.

use bytes::{Bytes, BytesMut};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Longest head that is read: proxies answer with a few hundred bytes, single sign-on ones with some cookies more.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Headers that are read.
const HEADERS_MAX: usize = 64;

/// What an HTTP server answered, up to the empty line.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    headers: Vec<(String, Vec<u8>)>,
    /// What came in the same packet after the empty line.
    pub(crate) rest: Bytes,
}

/// Why there is no head.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeadError {
    /// The connection broke or was closed.
    #[error("the connection ended before the answer")]
    Ended(#[source] Option<io::Error>),
    /// It is no HTTP, or too long.
    #[error("{0}")]
    NotHttp(String),
}

impl Head {
    /// Reads one.
    pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Self, HeadError> {
        let mut read = BytesMut::with_capacity(1024);
        loop {
            let count = from.read_buf(&mut read).await.map_err(|error| HeadError::Ended(Some(error)))?;
            if count == 0 {
                return Err(HeadError::Ended(None));
            }
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut answer = httparse::Response::new(&mut headers);
            let parsed = answer.parse(&read).map_err(|error| HeadError::NotHttp(format!("it is no HTTP: {error}")))?;
            if let httparse::Status::Complete(length) = parsed {
                let status = answer.code.unwrap_or_default();
                let headers =
                    answer.headers.iter().map(|header| (header.name.to_owned(), header.value.to_vec())).collect();
                return Ok(Self { status, headers, rest: read.split_off(length).freeze() });
            }
            if read.len() > HEAD_BYTES_MAX {
                return Err(HeadError::NotHttp(format!("its head is longer than {HEAD_BYTES_MAX} bytes")));
            }
        }
    }

    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&[u8]> {
        let (_, value) = self.headers.iter().find(|(its, _)| its.eq_ignore_ascii_case(name))?;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_follows_in_the_same_packet_is_kept() {
        let mut answer = &b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nINFO {}\r\n"[..];
        let head = Head::read(&mut answer).await.unwrap();
        assert_eq!((head.status, head.header("via"), &head.rest[..]), (200, Some(&b"x"[..]), &b"INFO {}\r\n"[..]));
    }

    #[tokio::test]
    async fn what_is_no_http_or_has_no_end_is_not_waited_for() {
        assert!(matches!(Head::read(&mut &b"INFO {}\r\n"[..]).await, Err(HeadError::NotHttp(_))));
        assert!(matches!(Head::read(&mut &b"HTTP/1.1 200 OK\r\n"[..]).await, Err(HeadError::Ended(None))));
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(2 * HEAD_BYTES_MAX));
        assert!(matches!(Head::read(&mut endless.as_bytes()).await, Err(HeadError::NotHttp(_))));
    }
}
