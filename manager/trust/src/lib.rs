//! Trust: the certificate authority, the broker's identities, the command signing key, and the envelope that seals all
//! of them at rest.
//!
//! Guarantees: a certificate or user JWT says only what this crate decides (never what a request asked for); private
//! halves leave this crate only sealed ([`envelope`]) or as files of mode 0600 ([`nats_config`]); nothing here reads a
//! clock, every time is handed in. Before it: `store/keys.rs`, which keeps the sealed keys. After it: enrollment (API),
//! relay (signing), `kubenova-manager nats config`.

pub mod authority;
pub mod claims;
pub mod envelope;
pub mod keyring;
pub mod nats;
pub mod nats_config;

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A certificate could not be made.
    #[error("could not make a certificate for {subject}")]
    Certificate {
        /// Whose.
        subject: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// What a cluster sent as its signing request is not one, or does not prove its key.
    #[error("certificate signing request is not acceptable: {0}")]
    SigningRequest(&'static str),
    /// An nkey is of the wrong kind or damaged.
    #[error("nkey for {what} is not usable")]
    Nkey {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: nkeys::error::Error,
    },
    /// A public nkey that was shown is not a user's.
    #[error("public nkey is not a user's: it must begin with U")]
    NotAUserKey,
    /// A name that would mean more than a name inside a permission template.
    #[error("\"{0}\" cannot be a user's name at the broker: letters, digits, - and _ only")]
    UserName(String),
    /// A key that must be there is not: `kubenova-manager init` makes all of them.
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
