//! A connection to the broker's own port, on which it has introduced itself. The bridge makes one for each session, and the relay where
//! a proxy stands between.

use super::{error::RelayError, info};
use crate::{
    dial::{Dialer, Socket, Target},
    tls::{self, Files},
    transport::{BrokerUrl, Transport},
};
use bytes::BytesMut;
use rustls::ClientConfig;
use std::{future::Future, io, sync::Arc, time::Duration};
use tokio_rustls::client::TlsStream;

/// Time for each of the broker's own steps: TLS, the WebSocket, its first message. The broker's own limit for TLS is 10 s.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// A stream with TLS.
pub type Secured = TlsStream<Socket>;

/// A connection that begins.
pub struct Greeted {
    /// The broker's first message, without what is said of TLS and of other servers.
    pub info: Vec<u8>,
    /// What follows it.
    pub stream: Secured,
}

/// Connects to a `tls://` URL with the certificate of these files.
///
/// # Errors
/// When there is no connection, or what answers is no NATS server.
pub async fn connect(url: &BrokerUrl, dialer: &Dialer, files: &Files) -> Result<Greeted, RelayError> {
    if url.transport != Transport::Nats {
        return Err(RelayError::NotNats(format!("{} names another transport", url.text)));
    }
    let config = tls::mutual(files).map_err(RelayError::Files)?;
    greet(&url.target, config, dialer.dial(&url.target).await?).await
}

/// The broker introduces itself in clear text, and then waits for TLS. What it says before TLS could have been said by an attacker on the
/// way; the nonce in it, too, but a signature of that opens no other session.
pub(super) async fn greet(target: &Target, config: ClientConfig, mut stream: Socket) -> Result<Greeted, RelayError> {
    let mut read = BytesMut::new();
    let line = within("the broker's first message", info::read(&mut stream, &mut read)).await?;
    if !read.is_empty() {
        return Err(RelayError::NotNats("it went on after INFO without TLS".to_owned()));
    }
    let stream = secure("TLS with the broker", target, config, stream).await?;
    Ok(Greeted { info: info::rewritten(&line)?, stream })
}

pub(super) async fn secure(
    step: &'static str,
    target: &Target,
    config: ClientConfig,
    stream: Socket,
) -> Result<Secured, RelayError> {
    let handshake = async {
        let failed = |error: io::Error| RelayError::Tls(Arc::new(error));
        tls::handshake(config, &target.host, stream).await.map_err(failed)
    };
    within(step, handshake).await
}

pub(super) async fn within<T>(
    step: &'static str,
    done: impl Future<Output = Result<T, RelayError>>,
) -> Result<T, RelayError> {
    let seconds = STEP_LIMIT.as_secs();
    tokio::time::timeout(STEP_LIMIT, done).await.unwrap_or(Err(RelayError::TimedOut { step, seconds }))
}
