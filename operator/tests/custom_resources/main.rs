//! The custom resources on a real API server: what it refuses and in which words, what `kubectl` explains, waits for and describes, and
//! what becomes of an object that our types cannot hold.
//!
//! Needs `KUBENOVA_SERVERS`, a folder with `bin/kube-apiserver`, `bin/etcd` and `bin/kubectl` (made by `cargo dev servers`).

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

mod diagnosis;
mod explained;
#[path = "../attacks/false_manager.rs"]
#[expect(dead_code, reason = "the attacks need more of it")]
mod false_manager;
mod rules;
mod stored;
mod waits;

use kubenova_operator::apiserver::client::Apiserver;
use kubenova_test_apiserver::ApiServer;
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Where the namespaced kinds are.
const NAMESPACE: &str = "kubenova-system";
/// Id of a tenant.
const TENANT: &str = "0198c7f2-5d5e-7c3a-9a55-0a4e7a1b2c3d";

/// One API server for the tests that run at the same time; it ends with the last of them.
static SHARED: Mutex<Weak<ApiServer>> = Mutex::new(Weak::new());

/// An API server with our kinds. Objects of cluster scope are shared: each test has names of its own.
fn server() -> Arc<ApiServer> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = shared.upgrade() {
        return server;
    }
    let server = Arc::new(started());
    *shared = Arc::downgrade(&server);
    server
}

/// An API server with our kinds for one test.
fn started() -> ApiServer {
    let server = ApiServer::start();
    let names: Vec<String> = kubenova_crds::all()
        .iter()
        .map(|definition| {
            let _applied = server.kubectl_ok(&["create", "-f", "-"], &serde_json::to_string(definition).unwrap());
            format!("crd/{}", definition.metadata.name.as_deref().unwrap())
        })
        .collect();
    let mut wait = vec!["wait", "--for=condition=Established", "--timeout=60s"];
    wait.extend(names.iter().map(String::as_str));
    let _established = server.kubectl_ok(&wait, "");
    let _created = server.kubectl_ok(&["create", "namespace", NAMESPACE], "");
    server
}

/// The Operator's client of it, as its administrator.
async fn client(server: &ApiServer) -> Apiserver {
    let _installed_before = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let kubeconfig = kube::config::Kubeconfig::read_from(server.kubeconfig()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await;
    Apiserver::with_config(config.unwrap()).unwrap()
}

/// Creates or changes an object as `kubectl apply --server-side` does; what it says on either stream.
fn apply(server: &ApiServer, object: &Value) -> Result<String, String> {
    let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    said(&server.kubectl(&arguments, &object.to_string()))
}

/// Changes fields of an object's status.
fn patch_status(server: &ApiServer, object: &str, status: &Value) -> Result<String, String> {
    let patch = serde_json::json!({ "status": status }).to_string();
    said(&server.kubectl(&["patch", object, "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p", &patch], ""))
}

fn said(output: &std::process::Output) -> Result<String, String> {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(text) } else { Err(text) }
}
