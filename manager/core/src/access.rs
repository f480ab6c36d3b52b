//! Access: one pure function over roles and actions. Every route names its action, which a test compares with OpenAPI.

use crate::{
    refusal::{Reason, Refusal},
    tenant::TenantId,
};
use jiff::Timestamp;
use uuid::Uuid;

/// The role of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Everything.
    Admin,
    /// Everything but access itself.
    Ops,
    /// Runs one tenant.
    TenantOwner,
    /// Runs applications of one tenant.
    ProjectDev,
    /// Reads one tenant or all.
    ReadOnly,
    /// Reads usage of one tenant or of all.
    Billing,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] =
        [Self::Admin, Self::Ops, Self::TenantOwner, Self::ProjectDev, Self::ReadOnly, Self::Billing];

    /// The text in the database, in REST and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Ops => "ops",
            Self::TenantOwner => "tenantOwner",
            Self::ProjectDev => "projectDev",
            Self::ReadOnly => "readOnly",
            Self::Billing => "billing",
        }
    }

    /// The role with this text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Create or change clusters.
    WriteClusters,
    /// See clusters.
    ReadClusters,
    /// Create or change tenants, their quotas and placements.
    WriteTenants,
    /// See a tenant and its placements.
    ReadTenants,
    /// Create, change or remove applications.
    WriteApplications,
    /// See applications and their status.
    ReadApplications,
    /// See commands. Of a tenant: only its own.
    ReadCommands,
    /// Cancel and retry commands. Of a tenant: only those about its applications.
    WriteCommands,
    /// See usage.
    ReadUsage,
    /// Close periods, replay and correct usage.
    WriteUsage,
    /// See who did what.
    ReadAudit,
    /// See dead letters: what clusters sent and the Manager cannot handle.
    ReadDeadLetters,
    /// Discard dead letters.
    WriteDeadLetters,
    /// Give up what cannot be taken back: purge a cluster, let tenants beyond the limit be deleted.
    WriteIrrevocable,
    /// Make and revoke tokens.
    WriteAccess,
    /// Read one's own identity.
    ReadSelf,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 16] = [
        Self::WriteClusters,
        Self::ReadClusters,
        Self::WriteTenants,
        Self::ReadTenants,
        Self::WriteApplications,
        Self::ReadApplications,
        Self::ReadCommands,
        Self::WriteCommands,
        Self::ReadUsage,
        Self::WriteUsage,
        Self::ReadAudit,
        Self::ReadDeadLetters,
        Self::WriteDeadLetters,
        Self::WriteIrrevocable,
        Self::WriteAccess,
        Self::ReadSelf,
    ];

    /// The text in audit rows.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WriteClusters => "writeClusters",
            Self::ReadClusters => "readClusters",
            Self::WriteTenants => "writeTenants",
            Self::ReadTenants => "readTenants",
            Self::WriteApplications => "writeApplications",
            Self::ReadApplications => "readApplications",
            Self::ReadCommands => "readCommands",
            Self::WriteCommands => "writeCommands",
            Self::ReadUsage => "readUsage",
            Self::WriteUsage => "writeUsage",
            Self::ReadAudit => "readAudit",
            Self::ReadDeadLetters => "readDeadLetters",
            Self::WriteDeadLetters => "writeDeadLetters",
            Self::WriteIrrevocable => "writeIrrevocable",
            Self::WriteAccess => "writeAccess",
            Self::ReadSelf => "readSelf",
        }
    }
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Name for logs and audit rows.
    pub subject: String,
    /// What they may be.
    pub role: Role,
    /// The one tenant they are limited to; none means all.
    pub tenant: Option<TenantId>,
}

/// A service token as it is kept: without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// Its id.
    pub id: Uuid,
    /// Who calls with it.
    pub caller: Caller,
    /// When it was made.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// How far a permission reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    All,
    /// One tenant's objects; those of others do not exist.
    Tenant(TenantId),
}

impl Scope {
    /// The tenant a list is limited to.
    #[must_use]
    pub const fn tenant(self) -> Option<TenantId> {
        match self {
            Self::All => None,
            Self::Tenant(id) => Some(id),
        }
    }

    /// True when an object of this tenant exists for the caller.
    #[must_use]
    pub fn sees(self, tenant: TenantId) -> bool {
        match self {
            Self::All => true,
            Self::Tenant(id) => id == tenant,
        }
    }
}

/// True when the role may do this at all.
#[must_use]
pub const fn role_may(role: Role, action: Action) -> bool {
    use Action as A;
    match role {
        Role::Admin => true,
        Role::Ops => !matches!(action, A::WriteAccess | A::WriteIrrevocable),
        Role::TenantOwner => matches!(
            action,
            A::ReadTenants
                | A::WriteApplications
                | A::ReadApplications
                | A::ReadCommands
                | A::WriteCommands
                | A::ReadUsage
                | A::ReadAudit
                | A::ReadSelf
        ),
        Role::ProjectDev => {
            matches!(
                action,
                A::ReadTenants
                    | A::WriteApplications
                    | A::ReadApplications
                    | A::ReadCommands
                    | A::WriteCommands
                    | A::ReadSelf
            )
        }
        Role::ReadOnly => {
            matches!(
                action,
                A::ReadClusters | A::ReadTenants | A::ReadApplications | A::ReadCommands | A::ReadUsage | A::ReadSelf
            )
        }
        Role::Billing => matches!(action, A::ReadUsage | A::ReadSelf),
    }
}

impl Caller {
    /// Who this is, where something is kept for each caller. Two tokens may have one subject: with another role or tenant
    /// they are two callers, and what one was answered is not the other's to see.
    #[must_use]
    pub fn identity(&self) -> String {
        let tenant = self.tenant.map_or_else(|| "all".to_owned(), |tenant| tenant.to_string());
        format!("{}/{tenant}/{}", self.role.as_str(), self.subject)
    }

    /// How far the caller may do this.
    ///
    /// # Errors
    /// With [`Reason::Forbidden`]. It is decided before anything is looked up, so it tells nothing about what exists.
    pub fn may(&self, action: Action) -> Result<Scope, Refusal> {
        let scope = match (self.role, self.tenant) {
            (Role::Admin | Role::Ops, _) | (Role::ReadOnly | Role::Billing, None) => Some(Scope::All),
            (_, Some(tenant)) => Some(Scope::Tenant(tenant)),
            (Role::TenantOwner | Role::ProjectDev, None) => None,
        };
        // Clusters belong to no tenant: callers that are limited to one see its placements instead.
        let of_no_tenant = matches!(action, Action::ReadClusters | Action::WriteClusters | Action::WriteUsage);
        let detail = match scope {
            Some(Scope::Tenant(_)) if of_no_tenant && role_may(self.role, action) => {
                "the token is limited to one tenant, and clusters belong to none; \
                 see GET /api/v1/tenants/{tenant}/placements for those of the tenant"
                    .to_owned()
            }
            Some(scope) if role_may(self.role, action) => return Ok(scope),
            _ => format!("role {} does not allow this", self.role.as_str()),
        };
        Err(Refusal::new(Reason::Forbidden, detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(role: Role, tenant: Option<u128>) -> Caller {
        Caller { subject: "ann".into(), role, tenant: tenant.map(|id| TenantId(Uuid::from_u128(id))) }
    }

    /// One row a role, one column an action, in the order of [`Action::ALL`]: change it with the product's promise.
    const MATRIX: [(Role, &str); 6] = [
        (Role::Admin, "yyyyyyyyyyyyyyyy"),
        (Role::Ops, "yyyyyyyyyyyyy--y"),
        (Role::TenantOwner, "---yyyyyy-y----y"),
        (Role::ProjectDev, "---yyyyy-------y"),
        (Role::ReadOnly, "-y-y-yy-y------y"),
        (Role::Billing, "--------y------y"),
    ];

    #[test]
    fn the_matrix_is_as_promised() {
        for (role, row) in MATRIX {
            let written: String =
                Action::ALL.iter().map(|action| if role_may(role, *action) { 'y' } else { '-' }).collect();
            assert_eq!(written, row, "{role:?}");
        }
    }

    #[test]
    fn who_is_limited_to_a_tenant_reaches_only_it() {
        let tenant = TenantId(Uuid::from_u128(7));
        for role in [Role::TenantOwner, Role::ProjectDev, Role::ReadOnly, Role::Billing] {
            for action in Action::ALL {
                match caller(role, Some(7)).may(action) {
                    Ok(scope) => {
                        assert_eq!(scope, Scope::Tenant(tenant), "{role:?} {action:?}");
                        assert!(scope.sees(tenant) && !scope.sees(TenantId(Uuid::from_u128(8))));
                    }
                    Err(refusal) => assert_eq!(refusal.reason, Reason::Forbidden),
                }
            }
            assert!(caller(role, Some(7)).may(Action::ReadClusters).is_err(), "{role:?}");
        }
        let limited = caller(Role::ReadOnly, Some(7)).may(Action::ReadClusters).unwrap_err();
        assert!(limited.detail.contains("limited to one tenant"), "not the role is the cause: {}", limited.detail);
    }

    #[test]
    fn callers_with_one_subject_differ_by_role_and_tenant() {
        let callers = [
            caller(Role::ProjectDev, Some(1)),
            caller(Role::ProjectDev, Some(2)),
            caller(Role::TenantOwner, Some(1)),
            caller(Role::ReadOnly, None),
        ];
        let identities: std::collections::BTreeSet<String> = callers.iter().map(Caller::identity).collect();
        assert_eq!(identities.len(), callers.len(), "{identities:?}");
    }

    #[test]
    fn a_role_that_does_not_allow_an_action_is_named() {
        let refused = caller(Role::Billing, None).may(Action::WriteTenants).unwrap_err();
        assert_eq!(refused.detail, "role billing does not allow this");
    }

    #[test]
    fn a_tenant_role_without_a_tenant_may_nothing() {
        for role in [Role::TenantOwner, Role::ProjectDev] {
            assert!(Action::ALL.iter().all(|action| caller(role, None).may(*action).is_err()), "{role:?}");
        }
        assert_eq!(caller(Role::ReadOnly, None).may(Action::ReadClusters), Ok(Scope::All));
    }
}
