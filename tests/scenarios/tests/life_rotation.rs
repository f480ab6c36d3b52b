//! The Manager's keys are replaced while clusters work: command key, cluster signer, certificate authority. No command is lost, no process
//! ends, no cluster needs a person; and what was retired no longer counts.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use data_encoding::BASE64;
use kubenova_bus::cause::ConnectCause;
use kubenova_bus::{Credentials, Settings, connection};
use kubenova_env::poll::{self, Step};
use kubenova_runtime::clock;
use kubenova_scenarios::broker;
use kubenova_scenarios::oracle;
use kubenova_scenarios::platform::{Platform, PlatformOptions};
use kubenova_scenarios::simulated;
use kubenova_scenarios::site::{NAMESPACE, Site, text};
use kubenova_scenarios::steps::{self, COMMAND_MAX, COMPONENTS_MAX};
use kubenova_scenarios::writers::Writer;
use kubenova_schema::subjects;
use kubenova_simulator::cluster::Options;
use kubenova_trust::authority::Validity;
use kubenova_trust::keyring::Keyring;
use nkeys::KeyPair;
use serde_json::{Value, json};
use tokio::sync::watch;

/// Life of the credentials: long enough that none is renewed without being asked, and a 24th of it, the pause after each renewal, short.
const LIFE_SECONDS: u32 = 900;
const JOIN_MAX: Duration = Duration::from_secs(120);
/// Until every cluster has new credentials: keys are read every 3 s, clusters asked after a heartbeat and again after 30 s, and an Operator
/// renews up to 37 s after the renewal before.
const RENEWED_MAX: Duration = Duration::from_secs(150);

/// Waits until `keys list` says that every cluster has new credentials.
async fn wait_renewed(platform: &Platform, key: &str) -> Result<()> {
    poll::until(format!("every cluster to have credentials of the new {key}"), RENEWED_MAX, || async {
        let list = platform.manager.run(&["keys", "list"])?;
        let line = list.lines().find(|line| line.starts_with("clusters: ")).unwrap_or_default().to_owned();
        Ok(Step::when(line.contains("all that are enrolled"), (), line))
    })
    .await
}

async fn issued_at(platform: &Platform, site: &Site) -> Result<String> {
    let cluster = platform.rest.get(&format!("/api/v1/clusters/{}", site.id)).await?.expect(200)?;
    text(&cluster, "/credentials/issuedAt")
}

/// Why a key is not retired.
fn refusal(platform: &Platform, key: &str) -> Result<String> {
    let refused = platform.manager.run(&["keys", "retire", key]).err().context("the key was retired")?;
    Ok(format!("{refused:#}"))
}

/// Makes a key, waits until it is everywhere, and ends the former one.
async fn rotate_and_retire(platform: &Platform, key: &str) -> Result<()> {
    platform.manager.run(&["keys", "rotate", key])?;
    let refused = refusal(platform, key)?;
    ensure!(refused.contains("alpha") && refused.contains("--force"), "{refused}");
    wait_renewed(platform, key).await?;
    platform.manager.run(&["keys", "retire", key]).map(drop)
}

/// Whether the broker lets in a user of the cluster's account that the signer of these keys has signed.
async fn is_let_in(platform: &Platform, site: &Site, keys: &Keyring) -> Result<bool> {
    let pair = KeyPair::new_user();
    let validity = Validity { now: clock::now(), lifetime: Duration::from_secs(600) };
    let user_jwt = keys.nkeys.cluster_user(&site.id, &pair.public_key(), validity)?;
    let own = broker::settings(platform, &broker::keyring(platform)?)?;
    let credentials = Credentials { user_jwt, seed: pair.seed()? };
    let inbox_prefix = Some(subjects::inbox_prefix(&site.id));
    let settings = Settings { credentials, inbox_prefix, api_prefix: Some(subjects::API_PREFIX.to_owned()), ..own };
    match connection::check(&settings).await {
        Ok(()) => Ok(true),
        Err(error) if error.cause() == ConnectCause::CredentialsRefused => Ok(false),
        Err(error) => Err(error).context("neither let in nor refused"),
    }
}

/// What the cluster verifies the Manager with is in its Secret: nothing that was retired.
fn only_present_keys_count(site: &Site, present: &Keyring) -> Result<()> {
    let secret = site.get(&["secret", "kubenova-identity", "-n", NAMESPACE])?;
    let identity = BASE64.decode(text(&secret, "/data/current.json")?.as_bytes())?;
    let answer = &serde_json::from_slice::<Value>(&identity)?["answer"];
    let keys: Vec<&str> =
        answer["commandKeys"].as_array().into_iter().flatten().filter_map(|key| key["keyId"].as_str()).collect();
    assert_eq!(keys, present.command.public().iter().map(|key| key.key_id.as_str()).collect::<Vec<_>>());
    assert_eq!(answer["caBundlePem"], present.authority.bundle_pem());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn life_rotation_of_every_key_under_load() -> Result<()> {
    let options = PlatformOptions { credentials_seconds: Some(LIFE_SECONDS), ..PlatformOptions::default() };
    let mut platform = Platform::start(&options).await?;
    let site = Site::join(&platform, "alpha", 1).await?;
    site.wait_condition("BusConnected", "True", JOIN_MAX).await?;
    let tenant = steps::create_tenant(&platform, "acme", &["alpha"]).await?;
    steps::wait_commands(&platform, &tenant["commands"], "succeeded", COMPONENTS_MAX).await?;
    site.set_value("sovereignPolicy.deletesPerHour=100000")?;
    // A token that pins the root of now, and is not used.
    let enrollments = format!("/api/v1/clusters/{}/enrollments", site.id);
    let unused = platform.rest.post(&enrollments, &json!({})).await?.expect(201)?;
    let pids = site.operator()?.pids();

    let (stop, stopped) = watch::channel(false);
    let writer = Writer::new(&platform.rest, "acme", vec!["alpha".to_owned()], 5, 1);
    let writing = tokio::spawn(writer.run(stopped));
    let stolen = broker::keyring(&platform)?;
    rotate_and_retire(&platform, "command").await?;
    rotate_and_retire(&platform, "cluster-signer").await?;
    let present = broker::keyring(&platform)?;
    ensure!(is_let_in(&platform, &site, &present).await?, "a user that the present signer has signed is refused");
    ensure!(!is_let_in(&platform, &site, &stolen).await?, "a user that the retired signer has signed is let in");

    platform.manager.run(&["keys", "rotate", "ca"])?;
    wait_renewed(&platform, "ca").await?;
    let refused = refusal(&platform, "ca")?;
    ensure!(refused.contains("enrollment tokens that pin the former root"), "{refused}");
    ensure!(refused.contains("does not work with the new CA alone"), "{refused}");
    platform.manager.write_nats_config(&platform.nats_folder)?;
    platform.hub.reload()?;
    platform.rest.delete(&format!("{enrollments}/{}", text(&unused, "/id")?)).await?.expect(200)?;

    stop.send_replace(true);
    let accepted = writing.await??;
    steps::wait_no_open_commands(&platform, COMMAND_MAX).await?;
    oracle::check_real(&site, "acme", &accepted)?;
    oracle::expect_none(&oracle::commands(&platform.rest, &accepted).await?)?;

    let issued = issued_at(&platform, &site).await?;
    platform.manager.run(&["keys", "retire", "ca"])?;
    platform.manager.write_nats_config(&platform.nats_folder)?;
    platform.hub.reload()?;
    let bundle = std::fs::read_to_string(&platform.ca_file)?;
    assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), 1, "one root is left");
    platform.trust_rotated()?;
    platform.wait_ready().await?;
    let simulated = simulated::join(&platform, "later", 1, Options::default()).await?;
    simulated::wait_in_session(&simulated, JOIN_MAX).await?;
    // Renewed, and connected again, with the new root alone.
    poll::until("the credentials to be renewed once more", RENEWED_MAX, || async {
        let now = issued_at(&platform, &site).await?;
        Ok(Step::when(now != issued, (), format!("still those of {now}")))
    })
    .await?;
    let present = broker::keyring(&platform)?;
    broker::connect(&platform, &present).await?;
    ensure!(broker::connect(&platform, &stolen).await.is_err(), "a certificate of the retired CA is accepted");
    only_present_keys_count(&site, &present)?;
    let shop = steps::web_application("shop", 1, &["alpha"]);
    let shop = platform.rest.post("/api/v1/tenants/acme/apps", &shop).await?.expect(202)?;
    steps::wait_commands(&platform, &shop["commands"], "succeeded", COMMAND_MAX).await?;
    site.wait_condition("BusConnected", "True", JOIN_MAX).await?;
    assert_eq!(site.operator()?.pids(), pids, "the process never ended");
    steps::wait_no_open_commands(&platform, COMMAND_MAX).await
}
