//! `kubectl describe nova default` and `kubectl describe novat <name>` of what is broken, as a person reads it who never saw KubeNova:
//! the first condition says what is wrong and what to do, and the event says it again.
//!
//! The conditions come from the code that finds the cause, against a Manager, a broker and objects that are wrong in that way, and pass
//! through the Operator's own writers. Each text is in `described/`; `KUBENOVA_WRITE_DESCRIBED=1` writes them again.

use crate::{
    NAMESPACE, TENANT, apply, client,
    false_manager::{Answer, Authority, serve},
    server, started,
};
use kube::{Api, Resource as _};
use kubenova_bus::dial::Dialer;
use kubenova_crds::{cluster_config::condition, tenant::NovaTenant};
use kubenova_operator::{
    apiserver::{client::Apiserver, event, status},
    controllers::cluster_config::{self, ApplyCache, InstallContext, Reconciled},
    join::{
        ClusterFacts,
        conditions::{JoinError, StatusReporter, set_clock, set_not_joined, set_stopped},
        enroll::{self, Attempt},
        identity::{Identity, Keys},
    },
    metrics,
    session::broker,
    settings::Settings,
};
use kubenova_operator_core::{
    conditions::ConditionSet,
    tenant::{
        applications::Applications,
        capsule::CapsuleStatus,
        ownership,
        report::{STEPS, Stopped, TenantReport},
    },
};
use kubenova_runtime::{clock, shutdown::Shutdown};
use kubenova_schema::{
    enrollment::EnrollmentAnswer,
    signature::sha256_hex,
    token::EnrollmentToken,
    v1::{Condition, ObjectStatus},
};
use kubenova_test_apiserver::ApiServer;
use serde_json::json;
use std::path::Path;

const CLUSTER: &str = "c0123456789abcdefghjkmnpqrs";

/// What differs from run to run.
const VARYING: [&str; 5] =
    ["UID:", "Resource Version:", "Creation Timestamp:", "Last Transition Time:", "Unsettled Since:"];

/// Who writes events.
const WRITER: &str = "kubenova-operator";

/// What kubectl prints of an object, without what differs from run to run.
fn described(server: &ApiServer, object: &[&str], replaced: &[(&str, &str)]) -> String {
    let mut arguments = vec!["describe"];
    arguments.extend(object);
    let mut text = server.kubectl_ok(&arguments, "");
    for (varies, stands_for_it) in replaced {
        text = text.replace(varies, stands_for_it);
    }
    let (object, events) = text.split_once("\nEvents:").unwrap();
    let lines = object.lines().map(|line| {
        let key = VARYING.iter().find(|key| line.trim_start().starts_with(**key));
        key.map_or_else(|| line.to_owned(), |key| format!("{}<varies>", &line[..line.find(key).unwrap() + key.len()]))
    });
    // Type, reason, age, who, message; the columns are as wide as the age makes them.
    let events = events.lines().filter_map(|line| {
        let (before, message) = line.split_once(WRITER)?;
        let mut words = before.split_whitespace();
        let (kind, reason) = (words.next()?, words.next()?);
        Some(format!("  {kind}  {reason}  <age>  {WRITER}  {}", message.trim()))
    });
    // Of those of one second the sequence is chance.
    let mut events: Vec<String> = events.collect();
    events.sort();
    let lines: Vec<String> = lines.chain(["Events:".to_owned()]).chain(events).collect();
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n") + "\n"
}

/// Compares with the text that is committed, or writes it.
#[track_caller]
fn is_as_committed(name: &str, text: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/custom_resources/described");
    let file = folder.join(format!("{name}.txt"));
    if std::env::var_os("KUBENOVA_WRITE_DESCRIBED").is_some() {
        std::fs::write(&file, text).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(committed, text, "{} differs; KUBENOVA_WRITE_DESCRIBED=1 writes it again", file.display());
}

/// What comes of an enrollment at this address, as the Operator finds it.
async fn enrolled_at(url: &str, pin: String) -> (ConditionSet, JoinError) {
    let token = EnrollmentToken {
        cluster_id: CLUSTER.to_owned(),
        endpoints: vec![url.to_owned()],
        ca_spki_sha256: pin,
        secret: "secret".to_owned(),
    };
    let keys = Keys::make(&token.encode(), TENANT).unwrap();
    let facts = ClusterFacts { cluster_uid: TENANT.to_owned(), kubernetes_version: "1.34.0".to_owned(), nodes: None };
    let dialer = Dialer::default();
    let attempt = Attempt { token: &token, keys: &keys, facts: &facts, dialer: &dialer, in_use: None };
    let mut found = ConditionSet::new();
    let error = match enroll::send(url, &attempt, &attempt.request().unwrap(), &mut found).await {
        Ok(answered) => {
            found.set_true(
                condition::TLS_VERIFIED,
                "Pinned",
                "the Manager's certificate verifies under the CA pinned by the token",
            );
            set_clock(&mut found, answered.clock_offset_ms);
            answered.answer.err().unwrap()
        }
        Err(error) => error,
    };
    (found, error)
}

fn pin(authority: &Authority) -> String {
    let (_, certificate) = x509_parser::parse_x509_certificate(authority.certificate.der()).unwrap();
    sha256_hex(certificate.tbs_certificate.subject_pki.raw)
}

/// An address of loopback without a listener.
fn closed() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A joined cluster whose broker does not answer.
async fn without_broker(broker: &str, folder: &Path) -> JoinError {
    let authority = Authority::new();
    let certificate = authority.certificate.pem();
    let keys = Keys::make("kn1.token", TENANT).unwrap();
    let answer = EnrollmentAnswer {
        cluster_id: CLUSTER.to_owned(),
        incarnation: "1".to_owned(),
        epoch: 1,
        certificate_chain_pem: certificate.clone(),
        user_jwt: String::new(),
        broker_urls: vec![format!("tls://{broker}")],
        leaf_urls: Vec::new(),
        ca_bundle_pem: certificate,
        command_keys: Vec::new(),
        key_set_id: String::new(),
        endpoints: Vec::new(),
        issued_at: "2026-01-01T00:00:00.000Z".to_owned(),
        expires_at: "2099-01-01T00:00:00.000Z".to_owned(),
        manager_time: "2026-01-01T00:00:00.000Z".to_owned(),
    };
    let identity = Identity { keys, answer, former_command_keys: Vec::new() };
    let settings = Settings { work_dir: folder.to_owned(), ..Settings::default() };
    broker::connect(&settings, &identity).await.map(drop).unwrap_err()
}

/// One after the other, since there is one configuration: each is as it would be on a cluster of its own.
#[tokio::test]
async fn of_a_cluster() {
    let server = started();
    let apiserver = client(&server).await;
    let reporter = StatusReporter::new(&apiserver);

    let url = format!("https://{}", closed());
    let (mut found, error) = enrolled_at(&url, "00".repeat(32)).await;
    set_not_joined(&mut found, &error);
    reporter.open().await.unwrap();
    reporter.report(&found).await.unwrap();
    let address = url.strip_prefix("https://").unwrap();
    is_as_committed("manager-unreachable", &described(&server, &["nova", "default"], &[(address, "<manager>")]));
    let _deleted = server.kubectl_ok(&["delete", "nova", "default"], "");

    let authority = Authority::new();
    let certified = authority.certify("127.0.0.1", |_| {});
    let url = serve("127.0.0.1", certified, |_, _| {
        let body = br#"{"reason":"ENROLLMENT_TOKEN_UNKNOWN","detail":"this Manager has no such enrollment token"}"#;
        Answer { status: 401, body: body.to_vec(), signature: None }
    })
    .await;
    let (mut found, error) = enrolled_at(&url, pin(&authority)).await;
    set_not_joined(&mut found, &error);
    reporter.open().await.unwrap();
    reporter.report(&found).await.unwrap();
    let address = url.strip_prefix("https://").unwrap();
    is_as_committed("token-unknown", &described(&server, &["nova", "default"], &[(address, "<manager>")]));
    let _deleted = server.kubectl_ok(&["delete", "nova", "default"], "");

    let folder = tempfile::tempdir().unwrap();
    let broker = closed();
    let error = without_broker(&broker, folder.path()).await;
    let mut found = ConditionSet::new();
    for step in condition::JOIN_ORDER {
        found.set_true(step, "Done", "it holds");
    }
    set_stopped(&mut found, &error);
    reporter.open().await.unwrap();
    reporter.report(&found).await.unwrap();
    reporter.report_identity(CLUSTER, "2099-01-01T00:00:00.000Z").await.unwrap();
    is_as_committed("broker-unreachable", &described(&server, &["nova", "default"], &[(&broker, "<broker>")]));
    let _deleted = server.kubectl_ok(&["delete", "nova", "default"], "");

    let mut found = ConditionSet::new();
    for step in condition::JOIN_ORDER {
        found.set_true(step, "Done", "it holds");
    }
    reporter.open().await.unwrap();
    reporter.report(&found).await.unwrap();
    without_roles(&server, &apiserver).await;
    reporter.report(&ConditionSet::new()).await.unwrap();
    is_as_committed("component-not-ready", &described(&server, &["nova", "default"], &[]));
}

/// Capsule is to be installed where the chart's roles for it are missing.
async fn without_roles(server: &ApiServer, apiserver: &Apiserver) {
    let config = json!({ "apiVersion": "kubenova.io/v1alpha1", "kind": "NovaClusterConfig", "metadata": { "name": "default" },
        "spec": { "components": { "capsule": { "enabled": true }, "capsuleProxy": {}, "kubevela": {} } } });
    apply(server, &config).unwrap();
    let servers = std::path::PathBuf::from(std::env::var_os("KUBENOVA_SERVERS").unwrap());
    let context = InstallContext {
        apiserver: apiserver.clone(),
        state_namespace: NAMESPACE.to_owned(),
        charts_dir: servers.join("charts"),
        helm: servers.join("bin/helm"),
        metrics: metrics::registry().1,
        shutdown: Shutdown::new(),
    };
    let reconciled = cluster_config::reconcile(&context, &ApplyCache::default()).await.unwrap();
    assert_eq!(reconciled, Reconciled::Unsettled);
}

/// A tenant with this report, as its controller writes it.
async fn tenant(server: &ApiServer, name: &str, report: &TenantReport, applications: &[ObjectStatus]) {
    let object = json!({ "apiVersion": "kubenova.io/v1alpha1", "kind": "NovaTenant", "metadata": { "name": name },
        "spec": { "tenantId": TENANT } });
    apply(server, &object).unwrap();
    let apiserver = client(server).await;
    let tenants: Api<NovaTenant> = Api::all(apiserver.client());
    let written = status::update(&tenants, name, |tenant| {
        let status = tenant.status.get_or_insert_default();
        let _merged = report.write_into(status, Some(1), clock::now());
        let _changed = Applications::of(applications).write_into(status, name, Some(1), clock::now());
        true
    });
    let written = written.await.unwrap().unwrap();
    if let Some(Stopped { condition, reason, message }) = &report.stopped {
        let note = format!("{condition}: {message}");
        event::publish(&apiserver, event::Kind::Warning, reason, &note, written.object_ref(&())).await;
    }
}

fn capsule(name: &str) -> CapsuleStatus {
    CapsuleStatus {
        ready: true,
        state: "Active".to_owned(),
        namespaces: ["owner", "apps"].map(|part| (format!("{name}-{part}"), format!("uid-of-{part}"))).to_vec(),
        ..CapsuleStatus::default()
    }
}

#[tokio::test]
async fn of_a_tenant_whose_namespace_is_taken() {
    let server = server();
    let message = ownership::taken("Namespace", "globex-apps", TENANT);
    let report = TenantReport {
        reached: vec![(STEPS[0], "the Capsule Tenant is ready")],
        stopped: Some(Stopped::new(STEPS[1], "NamespaceTaken", message)),
        ..TenantReport::default()
    };
    tenant(&server, "globex", &report, &[]).await;
    is_as_committed("namespace-taken", &described(&server, &["novat", "globex"], &[]));
}

#[tokio::test]
async fn of_a_tenant_with_an_application_that_is_not_ready() {
    let server = server();
    let report = TenantReport {
        reached: STEPS.map(|step| (step, "in place")).to_vec(),
        capsule: capsule("initech"),
        ..TenantReport::default()
    };
    let ready = |status: &str, reason: &str, message: &str| {
        let [status, reason, message] = [status, reason, message].map(str::to_owned);
        vec![Condition { r#type: "Ready".to_owned(), status, reason, message, ..Condition::default() }]
    };
    let why = "Deployment \"shop\": container \"web\" of pod \"shop-6c9\" cannot pull image \"registry.example/shop:2\": not found; push \
               the image, or change it in the application";
    let applications = [
        ObjectStatus {
            key: "application/t/blog".to_owned(),
            conditions: ready("True", "Running", ""),
            ..ObjectStatus::default()
        },
        ObjectStatus {
            key: "application/t/shop".to_owned(),
            conditions: ready("False", "ImagePullBackOff", why),
            ..ObjectStatus::default()
        },
    ];
    tenant(&server, "initech", &report, &applications).await;
    is_as_committed("application-not-ready", &described(&server, &["novat", "initech"], &[]));
}
