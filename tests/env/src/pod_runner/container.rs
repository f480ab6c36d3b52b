//! The last step into a container: a private root, then the program.
//!
//! The runner starts its helper in new mount, process, name and IPC namespaces; the helper reads a
//! [`Plan`], lays out the root, changes into it and becomes the program. Nothing is left on the
//! host: the root is a tmpfs of the helper's own mount namespace.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};

/// The variable that names the plan's file.
pub(crate) const PLAN: &str = "KUBENOVA_CONTAINER_PLAN";
/// The only devices a server of ours needs.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// What a container is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// An empty folder; the root is mounted on it.
    pub(crate) root: PathBuf,
    /// The pod's name, as the host's name inside.
    pub(crate) hostname: String,
    /// The names that it resolves.
    pub(crate) hosts: PathBuf,
    /// What is bound where.
    pub(crate) binds: Vec<Bind>,
    /// Folders in memory.
    pub(crate) scratch: Vec<PathBuf>,
    /// Whether the root itself may not be written.
    pub(crate) read_only_root: bool,
    /// The whole environment.
    pub(crate) environment: BTreeMap<String, String>,
    /// Where the program starts.
    pub(crate) working_folder: PathBuf,
    /// The program and its arguments.
    pub(crate) words: Vec<String>,
}

/// One bind mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Bind {
    pub(crate) from: PathBuf,
    /// Absolute, inside the root.
    pub(crate) to: PathBuf,
    pub(crate) read_only: bool,
}

/// Never returns when it succeeds.
pub(crate) fn become_container() -> Result<std::convert::Infallible> {
    let file = std::env::var_os(PLAN).with_context(|| format!("{PLAN} is not set"))?;
    let text = fs::read(&file).context("could not read the container's plan")?;
    let plan: Plan = serde_json::from_slice(&text).context("could not understand the container's plan")?;
    lay_out(&plan)?;
    nix::unistd::sethostname(&plan.hostname).context("could not name the container")?;
    nix::unistd::chroot(&plan.root).context("could not change root")?;
    std::env::set_current_dir(&plan.working_folder)
        .with_context(|| format!("no folder {} in the container", plan.working_folder.display()))?;
    let (program, args) = plan.words.split_first().context("the container has no command")?;
    let error = Command::new(program).args(args).env_clear().envs(&plan.environment).exec();
    Err(error).with_context(|| format!("could not start {program:?} in the container"))
}

fn lay_out(plan: &Plan) -> Result<()> {
    let root = &plan.root;
    mount(Some("tmpfs"), root, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=0755"))
        .context("could not mount the root")?;
    for folder in ["proc", "dev", "etc", "tmp"] {
        fs::create_dir_all(root.join(folder)).context("could not make the root's folders")?;
    }
    mount(Some("proc"), &root.join("proc"), Some("proc"), MsFlags::MS_NOSUID, None::<&str>)
        .context("could not mount /proc")?;
    for device in DEVICES {
        bind(root, &Path::new("/dev").join(device), &Path::new("/dev").join(device), false)?;
    }
    bind(root, &plan.hosts, Path::new("/etc/hosts"), true)?;
    for name in ["nsswitch.conf", "host.conf", "resolv.conf"] {
        let path = Path::new("/etc").join(name);
        if path.exists() {
            bind(root, &path, &path, true)?;
        }
    }
    for folder in &plan.scratch {
        let to = inside(root, folder)?;
        fs::create_dir_all(&to).with_context(|| format!("could not make {}", folder.display()))?;
        mount(Some("tmpfs"), &to, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=1777"))
            .with_context(|| format!("could not mount {}", folder.display()))?;
    }
    for one in &plan.binds {
        bind(root, &one.from, &one.to, one.read_only)?;
    }
    if plan.read_only_root {
        let again = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID;
        mount(None::<&str>, root, None::<&str>, again, None::<&str>).context("could not make the root read-only")?;
    }
    Ok(())
}

/// Binds a file or folder; what it is bound on is made first.
fn bind(root: &Path, from: &Path, to: &Path, read_only: bool) -> Result<()> {
    let shown = || format!("could not bind {} to {}", from.display(), to.display());
    let to = inside(root, to)?;
    if fs::metadata(from).with_context(shown)?.is_dir() {
        fs::create_dir_all(&to).with_context(shown)?;
    } else {
        fs::create_dir_all(to.parent().unwrap_or(root)).with_context(shown)?;
        if !to.exists() {
            fs::File::create(&to).with_context(shown)?;
        }
    }
    mount(Some(from), &to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>).with_context(shown)?;
    if read_only {
        // The flags that the source is locked to must be repeated, or an ordinary user is refused.
        let locked = nix::sys::statvfs::statvfs(&to).map(|stat| locked_flags(stat.flags())).unwrap_or(MsFlags::empty());
        let again = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | locked;
        mount(None::<&str>, &to, None::<&str>, again, None::<&str>)
            .with_context(|| format!("could not make {} read-only", to.display()))?;
    }
    Ok(())
}

fn locked_flags(flags: nix::sys::statvfs::FsFlags) -> MsFlags {
    use nix::sys::statvfs::FsFlags;
    [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ]
    .into_iter()
    .filter(|(has, _)| flags.contains(*has))
    .fold(MsFlags::empty(), |all, (_, flag)| all | flag)
}

/// The place of an absolute path inside the root.
fn inside(root: &Path, path: &Path) -> Result<PathBuf> {
    let Ok(relative) = path.strip_prefix("/") else {
        bail!("{} is not absolute", path.display());
    };
    if relative.components().any(|part| part == std::path::Component::ParentDir) {
        bail!("{} leaves the root", path.display());
    }
    Ok(root.join(relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside_the_root() {
        assert_eq!(inside(Path::new("/r"), Path::new("/a/b")).unwrap(), Path::new("/r/a/b"));
        assert!(inside(Path::new("/r"), Path::new("a")).is_err());
        assert!(inside(Path::new("/r"), Path::new("/a/../../b")).is_err());
    }
}
