//! The fleet on its real servers: what it starts works, can be hurt on purpose, and ends whole.
//!
//! A test that needs the sandbox runs itself again inside one.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kubenova_env::cluster::{Cluster, ClusterOptions};
use kubenova_env::hub::{self, Hub};
use kubenova_env::network::Cut;
use kubenova_env::pod_runner::PodHandle;
use kubenova_env::poll::{self, Step};
use kubenova_env::postgres::Postgres;
use kubenova_env::sandbox::Sandbox;
use kubenova_env::servers::Servers;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(90);
/// The label of the pod that listens.
const LISTENER: &str = "app=listener";
/// The ports on which it listens.
const LISTENER_PORTS: [u16; 2] = [4222, 8222];

/// A program of ours that does not know of any sandbox around this test.
fn program(path: &str, runs: &Path) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KUBENOVA_SANDBOX_") {
            command.env_remove(name);
        }
    }
    command.env("KUBENOVA_RUNS", runs).stdin(Stdio::null());
    command
}

/// A shell in the Operator's place: dynamic as that is, and it does what the test's pod says.
fn stand_in(folder: &Path) -> Result<PathBuf> {
    let folder = folder.join("bin");
    fs::create_dir(&folder).context("could not make a folder for the stand-in")?;
    fs::copy("/bin/sh", folder.join("kubenova-operator")).context("could not copy a shell")?;
    Ok(folder)
}

/// Runs the scenario here when this is the sandbox, else runs the test `name` of this file inside one.
fn in_sandbox(name: &str, scenario: impl Future<Output = Result<()>>) -> Result<()> {
    if Sandbox::require().is_ok() {
        return tokio::runtime::Runtime::new().context("no runtime")?.block_on(scenario);
    }
    inside(name)
}

/// Runs the test `name` of this file inside the sandbox.
fn inside(name: &str) -> Result<()> {
    let runs = tempfile::tempdir().context("no folder for the run")?;
    let status = program(env!("CARGO_BIN_EXE_kubenova-sandbox"), runs.path())
        .env("KUBENOVA_BIN_DIR", stand_in(runs.path())?)
        // The pod runner plays this image with any static program; a NATS server listens without further files.
        .env("KUBENOVA_CAPSULE_PROXY_BIN", Servers::find()?.binary("nats-server")?)
        .args(["--with-parent", "--"])
        .arg(std::env::current_exe().context("our own program")?)
        .args(["--exact", name, "--nocapture"])
        .status()
        .context("could not start the sandbox")?;
    if !status.success() {
        let kept = runs.keep();
        bail!("{name} failed inside the sandbox ({status}); see {}", kept.display());
    }
    fs::remove_dir_all(runs.path().join("bin")).context("the stand-in was there")?;
    ensure!(fs::read_dir(runs.path())?.next().is_none(), "a successful run leaves no folder");
    Ok(())
}

#[test]
fn a_cluster_runs_system_pods_and_can_be_hurt() {
    in_sandbox("a_cluster_runs_system_pods_and_can_be_hurt", Box::pin(run_a_cluster())).unwrap();
}

async fn run_a_cluster() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::new("fleet", 7)).await?;
    a_dynamic_program_finds_what_its_pod_names(&cluster).await?;
    a_listener_runs(&cluster).await?;
    sockets_are_listed(&cluster)?;
    a_changed_secret_reaches_the_pod(&cluster).await?;
    a_killed_container_comes_back(&cluster).await?;
    a_job_counts_as_done(&cluster).await?;
    cuts_stop_what_they_say(&cluster).await?;
    the_api_server_may_be_killed(&mut cluster).await?;
    a_deleted_pod_ends_first(&cluster).await?;
    impersonated_writes_are_audited(&cluster)?;
    cluster.check()
}

fn only(cluster: &Cluster, label: &str) -> Result<PodHandle> {
    cluster.pods().labelled(label).into_iter().next().with_context(|| {
        let there = cluster.kubectl_ok(&["get", "pods", "-A", "-o", "wide"]);
        format!("the runner runs no pod {label}; the cluster says: {there:?}")
    })
}

/// What the Operator's chart uses of Kubernetes, in one pod.
const STAND_IN: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: kubenova-system}
---
apiVersion: v1
kind: Secret
metadata: {name: keys, namespace: kubenova-system}
stringData: {key: from-secret}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: kubenova-system}
data: {setting: from-map, policy.yaml: "from-file\n"}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: stand-in, namespace: kubenova-system}
---
apiVersion: v1
kind: Pod
metadata: {name: stand-in, namespace: kubenova-system, labels: {app: stand-in}}
spec:
  serviceAccountName: stand-in
  terminationGracePeriodSeconds: 1
  containers:
  - name: operator
    image: mirror.example/deep/kubenova/operator:1
    command: [/usr/local/bin/kubenova-operator, -c]
    args:
    - |
      read -r policy < /etc/kubenova/policy/policy.yaml
      echo "$POD_NAME $SECRET $SETTING $policy $(ARGUMENT)" > /debug/said
      /usr/local/bin/helm template x /charts/kubevela --show-only templates/addon_registry.yaml > /tmp/rendered || exit 3
      test -s /var/run/secrets/kubernetes.io/serviceaccount/token || exit 4
      (: > /not-writable) 2> /dev/null && exit 5
      test -e /root && exit 6
      : > /tmp/ready
      until test -p /debug/wait; do :; done
      read -r _ < /debug/wait
    env:
    - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: SECRET, valueFrom: {secretKeyRef: {name: keys, key: key}}}
    - {name: SETTING, valueFrom: {configMapKeyRef: {name: settings, key: setting}}}
    - {name: ARGUMENT, value: expanded}
    - {name: HOME, value: /tmp}
    startupProbe: {exec: {command: [/usr/local/bin/kubenova-operator, -c, "test -e /debug/said"]}}
    readinessProbe: {exec: {command: [/usr/local/bin/kubenova-operator, -c, "test -e /tmp/ready"]}}
    securityContext: {readOnlyRootFilesystem: true}
    volumeMounts:
    - {name: config, mountPath: /etc/kubenova, readOnly: true}
    - {name: enrollment, mountPath: /var/run/kubenova/enrollment, readOnly: true}
    - {name: tmp, mountPath: /tmp}
  volumes:
  - name: config
    projected: {sources: [{configMap: {name: settings, items: [{key: policy.yaml, path: policy/policy.yaml}]}}]}
  - {name: enrollment, secret: {secretName: absent, optional: true}}
  - {name: tmp, emptyDir: {}}
"#;

async fn a_dynamic_program_finds_what_its_pod_names(cluster: &Cluster) -> Result<()> {
    // In order: the namespace before what lies in it.
    for object in kubenova_env::apply::documents(STAND_IN)? {
        cluster.applier().apply(&object).await?;
    }
    let pod =
        poll::until("the stand-in's pod", SOON, || async { Ok(Step::from_attempt(only(cluster, "app=stand-in"))) })
            .await?;
    nix::unistd::mkfifo(&pod.debug().join("wait"), nix::sys::stat::Mode::S_IRWXU)
        .context("could not make what the stand-in waits for")?;
    let ready = [
        "-n",
        "kubenova-system",
        "get",
        "pod",
        "stand-in",
        "-o",
        "jsonpath={.status.containerStatuses[0].ready} {.status.containerStatuses[0].restartCount} {.status.phase}",
    ];
    let waited = wait_for(cluster, &ready, "true 0 Running").await;
    waited.with_context(|| format!("it said: {}", pod.log("operator").unwrap_or_default()))?;
    let said = fs::read_to_string(pod.debug().join("said")).context("the stand-in said nothing")?;
    ensure!(said.trim() == "stand-in from-secret from-map from-file expanded", "{said}");
    ensure!(pod.listening_sockets().is_empty(), "it opens no port: {:?}", pod.listening_sockets());
    cluster.kubectl_ok(&["-n", "kubenova-system", "delete", "pod", "stand-in", "--timeout=30s"])?;
    Ok(())
}

/// A Deployment whose program listens, with a Secret in a volume: what Capsule and KubeVela use of the pod runner.
const LISTENER_OBJECTS: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: certificates, namespace: kubenova-system}
stringData: {key: first}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: listener, namespace: kubenova-system}
spec:
  selector: {matchLabels: {app: listener}}
  template:
    metadata: {labels: {app: listener}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: listener
        image: projectcapsule/capsule-proxy:1
        args: [--addr, 0.0.0.0, --port, "4222", --http_port, "8222"]
        readinessProbe: {httpGet: {path: /healthz, port: 8222}}
        volumeMounts:
        - {name: certificates, mountPath: /certificates, readOnly: true}
      volumes:
      - {name: certificates, secret: {secretName: certificates}}
"#;

/// The Deployment's own question: how many replicas are ready.
const LISTENER_READY: [&str; 6] =
    ["-n", "kubenova-system", "get", "deploy/listener", "-o", "jsonpath={.status.readyReplicas}"];

async fn a_listener_runs(cluster: &Cluster) -> Result<()> {
    cluster.applier().apply_yaml(LISTENER_OBJECTS).await?;
    wait_for(cluster, &LISTENER_READY, "1").await
}

fn sockets_are_listed(cluster: &Cluster) -> Result<()> {
    let ports: Vec<u16> =
        only(cluster, LISTENER)?.listening_sockets().iter().map(|socket| socket.address.port()).collect();
    ensure!(LISTENER_PORTS.iter().all(|port| ports.contains(port)), "the listener listens on {ports:?}");
    Ok(())
}

async fn a_changed_secret_reaches_the_pod(cluster: &Cluster) -> Result<()> {
    let pid = *only(cluster, LISTENER)?.pids().first().context("the listener runs")?;
    let more = r#"{"stringData":{"more":"yes"}}"#;
    cluster.kubectl_ok(&["-n", "kubenova-system", "patch", "secret", "certificates", "-p", more])?;
    let file = format!("/proc/{pid}/root/certificates/more");
    poll::until("the new key in the listener's volume", SOON, || {
        let found = fs::read_to_string(&file).with_context(|| file.clone());
        async { Ok(Step::from_attempt(found.map(drop))) }
    })
    .await
}

async fn a_killed_container_comes_back(cluster: &Cluster) -> Result<()> {
    let before = only(cluster, LISTENER)?.pids();
    cluster.pods().set_variable("projectcapsule/capsule-proxy", "KUBENOVA_TEST", Some("given"));
    ensure!(cluster.pods().kill9(LISTENER) == 1, "one container was to be killed");
    let pid = poll::until("another listener", SOON, || async {
        let pids = only(cluster, LISTENER)?.pids();
        Ok(match pids.first() {
            Some(pid) if !before.contains(pid) => Step::Done(*pid),
            _ => Step::Waiting(format!("{pids:?} before and now")),
        })
    })
    .await?;
    let environment = fs::read(format!("/proc/{pid}/environ"))?;
    ensure!(String::from_utf8_lossy(&environment).contains("KUBENOVA_TEST=given"), "the variable is missing");
    // At least once: a program that comes back on a busy machine may fail at its own start and be restarted again.
    let question =
        "jsonpath={.items[0].status.containerStatuses[0].restartCount} {.items[0].status.containerStatuses[0].ready}";
    poll::until("the restart to be counted and the container ready", SOON, || async {
        let printed = cluster.kubectl_ok(&["-n", "kubenova-system", "get", "pods", "-l", LISTENER, "-o", question])?;
        let (count, ready) = printed.trim().split_once(' ').context("two words")?;
        Ok(Step::when(count.parse::<u32>()? >= 1 && ready == "true", (), printed.clone()))
    })
    .await
}

/// Asks kubectl until it prints `wanted`.
async fn wait_for(cluster: &Cluster, question: &[&str], wanted: &str) -> Result<()> {
    poll::until(format!("kubectl {} to print {wanted:?}", question.join(" ")), SOON, || {
        let printed = cluster.kubectl_ok(question);
        async move {
            Ok(match printed {
                Ok(printed) if printed.trim() == wanted => Step::Done(()),
                Ok(printed) => Step::Waiting(printed),
                Err(error) => Step::Waiting(format!("{error:#}")),
            })
        }
    })
    .await
}

async fn a_job_counts_as_done(cluster: &Cluster) -> Result<()> {
    cluster
        .applier()
        .apply_yaml(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {name: hook, namespace: kubenova-system}\nspec: {template: \
             {spec: {restartPolicy: Never, containers: [{name: c, image: 'clastix/kubectl:1'}]}}}",
        )
        .await?;
    wait_for(cluster, &["-n", "kubenova-system", "get", "job", "hook", "-o", "jsonpath={.status.succeeded}"], "1").await
}

fn knock(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_millis(1500)).is_ok()
}

async fn cuts_stop_what_they_say(cluster: &Cluster) -> Result<()> {
    let across = cluster.api_address();
    let capture = cluster.capture_syns()?;
    ensure!(knock(across), "the API server is reachable across the uplink");
    cluster.kubectl_ok(&["get", "nodes"])?;
    let seen = capture.seen();
    ensure!(seen.iter().any(|syn| syn.destination == across), "our knock was not captured: {seen:?}");
    let knocks = seen.len();
    cluster.kubectl_ok(&["get", "nodes"])?;
    ensure!(capture.seen().len() == knocks, "kubectl crossed the uplink");
    for cut in [Cut::Silent, Cut::SilentOutbound, Cut::SilentInbound, Cut::Down] {
        cluster.cut(cut)?;
        ensure!(!knock(across), "{cut:?} lets a connection through");
        let nodes = cluster.kubectl_ok(&["get", "nodes", "-o", "name"])?;
        ensure!(nodes.contains("node/"), "the harness is cut off as well");
        cluster.heal()?;
        poll::until(format!("the uplink after {cut:?}"), SOON, || async {
            Ok(Step::when(knock(across), (), "still cut"))
        })
        .await?;
    }
    wait_for(cluster, &LISTENER_READY, "1").await
}

async fn the_api_server_may_be_killed(cluster: &mut Cluster) -> Result<()> {
    let before = only(cluster, LISTENER)?.pids();
    cluster.crash().await?;
    let after = only(cluster, LISTENER)?.pids();
    ensure!(before == after, "the listener was restarted: {before:?} {after:?}");
    wait_for(cluster, &["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"], "node-0").await
}

async fn a_deleted_pod_ends_first(cluster: &Cluster) -> Result<()> {
    let pod = only(cluster, LISTENER)?;
    let pid = *pod.pids().first().context("the listener runs")?;
    cluster.kubectl_ok(&["-n", "kubenova-system", "delete", "pod", &pod.name(), "--wait=true", "--timeout=60s"])?;
    ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "the object went before its process");
    // First the new pod: until the Deployment's controller has looked, its status still counts the old one.
    poll::until("another pod of the listener", SOON, || async {
        Ok(Step::from_attempt(only(cluster, LISTENER).and_then(|now| {
            ensure!(now.uid() != pod.uid(), "the runner still has the old one");
            Ok(())
        })))
    })
    .await?;
    wait_for(cluster, &LISTENER_READY, "1").await
}

fn impersonated_writes_are_audited(cluster: &Cluster) -> Result<()> {
    let user = "kubenova-test:impersonated";
    let write =
        ["annotate", "namespace", "kubenova-system", "fleet=seen", "--as", user, "--as-group", "system:masters"];
    cluster.kubectl_ok(&write)?;
    let events = cluster.audit()?;
    let wrote = events
        .iter()
        .any(|event| event.is_write() && event.impersonated_user.as_ref().is_some_and(|it| it.username == user));
    ensure!(wrote, "the impersonated write is not among {} audit events", events.len());
    Ok(())
}

#[test]
fn the_hub_survives_kills() {
    in_sandbox("the_hub_survives_kills", Box::pin(run_the_hub())).unwrap();
}

async fn run_the_hub() -> Result<()> {
    let sandbox = Sandbox::require()?;
    let mut postgres = Postgres::start(&sandbox).await?;
    let url = postgres.database("one")?;
    ensure!(url.ends_with("/one"), "{url}");
    postgres.query("one", "create table t (n int); insert into t values (7)")?;
    postgres.kill();
    postgres.restart().await?;
    ensure!(postgres.query("one", "select n from t")?.trim() == "7", "what was committed is kept");
    postgres.stop().await?;

    let config = sandbox.folder("nats-config")?;
    let store = config.join("jetstream");
    let listen = format!("listen: \"10.77.0.1:4222\"\njetstream {{ store_dir: {:?} }}\n", store.display().to_string());
    fs::write(config.join(hub::CONFIG_FILE), listen)?;
    let mut hub = Hub::start(&sandbox, &config).await?;
    ensure!(store.exists(), "JetStream made its store");
    hub.lose_store(&store)?;
    ensure!(!store.exists(), "the store is gone");
    hub.restart().await?;
    ensure!(knock("10.77.0.1:4222".parse()?), "the hub listens again");
    Ok(())
}

/// A bare cluster that stays up, in a run folder of its own.
struct Up {
    outer: Child,
    runs: tempfile::TempDir,
}

impl Up {
    fn start() -> Result<Self> {
        let runs = tempfile::tempdir().context("no folder for the run")?;
        let log = fs::File::create(runs.path().join("up.log")).context("no log")?;
        let outer = program(env!("CARGO_BIN_EXE_kubenova-clusters"), runs.path())
            .stdout(log)
            .spawn()
            .context("could not start kubenova-clusters")?;
        let up = Self { outer, runs };
        poll::until_blocking("a bare cluster", SOON, || {
            let said = fs::read_to_string(up.runs.path().join("up.log"))?;
            Ok(Step::when(said.contains("Ctrl-C"), (), said))
        })?;
        ensure!(up.processes().len() > 5, "etcd, API server and others should run: {:?}", up.processes());
        Ok(up)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.outer.id())?), signal).context("could not signal kubenova-clusters")
    }

    /// Every living process that was started for this run.
    fn processes(&self) -> Vec<String> {
        let marker = self.runs.path().display().to_string();
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
            .filter(|entry| entry.file_name().to_string_lossy() != self.outer.id().to_string())
            .filter(|entry| {
                let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
                String::from_utf8_lossy(&environment).contains(&marker)
            })
            .map(|entry| fs::read_to_string(entry.path().join("comm")).unwrap_or_default())
            .collect()
    }

    fn expect_nothing_left(&mut self) -> Result<ExitStatus> {
        let status = self.outer.wait().context("could not wait for kubenova-clusters")?;
        poll::until_blocking("all processes of the run to end", Duration::from_secs(10), || {
            let left = self.processes();
            Ok(Step::when(left.is_empty(), (), format!("{left:?}")))
        })?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("no mounts")?;
        ensure!(!mounts.contains(&self.runs.path().display().to_string()), "a mount was left behind");
        Ok(status)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.outer.kill();
        let _ = self.outer.wait();
    }
}

#[test]
fn a_killed_outer_process_leaves_nothing_running() {
    let mut up = Up::start().unwrap();
    up.signal(Signal::SIGKILL).unwrap();
    up.expect_nothing_left().unwrap();
}

#[test]
fn ctrl_c_ends_everything_and_removes_the_folder() {
    let mut up = Up::start().unwrap();
    up.signal(Signal::SIGINT).unwrap();
    let status = up.expect_nothing_left().unwrap();
    assert!(status.success(), "{status}");
    let left: Vec<_> = fs::read_dir(up.runs.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["up.log"], "only what the test itself wrote is left");
}
