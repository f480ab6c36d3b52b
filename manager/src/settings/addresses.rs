//! Names, addresses and URLs of the settings: what cannot be reached or certified is refused before anything starts.

use super::Settings;
use anyhow::{Result, bail};
use kubenova_bus::{
    dial::Target,
    transport::{BrokerUrl, Transport},
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

/// Refuses what clusters could not use.
pub(super) fn check(settings: &Settings) -> Result<()> {
    if settings.public_names.is_empty() {
        bail!("publicNames is empty: list the host names by which clusters reach Manager and broker");
    }
    if let Some(name) = settings.public_names.iter().find(|name| !is_host(name)) {
        bail!("publicNames: \"{name}\" is no DNS name or IP address; write it without port, brackets and scheme");
    }
    if settings.endpoints.is_empty() || settings.endpoints.iter().any(|url| Target::of_https(url).is_none()) {
        bail!("endpoints must be one or more https:// URLs of this Manager, an IPv6 address in brackets");
    }
    if settings.nats.urls.is_empty() {
        bail!("nats.urls is empty: set the URL of the broker, tls://host:port");
    }
    if settings.nats.urls.iter().any(|url| !is_of(url, &[Transport::Nats])) {
        bail!("nats.urls must be tls://host:port: the broker accepts TLS only");
    }
    if settings
        .nats
        .public_urls
        .iter()
        .any(|url| !is_of(url, &[Transport::Nats, Transport::Websocket, Transport::Grpc]))
    {
        bail!(
            "nats.publicUrls must be tls://host:port, wss://host[:port][/path] or grpcs://host[:port]: broker and bridge accept TLS only"
        );
    }
    let nats = &settings.nats;
    let listens = [Some(&nats.listen), nats.websocket_listen.as_ref(), nats.leaf_listen.as_ref()];
    if let Some(listen) = listens.into_iter().flatten().find(|listen| !is_host_and_port(listen)) {
        bail!("nats: \"{listen}\" is nothing to listen on; write host:port, an IPv6 address in brackets");
    }
    let is_leaf = |kind| settings.nats.leaf_public_urls.iter().all(|url| is_of(url, &[kind]));
    if !is_leaf(Transport::Nats) && !is_leaf(Transport::Websocket) {
        bail!(
            "nats.leafPublicUrls must all be tls://host:port, or all wss://host[:port]: a leaf node takes one kind, and the hub accepts TLS only"
        );
    }
    Ok(())
}

impl Settings {
    /// What the broker's certificate is for: the hosts of its URLs, and what else is in `publicNames`, except for the hosts of Manager and
    /// bridge.
    #[must_use]
    pub fn hub_hosts(&self) -> Vec<String> {
        let of_bridge = self.bridge_hosts();
        let of_manager: Vec<String> =
            self.endpoints.iter().filter_map(|url| Target::of_https(url)).map(|target| target.host).collect();
        let urls = self.nats.urls.iter().chain(&self.nats.public_urls).chain(&self.nats.leaf_public_urls);
        let mut hosts = hosts_of(urls, &[Transport::Nats, Transport::Websocket]);
        let others = self.public_names.iter().filter(|name| !of_manager.contains(name) && !of_bridge.contains(name));
        hosts.extend(others.cloned().collect::<BTreeSet<_>>());
        hosts.into_iter().collect()
    }

    /// What the bridge's certificate is for: the hosts of its URLs, and no others.
    #[must_use]
    pub fn bridge_hosts(&self) -> Vec<String> {
        hosts_of(self.nats.public_urls.iter(), &[Transport::Grpc]).into_iter().collect()
    }
}

fn hosts_of<'a>(urls: impl Iterator<Item = &'a String>, transports: &[Transport]) -> BTreeSet<String> {
    let urls = urls.filter_map(|url| BrokerUrl::parse(url)).filter(|url| transports.contains(&url.transport));
    urls.map(|url| url.target.host).collect()
}

/// Whether a certificate can be for this name.
fn is_host(name: &str) -> bool {
    let is_name = !name.is_empty() && name.chars().all(|it| it.is_ascii_alphanumeric() || "-._*".contains(it));
    is_name || name.parse::<IpAddr>().is_ok()
}

/// Whether nats-server can listen there.
fn is_host_and_port(listen: &str) -> bool {
    let named = listen.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
    listen.parse::<SocketAddr>().is_ok() || named.is_some_and(|(host, _)| !host.contains(':') && is_host(host))
}

fn is_of(url: &str, transports: &[Transport]) -> bool {
    BrokerUrl::parse(url).is_some_and(|url| transports.contains(&url.transport))
}

#[cfg(test)]
mod tests {
    use crate::settings::tests::{SMALLEST, parse};

    #[test]
    fn urls_are_of_the_schemes_that_their_readers_speak() {
        assert!(parse(&SMALLEST.replace("tls://", "nats://")).is_err());
        assert!(parse(&SMALLEST.replace("tls://", "wss://")).is_err(), "the Manager itself speaks no WebSocket");
        let public = |url: &str| parse(&SMALLEST.replace("4222'] }", &format!("4222'], publicUrls: ['{url}'] }}")));
        assert!(public("wss://hub.example/nats").is_ok());
        assert!(public("grpcs://bridge.example").is_ok());
        assert!(public("ws://hub.example").is_err());
        let leaf = |urls: &str| parse(&SMALLEST.replace("4222'] }", &format!("4222'], leafPublicUrls: [{urls}] }}")));
        assert!(leaf("'tls://hub.example:7422', 'tls://hub2.example:7422'").is_ok());
        assert!(leaf("'wss://hub.example'").is_ok());
        assert!(leaf("'tls://hub.example:7422', 'wss://hub.example'").is_err(), "a leaf node takes one kind");
        assert!(leaf("'nats://hub.example:7422'").is_err());
    }

    #[test]
    fn ipv6_addresses_stand_in_brackets_before_a_port_and_in_none_without() {
        let ipv6 = SMALLEST.replace("manager.example]", "'2001:db8::1', manager.example]");
        let ipv6 = ipv6.replace("//manager.example:", "//[2001:db8::1]:").replace("//hub.example:", "//[2001:db8::1]:");
        let nats = "4222'], publicUrls: ['tls://[2001:db8::1]:4222', 'wss://[2001:db8::1]', 'grpcs://[2001:db8::1]:8444'], \
                    leafPublicUrls: ['tls://[2001:db8::1]:7422'], listen: '[::]:4222', leafListen: '[::1]:7422' }";
        let ipv6 = ipv6.replace("4222'] }", nats) + "listen: ['[::]:8443', '[2001:db8::1]:443']\n";
        parse(&ipv6).unwrap();
        for (right, wrong) in [
            ("'2001:db8::1', ", "'[2001:db8::1]', "),
            ("https://[2001:db8::1]:8443", "https://2001:db8::1:8443"),
            ("tls://[2001:db8::1]:4222", "tls://2001:db8::1:4222"),
            ("'[::]:4222'", "'::'"),
            ("'[::1]:7422'", "'::1:7422'"),
        ] {
            assert!(parse(&ipv6.replace(right, wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_bridge_gets_no_certificate_for_the_hosts_of_others() {
        let names = "publicNames: [manager.example, hub.example, bridge.example, 10.0.0.1]";
        let urls = "4222'], publicUrls: ['tls://hub.example:4222', 'grpcs://bridge.example'] }";
        let text = SMALLEST.replace("publicNames: [manager.example]", names).replace("4222'] }", urls);
        let settings = parse(&text).unwrap();
        assert_eq!(settings.bridge_hosts(), ["bridge.example"]);
        assert_eq!(settings.hub_hosts(), ["10.0.0.1", "hub.example"]);
        let without = parse(SMALLEST).unwrap();
        assert!(without.bridge_hosts().is_empty());
        assert_eq!(without.hub_hosts(), ["hub.example"]);
    }
}
