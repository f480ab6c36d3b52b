//! Why a connection to the broker could not be made, as far as the client library tells.
//!
//! The library has a kind for most causes. TLS failures arrive as I/O errors, so their cause is the `rustls::Error` in
//! the chain. A broker that ends a connection because of its credentials says so in one of a few texts of the NATS
//! protocol.

use async_nats::{ConnectError, ConnectErrorKind, ServerError};
use std::{error::Error, io};

/// A cause with a remedy of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectCause {
    /// The broker's host name does not resolve.
    NameNotFound,
    /// No TCP connection, or it broke.
    Unreachable,
    /// The broker did not answer in time.
    TimedOut,
    /// The broker's certificate does not verify: expired, of another CA, or for another name.
    BrokerCertificate,
    /// The broker does not accept the client's certificate.
    ClientCertificate,
    /// TLS failed otherwise.
    Tls,
    /// The user JWT or the account has expired.
    CredentialsExpired,
    /// The user JWT was revoked.
    CredentialsRevoked,
    /// The broker does not accept the credentials and does not say why.
    CredentialsRefused,
    /// The client could not use its own credentials or the configured URL.
    Unusable,
    /// A WebSocket was asked for and something answered that opens none there.
    UpgradeRefused,
    /// What answered is no NATS server.
    NotNats,
    /// The bridge has no connection to the broker.
    BridgeCannotConnect,
    /// The bridge stops; another replica answers.
    BridgeDraining,
    /// The bridge has as many sessions as it may, or ended one that stood still.
    BridgeBusy,
    /// What answered is not the bridge.
    BridgeAnswer,
    /// The leaf node's name does not resolve, there is no TCP connection to it, or it does not answer in time.
    LeafUnreachable,
    /// The leaf node's certificate does not verify.
    LeafCertificate,
    /// The leaf node does not accept the cluster's nkey.
    LeafRefused,
    /// The leaf node was reached and has no connection to the hub.
    LeafWithoutHub,
    /// None of the URLs is of a transport that may be used.
    NoUrl,
    /// The proxy's host name does not resolve.
    ProxyNameNotFound,
    /// No TCP connection to the proxy.
    ProxyUnreachable,
    /// TLS with the proxy failed.
    ProxyTls,
    /// The files with the proxy's CA or credentials cannot be used.
    ProxyFiles,
    /// The proxy requires authentication (407), or does not accept the credentials that it got.
    ProxyAuthenticationRequired,
    /// The proxy does not allow the connection.
    ProxyRefused,
    /// The proxy could not connect to the broker.
    ProxyCannotConnect,
    /// What answered is no HTTP proxy.
    ProxyAnswer,
    /// The proxy did not answer in time.
    ProxyTimedOut,
}

impl ConnectCause {
    /// Whether the broker was reached and refuses who connects.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::ClientCertificate | Self::CredentialsExpired | Self::CredentialsRevoked | Self::CredentialsRefused
        )
    }

    /// The same where what was reached, or was not, is a leaf node: who puts it right is the site, not the Manager's side. A leaf node
    /// knows nothing of JWTs, so new credentials are of no use to a cluster whose nkey it refuses.
    #[must_use]
    pub(crate) const fn of_leaf(self) -> Self {
        match self {
            Self::NameNotFound | Self::Unreachable | Self::TimedOut => Self::LeafUnreachable,
            Self::BrokerCertificate => Self::LeafCertificate,
            Self::CredentialsRefused => Self::LeafRefused,
            other => other,
        }
    }

    /// The cause of a failed attempt.
    #[must_use]
    pub fn of(error: &ConnectError) -> Self {
        if let Some(cause) = chain(error).find_map(of_source) {
            return cause;
        }
        match error.kind() {
            ConnectErrorKind::Dns => Self::NameNotFound,
            ConnectErrorKind::AuthorizationViolation => Self::CredentialsRefused,
            ConnectErrorKind::Authentication | ConnectErrorKind::ServerParse => Self::Unusable,
            ConnectErrorKind::TimedOut => Self::TimedOut,
            ConnectErrorKind::Tls => Self::Tls,
            ConnectErrorKind::Io | ConnectErrorKind::MaxReconnects => Self::Unreachable,
        }
    }
}

/// Whether the broker itself said why.
pub(crate) fn is_said_by_broker(error: &ConnectError) -> bool {
    chain(error).any(|source| source.is::<ServerError>())
}

fn chain(error: &ConnectError) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(error.source(), |error: &&(dyn Error + 'static)| (*error).source())
}

fn of_source(error: &(dyn Error + 'static)) -> Option<ConnectCause> {
    if let Some(error) = error.downcast_ref::<ServerError>() {
        return of_server(error);
    }
    // An I/O error does not name the error it carries as its source, but that error's source.
    let carried = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let tls = error.downcast_ref::<rustls::Error>().or_else(|| carried?.downcast_ref());
    tls.map(of_tls)
}

/// Texts of the NATS protocol, <https://docs.nats.io/reference/reference-protocols/nats-protocol#err>.
fn of_server(error: &ServerError) -> Option<ConnectCause> {
    let ServerError::Other(text) = error else { return None };
    match text.to_ascii_lowercase().as_str() {
        "user authentication expired" | "account authentication expired" => Some(ConnectCause::CredentialsExpired),
        "user authentication revoked" => Some(ConnectCause::CredentialsRevoked),
        "authentication timeout" => Some(ConnectCause::TimedOut),
        _ => None,
    }
}

pub(crate) fn of_tls(error: &rustls::Error) -> ConnectCause {
    match error {
        rustls::Error::InvalidCertificate(_) => ConnectCause::BrokerCertificate,
        rustls::Error::AlertReceived(alert) if names_our_certificate(*alert) => ConnectCause::ClientCertificate,
        _ => ConnectCause::Tls,
    }
}

fn names_our_certificate(alert: rustls::AlertDescription) -> bool {
    use rustls::AlertDescription as Alert;
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::UnknownCA
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(kind: ConnectErrorKind, source: impl Into<Box<dyn Error + Send + Sync>>) -> ConnectCause {
        ConnectCause::of(&ConnectError::with_source(kind, source))
    }

    #[test]
    fn each_kind_of_failure_has_its_own_cause() {
        let tls = |error: rustls::Error| io::Error::new(io::ErrorKind::InvalidData, error);
        let server = |text: &str| ServerError::Other(text.to_owned());
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        use ConnectErrorKind::{AuthorizationViolation, Dns, Io, TimedOut, Tls};
        assert_eq!(cause(Io, refused), ConnectCause::Unreachable);
        assert_eq!(cause(Dns, "no such host"), ConnectCause::NameNotFound);
        assert_eq!(ConnectCause::of(&ConnectError::new(TimedOut)), ConnectCause::TimedOut);
        assert_eq!(cause(Tls, "no CA file"), ConnectCause::Tls);
        assert_eq!(cause(Io, tls(rustls::CertificateError::UnknownIssuer.into())), ConnectCause::BrokerCertificate);
        let expired = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired);
        assert_eq!(cause(Io, tls(expired)), ConnectCause::ClientCertificate);
        assert_eq!(cause(Io, server("User Authentication Expired")), ConnectCause::CredentialsExpired);
        assert_eq!(cause(Io, server("User Authentication Revoked")), ConnectCause::CredentialsRevoked);
        assert_eq!(
            cause(AuthorizationViolation, ServerError::AuthorizationViolation),
            ConnectCause::CredentialsRefused
        );
    }
}
