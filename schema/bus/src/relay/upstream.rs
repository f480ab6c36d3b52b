//! From a URL to a connection on which the broker has introduced itself.

use super::{
    broker::{self, Greeted, Secured, secure, within},
    error::RelayError,
    info,
};
use crate::{
    bridge::{
        ALPN,
        client::{self, Session},
    },
    dial::{Dialer, Socket},
    tls::{self, Files},
    transport::{BrokerUrl, Transport},
    websocket::{self, FrameReader, Received},
};
use bytes::BytesMut;
use rustls::ClientConfig;
use tokio::io::{ReadHalf, WriteHalf};

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

/// How the broker's bytes are packed.
pub(super) enum Link {
    Plain(Box<Secured>),
    Websocket(FrameReader<ReadHalf<Secured>>, WriteHalf<Secured>),
    Bridge(Box<Session>),
}

/// Connects.
pub(super) async fn open(url: &BrokerUrl, dialer: &Dialer, files: &Files) -> Result<Upstream, RelayError> {
    let proxy = dialer.proxy_for(&url.target).map(|proxy| proxy.to_string());
    let config = tls::mutual(files).map_err(RelayError::Files)?;
    let stream = dialer.dial(&url.target).await?;
    let (info, rest, link) = match url.transport {
        // A leaf node is never reached by way of the relay; it speaks as the broker does.
        Transport::Nats | Transport::Leaf => nats(url, config, stream).await?,
        Transport::Websocket => websocket(url, config, stream).await?,
        Transport::Grpc => bridge(url, config, stream).await?,
    };
    Ok(Upstream { info, rest, link, proxy })
}

/// The first message as the client must see it, what came after it, and the rest.
type Introduced = (Vec<u8>, BytesMut, Link);

async fn nats(url: &BrokerUrl, config: ClientConfig, stream: Socket) -> Result<Introduced, RelayError> {
    let Greeted { info, stream } = broker::greet(&url.target, config, stream).await?;
    Ok((info, BytesMut::new(), Link::Plain(Box::new(stream))))
}

async fn websocket(url: &BrokerUrl, config: ClientConfig, stream: Socket) -> Result<Introduced, RelayError> {
    let mut secured = secure("TLS with the broker", &url.target, config, stream).await?;
    let rest = within("the WebSocket", websocket::open(&mut secured, &url.target, &url.path)).await?;
    let (from, to) = tokio::io::split(secured);
    let mut frames = FrameReader::new(from, rest);
    let mut read = BytesMut::new();
    let first = async {
        loop {
            if let Some(line) = info::take_line(&mut read)? {
                return info::rewritten(&line);
            }
            match frames.next().await? {
                Some(Received::Data(data)) => read.extend_from_slice(&data),
                Some(Received::Ping(_)) => {}
                None => return Err(RelayError::Ended(None)),
            }
        }
    };
    let info = within("the broker's first message", first).await?;
    Ok((info, read, Link::Websocket(frames, to)))
}

/// The bridge rewrites the broker's first message, too; but it is not asked whether this client does TLS with it or goes elsewhere.
async fn bridge(url: &BrokerUrl, mut config: ClientConfig, stream: Socket) -> Result<Introduced, RelayError> {
    config.alpn_protocols = vec![ALPN.to_vec()];
    let secured = secure("TLS with the bridge", &url.target, config, stream).await?;
    if secured.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(RelayError::NotBridge("it speaks no HTTP/2".to_owned()));
    }
    let mut session = within("the bridge's connection to the broker", client::open(secured, &url.target)).await?;
    let mut read = BytesMut::new();
    let first = async {
        loop {
            if let Some(line) = info::take_line(&mut read)? {
                return info::rewritten(&line);
            }
            match session.down.next().await? {
                Some(data) => read.extend_from_slice(&data),
                None => return Err(RelayError::Ended(None)),
            }
        }
    };
    let info = within("the broker's first message", first).await?;
    Ok((info, read, Link::Bridge(Box::new(session))))
}
