//! A pod's volumes as folders in memory.
//!
//! Guarantees: contents change as a kubelet changes them, a new folder and one renamed link
//! (`..data`), so that programs that watch files see whole sets only; tokens are fresh ones of the
//! pod's own ServiceAccount, renewed at 80 % of their life.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapProjection, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, SecretProjection, ServiceAccount,
    ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

/// What a token lives when the projection does not say.
const TOKEN_SECONDS: i64 = 3600;

/// One file: where in the volume, what, and its mode.
type Files = BTreeMap<String, (Vec<u8>, u32)>;

/// A pod's volumes on this machine.
#[derive(Debug)]
pub(crate) struct Volumes {
    folder: PathBuf,
    tokens: BTreeMap<String, (String, Instant)>,
    written: BTreeMap<String, Files>,
    version: u64,
}

impl Volumes {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, tokens: BTreeMap::new(), written: BTreeMap::new(), version: 0 }
    }

    /// The folder of a volume.
    pub(crate) fn path(&self, volume: &str) -> PathBuf {
        self.folder.join(volume)
    }

    /// When the next token wants to be renewed.
    pub(crate) fn next_renewal(&self) -> Option<Instant> {
        self.tokens.values().map(|(_, renew_at)| *renew_at).min()
    }

    /// Brings every volume up to date; writes only what changed.
    pub(crate) async fn sync(&mut self, client: &Client, pod: &Pod, address: &str) -> Result<()> {
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.clone()).unwrap_or_default();
        for volume in volumes {
            let folder = self.path(&volume.name);
            fs::create_dir_all(&folder).context("could not make a volume's folder")?;
            let files = self
                .files(client, pod, &volume, address)
                .await
                .with_context(|| format!("could not set up volume {:?}", volume.name))?;
            let Some(files) = files else { continue };
            if self.written.get(&volume.name) != Some(&files) {
                self.version += 1;
                write(&folder, &files, self.version)?;
                self.written.insert(volume.name, files);
            }
        }
        Ok(())
    }

    /// The files of a volume; `None` for one that starts empty.
    async fn files(&mut self, client: &Client, pod: &Pod, volume: &Volume, address: &str) -> Result<Option<Files>> {
        let namespace = pod.namespace().unwrap_or_default();
        let mut files = Files::new();
        if volume.empty_dir.is_some() {
            return Ok(None);
        } else if let Some(source) = &volume.secret {
            let name = source.secret_name.as_deref().unwrap_or_default();
            let data = secret(client, &namespace, name, source.optional).await?;
            pick(&mut files, data, source.items.as_ref(), source.optional, mode(source.default_mode))?;
        } else if let Some(source) = &volume.config_map {
            let data = config_map(client, &namespace, &source.name, source.optional).await?;
            pick(&mut files, data, source.items.as_ref(), source.optional, mode(source.default_mode))?;
        } else if let Some(source) = &volume.downward_api {
            downward(&mut files, pod, source.items.as_deref(), address, mode(source.default_mode))?;
        } else if let Some(source) = &volume.projected {
            let mode = mode(source.default_mode);
            for projection in source.sources.iter().flatten() {
                self.project(&mut files, client, pod, projection, address, mode).await?;
            }
        } else {
            bail!("a kind of volume this runner does not know");
        }
        Ok(Some(files))
    }

    async fn project(
        &mut self,
        files: &mut Files,
        client: &Client,
        pod: &Pod,
        projection: &VolumeProjection,
        address: &str,
        mode: u32,
    ) -> Result<()> {
        let namespace = pod.namespace().unwrap_or_default();
        if let Some(token) = &projection.service_account_token {
            let text = self.token(client, pod, token).await?;
            files.insert(token.path.clone(), (text.into_bytes(), mode));
        }
        if let Some(SecretProjection { name, optional, items }) = &projection.secret {
            pick(files, secret(client, &namespace, name, *optional).await?, items.as_ref(), *optional, mode)?;
        }
        if let Some(ConfigMapProjection { name, optional, items }) = &projection.config_map {
            pick(files, config_map(client, &namespace, name, *optional).await?, items.as_ref(), *optional, mode)?;
        }
        if let Some(source) = &projection.downward_api {
            downward(files, pod, source.items.as_deref(), address, mode)?;
        }
        Ok(())
    }

    /// A token for the pod, asked for only when the last one grows old.
    async fn token(&mut self, client: &Client, pod: &Pod, wanted: &ServiceAccountTokenProjection) -> Result<String> {
        if let Some((token, renew_at)) = self.tokens.get(&wanted.path)
            && Instant::now() < *renew_at
        {
            return Ok(token.clone());
        }
        let namespace = pod.namespace().unwrap_or_default();
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let seconds = wanted.expiration_seconds.unwrap_or(TOKEN_SECONDS);
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": wanted.audience.iter().collect::<Vec<_>>(),
                "expirationSeconds": seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "uid": pod.uid()},
            },
        });
        let api: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
        let answer: TokenRequest = api
            .create_subresource("token", account, &PostParams::default(), &request)
            .await
            .with_context(|| format!("could not get a token for service account {account:?}"))?;
        let token = answer.status.and_then(|status| status.token).context("an answer without a token")?;
        let life = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)) * 4 / 5;
        self.tokens.insert(wanted.path.clone(), (token.clone(), Instant::now() + life));
        Ok(token)
    }
}

/// Writes a set of files the way a kubelet does.
fn write(folder: &Path, files: &Files, version: u64) -> Result<()> {
    let version = format!("..v{version}");
    let set = folder.join(&version);
    for (name, (contents, mode)) in files {
        let path = set.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&set)).context("could not make a volume's folder")?;
        fs::write(&path, contents).with_context(|| format!("could not write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).context("could not set a file's mode")?;
    }
    fs::create_dir_all(&set).context("could not make a volume's folder")?;
    let current = folder.join("..data");
    let before = fs::read_link(&current).ok();
    let next = folder.join("..data_next");
    symlink(&version, &next).context("could not make a volume's link")?;
    fs::rename(&next, &current).context("could not switch a volume to its new contents")?;
    for top in files.keys().filter_map(|name| name.split('/').next()) {
        let link = folder.join(top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(top), &link).context("could not make a file's link")?;
        }
    }
    for entry in fs::read_dir(folder).context("could not list a volume")?.flatten() {
        let path = entry.path();
        // A link to a file that is no more; `..data` itself leads somewhere.
        if fs::symlink_metadata(&path).is_ok_and(|link| link.is_symlink()) && !path.exists() {
            let _ = fs::remove_file(path);
        }
    }
    if let Some(before) = before {
        let _ = fs::remove_dir_all(folder.join(before));
    }
    Ok(())
}

fn mode(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644)
}

/// Takes the wanted keys, or all.
fn pick(
    files: &mut Files,
    data: BTreeMap<String, Vec<u8>>,
    items: Option<&Vec<KeyToPath>>,
    optional: Option<bool>,
    mode: u32,
) -> Result<()> {
    let Some(items) = items else {
        files.extend(data.into_iter().map(|(key, value)| (key, (value, mode))));
        return Ok(());
    };
    for item in items {
        let Some(value) = data.get(&item.key) else {
            if optional == Some(true) {
                continue;
            }
            bail!("no key {:?}", item.key);
        };
        let mode = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(mode);
        files.insert(item.path.clone(), (value.clone(), mode));
    }
    Ok(())
}

pub(crate) async fn secret(
    client: &Client,
    namespace: &str,
    name: &str,
    optional: Option<bool>,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    match api.get_opt(name).await.with_context(|| format!("could not read secret {name:?}"))? {
        Some(secret) => Ok(secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()),
        None if optional == Some(true) => Ok(BTreeMap::new()),
        None => bail!("secret {name:?} not found"),
    }
}

pub(crate) async fn config_map(
    client: &Client,
    namespace: &str,
    name: &str,
    optional: Option<bool>,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    match api.get_opt(name).await.with_context(|| format!("could not read config map {name:?}"))? {
        Some(map) => {
            let text = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
            let bytes = map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
            Ok(text.chain(bytes).collect())
        }
        None if optional == Some(true) => Ok(BTreeMap::new()),
        None => bail!("config map {name:?} not found"),
    }
}

fn downward(
    files: &mut Files,
    pod: &Pod,
    items: Option<&[DownwardAPIVolumeFile]>,
    address: &str,
    mode: u32,
) -> Result<()> {
    for item in items.into_iter().flatten() {
        let reference = item.field_ref.as_ref().context("only fields of the pod can be projected here")?;
        let value = field(pod, &reference.field_path, address)?;
        files.insert(item.path.clone(), (value.into_bytes(), mode));
    }
    Ok(())
}

/// A field of a pod, as `fieldRef` names it.
pub(crate) fn field(pod: &Pod, path: &str, address: &str) -> Result<String> {
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    if let Some((map, key)) = subscript(path) {
        let values = match map {
            "metadata.labels" => pod.labels(),
            "metadata.annotations" => pod.annotations(),
            _ => bail!("unknown field {path:?}"),
        };
        return Ok(text(values.get(key)));
    }
    Ok(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "metadata.labels" => lines(pod.labels()),
        "metadata.annotations" => lines(pod.annotations()),
        "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "status.podIP" | "status.podIPs" => address.to_owned(),
        "status.hostIP" | "status.hostIPs" => host_of(address),
        _ => bail!("unknown field {path:?}"),
    })
}

/// Every node of a test cluster has the cluster's own address.
fn host_of(address: &str) -> String {
    address.rsplit_once('.').map_or_else(String::new, |(network, _)| format!("{network}.2"))
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

fn lines(values: &BTreeMap<String, String>) -> String {
    values.iter().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(value: &str) -> Files {
        Files::from([("a".to_owned(), (value.as_bytes().to_vec(), 0o600)), ("d/b".to_owned(), (vec![1], 0o644))])
    }

    #[test]
    fn a_set_of_files_is_replaced_as_one() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &files("one"), 1).unwrap();
        write(folder.path(), &files("two"), 2).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("a")).unwrap(), "two");
        assert_eq!(fs::read(folder.path().join("d/b")).unwrap(), [1]);
        assert!(!folder.path().join("..v1").exists());
        write(folder.path(), &Files::new(), 3).unwrap();
        assert!(fs::symlink_metadata(folder.path().join("a")).is_err(), "links of files that are no more go");
        write(folder.path(), &files("two"), 4).unwrap();
        let mode = fs::metadata(folder.path().join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn fields_are_found() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "b"}},
            "spec": {"containers": [], "nodeName": "node-0", "serviceAccountName": "s"},
        }))
        .unwrap();
        let of = |path| field(&pod, path, "10.77.3.11").unwrap();
        assert_eq!(of("metadata.labels['a']"), "b");
        assert_eq!(of("metadata.labels"), "a=\"b\"");
        assert_eq!(of("status.podIP"), "10.77.3.11");
        assert_eq!(of("status.hostIP"), "10.77.3.2");
        assert!(field(&pod, "spec.what", "").is_err());
    }
}
