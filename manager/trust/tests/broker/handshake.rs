//! TLS with a server of the broker, without the NATS client: it says less about why there is none.

use kubenova_trust::authority::Identity;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::TcpStream,
};

/// Longest that a server takes to refuse a certificate; only a failing test waits so long.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What a server says to who has no good certificate.
pub(crate) async fn refusal(address: &str, ca_pem: &str, identity: Option<&Identity>) -> String {
    let read = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect::<Vec<_>>();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(read(ca_pem));
    let config = ClientConfig::builder().with_root_certificates(roots);
    let config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
            config.with_client_auth_cert(read(&identity.chain_pem), key).unwrap()
        }
    };
    let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
    let mut info = String::new();
    stream.read_line(&mut info).await.unwrap();
    assert!(info.contains("\"tls_required\":true"), "{info}");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = match connector.connect(name, stream.into_inner()).await {
        Ok(stream) => stream,
        Err(error) => return format!("{error:?}"),
    };
    // Nothing is sent: what the server does not read any more would take its alert away.
    let mut byte = [0];
    let read = tokio::time::timeout(ANSWER_MAX, stream.read(&mut byte)).await;
    format!("{:?}", read.expect("who has no good certificate is told so"))
}
