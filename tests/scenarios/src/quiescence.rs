//! Whether a cluster comes to rest: once nothing is asked of it any more, the Operator writes nothing to its API server.
//!
//! Read from the API server's audit log, and from the versions of the objects; nothing of it is said by the product.

use std::time::Duration;

use anyhow::Result;
use kubenova_env::audit::AuditEvent;
use kubenova_env::poll::{self, Step};
use kubenova_runtime::clock;

use crate::site::Site;

/// The Operator, also when it acts for a tenant.
const OPERATOR_USER: &str = "system:serviceaccount:kubenova-system:kubenova-operator";
/// What it writes for ever by design: it holds its Lease, and keeps what it observes of usage.
const UNENDING: [&str; 2] = ["leases", "novausagereports"];
/// Nothing is written for so long: several heartbeats, and a window of usage in tests.
pub const QUIET: Duration = Duration::from_secs(15);
/// For that to begin. Status follows a while after every command has ended.
const QUIET_WITHIN: Duration = Duration::from_secs(180);
/// Writes that are named when it does not.
const NAMED_MAX: usize = 5;

/// Waits until the Operator has written nothing and no object of the product has changed for [`QUIET`].
///
/// # Errors
/// With what goes on when that does not come.
pub async fn wait_quiet(site: &Site) -> Result<()> {
    poll::until(format!("cluster {} to come to rest", site.name), QUIET_WITHIN, || async {
        let (from, before) = (clock::now(), site.versions()?);
        // What is measured, and no wait for anything.
        tokio::time::sleep(QUIET).await;
        let events = site.cluster.audit()?;
        let written: Vec<String> = writes(&events, |event| event.received_at >= from);
        let after = site.versions()?;
        let changed: Vec<&String> =
            after.iter().filter(|(key, now)| before.get(*key) != Some(*now)).map(|(key, _)| key).collect();
        let is_quiet = written.is_empty() && changed.is_empty() && before.len() == after.len();
        let named: Vec<&String> = written.iter().take(NAMED_MAX).collect();
        let seen = format!("{} writes, among them {named:?}; changed objects: {changed:?}", written.len());
        Ok(Step::when(is_quiet, (), seen))
    })
    .await
}

fn writes(events: &[AuditEvent], is_counted: impl Fn(&AuditEvent) -> bool) -> Vec<String> {
    let of_operator = events.iter().filter(|event| event.is_write() && event.user.username == OPERATOR_USER);
    of_operator
        .filter(|event| is_counted(event))
        .filter_map(|event| {
            let about = event.object_ref.as_ref().filter(|about| !UNENDING.contains(&about.resource.as_str()))?;
            Some(format!("{} {}/{}/{} {}", event.verb, about.resource, about.namespace, about.name, event.code()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(verb: &str, user: &str, resource: &str) -> AuditEvent {
        serde_json::from_value(json!({
            "verb": verb, "requestURI": "/", "user": { "username": user },
            "objectRef": { "resource": resource, "namespace": "n", "name": "x" }, "responseStatus": { "code": 200 },
            "requestReceivedTimestamp": "2026-11-25T03:00:00Z", "stageTimestamp": "2026-11-25T03:00:00Z",
        }))
        .unwrap()
    }

    #[test]
    fn what_the_operator_writes_counts_but_for_its_lease_and_usage() {
        let events = [
            event("patch", OPERATOR_USER, "novatenants"),
            event("get", OPERATOR_USER, "novatenants"),
            event("update", OPERATOR_USER, "leases"),
            event("update", OPERATOR_USER, "novausagereports"),
            event("patch", "vela", "applications"),
        ];
        assert_eq!(writes(&events, |_| true), ["patch novatenants/n/x 200"]);
        assert!(writes(&events, |event| event.verb == "get").is_empty());
    }
}
