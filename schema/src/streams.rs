//! The broker's streams, as plain data.
//!
//! Any of them may be deleted at any moment: `bus` creates them again from here. Their limits protect the broker; no
//! message may depend on them, because the queues are Postgres and the inbox records.

use crate::subjects;
use std::time::Duration;

/// One stream's settings. Everything not named here stays at the server's default, and above all off:
/// rollup headers, delete markers, schedules, atomic batches, message TTLs and counters (one cluster's rollup header
/// erased every other cluster's messages in a measured attack).
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    /// Name.
    pub name: &'static str,
    /// What it carries; `nats stream ls` and `nats stream info` show it.
    pub description: &'static str,
    /// Subjects whose messages it stores.
    pub subjects: &'static [&'static str],
    /// How long messages stay.
    pub max_age: Duration,
    /// Server-side window in which a repeated `Nats-Msg-Id` is dropped.
    pub duplicate_window: Duration,
    /// Messages kept of one subject; oldest go first. -1: no limit.
    pub max_messages_per_subject: i64,
    /// Bytes kept; oldest go first.
    pub max_bytes: i64,
    /// Explicit, because 2.15 refuses consumer 1001 otherwise (error 10026).
    pub max_consumers: i32,
}

const MIB: i64 = 1024 * 1024;

/// Commands. Postgres keeps them until they end; an hour is enough for any repeated send.
pub const COMMANDS: Stream = Stream {
    name: "KN_CMD",
    description: "Commands to clusters, signed by the Manager; the subject names the cluster. Repeated from Postgres when lost.",
    subjects: &[subjects::every::COMMAND],
    max_age: Duration::from_secs(3600),
    duplicate_window: Duration::from_secs(120),
    max_messages_per_subject: 5_000,
    max_bytes: 1024 * MIB,
    max_consumers: 30_000,
};

/// Outcomes and status on their way to Postgres.
pub const STATUS: Stream = Stream {
    name: "KN_STS",
    description: "Outcomes of commands and status of objects, from clusters to the Manager. Repeated by the clusters when lost.",
    subjects: &[subjects::every::STATUS],
    max_age: Duration::from_secs(6 * 3600),
    duplicate_window: Duration::from_secs(120),
    // Outcomes and status of one cluster are a subject each, so that a cluster pushes out nothing but its own.
    max_messages_per_subject: 400,
    max_bytes: 1024 * MIB,
    max_consumers: 100,
};

/// Raw usage on its way to the ledger. Clusters keep it until they hold a receipt.
pub const USAGE: Stream = Stream {
    name: "KN_USE",
    description: "Sealed usage windows from clusters to the Manager (protobuf). Clusters repeat them until they hold a receipt.",
    subjects: &[subjects::every::USAGE],
    max_age: Duration::from_secs(14 * 24 * 3600),
    duplicate_window: Duration::from_secs(120),
    max_messages_per_subject: -1,
    max_bytes: 4096 * MIB,
    max_consumers: 100,
};

/// Billing events, written by the Manager alone; replayable from the ledger.
pub const BILL: Stream = Stream {
    name: "KN_BILL",
    description: "Billing events (CloudEvents in JSON) from the Manager to subscribers; the ledger holds what they say.",
    subjects: &[subjects::every::BILL],
    max_age: Duration::from_secs(90 * 24 * 3600),
    duplicate_window: Duration::from_secs(120),
    max_messages_per_subject: -1,
    max_bytes: 8192 * MIB,
    max_consumers: 1_000,
};

/// Every stream, in the order they are made.
pub const ALL: [Stream; 4] = [COMMANDS, STATUS, USAGE, BILL];

/// What the broker may keep on disk: the limits of all streams and room for those of others.
pub const FILE_STORE_BYTES: i64 = COMMANDS.max_bytes + STATUS.max_bytes + USAGE.max_bytes + BILL.max_bytes + 2048 * MIB;

/// Most bytes of a message's body: the broker's `max_payload` of 1 MiB less room for headers.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024 - 16 * 1024;

/// Most bytes of a message that a cluster sends, headers included; its user JWT says so, and the broker disconnects who sends
/// more. With the messages per subject it bounds what one cluster can take of `KN_STS`.
pub const CLUSTER_MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// Unacknowledged commands a cluster may hold; the rest waits in Postgres, where cancel and supersede are exact.
pub const COMMAND_WINDOW: u32 = 32;

/// Time after which an unacknowledged command is delivered again: the Operator stores the inbox record within it.
pub const COMMAND_ACK_WAIT: Duration = Duration::from_secs(30);
