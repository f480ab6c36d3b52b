//! Everything by addresses of IPv6, written in brackets.

use crate::support::{ANSWER_MAX, Broker, by_proxy, http, works};
use kubenova_bus::{connection, dial::Dialer, transport::TransportChoice};
use tokio::time::timeout;

#[tokio::test]
async fn each_transport_reaches_an_address_of_ipv6_directly_and_through_a_proxy_at_one() {
    let broker = Broker::start_on("::1", "").await;
    assert!(broker.tls().starts_with("tls://[::1]:") && broker.wss().starts_with("wss://[::1]:"));
    let proxy = broker.proxy().await;
    assert!(http(&proxy).starts_with("http://[::1]:"));
    let through = || by_proxy(&http(&proxy));
    for (url, dialer, via) in [
        (broker.tls(), Dialer::default(), "nats".to_owned()),
        (broker.wss(), Dialer::default(), "websocket".to_owned()),
        (broker.tls(), through(), format!("nats through the proxy {}", http(&proxy))),
        (broker.wss(), through(), format!("websocket through the proxy {}", http(&proxy))),
        (broker.named().1, through(), format!("websocket through the proxy {}", http(&proxy))),
    ] {
        let settings = broker.settings(&[&url], TransportChoice::Auto, dialer);
        let connection = timeout(ANSWER_MAX, connection::connect(settings)).await.unwrap().unwrap();
        assert_eq!(connection.via().to_string(), via, "{url}");
        works(&connection).await;
    }
    assert_eq!(proxy.asked()[..2], [broker.nats.to_string(), broker.websocket.to_string()], "in brackets");
}

/// nats-server takes it for every address of the host, of both families: so may `listen` of the Manager's settings.
#[tokio::test]
async fn the_broker_s_default_address_is_of_both_families() {
    let broker = Broker::start_on("0.0.0.0", "").await;
    for host in ["127.0.0.1", "[::1]"] {
        for url in [format!("tls://{host}:{}", broker.nats.port()), format!("wss://{host}:{}", broker.websocket.port())]
        {
            let settings = broker.settings(&[&url], TransportChoice::Auto, Dialer::default());
            works(&timeout(ANSWER_MAX, connection::connect(settings)).await.unwrap().unwrap()).await;
        }
    }
}
