//! What clusters reported is shown with its time, by every route.

use crate::routes::applications::testing::{APPS, SHOP, World, form};
use jiff::{SignedDuration, Timestamp, Unit};
use kubenova_core::command::CommandState;
use kubenova_runtime::clock;
use serde_json::{Value, json};

/// So many seconds ago, to the second.
fn ago(seconds: i64) -> Timestamp {
    clock::now().round(Unit::Second).unwrap() - SignedDuration::from_secs(seconds)
}

/// Every route that shows what a cluster reported, read when that cluster's last heartbeat was an hour ago.
#[tokio::test]
async fn every_route_says_as_of_when() {
    let world = World::new().await;
    let heartbeat = ago(3600);
    let command = world.post(APPS, form("west")).await.is(202).commands()[0];
    let before = world.get("/api/v1/clusters/west").await.is(200).body;
    assert_eq!((&before["asOf"], &before["connection"]), (&Value::Null, &json!("unknown")));
    world.api.hello(&world.west, heartbeat).await;
    let tenant = format!("tenant/{}", world.acme);
    world.api.observe(&world.west, "cluster-config/default", heartbeat).await;
    world.api.observe(&world.west, &tenant, heartbeat).await;
    let command = format!("/api/v1/commands/{command}");
    for (path, pointers) in [
        ("/api/v1/clusters", &["/items/0/asOf"][..]),
        ("/api/v1/clusters/west", &["/asOf", "/observed/asOf"][..]),
        ("/api/v1/clusters/west/sync", &["/asOf"][..]),
        ("/api/v1/tenants/acme/placements", &["/items/0/observed/asOf"][..]),
        ("/api/v1/tenants/acme/apps/shop/status", &["/asOf", "/clusters/0/asOf", "/clusters/0/command/asOf"][..]),
        ("/users/acme/apps/shop/status", &["/asOf", "/clusters/0/asOf"][..]),
        ("/api/v1/commands?cluster=west", &["/items/0/asOf", "/items/1/asOf"][..]),
        (command.as_str(), &["/asOf"][..]),
    ] {
        let body = world.get(path).await.is(200).body;
        for pointer in pointers {
            let as_of = body.pointer(pointer).and_then(Value::as_str);
            assert_eq!(as_of, Some(heartbeat.to_string().as_str()), "{path} {pointer}: {body}");
        }
    }
}

#[tokio::test]
async fn what_the_slowest_cluster_did_not_say_is_not_known() {
    let world = World::new().await;
    let (west, east) = (ago(7), ago(600));
    let both = json!({ "name": "shop", "image": "nginx:1", "clusters": ["west", "east"] });
    world.post(APPS, both).await.is(202);
    world.api.hello(&world.west, west).await;
    let status = format!("{SHOP}/status");
    let body = world.get(&status).await.is(200).body;
    assert_eq!(body["asOf"], Value::Null, "one has said nothing: {body}");
    world.api.hello(&world.east, east).await;
    let body = world.get(&status).await.is(200).body;
    assert_eq!(body["asOf"], east.to_string());
}

#[tokio::test]
async fn a_removal_says_as_of_when_its_state_is_known() {
    let world = World::new().await;
    let command = world.post(APPS, form("west")).await.is(202).commands()[0];
    world.api.relay(&world.west).await;
    world.api.report(&world.west, command, CommandState::Succeeded, "Running").await;
    world.delete(SHOP).await.is(202);
    let heartbeat = ago(0);
    world.api.hello(&world.west, heartbeat).await;
    for (path, pointer) in [(APPS, "/items/0/clusters/0/removal/asOf"), (SHOP, "/clusters/0/removal/asOf")] {
        let body = world.get(path).await.is(200).body;
        assert_eq!(body.pointer(pointer), Some(&json!(heartbeat.to_string())), "{path}: {body}");
    }
}
