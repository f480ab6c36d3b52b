//! Bytes between the client and the broker, in both directions at once.

use super::{
    error::RelayError,
    upstream::{Link, Upstream},
};
use crate::bridge::client::Down;
use crate::websocket::{self, FrameReader, Opcode, Received};
use bytes::{Bytes, BytesMut};
use std::{future::Future, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    sync::mpsc,
};

/// What is held of one direction; the rest waits with its sender.
const CHUNK: usize = 32 * 1024;
/// Once one direction has ended, what the other still brings: the client's last messages, or the broker's reason.
const LINGER: Duration = Duration::from_secs(5);
/// Answers to pings that wait for a slow broker; more of them say nothing new.
const PONGS_WAITING: usize = 4;

/// Passes bytes until both sides have ended. The client's side stays open afterwards, so that the reason can be kept before it sees the
/// end.
pub(super) async fn both(
    from_near: &mut OwnedReadHalf,
    to_near: &mut OwnedWriteHalf,
    upstream: Upstream,
) -> Result<(), RelayError> {
    let Upstream { info, rest, link, .. } = upstream;
    write(to_near, &info).await?;
    write(to_near, &rest).await?;
    match link {
        Link::Plain(stream) => {
            let (from, to) = tokio::io::split(*stream);
            until_both_end(plain(from_near, to), plain(from, to_near)).await
        }
        Link::Websocket(frames, to) => {
            let (pong, pongs) = mpsc::channel(PONGS_WAITING);
            until_both_end(into_frames(from_near, to, pongs), out_of_frames(frames, to_near, pong)).await
        }
        Link::Bridge(session) => until_both_end(session.up.copy(from_near), out_of_bridge(session.down, to_near)).await,
    }
}

/// What breaks on the way up may be explained by what still comes down; what breaks on the way down is the end.
async fn until_both_end(
    up: impl Future<Output = Result<(), RelayError>>,
    down: impl Future<Output = Result<(), RelayError>>,
) -> Result<(), RelayError> {
    tokio::pin!(up, down);
    tokio::select! {
        up = &mut up => tokio::time::timeout(LINGER, down).await.unwrap_or(Ok(())).and(up),
        down = &mut down => {
            down?;
            tokio::time::timeout(LINGER, up).await.unwrap_or(Ok(()))
        }
    }
}

async fn plain(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> Result<(), RelayError> {
    let mut chunk = BytesMut::with_capacity(CHUNK);
    while from.read_buf(&mut chunk).await.map_err(RelayError::ended)? > 0 {
        write(&mut to, &chunk).await?;
        chunk.clear();
    }
    to.shutdown().await.map_err(RelayError::ended)
}

async fn into_frames(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut pongs: mpsc::Receiver<Bytes>,
) -> Result<(), RelayError> {
    let (mut chunk, mut frame) = (BytesMut::with_capacity(CHUNK), BytesMut::with_capacity(CHUNK + 16));
    loop {
        tokio::select! {
            count = from.read_buf(&mut chunk) => {
                if count.map_err(RelayError::ended)? == 0 {
                    break;
                }
                websocket::encode(Opcode::Binary, &chunk, &mut frame);
                chunk.clear();
            }
            Some(payload) = pongs.recv() => websocket::encode(Opcode::Pong, &payload, &mut frame),
        }
        write(&mut to, &frame).await?;
        frame.clear();
    }
    websocket::encode(Opcode::Close, &[], &mut frame);
    write(&mut to, &frame).await?;
    to.shutdown().await.map_err(RelayError::ended)
}

async fn out_of_frames(
    mut frames: FrameReader<impl AsyncRead + Unpin>,
    mut to: impl AsyncWrite + Unpin,
    pong: mpsc::Sender<Bytes>,
) -> Result<(), RelayError> {
    while let Some(received) = frames.next().await? {
        match received {
            Received::Data(data) => write(&mut to, &data).await?,
            Received::Ping(payload) => {
                let _enough_wait = pong.try_send(payload);
            }
        }
    }
    to.shutdown().await.map_err(RelayError::ended)
}

async fn out_of_bridge(mut down: Down, mut to: impl AsyncWrite + Unpin) -> Result<(), RelayError> {
    while let Some(data) = down.next().await? {
        write(&mut to, &data).await?;
    }
    to.shutdown().await.map_err(RelayError::ended)
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), RelayError> {
    to.write_all(bytes).await.map_err(RelayError::ended)?;
    // Else the end of a message may wait in the TLS layer.
    to.flush().await.map_err(RelayError::ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_breaks_on_the_way_up_waits_for_the_last_words_from_above() {
        let (heard, words) = tokio::sync::oneshot::channel();
        let up = async { Err(RelayError::Ended(None)) };
        let down = async {
            tokio::task::yield_now().await;
            heard.send("last words").map_err(|_| RelayError::Ended(None))
        };
        assert!(matches!(until_both_end(up, down).await, Err(RelayError::Ended(None))), "it is an end all the same");
        assert_eq!(words.await, Ok("last words"));
    }

    /// Proxies that read HTTP send pings of their own, with a payload.
    #[tokio::test]
    async fn a_ping_is_answered_and_no_part_of_the_data() {
        let (near, mut client) = tokio::io::duplex(1024);
        let (far, mut server) = tokio::io::duplex(1024);
        let ((from_near, to_near), (from_far, to_far)) = (tokio::io::split(near), tokio::io::split(far));
        let (pong, pongs) = mpsc::channel(PONGS_WAITING);
        let frames = FrameReader::new(from_far, BytesMut::new());
        let passing =
            tokio::spawn(until_both_end(into_frames(from_near, to_far, pongs), out_of_frames(frames, to_near, pong)));
        server.write_all(b"\x82\x01a\x89\x04ping\x82\x01b").await.unwrap();
        let (mut data, mut answer) = ([0; 2], [0; 10]);
        client.read_exact(&mut data).await.unwrap();
        assert_eq!(&data, b"ab");
        let answered = tokio::time::timeout(LINGER, server.read_exact(&mut answer)).await;
        answered.expect("the ping is answered").unwrap();
        let payload: Vec<u8> = answer[6..].iter().zip(&answer[2..6]).map(|(byte, key)| byte ^ key).collect();
        assert_eq!((answer[0], answer[1], &payload[..]), (0x8a, 0x84, &b"ping"[..]));
        // A close of the server ends both directions, in good order.
        server.write_all(b"\x88\x00").await.unwrap();
        assert_eq!(client.read(&mut data).await.unwrap(), 0);
        drop(client);
        assert!(passing.await.unwrap().is_ok());
    }
}
