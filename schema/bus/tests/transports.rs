//! The ways to a real nats-server: through HTTP proxies, in WebSockets, from one to the other; and what each failure is called.
//!
//! Needs `KUBENOVA_SERVERS`, a folder with `bin/nats-server` (made by `cargo dev servers`); nothing else.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

#[path = "transports/abandoned.rs"]
mod abandoned;
#[path = "transports/idle.rs"]
mod idle;
#[path = "transports/ipv6.rs"]
mod ipv6;
mod support;

use kubenova_bus::{
    cause::ConnectCause,
    connection,
    dial::{Dialer, proxy::ProxyFiles},
    transport::TransportChoice,
};
use kubenova_test_nats::connect_proxy::{Behavior, ConnectProxy};
use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
};
use support::{ANSWER_MAX, Authority, Broker, HUB, by_proxy, cause, free, http, with_files, works};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, rustls};

/// A server that closes every connection at once.
async fn closing() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    address
}

#[tokio::test]
async fn without_a_proxy_tls_is_direct_and_no_server_is_discovered() {
    let broker = Broker::start().await;
    let _another = broker.another();
    let connect = || connection::connect(broker.settings(&[&broker.tls()], TransportChoice::Auto, Dialer::default()));
    let named = async {
        loop {
            let connection = connect().await.unwrap();
            if !connection.client.server_info().connect_urls.is_empty() {
                return connection;
            }
        }
    };
    let connection = timeout(ANSWER_MAX, named).await.expect("the broker names the other server");
    assert_eq!(connection.client.server_pool().await.unwrap().len(), 1, "it is left out");
    works(&connection).await;
    assert_eq!(connection.via().to_string(), "nats");
}

#[tokio::test]
async fn through_a_proxy_that_resolves_the_name() {
    let broker = Broker::start().await;
    let _another = broker.another();
    let proxy = broker.proxy().await;
    for behavior in [Behavior::Connect, Behavior::Coalesce] {
        proxy.behave(behavior.clone());
        let settings = broker.settings(&[&broker.named().0], TransportChoice::Auto, by_proxy(&http(&proxy)));
        let connection = timeout(ANSWER_MAX, connection::connect(settings)).await.unwrap().unwrap();
        works(&connection).await;
        assert_eq!(connection.via().to_string(), format!("nats through the proxy http://{}", proxy.address()));
        assert_eq!(connection.client.server_info().connect_urls, Vec::<String>::new(), "{behavior:?}");
        assert_eq!(connection.client.server_pool().await.unwrap().len(), 1);
    }
    assert!(proxy.asked().iter().all(|target| *target == format!("{HUB}:{}", broker.nats.port())));
}

#[tokio::test]
async fn in_a_websocket_directly_and_through_a_proxy_that_wants_a_login() {
    let broker = Broker::start().await;
    let settings = broker.settings(&[&broker.wss()], TransportChoice::Auto, Dialer::default());
    let connection = timeout(ANSWER_MAX, connection::connect(settings)).await.unwrap().unwrap();
    works(&connection).await;
    assert_eq!(connection.via().to_string(), "websocket");

    let proxy = broker.proxy().await;
    proxy.behave(Behavior::Login("Basic dXNlcjpwYTpzcw==".to_owned()));
    let dialer = by_proxy(&format!("http://user:pa%3Ass@{}", proxy.address()));
    let settings = broker.settings(&[&broker.named().1], TransportChoice::Websocket, dialer);
    let connection = timeout(ANSWER_MAX, connection::connect(settings)).await.unwrap().unwrap();
    works(&connection).await;
    assert_eq!(connection.via().to_string(), format!("websocket through the proxy http://{}", proxy.address()));
}

#[tokio::test]
async fn through_a_proxy_with_tls_under_its_own_authority() {
    let broker = Broker::start().await;
    let folder = tempfile::tempdir().unwrap();
    Authority::new(folder.path(), "proxy").issue("proxy", &["127.0.0.1"]);
    let acceptor = acceptor(folder.path());
    let name = format!("{HUB}:{}", broker.nats.port());
    let proxy = ConnectProxy::start_tls("127.0.0.1:0", &[(&name, broker.nats)], acceptor).await;
    let url = format!("https://{}", proxy.address());
    let trusted = ProxyFiles { ca_file: Some(folder.path().join("proxy.ca")), credentials: None };
    let settings = broker.settings(&[&broker.named().0], TransportChoice::Auto, with_files(&url, trusted));
    works(&connection::connect(settings).await.unwrap()).await;
    let hub_only = ProxyFiles { ca_file: Some(broker.server.folder().join("hub.ca")), credentials: None };
    let settings = broker.settings(&[&broker.named().0], TransportChoice::Auto, with_files(&url, hub_only));
    assert_eq!(cause(&settings).await.0, ConnectCause::ProxyTls);
}

fn acceptor(folder: &Path) -> TlsAcceptor {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    let chain = CertificateDer::pem_file_iter(folder.join("proxy.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(folder.join("proxy.key")).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn each_failure_of_a_proxy_has_its_own_cause() {
    let broker = Broker::start().await;
    let proxy = broker.proxy().await;
    let (tls, wss) = broker.named();
    for url in [&tls, &wss] {
        let of = |dialer| broker.settings(&[url], TransportChoice::Auto, dialer);
        let through = of(by_proxy(&http(&proxy)));
        for (behavior, expected) in [
            (Behavior::Refuse(403), ConnectCause::ProxyRefused),
            (Behavior::Refuse(503), ConnectCause::ProxyCannotConnect),
            (Behavior::Login("Basic x".to_owned()), ConnectCause::ProxyAuthenticationRequired),
            (Behavior::Nonsense, ConnectCause::ProxyAnswer),
            (Behavior::Hang, ConnectCause::ProxyTimedOut),
        ] {
            proxy.behave(behavior.clone());
            let (cause, message) = cause(&through).await;
            assert_eq!(cause, expected, "{behavior:?}: {message}");
            assert!(message.contains(&http(&proxy)), "{message}");
        }
        let with_login = cause(&of(by_proxy("http://user:secret@127.0.0.1:1"))).await;
        assert_eq!(with_login.0, ConnectCause::ProxyUnreachable);
        assert!(!with_login.1.contains("secret"), "{}", with_login.1);
        let unknown = cause(&of(by_proxy("http://proxy.kubenova.invalid:3128"))).await;
        assert_eq!(unknown.0, ConnectCause::ProxyNameNotFound, "{}", unknown.1);
    }
}

#[tokio::test]
async fn each_failure_of_a_broker_has_its_own_cause_also_by_way_of_the_relay() {
    let broker = Broker::start().await;
    let proxy = broker.proxy().await;
    let of = |url: &str, dialer| broker.settings(&[url], TransportChoice::Auto, dialer);
    let direct = |url: &str| of(url, Dialer::default());
    let through = |url: &str| of(url, by_proxy(&http(&proxy)));
    let (tls, wss) = broker.named();

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let monitor = broker.server.monitor_url().await.replace("http://", "");
    for (settings, expected) in [
        (direct("wss://hub.kubenova.invalid"), ConnectCause::NameNotFound),
        (direct("wss://127.0.0.1:1"), ConnectCause::Unreachable),
        (direct(&format!("wss://{}", broker.nats)), ConnectCause::Tls),
        (direct(&format!("wss://{monitor}")), ConnectCause::Tls),
        (through(&format!("tls://{}", silent.local_addr().unwrap())), ConnectCause::TimedOut),
        (through(&format!("tls://{}", closing().await)), ConnectCause::NotNats),
        (through("tls://elsewhere.kubenova.invalid:4222"), ConnectCause::ProxyCannotConnect),
        // The certificate has another name.
        (direct(&format!("wss://localhost:{}", broker.websocket.port())), ConnectCause::BrokerCertificate),
    ] {
        let (cause, message) = cause(&settings).await;
        assert_eq!(cause, expected, "{:?}: {message}", settings.urls);
    }

    for url in [&tls, &wss] {
        let mut settings = through(url);
        settings.files.certificate = broker.server.folder().join("other.pem");
        settings.files.key = broker.server.folder().join("other.key");
        assert_eq!(cause(&settings).await.0, ConnectCause::ClientCertificate, "{url}");
        let mut settings = through(url);
        settings.files.ca = broker.server.folder().join("other.ca");
        assert_eq!(cause(&settings).await.0, ConnectCause::BrokerCertificate, "{url}");
        settings.files.ca = broker.server.folder().join("none.ca");
        assert_eq!(cause(&settings).await.0, ConnectCause::Unusable, "{url}");
    }
}

/// The broker says why and closes at once: its last words arrive before the end of the connection does.
#[tokio::test]
async fn what_the_broker_says_before_it_closes_arrives() {
    let broker = Broker::start_with("authorization { token: secret }").await;
    let proxy = broker.proxy().await;
    for url in [broker.named().0, broker.named().1] {
        let settings = broker.settings(&[&url], TransportChoice::Auto, by_proxy(&http(&proxy)));
        assert_eq!(cause(&settings).await.0, ConnectCause::CredentialsRefused, "{url}");
    }
}

/// What comes in clear text after the broker's first message could come from anyone on the way.
#[tokio::test]
async fn nothing_is_taken_from_a_broker_before_tls_but_its_first_message() {
    let broker = Broker::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let said = b"INFO {\"server_id\":\"x\",\"tls_required\":false}\r\nPING\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, said).await.unwrap();
        let mut read = Vec::new();
        let _reset = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut read).await;
        read
    });
    let proxy = broker.proxy().await;
    let settings = broker.settings(&[&format!("tls://{at}")], TransportChoice::Auto, by_proxy(&http(&proxy)));
    assert_eq!(cause(&settings).await.0, ConnectCause::NotNats);
    assert_eq!(server.await.unwrap(), b"", "nothing was sent to it");
}

#[tokio::test]
async fn one_transport_follows_the_other_when_it_may() {
    let broker = Broker::start().await;
    let closed = format!("tls://{}", free());
    let urls = [broker.wss(), closed.clone()];
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let of = |urls: &[&str], choice| broker.settings(urls, choice, Dialer::default());
    let connection = connection::connect(of(&urls, TransportChoice::Auto)).await.unwrap();
    assert_eq!(connection.via().to_string(), "websocket");
    works(&connection).await;
    assert_eq!(cause(&of(&urls, TransportChoice::Nats)).await.0, ConnectCause::Unreachable);
    assert_eq!(cause(&of(&[&closed], TransportChoice::Websocket)).await.0, ConnectCause::NoUrl);
    let (cause, message) = cause(&of(&[&closed, "wss://127.0.0.1:1"], TransportChoice::Auto)).await;
    assert_eq!(cause, ConnectCause::Unreachable);
    assert!(message.contains("nats: ") && message.contains("websocket: "), "{message}");
    let both = [broker.wss(), broker.tls()];
    let both: Vec<&str> = both.iter().map(String::as_str).collect();
    let connection = connection::connect(of(&both, TransportChoice::Auto)).await.unwrap();
    assert_eq!(connection.via().to_string(), "nats", "the first that works");
}

/// A load balancer drops a connection without telling either end: the pings notice it.
#[tokio::test]
async fn a_forgotten_connection_is_noticed_and_made_again() {
    let broker = Broker::start().await;
    let proxy = broker.proxy().await;
    for url in [broker.named().0, broker.named().1] {
        let settings = broker.settings(&[&url], TransportChoice::Auto, by_proxy(&http(&proxy)));
        let connection = connection::connect(settings).await.unwrap();
        let mut connects = connection.connects.clone();
        timeout(ANSWER_MAX, connects.wait_for(|count| *count == 1)).await.unwrap().unwrap();
        proxy.forget_connections();
        timeout(ANSWER_MAX, connects.wait_for(|count| *count == 2)).await.expect("it is noticed").unwrap();
        works(&connection).await;
    }
}

#[tokio::test]
async fn a_broker_that_comes_back_is_connected_to_again_by_the_same_way() {
    let mut broker = Broker::start().await;
    let proxy = broker.proxy().await;
    let settings = broker.settings(&[&broker.named().1], TransportChoice::Auto, by_proxy(&http(&proxy)));
    let connection = connection::connect(settings).await.unwrap();
    works(&connection).await;
    let mut connects = connection.connects.clone();
    timeout(ANSWER_MAX, connects.wait_for(|count| *count == 1)).await.unwrap().unwrap();
    let config = broker.config.clone();
    broker.server.restart_with(&config);
    timeout(ANSWER_MAX, connects.wait_for(|count| *count == 2)).await.expect("it comes back").unwrap();
    works(&connection).await;
    assert_eq!(connection.last_error.borrow().clone(), None);
}

/// The relay does not give its connection with our certificate to whoever knocks.
#[tokio::test]
async fn another_process_gets_nothing_of_the_relay() {
    let broker = Broker::start().await;
    let proxy = broker.proxy().await;
    let settings = broker.settings(&[&broker.named().0], TransportChoice::Auto, by_proxy(&http(&proxy)));
    let connection = connection::connect(settings).await.unwrap();
    let relay = connection.client.server_pool().await.unwrap().first().unwrap().addr.clone();
    let asked = proxy.asked().len();
    let mut other = tokio::net::TcpStream::connect((relay.host(), relay.port())).await.unwrap();
    let mut read = Vec::new();
    let ended = timeout(ANSWER_MAX, tokio::io::AsyncReadExt::read_to_end(&mut other, &mut read)).await.unwrap();
    assert!(ended.is_err() || read.is_empty(), "{read:?}");
    works(&connection).await;
    assert_eq!(proxy.asked().len(), asked, "nothing was dialed");
}
