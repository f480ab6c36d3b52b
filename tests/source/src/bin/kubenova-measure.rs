//! `cargo dev measure`: prints the table of `docs/development.md`; `--write` replaces it there.

use std::io::Write as _;

use anyhow::{Context as _, bail};

/// What stands before and after the table.
const MARKER: &str = "<!-- measure -->\n";

fn main() -> anyhow::Result<()> {
    let write = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--write") => true,
        Some(other) => bail!("unknown argument \"{other}\": run without one to print, or with --write to write"),
    };
    let table = kubenova_source::measure::table(&kubenova_source::workspace::packages()?)?;
    if !write {
        return std::io::stdout().write_all(table.as_bytes()).context("could not print the table");
    }
    let path = kubenova_source::repository_root().join("docs/development.md");
    let text = std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let parts: Vec<&str> = text.split(MARKER).collect();
    let [before, _, after] = parts.as_slice() else {
        bail!("{} must hold two lines {MARKER:?}", path.display());
    };
    let text = format!("{before}{MARKER}{table}{MARKER}{after}");
    std::fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))
}
