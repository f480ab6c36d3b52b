//! What the Operator asked the API server while requests were made, from the API server's audit log: calls a request, and
//! how long the API server took for each.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use kubenova_env::audit::AuditEvent;
use kubenova_scenarios::site::Site;

use crate::statistics::{Sample, milliseconds};

const OPERATOR: &str = "system:serviceaccount:kubenova-system:kubenova-operator";

/// One row for each kind of call, the frequent ones first.
pub(crate) fn rows(site: &Site, from: Timestamp, to: Timestamp, requests: u64) -> Result<Vec<String>> {
    let mut calls: BTreeMap<String, Sample> = BTreeMap::new();
    for event in site.cluster.audit()? {
        // A watch is answered when it ends.
        let is_counted = event.user.username == OPERATOR && event.verb != "watch";
        if is_counted && (from..to).contains(&event.received_at) {
            let took = Duration::try_from(event.answered_at.duration_since(event.received_at)).unwrap_or_default();
            calls.entry(name(&event)).or_default().push(took);
        }
    }
    let mut calls: Vec<(String, Sample)> = calls.into_iter().collect();
    calls.sort_by_key(|(_, sample)| std::cmp::Reverse(sample.len()));
    let a_request = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / requests as f64;
    let row = |(name, sample): &(String, Sample)| {
        format!(
            "| {name} | {:.2} | {:.1} | {:.1} |",
            a_request(sample.len()),
            milliseconds(sample, 50),
            milliseconds(sample, 99)
        )
    };
    let head = "| call of the Operator | a request | p50 ms | p99 ms |\n| --- | --- | --- | --- |".to_owned();
    Ok(std::iter::once(head).chain(calls.iter().map(row)).collect())
}

fn name(event: &AuditEvent) -> String {
    let object = event.object_ref.clone().unwrap_or_default();
    let subresource = if object.subresource.is_empty() { String::new() } else { format!("/{}", object.subresource) };
    let user = if event.impersonated_user.is_some() { " as deployer" } else { "" };
    format!("{} {}{subresource}{user}", event.verb, object.resource)
}
