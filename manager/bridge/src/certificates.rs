//! The bridge's certificate and the clusters' CA, read again when the files change: certificates are renewed while it runs.

use crate::{metrics::Metrics, verifier::OfClusters};
use anyhow::{Context as _, Result};
use kubenova_bus::{bridge::ALPN, tls::Files};
use kubenova_runtime::shutdown::Shutdown;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Pause between two looks at the files. A certificate is renewed days before its end.
const LOOK: Duration = Duration::from_secs(10);

/// What handshakes are made with.
#[derive(Debug)]
pub(crate) struct Certificates {
    pub(crate) current: Arc<watch::Sender<Arc<ServerConfig>>>,
    files: Files,
    trust_domain: String,
    read: Contents,
    metrics: Metrics,
}

/// The files' contents, to see whether they changed: a mounted Secret is replaced by changing a link, which leaves times as they were.
#[derive(Debug, PartialEq, Eq)]
struct Contents {
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Certificates {
    /// Reads them, for clusters of this trust domain.
    pub(crate) fn open(files: Files, trust_domain: String, metrics: Metrics) -> Result<Self> {
        let read = Contents::read(&files)?;
        let config = config(&read, &trust_domain)
            .context("the bridge's certificates cannot be used: see tls in its settings")?;
        Ok(Self { current: Arc::new(watch::Sender::new(Arc::new(config))), files, trust_domain, read, metrics })
    }

    /// Takes over what changes, for connections that are made from then on, until a stop is requested.
    pub(crate) async fn keep(mut self, shutdown: &Shutdown) {
        while shutdown.sleep(LOOK).await {
            self.look();
        }
    }

    fn look(&mut self) {
        let renewed = Contents::read(&self.files).and_then(|contents| {
            if contents == self.read {
                return Ok(());
            }
            // A pair that is written between two reads does not fit, and does with the next look.
            let config = config(&contents, &self.trust_domain)?;
            self.current.send_replace(Arc::new(config));
            self.read = contents;
            tracing::info!("took over renewed certificates");
            Ok(())
        });
        if let Err(error) = renewed {
            self.metrics.certificate_failures.inc();
            tracing::warn!(error = format!("{error:#}"), "could not read certificates; keeping those of before");
        }
    }
}

impl Contents {
    fn read(files: &Files) -> Result<Self> {
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("could not read {}", path.display()));
        Ok(Self { ca: read(&files.ca)?, certificate: read(&files.certificate)?, key: read(&files.key)? })
    }
}

fn config(contents: &Contents, trust_domain: &str) -> Result<ServerConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(&contents.ca).context("the CA file is no PEM")?);
    let authority = WebPkiClientVerifier::builder(Arc::new(roots))
        .build()
        .context("the CA file contains no certificate of a CA")?;
    let verifier = OfClusters { authority, trust_domain: trust_domain.to_owned() };
    let chain = certificates(&contents.certificate).context("the certificate file is no PEM")?;
    let key = PrivateKeyDer::from_pem_slice(&contents.key).context("the key file is no PEM")?;
    let builder = ServerConfig::builder().with_client_cert_verifier(Arc::new(verifier));
    let mut config = builder.with_single_cert(chain, key).context("certificate and key do not fit")?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would not show the certificate again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>()?;
    anyhow::ensure!(!certificates.is_empty(), "it contains no certificate");
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::PREFIX;
    use kubenova_runtime::metrics::Registry;

    fn write(files: &Files) {
        let made = rcgen::generate_simple_self_signed(["bridge".to_owned()]).unwrap();
        std::fs::write(&files.ca, made.cert.pem()).unwrap();
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    }

    #[test]
    fn what_is_renewed_is_taken_over_and_what_is_half_written_is_not() {
        kubenova_runtime::tls::install_provider();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let files = Files { ca: at("ca.crt"), certificate: at("tls.crt"), key: at("tls.key") };
        let metrics = Metrics::register(&mut Registry::new(PREFIX));
        let open = || Certificates::open(files.clone(), "kubenova.test".to_owned(), metrics.clone());
        assert!(open().is_err(), "there are none");
        write(&files);
        let mut certificates = open().unwrap();
        let current = Arc::clone(&certificates.current);
        let now = || Arc::clone(&current.borrow());
        let first = now();
        certificates.look();
        assert!(Arc::ptr_eq(&first, &now()), "nothing changed");
        let key = std::fs::read(&files.key).unwrap();
        write(&files);
        let renewed = std::fs::read(&files.key).unwrap();
        std::fs::write(&files.key, key).unwrap();
        certificates.look();
        assert!(Arc::ptr_eq(&first, &now()), "certificate and key do not fit");
        assert_eq!(metrics.certificate_failures.get(), 1);
        std::fs::write(&files.key, renewed).unwrap();
        certificates.look();
        assert!(!Arc::ptr_eq(&first, &now()));
    }
}
