//! Core values as bodies.

use jiff::Timestamp;
use kubenova_api_types::{clusters, commands, tenants};
use kubenova_core::{
    cluster::{Cluster, Component, Components, Connectivity},
    command::Command,
    tenant::{Placement, Tenant},
};
use kubenova_runtime::clock;
use kubenova_store::{enrollments::EnrollmentState, outbox::EnqueuedCommand};

/// A cluster.
#[must_use]
pub fn cluster(cluster: &Cluster) -> clusters::Cluster {
    clusters::Cluster {
        id: cluster.id.to_string(),
        name: cluster.name.to_string(),
        datacenter: cluster.datacenter.clone(),
        labels: cluster.labels.clone(),
        state: cluster.state.as_str().to_owned(),
        components: components(&cluster.components),
        generation: cluster.generation.to_string(),
        epoch: cluster.epoch.to_string(),
        revision: cluster.revision.to_string(),
        kubernetes_uid: cluster.kubernetes_uid.clone(),
        enrolled_at: cluster.enrolled_at,
        created_at: cluster.created_at,
        updated_at: cluster.updated_at,
        created_by: cluster.created_by.clone(),
        connection: Connectivity::Unknown.as_str().to_owned(),
        session: None,
        observed: None,
        enrollments: Vec::new(),
    }
}

fn components(components: &Components) -> clusters::Components {
    clusters::Components {
        capsule: component(&components.capsule),
        capsule_proxy: component(&components.capsule_proxy),
        kubevela: component(&components.kubevela),
    }
}

fn component(component: &Component) -> clusters::Component {
    clusters::Component {
        enabled: component.enabled,
        version: component.version.clone(),
        adopt: component.adopt,
        replicas: component.replicas,
        public_url: component.public_url.clone(),
    }
}

/// An enrollment token's story.
#[must_use]
pub fn enrollment(token: &EnrollmentState, now: Timestamp) -> clusters::EnrollmentState {
    let state = match (token.used_at, token.revoked_at) {
        (_, Some(_)) => "revoked",
        (Some(_), None) => "used",
        (None, None) if token.expires_at <= now => "expired",
        (None, None) => "open",
    };
    let attempts = token.attempts.iter();
    clusters::EnrollmentState {
        id: token.id.to_string(),
        state: state.to_owned(),
        created_at: token.created_at,
        expires_at: token.expires_at,
        used_at: token.used_at,
        attempts: attempts
            .map(|attempt| clusters::EnrollmentAttempt {
                at: attempt.at,
                outcome: attempt.outcome.clone(),
                message: attempt.message.clone(),
            })
            .collect(),
    }
}

/// A tenant with its placements.
#[must_use]
pub fn tenant(tenant: &Tenant, placements: &[Placement]) -> tenants::Tenant {
    tenants::Tenant {
        id: tenant.id.to_string(),
        name: tenant.name.to_string(),
        quota: tenants::Quota {
            cpu: tenant.quota.cpu.clone(),
            memory: tenant.quota.memory.clone(),
            pods: tenant.quota.pods,
        },
        pod_security: tenant.pod_security.as_str().to_owned(),
        placements: placements.iter().filter(|placement| placement.tenant_id == tenant.id).map(placement).collect(),
        generation: tenant.generation.to_string(),
        created_at: tenant.created_at,
        updated_at: tenant.updated_at,
        created_by: tenant.created_by.clone(),
    }
}

/// A placement.
#[must_use]
pub fn placement(placement: &Placement) -> tenants::Placement {
    tenants::Placement {
        cluster_id: placement.cluster_id.to_string(),
        cluster_name: placement.cluster_name.clone(),
        created_at: placement.created_at,
        observed: None,
    }
}

/// What was enqueued.
#[must_use]
pub fn enqueued(commands: &[EnqueuedCommand]) -> Vec<commands::CommandRef> {
    let one = |command: &EnqueuedCommand| commands::CommandRef {
        id: command.command_id.to_string(),
        cluster_id: command.cluster_id.to_string(),
        revision: command.revision.to_string(),
    };
    commands.iter().map(one).collect()
}

/// A command with the stations it passed: ours first, then the cluster's own, then the end.
#[must_use]
pub fn command(command: &Command, now: Timestamp) -> commands::Command {
    let open = !command.state.is_terminal();
    commands::Command {
        id: command.id.to_string(),
        kind: command.kind.clone(),
        cluster_id: command.cluster_id.to_string(),
        cluster_name: command.cluster_name.clone(),
        tenant_id: command.tenant_id.map(|tenant| tenant.to_string()),
        target: commands::CommandTarget {
            key: command.object_key.clone(),
            generation: command.generation.to_string(),
            application: command.application_name.clone(),
        },
        revision: command.revision.to_string(),
        state: command.state.as_str().to_owned(),
        reason: command.reason.clone(),
        message: command.message.clone(),
        waiting_for: command.waits_for(now),
        next_attempt_at: command.next_send_at.filter(|_| open),
        overdue: open && command.not_after.is_some_and(|deadline| deadline < now),
        attempts: u32::try_from(command.send_count).unwrap_or_default(),
        created_by: command.created_by.clone(),
        created_at: command.queued_at,
        finished_at: command.finished_at,
        not_after: command.not_after,
        hops: hops(command),
    }
}

fn hops(command: &Command) -> Vec<commands::CommandHop> {
    let ours = |name: &str, at: Option<Timestamp>| {
        at.map(|at| commands::CommandHop { name: name.to_owned(), at: clock::rfc3339_ms(at), by: "manager".to_owned() })
    };
    let theirs = command.hops.iter().map(|hop| commands::CommandHop {
        name: hop.name.clone(),
        at: hop.at.clone(),
        by: "cluster".to_owned(),
    });
    let before = [ours("queued", Some(command.queued_at)), ours("sent", command.sent_at)];
    let after = [
        ours("acknowledged", command.acknowledged_at),
        ours("running", command.running_at),
        ours("finished", command.finished_at),
    ];
    before.into_iter().flatten().chain(theirs).chain(after.into_iter().flatten()).collect()
}
