//! The closed list of command kinds, and of the objects that a command may be about.
//!
//! A kind's text is both the `kind` field of a command and the last token of its subject.

/// What a command does in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CommandKind {
    /// Write the cluster's NovaClusterConfig.
    ApplyClusterConfig,
    /// Write a NovaTenant.
    ApplyTenant,
    /// Delete a NovaTenant and what belongs to it.
    DeleteTenant,
    /// Write a KubeVela Application as the tenant's deployer.
    ApplyApplication,
    /// Delete a KubeVela Application as the tenant's deployer.
    DeleteApplication,
    /// Run the workflow of a KubeVela Application once more.
    RestartWorkflow,
    /// Hold the workflow of a KubeVela Application where it is.
    SuspendWorkflow,
    /// Have a workflow that is held go on.
    ResumeWorkflow,
    /// End the workflow of a KubeVela Application.
    TerminateWorkflow,
    /// Keep an operation from beginning.
    CancelOperation,
}

impl CommandKind {
    /// Every kind this release knows.
    pub const ALL: [Self; 10] = [
        Self::ApplyClusterConfig,
        Self::ApplyTenant,
        Self::DeleteTenant,
        Self::ApplyApplication,
        Self::DeleteApplication,
        Self::RestartWorkflow,
        Self::SuspendWorkflow,
        Self::ResumeWorkflow,
        Self::TerminateWorkflow,
        Self::CancelOperation,
    ];

    /// The text in messages, subjects and the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ApplyClusterConfig => "apply-cluster-config",
            Self::ApplyTenant => "apply-tenant",
            Self::DeleteTenant => "delete-tenant",
            Self::ApplyApplication => "apply-application",
            Self::DeleteApplication => "delete-application",
            Self::RestartWorkflow => "restart-workflow",
            Self::SuspendWorkflow => "suspend-workflow",
            Self::ResumeWorkflow => "resume-workflow",
            Self::TerminateWorkflow => "terminate-workflow",
            Self::CancelOperation => "cancel-operation",
        }
    }

    /// The kind with this text, or none: the caller answers `unsupported`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// True when the command deletes its object.
    #[must_use]
    pub const fn is_delete(self) -> bool {
        matches!(self, Self::DeleteTenant | Self::DeleteApplication)
    }

    /// True when the command is an operation, which is carried out once, and not a document, which stays wanted.
    #[must_use]
    pub const fn is_operation(self) -> bool {
        matches!(
            self,
            Self::RestartWorkflow
                | Self::SuspendWorkflow
                | Self::ResumeWorkflow
                | Self::TerminateWorkflow
                | Self::CancelOperation
        )
    }
}

/// What a command is about. Written as `cluster-config/default`, `tenant/<id>`, `application/<tenant id>/<name>`,
/// `operation/<command id>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKey {
    /// The cluster's one configuration.
    ClusterConfig,
    /// A tenant, by id.
    Tenant {
        /// The tenant's id, not its name.
        tenant_id: String,
    },
    /// An application of a tenant.
    Application {
        /// The tenant's id, not its name.
        tenant_id: String,
        /// The application's name, unique within the tenant.
        name: String,
    },
    /// An operation, by the id of the command that asks for it. It is no document: nothing replaces it but its cancellation, and
    /// it is in no listing.
    Operation {
        /// The id of the command.
        command_id: String,
    },
}

impl ObjectKey {
    /// Reads a key; none when it is not one of the four forms.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            ["cluster-config", "default"] => Some(Self::ClusterConfig),
            ["tenant", id] if !id.is_empty() => Some(Self::Tenant { tenant_id: (*id).to_owned() }),
            ["application", id, name] if !id.is_empty() && !name.is_empty() => {
                Some(Self::Application { tenant_id: (*id).to_owned(), name: (*name).to_owned() })
            }
            ["operation", id] if !id.is_empty() => Some(Self::Operation { command_id: (*id).to_owned() }),
            _ => None,
        }
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ClusterConfig => f.write_str("cluster-config/default"),
            Self::Tenant { tenant_id } => write!(f, "tenant/{tenant_id}"),
            Self::Application { tenant_id, name } => write!(f, "application/{tenant_id}/{name}"),
            Self::Operation { command_id } => write!(f, "operation/{command_id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reads_back_as_itself() {
        for kind in CommandKind::ALL {
            assert_eq!(CommandKind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(CommandKind::parse("drop-cluster"), None);
    }

    #[test]
    fn keys_read_back_as_themselves_and_nothing_else_is_a_key() {
        for text in ["cluster-config/default", "tenant/0198", "application/0198/shop", "operation/0198"] {
            assert_eq!(ObjectKey::parse(text).map(|key| key.to_string()).as_deref(), Some(text));
        }
        for text in
            ["", "tenant/", "tenant", "application/x", "cluster-config/other", "application/a/b/c", "operation/"]
        {
            assert_eq!(ObjectKey::parse(text), None, "{text}");
        }
    }
}
