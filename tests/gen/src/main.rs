//! `cargo dev gen`: writes the derived files. `--check` writes nothing and fails when one is stale.
//!
//! Reads the types, writes into the repository; `tests/gen/tests/fresh.rs` runs the check in every `cargo dev test`.

use anyhow::{Context as _, bail};
use std::{fs, path::PathBuf};

fn main() -> anyhow::Result<()> {
    let check = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => bail!("unknown argument \"{other}\": run without one to write, or with --check to compare"),
    };
    let root = kubenova_gen::repository_root();
    let mut stale: Vec<PathBuf> = Vec::new();
    for file in kubenova_gen::derived_files()? {
        let path = root.join(&file.path);
        let present = fs::read_to_string(&path).unwrap_or_default();
        if present == file.content {
            continue;
        }
        stale.push(file.path.clone());
        if !check {
            let folder = path.parent().context("a derived file has a folder")?;
            fs::create_dir_all(folder).with_context(|| format!("could not make folder \"{}\"", folder.display()))?;
            fs::write(&path, file.content).with_context(|| format!("could not write \"{}\"", path.display()))?;
            eprintln!("wrote {}", file.path.display());
        }
    }
    if check && !stale.is_empty() {
        bail!("stale derived files, run `cargo dev gen`: {stale:?}");
    }
    Ok(())
}
