//! A session without the Operator's relay and the NATS client: what a cluster, or an attacker in its place, may send.

use super::support::ANSWER_MAX;
use hyper_util::rt::TokioIo;
use kubenova_bus::{
    Credentials,
    bridge::proto::{Frame, bridge_client::BridgeClient},
    tls::Files,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use std::{io, net::SocketAddr, sync::Arc};
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};

/// TLS with the certificate of these files. The bridge may not have verified it by then.
pub(crate) async fn tls(at: SocketAddr, files: &Files) -> TlsStream<TcpStream> {
    let read = |path| CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect::<Vec<_>>();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(read(&files.ca));
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots);
    let mut config = config.with_client_auth_cert(read(&files.certificate), key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let connected = async {
        let stream = TcpStream::connect(at).await.unwrap();
        connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap()
    };
    timeout(ANSWER_MAX, connected).await.expect("the bridge answers")
}

/// HTTP/2 with the certificate of these files.
pub(crate) async fn channel(at: SocketAddr, files: &Files) -> Channel {
    let mut stream = Some(TokioIo::new(tls(at, files).await));
    let connector = tower::service_fn(move |_: Uri| {
        std::future::ready(stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
    });
    Endpoint::from_static("http://bridge").connect_with_connector(connector).await.unwrap()
}

/// A session.
pub(crate) struct Raw {
    pub(crate) up: mpsc::Sender<Frame>,
    pub(crate) down: Streaming<Frame>,
    /// What the broker said first.
    pub(crate) info: serde_json::Value,
}

impl Raw {
    pub(crate) async fn open(at: SocketAddr, files: &Files) -> Result<Self, Status> {
        Self::open_on(channel(at, files).await).await
    }

    /// On a connection that may be there without it.
    pub(crate) async fn open_on(channel: Channel) -> Result<Self, Status> {
        let (up, frames) = mpsc::channel(1);
        let mut client = BridgeClient::new(channel);
        let mut down = client.connect(ReceiverStream::new(frames)).await?.into_inner();
        let first = timeout(ANSWER_MAX, down.message()).await.unwrap()?.unwrap().data;
        let info = serde_json::from_slice(first.strip_prefix(b"INFO ").unwrap()).unwrap();
        Ok(Self { up, down, info })
    }

    pub(crate) async fn send(&self, text: &str) {
        self.up.send(Frame { data: text.to_owned().into() }).await.unwrap();
    }

    /// What comes until a text is in it, or the end.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        let mut all = String::new();
        let read = async {
            while let Ok(Some(frame)) = self.down.message().await {
                all.push_str(&String::from_utf8_lossy(&frame.data));
                if all.contains(text) {
                    return;
                }
            }
        };
        timeout(ANSWER_MAX, read).await.unwrap_or_else(|_| panic!("no {text} came"));
        all
    }

    /// The login that answers this nonce.
    pub(crate) fn login(credentials: &Credentials, nonce: &str) -> String {
        let pair = nkeys::KeyPair::from_seed(&credentials.seed).unwrap();
        let signature = data_encoding::BASE64URL_NOPAD.encode(&pair.sign(nonce.as_bytes()).unwrap());
        let connect = serde_json::json!({
            "verbose": false, "pedantic": false, "lang": "test", "version": "1", "protocol": 1, "headers": true,
            "jwt": credentials.user_jwt, "sig": signature,
        });
        format!("CONNECT {connect}\r\nPING\r\n")
    }

    pub(crate) fn nonce(&self) -> String {
        self.info["nonce"].as_str().unwrap().to_owned()
    }
}
