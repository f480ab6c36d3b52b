//! Clients that act as tenants' deployers: KubeVela runs an application with the rights of its last writer.

use crate::apiserver::client::{Apiserver, ConnectError};
use kube::Client;
use kubenova_schema::applications;
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// Clients kept. Each holds a connection pool of its own; beyond it all are dropped and connect again when needed.
const CLIENTS_MAX: usize = 256;

/// One client a tenant, kept.
pub(super) struct Deployers {
    apiserver: Apiserver,
    clients: Mutex<BTreeMap<String, Client>>,
}

impl Deployers {
    pub(super) fn new(apiserver: &Apiserver) -> Self {
        Self { apiserver: apiserver.clone(), clients: Mutex::default() }
    }

    pub(super) fn of(&self, tenant: &str) -> Result<Client, ConnectError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(tenant) {
            return Ok(client.clone());
        }
        let client = self.apiserver.impersonating(&applications::deployer(tenant))?;
        if clients.len() >= CLIENTS_MAX {
            clients.clear();
        }
        clients.insert(tenant.to_owned(), client.clone());
        Ok(client)
    }
}
