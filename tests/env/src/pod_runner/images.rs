//! Which image is which program: repository → entry point and read-only binds.
//!
//! Guarantees: the same paths as in the real image, so that what runs here runs there.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::servers::{self, Servers};

/// An image as this machine can run it.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// What runs when the pod names no command.
    pub(crate) entrypoint: Vec<String>,
    /// Host path → path in the root, read-only.
    pub(crate) binds: Vec<(PathBuf, PathBuf)>,
}

/// The table.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    servers: Servers,
}

impl Images {
    pub(crate) fn new(servers: &Servers) -> Self {
        Self { servers: servers.clone() }
    }

    /// The image for a reference, `None` when nothing here plays it.
    pub(crate) fn find(&self, reference: &str) -> Result<Option<Image>> {
        if is_missing(reference) {
            return Ok(None);
        }
        Ok(Some(match short_name(reference) {
            "projectcapsule/capsule" => self.single("capsule")?,
            "oamdev/vela-core" => self.single("vela-core")?,
            "projectcapsule/capsule-proxy" => match std::env::var_os("KUBENOVA_CAPSULE_PROXY_BIN") {
                Some(program) => single_at(Path::new(&program), "capsule-proxy"),
                None => return Ok(None),
            },
            "kubenova/operator" => self.operator()?,
            "nats" | "library/nats" => self.in_usr_local_bin("nats-server")?,
            "natsio/nats-server-config-reloader" => self.in_usr_local_bin("nats-server-config-reloader")?,
            _ => return Ok(None),
        }))
    }

    /// A static binary and nothing else.
    fn single(&self, name: &str) -> Result<Image> {
        Ok(single_at(&self.servers.binary(name)?, name))
    }

    /// A static binary where images put programs that were not there before.
    fn in_usr_local_bin(&self, name: &str) -> Result<Image> {
        let inside = format!("/usr/local/bin/{name}");
        let binds = vec![(self.servers.binary(name)?, PathBuf::from(&inside))];
        Ok(Image { entrypoint: vec![inside], binds })
    }

    /// Dynamically linked, with helm and the charts.
    fn operator(&self) -> Result<Image> {
        let program = "/usr/local/bin/kubenova-operator";
        let mut binds = vec![
            (servers::own_binary("kubenova-operator")?, program.into()),
            (self.servers.binary("helm")?, "/usr/local/bin/helm".into()),
            (self.servers.chart("capsule")?, "/charts/capsule".into()),
            (self.servers.chart("vela-core")?, "/charts/kubevela".into()),
        ];
        if let Some(chart) = std::env::var_os("KUBENOVA_CAPSULE_PROXY_CHART") {
            binds.push((chart.into(), "/charts/capsule-proxy".into()));
        }
        let from_host = ["/lib", "/lib64", "/usr/lib", "/etc/ssl"].map(PathBuf::from);
        binds.extend(from_host.into_iter().filter(|path| path.exists()).map(|path| (path.clone(), path)));
        Ok(Image { entrypoint: vec![program.to_owned()], binds })
    }
}

fn single_at(program: &Path, name: &str) -> Image {
    let inside = format!("/{name}");
    Image { entrypoint: vec![inside.clone()], binds: vec![(program.to_owned(), inside.into())] }
}

/// No image has a digest of zeros.
fn is_missing(reference: &str) -> bool {
    let digest = reference.split_once("@sha256:").map(|(_, digest)| digest);
    digest.is_some_and(|digest| digest.len() == 64 && digest.bytes().all(|byte| byte == b'0'))
}

/// The last two parts of a reference: `mirror.example:5000/a/projectcapsule/capsule:v1@sha256:…` →
/// `projectcapsule/capsule`. Which registry or mirror it names changes nothing here.
pub(crate) fn short_name(reference: &str) -> &str {
    let without_digest = reference.split('@').next().unwrap_or(reference);
    let name_start = without_digest.rfind('/').map_or(0, |slash| slash + 1);
    let end = without_digest[name_start..].find(':').map_or(without_digest.len(), |colon| name_start + colon);
    let path = &without_digest[..end];
    let start = path.rmatch_indices('/').nth(1).map_or(0, |(slash, _)| slash + 1);
    &path[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_tag_and_digest_do_not_matter() {
        for reference in [
            "projectcapsule/capsule",
            "projectcapsule/capsule:v1",
            "registry.example/projectcapsule/capsule:v0.14.0",
            "localhost:5000/projectcapsule/capsule@sha256:00",
            "registry.example/projectcapsule/capsule:v1@sha256:00",
            "mirror.example/deep/down/projectcapsule/capsule:v1",
        ] {
            assert_eq!(short_name(reference), "projectcapsule/capsule", "{reference}");
        }
        assert_eq!(short_name("busybox:1"), "busybox");
    }

    #[test]
    fn no_image_has_a_digest_of_zeros() {
        let of = |digest: &str| format!("registry.example/projectcapsule/capsule@sha256:{digest}");
        assert!(is_missing(&of(&"0".repeat(64))));
        assert!(!is_missing(&of(&"0a".repeat(32))) && !is_missing("projectcapsule/capsule:v1"));
    }
}
