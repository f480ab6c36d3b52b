//! Which failpoints were hit: what the processes said in their logs before they aborted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use kubenova_scenarios::failpoints::SAID;

use crate::fault::{FAULTS, Fault};

/// The field of the log line that names the point.
const FIELD: &str = "\"failpoint\":\"";

/// Every failpoint of the list, with how often it was hit, as the logs below these folders say.
pub(crate) fn count(folders: &[&Path]) -> Result<BTreeMap<String, u64>> {
    let mut hits: BTreeMap<String, u64> = FAULTS
        .iter()
        .filter_map(|entry| match entry.fault {
            Fault::ManagerDiesAt(point) | Fault::OperatorDiesAt(point) => Some((point.to_owned(), 0)),
            _ => None,
        })
        .collect();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| folder.to_path_buf()).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("could not list {}", folder.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if name == "manager.log" || name == "operator.log" {
                let log = fs::read(entry.path())?;
                points(&String::from_utf8_lossy(&log)).for_each(|point| *hits.entry(point).or_default() += 1);
            }
        }
    }
    Ok(hits)
}

fn points(log: &str) -> impl Iterator<Item = String> {
    let said = log.lines().filter(|line| line.contains(SAID));
    said.filter_map(|line| Some(line.split_once(FIELD)?.1.split('"').next()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_read_from_the_logs_of_a_run() {
        let folder = std::env::temp_dir().join(format!("kubenova-campaign-{}", std::process::id()));
        fs::create_dir_all(folder.join("real/pods/operator-1")).unwrap();
        let line = |point: &str| format!("{{\"level\":\"WARN\",\"message\":\"{SAID}\",\"failpoint\":\"{point}\"}}\n");
        fs::write(folder.join("manager.log"), line("relay.published").repeat(2)).unwrap();
        fs::write(folder.join("real/pods/operator-1/operator.log"), line("inbound.stored") + "other\n").unwrap();
        let hits = count(&[&folder]).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!((hits["relay.published"], hits["inbound.stored"], hits["relay.marked-sent"]), (2, 1, 0));
    }
}
