//! Core values as bodies of answers.

use jiff::Timestamp;
use kubenova_api_types::{clusters, commands, components as api, enrollments, meta, tenants};
use kubenova_core::{
    access::Role,
    cluster::{Approval, Cluster, ClusterState, Component, ComponentChange, Components, Connectivity},
    command::{Command, CommandState},
    enrollment_request::{ApprovalRequest, Verdict},
    enrollment_token::TokenState,
    tenant::{Placement, PodSecurity, Tenant},
};
use kubenova_store::{
    enrollment_attempts::Attempt,
    enrollment_tokens::{SecondUses, TokenRow},
    outbox::EnqueuedCommand,
    revocations::ShownRevocation,
};
use serde::de::DeserializeOwned;

/// A cluster.
#[must_use]
pub fn cluster(cluster: &Cluster) -> clusters::Cluster {
    clusters::Cluster {
        id: cluster.id.to_string(),
        name: cluster.name.to_string(),
        datacenter: cluster.datacenter.clone(),
        labels: cluster.labels.clone(),
        state: cluster_state(cluster.state),
        state_reason: cluster.state_note.as_ref().map(|note| note.reason.clone()).unwrap_or_default(),
        state_message: cluster.state_note.as_ref().map(|note| note.message.clone()).unwrap_or_default(),
        approval: approval(cluster.approval),
        components: components(&cluster.components),
        generation: cluster.generation.to_string(),
        epoch: cluster.epoch.to_string(),
        revision: cluster.revision.to_string(),
        kubernetes_uid: cluster.kubernetes_uid.clone(),
        enrolled_at: cluster.enrolled_at,
        credentials: None,
        created_at: cluster.created_at,
        updated_at: cluster.updated_at,
        created_by: cluster.created_by.clone(),
        connection: clusters::Connection::Unknown,
        as_of: None,
        session: None,
        refused_hello: None,
        observed: None,
        second_uses: None,
        enrollments: Vec::new(),
    }
}

fn components(components: &Components) -> api::Components {
    api::Components {
        capsule: component(&components.capsule),
        capsule_proxy: component(&components.capsule_proxy),
        kubevela: component(&components.kubevela),
    }
}

/// What is wanted of a component.
#[must_use]
pub fn component(component: &Component) -> api::Component {
    api::Component {
        enabled: component.enabled,
        paused: component.paused,
        version: component.version.clone(),
        adopt: component.adopt,
        replicas: component.replicas,
        public_url: component.public_url.clone(),
        endpoint: setting(component, "endpoint"),
        images: setting(component, "images"),
        resources: setting(component, "resources"),
        placement: setting(component, "placement"),
        host_network: setting(component, "hostNetwork").unwrap_or_default(),
        values: setting(component, "values"),
    }
}

/// None also for one that another release wrote in another form.
fn setting<T: DeserializeOwned>(component: &Component, field: &str) -> Option<T> {
    serde_json::from_str(component.settings.get(field)?).ok()
}

/// A change of a component.
#[must_use]
pub fn component_change(change: &ComponentChange) -> api::ComponentChange {
    let changed = component(&change.applied_to(&Component::default()));
    // One that gets its default again is shown as the empty value of its field.
    let is_changed = |field: &str| change.settings.contains_key(field);
    api::ComponentChange {
        enabled: change.enabled,
        paused: change.paused,
        version: change.version.clone(),
        adopt: change.adopt,
        replicas: change.replicas,
        public_url: change.public_url.clone(),
        endpoint: is_changed("endpoint").then(|| changed.endpoint.unwrap_or_default()),
        images: is_changed("images").then(|| changed.images.unwrap_or_default()),
        resources: is_changed("resources").then(|| changed.resources.unwrap_or_default()),
        placement: is_changed("placement").then(|| changed.placement.unwrap_or_default()),
        host_network: is_changed("hostNetwork").then_some(changed.host_network),
        values: is_changed("values").then(|| changed.values.unwrap_or_default()),
    }
}

/// An enrollment token with the attempts to use it.
#[must_use]
pub fn enrollment(token: &TokenRow, now: Timestamp) -> enrollments::EnrollmentState {
    let history = &token.history;
    enrollments::EnrollmentState {
        id: token.id.to_string(),
        state: token_state(history.state(token.request.as_ref(), now)),
        created_at: token.created_at,
        created_by: token.created_by.clone(),
        expires_at: history.expires_at,
        used_at: history.used_at,
        used_by_uid: token.used_by_uid.clone(),
        revoked_at: history.revoked_at,
        revoked_by: Some(token.revoked_by.clone()).filter(|by| !by.is_empty()),
        request: token.request.as_ref().map(approval_request),
        second_uses: token.second_uses.as_ref().map(second_uses),
        attempts: token.attempts.iter().map(enrollment_attempt).collect(),
    }
}

/// Uses of a token by others than the installation it belongs to.
#[must_use]
pub fn second_uses(uses: &SecondUses) -> enrollments::SecondUses {
    enrollments::SecondUses {
        enrollment_id: uses.token.to_string(),
        count: uses.count.to_string(),
        last_at: uses.at,
        last_peer: uses.peer.clone(),
    }
}

fn approval_request(request: &ApprovalRequest) -> enrollments::ApprovalRequest {
    enrollments::ApprovalRequest {
        fingerprint: request.fingerprint.clone(),
        kubernetes_uid: request.installation.cluster_uid.clone(),
        nodes: request.nodes.and_then(|nodes| u32::try_from(nodes).ok()),
        kubernetes_version: request.kubernetes_version.clone(),
        operator_version: request.operator_version.clone(),
        peer: request.peer.clone(),
        requested_at: request.requested_at,
        last_requested_at: request.last_requested_at,
        decision: request.decision.as_ref().map(|decision| enrollments::ApprovalDecision {
            verdict: match decision.verdict {
                Verdict::Approved => enrollments::ApprovalVerdict::Approved,
                Verdict::Rejected => enrollments::ApprovalVerdict::Rejected,
            },
            decided_at: decision.at,
            decided_by: decision.by.clone(),
            reason: Some(decision.reason.clone()).filter(|reason| !reason.is_empty()),
        }),
    }
}

/// Whether enrollments of a cluster wait for an administrator.
#[must_use]
pub const fn to_approval(approval: clusters::Approval) -> Approval {
    match approval {
        clusters::Approval::Automatic => Approval::Automatic,
        clusters::Approval::Manual => Approval::Manual,
    }
}

const fn approval(approval: Approval) -> clusters::Approval {
    match approval {
        Approval::Automatic => clusters::Approval::Automatic,
        Approval::Manual => clusters::Approval::Manual,
    }
}

const fn token_state(state: TokenState) -> enrollments::EnrollmentTokenState {
    match state {
        TokenState::Open => enrollments::EnrollmentTokenState::Open,
        TokenState::PendingApproval => enrollments::EnrollmentTokenState::PendingApproval,
        TokenState::Approved => enrollments::EnrollmentTokenState::Approved,
        TokenState::Rejected => enrollments::EnrollmentTokenState::Rejected,
        TokenState::Used => enrollments::EnrollmentTokenState::Used,
        TokenState::Expired => enrollments::EnrollmentTokenState::Expired,
        TokenState::Revoked => enrollments::EnrollmentTokenState::Revoked,
    }
}

/// An attempt to enroll or to renew.
#[must_use]
pub fn enrollment_attempt(attempt: &Attempt) -> enrollments::EnrollmentAttempt {
    enrollments::EnrollmentAttempt {
        at: attempt.at,
        outcome: attempt.outcome.clone(),
        message: attempt.message.clone(),
        peer: attempt.peer.clone(),
    }
}

/// A revocation.
#[must_use]
pub fn revocation(shown: ShownRevocation) -> clusters::Revocation {
    clusters::Revocation {
        reason: shown.reason,
        requested_at: shown.requested_at,
        effective_at: shown.effective_at,
        waiting_for: shown.waiting_for,
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
        pod_security: pod_security(tenant.pod_security),
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

/// References to the commands that were enqueued.
#[must_use]
pub fn enqueued(commands: &[EnqueuedCommand]) -> Vec<commands::CommandRef> {
    let one = |command: &EnqueuedCommand| commands::CommandRef {
        id: command.command_id.to_string(),
        cluster_id: command.cluster_id.to_string(),
        revision: command.revision.to_string(),
    };
    commands.iter().map(one).collect()
}

/// A command with the hops that it passed.
#[must_use]
pub fn command(command: &Command, now: Timestamp) -> commands::Command {
    let open = !command.state.is_terminal();
    let wait = command.waits_for(now);
    let (waiting_for, message) =
        wait.map_or_else(|| (String::new(), command.message.clone()), |wait| (wait.word, wait.message));
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
        state: command_state(command.state),
        as_of: command.as_of(),
        reason: command.reason.clone(),
        message,
        waiting_for,
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

/// The hops that the Manager recorded and those that the cluster reported, in the order of their times. The cluster's
/// times are of its own clock, so hops less than the clock offset apart may change places.
fn hops(command: &Command) -> Vec<commands::CommandHop> {
    let ours = [
        ("queued", Some(command.queued_at)),
        ("sent", command.sent_at),
        ("acknowledged", command.acknowledged_at),
        ("running", command.running_at),
        ("finished", command.finished_at),
    ]
    .into_iter()
    .filter_map(|(name, at)| Some((name, at?, commands::HopClock::Manager, "")));
    let theirs = command.hops.iter();
    // A cluster whose times cannot be read has reported nothing that could be put in order.
    let theirs = theirs.filter_map(|hop| {
        Some((hop.name.as_str(), hop.at.parse().ok()?, commands::HopClock::Cluster, hop.object.as_str()))
    });
    let hop = |(name, at, by, object): (&str, Timestamp, commands::HopClock, &str)| commands::CommandHop {
        name: name.to_owned(),
        at,
        by,
        object: Some(object.to_owned()).filter(|object| !object.is_empty()),
    };
    let mut hops: Vec<_> = ours.chain(theirs).map(hop).collect();
    hops.sort_by_key(|hop| hop.at);
    hops
}

/// Whether a cluster's heartbeats arrive.
#[must_use]
pub const fn connection(connectivity: Connectivity) -> clusters::Connection {
    match connectivity {
        Connectivity::Unknown => clusters::Connection::Unknown,
        Connectivity::Connected => clusters::Connection::Connected,
        Connectivity::Stale => clusters::Connection::Stale,
        Connectivity::Offline => clusters::Connection::Offline,
    }
}

const fn cluster_state(state: ClusterState) -> clusters::ClusterState {
    match state {
        ClusterState::PendingBootstrap => clusters::ClusterState::PendingBootstrap,
        ClusterState::Enrolled => clusters::ClusterState::Enrolled,
        ClusterState::Quarantined => clusters::ClusterState::Quarantined,
        ClusterState::Revoking => clusters::ClusterState::Revoking,
        ClusterState::Revoked => clusters::ClusterState::Revoked,
        ClusterState::Detached => clusters::ClusterState::Detached,
        ClusterState::Purged => clusters::ClusterState::Purged,
    }
}

const fn command_state(state: CommandState) -> commands::CommandState {
    match state {
        CommandState::Queued => commands::CommandState::Queued,
        CommandState::Sent => commands::CommandState::Sent,
        CommandState::Acknowledged => commands::CommandState::Acknowledged,
        CommandState::Running => commands::CommandState::Running,
        CommandState::Succeeded => commands::CommandState::Succeeded,
        CommandState::Failed => commands::CommandState::Failed,
        CommandState::Refused => commands::CommandState::Refused,
        CommandState::Cancelled => commands::CommandState::Cancelled,
        CommandState::Superseded => commands::CommandState::Superseded,
        CommandState::Expired => commands::CommandState::Expired,
    }
}

/// The state that a query names.
#[must_use]
pub const fn to_command_state(state: commands::CommandState) -> CommandState {
    match state {
        commands::CommandState::Queued => CommandState::Queued,
        commands::CommandState::Sent => CommandState::Sent,
        commands::CommandState::Acknowledged => CommandState::Acknowledged,
        commands::CommandState::Running => CommandState::Running,
        commands::CommandState::Succeeded => CommandState::Succeeded,
        commands::CommandState::Failed => CommandState::Failed,
        commands::CommandState::Refused => CommandState::Refused,
        commands::CommandState::Cancelled => CommandState::Cancelled,
        commands::CommandState::Superseded => CommandState::Superseded,
        commands::CommandState::Expired => CommandState::Expired,
    }
}

const fn pod_security(level: PodSecurity) -> tenants::PodSecurity {
    match level {
        PodSecurity::Baseline => tenants::PodSecurity::Baseline,
        PodSecurity::Restricted => tenants::PodSecurity::Restricted,
    }
}

/// The level that a request names.
#[must_use]
pub const fn to_pod_security(level: tenants::PodSecurity) -> PodSecurity {
    match level {
        tenants::PodSecurity::Baseline => PodSecurity::Baseline,
        tenants::PodSecurity::Restricted => PodSecurity::Restricted,
    }
}

/// A caller's role.
#[must_use]
pub const fn role(role: Role) -> meta::Role {
    match role {
        Role::Admin => meta::Role::Admin,
        Role::Ops => meta::Role::Ops,
        Role::TenantOwner => meta::Role::TenantOwner,
        Role::ProjectDev => meta::Role::ProjectDev,
        Role::ReadOnly => meta::Role::ReadOnly,
        Role::Billing => meta::Role::Billing,
    }
}
