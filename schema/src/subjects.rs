//! Every subject of the bus. No other file of the project contains one (a test searches for them).
//!
//! A cluster id is `c` followed by base32, never numeric: a numeric token could be read as part of a JetStream
//! acknowledgement subject and acknowledge another cluster's messages (reference: NATS, attack 7).

/// The shard all clusters are in today; the token lets `KN_CMD` be split later without new subjects.
pub const SHARD: &str = "s0";

/// Prefix of the JetStream API as clusters see it: an import that works the same directly and through a leaf node.
pub const API_PREFIX: &str = "kn.js";

/// State of a cluster's durable, from the JetStream API as clusters see it. Only the hub answers it.
#[must_use]
pub fn durable_info(cluster: &str) -> String {
    format!("{API_PREFIX}.CONSUMER.INFO.KN_CMD.{cluster}")
}

/// Everything the product publishes; read-only users of the `nats` CLI may subscribe to it.
pub const ALL: &str = "kn.v1.>";

/// A command of this kind to this cluster.
#[must_use]
pub fn command(cluster: &str, kind: &str) -> String {
    format!("kn.v1.cmd.{SHARD}.{cluster}.{kind}")
}

/// Everything sent to one cluster: filter of its durable, and what a hello purges.
#[must_use]
pub fn commands_to(cluster: &str) -> String {
    format!("kn.v1.cmd.{SHARD}.{cluster}.>")
}

/// The newest list of usage receipts for a cluster.
#[must_use]
pub fn receipt(cluster: &str) -> String {
    command(cluster, RECEIPT)
}

/// Last token of a receipt's subject.
pub const RECEIPT: &str = "receipt";

/// Outcomes of commands.
#[must_use]
pub fn outcome(cluster: &str) -> String {
    format!("kn.v1.sts.{cluster}.outcome")
}

/// Observed objects.
#[must_use]
pub fn status(cluster: &str) -> String {
    format!("kn.v1.sts.{cluster}.status")
}

/// One window's usage.
#[must_use]
pub fn usage(cluster: &str, window: &str) -> String {
    format!("kn.v1.use.{cluster}.{window}")
}

/// Heartbeats of Operators, in no stream.
#[must_use]
pub fn heartbeat(cluster: &str) -> String {
    format!("kn.v1.hb.{cluster}")
}

/// The question that opens a session: request and reply, in no stream.
#[must_use]
pub fn hello(cluster: &str) -> String {
    format!("kn.v1.ask.{cluster}.hello")
}

/// A part of a cluster's listing: request and reply, in no stream.
#[must_use]
pub fn listing(cluster: &str) -> String {
    format!("kn.v1.ask.{cluster}.listing")
}

/// Inbox records that the Manager lacks: request and reply, in no stream.
#[must_use]
pub fn records(cluster: &str) -> String {
    format!("kn.v1.ask.{cluster}.records")
}

/// Schema of the message on [`control`] that asks for a renewal; any other asks for a hello.
pub const RENEWAL_WANTED: &str = "kubenova.v1.RenewalWanted";

/// Asks a cluster for a hello or a renewal, in no stream. Carries no command.
#[must_use]
pub fn control(cluster: &str) -> String {
    format!("kn.v1.ctl.{cluster}")
}

/// A billing event: `kind` is `usage`, `gap`, `correction` or `period`.
#[must_use]
pub fn bill(tenant_id: &str, cluster: &str, kind: &str) -> String {
    format!("kn.v1.bill.{tenant_id}.{cluster}.{kind}")
}

/// Prefix of the replies to a cluster's client; no other user may subscribe there.
#[must_use]
pub fn inbox_prefix(cluster: &str) -> String {
    format!("_INBOX.{cluster}")
}

/// Subjects of all clusters, as the Manager subscribes to them and as streams collect them.
pub mod every {
    /// Commands.
    pub const COMMAND: &str = "kn.v1.cmd.>";
    /// Outcomes and status.
    pub const STATUS: &str = "kn.v1.sts.>";
    /// Outcomes alone.
    pub const OUTCOME: &str = "kn.v1.sts.*.outcome";
    /// Status alone.
    pub const OBJECT_STATUS: &str = "kn.v1.sts.*.status";
    /// Usage.
    pub const USAGE: &str = "kn.v1.use.>";
    /// Billing events.
    pub const BILL: &str = "kn.v1.bill.>";
    /// Heartbeats.
    pub const HEARTBEAT: &str = "kn.v1.hb.*";
    /// Hello questions.
    pub const HELLO: &str = "kn.v1.ask.*.hello";
    /// Parts of listings.
    pub const LISTING: &str = "kn.v1.ask.*.listing";
    /// Inbox records that the Manager lacks.
    pub const RECORDS: &str = "kn.v1.ask.*.records";
}

/// Subjects of the accounts' exports, imports and templates: what `kubenova-manager nats config` writes.
///
/// Both acknowledgement forms are allowed: 2.15.1 still writes v1 (`js_ack_fc_v2: false`), later servers write v2.
pub mod accounts {
    /// Services that CORE exports to EDGE as they are: `(subject, streamed response)`.
    pub const EDGE_SERVICES: [(&str, bool); 9] = [
        ("$JS.ACK.KN_CMD.*.>", false),
        ("$JS.ACK.hub.*.KN_CMD.*.>", false),
        ("kn.v1.use.*.>", false),
        ("kn.v1.sts.*.outcome", false),
        ("kn.v1.sts.*.status", false),
        ("kn.v1.hb.*", false),
        ("kn.v1.ask.*.hello", false),
        ("kn.v1.ask.*.listing", false),
        ("kn.v1.ask.*.records", false),
    ];

    /// JetStream API services CORE exports to EDGE, renamed on import: `(subject, local subject, streamed response)`.
    pub const EDGE_API: [(&str, &str, bool); 2] = [
        ("$JS.API.CONSUMER.MSG.NEXT.KN_CMD.*", "kn.js.CONSUMER.MSG.NEXT.KN_CMD.$1", true),
        ("$JS.API.CONSUMER.INFO.KN_CMD.*", "kn.js.CONSUMER.INFO.KN_CMD.$1", false),
    ];

    /// What the `cluster` role may publish; `{{name()}}` is the user's name, the cluster id.
    pub const CLUSTER_PUBLISH: [&str; 11] = [
        "kn.js.CONSUMER.MSG.NEXT.KN_CMD.{{name()}}",
        "kn.js.CONSUMER.INFO.KN_CMD.{{name()}}",
        "$JS.ACK.KN_CMD.{{name()}}.*.*.*.*.*",
        "$JS.ACK.hub.*.KN_CMD.{{name()}}.>",
        "kn.v1.sts.{{name()}}.outcome",
        "kn.v1.sts.{{name()}}.status",
        "kn.v1.use.{{name()}}.>",
        "kn.v1.hb.{{name()}}",
        "kn.v1.ask.{{name()}}.hello",
        "kn.v1.ask.{{name()}}.listing",
        "kn.v1.ask.{{name()}}.records",
    ];

    /// Messages that EDGE imports from CORE as they are.
    pub const EDGE_STREAMS: [&str; 1] = ["kn.v1.ctl.*"];

    /// Where every role receives its replies: below its own name only.
    pub const OWN_INBOX: &str = "_INBOX.{{name()}}.>";

    /// What the `cluster` role may subscribe to.
    pub const CLUSTER_SUBSCRIBE: [&str; 2] = [OWN_INBOX, "kn.v1.ctl.{{name()}}"];

    /// JetStream API services that CORE exports to OPS, unchanged: reading only, no consumer can be made.
    pub const OPS_API: [&str; 8] = [
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.LIST",
        "$JS.API.STREAM.INFO.*",
        "$JS.API.STREAM.MSG.GET.*",
        "$JS.API.CONSUMER.NAMES.*",
        "$JS.API.CONSUMER.LIST.*",
        "$JS.API.CONSUMER.INFO.*.*",
    ];

    /// Services that CORE exports to BILL: the subscriber's own durable on KN_BILL.
    pub const BILL_API: [(&str, bool); 4] = [
        ("$JS.API.CONSUMER.MSG.NEXT.KN_BILL.*", true),
        ("$JS.API.CONSUMER.INFO.KN_BILL.*", false),
        ("$JS.ACK.KN_BILL.*.>", false),
        ("$JS.ACK.hub.*.KN_BILL.*.>", false),
    ];

    /// What the `billing` role may publish; the user's name is its durable's name.
    pub const BILLING_PUBLISH: [&str; 4] = [
        "$JS.API.CONSUMER.MSG.NEXT.KN_BILL.{{name()}}",
        "$JS.API.CONSUMER.INFO.KN_BILL.{{name()}}",
        "$JS.ACK.KN_BILL.{{name()}}.*.*.*.*.*",
        "$JS.ACK.hub.*.KN_BILL.{{name()}}.>",
    ];
}

/// Requests to the broker's servers, in its system account: each server answers for itself.
pub mod servers {
    /// Stores an account JWT.
    pub const PUSH_ACCOUNT: &str = "$SYS.REQ.CLAIMS.UPDATE";
    /// Who is there, and how many servers each knows of.
    pub const PING: &str = "$SYS.REQ.SERVER.PING";
    /// The account JWT in effect.
    pub const PING_ACCOUNT: &str = "$SYS.REQ.SERVER.PING.ACCOUNTZ";
    /// All of them.
    pub const REQUESTS: [&str; 3] = [PUSH_ACCOUNT, PING, PING_ACCOUNT];
    /// What each server says of itself every few seconds.
    pub const STATS: &str = "$SYS.SERVER.*.STATSZ";
}

/// The cluster id in a subject that a cluster wrote (`kn.v1.<class>.<cluster>...`).
#[must_use]
pub fn cluster_of(subject: &str) -> Option<&str> {
    let mut tokens = subject.split('.');
    let (Some("kn"), Some("v1"), Some(class)) = (tokens.next(), tokens.next(), tokens.next()) else { return None };
    if !matches!(class, "sts" | "use" | "hb" | "ask") {
        return None;
    }
    tokens.next().filter(|token| is_cluster_token(token))
}

/// True for a text that may stand in a subject as a cluster id: `c` and lower-case base32, so never a wildcard, dot,
/// space or number.
#[must_use]
pub fn is_cluster_token(token: &str) -> bool {
    token.len() == 27
        && token.starts_with('c')
        && token.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "c0123456789abcdefghjkmnpqrs";

    #[test]
    fn a_written_subject_names_its_cluster() {
        for subject in [
            outcome(CLUSTER),
            status(CLUSTER),
            usage(CLUSTER, "w0-3600"),
            heartbeat(CLUSTER),
            hello(CLUSTER),
            listing(CLUSTER),
            records(CLUSTER),
        ] {
            assert_eq!(cluster_of(&subject), Some(CLUSTER), "{subject}");
        }
        assert_eq!(cluster_of("kn.v1.sts.3.outcome"), None);
        assert_eq!(cluster_of(&command(CLUSTER, "apply-tenant")), None, "clusters do not write commands");
    }
}
