//! Acting as a tenant's deployer: KubeVela runs an application with the rights of its last writer.

use crate::apiserver::client::{Apiserver, ConnectError};
use kube::Client;
use kubenova_schema::applications;

/// A client that acts as this tenant's deployer.
pub(super) fn client(apiserver: &Apiserver, tenant: &str) -> Result<Client, ConnectError> {
    apiserver.impersonating(&applications::deployer(tenant))
}
