//! `confirm-deletions`: a person signs that tenants of a cluster may be deleted. Works offline, on the person's own machine: the key is
//! in no Manager.

use super::{say, write_secret};
use anyhow::{Context as _, Result, bail};
use data_encoding::BASE64;
use jiff::SignedDuration;
use kubenova_runtime::{clock, random};
use kubenova_schema::{
    deletion_confirmation,
    signature::{PayloadType, SigningKey},
    v1::DeletionStatement,
};
use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

/// Arguments of `confirm-deletions`.
#[derive(Debug, clap::Args)]
pub struct ConfirmDeletions {
    /// File with the person's key.
    #[arg(long)]
    key: PathBuf,
    /// Make a new key, write it to the file (mode 0600) and print its public half, for `sovereignPolicy.deletionConfirmationKeys`.
    #[arg(long, conflicts_with_all = ["cluster", "cluster_uid", "tenant", "by"])]
    new_key: bool,
    /// Id of the cluster.
    #[arg(long, required_unless_present = "new_key")]
    cluster: Option<String>,
    /// UID of its kube-system namespace: kubectl get namespace kube-system -o jsonpath='{.metadata.uid}'
    #[arg(long, required_unless_present = "new_key")]
    cluster_uid: Option<String>,
    /// Id of a tenant that may be deleted; can be repeated.
    #[arg(long, required_unless_present = "new_key")]
    tenant: Vec<String>,
    /// Who confirms, for the audit log.
    #[arg(long, required_unless_present = "new_key")]
    by: Option<String>,
    /// Minutes for which it counts.
    #[arg(long, default_value_t = 60)]
    minutes: u32,
}

impl ConfirmDeletions {
    pub(super) fn run(self) -> Result<()> {
        if self.new_key {
            return new_key(&self.key);
        }
        let key = read_key(&self.key)?;
        let not_after = clock::now().checked_add(SignedDuration::from_mins(i64::from(self.minutes)));
        let statement = DeletionStatement {
            cluster_id: self.cluster.unwrap_or_default(),
            cluster_uid: self.cluster_uid.unwrap_or_default(),
            tenant_ids: self.tenant,
            not_after: clock::rfc3339_ms(not_after.context("--minutes is too large")?),
            confirmed_by: self.by.unwrap_or_default(),
        };
        say(&format!(
            "this permits the deletion of these tenants of cluster {}, with everything that belongs to them, until {}; they are \
             deleted if that was requested:\n{}",
            statement.cluster_id,
            statement.not_after,
            statement.tenant_ids.join("\n")
        ));
        print(&sign(&key, &statement))
    }
}

/// The body for `POST /clusters/{cluster}/deletion-confirmations`.
fn sign(key: &SigningKey, statement: &DeletionStatement) -> String {
    let text = deletion_confirmation::text(statement);
    let signature = key.sign(PayloadType::DeletionStatement, text.as_bytes());
    serde_json::json!({ "statement": text, "signature": signature }).to_string()
}

fn new_key(path: &Path) -> Result<()> {
    if path.exists() {
        bail!("{} exists already: a key is never overwritten", path.display());
    }
    let seed: [u8; 32] = random::bytes();
    let key = signing_key(&seed)?;
    write_secret(path, &format!("{}\n", BASE64.encode(&seed)))?;
    print(&BASE64.encode(&key.public_key()))
}

fn read_key(path: &Path) -> Result<SigningKey> {
    let text = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    let seed = BASE64.decode(text.trim().as_bytes());
    let seed = seed.ok().with_context(|| format!("{} holds no key: make one with --new-key", path.display()))?;
    signing_key(&seed)
}

fn signing_key(seed: &[u8]) -> Result<SigningKey> {
    SigningKey::from_seed(seed).map_err(|error| anyhow::anyhow!("the key cannot be used: {error}"))
}

fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(format!("{text}\n").as_bytes()).context("could not print the result")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_schema::{
        signature::AcceptedKeys,
        v1::{Command, DeletionConfirmation},
    };

    #[test]
    fn what_a_new_key_signs_confirms_where_its_public_half_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        new_key(&path).unwrap();
        assert!(new_key(&path).is_err(), "never overwritten");
        let key = read_key(&path).unwrap();
        let statement = DeletionStatement {
            cluster_id: "c1".to_owned(),
            tenant_ids: vec!["t1".to_owned()],
            not_after: "1970-01-01T01:00:00Z".to_owned(),
            ..DeletionStatement::default()
        };
        let body: serde_json::Value = serde_json::from_str(&sign(&key, &statement)).unwrap();
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        let confirmation = DeletionConfirmation { statement: text("statement"), signature: text("signature") };
        let command = Command { cluster_id: "c1".to_owned(), confirmation: Some(confirmation), ..Command::default() };
        let public = BASE64.encode(&key.public_key());
        let check = |named: &str| {
            let keys = AcceptedKeys::of_public_keys([named]);
            deletion_confirmation::check(&command, "t1", Some(&keys), jiff::Timestamp::UNIX_EPOCH)
        };
        assert!(check(&public).is_ok());
        assert!(check(&BASE64.encode(&[7; 32])).is_err());
    }
}
