//! Whether the way from the Manager to this cluster works: a session is open, and a command was carried out.

use super::{cluster, unread};
use crate::apiserver::{client::Apiserver, verbs};
use kube::Api;
use kubenova_crds::cluster_config::{NAME, NovaClusterConfig};
use kubenova_operator_core::doctor::{self, Finding};

pub(super) async fn examine(apiserver: &Apiserver) -> Vec<Finding> {
    let api: Api<NovaClusterConfig> = Api::all(apiserver.client());
    let session = match verbs::get(&api, NAME).await {
        Ok(config) => doctor::session(&config.and_then(|config| config.status).unwrap_or_default()),
        Err(error) => unread("NovaClusterConfig default", &error),
    };
    let commands = match cluster::records(apiserver).await {
        Ok(records) => doctor::commands(&records),
        Err(error) => unread("commands", &error),
    };
    vec![session, commands]
}
