//! Components, and what the chart has kept, are deleted stage by stage.

use super::{LeaveError, progress::Progress};
use crate::apiserver::{
    self,
    client::Apiserver,
    served::{self, ServedKind},
    verbs::{self, Deleted},
};
use kube::Client;
use kubenova_operator_core::{
    components::object::Key,
    leaving::{self, Found, Stage},
};
use std::io::Write;

pub(super) async fn remove<W: Write>(
    apiserver: &Apiserver,
    found: &Found,
    progress: &mut Progress<'_, W>,
) -> Result<(), LeaveError> {
    let client = apiserver.client();
    for (stage, keys) in leaving::stages(&found.objects) {
        // Kinds go with their definitions.
        let kinds = served::kinds(&client).await?;
        let mut left = keys;
        while !left.is_empty() {
            let mut still = Vec::new();
            for key in left {
                match delete(&client, &kinds, stage, &key).await? {
                    Deleted::Gone => progress.say(format!("deleted {} {}", key.kind, key.name))?,
                    Deleted::Terminating => still.push(key),
                }
            }
            if let Some(first) = still.first() {
                progress.wait_for(format!("waiting for {} {} to be deleted", first.kind, first.name)).await?;
            }
            left = still;
        }
    }
    Ok(())
}

async fn delete(client: &Client, kinds: &[ServedKind], stage: Stage, key: &Key) -> Result<Deleted, apiserver::Error> {
    let kind = kinds.iter().find(|kind| kind.resource.group == key.group && kind.resource.kind == key.kind);
    let Some(kind) = kind else { return Ok(Deleted::Gone) };
    let api = kind.at(client, &key.namespace);
    let Some(metadata) = verbs::get_metadata(&api, &key.name).await? else { return Ok(Deleted::Gone) };
    if metadata.deletion_timestamp.is_some() {
        return Ok(Deleted::Terminating);
    }
    let uid = metadata.uid.unwrap_or_default();
    let deleted = match stage {
        Stage::Workloads => verbs::delete_after_dependents(&api, &key.name, &uid).await,
        _ => verbs::delete_exact(&api, &key.name, &uid, None).await,
    };
    match deleted {
        // Another object took its name: the next look decides.
        Err(error) if error.is_conflict() => Ok(Deleted::Terminating),
        deleted => deleted,
    }
}
