//! A WebSocket as a client (RFC 6455), as far as NATS needs it: binary messages whose borders mean nothing, no extensions.
//!
//! Own code, because the NATS client's WebSocket takes the payload of a ping for data, knows no proxy, and tries one address only.

mod frame;
mod handshake;

pub(crate) use frame::{FrameReader, Opcode, Received, encode};
pub(crate) use handshake::open;
