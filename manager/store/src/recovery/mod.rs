//! What recovery would do about a diverged cluster, key by key. `adopt.rs` does it.

pub mod adopt;
pub mod adoption;
mod desired;
mod names;
mod room;

use crate::{
    diverged_records::{self, StoredRecord},
    error::{RowRef, StoreError, failed},
};
use kubenova_core::{
    cluster::ClusterId,
    command::{CommandId, CommandState, OPERATION_KEY_PREFIX},
    recovery::{self, Action, Held, Newest},
};
use kubenova_schema::kinds::CommandKind;
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};

/// A key, what both sides have, and what adopting does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The object.
    pub key: String,
    /// Its name in the documents that the cluster holds: `<tenant>`, or `<tenant>/<application>`. Empty where none has come.
    pub name: String,
    /// The newest command in this database.
    pub newest: Option<Newest>,
    /// The command that the cluster holds.
    pub held: Option<Held>,
    /// What adopting does.
    pub action: Action,
    /// Why the cluster's command cannot be adopted; empty otherwise.
    pub problem: String,
}

/// The lines of a diverged cluster in the order of the keys, those where both sides agree included.
pub async fn plan(connection: &mut PgConnection, cluster: &ClusterId) -> Result<Vec<Line>, StoreError> {
    let records = diverged_records::all(&mut *connection, cluster).await?;
    let records: Vec<&StoredRecord> = records.iter().collect();
    lines(connection, cluster, &records).await
}

async fn lines(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    records: &[&StoredRecord],
) -> Result<Vec<Line>, StoreError> {
    let newest = newest(connection, cluster).await?;
    let held: BTreeMap<&str, (Held, &str)> = records.iter().map(held).collect();
    let names = names::of_tenants(records);
    let keys: BTreeSet<&str> = newest.keys().map(String::as_str).chain(held.keys().copied()).collect();
    let line = |key: &str| {
        let (newest, held) = (newest.get(key), held.get(key));
        let action = recovery::decide(newest, held.map(|(held, _)| held));
        Line {
            key: key.to_owned(),
            name: names::of_object(key, &names),
            newest: newest.cloned(),
            held: held.map(|(held, _)| held.clone()),
            action,
            problem: held.map(|(_, problem)| (*problem).to_owned()).unwrap_or_default(),
        }
    };
    Ok(keys.into_iter().map(line).collect())
}

fn held<'a>(record: &&'a StoredRecord) -> (&'a str, (Held, &'a str)) {
    let listed = &record.listed;
    let held = Held {
        id: listed.command_id,
        revision: listed.revision,
        is_delete: CommandKind::parse(&listed.kind).is_some_and(CommandKind::is_delete),
        is_known: !record.is_lacking,
    };
    (listed.key.as_str(), (held, record.problem.as_str()))
}

/// The newest command about each object that is, or was, wanted. An operation is wanted once, so none stands against what the
/// cluster holds.
async fn newest(connection: &mut PgConnection, cluster: &ClusterId) -> Result<BTreeMap<String, Newest>, StoreError> {
    let rows = sqlx::query!(
        "select distinct on (object_key) object_key, id, revision, state, kind from commands
         where cluster_id = $1 and state not in ('cancelled', 'superseded', 'refused', 'expired')
           and not starts_with(object_key, $2)
         order by object_key, revision desc",
        cluster.as_str(),
        OPERATION_KEY_PREFIX,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read the newest command of each object"))?;
    rows.into_iter()
        .map(|row| {
            let at = RowRef { table: "commands", id: &row.id };
            let newest = Newest {
                id: CommandId(row.id),
                revision: row.revision,
                state: at.parse("state", &row.state, CommandState::parse)?,
                is_delete: CommandKind::parse(&row.kind).is_some_and(CommandKind::is_delete),
            };
            Ok((row.object_key, newest))
        })
        .collect()
}
