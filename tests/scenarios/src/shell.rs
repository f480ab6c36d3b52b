//! The variables of a shell beside the demo, in which the commands of `docs/operations` can be pasted as they are written.
//!
//! Two files in the run's folder: `env.sh`, to be sourced, and `bin/kubenova-manager`, which runs the Manager's commands inside the
//! sandbox: a program and no function of the shell, because `nats --translate` starts it, too.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kubenova_env::repository;
use kubenova_env::servers::Servers;

use crate::platform::Platform;

/// What a shell outside needs to know beside what the platform says.
#[derive(Debug)]
pub struct Outside {
    /// The Manager, as reached from outside the sandbox.
    pub manager: SocketAddr,
    /// The broker, as reached from outside the sandbox.
    pub nats: SocketAddr,
    /// For the first cluster, as reached from outside the sandbox.
    pub kubeconfig: PathBuf,
}

/// Writes both files; returns `env.sh`.
pub fn write(platform: &Platform, outside: &Outside) -> Result<PathBuf> {
    let way_in = platform.sandbox.way_in();
    let programs = platform.sandbox.folder("bin")?;
    let program = programs.join("kubenova-manager");
    let (binary, config) = (platform.manager.binary(), platform.manager.config());
    put(&program, &manager_program(&way_in, binary, config))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).context("could not make a program executable")?;

    let servers = Servers::find()?.programs();
    let variables = [
        ("MANAGER", format!("https://{}", outside.manager)),
        ("CURL_CA_BUNDLE", platform.ca_file.display().to_string()),
        ("KUBECONFIG", outside.kubeconfig.display().to_string()),
        ("CHART", repository::root()?.join("deploy/helm/operator").display().to_string()),
        ("HUB", platform.nats_folder.display().to_string()),
        ("XDG_CONFIG_HOME", platform.nats_folder.join("cli").display().to_string()),
        ("NATS_URL", format!("tls://{}", outside.nats)),
        ("KUBENOVA_MANAGER_CONFIG", config.display().to_string()),
    ];
    let file = platform.sandbox.run().join("env.sh");
    put(&file, &environment(&[&programs, &servers], &variables, &platform.token_file))?;
    Ok(file)
}

fn put(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

/// The text of `env.sh`. The token stays in its file.
fn environment(programs: &[&Path], variables: &[(&str, String)], token: &Path) -> String {
    let path: String = programs.iter().map(|folder| format!("{}:", quoted(&folder.display().to_string()))).collect();
    let exports: String = variables.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect();
    let token = quoted(&token.display().to_string());
    format!(
        "# Variables of the commands in docs/operations, as long as the demo runs: source this file.\n\
         export PATH={path}\"$PATH\"\n{exports}TOKEN=$(cat {token})\nexport TOKEN\n"
    )
}

/// The text of `bin/kubenova-manager`. The settings by variable, so that `--config` names others.
fn manager_program(way_in: &str, binary: &Path, config: &Path) -> String {
    let (binary, config) = (quoted(&binary.display().to_string()), quoted(&config.display().to_string()));
    format!("#!/bin/sh\nexec {way_in} \\\n    KUBENOVA_MANAGER_CONFIG={config} {binary} \"$@\"\n")
}

/// A text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn shell(script: &str) -> String {
        let output = Command::new("sh").args(["-euc", script]).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_shell_reads_the_variables_and_the_token_from_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let (token, file) = (folder.path().join("it's a token"), folder.path().join("env.sh"));
        fs::write(&token, "secret\n").unwrap();
        let text = environment(&[Path::new("/a b"), Path::new("/c")], &[("MANAGER", "https://x".to_owned())], &token);
        assert!(!text.contains("secret"), "{text}");
        fs::write(&file, text).unwrap();
        let printed = shell(&format!(". {}; echo \"$MANAGER $TOKEN $PATH\"", file.display()));
        assert!(printed.starts_with("https://x secret /a b:/c:/"), "{printed}");
    }

    #[test]
    fn the_program_passes_every_argument_on_and_names_the_settings() {
        let folder = tempfile::tempdir().unwrap();
        let (program, binary) = (folder.path().join("program"), folder.path().join("a binary"));
        fs::write(&binary, "#!/bin/sh\necho \"$KUBENOVA_MANAGER_CONFIG\" \"$#\" \"$1\"; pwd\n").unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&program, manager_program("env --chdir=\"$PWD\"", &binary, Path::new("/settings"))).unwrap();
        let printed = shell(&format!("cd /usr; sh {} 'a b' c", program.display()));
        assert_eq!(printed, "/settings 2 a b\n/usr\n");
    }
}
