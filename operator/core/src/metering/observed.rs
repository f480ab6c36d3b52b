//! The objects that are metered, as small as possible, and the steps their changes make.
//!
//! An object belongs to the tenant of its namespace. Whatever order the watches of namespaces, pods and Applications
//! arrive in, a tenant's level is the sum over the objects in its namespaces; this file only says how it changes.

use super::{
    Levels,
    step_function::{Cause, Step},
};
use kubenova_schema::mutant;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Where observations come from: one watch each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Namespaces; first, because they assign the others to tenants.
    Namespaces,
    /// Pods.
    Pods,
    /// KubeVela Applications.
    Applications,
}

impl Source {
    /// Every source; the position is its number in a checkpoint.
    pub const ALL: [Self; 3] = [Self::Namespaces, Self::Pods, Self::Applications];

    /// For logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Pods => "pods",
            Self::Applications => "applications",
        }
    }
}

/// A tenant as its namespaces name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRef {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// One object as listed or watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Its UID.
    pub uid: String,
    /// The namespace it is in; for a namespace its own name.
    pub namespace: String,
    /// Its version.
    pub resource_version: u64,
    /// Its creation, whole seconds.
    pub created_ms: i64,
    /// It counts until then at most.
    pub until_ms: Option<i64>,
    /// Namespaces only: whose it is.
    pub tenant: Option<TenantRef>,
    /// What it adds to its tenant's levels.
    pub levels: Levels,
}

/// How steps are dated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When {
    /// Creation is never before this.
    pub floor_ms: i64,
    /// Date of every step that is no creation.
    pub dated_ms: i64,
    /// When it was learned; no step is after it.
    pub received_ms: i64,
}

impl When {
    fn creation(&self, created_ms: i64) -> i64 {
        created_ms.max(self.floor_ms).min(self.received_ms.max(self.floor_ms))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Tracked {
    source: Source,
    namespace: String,
    resource_version: u64,
    created_ms: i64,
    until_ms: Option<i64>,
    levels: Levels,
    /// Date of its last step: none is dated before it.
    since_ms: i64,
}

/// Everything seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    objects: HashMap<String, Tracked>,
    namespaces: HashMap<String, Option<TenantRef>>,
    /// By UID of a namespace: whose it is when its label does not say so.
    recognized: HashMap<String, TenantRef>,
    /// UIDs of namespaces that are counted although their label names no tenant.
    unlabelled: BTreeSet<String>,
    expiries: BTreeSet<(i64, String)>,
}

impl Observed {
    /// Takes an object in, new or changed.
    pub fn put(&mut self, source: Source, mut observation: Observation, when: When) -> Vec<Step> {
        let mut steps = Vec::new();
        if observation.uid.is_empty() {
            return steps;
        }
        if source == Source::Namespaces {
            self.recognize_unlabelled(&mut observation);
            self.assign(&observation, when, &mut steps);
        }
        let over = observation.until_ms.is_some_and(|until| until <= when.dated_ms);
        let levels = if over { Levels::ZERO } else { observation.levels };
        let known = self.objects.get(&observation.uid);
        let (at_ms, before, cause) = match known {
            Some(known) => (when.dated_ms.max(known.since_ms), known.levels, Cause::Changed),
            None => (when.creation(observation.created_ms), Levels::ZERO, Cause::Created),
        };
        if let Some(until) = known.and_then(|known| known.until_ms) {
            self.expiries.remove(&(until, observation.uid.clone()));
        }
        if let Some(until) = observation.until_ms.filter(|_| !levels.is_zero()) {
            self.expiries.insert((until, observation.uid.clone()));
        }
        let changed = levels != before;
        let since_ms = known.filter(|_| !changed).map_or(at_ms, |known| known.since_ms);
        self.step(&observation.namespace, at_ms, levels.minus(before), cause, &mut steps);
        let tracked = Tracked {
            source,
            namespace: observation.namespace,
            resource_version: observation.resource_version,
            created_ms: observation.created_ms,
            until_ms: observation.until_ms,
            levels,
            since_ms,
        };
        self.objects.insert(observation.uid, tracked);
        steps
    }

    /// An object is gone.
    pub fn remove(&mut self, uid: &str, when: When) -> Vec<Step> {
        let mut steps = Vec::new();
        let Some(gone) = self.objects.remove(uid) else { return steps };
        if let Some(until) = gone.until_ms {
            self.expiries.remove(&(until, uid.to_owned()));
        }
        let at_ms = when.dated_ms.max(gone.since_ms);
        self.step(&gone.namespace, at_ms, Levels::ZERO.minus(gone.levels), Cause::Deleted, &mut steps);
        if gone.source == Source::Namespaces {
            self.reassign(&gone.namespace, None, when, &mut steps);
            self.namespaces.remove(&gone.namespace);
            self.unlabelled.remove(uid);
        }
        steps
    }

    /// Says whose namespaces are, by UID, for those whose label does not.
    pub fn recognize(&mut self, namespaces: impl IntoIterator<Item = (String, TenantRef)>) {
        self.recognized.extend(namespaces);
    }

    /// UIDs of namespaces that are counted although their label names no tenant, each with the tenant.
    pub fn unlabelled(&self) -> impl Iterator<Item = (&str, &TenantRef)> {
        self.unlabelled.iter().filter_map(|uid| {
            let namespace = &self.objects.get(uid)?.namespace;
            Some((uid.as_str(), self.namespaces.get(namespace)?.as_ref()?))
        })
    }

    /// A namespace without a label is no tenant's any more.
    pub fn release(&mut self, uid: &str, when: When) -> Vec<Step> {
        let mut steps = Vec::new();
        self.recognized.remove(uid);
        if self.unlabelled.remove(uid)
            && let Some(namespace) = self.objects.get(uid).map(|tracked| tracked.namespace.clone())
        {
            self.reassign(&namespace, None, when, &mut steps);
            self.namespaces.insert(namespace, None);
        }
        steps
    }

    /// A source was listed again: what is not in the list is gone.
    pub fn replace(&mut self, source: Source, observations: Vec<Observation>, when: When) -> Vec<Step> {
        let listed: HashSet<&str> = observations.iter().map(|observation| observation.uid.as_str()).collect();
        let gone: Vec<String> = self
            .objects
            .iter()
            .filter(|(uid, tracked)| tracked.source == source && !listed.contains(uid.as_str()))
            .map(|(uid, _)| uid.clone())
            .collect();
        let mut steps: Vec<Step> = gone.iter().flat_map(|uid| self.remove(uid, when)).collect();
        for observation in observations {
            steps.extend(self.put(source, observation, when));
        }
        steps
    }

    /// Ends what counts no longer by now, at the very time it stopped counting.
    pub fn expire(&mut self, now_ms: i64) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some((until_ms, _)) = self.expiries.first()
            && *until_ms <= now_ms
        {
            let Some((until_ms, uid)) = self.expiries.pop_first() else { break };
            let Some(tracked) = self.objects.get_mut(&uid) else { continue };
            let levels = std::mem::take(&mut tracked.levels);
            tracked.since_ms = tracked.since_ms.max(until_ms);
            let (namespace, at_ms) = (tracked.namespace.clone(), tracked.since_ms);
            self.step(&namespace, at_ms, Levels::ZERO.minus(levels), Cause::Expired, &mut steps);
        }
        steps
    }

    /// True when a full list of a source, as UID and version, is exactly what is tracked.
    #[must_use]
    pub fn agrees(&self, source: Source, listed: &[(String, u64)]) -> bool {
        let tracked = self.objects.values().filter(|tracked| tracked.source == source).count();
        tracked == listed.len()
            && listed
                .iter()
                .all(|(uid, version)| self.objects.get(uid).is_some_and(|tracked| tracked.resource_version == *version))
    }

    /// The tenants that namespaces name.
    pub fn tenants(&self) -> impl Iterator<Item = &TenantRef> {
        self.namespaces.values().flatten()
    }

    fn step(&self, namespace: &str, at_ms: i64, change: Levels, cause: Cause, steps: &mut Vec<Step>) {
        let tenant = self.namespaces.get(namespace).and_then(Option::as_ref);
        if let Some(tenant) = tenant.filter(|_| !change.is_zero()) {
            steps.push(Step { tenant_id: tenant.id.clone(), at_ms, change, cause });
        }
    }

    /// A namespace that has lost its label, or has one that is no tenant's, stays with the tenant it had: taking a label away must not
    /// end what is counted. Another object of the same name is another UID and has had none.
    fn recognize_unlabelled(&mut self, namespace: &mut Observation) {
        if namespace.tenant.is_some() || mutant::is_on("metering.label-alone") {
            self.unlabelled.remove(&namespace.uid);
            return;
        }
        let had = self.objects.get(&namespace.uid).and_then(|known| self.namespaces.get(&known.namespace)).cloned();
        namespace.tenant = had.flatten().or_else(|| self.recognized.get(&namespace.uid).cloned());
        if namespace.tenant.is_some() {
            self.unlabelled.insert(namespace.uid.clone());
        }
    }

    /// A namespace assigns its objects to a tenant.
    fn assign(&mut self, namespace: &Observation, when: When, steps: &mut Vec<Step>) {
        let before = self.namespaces.get(&namespace.namespace);
        let same = match (before, &namespace.tenant) {
            (Some(Some(before)), Some(now)) => before.id == now.id,
            (Some(None), None) => true,
            _ => false,
        };
        if !same {
            self.reassign(&namespace.namespace, namespace.tenant.as_ref(), when, steps);
        }
        self.namespaces.insert(namespace.namespace.clone(), namespace.tenant.clone());
    }

    /// Moves everything in a namespace to another tenant, or to none. When the namespace is new, what was seen in it
    /// before (watches overtake each other) counts from its own creation.
    fn reassign(&mut self, namespace: &str, to: Option<&TenantRef>, when: When, steps: &mut Vec<Step>) {
        let is_new = !self.namespaces.contains_key(namespace);
        let from = self.namespaces.get(namespace).cloned().flatten();
        for tracked in self.objects.values_mut().filter(|tracked| tracked.namespace == namespace) {
            if tracked.levels.is_zero() {
                continue;
            }
            let (at_ms, cause) = if is_new {
                (when.creation(tracked.created_ms), Cause::Created)
            } else {
                (when.dated_ms.max(tracked.since_ms), Cause::Relabeled)
            };
            tracked.since_ms = tracked.since_ms.max(at_ms);
            if let Some(from) = &from {
                let change = Levels::ZERO.minus(tracked.levels);
                steps.push(Step { tenant_id: from.id.clone(), at_ms, change, cause });
            }
            if let Some(to) = to {
                steps.push(Step { tenant_id: to.id.clone(), at_ms, change: tracked.levels, cause });
            }
        }
    }
}
