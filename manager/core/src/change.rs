//! The changes that clusters get commands about. Decided here, written into the outbox by the store in the same transaction.

use crate::{
    application::Application,
    cluster::Components,
    tenant::{Tenant, TenantId, TenantName},
};

/// One change, the same for every cluster that gets a command about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The cluster's configuration is now this.
    ClusterConfig {
        /// Its components.
        components: Components,
        /// The cluster's generation.
        generation: i64,
    },
    /// The tenant should be on the cluster, like this.
    Tenant(Tenant),
    /// The tenant should leave the cluster. Only ever after an explicit delete.
    TenantDeleted {
        /// Its id.
        id: TenantId,
        /// Its name.
        name: TenantName,
        /// The tenant's generation.
        generation: i64,
    },
    /// The application should run on the cluster, like this.
    Application {
        /// The tenant's name: its namespace and labels are made from it.
        tenant: TenantName,
        /// The application.
        application: Application,
    },
    /// The application should leave the cluster. Only ever after an explicit delete.
    ApplicationDeleted {
        /// The tenant's name.
        tenant: TenantName,
        /// The application.
        application: Application,
    },
}

impl Change {
    /// The tenant it belongs to.
    #[must_use]
    pub const fn tenant_id(&self) -> Option<TenantId> {
        match self {
            Self::ClusterConfig { .. } => None,
            Self::Tenant(tenant) => Some(tenant.id),
            Self::TenantDeleted { id, .. } => Some(*id),
            Self::Application { application, .. } | Self::ApplicationDeleted { application, .. } => {
                Some(application.tenant_id)
            }
        }
    }

    /// The application it belongs to.
    #[must_use]
    pub fn application_name(&self) -> Option<&str> {
        match self {
            Self::Application { application, .. } | Self::ApplicationDeleted { application, .. } => {
                Some(application.name.as_str())
            }
            _ => None,
        }
    }

    /// Generation of the resource that changed.
    #[must_use]
    pub const fn generation(&self) -> i64 {
        match self {
            Self::ClusterConfig { generation, .. } | Self::TenantDeleted { generation, .. } => *generation,
            Self::Tenant(tenant) => tenant.generation,
            Self::Application { application, .. } | Self::ApplicationDeleted { application, .. } => {
                application.generation
            }
        }
    }
}
