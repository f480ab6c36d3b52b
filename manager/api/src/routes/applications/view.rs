//! Applications as bodies: the desired state, where it should run, and where it still has to be removed.

use crate::{error::ApiError, views};
use jiff::Timestamp;
use kubenova_api_types::applications as types;
use kubenova_core::{
    application::{Application, Form},
    cluster::ClusterId,
    command::Command,
    tenant::Tenant,
};
use kubenova_store::{
    applications::{self, Target},
    commands,
    connection::Connection,
    wire,
};

/// What is shown of some applications besides their desired state.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    targets: Vec<Target>,
    /// The newest commands about what is being removed.
    removals: Vec<Command>,
}

impl Surroundings {
    /// Those of an application that was created now: it is being removed from none of its clusters.
    pub(super) const fn of_created(targets: Vec<Target>) -> Self {
        Self { targets, removals: Vec::new() }
    }

    /// Reads the clusters of these applications, in two queries for all of them.
    pub(super) async fn read(connection: &mut Connection, applications: &[Application]) -> Result<Self, ApiError> {
        let ids: Vec<_> = applications.iter().map(|application| application.id).collect();
        let targets = applications::targets(connection, &ids).await?;
        let leaving = |application: &&Application| {
            targets.iter().any(|target| target.application_id == application.id && target.delete_command.is_some())
        };
        let keys: Vec<String> = applications
            .iter()
            .filter(leaving)
            .map(|application| wire::application_key(application).to_string())
            .collect();
        if keys.is_empty() {
            return Ok(Self { targets, removals: Vec::new() });
        }
        let clusters: Vec<ClusterId> = targets
            .iter()
            .filter(|target| target.delete_command.is_some())
            .map(|target| target.cluster_id.clone())
            .collect();
        let removals = commands::newest(connection, &clusters, &keys).await?;
        Ok(Self { targets, removals })
    }

    /// The clusters of one application.
    pub(super) fn targets<'s>(&'s self, application: &'s Application) -> impl Iterator<Item = &'s Target> {
        self.targets.iter().filter(|target| target.application_id == application.id)
    }

    /// An application with its clusters.
    #[must_use]
    pub(super) fn view(&self, tenant: &Tenant, application: &Application, now: Timestamp) -> types::Application {
        let typed = match &application.form {
            Form::Typed(json) => serde_json::from_str(json).ok(),
            Form::Raw => None,
        };
        types::Application {
            id: application.id.to_string(),
            name: application.name.to_string(),
            tenant_id: tenant.id.to_string(),
            tenant_name: tenant.name.to_string(),
            form: if typed.is_some() { "typed" } else { "raw" }.to_owned(),
            typed,
            labels: application.labels.clone(),
            annotations: application.annotations.clone(),
            spec: serde_json::from_str(&application.spec).unwrap_or_default(),
            state: state(application.deleting_since.is_some()),
            deleting_since: application.deleting_since,
            clusters: self.targets(application).map(|target| self.cluster(target, now)).collect(),
            generation: application.generation.to_string(),
            created_at: application.created_at,
            updated_at: application.updated_at,
            created_by: application.created_by.clone(),
        }
    }

    fn cluster(&self, target: &Target, now: Timestamp) -> types::ApplicationCluster {
        types::ApplicationCluster {
            cluster_id: target.cluster_id.to_string(),
            cluster_name: target.cluster_name.clone(),
            state: state(target.delete_command.is_some()),
            removal: self.removal(target).map(|command| removal(command, now)),
        }
    }

    fn removal(&self, target: &Target) -> Option<&Command> {
        let id = target.delete_command?;
        self.removals.iter().find(|command| command.id == id)
    }
}

/// The state of an application, or of an application on a cluster.
pub(super) const fn state(deleting: bool) -> types::ApplicationState {
    if deleting { types::ApplicationState::Deleting } else { types::ApplicationState::Active }
}

fn removal(command: &Command, now: Timestamp) -> types::Removal {
    let shown = views::command(command, now);
    types::Removal {
        command_id: shown.id,
        state: shown.state,
        as_of: shown.as_of,
        reason: shown.reason,
        message: shown.message,
        waiting_for: shown.waiting_for,
        next_attempt_at: shown.next_attempt_at,
    }
}
