//! From a recipe and a folder to an OCI layout, by buildah.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{Image, VERSION, bill, contents, output_of};

/// How images are built.
#[derive(Clone, Debug)]
pub struct Options {
    /// The root of the checkout.
    pub repository: PathBuf,
    /// Where contexts, storage and layouts go.
    pub folder: PathBuf,
    /// An image with glibc and certificates; none: `scratch`, with both from this machine.
    pub base: Option<String>,
}

/// Writes the folder that the recipe copies, with the bill of materials; returns the context.
pub fn context(image: Image, options: &Options) -> Result<PathBuf> {
    let context = options.folder.join(image.name());
    if context.exists() {
        fs::remove_dir_all(&context).with_context(|| format!("could not remove {}", context.display()))?;
    }
    let contents = contents::prepare(image, &context.join("root"), options.base.is_some())?;
    let bill = bill::of(image, &contents, &options.repository)?;
    let place = contents.root.join(bill::PLACE);
    fs::create_dir_all(place.parent().context("the bill is in a folder")?)?;
    fs::write(&place, &bill).with_context(|| format!("could not write {}", place.display()))?;
    let beside = options.folder.join(format!("{}.cdx.json", image.name()));
    fs::write(&beside, &bill).with_context(|| format!("could not write {}", beside.display()))?;
    Ok(context)
}

/// Builds an image, and returns its OCI layout.
pub fn build(image: Image, options: &Options) -> Result<PathBuf> {
    let context = context(image, options)?;
    let recipe = options.repository.join(format!("deploy/images/{}.Containerfile", image.name()));
    let (layout, tag) =
        (options.folder.join(format!("{}.oci", image.name())), format!("kubenova/{}:{VERSION}", image.name()));
    if layout.exists() {
        fs::remove_dir_all(&layout).with_context(|| format!("could not remove {}", layout.display()))?;
    }
    let mut command = buildah(options);
    // Neither an engine nor a network: no step of a recipe runs anything.
    command
        .args(["build", "--isolation", "chroot", "--layers=false", "--timestamp", "0", "--tag", &tag, "--file"])
        .arg(&recipe);
    if let Some(base) = &options.base {
        command.args(["--build-arg", &format!("BASE={base}")]);
    }
    output_of(command.arg(&context))?;
    output_of(buildah(options).args(["push", &tag]).arg(format!("oci:{}:{VERSION}", layout.display())))?;
    Ok(layout)
}

/// buildah with a storage of its own, so that nothing of the machine is touched.
fn buildah(options: &Options) -> Command {
    let mut command = Command::new("buildah");
    command.args(["--storage-driver", "vfs", "--root"]).arg(storage(&options.folder, "storage"));
    command.arg("--runroot").arg(storage(&options.folder, "run"));
    command
}

fn storage(folder: &Path, name: &str) -> PathBuf {
    folder.join(".buildah").join(name)
}
