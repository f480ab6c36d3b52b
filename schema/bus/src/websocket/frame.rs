//! Frames: those of the server are read and unpacked, ours are masked.

use crate::relay::error::RelayError;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kubenova_runtime::random;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What is held of a frame; larger ones are passed on in parts.
const READ_MAX: usize = 32 * 1024;
/// Payload of a control frame (RFC 6455, section 5.5).
const CONTROL_MAX: usize = 125;

/// Kinds of frames that we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    Binary = 2,
    Close = 8,
    Pong = 10,
}

/// What a server sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A part of a message.
    Data(Bytes),
    /// It wants this payload back.
    Ping(Bytes),
}

/// Reads a server's frames.
pub(crate) struct FrameReader<R> {
    from: R,
    buffer: BytesMut,
    /// What is left of the data frame that is being read.
    left: u64,
}

struct Header {
    opcode: u8,
    length: u64,
    /// Bytes of the header itself.
    size: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Goes on with what was read already.
    pub(crate) fn new(from: R, read: BytesMut) -> Self {
        Self { from, buffer: read, left: 0 }
    }

    /// The next part of data, or a ping; none when the server has closed. Never holds more than [`READ_MAX`] and a header.
    pub(crate) async fn next(&mut self) -> Result<Option<Received>, RelayError> {
        loop {
            if self.left > 0 {
                if self.buffer.is_empty() && !self.fill().await? {
                    return Err(RelayError::Ended(None));
                }
                let whole = usize::try_from(self.left).unwrap_or(usize::MAX);
                let part = self.buffer.split_to(whole.min(self.buffer.len())).freeze();
                self.left -= part.len() as u64;
                return Ok(Some(Received::Data(part)));
            }
            let Some(header) = header(&self.buffer)? else {
                if self.fill().await? {
                    continue;
                }
                // A server that ends without closing has ended all the same.
                return if self.buffer.is_empty() { Ok(None) } else { Err(RelayError::Ended(None)) };
            };
            if header.opcode < 8 {
                self.buffer.advance(header.size);
                self.left = header.length;
                continue;
            }
            let size = header.size + usize::try_from(header.length).unwrap_or(CONTROL_MAX);
            while self.buffer.len() < size {
                if !self.fill().await? {
                    return Err(RelayError::Ended(None));
                }
            }
            let mut payload = self.buffer.split_to(size).freeze();
            payload.advance(header.size);
            match header.opcode {
                8 => return Ok(None),
                9 => return Ok(Some(Received::Ping(payload))),
                // A pong without a ping says nothing (RFC 6455 §5.5.3).
                _ => {}
            }
        }
    }

    async fn fill(&mut self) -> Result<bool, RelayError> {
        self.buffer.reserve(READ_MAX);
        let read = (&mut self.from).take(READ_MAX as u64).read_buf(&mut self.buffer).await;
        Ok(read.map_err(RelayError::ended)? > 0)
    }
}

/// The frame's header, once it is complete.
fn header(bytes: &[u8]) -> Result<Option<Header>, RelayError> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let broken = |what: &str| RelayError::NotNats(format!("its WebSocket {what}"));
    let (opcode, is_last) = (first & 0x0f, first & 0x80 != 0);
    if first & 0x70 != 0 {
        return Err(broken("uses an extension that was not asked for"));
    }
    if second & 0x80 != 0 {
        return Err(broken("masks what it sends"));
    }
    let (length, size) = match (second & 0x7f, rest) {
        (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 4),
        (127, [a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 10),
        (126 | 127, _) => return Ok(None),
        (short, _) => (u64::from(short), 2),
    };
    match opcode {
        0..=2 => {}
        8..=10 if is_last && length <= CONTROL_MAX as u64 => {}
        _ => return Err(broken("sends frames that the standard does not know")),
    }
    Ok(Some(Header { opcode, length, size }))
}

/// Appends one whole message as a frame, masked as a client must.
pub(crate) fn encode(opcode: Opcode, payload: &[u8], into: &mut BytesMut) {
    into.reserve(payload.len() + 14);
    into.put_u8(0x80 | opcode as u8);
    match payload.len() {
        length @ 0..=125 => into.put_u8(0x80 | u8::try_from(length).unwrap_or_default()),
        length @ 126..=0xffff => {
            into.put_u8(0x80 | 126);
            into.put_u16(u16::try_from(length).unwrap_or_default());
        }
        length => {
            into.put_u8(0x80 | 127);
            into.put_u64(length as u64);
        }
    }
    let mask = random::bytes::<4>();
    into.put_slice(&mask);
    let start = into.len();
    into.put_slice(payload);
    for (byte, key) in into[start..].iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as a server sends it.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            short @ 0..=125 => bytes.push(u8::try_from(short).unwrap()),
            long @ 126..=0xffff => {
                bytes.push(126);
                bytes.extend(u16::try_from(long).unwrap().to_be_bytes());
            }
            longer => {
                bytes.push(127);
                bytes.extend((longer as u64).to_be_bytes());
            }
        }
        [bytes, payload.to_vec()].concat()
    }

    /// The data, and the pings, of these bytes.
    async fn read(bytes: &[u8], read_before: usize) -> Result<(Vec<u8>, Vec<Bytes>), RelayError> {
        let mut frames = FrameReader::new(&bytes[read_before..], BytesMut::from(&bytes[..read_before]));
        let (mut data, mut pings) = (Vec::new(), Vec::new());
        while let Some(received) = frames.next().await? {
            match received {
                Received::Data(part) => {
                    assert!(part.len() <= READ_MAX.max(read_before));
                    data.extend_from_slice(&part);
                }
                Received::Ping(payload) => pings.push(payload),
            }
        }
        Ok((data, pings))
    }

    #[tokio::test]
    async fn messages_of_every_length_and_in_fragments_are_one_stream_and_pings_are_none_of_it() {
        let (small, medium, large) = (vec![1; 125], vec![2; 60_000], vec![3; 200_000]);
        let bytes = [
            frame(0x82, &small),
            frame(0x02, &medium),
            frame(0x89, b"are you there"),
            frame(0x80, &large),
            frame(0x8a, b"unasked"),
            frame(0x82, b""),
            frame(0x88, &[3, 232]),
            frame(0x82, b"after the end"),
        ]
        .concat();
        for read_before in [0, 1, 2, 127, 130, bytes.len()] {
            let (data, pings) = read(&bytes, read_before).await.unwrap();
            assert_eq!(data, [small.clone(), medium.clone(), large.clone()].concat());
            assert_eq!(pings, [&b"are you there"[..]]);
        }
    }

    #[tokio::test]
    async fn what_the_standard_forbids_is_refused() {
        for bad in [frame(0xc2, b"compressed"), frame(0x83, b""), frame(0x09, b"half a ping"), frame(0x89, &[0; 126])] {
            assert!(matches!(read(&bad, 0).await, Err(RelayError::NotNats(_))), "{bad:?}");
        }
        assert!(matches!(read(&[0x82, 0x81, 0, 0, 0, 0, 1], 0).await, Err(RelayError::NotNats(_))), "masked");
        assert!(matches!(read(&frame(0x82, b"whole")[..4], 0).await, Err(RelayError::Ended(None))), "cut off");
    }

    #[test]
    fn ours_are_whole_and_masked_with_a_new_key_each() {
        for length in [0, 1, 125, 126, 0xffff, 0x1_0000] {
            let payload = vec![7; length];
            let (mut one, mut other) = (BytesMut::new(), BytesMut::new());
            encode(Opcode::Binary, &payload, &mut one);
            encode(Opcode::Binary, &payload, &mut other);
            assert!(length == 0 || one != other, "the key is random");
            let size = one.len() - length;
            let (mask, masked) = (&one[size - 4..size], &one[size..]);
            let clear: Vec<u8> = masked.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
            assert_eq!((one[0], one[1] & 0x80, clear), (0x82, 0x80, payload));
        }
    }
}
