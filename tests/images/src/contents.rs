//! The files of an image, in a folder that its recipe copies.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use kubenova_env::servers::{self, Servers};

use crate::{Image, output_of};

/// The certificates of public CAs, as Debian installs them.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Where charts are in the image; the Operator's settings name it.
const CHARTS: &str = "charts";

/// What was put into an image.
#[derive(Debug, Default)]
pub struct Contents {
    /// The folder that is copied to `/`.
    pub root: PathBuf,
    /// Go programs as they are on this machine.
    pub go_programs: Vec<PathBuf>,
    /// Charts, as folders of the image.
    pub charts: Vec<PathBuf>,
    /// Files of Debian packages.
    pub of_debian: BTreeSet<PathBuf>,
}

/// Fills an empty folder. With a base that has them, shared libraries and certificates are left out.
pub fn prepare(image: Image, root: &Path, has_base: bool) -> Result<Contents> {
    let mut contents = Contents { root: root.to_owned(), ..Contents::default() };
    let program = servers::own_binary(image.program())?;
    let place = format!("usr/local/bin/{}", image.program());
    put(&program, &root.join(&place))?;
    // Symbols of debug builds are ten times the program.
    output_of(Command::new("strip").arg("--strip-all").arg(root.join(&place)))?;
    if image == Image::Operator {
        let servers = Servers::find()?;
        let helm = servers.binary("helm")?;
        put(&helm, &root.join("usr/local/bin/helm"))?;
        contents.go_programs.push(helm);
        let proxy = std::env::var_os("KUBENOVA_CAPSULE_PROXY_CHART").map(PathBuf::from);
        let charts = [
            ("capsule", Some(servers.chart("capsule")?)),
            ("kubevela", Some(servers.chart("vela-core")?)),
            ("capsule-proxy", proxy),
        ];
        for (name, from) in charts {
            let Some(from) = from else { continue };
            let to = root.join(CHARTS).join(name);
            copy_folder(&from, &to)?;
            contents.charts.push(to);
        }
    }
    if !has_base {
        for library in libraries(&program)? {
            put(&library.canonicalize()?, &root.join(library.strip_prefix("/").unwrap_or(&library)))?;
            contents.of_debian.insert(library);
        }
        put(Path::new(CERTIFICATES), &root.join(&CERTIFICATES[1..]))?;
        write(&root.join("etc/passwd"), "kubenova:x:65532:65532::/tmp:/nonexistent\n")?;
        write(&root.join("etc/group"), "kubenova:x:65532:\n")?;
        write(&root.join("etc/nsswitch.conf"), "hosts: files dns\n")?;
    }
    // Where volumes are mounted on a read-only root.
    for folder in ["tmp", "run/kubenova", "etc/kubenova"] {
        fs::create_dir_all(root.join(folder)).with_context(|| format!("could not make {folder}"))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    Ok(contents)
}

/// The shared libraries of a program with its loader, where it expects them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = output_of(Command::new("ldd").arg(program))?;
    let paths: Vec<PathBuf> = listed.lines().filter_map(library).collect();
    if paths.is_empty() {
        bail!("ldd names no library of {}: {listed}", program.display());
    }
    Ok(paths)
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, or the loader without an arrow; the kernel's own has no file.
fn library(line: &str) -> Option<PathBuf> {
    let path = line.split_once("=>").map_or(line, |(_, path)| path).trim();
    let path = path.split(" (").next()?.trim();
    path.starts_with('/').then(|| PathBuf::from(path))
}

fn put(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    }
    fs::copy(from, to).map(drop).with_context(|| format!("could not copy {} to {}", from.display(), to.display()))
}

fn write(to: &Path, text: &str) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    }
    fs::write(to, text).with_context(|| format!("could not write {}", to.display()))
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("could not read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            put(&entry.path(), &target)?;
            // Files of Go's module cache may be read by their owner alone.
            fs::set_permissions(&target, fs::Permissions::from_mode(0o644))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        let path = |line: &str| library(line).map(|path| path.display().to_string());
        assert_eq!(path("\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)").as_deref(), Some("/lib/x/libc.so.6"));
        assert_eq!(path("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)").as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(path("\tlinux-vdso.so.1 (0x00007ffd)"), None);
        assert_eq!(path("\tstatically linked"), None);
    }
}
