//! The API that a campaign calls: `kubenova-clients` of `tests/clients`, on a database of its own.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::executables::clear_cargo_variables;
use crate::places::Places;
use crate::process::{self, Running, create_log};

/// Starting PostgreSQL and making the objects takes two seconds; a loaded machine needs more.
const START_MAX: Duration = Duration::from_secs(90);
/// Pause between two looks at what it has printed.
const LOOK: Duration = Duration::from_millis(50);

/// What it prints when it serves.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Served {
    /// Without a slash at the end.
    pub(crate) url: String,
    /// By role.
    tokens: std::collections::BTreeMap<String, String>,
    /// A cluster that is enrolled.
    pub(crate) cluster: String,
}

impl Served {
    /// The token of a caller with this role.
    pub(crate) fn token(&self, role: &str) -> Result<&str> {
        self.tokens.get(role).map(String::as_str).with_context(|| format!("the server has no token of role {role}"))
    }
}

/// A server that runs until it is dropped.
pub(crate) struct Server {
    _running: Running,
    pub(crate) served: Served,
}

impl Server {
    /// Starts one and waits until it serves; `name` names its logs.
    pub(crate) fn start(places: &Places, logs: &Path, name: &str) -> Result<Self> {
        let program = places.target.join("debug/kubenova-clients");
        ensure!(program.is_file(), "{} was not built; it is the binary of tests/clients", program.display());
        let (printed, log) = (logs.join(format!("{name}.json")), logs.join(format!("{name}.log")));
        let output: File = create_log(&printed)?;
        let mut command = Command::new(program);
        clear_cargo_variables(&mut command);
        let mut running = Running::start(command.stdout(output).stderr(create_log(&log)?))?;
        let started = Instant::now();
        loop {
            let text = std::fs::read_to_string(&printed).context("could not read what the server printed")?;
            if let Some(served) = line(&text)? {
                return Ok(Self { _running: running, served });
            }
            if let Some(status) = running.ended()? {
                bail!("the server ended with {}; see {}", process::ending(status), log.display());
            }
            ensure!(!process::stopping(), "stopped");
            ensure!(
                started.elapsed() < START_MAX,
                "the server does not serve after {START_MAX:?}; see {}",
                log.display()
            );
            std::thread::sleep(LOOK);
        }
    }
}

/// The line that says where it serves, once it is whole.
fn line(text: &str) -> Result<Option<Served>> {
    let Some((line, _)) = text.split_once('\n') else { return Ok(None) };
    serde_json::from_str(line).map(Some).with_context(|| format!("could not understand the server's line {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_once_it_is_whole() {
        let whole = r#"{"url":"http://127.0.0.1:1","tokens":{"admin":"knt_x"},"tenant":"acme","cluster":"west"}"#;
        assert_eq!(line(whole).unwrap(), None);
        let served = line(&format!("{whole}\n")).unwrap().unwrap();
        assert_eq!((served.url.as_str(), served.token("admin").unwrap()), ("http://127.0.0.1:1", "knt_x"));
        assert!(served.token("missing").is_err() && line("{}\n").is_err());
    }
}
