//! The identity in use: one for the life of the parts, with credentials that are renewed while they run.

use super::identity::Identity;
use kubenova_operator_core::record::RecordVerifier;
use std::sync::Arc;
use tokio::sync::watch;

/// Where a renewed identity is published.
#[derive(Debug)]
pub struct IdentitySender {
    identity: watch::Sender<Arc<Identity>>,
    verifier: watch::Sender<Arc<RecordVerifier>>,
}

/// The identity as it is now.
#[derive(Debug, Clone)]
pub struct CurrentIdentity {
    identity: watch::Receiver<Arc<Identity>>,
    cluster_id: Arc<str>,
}

/// What inbox records are verified with, as it is now. Holds no private key.
#[derive(Debug, Clone)]
pub struct CurrentVerifier(watch::Receiver<Arc<RecordVerifier>>);

/// Of an identity that was just enrolled, or read from its Secret.
#[must_use]
pub fn channel(identity: Identity) -> (IdentitySender, CurrentIdentity, CurrentVerifier) {
    let cluster_id = identity.cluster_id().into();
    let (verifier, verifiers) = watch::channel(Arc::new(identity.record_verifier()));
    let (sender, identities) = watch::channel(Arc::new(identity));
    let sender = IdentitySender { identity: sender, verifier };
    (sender, CurrentIdentity { identity: identities, cluster_id }, CurrentVerifier(verifiers))
}

impl IdentitySender {
    /// The identity in use.
    #[must_use]
    pub fn get(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.borrow())
    }

    /// Puts renewed credentials into use.
    pub fn renewed(&self, identity: Identity) {
        self.verifier.send_replace(Arc::new(identity.record_verifier()));
        self.identity.send_replace(Arc::new(identity));
    }
}

impl CurrentIdentity {
    /// The identity in use.
    #[must_use]
    pub fn get(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.borrow())
    }

    /// This cluster's id, which no renewal changes.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// Resolves with the identity once it is another one than this; never once nothing renews it any more.
    pub async fn other_than(&mut self, known: &Arc<Identity>) -> Arc<Identity> {
        loop {
            let now = Arc::clone(&self.identity.borrow_and_update());
            if !Arc::ptr_eq(&now, known) {
                return now;
            }
            if self.identity.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl CurrentVerifier {
    /// The verifier in use.
    #[must_use]
    pub fn get(&self) -> Arc<RecordVerifier> {
        Arc::clone(&self.0.borrow())
    }
}
