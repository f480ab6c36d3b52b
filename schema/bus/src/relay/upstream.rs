//! From a URL to a connection on which the broker has introduced itself.

use super::{error::RelayError, info};
use crate::{
    dial::{Dialer, Socket},
    tls::{self, Files},
    transport::{BrokerUrl, Transport},
    websocket::{self, FrameReader, Received},
};
use bytes::BytesMut;
use std::{future::Future, io, sync::Arc, time::Duration};
use tokio::io::{ReadHalf, WriteHalf};
use tokio_rustls::client::TlsStream;

/// Time for each of the broker's own steps: TLS, the WebSocket, its first message. The broker's own limit for TLS is 10 s.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// A connection to the broker, and what it said first.
pub(super) struct Upstream {
    /// The first message as the client must see it.
    pub(super) info: Vec<u8>,
    /// What came after it.
    pub(super) rest: BytesMut,
    pub(super) link: Link,
    /// The proxy that it goes through.
    pub(super) proxy: Option<String>,
}

type Secured = TlsStream<Socket>;

/// How the broker's bytes are packed.
pub(super) enum Link {
    Plain(Box<Secured>),
    Websocket(FrameReader<ReadHalf<Secured>>, WriteHalf<Secured>),
}

/// Connects.
pub(super) async fn open(url: &BrokerUrl, dialer: &Dialer, files: &Files) -> Result<Upstream, RelayError> {
    let proxy = dialer.proxy_for(&url.target).map(|proxy| proxy.to_string());
    let config = tls::mutual(files).map_err(RelayError::Files)?;
    let stream = dialer.dial(&url.target).await?;
    let (line, rest, link) = match url.transport {
        Transport::Nats => nats(url, config, stream).await?,
        Transport::Websocket => websocket(url, config, stream).await?,
    };
    Ok(Upstream { info: info::rewritten(&line)?, rest, link, proxy })
}

type Introduced = (Vec<u8>, BytesMut, Link);

/// The broker introduces itself in clear text, and then waits for TLS. What it says before TLS could have been said by anybody on the
/// way; the nonce in it, too, but a signature of that opens no other session.
async fn nats(url: &BrokerUrl, config: rustls::ClientConfig, mut stream: Socket) -> Result<Introduced, RelayError> {
    let mut read = BytesMut::new();
    let line = within("the broker's first message", info::read(&mut stream, &mut read)).await?;
    if !read.is_empty() {
        return Err(RelayError::NotNats("it went on after INFO without TLS".to_owned()));
    }
    let secured = secure(url, config, stream).await?;
    Ok((line, BytesMut::new(), Link::Plain(Box::new(secured))))
}

async fn websocket(url: &BrokerUrl, config: rustls::ClientConfig, stream: Socket) -> Result<Introduced, RelayError> {
    let mut secured = secure(url, config, stream).await?;
    let rest = within("the WebSocket", websocket::open(&mut secured, &url.target, &url.path)).await?;
    let (from, to) = tokio::io::split(secured);
    let mut frames = FrameReader::new(from, rest);
    let mut read = BytesMut::new();
    let first = async {
        loop {
            if let Some(line) = info::take_line(&mut read)? {
                return Ok(line);
            }
            match frames.next().await? {
                Some(Received::Data(data)) => read.extend_from_slice(&data),
                Some(Received::Ping(_)) => {}
                None => return Err(RelayError::Ended(None)),
            }
        }
    };
    let line = within("the broker's first message", first).await?;
    Ok((line, read, Link::Websocket(frames, to)))
}

async fn secure(url: &BrokerUrl, config: rustls::ClientConfig, stream: Socket) -> Result<Secured, RelayError> {
    let handshake = async {
        let failed = |error: io::Error| RelayError::Tls(Arc::new(error));
        tls::handshake(config, &url.target.host, stream).await.map_err(failed)
    };
    within("TLS with the broker", handshake).await
}

async fn within<T>(step: &'static str, done: impl Future<Output = Result<T, RelayError>>) -> Result<T, RelayError> {
    let seconds = STEP_LIMIT.as_secs();
    tokio::time::timeout(STEP_LIMIT, done).await.unwrap_or(Err(RelayError::TimedOut { step, seconds }))
}
