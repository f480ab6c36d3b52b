//! The cluster's end of the bridge: one session over one connection, on a stream that was dialed and secured already.

use super::{
    CHUNK, CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, FRAMES_WAITING, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT,
    STREAM_WINDOW_BYTES,
    noting::{Note, Noting},
    problem::BridgeProblem,
    proto::{Frame, bridge_client::BridgeClient},
};
use crate::{
    dial::{ByteStream, Target},
    relay::error::RelayError,
};
use bytes::{Bytes, BytesMut};
use hyper_util::rt::TokioIo;
use std::io;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};

/// The bytes of a session.
pub(crate) struct Session {
    pub(crate) up: Up,
    pub(crate) down: Down,
}

/// Towards the broker; ends with the value.
pub(crate) struct Up(mpsc::Sender<Frame>);

/// From the broker.
pub(crate) struct Down {
    frames: Streaming<Frame>,
    note: Note,
    /// The connection, which lives as long as the session.
    _channel: Channel,
}

/// Asks for a session. The bridge answers once it has connected to the broker.
///
/// # Errors
/// When something else than the bridge answers, or it refuses.
pub(crate) async fn open<S: ByteStream + 'static>(stream: S, target: &Target) -> Result<Session, RelayError> {
    let note = Note::default();
    let channel = channel(Noting { stream, note: note.clone() }, target).await;
    let channel = channel.map_err(|error| match note.take() {
        Some(error) => RelayError::ended(error),
        None => RelayError::NotBridge(kubenova_runtime::telemetry::chain(&error)),
    })?;
    let (up, frames) = mpsc::channel(FRAMES_WAITING);
    let mut client = BridgeClient::new(channel.clone())
        .max_decoding_message_size(FRAME_BYTES_MAX)
        .max_encoding_message_size(FRAME_BYTES_MAX);
    let answered = client.connect(ReceiverStream::new(frames)).await;
    let frames = answered.map_err(|status| of_status(&status, &note))?.into_inner();
    Ok(Session { up: Up(up), down: Down { frames, note, _channel: channel } })
}

/// HTTP/2 on this stream. Another one is never made: for a session that breaks another connection is dialed, with certificates as they are by then.
async fn channel<S: ByteStream + 'static>(stream: S, target: &Target) -> Result<Channel, tonic::transport::Error> {
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(stream)
    });
    // TLS is below; to the bridge and what stands in front of it the request is one of HTTPS.
    let endpoint = Endpoint::from_shared(format!("http://{target}"))?;
    let origin = Uri::try_from(format!("https://{target}")).ok();
    origin
        .map_or(endpoint.clone(), |origin| endpoint.origin(origin))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
}

fn of_status(status: &Status, note: &Note) -> RelayError {
    if let Some(problem) = BridgeProblem::of(status) {
        return RelayError::Bridge { problem, message: status.message().to_owned() };
    }
    match (note.take(), status.code()) {
        (Some(error), _) => RelayError::ended(error),
        // A gRPC server without this service, or a router that answers in its place.
        (None, Code::Unimplemented | Code::NotFound | Code::PermissionDenied | Code::Unauthenticated) => {
            RelayError::NotBridge(status.to_string())
        }
        (None, _) => RelayError::ended(io::Error::new(io::ErrorKind::ConnectionAborted, status.to_string())),
    }
}

impl Up {
    /// Passes bytes on until there are none; then the bridge closes its connection to the broker.
    pub(crate) async fn copy(self, mut from: impl AsyncRead + Unpin) -> Result<(), RelayError> {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        loop {
            // What was sent is given back once HTTP/2 has written it.
            chunk.reserve(CHUNK);
            let mut room = bytes::BufMut::limit(&mut chunk, CHUNK);
            if from.read_buf(&mut room).await.map_err(RelayError::ended)? == 0 {
                return Ok(());
            }
            let frame = Frame { data: chunk.split().freeze() };
            // Why the session ended is said by the other direction.
            self.0.send(frame).await.map_err(|_| RelayError::Ended(None))?;
        }
    }
}

impl Down {
    /// The next bytes; none once the broker has closed the connection in good order.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, RelayError> {
        let frame = self.frames.message().await.map_err(|status| of_status(&status, &self.note))?;
        Ok(frame.map(|frame| frame.data))
    }
}
