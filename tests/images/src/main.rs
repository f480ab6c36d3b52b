//! `cargo dev images`: builds the images of Operator and Manager from release builds.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use kubenova_env::repository;
use kubenova_images::{Image, build};

/// Builds the images of Operator and Manager as OCI layouts.
#[derive(Parser)]
#[command(name = "cargo dev images --")]
struct Arguments {
    /// Image with glibc and CA certificates; without one they come from this machine's packages.
    #[arg(long)]
    base: Option<String>,
    /// Writes the folders that the recipes copy, for another builder.
    #[arg(long)]
    contexts_only: bool,
    /// Where they go.
    #[arg(long, default_value = "images")]
    out: PathBuf,
}

fn main() -> Result<()> {
    let Arguments { base, contexts_only, out } = Arguments::parse();
    std::fs::create_dir_all(&out)?;
    let options = build::Options { repository: repository::root()?, folder: out.canonicalize()?, base };
    for image in Image::ALL {
        let made = if contexts_only { build::context(image, &options)? } else { build::build(image, &options)? };
        eprintln!("kubenova/{}: {}", image.name(), made.display());
    }
    Ok(())
}
