//! The broker's first message, `INFO {…}`, as the client must see it.

use super::error::RelayError;
use bytes::BytesMut;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Longest first message: a few hundred bytes, and about sixty for each server of a cluster.
const INFO_BYTES_MAX: usize = 64 * 1024;
/// Fields that would have the client do TLS with us, or go past the relay.
const REMOVED: [&str; 5] = ["tls_required", "tls_verify", "tls_available", "connect_urls", "ws_connect_urls"];

/// Reads up to the end of the first line; what follows it stays in the buffer.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Result<Vec<u8>, RelayError> {
    loop {
        if let Some(line) = take_line(buffer)? {
            return Ok(line);
        }
        if from.read_buf(buffer).await.map_err(RelayError::ended)? == 0 {
            return Err(RelayError::Ended(None));
        }
    }
}

/// The first line with its end, once it is complete.
pub(super) fn take_line(buffer: &mut BytesMut) -> Result<Option<Vec<u8>>, RelayError> {
    if let Some(end) = buffer.windows(2).position(|two| two == b"\r\n") {
        return Ok(Some(buffer.split_to(end + 2).to_vec()));
    }
    let start = &b"INFO "[..buffer.len().min(5)];
    if buffer.len() > INFO_BYTES_MAX || !buffer.starts_with(start) {
        return Err(RelayError::NotNats("it did not begin with INFO".to_owned()));
    }
    Ok(None)
}

/// The same message for a client that is connected over the loopback interface, to this one server.
pub(super) fn rewritten(line: &[u8]) -> Result<Vec<u8>, RelayError> {
    let json =
        line.strip_prefix(b"INFO ").ok_or_else(|| RelayError::NotNats("it did not begin with INFO".to_owned()))?;
    let mut info: Map<String, Value> = serde_json::from_slice(json)
        .map_err(|error| RelayError::NotNats(format!("its INFO cannot be read: {error}")))?;
    for field in REMOVED {
        info.remove(field);
    }
    Ok(format!("INFO {}\r\n", Value::Object(info)).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_told_neither_of_tls_nor_of_other_servers() {
        let line = br#"INFO {"server_id":"N1","nonce":"abc","tls_required":true,"tls_verify":true,"tls_available":true,"connect_urls":["10.0.0.1:4222"],"max_payload":1048576}"#;
        let info = rewritten(&[&line[..], b"\r\n"].concat()).unwrap();
        assert_eq!(info, b"INFO {\"max_payload\":1048576,\"nonce\":\"abc\",\"server_id\":\"N1\"}\r\n");
    }

    #[tokio::test]
    async fn what_is_no_info_is_refused_before_it_fills_the_memory() {
        let from = async |mut from: &[u8]| read(&mut from, &mut BytesMut::new()).await;
        assert_eq!(from(b"INFO {}\r\nPING\r\n").await.unwrap(), b"INFO {}\r\n");
        assert!(matches!(from(b"HTTP/1.1 400 Bad Request").await, Err(RelayError::NotNats(_))));
        assert!(matches!(from(b"INFO {").await, Err(RelayError::Ended(None))));
        let endless = format!("INFO {}", "x".repeat(2 * INFO_BYTES_MAX));
        assert!(matches!(from(endless.as_bytes()).await, Err(RelayError::NotNats(_))));
        assert!(matches!(rewritten(b"INFO nonsense\r\n"), Err(RelayError::NotNats(_))));
    }
}
