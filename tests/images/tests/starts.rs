//! The images start as Kubernetes starts them: as their own user, without rights, on a read-only root.
//!
//! Needs buildah and root, as `cargo dev test` has in CI; without root it says that it is skipped.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use kubenova_env::repository;
use kubenova_images::{
    Image, bill,
    build::{self, Options},
    layout::Layout,
};

const USER: &str = "65532:65532";

/// Runs a program of an unpacked image in namespaces of its own.
fn run(root: &Path, words: &[&str]) -> Result<Output> {
    // What a kubelet mounts: the image read-only, and a volume at /tmp.
    let script = "mount --bind \"$0\" \"$0\" && mount --options remount,bind,ro \"$0\" && mount -t tmpfs tmpfs \"$0/tmp\" \
                  && chmod 1777 \"$0/tmp\" && exec chroot --userspec=65532:65532 \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child", "sh", "-c", script]);
    command.arg(root).args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/tmp");
    command.output().context("could not start unshare")
}

/// What a program prints when it ends well.
fn printed(root: &Path, words: &[&str]) -> Result<String> {
    let output = run(root, words)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{words:?} ended with {}: {}", output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
    })
}

#[test]
fn both_images_start_as_their_user_on_a_read_only_root_and_the_operator_renders_a_chart() -> Result<()> {
    if !is_root() {
        eprintln!("skipped both_images_start: buildah needs root to build without an engine");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let options = Options { repository: repository::root()?, folder: folder.path().to_owned(), base: None };
    for image in Image::ALL {
        let layout = Layout::open(&build::build(image, &options)?)?;
        assert_eq!(layout.config["User"], USER);
        let program = layout.config["Entrypoint"][0].as_str().context("an image has an entry point")?.to_owned();
        assert_eq!(program, format!("/usr/local/bin/{}", image.program()), "what the chart starts");
        let root = folder.path().join(format!("{}-root", image.name()));
        layout.unpack(&root)?;
        let version = printed(&root, &[&program, "--version"])?;
        assert!(version.contains(kubenova_images::VERSION), "{version}");
        assert!(printed(&root, &[&program, "--help"])?.contains("Usage:"));

        let bill: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(root.join(bill::PLACE))?)?;
        let names: Vec<&str> = bill["components"]
            .as_array()
            .context("it has parts")?
            .iter()
            .filter_map(|it| it["name"].as_str())
            .collect();
        assert!(names.contains(&"rustls") && names.contains(&"libc6"), "{names:?}");
        if image == Image::Operator {
            assert!(names.contains(&"capsule") && names.contains(&"k8s.io/client-go"), "{names:?}");
            let helm = "/usr/local/bin/helm";
            let rendered = printed(&root, &[helm, "template", "capsule", "/charts/capsule", "--no-hooks"])?;
            assert!(rendered.contains("kind: Deployment"), "{rendered}");
            let written = run(&root, &[helm, "create", "/charts/other"])?;
            let said = String::from_utf8_lossy(&written.stderr).into_owned();
            assert!(!written.status.success() && said.contains("read-only file system"), "{said}");
            // It says what it lacks instead of failing at a file of its image.
            let doctor = run(&root, &[&program, "doctor"])?;
            let said = String::from_utf8_lossy(&doctor.stderr).into_owned();
            assert!(!doctor.status.success() && said.contains("API server"), "{said}");
        }
    }
    Ok(())
}
