//! Trust: the certificate authority, the broker's identities, the command signing key, and the envelope that seals all
//! of them at rest.
//!
//! Guarantees: the content of a certificate or user JWT is decided here, never by a request; private keys leave this crate
//! only sealed ([`envelope`]) or as files of mode 0600 ([`nats_config`]); nothing here reads a
//! clock, every time is handed in. Before it: `store/keys.rs`, which keeps the sealed keys. After it: enrollment (API),
//! relay (signing), `kubenova-manager nats config`.

pub mod authority;
pub mod claims;
pub mod command_keys;
pub mod current;
pub mod envelope;
pub mod keyring;
pub mod nats;
pub mod nats_config;
pub mod nonce;
pub mod rotation;

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A certificate could not be issued.
    #[error("could not issue a certificate for {subject}")]
    Certificate {
        /// Whose.
        subject: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// A signing request of a cluster is malformed, or does not prove possession of its key.
    #[error("the certificate signing request is not acceptable: {0}")]
    SigningRequest(&'static str),
    /// A stored nkey is of the wrong kind or damaged.
    #[error("nkey for {what} is not usable")]
    Nkey {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: nkeys::error::Error,
    },
    /// A public nkey that a cluster sent is not that of a user.
    #[error("the public nkey is not that of a user: it must begin with U")]
    NotAUserKey,
    /// A name with a character that has a meaning in subjects or permission templates.
    #[error("\"{0}\" cannot be a user's name at the broker: letters, digits, - and _ only")]
    UserName(String),
    /// A key is missing: `kubenova-manager init` creates all of them.
    #[error("key \"{0}\" is missing: run kubenova-manager init")]
    MissingKey(&'static str),
    /// A stored key cannot be read although the envelope opened.
    #[error("key \"{0}\" is damaged")]
    DamagedKey(&'static str),
    /// The envelope did not open.
    #[error(transparent)]
    Envelope(#[from] envelope::EnvelopeError),
    /// A file could not be written.
    #[error("could not write {path}")]
    Write {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
