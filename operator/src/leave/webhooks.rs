//! Webhooks that do not answer let through what they cannot check.

use super::{LeaveError, progress::Progress};
use crate::apiserver::{client::Apiserver, dynamic, kinds, verbs};
use kubenova_operator_core::{components::object::Key, leaving};
use std::io::Write;

pub(super) async fn ignore_failures<W: Write>(
    apiserver: &Apiserver,
    keys: &[Key],
    progress: &mut Progress<'_, W>,
) -> Result<(), LeaveError> {
    for key in keys {
        while !try_one(apiserver, key).await? {
            progress.wait_for(format!("{} {} is being changed by another client", key.kind, key.name)).await?;
        }
        progress.say(format!("{} {}: failure policy Ignore", key.kind, key.name))?;
    }
    Ok(())
}

/// False when another client changed it in between.
async fn try_one(apiserver: &Apiserver, key: &Key) -> Result<bool, LeaveError> {
    let client = apiserver.client();
    let Some(live) = dynamic::get(&client, key).await? else { return Ok(true) };
    let mut value = kinds::to_value(&live)?;
    if !leaving::ignore_failures(&mut value) {
        return Ok(true);
    }
    let changed = serde_json::from_value(value)
        .map_err(|error| crate::apiserver::Error::unreadable(&key.kind, kube::Error::SerdeError(error)))?;
    match verbs::replace(&dynamic::api(&client, key), &changed).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_conflict() => Ok(false),
        Err(error) if error.is_not_found() => Ok(true),
        Err(error) => Err(error.into()),
    }
}
