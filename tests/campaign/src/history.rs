//! What the campaign saw and was promised, one JSON object a line. It is on the disk before the campaign goes on, so that a run
//! that ended badly can be read.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use kubenova_runtime::clock;
use kubenova_scenarios::writers::Accepted;
use serde_json::{Value, json};

/// The file.
#[derive(Debug)]
pub(crate) struct History(File);

impl History {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        Ok(Self(File::create(path).with_context(|| format!("could not create {}", path.display()))?))
    }

    pub(crate) fn note(&mut self, what: &str, details: &Value) -> Result<()> {
        self.write(&[line(what, details)])
    }

    pub(crate) fn accepted(&mut self, writes: &[Accepted]) -> Result<()> {
        let details = writes.iter().map(|write| {
            let Accepted { cluster, application, number, command, may_be_lost } = write;
            json!({
                "cluster": cluster, "application": application, "number": number, "command": command,
                "mayBeLost": may_be_lost,
            })
        });
        self.write(&details.map(|details| line("accepted", &details)).collect::<Vec<_>>())
    }

    fn write(&mut self, lines: &[String]) -> Result<()> {
        let written = self.0.write_all(lines.concat().as_bytes()).and_then(|()| self.0.sync_data());
        written.context("could not write the history")
    }
}

fn line(what: &str, details: &Value) -> String {
    format!("{}\n", json!({ "at": clock::rfc3339_ms(clock::now()), "what": what, "details": details }))
}
