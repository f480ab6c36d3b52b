//! `kubenova-manager bridge` as a process: it needs its own settings and three files, says when it is ready, and ends when it is asked to.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

use kubenova_runtime::{clock, tls};
use kubenova_trust::{
    authority::Validity,
    envelope::Envelope,
    keyring::{self, Keyring},
};
use std::{
    collections::BTreeSet,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Longest that a start or a stop without sessions may take; only a failing test waits so long.
const STEP_MAX: Duration = Duration::from_secs(30);

struct Bridge(Child);

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn command(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubenova-manager"));
    command.args(["--config".as_ref(), config.as_os_str()]).arg("bridge").stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn is_ready(config: &Path) -> bool {
    command(config).arg("--probe").status().unwrap().success()
}

fn wait(what: &str, mut is_done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_done() {
        assert!(started.elapsed() < STEP_MAX, "waited for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn it_is_ready_without_database_and_broker_and_ends_when_asked() {
    tls::install_provider();
    let envelope = Envelope::from_bytes(&[5; 32]).unwrap();
    let keys = keyring::make_missing(&BTreeSet::new(), &envelope, clock::now()).unwrap();
    let authority = Keyring::open(&keys, &envelope, "kubenova.test").unwrap().authority;
    let validity = Validity { now: clock::now(), lifetime: Duration::from_secs(600) };
    let identity = authority.server("bridge", &["127.0.0.1".to_owned()], validity).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("ca.crt", authority.bundle_pem());
    write("tls.crt", &identity.chain_pem);
    write("tls.key", &identity.key_pem);
    let socket = folder.path().join("probe.sock");
    let settings = format!(
        "listen: 127.0.0.1:0\ntls: {{ caFile: ca.crt, certificateFile: tls.crt, keyFile: tls.key }}\n\
         nats: {{ urls: [\"tls://127.0.0.1:1\"] }}\nprobeSocket: {socket:?}\n"
    );
    write("bridge.yaml", &settings);
    let config = folder.path().join("bridge.yaml");
    assert!(!is_ready(&config), "none runs");
    let mut bridge = Bridge(command(&config).spawn().unwrap());
    wait("the bridge to be ready", || is_ready(&config));
    assert!(Command::new("kill").args(["-TERM", &bridge.0.id().to_string()]).status().unwrap().success());
    let mut status = None;
    wait("the bridge to end", || {
        status = bridge.0.try_wait().unwrap();
        status.is_some()
    });
    assert!(status.unwrap().success(), "{status:?}");
    assert!(!is_ready(&config));
}
