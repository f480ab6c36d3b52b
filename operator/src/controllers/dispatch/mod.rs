//! From inbox records to objects: what was ordered becomes what should exist, and how far that got becomes the record's
//! status and an outcome.
//!
//! A document stays wanted after its outcome: drift of what it wrote is repaired for ever, while the first terminal
//! state stays. Before this: `inbound`. After it: the controllers of the kinds, and `outbound`.

mod application;
mod config;
mod tenant;

use super::work;
use crate::{
    apiserver::{self, client::Apiserver, kinds, status, verbs, watch},
    context::ClusterContext,
};
use futures::{StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use kube::{Api, Client, ResourceExt as _};
use kubenova_crds::{cluster_config::NovaClusterConfig, command::NovaCommand, labels, tenant::NovaTenant};
use kubenova_operator_core::{
    command,
    outcome::{self, CommandProgress, State},
};
use kubenova_runtime::{clock, failpoint};
use kubenova_schema::{
    kinds::{CommandKind, ObjectKey},
    message,
    v1::Command,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Time to the next look at an order that is under way. Watches make it sooner.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// Time to the next look after a failed call.
const RETRY: Duration = Duration::from_secs(3);
/// Time to the next look at a settled order: drift that no watch sees is repaired within it.
const SETTLED: Duration = Duration::from_secs(300);
/// Attempts against controllers that write the same object's status meanwhile.
const CONFLICTS_MAX: u32 = 8;

/// Runs until the process stops.
pub async fn run(ctx: ClusterContext) {
    let client = ctx.apiserver.client();
    let namespace = &ctx.settings.state_namespace;
    // Names of records, so that a tenant's change wakes the orders that wait for it.
    let names: Mutex<BTreeSet<String>> = Mutex::default();
    let records = watch::changes(Api::<NovaCommand>::namespaced(client.clone(), namespace), "").map(|record| {
        let name = record.name_any();
        names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        vec![name]
    });
    let configs = watch::changes(Api::<NovaClusterConfig>::all(client.clone()), "")
        .map(|_| vec![command::record_name(&ObjectKey::ClusterConfig)]);
    let tenants = watch::changes(Api::<NovaTenant>::all(client.clone()), "").map(|tenant| {
        let prefix = format!("application.{}.", tenant.spec.tenant_id);
        let names = names.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = names.range(prefix.clone()..).take_while(|name| name.starts_with(&prefix)).cloned();
        std::iter::once(format!("tenant.{}", tenant.spec.tenant_id)).chain(waiting).collect()
    });
    let applications = watch::changes(kinds::applications(&client), labels::TENANT_ID).map(|application| {
        let tenant_id = application.labels().get(labels::TENANT_ID).cloned().unwrap_or_default();
        vec![command::record_name(&ObjectKey::Application { tenant_id, name: application.name_any() })]
    });
    let calls = stream::select(stream::select(records, configs), stream::select(tenants, applications));
    let dispatcher = Dispatcher {
        ctx: &ctx,
        records: Api::namespaced(client, namespace),
        deployers: Deployers::new(&ctx.apiserver),
    };
    ctx.gates.set("dispatch", None);
    work::run(calls, &ctx.shutdown, |name| dispatcher.reconcile(name)).await;
}

struct Dispatcher<'a> {
    ctx: &'a ClusterContext,
    records: Api<NovaCommand>,
    deployers: Deployers,
}

/// Clients that act as tenants' deployers, made once each.
pub(super) struct Deployers {
    apiserver: Apiserver,
    clients: Mutex<BTreeMap<String, Client>>,
}

impl Deployers {
    pub(super) fn new(apiserver: &Apiserver) -> Self {
        Self { apiserver: apiserver.clone(), clients: Mutex::default() }
    }

    /// The client of a tenant's deployer.
    pub(super) fn of(&self, tenant: &str) -> Result<Client, apiserver::client::ConnectError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(tenant) {
            return Ok(client.clone());
        }
        let client = self.apiserver.impersonating(&kubenova_schema::applications::deployer(tenant))?;
        clients.insert(tenant.to_owned(), client.clone());
        Ok(client)
    }
}

/// An order as it is carried out.
struct Task<'a> {
    key: &'a ObjectKey,
    command: &'a Command,
}

/// Why a pass came to nothing; it is tried again.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Apiserver(#[from] apiserver::Error),
    #[error(transparent)]
    Client(#[from] apiserver::client::ConnectError),
}

impl Dispatcher<'_> {
    async fn reconcile(&self, name: String) -> Option<Duration> {
        let record = match verbs::get(&self.records, &name).await {
            Ok(record) => record?,
            Err(error) => {
                tracing::debug!(record = name, error = %apiserver::error::chain(&error), "could not read an inbox record; trying again");
                return Some(RETRY);
            }
        };
        let finding = self.finding(&record).await;
        let next = match finding.state {
            State::Running => UNDER_WAY,
            _ => SETTLED,
        };
        let finding = self.overdue(&record, finding);
        match self.note(&name, &record, &finding).await {
            Ok(()) => Some(next),
            Err(error) => {
                tracing::warn!(record = name, error = %apiserver::error::chain(&error), "could not note how far an order got; trying again");
                Some(RETRY)
            }
        }
    }

    async fn finding(&self, record: &NovaCommand) -> CommandProgress {
        let spec = &record.spec;
        let (Some(kind), Some(key)) = (CommandKind::parse(&spec.kind), ObjectKey::parse(&spec.key)) else {
            return CommandProgress::new(
                State::Failed,
                "UnknownKind",
                "this Operator does not know this order; an older one is running than stored it",
            );
        };
        let command: Command = match message::from_json(spec.body.as_bytes()) {
            Ok(command) => command,
            Err(error) => {
                return CommandProgress::new(State::Failed, "BadOrder", kubenova_runtime::telemetry::chain(&error));
            }
        };
        let task = Task { key: &key, command: &command };
        let found = match kind {
            CommandKind::ApplyClusterConfig => self.apply_config(&task).await,
            CommandKind::ApplyTenant => self.apply_tenant(&task).await,
            CommandKind::DeleteTenant => self.delete_tenant(&task).await,
            CommandKind::ApplyApplication => self.apply_application(&task).await,
            CommandKind::DeleteApplication => self.delete_application(&task).await,
        };
        found.unwrap_or_else(|trouble| finding_of(&trouble))
    }

    /// An order that is not Ready in time has failed; it is carried out all the same.
    fn overdue(&self, record: &NovaCommand, finding: CommandProgress) -> CommandProgress {
        let limit = SignedDuration::from_secs(i64::from(self.ctx.settings.progress_deadline_seconds));
        let overdue =
            record.spec.stored_at.parse::<Timestamp>().is_ok_and(|stored| clock::now().duration_since(stored) > limit);
        if finding.state != State::Running || !overdue {
            return finding;
        }
        let message = format!("not ready after {} s; last: {}: {}", limit.as_secs(), finding.reason, finding.message);
        CommandProgress::new(State::Failed, "ProgressDeadlineExceeded", message)
    }

    /// Status first, outcome second.
    async fn note(&self, name: &str, seen: &NovaCommand, finding: &CommandProgress) -> Result<(), apiserver::Error> {
        let mut changed = false;
        let written = status::update(&self.records, name, |record| {
            changed = false;
            if record.spec.command_id != seen.spec.command_id {
                return false;
            }
            let at = clock::rfc3339_ms(clock::now());
            if let Some(next) = outcome::advance(&record.spec, record.status.as_ref(), finding, &at) {
                record.status = Some(next);
                changed = true;
            }
            changed
        })
        .await?;
        if let Some(record) = written.filter(|_| changed) {
            failpoint::passing("dispatch.noted");
            if finding.state != State::Running {
                tracing::info!(
                    command.id = record.spec.command_id,
                    key = record.spec.key,
                    state = finding.state.as_str(),
                    reason = finding.reason,
                    "an order came to its end"
                );
            }
            self.ctx.outcomes.push(&record);
        }
        Ok(())
    }

    /// True when the record still holds this order. Asked after a create: what was created for an order that a delete
    /// has replaced meanwhile is undone.
    async fn still_ordered(&self, task: &Task<'_>) -> Result<bool, apiserver::Error> {
        let record = verbs::get(&self.records, &command::record_name(task.key)).await?;
        Ok(record.is_some_and(|record| record.spec.command_id == task.command.id))
    }
}

/// What a failed call means for an order: refused for good by admission, or to be tried again.
fn finding_of(trouble: &Trouble) -> CommandProgress {
    match trouble {
        Trouble::Apiserver(error) if is_refused(error) => {
            CommandProgress::new(State::Failed, "Denied", format!("the cluster refused it: {}", error.reason()))
        }
        Trouble::Apiserver(error) => CommandProgress::new(State::Running, "Retrying", apiserver::error::chain(error)),
        Trouble::Client(error) => CommandProgress::new(State::Running, "Retrying", apiserver::error::chain(error)),
    }
}

/// Admission and validation refuse for good; a missing right may only not be bound yet.
fn is_refused(error: &apiserver::Error) -> bool {
    let words = error.reason();
    // A field that the kind does not have; the API server answers it with one code or another.
    if words.contains("failed to create typed patch object") {
        return true;
    }
    let by_admission = ["admission webhook", "ValidatingAdmissionPolicy", "exceeded quota", "denied the request"]
        .iter()
        .any(|mark| words.contains(mark));
    error.is_invalid() || (error.is_forbidden() && by_admission)
}

/// What makes a live object ours: which order wrote it.
fn annotations(command: &Command) -> BTreeMap<String, String> {
    [(labels::REVISION.to_owned(), command.revision.to_string()), (labels::COMMAND_ID.to_owned(), command.id.clone())]
        .into()
}
