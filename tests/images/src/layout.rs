//! Reading an OCI layout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::output_of;

/// An image in a layout.
#[derive(Debug)]
pub struct Layout {
    folder: PathBuf,
    manifest: Value,
    /// User, entry point and variables: the part `config` of the image's configuration.
    pub config: Value,
}

impl Layout {
    /// The one image of a layout.
    pub fn open(folder: &Path) -> Result<Self> {
        let index = read(&folder.join("index.json"))?;
        let images = index["manifests"].as_array().context("an index has manifests")?;
        ensure!(images.len() == 1, "{} has {} images", folder.display(), images.len());
        let manifest = read(&blob(folder, &images[0])?)?;
        let config = read(&blob(folder, &manifest["config"])?)?["config"].clone();
        Ok(Self { folder: folder.to_owned(), manifest, config })
    }

    /// Writes the files of all layers to a folder.
    pub fn unpack(&self, to: &Path) -> Result<()> {
        fs::create_dir_all(to).with_context(|| format!("could not make {}", to.display()))?;
        for layer in self.manifest["layers"].as_array().context("a manifest has layers")? {
            let layer = blob(&self.folder, layer)?;
            output_of(Command::new("tar").arg("--extract").arg("--file").arg(layer).arg("--directory").arg(to))?;
        }
        Ok(())
    }
}

fn blob(folder: &Path, descriptor: &Value) -> Result<PathBuf> {
    let digest = descriptor["digest"].as_str().context("a descriptor has a digest")?;
    Ok(folder.join("blobs").join(digest.replace(':', "/")))
}

fn read(file: &Path) -> Result<Value> {
    let text = fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))
}
