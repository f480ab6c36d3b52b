//! The files of this cluster's leaf node: a nats-server in the cluster or its datacenter that keeps one connection to the hub, with the
//! cluster's own credentials.
//!
//! It is not in operator mode and has no JetStream: the hub decides about each subject, as if the cluster were connected to it directly, and
//! stores everything. Here is what the files say; `operator/src/leaf.rs` writes them into the Secret that the leaf node mounts.

use kubenova_schema::nats_files::{self, MAX_PAYLOAD};
use std::fmt;

/// Name of the Secret.
pub const SECRET: &str = "kubenova-leaf";
/// Where the leaf node has the Secret mounted.
pub const FOLDER: &str = "/etc/kubenova/leaf";

/// Keys of the Secret, and names of the files.
pub mod file {
    /// The configuration of the nats-server.
    pub const CONFIGURATION: &str = "nats-server.conf";
    /// The leaf node's name at the hub. Kept, since nats-server takes no other one at a reload.
    pub const SERVER_NAME: &str = "server-name";
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
    /// The CAs of an `https://` proxy, PEM; only where the site names some.
    pub const PROXY_AUTHORITY: &str = "proxy-ca.crt";
}

/// The name of a cluster's leaf node at the hub, which other clusters must not be able to guess.
#[must_use]
pub fn server_name(cluster_id: &str, random: &str) -> String {
    format!("leaf-{cluster_id}-{random}")
}

/// The HTTP proxy by which a leaf node reaches the hub.
#[derive(Clone, Copy)]
pub struct Proxy<'a> {
    /// `http://host:port` or `https://host:port`.
    pub url: &'a str,
    /// User name and password; neither is empty.
    pub login: Option<(&'a str, &'a str)>,
    /// Whether its certificate is of a CA of [`file::PROXY_AUTHORITY`], and not of the image.
    pub has_authority: bool,
}

impl fmt::Debug for Proxy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What differs between leaf nodes.
#[derive(Debug, Clone, Copy)]
pub struct LeafNode<'a> {
    /// Its name at the hub, [`server_name`].
    pub server_name: &'a str,
    /// The cluster's public nkey.
    pub nkey: &'a str,
    /// Port for the Operator.
    pub port: u16,
    /// Where the hub takes leaf nodes; at least one.
    pub hub_urls: &'a [String],
    /// How it gets there; directly when none.
    pub proxy: Option<Proxy<'a>>,
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
        "# Of two leaf nodes with one name the hub ends the older one, whatever cluster it is of, so the end of the name is random.\n\
         server_name: {}\nhost: \"0.0.0.0\"\nport: {}\nmax_payload: {MAX_PAYLOAD}\n\
         # Of the Operator and of the hub; two missed end a connection. Load balancers forget connections that are quiet for a minute or more.\n\
         ping_interval: \"15s\"\nping_max: 2\n",
        quoted(leaf.server_name),
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
         first_info_timeout: \"10s\"\n{}    }}\n  ]\n}}",
        urls.join(", "),
        at(file::CREDENTIALS),
        at(file::CERTIFICATE),
        at(file::KEY),
        at(file::AUTHORITY),
        leaf.proxy.as_ref().map(by_proxy).unwrap_or_default(),
    ));
    text
}

fn by_proxy(proxy: &Proxy<'_>) -> String {
    let mut text = format!(
        "      # The site's HTTP proxy. nats-server reads it at start only, and resolves the hub's name itself all the same.\n      \
         proxy {{\n        url: {}\n",
        quoted(proxy.url)
    );
    if let Some((username, password)) = proxy.login {
        text.push_str(&format!("        username: {}\n        password: {}\n", quoted(username), quoted(password)));
    }
    if proxy.has_authority {
        text.push_str(&format!("        tls {{ ca_file: {} }}\n", at(file::PROXY_AUTHORITY)));
    }
    text + "      }\n"
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

    fn leaf<'a>(hub_urls: &'a [String], proxy: Option<Proxy<'a>>) -> LeafNode<'a> {
        LeafNode { server_name: "leaf-CLUSTER_ID-RANDOM", nkey: "CLUSTER_NKEY", port: 4222, hub_urls, proxy }
    }

    /// `manager/trust/tests/leaf.rs` starts the example.
    #[test]
    fn the_example_is_what_an_operator_writes() {
        let hub_urls = ["tls://HUB:7422".to_owned()];
        assert_eq!(configuration(&leaf(&hub_urls, None)), include_str!("../../../deploy/nats/leaf.example.conf"));
    }

    /// `manager/trust/tests/leaf.rs` starts it with this block.
    #[test]
    fn a_proxy_is_one_more_block() {
        let hub_urls = ["tls://HUB:7422".to_owned()];
        let without = configuration(&leaf(&hub_urls, None));
        let by = |proxy| configuration(&leaf(&hub_urls, Some(proxy))).replace(&by_proxy(&proxy), "");
        let plain = Proxy { url: "http://[fd00::1]:3128", login: None, has_authority: false };
        let whole = Proxy { url: "https://PROXY", login: Some(("operator", "p\"a:ss")), has_authority: true };
        assert_eq!((by(plain), by(whole)), (without.clone(), without));
        assert!(!by_proxy(&plain).contains("username") && !by_proxy(&plain).contains("tls"));
        let expected = "proxy {\n        url: \"https://PROXY\"\n        username: \"operator\"\n        \
                        password: \"p\\\"a:ss\"\n        tls { ca_file: \"/etc/kubenova/leaf/proxy-ca.crt\" }\n      }\n";
        assert!(by_proxy(&whole).ends_with(expected), "{}", by_proxy(&whole));
    }

    #[test]
    fn no_url_ends_its_quotes() {
        let hub_urls = ["tls://a:1\"\n]".to_owned(), "tls://b:2".to_owned()];
        let text = configuration(&leaf(&hub_urls, None));
        assert!(text.contains("urls: [ \"tls://a:1\\\"]\", \"tls://b:2\" ]"));
    }
}
