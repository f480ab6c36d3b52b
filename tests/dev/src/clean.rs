//! `cargo dev clean`: removes what the cache holds, and nothing that it does not know.

use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::places::Places;
use crate::progress::{print, say};

/// `cargo dev clean`.
pub(crate) fn command(places: &Places, yes: bool) -> Result<ExitCode> {
    let folders = known(places);
    if folders.is_empty() {
        print(format!("{} holds nothing of ours", places.cache.display()));
        return Ok(ExitCode::SUCCESS);
    }
    for folder in &folders {
        print(format!("  {:>7} MiB  {}", size(folder) >> 20, folder.display()));
    }
    refuse_while_building(&places.servers())?;
    if !yes && !confirmed()? {
        print("nothing was removed");
        return Ok(ExitCode::FAILURE);
    }
    for folder in &folders {
        std::fs::remove_dir_all(folder).with_context(|| format!("could not remove {}", folder.display()))?;
    }
    print("removed; the next run builds again");
    Ok(ExitCode::SUCCESS)
}

/// The folders that this program makes, as far as they are there. A target folder outside
/// the cache is the user's own.
fn known(places: &Places) -> Vec<PathBuf> {
    let mut folders = vec![places.sets(), places.servers(), places.helpers(), places.campaigns(), places.logs()];
    if places.target.starts_with(&places.cache) && places.target != places.cache {
        folders.push(places.target.clone());
    }
    folders.retain(|folder| folder.is_dir());
    folders
}

fn confirmed() -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("standard input is no terminal to confirm on; type `cargo dev clean --yes`");
    }
    print("remove all of it? type `yes`:");
    std::io::stdout().flush().context("could not ask")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("could not read the answer")?;
    Ok(answer.trim() == "yes")
}

fn refuse_while_building(servers: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(servers) else {
        return Ok(());
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_lock = path.extension().is_some_and(|extension| extension == "lock");
        if is_lock && File::open(&path).is_ok_and(|file| file.try_lock().is_err()) {
            bail!("another run is building {}; wait for it or stop it", path.display());
        }
    }
    Ok(())
}

fn size(path: &Path) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else {
        say(&format!("could not read {}", path.display()));
        return 0;
    };
    if !metadata.is_dir() {
        return metadata.len();
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| size(&entry.path())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_folders_of_the_cache_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let cache = root.path().join("cache");
        let places = Places { repository: root.path().into(), target: root.path().join("elsewhere"), cache };
        for folder in [places.servers(), places.target.clone(), places.cache.join("theirs")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        assert_eq!(known(&places), [places.servers()]);
        command(&places, true).unwrap();
        assert!(places.target.is_dir() && places.cache.join("theirs").is_dir() && !places.servers().exists());
    }
}
