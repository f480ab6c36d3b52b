//! Checks the machine before minutes of work: disk, memory, programs, kernel features.
//!
//! As root on Debian it installs the packages that are missing, and says so; otherwise it says
//! what to type. All problems are named at once.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::places::Places;
use crate::process;
use crate::progress::say;

/// What the work ahead needs beyond the programs that everything needs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Need {
    /// Servers will be built.
    pub(crate) build_servers: bool,
    /// PostgreSQL will be run.
    pub(crate) postgres: bool,
    /// Clusters will be run, each in a network namespace of its own.
    pub(crate) clusters: bool,
    /// The workspace will be built.
    pub(crate) build_rust: bool,
    /// Clients in other languages will be generated and run.
    pub(crate) clients: bool,
    /// Images will be built, where this is root: without a container engine that takes it.
    pub(crate) images: bool,
}

impl Need {
    /// To run clusters, after building the workspace and, if some are missing, servers.
    pub(crate) fn clusters(build_servers: bool) -> Self {
        Self { build_servers, postgres: true, clusters: true, build_rust: true, ..Self::default() }
    }
}

const GIB: u64 = 1 << 30;
/// All servers, the module and build caches of Go, and a debug target folder: about 12 GiB.
const DISK_COLD: u64 = 15 * GIB;
/// Data folders and logs of a run, and what an incremental build adds.
const DISK_WARM: u64 = 4 * GIB;
/// Linking kube-apiserver peaks at 2 GiB, two clusters with everything take 1.2 GiB.
const MEMORY: u64 = 6 * GIB;
/// The oldest Go that the pinned modules accept.
const GO_MINOR: u64 = 26;

const POSTGRES: &str = "/usr/lib/postgresql/15/bin/postgres";

/// A Debian package and how to see that it is there.
struct Package {
    name: &'static str,
    programs: &'static [&'static str],
    why: &'static str,
}

const POSTGRES_PACKAGES: &[Package] =
    &[Package { name: "postgresql-15", programs: &[POSTGRES], why: "the Manager's database" }];
const CLUSTER_PACKAGES: &[Package] = &[
    Package { name: "iproute2", programs: &["ip", "tc"], why: "the network between clusters" },
    Package { name: "util-linux", programs: &["unshare", "nsenter"], why: "a namespace for each cluster" },
];
const RUST_PACKAGES: &[Package] = &[
    Package { name: "gcc", programs: &["cc"], why: "linking, and building aws-lc" },
    Package { name: "libc6-dev", programs: &["/usr/include/stdlib.h"], why: "linking, and building aws-lc" },
];

const IMAGE_PACKAGES: &[Package] = &[
    Package { name: "buildah", programs: &["buildah"], why: "the images of Operator and Manager" },
    Package { name: "binutils", programs: &["strip"], why: "the images of Operator and Manager" },
];

/// Makes sure that the machine can do what is needed, installing packages where it may.
pub(crate) fn require(places: &Places, need: &Need) -> Result<()> {
    let mut problems = Vec::new();
    if need.build_rust {
        install(places, RUST_PACKAGES, &mut problems)?;
    }
    if need.postgres {
        install(places, POSTGRES_PACKAGES, &mut problems)?;
    }
    if need.clusters {
        install(places, CLUSTER_PACKAGES, &mut problems)?;
        problems.extend(namespaces());
    }
    if need.images && is_root() {
        install(places, IMAGE_PACKAGES, &mut problems)?;
    }
    if need.clients {
        problems.extend(languages());
    }
    if need.build_servers || need.clients {
        problems.extend(go_version().err().map(|error| error.to_string()));
    }
    let cold_rust = need.build_rust && !places.target.exists();
    problems.extend(disk(places, need.build_servers || cold_rust));
    problems.extend(memory());
    if problems.is_empty() {
        return Ok(());
    }
    bail!("this machine is not ready:\n  - {}", problems.join("\n  - "))
}

/// The oldest Node that the TypeScript client runs on, and the oldest Python 3 that schemathesis runs on.
const NODE_MAJOR: u64 = 20;
const PYTHON_MINOR: u64 = 10;

/// What is wrong with Node and Python, which distributions package in too many ways to install them here.
fn languages() -> Vec<String> {
    let version = |program: &str| process::output_of(Command::new(program).arg("--version")).unwrap_or_default();
    let mut problems = Vec::new();
    if first_number(&version("node"), "v").is_none_or(|major| major < NODE_MAJOR) || find("npm").is_none() {
        problems.push(format!("node and npm are not there or too old; install Node {NODE_MAJOR} or newer"));
    }
    if first_number(&version("python3"), "Python 3.").is_none_or(|minor| minor < PYTHON_MINOR)
        || process::output_of(Command::new("python3").args(["-c", "import ensurepip"])).is_none()
    {
        problems.push(format!(
            "python3 or its venv module is not there or too old; install Python 3.{PYTHON_MINOR} or newer, on Debian \
             `apt-get install python3-venv`"
        ));
    }
    problems
}

/// The number that follows `prefix` at the beginning of a version.
fn first_number(version: &str, prefix: &str) -> Option<u64> {
    let digits = version.strip_prefix(prefix)?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

/// The version that `go` reports, with the platform: `go1.26.8 linux/amd64`.
pub(crate) fn go_version() -> Result<String> {
    let output = process::output_of(Command::new("go").arg("version"))
        .ok_or_else(|| anyhow!("go is not there; install Go 1.{GO_MINOR} or newer and put it on PATH"))?;
    let version = output.strip_prefix("go version ").unwrap_or(&output);
    match go_minor(version) {
        // A development version has no number: let it try.
        Some(minor) if minor < GO_MINOR => {
            bail!("{version} is too old; install Go 1.{GO_MINOR} or newer")
        }
        _ => Ok(version.to_owned()),
    }
}

fn go_minor(version: &str) -> Option<u64> {
    first_number(version, "go1.")
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn install(places: &Places, packages: &[Package], problems: &mut Vec<String>) -> Result<()> {
    let missing: Vec<&Package> =
        packages.iter().filter(|package| package.programs.iter().any(|program| find(program).is_none())).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    let whys: Vec<String> = missing.iter().map(|package| format!("{} ({})", package.name, package.why)).collect();
    if !Path::new("/etc/debian_version").exists() {
        problems.push(format!("missing: {}; install what your distribution calls them", whys.join(", ")));
        return Ok(());
    }
    if !is_root() {
        problems.push(format!(
            "missing: {}; type `sudo apt-get install --no-install-recommends {}`",
            whys.join(", "),
            names.join(" ")
        ));
        return Ok(());
    }
    say(&format!("installing {}", whys.join(", ")));
    let log = places.new_logs("packages")?.join("apt.log");
    if names.contains(&"postgresql-15") {
        // Its installation would otherwise create and start a cluster of its own.
        apt(&log, &["postgresql-common"])?;
        no_system_cluster(Path::new("/etc/postgresql-common/createcluster.conf"))?;
    }
    apt(&log, &names)
}

fn apt(log: &Path, packages: &[&str]) -> Result<()> {
    let install = ["install", "--yes", "--quiet", "--no-install-recommends"];
    if apt_get(log, &install, packages)? {
        return Ok(());
    }
    // The lists may be old or empty.
    say("updating the package lists");
    if apt_get(log, &["update", "--quiet"], &[])? && apt_get(log, &install, packages)? {
        return Ok(());
    }
    bail!("could not install {}; see {}", packages.join(" "), log.display())
}

fn apt_get(log: &Path, verb: &[&str], packages: &[&str]) -> Result<bool> {
    let mut command = Command::new("apt-get");
    command.args(verb).args(packages).env("DEBIAN_FRONTEND", "noninteractive").env("UCF_FORCE_CONFFOLD", "1");
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("could not open {}", log.display()))?;
    Ok(process::watch(&mut command, &mut file, &mut |_| {})?.success())
}

fn no_system_cluster(path: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    std::fs::write(path, without_main_cluster(&text)).with_context(|| format!("could not write {}", path.display()))
}

/// The configuration with `create_main_cluster` off, whatever it said before.
fn without_main_cluster(text: &str) -> String {
    let mut lines: Vec<&str> =
        text.lines().filter(|line| !line.trim_start().starts_with("create_main_cluster")).collect();
    lines.push("create_main_cluster = false");
    lines.join("\n") + "\n"
}

/// The path of a program, from PATH or as it is when absolute.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    if program.starts_with('/') {
        return Some(PathBuf::from(program)).filter(|path| path.exists());
    }
    // An unprivileged user's PATH lacks the folders of ip and tc; the test environment adds them too.
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

fn namespaces() -> Option<String> {
    let unshare = find("unshare")?;
    let probe = ["--user", "--map-root-user", "--net", "true"].map(OsStr::new);
    if process::output_of(Command::new(unshare).args(probe)).is_some() {
        return None;
    }
    let mut reasons = Vec::new();
    for (file, forbidding) in [
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("/proc/sys/user/max_user_namespaces", "0"),
        ("/proc/sys/user/max_net_namespaces", "0"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ] {
        if std::fs::read_to_string(file).is_ok_and(|value| value.trim() == forbidding) {
            reasons.push(format!("{file} is {forbidding}"));
        }
    }
    let because = if reasons.is_empty() {
        "the kernel or a container's seccomp profile forbids it".into()
    } else {
        reasons.join(", ")
    };
    Some(format!(
        "user namespaces cannot be created ({because}); `unshare --user --map-root-user --net true` must work"
    ))
}

fn disk(places: &Places, cold: bool) -> Option<String> {
    let needed = if cold { DISK_COLD } else { DISK_WARM };
    // The cache may not exist yet: its nearest parent is on the same file system.
    let existing = places.cache.ancestors().find(|folder| folder.exists())?;
    let free = nix::sys::statvfs::statvfs(existing).ok().map(|fs| fs.blocks_available() * fs.fragment_size())?;
    (free < needed).then(|| {
        format!(
            "{} has {} GiB free of the {} that are needed; make room, or set KUBENOVA_CACHE to a larger disk",
            existing.display(),
            free / GIB,
            needed / GIB
        )
    })
}

fn memory() -> Option<String> {
    let available = available_memory(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    (available < MEMORY).then(|| {
        format!(
            "{:.1} GiB of memory are available of the {} that are needed; close something",
            available as f64 / GIB as f64,
            MEMORY / GIB
        )
    })
}

fn available_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_understood() {
        assert_eq!(go_minor("go1.26.8 linux/amd64"), Some(26));
        assert_eq!(go_minor("go1.9 linux/amd64"), Some(9));
        assert_eq!(go_minor("devel +abc"), None);
        assert_eq!(first_number("v20.20.2", "v"), Some(20));
        assert_eq!(first_number("Python 3.11.7", "Python 3."), Some(11));
        assert_eq!(first_number("", "v"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(available_memory("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(available_memory("MemTotal: 9 kB\n"), None);
    }

    #[test]
    fn the_system_cluster_is_turned_off_once() {
        let once = without_main_cluster("# hello\ncreate_main_cluster = true\n");
        assert_eq!(once, "# hello\ncreate_main_cluster = false\n");
        assert_eq!(without_main_cluster(&once), once);
        assert_eq!(without_main_cluster(""), "create_main_cluster = false\n");
    }

    #[test]
    fn programs_are_found() {
        assert!(find("sh").is_some());
        assert!(find("/no/such/program").is_none() && find("no-such-program").is_none());
    }
}
