//! Byte streams to the outside: directly, or through an HTTP proxy. Enrollment, renewal and the broker use the same.
//!
//! Guarantees: where a proxy is used, only the proxy's own name is resolved here, so a cluster needs to know no other; each way to
//! fail is a variant of its own; every wait is bounded. Must not: write a proxy's credentials into an error or a log.

pub mod error;
pub(crate) mod http_head;
mod prefixed;
pub mod proxy;
pub mod tcp;
mod tunnel;

use error::DialError;
use proxy::{Proxy, ProxySettings};
use std::{fmt, time::Duration};
use tokio::io::{AsyncRead, AsyncWrite};

/// Time for a name server's answer.
pub const RESOLVE_LIMIT: Duration = Duration::from_secs(5);
/// Time for TCP with all addresses of a target together.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Time for TLS with a proxy and its answer to CONNECT, in which it makes the connection.
pub const PROXY_LIMIT: Duration = Duration::from_secs(7);

/// A stream of bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A stream of whatever kind.
pub type Socket = Box<dyn ByteStream>;

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// A DNS name or an address, without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl Target {
    /// Brackets around an IPv6 address are left out.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Self { host: bare.to_owned(), port }
    }

    /// Host and port of an `https://` URL; none for anything else.
    #[must_use]
    pub fn of_https(url: &str) -> Option<Self> {
        let url = url::Url::parse(url).ok().filter(|url| url.scheme() == "https")?;
        Some(Self::new(url.host_str()?, url.port_or_known_default()?))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Opens streams as the settings say.
#[derive(Debug, Clone, Default)]
pub struct Dialer {
    proxy: ProxySettings,
}

impl Dialer {
    /// With these settings. The default uses no proxy.
    #[must_use]
    pub const fn new(proxy: ProxySettings) -> Self {
        Self { proxy }
    }

    /// The proxy by which this target is reached, if any.
    #[must_use]
    pub fn proxy_for(&self, target: &Target) -> Option<Proxy> {
        self.proxy.for_target(target)
    }

    /// A stream to the target. Takes at most 17 seconds.
    ///
    /// # Errors
    /// When there is none.
    pub async fn dial(&self, target: &Target) -> Result<Socket, DialError> {
        match self.proxy_for(target) {
            Some(proxy) => proxy.connect(target).await,
            None => {
                let addresses = tcp::resolve(target).await?;
                Ok(Box::new(tcp::connect(target, &addresses).await?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_https_url_names_a_target() {
        let read = |url| Target::of_https(url).map(|target| (target.host.clone(), target.to_string()));
        let found = |host: &str, shown: &str| Some((host.to_owned(), shown.to_owned()));
        assert_eq!(read("https://manager"), found("manager", "manager:443"));
        assert_eq!(read("https://[2001:DB8::1]:8443/x"), found("2001:db8::1", "[2001:db8::1]:8443"));
        for other in ["http://x", "https://", "https://2001:db8::1:8443", "manager:8443"] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
