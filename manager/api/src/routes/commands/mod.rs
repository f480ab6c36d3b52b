//! Commands: the messages to clusters, and their progress.

pub mod cancel;
pub mod get;
pub mod list;
pub mod retry;

use crate::error::ApiError;
use kubenova_core::{
    access::Scope,
    command::{Command, CommandId},
    refusal::{Reason, Refusal},
};
use kubenova_store::{commands, connection::Connection};

/// The command when it exists for this caller.
async fn find(connection: &mut Connection, scope: Scope, named: &str) -> Result<Command, ApiError> {
    let command = match CommandId::parse(named) {
        Some(id) => commands::find(connection, id).await?,
        None => None,
    };
    let visible = command.filter(|command| visible(scope, command));
    Ok(visible.ok_or_else(|| Refusal::new(Reason::CommandNotFound, format!("there is no command {named:?}")))?)
}

/// A cluster's own commands belong to no tenant: only callers that are not limited to a tenant see them.
fn visible(scope: Scope, command: &Command) -> bool {
    match (scope, command.tenant_id) {
        (Scope::All, _) => true,
        (Scope::Tenant(_), Some(tenant)) => scope.sees(tenant),
        (Scope::Tenant(_), None) => false,
    }
}

/// The command, when this caller may change its course: a tenant's callers change applications, not the tenant itself.
async fn find_to_change(connection: &mut Connection, scope: Scope, named: &str) -> Result<Command, ApiError> {
    let command = find(connection, scope, named).await?;
    if scope.tenant().is_some() && command.application_name.is_none() {
        let detail = format!(
            "the token is limited to one tenant and changes applications; the command is about {}",
            command.object_key
        );
        return Err(Refusal::new(Reason::Forbidden, detail).into());
    }
    Ok(command)
}
