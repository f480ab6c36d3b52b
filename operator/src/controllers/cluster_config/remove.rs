//! Switching a component off: its webhooks first, then its controller, then what only that used. CRDs, objects of its own
//! kinds, namespaces and Secrets stay, and with them everything of tenants.

use super::{
    apply::is_labelled,
    context::InstallContext,
    inventory,
    outcome::{Outcome, refused},
};
use crate::apiserver::{dynamic, verbs};
use kube::{Client, ResourceExt as _};
use kubenova_operator_core::components::{Component, capsule, inventory as plan, object::Key};
use std::time::Duration;

/// How long Capsule may take to delete its webhooks; it takes a moment while it runs.
const WEBHOOKS_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(500);

/// Removes what is recorded of the component.
pub(super) async fn remove(ctx: &InstallContext, component: Component) -> Outcome {
    let attempt = async {
        let client = ctx.apiserver.client();
        let recorded =
            inventory::read(&client, &ctx.state_namespace, component).await.map_err(|error| refused(&error))?;
        let steps = plan::removal(&recorded);
        if steps.iter().all(Vec::is_empty) {
            return Ok(Outcome::Disabled);
        }
        tracing::info!(component = component.name(), "removing a component that was switched off");
        if component == Component::Capsule {
            remove_webhooks_of_capsule(&client).await?;
        }
        for key in steps.iter().flatten() {
            delete(&client, component, key).await?;
        }
        let kept = plan::kept(&recorded);
        inventory::write(&client, &ctx.state_namespace, component, &recorded, &kept)
            .await
            .map_err(|error| refused(&error))?;
        Ok(Outcome::Disabled)
    };
    attempt.await.unwrap_or_else(|outcome| outcome)
}

/// Capsule makes its webhook configurations itself, from its settings, and removes them when there is none. Where it does
/// not run any more they are deleted here.
async fn remove_webhooks_of_capsule(client: &Client) -> Result<(), Outcome> {
    let settings = capsule::settings_key();
    let hooks = capsule::webhook_configurations();
    // Refused by its own webhook when it does not run any more.
    if let Err(error) = dynamic::merge(client, &settings, &capsule::without_webhooks()).await {
        tracing::info!(
            error = error.reason(),
            "could not switch Capsule's webhooks off in its settings; deleting them"
        );
        return delete_webhooks(client, &hooks).await;
    }
    let gone = async {
        loop {
            let mut left = 0;
            for key in &hooks {
                left += usize::from(dynamic::metadata(client, key).await.map_err(|error| refused(&error))?.is_some());
            }
            if left == 0 {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    };
    match tokio::time::timeout(WEBHOOKS_WITHIN, gone).await {
        Ok(gone) => gone,
        Err(_) => delete_webhooks(client, &hooks).await,
    }
}

async fn delete_webhooks(client: &Client, hooks: &[Key]) -> Result<(), Outcome> {
    for key in hooks {
        let Some(live) = dynamic::metadata(client, key).await.map_err(|error| refused(&error))? else { continue };
        let uid = live.uid.unwrap_or_default();
        let deleted = verbs::delete_exact(&dynamic::api(client, key), &key.name, &uid, None).await;
        deleted.map_err(|error| refused(&error))?;
    }
    Ok(())
}

async fn delete(client: &Client, component: Component, key: &Key) -> Result<(), Outcome> {
    let Some(object) = dynamic::get(client, key).await.map_err(|error| refused(&error))? else { return Ok(()) };
    if !is_labelled(&object, component) {
        return Ok(());
    }
    let uid = object.uid().unwrap_or_default();
    let deleted = verbs::delete_exact(&dynamic::api(client, key), &key.name, &uid, None).await;
    deleted.map(drop).map_err(|error| refused(&error))
}
