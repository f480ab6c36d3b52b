//! The request that turns an HTTP connection into a WebSocket.

use crate::{
    dial::{
        ByteStream, Target,
        http_head::{Head, HeadError},
    },
    relay::error::RelayError,
};
use aws_lc_rs::digest;
use bytes::BytesMut;
use data_encoding::BASE64;
use kubenova_runtime::random;
use tokio::io::AsyncWriteExt as _;

/// Appended to the key before it is hashed (RFC 6455, section 1.3).
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const DEFAULT_PORT: u16 = 443;

/// Asks for a WebSocket; returns what came after the answer.
pub(crate) async fn open(stream: &mut impl ByteStream, target: &Target, path: &str) -> Result<BytesMut, RelayError> {
    let key = BASE64.encode(&random::bytes::<16>());
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n",
        authority(target)
    );
    stream.write_all(request.as_bytes()).await.map_err(RelayError::ended)?;
    stream.flush().await.map_err(RelayError::ended)?;
    let head = Head::read(stream).await.map_err(|error| match error {
        HeadError::Ended(Some(error)) => RelayError::ended(error),
        HeadError::Ended(None) => RelayError::Ended(None),
        HeadError::NotHttp(what) => RelayError::NotNats(what),
    })?;
    if head.status != 101 {
        return Err(RelayError::UpgradeRefused { status: head.status });
    }
    if head.header("sec-websocket-accept") != Some(accept(&key).as_bytes()) {
        return Err(RelayError::NotNats("its WebSocket is the answer to another request".to_owned()));
    }
    Ok(BytesMut::from(&head.rest[..]))
}

fn accept(key: &str) -> String {
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{ACCEPT_SUFFIX}").as_bytes());
    BASE64.encode(hash.as_ref())
}

/// As routers compare it: without the default port.
fn authority(target: &Target) -> String {
    let text = target.to_string();
    let default = format!(":{DEFAULT_PORT}");
    text.strip_suffix(&default).map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[test]
    fn the_key_of_the_standard_has_the_answer_of_the_standard() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn the_default_port_is_not_named() {
        assert_eq!(authority(&Target::new("hub", 443)), "hub");
        assert_eq!(authority(&Target::new("::1", 443)), "[::1]");
        assert_eq!(authority(&Target::new("hub", 4430)), "hub:4430");
    }

    /// What `open` says to this answer, and what it sent.
    async fn answered(answer: &str) -> (Result<BytesMut, RelayError>, String) {
        let (mut client, mut server) = tokio::io::duplex(4096);
        server.write_all(answer.as_bytes()).await.unwrap();
        let opened = open(&mut client, &Target::new("hub", 443), "/nats?a=b").await;
        drop(client);
        let mut sent = String::new();
        server.read_to_string(&mut sent).await.unwrap();
        (opened, sent)
    }

    #[tokio::test]
    async fn an_answer_that_is_no_upgrade_is_refused_with_its_status() {
        let (opened, sent) = answered("HTTP/1.1 404 Not Found\r\n\r\n").await;
        assert!(matches!(opened, Err(RelayError::UpgradeRefused { status: 404 })));
        assert!(sent.starts_with("GET /nats?a=b HTTP/1.1\r\nHost: hub\r\n"), "{sent}");
        let another = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        assert!(matches!(answered(another).await.0, Err(RelayError::NotNats(_))));
        assert!(matches!(answered("INFO {}\r\n").await.0, Err(RelayError::NotNats(_))));
    }
}
