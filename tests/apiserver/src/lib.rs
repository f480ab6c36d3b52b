//! A kube-apiserver of its own for a test, with an etcd behind it, on a port of loopback; both end with the value, and their folder
//! with it. Nothing acts on its objects: no controller-manager, no scheduler, no node. It starts in a few seconds.
//!
//! Needs `KUBENOVA_SERVERS`, a folder with `bin/kube-apiserver`, `bin/etcd` and `bin/kubectl` (made by `cargo dev servers`). This is a
//! crate beside `tests/env` because that one brings whole clusters and the sandbox.

use std::{
    ffi::OsStr,
    fs::File,
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Longest that it may take to be ready; a machine that compiles beside it takes many times the three seconds of an idle one.
const READY_MAX: Duration = Duration::from_secs(120);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// etcd's sockets: files of this name in its folder. It takes only names that end like a port.
const ETCD: &str = "unix://localhost:1";
const ETCD_PEERS: &str = "unix://localhost:2";
/// Bearer token of the administrator, who is in `system:masters`.
const TOKEN: &str = "administrator";

/// A running API server.
#[derive(Debug)]
pub struct ApiServer {
    etcd: Child,
    server: Child,
    folder: TempDir,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for process in [&mut self.server, &mut self.etcd] {
            let _already_gone = process.kill();
            let _reaped = process.wait();
        }
    }
}

impl ApiServer {
    /// Starts one and waits until it is ready.
    ///
    /// # Panics
    /// When there is no program, or it is not ready in time; the message says what to do.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files can be written");
        let at = folder.path();
        write_files(at, free_port());
        let etcd = spawn(at, "etcd", &etcd_arguments());
        let server = spawn(at, "kube-apiserver", &server_arguments(&port_of(at)));
        let mut server = Self { etcd, server, folder };
        server.wait_ready();
        server
    }

    /// Its folder: `kubeconfig`, and the logs of both servers.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder().join("kubeconfig")
    }

    /// Runs kubectl as the administrator, with this on its standard input.
    ///
    /// # Panics
    /// When kubectl cannot be started.
    #[must_use]
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Output {
        let mut kubectl = Command::new(program("kubectl"))
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .args(arguments)
            // Its cache of what the server serves must be this server's.
            .env("HOME", self.folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        // It may end without having read everything, which it then says itself.
        let _unread = kubectl.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        kubectl.wait_with_output().expect("kubectl ends")
    }

    /// The same, for what must succeed; what it prints.
    ///
    /// # Panics
    /// With what kubectl says when it fails.
    #[must_use]
    pub fn kubectl_ok(&self, arguments: &[&str], input: &str) -> String {
        let output = self.kubectl(arguments, input);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {said}\n{input}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn wait_ready(&mut self) {
        let began = Instant::now();
        loop {
            let ended = [("etcd", self.etcd.try_wait()), ("kube-apiserver", self.server.try_wait())];
            for (name, ended) in ended {
                if let Some(status) = ended.expect("a child can be waited for") {
                    panic!("{name} has ended ({status}):\n{}", self.log(name));
                }
            }
            if self.kubectl(&["get", "--raw", "/readyz"], "").status.success() {
                return;
            }
            assert!(
                began.elapsed() < READY_MAX,
                "the API server is not ready after {READY_MAX:?}:\n{}",
                self.log("kube-apiserver")
            );
            std::thread::sleep(LOOK);
        }
    }

    /// The end of a server's log.
    fn log(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.folder().join(format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// kube-apiserver takes no port 0. Another process may take this one before; then the server ends and says so.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}

fn write_files(folder: &Path, port: u16) {
    let write = |name: &str, text: String| {
        std::fs::write(folder.join(name), text).expect("a file in the folder for temporary files can be written");
    };
    let key = rcgen::KeyPair::generate().expect("a key can be made");
    write("service-accounts.key", key.serialize_pem());
    write("service-accounts.pub", key.public_key_pem());
    write("tokens.csv", format!("{TOKEN},admin,admin,system:masters\n"));
    write("port", port.to_string());
    // It signs its own certificate, for loopback alone.
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "test", "cluster": {
            "server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true } }],
        "users": [{ "name": "admin", "user": { "token": TOKEN } }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "admin" } }],
        "current-context": "test",
    });
    write("kubeconfig", kubeconfig.to_string());
}

fn port_of(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("port")).expect("it was written")
}

fn etcd_arguments() -> Vec<String> {
    [
        "--name=test".to_owned(),
        "--data-dir=etcd".to_owned(),
        format!("--listen-client-urls={ETCD}"),
        format!("--advertise-client-urls={ETCD}"),
        format!("--listen-peer-urls={ETCD_PEERS}"),
        format!("--initial-advertise-peer-urls={ETCD_PEERS}"),
        format!("--initial-cluster=test={ETCD_PEERS}"),
        "--unsafe-no-fsync=true".to_owned(),
        "--log-level=warn".to_owned(),
    ]
    .to_vec()
}

fn server_arguments(port: &str) -> Vec<String> {
    [
        format!("--etcd-servers={ETCD}"),
        format!("--secure-port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--cert-dir=certificates".to_owned(),
        "--token-auth-file=tokens.csv".to_owned(),
        "--authorization-mode=RBAC".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/24".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        "--service-account-key-file=service-accounts.pub".to_owned(),
        "--service-account-signing-key-file=service-accounts.key".to_owned(),
        // Nothing makes the ServiceAccounts that it would wait for.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
    ]
    .to_vec()
}

fn program(name: &str) -> PathBuf {
    let servers = std::env::var_os("KUBENOVA_SERVERS")
        .expect("KUBENOVA_SERVERS is not set: run `cargo dev servers` and set it to ~/.cache/kubenova/sets/latest");
    Path::new(&servers).join("bin").join(name)
}

fn spawn(folder: &Path, name: &str, arguments: &[impl AsRef<OsStr>]) -> Child {
    let log = File::create(folder.join(format!("{name}.log"))).expect("a log can be written");
    Command::new(program(name))
        .args(arguments)
        .current_dir(folder)
        .env("GOMEMLIMIT", "300MiB")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("could not start {name}: {error}"))
}
