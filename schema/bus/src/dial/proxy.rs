//! Which proxy a target is reached by: the variables `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, with the meaning they have for curl.
//!
//! All our connections are TLS, so `HTTP_PROXY` decides about none of them. A value that cannot be understood is an error: taken for
//! "no proxy", it would look like a broken network.

use super::Target;
use data_encoding::BASE64;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Variables with the URL of a proxy, each with what is read when it is not set. The first that is set counts, also when it is empty.
const HTTPS: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const HTTP: [&str; 2] = ["HTTP_PROXY", "http_proxy"];
const ALL: [&str; 2] = ["ALL_PROXY", "all_proxy"];
const NO: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// Why the variables cannot be used. The value is not repeated: it may contain a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxySettingsError {
    /// Not a URL of a kind that we speak.
    #[error(
        "{variable} is not the URL of an HTTP proxy; write http://host:port or https://host:port, with credentials as user:password@ \
         in front of the host and every special character of them percent-encoded"
    )]
    NotAProxy {
        /// The variable.
        variable: &'static str,
    },
}

/// What decides about proxies. The default uses none.
#[derive(Debug, Clone, Default)]
pub struct ProxySettings {
    matcher: Option<Arc<Matcher>>,
    files: ProxyFiles,
}

/// Files about the proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyFiles {
    /// PEM file of the CAs that may have signed the certificate of an `https://` proxy. None: those of the system.
    pub ca_file: Option<PathBuf>,
    /// Folder with the files `username` and `password`, read for each connection. None: credentials of the URL, if any.
    pub credentials: Option<PathBuf>,
}

impl ProxySettings {
    /// As this process's variables say.
    ///
    /// # Errors
    /// When one of them is not the URL of an HTTP proxy.
    pub fn from_env(files: ProxyFiles) -> Result<Self, ProxySettingsError> {
        Self::read(|name| std::env::var(name).ok(), files)
    }

    /// As these variables say.
    ///
    /// # Errors
    /// When one of them is not the URL of an HTTP proxy.
    pub fn read(
        variable: impl Fn(&'static str) -> Option<String>,
        files: ProxyFiles,
    ) -> Result<Self, ProxySettingsError> {
        let first = |names: [&'static str; 2]| {
            let set = names.iter().find_map(|name| variable(name).map(|value| (*name, value.trim().to_owned())));
            set.filter(|(_, value)| !value.is_empty())
        };
        let mut builder = Matcher::builder();
        for names in [HTTPS, ALL, HTTP] {
            let Some((variable, url)) = first(names) else { continue };
            if !is_proxy(&url) {
                return Err(ProxySettingsError::NotAProxy { variable });
            }
            builder = match names {
                HTTPS => builder.https(url),
                ALL => builder.all(url),
                _ => builder,
            };
        }
        // The matcher takes an address in brackets for a name.
        let no = first(NO).map(|(_, list)| list.replace(['[', ']'], "")).unwrap_or_default();
        Ok(Self { matcher: Some(Arc::new(builder.no(no).build())), files })
    }

    /// The proxy for this target, if any.
    #[must_use]
    pub fn for_target(&self, target: &Target) -> Option<Proxy> {
        // The matcher knows web addresses only; ours are all TLS.
        let address = format!("https://{target}/").parse().ok()?;
        self.matcher.as_ref()?.intercept(&address).and_then(|found| Proxy::of(&found, &self.files))
    }
}

/// Whether the matcher would use it, and we could.
fn is_proxy(url: &str) -> bool {
    let matcher = Matcher::builder().all(url.to_owned()).build();
    let found = matcher.intercept(&http::Uri::from_static("https://x/"));
    found.is_some_and(|found| Proxy::of(&found, &ProxyFiles::default()).is_some())
}

/// An HTTP proxy.
#[derive(Clone)]
pub struct Proxy {
    /// Where it listens.
    pub(super) target: Target,
    /// Whether TLS is spoken with the proxy itself.
    pub(super) is_https: bool,
    pub(super) ca_file: Option<PathBuf>,
    /// Of the URL.
    login: Option<ProxyLogin>,
    files: Option<PathBuf>,
}

/// User name and password for a proxy; they are not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyLogin {
    /// The user.
    pub username: String,
    /// Its password.
    pub password: String,
}

impl Proxy {
    fn of(found: &Intercept, files: &ProxyFiles) -> Option<Self> {
        let uri = found.uri();
        let is_https = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        // The parser takes a port that is none for no port.
        let host_and_port = uri.authority()?.as_str().rsplit('@').next().unwrap_or_default();
        let has_port = host_and_port.rsplit(']').next().unwrap_or_default().contains(':');
        let port = match uri.port_u16() {
            None if has_port => return None,
            port => port.unwrap_or(if is_https { 443 } else { 80 }),
        };
        let login = found.basic_auth().and_then(|value| ProxyLogin::of_basic(value.as_bytes()));
        Some(Self {
            target: Target::new(uri.host().filter(|host| !host.is_empty())?, port),
            is_https,
            ca_file: files.ca_file.clone(),
            login,
            files: files.credentials.clone(),
        })
    }

    /// PEM file of the CAs that may have signed its certificate; none where those of the system count, or there is no TLS with it.
    #[must_use]
    pub fn ca_file(&self) -> Option<&Path> {
        self.ca_file.as_deref().filter(|_| self.is_https)
    }

    /// Its credentials, if it is given any, as they are now.
    ///
    /// # Errors
    /// When their files cannot be read.
    pub async fn login(&self) -> Result<Option<ProxyLogin>, String> {
        let Some(folder) = &self.files else { return Ok(self.login.clone()) };
        let (username, password) = (read(&folder.join("username")).await?, read(&folder.join("password")).await?);
        Ok(Some(ProxyLogin { username, password }))
    }

    /// The value of `Proxy-Authorization`.
    pub(super) async fn authorization(&self) -> Result<Option<String>, String> {
        Ok(self.login().await?.map(|login| login.to_basic()))
    }
}

impl ProxyLogin {
    fn of_basic(value: &[u8]) -> Option<Self> {
        let decoded = BASE64.decode(value.strip_prefix(b"Basic ")?).ok()?;
        let (username, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        Some(Self { username: username.to_owned(), password: password.to_owned() })
    }

    fn to_basic(&self) -> String {
        format!("Basic {}", BASE64.encode(format!("{}:{}", self.username, self.password).as_bytes()))
    }
}

impl fmt::Debug for ProxyLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyLogin(***)")
    }
}

async fn read(path: &Path) -> Result<String, String> {
    let text = tokio::fs::read_to_string(path).await;
    let text = text.map_err(|error| format!("could not read its credentials from {}: {error}", path.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Its URL without credentials.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.is_https { "https" } else { "http" }, self.target)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<ProxySettings, ProxySettingsError> {
        let of = |name: &str| variables.iter().find(|(its, _)| *its == name).map(|(_, value)| (*value).to_owned());
        ProxySettings::read(of, ProxyFiles::default())
    }

    fn proxy(variables: &[(&str, &str)], host: &str) -> Option<String> {
        settings(variables).unwrap().for_target(&Target::new(host, 4222)).map(|proxy| proxy.to_string())
    }

    #[test]
    fn the_variables_mean_what_they_mean_for_curl() {
        let found = Some("http://p:3128".to_owned());
        assert_eq!(proxy(&[("HTTPS_PROXY", "http://p:3128")], "hub"), found);
        assert_eq!(proxy(&[("https_proxy", "p:3128")], "hub"), found, "without a scheme it is http");
        assert_eq!(proxy(&[("ALL_PROXY", "http://p:3128")], "hub"), found);
        assert_eq!(proxy(&[("HTTPS_PROXY", ""), ("https_proxy", "http://p:3128")], "hub"), None, "set and empty");
        assert_eq!(proxy(&[("HTTP_PROXY", "http://p:3128")], "hub"), None, "it is for plain HTTP");
        assert_eq!(proxy(&[("HTTPS_PROXY", "https://p")], "hub").as_deref(), Some("https://p:443"));
        assert_eq!(proxy(&[("HTTPS_PROXY", "http://[::1]:3128")], "hub").as_deref(), Some("http://[::1]:3128"));
        assert_eq!(proxy(&[], "hub"), None);
        assert!(ProxySettings::default().for_target(&Target::new("hub", 1)).is_none());
    }

    #[test]
    fn names_domains_addresses_and_networks_are_reached_without_it() {
        let no = "10.96.0.1,.svc,.cluster.local,example.com,10.0.0.0/8,fd00::/8,2001:db8:1::7, [2001:DB8:2::7],[2001:db8:3::]/48";
        let variables = [("HTTPS_PROXY", "http://p:3128"), ("NO_PROXY", no)];
        for direct in ["a.b.svc", "x.cluster.local", "example.com", "a.example.com", "10.1.2.3"] {
            assert_eq!(proxy(&variables, direct), None, "{direct}");
        }
        for direct in ["fd00::7", "[fd00::7]", "2001:db8:1:0::7", "2001:db8:2::7", "2001:db8:3:1::7"] {
            assert_eq!(proxy(&variables, direct), None, "{direct}");
        }
        for through in ["notexample.com", "192.0.2.1", "2001:db8:1::8", "2001:db8:4::7", "svc.example.org"] {
            assert!(proxy(&variables, through).is_some(), "{through}");
        }
        assert_eq!(proxy(&[("HTTPS_PROXY", "http://p"), ("NO_PROXY", "*")], "hub"), None);
    }

    #[test]
    fn a_value_that_is_no_http_proxy_is_refused_without_being_repeated() {
        for bad in [
            "socks5://user:secret@p:1080",
            "http://",
            "ftp://secret",
            "http://se cret:3128",
            "::secret",
            "http://secret:99999",
            "http://[fd00::1]:x",
        ] {
            for variable in ["HTTPS_PROXY", "all_proxy", "HTTP_PROXY"] {
                let error = settings(&[(variable, bad)]).unwrap_err();
                assert_eq!(error, ProxySettingsError::NotAProxy { variable }, "{bad}");
                assert!(!error.to_string().contains("secret"));
            }
        }
    }

    #[tokio::test]
    async fn credentials_are_decoded_and_shown_nowhere() {
        let settings = settings(&[("HTTPS_PROXY", "http://us%40er:p%3Ass@p:3128")]).unwrap();
        let proxy = settings.for_target(&Target::new("hub", 1)).unwrap();
        let expected = format!("Basic {}", BASE64.encode(b"us@er:p:ss"));
        assert_eq!(proxy.authorization().await.unwrap(), Some(expected));
        for shown in [format!("{proxy}"), format!("{proxy:?}"), format!("{settings:?}")] {
            assert!(!shown.contains("us%40") && !shown.contains("ss"), "{shown}");
        }
    }

    #[tokio::test]
    async fn credentials_in_files_win_and_are_read_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let files = ProxyFiles { credentials: Some(folder.path().to_owned()), ..ProxyFiles::default() };
        let variable = |name: &str| (name == "HTTPS_PROXY").then(|| "http://old:old@p:3128".to_owned());
        let settings = ProxySettings::read(variable, files).unwrap();
        let proxy = settings.for_target(&Target::new("hub", 1)).unwrap();
        assert!(proxy.authorization().await.unwrap_err().contains("username"));
        std::fs::write(folder.path().join("username"), "new\n").unwrap();
        std::fs::write(folder.path().join("password"), "p ss\n").unwrap();
        assert_eq!(proxy.authorization().await.unwrap(), Some(format!("Basic {}", BASE64.encode(b"new:p ss"))));
    }
}
