//! The one TLS provider of both processes.

/// Installs aws-lc-rs for rustls; the first line of every main and of every test that uses TLS. Later calls do nothing.
pub fn install_provider() {
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
