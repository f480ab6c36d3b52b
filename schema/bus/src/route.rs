//! Which URLs one client connects to, and whether it needs the relay for that.

use crate::{
    dial::{Dialer, tcp},
    leaf::Leaf,
    transport::{BrokerUrl, Transport, TransportChoice},
};
use std::{fmt, net::SocketAddr};

/// What one client of the NATS library connects to. It cannot mix what needs the relay with what does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) transport: Transport,
    /// At least one.
    pub(crate) urls: Vec<BrokerUrl>,
    /// Through a proxy, in a WebSocket, by way of the bridge, or to a host with addresses of both families.
    pub(crate) is_relayed: bool,
}

impl Route {
    /// Its URLs in messages.
    pub(crate) fn shown(&self) -> String {
        self.urls.iter().map(|url| url.text.as_str()).collect::<Vec<_>>().join(",")
    }
}

/// The routes in the order in which they are tried: by transport, and those without the relay first. URLs that cannot be read are left
/// out.
pub(crate) fn routes(choice: TransportChoice, dialer: &Dialer, urls: &[String], leaf: Option<&Leaf>) -> Vec<Route> {
    let leaf = leaf.and_then(|leaf| BrokerUrl::of_leaf(&leaf.url));
    let urls: Vec<BrokerUrl> = leaf.into_iter().chain(urls.iter().filter_map(|url| BrokerUrl::parse(url))).collect();
    let relayed = |url: &BrokerUrl| match url.transport {
        // It stands in the cluster or beside it, and a proxy on the way out.
        Transport::Leaf => false,
        Transport::Nats => dialer.proxy_for(&url.target).is_some(),
        Transport::Websocket | Transport::Grpc => true,
    };
    let mut routes = Vec::new();
    for transport in choice.order() {
        for is_relayed in [false, true] {
            let of_it = |url: &&BrokerUrl| url.transport == *transport && relayed(url) == is_relayed;
            let urls: Vec<BrokerUrl> = urls.iter().filter(of_it).cloned().collect();
            if !urls.is_empty() {
                routes.push(Route { transport: *transport, urls, is_relayed });
            }
        }
    }
    routes
}

impl Route {
    /// The same, by way of the relay where a host has addresses of both families: the relay asks both within a moment, and the client waits
    /// for each longer than a route may take.
    pub(crate) async fn of_both_families(self) -> Self {
        if self.is_relayed || self.transport == Transport::Leaf {
            return self;
        }
        for url in &self.urls {
            // What cannot be resolved has its cause when it is connected to.
            if tcp::resolve(&url.target).await.is_ok_and(|addresses| has_both_families(&addresses)) {
                return Self { is_relayed: true, ..self };
            }
        }
        self
    }
}

fn has_both_families(addresses: &[SocketAddr]) -> bool {
    addresses.iter().any(SocketAddr::is_ipv6) && addresses.iter().any(SocketAddr::is_ipv4)
}

/// How many ways there are to try: with a single one there is no other to change to.
#[must_use]
pub fn count(choice: TransportChoice, dialer: &Dialer, urls: &[String], leaf: Option<&Leaf>) -> usize {
    routes(choice, dialer, urls, leaf).len()
}

/// How a connection reaches the broker: `websocket`, `nats through the proxy http://proxy:3128`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// What is spoken.
    pub transport: Transport,
    /// The proxy's URL without credentials.
    pub proxy: Option<String>,
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.proxy {
            Some(proxy) => write!(f, "{} through the proxy {proxy}", self.transport),
            None => write!(f, "{}", self.transport),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dial::proxy::{ProxyFiles, ProxySettings};

    fn shown(choice: TransportChoice, dialer: &Dialer) -> Vec<(String, bool)> {
        let urls = ["wss://b", "tls://a:4222", "nonsense", "tls://a.internal:4222", "wss://c"].map(str::to_owned);
        routes(choice, dialer, &urls, None).iter().map(|route| (route.shown(), route.is_relayed)).collect()
    }

    fn expected(routes: &[(&str, bool)]) -> Vec<(String, bool)> {
        routes.iter().map(|(urls, is_relayed)| ((*urls).to_owned(), *is_relayed)).collect()
    }

    #[tokio::test]
    async fn a_host_of_one_family_is_connected_to_by_the_client_itself() {
        let addresses = |all: &[&str]| has_both_families(&all.iter().map(|it| it.parse().unwrap()).collect::<Vec<_>>());
        assert!(addresses(&["10.0.0.1:1", "[fd00::1]:1"]));
        assert!(!addresses(&["10.0.0.1:1", "10.0.0.2:1"]) && !addresses(&["[fd00::1]:1"]) && !addresses(&[]));
        let urls = ["tls://127.0.0.1:1", "tls://[::1]:1", "tls://hub.kubenova.invalid:1"].map(str::to_owned);
        let route = routes(TransportChoice::Nats, &Dialer::default(), &urls, None).remove(0);
        assert_eq!(route.clone().of_both_families().await, route);
    }

    #[test]
    fn direct_tls_needs_no_relay_and_comes_first() {
        let (tls, wss) = (("tls://a:4222,tls://a.internal:4222", false), ("wss://b,wss://c", true));
        let dialer = Dialer::default();
        assert_eq!(shown(TransportChoice::Auto, &dialer), expected(&[tls, wss]));
        assert_eq!(shown(TransportChoice::Nats, &dialer), expected(&[tls]));
        assert_eq!(shown(TransportChoice::Websocket, &dialer), expected(&[wss]));
    }

    #[test]
    fn what_a_proxy_reaches_is_relayed_and_what_it_does_not_is_not() {
        let variable = |name: &str| match name {
            "HTTPS_PROXY" => Some("http://p:3128".to_owned()),
            "NO_PROXY" => Some(".internal".to_owned()),
            _ => None,
        };
        let dialer = Dialer::new(ProxySettings::read(variable, ProxyFiles::default()).unwrap());
        let all = [("tls://a.internal:4222", false), ("tls://a:4222", true), ("wss://b,wss://c", true)];
        assert_eq!(shown(TransportChoice::Auto, &dialer), expected(&all));
        assert_eq!(count(TransportChoice::Nats, &dialer, &["wss://b".to_owned()], None), 0);
        let leaf = Leaf { url: "tls://leaf:4222".to_owned(), ca: "ca.crt".into(), asks: String::new() };
        let of = |choice| {
            let routes = routes(choice, &dialer, &["tls://a:4222".to_owned()], Some(&leaf));
            routes.iter().map(|route| (route.shown(), route.is_relayed)).collect::<Vec<_>>()
        };
        assert_eq!(of(TransportChoice::Auto), expected(&[("tls://leaf:4222", false), ("tls://a:4222", true)]));
        assert_eq!(of(TransportChoice::Leaf), expected(&[("tls://leaf:4222", false)]));
        assert_eq!(of(TransportChoice::Nats), expected(&[("tls://a:4222", true)]));
    }
}
