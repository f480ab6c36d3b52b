//! The NATS protocol inside gRPC: what both ends of the bridge agree on, and the cluster's end of it.
//!
//! The service is in `schema/proto/kubenova/bridge/v1/bridge.proto`; the other end is `manager/bridge`. Guarantees: what is held of a
//! session is bounded on both sides, because each direction waits for its receiver. Must not: look into what is carried.

pub(crate) mod client;
mod noting;
pub mod problem;

/// The generated service.
pub mod proto {
    #![expect(clippy::allow_attributes, missing_docs, unused_qualifications, reason = "generated")]
    tonic::include_proto!("kubenova.bridge.v1");
}

use std::time::Duration;

/// Largest frame that is accepted; senders make smaller ones.
pub const FRAME_BYTES_MAX: usize = 128 * 1024;
/// What is read at once and sent as one frame.
pub const CHUNK: usize = 32 * 1024;
/// Frames of one direction that wait for the connection: one that is being sent and one that is being made.
pub const FRAMES_WAITING: usize = 2;
/// What a sender may have on its way (HTTP/2 flow control): 256 KiB at 50 ms make 5 MB/s for one cluster.
pub const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// The same for a connection. A cluster has one stream on its connection, beside it at most a health check.
pub const CONNECTION_WINDOW_BYTES: u32 = 2 * STREAM_WINDOW_BYTES;
/// HTTP/2 pings on a connection, also while it carries nothing: load balancers forget what is quiet for longer, and forget it without a
/// word. Some of them punish pings that come more often than twice a minute.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// An answer to a ping that takes longer ends the connection.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The protocol that TLS agrees on.
pub const ALPN: &[u8] = b"h2";
