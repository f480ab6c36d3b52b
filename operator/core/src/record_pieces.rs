//! The bodies of inbox records in pieces that fit a message of a cluster.

use kubenova_schema::v1::RecordPiece;

/// Bytes of bodies in one message: base64 makes 200 KiB of them, and a cluster's message is at most 256 KiB.
pub const PART_BYTES: usize = 150 * 1024;
/// Pieces in one message: each has a key and a signature beside its bytes, below 500 bytes.
const PIECES_MAX: usize = 64;

/// A body with what names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// The object.
    pub key: String,
    /// The command.
    pub command_id: String,
    /// As in the header of the message.
    pub signature: String,
    /// The exact bytes that were signed.
    pub bytes: Vec<u8>,
}

/// Collects pieces until a message is full.
#[derive(Debug, Default)]
pub struct Parts {
    pieces: Vec<RecordPiece>,
    bytes: usize,
}

impl Parts {
    /// Adds a body; returns the messages that are full now, in order.
    pub fn add(&mut self, body: &Body) -> Vec<Vec<RecordPiece>> {
        let mut full = Vec::new();
        let mut offset = 0;
        loop {
            let room = PART_BYTES.saturating_sub(self.bytes);
            let end = body.bytes.len().min(offset + room);
            self.pieces.push(RecordPiece {
                key: body.key.clone(),
                command_id: body.command_id.clone(),
                signature: body.signature.clone(),
                total_bytes: body.bytes.len() as u64,
                offset: offset as u64,
                bytes: body.bytes[offset..end].to_vec(),
            });
            self.bytes += end - offset;
            if self.bytes >= PART_BYTES || self.pieces.len() >= PIECES_MAX {
                full.push(self.take());
            }
            if end == body.bytes.len() {
                return full;
            }
            offset = end;
        }
    }

    /// What is left, for the last message; empty when nothing is.
    pub fn take(&mut self) -> Vec<RecordPiece> {
        self.bytes = 0;
        std::mem::take(&mut self.pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn body(number: usize, length: usize) -> Body {
        let bytes = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
        Body { key: number.to_string(), command_id: String::new(), signature: String::new(), bytes }
    }

    proptest! {
        #[test]
        fn every_body_comes_out_whole_and_in_order_and_no_message_is_too_large(
            lengths in proptest::collection::vec(prop_oneof![0..2_000_usize, 100_000..500_000_usize], 0..12)
        ) {
            let bodies: Vec<Body> = lengths.iter().enumerate().map(|(number, length)| body(number, *length)).collect();
            let mut parts = Parts::default();
            let mut messages: Vec<Vec<RecordPiece>> = bodies.iter().flat_map(|body| parts.add(body)).collect();
            messages.push(parts.take());
            let mut read: BTreeMap<String, Vec<u8>> = BTreeMap::new();
            for message in messages {
                prop_assert!(message.iter().map(|piece| piece.bytes.len()).sum::<usize>() <= PART_BYTES);
                for piece in message {
                    let bytes = read.entry(piece.key).or_default();
                    prop_assert_eq!(bytes.len() as u64, piece.offset);
                    bytes.extend(piece.bytes);
                }
            }
            prop_assert_eq!(read, bodies.into_iter().map(|body| (body.key, body.bytes)).collect());
        }
    }
}
