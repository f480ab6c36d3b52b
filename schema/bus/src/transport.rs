//! The ways to the broker, and in which order they are tried.
//!
//! The Manager names URLs of every kind together; which of them a cluster uses is its own decision. Only the leaf node is the site's own,
//! and so is its URL. A kind that is added later is one more [`Transport`] and one more scheme.

use crate::dial::Target;
use serde::Deserialize;
use std::fmt;

/// What is spoken on the way to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// The NATS protocol over TLS to a leaf node, which has a connection to the hub: `tls://host:port`.
    Leaf,
    /// The NATS protocol over TLS: `tls://host:port`.
    Nats,
    /// The NATS protocol in a WebSocket over TLS: `wss://host[:port][/path]`, port 443 unless named.
    Websocket,
    /// The NATS protocol in a gRPC stream over TLS, by way of the bridge: `grpcs://host[:port]`, port 443 unless named.
    Grpc,
}

impl Transport {
    /// Its name in settings, conditions and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Leaf => "leaf",
            Self::Nats => "nats",
            Self::Websocket => "websocket",
            Self::Grpc => "grpc",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which transports may be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransportChoice {
    /// Each that the URLs allow: the leaf node first, then NATS, then WebSocket, then the bridge.
    #[default]
    Auto,
    /// The leaf node only.
    Leaf,
    /// `tls://` URLs only.
    Nats,
    /// `wss://` URLs only.
    Websocket,
    /// `grpcs://` URLs only.
    Grpc,
}

impl TransportChoice {
    /// The transports in the order in which they are tried: fewer layers first. Before them the leaf node, because a site that has one
    /// wants traffic to take it; and after it the others, because a cluster that is reached past its leaf node is better than one that is
    /// not reached. A site where that must not happen sets `leaf`.
    #[must_use]
    pub const fn order(self) -> &'static [Transport] {
        match self {
            Self::Auto => &[Transport::Leaf, Transport::Nats, Transport::Websocket, Transport::Grpc],
            Self::Leaf => &[Transport::Leaf],
            Self::Nats => &[Transport::Nats],
            Self::Websocket => &[Transport::Websocket],
            Self::Grpc => &[Transport::Grpc],
        }
    }
}

/// Where a broker listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// As it was written.
    pub text: String,
    /// What is spoken there.
    pub transport: Transport,
    /// Host and port.
    pub target: Target,
    /// Path and query of a WebSocket; `/` when it names none.
    pub path: String,
}

impl BrokerUrl {
    /// Reads `tls://host:port`, `wss://host[:port][/path]` and `grpcs://host[:port]`; none for anything else. A host may be a name, an IPv4 address, or an
    /// IPv6 address in brackets.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let url = url::Url::parse(text).ok()?;
        let (transport, default_port) = match url.scheme() {
            "tls" => (Transport::Nats, 4222),
            "wss" => (Transport::Websocket, 443),
            "grpcs" => (Transport::Grpc, 443),
            _ => return None,
        };
        let host = url.host_str().filter(|host| !host.is_empty())?;
        if transport == Transport::Grpc && !(matches!(url.path(), "" | "/") && url.query().is_none()) {
            // The path of a gRPC request is the name of its method.
            return None;
        }
        let target = Target::new(host, url.port_or_known_default().unwrap_or(default_port));
        let path = match (url.path(), url.query()) {
            ("", None) => "/".to_owned(),
            (path, None) => path.to_owned(),
            (path, Some(query)) => format!("{path}?{query}"),
        };
        Some(Self { text: text.to_owned(), transport, target, path })
    }

    /// Reads the URL of a leaf node: `tls://host:port`.
    #[must_use]
    pub fn of_leaf(text: &str) -> Option<Self> {
        let url = Self::parse(text).filter(|url| url.transport == Transport::Nats)?;
        Some(Self { transport: Transport::Leaf, ..url })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_transport_host_port_and_path() {
        let read = |text| BrokerUrl::parse(text).map(|url| (url.transport, url.target.to_string(), url.path));
        let nats = |target: &str| Some((Transport::Nats, target.to_owned(), "/".to_owned()));
        assert_eq!(read("tls://hub.example.com:4222"), nats("hub.example.com:4222"));
        assert_eq!(read("tls://hub"), nats("hub:4222"));
        assert_eq!(read("tls://[2001:db8::1]:4222"), nats("[2001:db8::1]:4222"));
        let websocket = |target: &str, path: &str| Some((Transport::Websocket, target.to_owned(), path.to_owned()));
        assert_eq!(read("wss://hub.example.com"), websocket("hub.example.com:443", "/"));
        assert_eq!(read("wss://[::1]:8443/nats?a=b"), websocket("[::1]:8443", "/nats?a=b"));
        assert_eq!(
            read("grpcs://hub.example.com"),
            Some((Transport::Grpc, "hub.example.com:443".to_owned(), "/".to_owned()))
        );
        assert_eq!(read("grpcs://[::1]:8444/").map(|read| read.1), Some("[::1]:8444".to_owned()));
        for other in
            ["grpcs://hub/path", "grpc://hub", "nats://hub:4222", "ws://hub", "https://hub", "hub:4222", "tls://", ""]
        {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn a_leaf_node_is_reached_over_tls() {
        let read = |text| BrokerUrl::of_leaf(text).map(|url| (url.transport, url.target.to_string()));
        assert_eq!(read("tls://leaf.example:4222"), Some((Transport::Leaf, "leaf.example:4222".to_owned())));
        for other in ["wss://leaf.example", "grpcs://leaf.example", "nats://leaf.example:4222", ""] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn auto_begins_with_the_leaf_node_and_goes_on_with_the_fewest_layers() {
        let all = [Transport::Leaf, Transport::Nats, Transport::Websocket, Transport::Grpc];
        assert_eq!(TransportChoice::Auto.order(), all);
        assert_eq!(TransportChoice::Leaf.order(), [Transport::Leaf]);
        assert_eq!(TransportChoice::Grpc.order(), [Transport::Grpc]);
        assert_eq!(TransportChoice::Websocket.order(), [Transport::Websocket]);
    }
}
