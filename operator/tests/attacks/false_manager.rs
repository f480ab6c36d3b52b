//! Who answers at an address of the Manager: a server with a certificate of some authority, which says what it likes.

use kubenova_schema::signature::HEADER;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use std::sync::Arc;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// A certificate authority.
pub(crate) struct Authority {
    parameters: CertificateParams,
    key: KeyPair,
    pub(crate) certificate: rcgen::Certificate,
}

/// A server's certificate: its chain, and its key.
pub(crate) struct Certified {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::<String>::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap();
        Self { parameters, key, certificate }
    }

    pub(crate) fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.parameters, &self.key)
    }

    /// A certificate for a name, with another authority's behind it or its own.
    pub(crate) fn certify(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Certified {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.subject_alt_names.push(SanType::URI("spiffe://kubenova.test/manager".try_into().unwrap()));
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut parameters);
        let leaf = parameters.signed_by(&key, &self.issuer()).unwrap();
        let chain = vec![leaf.der().clone(), self.certificate.der().clone()];
        Certified { chain, key: PrivateKeyDer::try_from(key.serialize_der()).unwrap() }
    }
}

impl Certified {
    /// The same with another authority's certificate behind it.
    pub(crate) fn with_chain_of(mut self, other: &Authority) -> Self {
        self.chain.truncate(1);
        self.chain.push(other.certificate.der().clone());
        self
    }
}

/// What a request is answered: a status, a body, and its signature.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    pub(crate) signature: Option<String>,
}

/// Serves at an address of the loopback interface until the test ends; its URL.
pub(crate) async fn serve<F>(host: &str, certified: Certified, answer: F) -> String
where
    F: Fn(&str, &[u8]) -> Answer + Send + Sync + 'static,
{
    let listener = TcpListener::bind((host, 0)).await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(certified.chain, certified.key).unwrap();
    let (acceptor, answer) = (TlsAcceptor::from(Arc::new(config)), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
            // A client that does not believe the certificate ends it here.
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let _the_client_left = respond(BufReader::new(stream), &*answer).await;
                }
            });
        }
    });
    url
}

/// One request of HTTP/1.1, and its answer.
async fn respond<S, F>(mut stream: BufReader<S>, answer: &F) -> std::io::Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    F: Fn(&str, &[u8]) -> Answer,
{
    let (mut line, mut path, mut length) = (String::new(), String::new(), 0);
    while stream.read_line(&mut line).await? > 0 && line != "\r\n" {
        if path.is_empty() {
            path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or_default();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let Answer { status, body, signature } = answer(&path, &body);
    let signature = signature.map(|signature| format!("{HEADER}: {signature}\r\n")).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n{signature}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.flush().await
}
