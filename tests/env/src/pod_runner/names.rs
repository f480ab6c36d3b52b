//! Names of Services, as a cluster's DNS would have them: lines in the hosts file of every pod.
//!
//! Guarantees: `<service>.<namespace>.svc` is the address of a pod that the Service selects, once one runs. The file is written in place,
//! because it is bound into the roots of pods. Must not: play a proxy; ports are those of the pod.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use futures::stream::SelectAll;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::watcher::Event;
use kube::{Api, ResourceExt as _};
use tokio::sync::watch;

use super::{NAMESPACES, Shared, events_of, pod};

/// The file, and what is in it.
#[derive(Debug)]
pub(super) struct HostsFile {
    file: File,
    /// The names that the sandbox has.
    first: String,
    text: String,
}

impl HostsFile {
    /// With the names that every process of the sandbox knows.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let first = std::fs::read_to_string("/etc/hosts").context("could not read the sandbox's names")?;
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(path);
        let file = file.with_context(|| format!("could not write {}", path.display()))?;
        let mut hosts = Self { file, first, text: String::new() };
        hosts.write("")?;
        Ok(hosts)
    }

    /// Puts these lines behind the first ones. Whoever reads meanwhile sees the first ones in any case.
    fn write(&mut self, lines: &str) -> Result<()> {
        let text = format!("{}{lines}", self.first);
        if text != self.text {
            self.file.write_all_at(text.as_bytes(), 0).context("could not write names")?;
            self.file.set_len(text.len() as u64).context("could not write names")?;
            self.text = text;
        }
        Ok(())
    }
}

/// Keeps the file as Services and pods are.
pub(super) async fn keep(mut hosts: HostsFile, shared: Arc<Shared>, listing: watch::Receiver<u64>) -> Result<()> {
    let mut events = SelectAll::new();
    for namespace in NAMESPACES {
        let api: Api<Service> = Api::namespaced(shared.client.clone(), namespace);
        events.push(events_of(api, listing.clone()).boxed());
    }
    let mut services = BTreeMap::new();
    loop {
        tokio::select! {
            event = events.next() => match event.context("the watch of services ended")? {
                Event::Apply(service) | Event::InitApply(service) => drop(services.insert(key(&service), service)),
                Event::Delete(service) => drop(services.remove(&key(&service))),
                Event::Init | Event::InitDone => {}
            },
            // Pods come and go meanwhile.
            () = tokio::time::sleep(pod::RETRY) => {}
        }
        let lines: String = services.values().filter_map(|service| line(service, &shared)).collect();
        hosts.write(&lines)?;
    }
}

fn key(service: &Service) -> (String, String) {
    (service.namespace().unwrap_or_default(), service.name_any())
}

fn line(service: &Service, shared: &Shared) -> Option<String> {
    let (namespace, name) = key(service);
    let selector = service.spec.as_ref()?.selector.as_ref().filter(|selector| !selector.is_empty())?;
    let pods = shared.pods.lock().unwrap_or_else(PoisonError::into_inner);
    let is_selected = |pod: &&pod::PodHandle| {
        pod.namespace() == namespace && selector.iter().all(|(name, value)| pod.has_label(&format!("{name}={value}")))
    };
    let address = pods.values().find(is_selected)?.address();
    Some(format!("{address} {name}.{namespace}.svc {name}.{namespace}.svc.cluster.local\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_stays_the_same_one_whatever_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        let mut hosts = HostsFile::create(&path).unwrap();
        let mut bound = File::open(&path).unwrap();
        let first = hosts.first.clone();
        for lines in ["10.0.0.1 a.b.svc\n10.0.0.2 c.d.svc\n", "10.0.0.2 c.d.svc\n", ""] {
            hosts.write(lines).unwrap();
            let mut read = String::new();
            std::io::Seek::rewind(&mut bound).unwrap();
            std::io::Read::read_to_string(&mut bound, &mut read).unwrap();
            assert_eq!(read, format!("{first}{lines}"));
        }
    }
}
