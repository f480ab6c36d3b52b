//! TLS as a client: to the broker with the cluster's own certificate under the pinned CA, to a proxy under its own.
//!
//! Files are read for each handshake, so what was renewed counts with the next one; and no session is resumed, because a resumed one
//! does not show the client's certificate again.

use crate::dial::ByteStream;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// PEM files of a client.
#[derive(Debug, Clone)]
pub struct Files {
    /// The CAs that may have signed the broker's certificate.
    pub ca: PathBuf,
    /// The client certificate chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Trusts the CAs of a PEM file, or those of the system; shows no certificate.
pub(crate) fn trusting(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let roots = match ca_file {
        Some(path) => read_roots(path)?,
        None => {
            let mut roots = RootCertStore::empty();
            // What cannot be read of the system's is left out: some images have none.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots
        }
    };
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

/// Trusts the CAs of the file and no other, and shows the certificate.
pub(crate) fn mutual(files: &Files) -> Result<ClientConfig, String> {
    let chain = read_certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unusable(&files.key, &error))?;
    let builder = ClientConfig::builder().with_root_certificates(read_roots(&files.ca)?);
    builder.with_client_auth_cert(chain, key).map_err(|error| unusable(&files.certificate, &error))
}

/// Speaks TLS with the server of this name, which is sent as SNI unless it is an address.
///
/// # Errors
/// When the handshake fails; the TLS library's error is in the I/O error.
pub async fn handshake<S: ByteStream>(config: ClientConfig, host: &str, stream: S) -> io::Result<TlsStream<S>> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("\"{host}\" is no name for a certificate")))?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn read_roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(read_certificates(path)?);
    if added == 0 {
        return Err(format!("{} contains no certificate of a CA", path.display()));
    }
    Ok(roots)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("could not use {}: {error}", path.display())
}
