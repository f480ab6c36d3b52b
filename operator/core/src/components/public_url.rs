//! The URL under which tenants reach Capsule Proxy.

/// The host of a public URL such as `https://tenants.example.org:9001`.
#[must_use]
pub(super) fn host(public_url: &str) -> Option<String> {
    let rest = public_url.strip_prefix("https://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let plain =
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-');
    plain.then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_is_https_with_a_host() {
        assert_eq!(host("https://Tenants.example.org:9001/x"), Some("tenants.example.org".to_owned()));
        assert_eq!(host("https://t"), Some("t".to_owned()));
        for wrong in ["http://t", "https://", "t", "https://user@t", "https://:9001"] {
            assert_eq!(host(wrong), None, "{wrong}");
        }
    }
}
