//! `openapi`: prints the OpenAPI document of the REST API; needs no database.

use anyhow::{Context as _, Result};
use std::{io::Write as _, path::PathBuf};

/// Arguments of `openapi`.
#[derive(Debug, clap::Args)]
pub struct Openapi {
    /// Write it to this file instead of standard output.
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Openapi {
    pub(super) fn run(self) -> Result<()> {
        let text = kubenova_api::router::openapi();
        match self.out {
            Some(path) => std::fs::write(&path, text).with_context(|| format!("could not write {}", path.display())),
            None => std::io::stdout().write_all(text.as_bytes()).context("could not print the document"),
        }
    }
}
