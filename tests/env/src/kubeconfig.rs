//! Kubeconfig files: where a caller finds an API server and who it is there.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use data_encoding::BASE64;
use serde_json::json;

use crate::pki::Identity;

/// One server, one caller.
#[derive(Clone, Debug)]
pub struct Kubeconfig {
    text: String,
}

impl Kubeconfig {
    /// For the server at `url` whose certificate `authority` (PEM) signed.
    pub fn new(cluster: &str, url: &str, authority: &str, caller: &Identity) -> Self {
        let data = |pem: &str| BASE64.encode(pem.as_bytes());
        let document = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": cluster,
            "clusters": [{"name": cluster, "cluster": {
                "server": url,
                "certificate-authority-data": data(authority),
            }}],
            "users": [{"name": cluster, "user": {
                "client-certificate-data": data(&caller.certificate),
                "client-key-data": data(&caller.key),
            }}],
            "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": cluster}}],
        });
        Self { text: format!("{document:#}\n") }
    }

    /// The file's text (JSON, which is YAML).
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Writes it, readable by the owner only: it holds a key.
    pub fn write(&self, path: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        fs::write(path, &self.text).with_context(|| format!("could not write {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .with_context(|| format!("could not protect {}", path.display()))
    }

    /// A client for it.
    pub async fn client(&self) -> Result<kube::Client> {
        // Whoever comes second finds it installed, which is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let parsed = kube::config::Kubeconfig::from_yaml(&self.text).context("could not read our own kubeconfig")?;
        let config = kube::Config::from_custom_kubeconfig(parsed, &kube::config::KubeConfigOptions::default())
            .await
            .context("could not use our own kubeconfig")?;
        kube::Client::try_from(config).context("could not make a Kubernetes client")
    }
}
