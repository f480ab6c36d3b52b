//! Decides whether what clusters hold and did is what clients were promised.
//!
//! Knows the clients' own history (`writers.rs`), objects as the cluster's API server has them, and what the simulated clusters
//! remember of their deeds. Nothing is read from the product's own counters.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context as _, Result, bail, ensure};
use kubenova_simulator::cluster::SimulatedCluster;
use kubenova_simulator::inbox::Effect;
use serde_json::Value;

use crate::rest::Rest;
use crate::site::{Site, text};
use crate::writers::{self, Accepted, Allowed};

/// What must never happen to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// It was accepted, and did not come to be.
    Lost,
    /// It was carried out twice.
    Doubled,
    /// It was replaced or never accepted, and stands in a cluster.
    Stale,
    /// It was carried out after a later one of its object.
    OutOfOrder,
}

/// A violation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Of which kind.
    pub wrong: Wrong,
    /// What was found, and where.
    pub text: String,
}

impl Finding {
    /// With what was found.
    pub fn new(wrong: Wrong, text: impl Into<String>) -> Self {
        Self { wrong, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.wrong, self.text)
    }
}

/// Fails with the first violation.
///
/// # Errors
/// When there is one.
pub fn expect_none(findings: &[Finding]) -> Result<()> {
    match findings.first() {
        None => Ok(()),
        Some(first) => bail!("{} violations, the first: {first}", findings.len()),
    }
}

/// Applications of a cluster, each with the number of the write that made it.
pub type Held = BTreeMap<String, u64>;

/// Applications of a simulated cluster.
pub fn held_by_simulated(cluster: &SimulatedCluster, tenant_id: &str) -> Held {
    let prefix = format!("application/{tenant_id}/");
    let inbox = cluster.inbox();
    let objects = inbox.objects().filter_map(|(key, document)| Some((key.strip_prefix(&prefix)?, document)));
    objects.map(|(name, document)| (name.to_owned(), writers::number_in(document).unwrap_or_default())).collect()
}

/// Applications of a real cluster, read from its API server.
///
/// # Errors
/// When it cannot be asked.
pub fn held_by_real(site: &Site, tenant: &str) -> Result<Held> {
    let namespace = format!("{tenant}-apps");
    let items = site.list(&["applications.core.oam.dev", "-n", &namespace])?;
    items.iter().map(|item| Ok((text(item, "/metadata/name")?, number_of(item)))).collect()
}

/// The number of the write that made an Application.
pub fn number_of(application: &Value) -> u64 {
    let image = application.pointer("/spec/components/0/properties/image").and_then(Value::as_str);
    image.and_then(writers::number_in).unwrap_or_default()
}

fn allowed_on(cluster: &str, accepted: &[Accepted]) -> BTreeMap<String, Allowed> {
    let all = writers::allowed(accepted).into_iter();
    all.filter_map(|((on, name), states)| (on == cluster).then_some((name, states))).collect()
}

/// Whether a cluster holds what was accepted last for it, and nothing else.
pub fn compare(cluster: &str, held: &Held, accepted: &[Accepted]) -> Vec<Finding> {
    let allowed = allowed_on(cluster, accepted);
    let names: BTreeSet<&String> = held.keys().chain(allowed.keys()).collect();
    let never = Allowed::from([None]);
    let mut findings = Vec::new();
    for name in names {
        let (is, may) = (held.get(name).copied(), allowed.get(name).unwrap_or(&never));
        if may.contains(&is) {
            continue;
        }
        let wrong = if is.is_none() { Wrong::Lost } else { Wrong::Stale };
        let text = format!("{cluster} holds write {is:?} as {name}; what was accepted allows {may:?}");
        findings.push(Finding::new(wrong, text));
    }
    findings
}

/// What became of the writes that a restore of the database may have taken back: for each application in doubt what its cluster
/// holds, as a write that is certain from now on.
pub fn settled(cluster: &str, held: &Held, accepted: &[Accepted]) -> Vec<Accepted> {
    let in_doubt = allowed_on(cluster, accepted).into_iter().filter(|(_, states)| states.len() > 1);
    in_doubt
        .map(|(application, _)| {
            let number = held.get(&application).copied();
            Accepted { cluster: cluster.to_owned(), application, number, command: None, may_be_lost: false }
        })
        .collect()
}

/// Whether the Manager shows an application as its cluster holds it.
///
/// # Errors
/// When the Manager does not say.
pub async fn shown(rest: &Rest, tenant: &str, settled: &[Accepted]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for write in settled {
        let path = format!("/api/v1/tenants/{tenant}/apps/{}", write.application);
        let answer = rest.get(&path).await?;
        let shown = match answer.status {
            404 => None,
            _ => writers::number_in(&answer.expect(200)?.to_string()),
        };
        if shown != write.number {
            let text =
                format!("the Manager shows write {shown:?} of what it recovered, and its cluster holds {write:?}");
            findings.push(Finding::new(Wrong::Stale, text));
        }
    }
    Ok(findings)
}

/// Whether a simulated cluster did nothing twice, and nothing out of order. What a restore of the cluster took back may be done
/// once more.
pub fn effects(cluster: &str, effects: &[Effect]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut done = BTreeSet::new();
    let mut last: BTreeMap<(u32, &str), (u64, u64)> = BTreeMap::new();
    for effect in effects {
        if !done.insert((effect.restores, &effect.command_id)) {
            findings.push(Finding::new(Wrong::Doubled, format!("{cluster}: {effect:?}")));
        }
        let before = last.insert((effect.restores, &effect.key), effect.number).unwrap_or_default();
        if before >= effect.number {
            findings.push(Finding::new(Wrong::OutOfOrder, format!("{cluster}: {before:?} came before {effect:?}")));
        }
    }
    findings
}

/// Whether every accepted write ended as it may: carried out, or superseded by a later one of its application. What may be lost
/// cannot be asked for; what it did is compared.
///
/// # Errors
/// When the Manager does not say.
pub async fn commands(rest: &Rest, accepted: &[Accepted]) -> Result<Vec<Finding>> {
    let key = |write: &Accepted| (write.cluster.clone(), write.application.clone());
    let last: BTreeMap<_, usize> = accepted.iter().enumerate().map(|(index, write)| (key(write), index)).collect();
    let mut findings = Vec::new();
    for (index, write) in accepted.iter().enumerate() {
        let Some(id) = write.command.as_ref().filter(|_| !write.may_be_lost) else { continue };
        let command = rest.get(&format!("/api/v1/commands/{id}")).await?.expect(200)?;
        let state = command["state"].as_str().context("a command has a state")?;
        // What a later write replaced before it was sent was never carried out.
        let is_replaced = last.get(&key(write)) != Some(&index);
        // Recovery sends the content of a command again under another id when its cluster gave its revision to a lost one.
        let is_sent_again = state == "superseded" && command["reason"] == "Recovered";
        if state != "succeeded" && !is_sent_again && !(is_replaced && matches!(state, "superseded" | "cancelled")) {
            findings.push(Finding::new(Wrong::Lost, format!("{write:?} ended as {command}")));
        }
    }
    Ok(findings)
}

/// Fails unless a simulated cluster holds what was accepted last, did nothing twice, and nothing out of order.
///
/// # Errors
/// With the first violation.
pub fn check_simulated(cluster: &SimulatedCluster, tenant_id: &str, accepted: &[Accepted]) -> Result<()> {
    expect_none(&compare(&cluster.name, &held_by_simulated(cluster, tenant_id), accepted))?;
    expect_none(&effects(&cluster.name, cluster.inbox().effects()))
}

/// Fails unless a real cluster holds what was accepted last, and its API server was asked for no application more often than was
/// written.
///
/// # Errors
/// With the first violation.
pub fn check_real(site: &Site, tenant: &str, accepted: &[Accepted]) -> Result<()> {
    expect_none(&compare(&site.name, &held_by_real(site, tenant)?, accepted))?;
    let audit = site.cluster.audit()?;
    for name in allowed_on(&site.name, accepted).into_keys() {
        let writes = audit.iter().filter(|event| {
            let about = event.object_ref.as_ref();
            let is_it =
                about.is_some_and(|it| it.resource == "applications" && it.name == name && it.subresource.is_empty());
            let is_ours =
                event.impersonated_user.as_ref().is_some_and(|user| user.username.ends_with("kubenova-deployer"));
            is_it && is_ours && event.is_write() && event.code() < 300
        });
        let (writes, most) =
            (writes.count(), accepted.iter().filter(|it| it.cluster == site.name && it.application == name).count());
        ensure!(writes <= most, "{}: {name} was written {writes} times, and {most} writes were accepted", site.name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(application: &str, number: Option<u64>) -> Accepted {
        let application = application.to_owned();
        Accepted { cluster: "a".into(), application, number, command: Some(format!("{number:?}")), may_be_lost: false }
    }

    fn doubtful(application: &str, number: Option<u64>) -> Accepted {
        Accepted { may_be_lost: true, ..write(application, number) }
    }

    fn kinds(findings: &[Finding]) -> Vec<Wrong> {
        findings.iter().map(|finding| finding.wrong).collect()
    }

    #[test]
    fn what_a_cluster_holds_is_compared_with_the_last_accepted_write() {
        let accepted = [write("x", Some(1)), write("x", Some(2)), write("y", Some(3)), write("y", None)];
        let compared = |held: &[(&str, u64)]| {
            let held = held.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect();
            kinds(&compare("a", &held, &accepted))
        };
        assert_eq!(compared(&[("x", 2)]), []);
        assert_eq!(compared(&[]), [Wrong::Lost]);
        assert_eq!(compared(&[("x", 1)]), [Wrong::Stale], "an earlier write");
        assert_eq!(compared(&[("x", 2), ("y", 3)]), [Wrong::Stale], "what was deleted");
        assert_eq!(compared(&[("x", 2), ("z", 9)]), [Wrong::Stale], "what was never accepted");
        assert_eq!(kinds(&compare("b", &Held::new(), &accepted)), []);
    }

    #[test]
    fn what_a_restore_may_have_taken_back_may_stand_or_not_until_it_is_settled() {
        let mut accepted =
            vec![write("x", Some(1)), write("x", Some(2)), doubtful("x", Some(3)), doubtful("y", Some(4))];
        let held =
            |held: &[(&str, u64)]| held.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect::<Held>();
        for allowed in [&[("x", 2)][..], &[("x", 3)], &[("x", 2), ("y", 4)]] {
            assert_eq!(kinds(&compare("a", &held(allowed), &accepted)), []);
        }
        assert_eq!(kinds(&compare("a", &held(&[("x", 1)]), &accepted)), [Wrong::Stale], "replaced before the backup");
        assert_eq!(
            kinds(&compare("a", &held(&[]), &accepted)),
            [Wrong::Lost],
            "the write before the backup was certain"
        );
        let is = held(&[("x", 3)]);
        accepted.extend(settled("a", &is, &accepted));
        assert_eq!(kinds(&compare("a", &is, &accepted)), []);
        assert_eq!(kinds(&compare("a", &held(&[("x", 2), ("y", 4)]), &accepted)), [Wrong::Stale, Wrong::Stale]);
    }

    #[test]
    fn a_deed_that_is_done_again_or_late_is_found_unless_a_restore_took_it_back() {
        let effect = |restores: u32, id: &str, revision: u64| Effect {
            key: "k".into(),
            command_id: id.into(),
            number: (1, revision),
            restores,
        };
        assert_eq!(kinds(&effects("a", &[effect(0, "1", 1), effect(0, "2", 2)])), []);
        assert_eq!(kinds(&effects("a", &[effect(0, "2", 2), effect(0, "1", 1)])), [Wrong::OutOfOrder]);
        let again = [effect(0, "1", 1), effect(0, "1", 1)];
        assert_eq!(kinds(&effects("a", &again)), [Wrong::Doubled, Wrong::OutOfOrder]);
        assert_eq!(kinds(&effects("a", &[effect(0, "1", 1), effect(1, "1", 1)])), []);
    }
}
