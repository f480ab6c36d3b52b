//! The files of this cluster's leaf node: a nats-server in the cluster or its datacenter that keeps one connection to the hub, with the
//! cluster's own credentials.
//!
//! It is not in operator mode and has no JetStream: the hub decides about each subject, as if the cluster were connected to it directly, and
//! stores everything. Here is what the files say; `operator/src/leaf.rs` writes them into the Secret that the leaf node mounts.

use kubenova_schema::nats_files::{self, MAX_PAYLOAD};

/// Name of the Secret.
pub const SECRET: &str = "kubenova-leaf";
/// Where the leaf node has the Secret mounted.
pub const FOLDER: &str = "/etc/kubenova/leaf";

/// Keys of the Secret, and names of the files.
pub mod file {
    /// The configuration of the nats-server.
    pub const CONFIGURATION: &str = "nats-server.conf";
    /// The cluster's user JWT and the seed of its nkey.
    pub const CREDENTIALS: &str = "cluster.creds";
    /// The cluster's client certificate with its issuers, PEM.
    pub const CERTIFICATE: &str = "tls.crt";
    /// Its key.
    pub const KEY: &str = "tls.key";
    /// The Manager's CAs, PEM: of the hub, and of whoever connects to the leaf node.
    pub const AUTHORITY: &str = "ca.crt";
    /// The leaf node's own certificate, PEM.
    pub const SERVER_CERTIFICATE: &str = "server.crt";
    /// Its key.
    pub const SERVER_KEY: &str = "server.key";
}

/// What differs between leaf nodes.
#[derive(Debug, Clone, Copy)]
pub struct LeafNode<'a> {
    /// The cluster's id.
    pub cluster_id: &'a str,
    /// Its public nkey.
    pub nkey: &'a str,
    /// Port for the Operator.
    pub port: u16,
    /// Where the hub takes leaf nodes; at least one.
    pub hub_urls: &'a [String],
}

/// The configuration of the nats-server.
#[must_use]
pub fn configuration(leaf: &LeafNode<'_>) -> String {
    let mut text = String::from(
        "# The leaf node of one cluster. Written by its Operator; what is changed here is overwritten.\n\n",
    );
    let mut add = |block: String| {
        text.push_str(&block);
        text.push('\n');
    };
    add(format!(
        "# With the cluster's id in it: two leaf nodes of one name replace each other at the hub.\n\
         server_name: {}\nhost: \"0.0.0.0\"\nport: {}\nmax_payload: {MAX_PAYLOAD}\n\
         # Of the Operator and of the hub; two missed end a connection.\nping_interval: \"15s\"\nping_max: 2\n",
        quoted(&format!("leaf-{}", leaf.cluster_id)),
        leaf.port,
    ));
    add(format!(
        "# Mutual TLS, as at the hub. Certificates are read at start and at a reload (nats-server --signal reload).\n\
         tls {{\n  cert_file: {}\n  key_file: {}\n  ca_file: {}\n  verify: true\n  timeout: 10\n}}\n",
        at(file::SERVER_CERTIFICATE),
        at(file::SERVER_KEY),
        at(file::AUTHORITY),
    ));
    add(format!(
        "accounts {{\n  # Who is let in: the nkey that the cluster enrolled with, and no other.\n  \
         CLUSTER {{ users: [ {{ nkey: {} }} ] }}\n}}\n",
        quoted(leaf.nkey),
    ));
    let urls: Vec<String> = leaf.hub_urls.iter().map(|url| quoted(url)).collect();
    add(format!(
        "leafnodes {{\n  reconnect: \"5s\"\n  remotes: [\n    {{\n      urls: [ {} ]\n      account: CLUSTER\n      \
         # The cluster's user JWT and nkey seed, read at each connect.\n      credentials: {}\n      \
         # Read at start and at a reload.\n      tls {{\n        cert_file: {}\n        key_file: {}\n        ca_file: {}\n      }}\n      \
         # The default of one second is less than a hub takes while thousands of clusters come back.\n      \
         first_info_timeout: \"10s\"\n    }}\n  ]\n}}",
        urls.join(", "),
        at(file::CREDENTIALS),
        at(file::CERTIFICATE),
        at(file::KEY),
        at(file::AUTHORITY),
    ));
    text
}

fn at(file: &str) -> String {
    quoted(&format!("{FOLDER}/{file}"))
}

/// A text, quoted for the configuration. What the Manager names may have control characters in it.
fn quoted(text: &str) -> String {
    nats_files::quoted(&text.replace(char::is_control, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `manager/trust/tests/leaf.rs` starts the example.
    #[test]
    fn the_example_is_what_an_operator_writes() {
        let hub_urls = ["tls://HUB:7422".to_owned()];
        let leaf = LeafNode { cluster_id: "CLUSTER_ID", nkey: "CLUSTER_NKEY", port: 4222, hub_urls: &hub_urls };
        assert_eq!(configuration(&leaf), include_str!("../../../deploy/nats/leaf.example.conf"));
    }

    #[test]
    fn no_url_ends_its_quotes() {
        let hub_urls = ["tls://a:1\"\n]".to_owned(), "tls://b:2".to_owned()];
        let leaf = LeafNode { cluster_id: "c1", nkey: "U1", port: 1, hub_urls: &hub_urls };
        assert!(configuration(&leaf).contains("urls: [ \"tls://a:1\\\"]\", \"tls://b:2\" ]"));
    }
}
