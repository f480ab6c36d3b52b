//! `token create`, `token list`, `token revoke`: who may call the REST API. For whoever may read the settings file: it needs
//! the database, not a token.

use super::write_secret;
use crate::settings::Settings;
use anyhow::{Context as _, Result, bail};
use jiff::{SignedDuration, Timestamp};
use kubenova_api::token;
use kubenova_core::{
    access::{ApiToken, Caller, Role},
    tenant::TenantRef,
};
use kubenova_runtime::{clock, random};
use kubenova_store::{access, tenants};
use std::{io::Write as _, path::PathBuf};
use uuid::Uuid;

/// Commands about tokens.
#[derive(Debug, clap::Subcommand)]
pub enum TokenVerb {
    /// Create a token and write it to a file (mode 0600).
    Create {
        /// Name for logs and the audit trail.
        #[arg(long)]
        subject: String,
        /// admin, ops, tenantOwner, projectDev, readOnly or billing.
        #[arg(long)]
        role: String,
        /// Restrict it to this tenant (id or name); required for tenantOwner and projectDev.
        #[arg(long)]
        tenant: Option<String>,
        /// Days until it expires; never without this.
        #[arg(long)]
        days: Option<u32>,
        /// File to write the token to.
        #[arg(long)]
        out: PathBuf,
    },
    /// List tokens. Their text is not stored and cannot be shown again.
    List,
    /// Revoke a token.
    Revoke {
        /// Its id, as `token list` shows it.
        id: Uuid,
    },
}

impl TokenVerb {
    pub(super) async fn run(self, settings: &Settings) -> Result<()> {
        let store = settings.connect().await?;
        let mut connection = store.acquire().await?;
        let now = clock::now();
        match self {
            Self::List => {
                let mut text = String::new();
                for token in access::list(&mut connection).await? {
                    let state = if token.revoked_at.is_some() { "revoked" } else { "valid" };
                    let tenant = token.caller.tenant.map_or_else(|| "-".to_owned(), |tenant| tenant.to_string());
                    let caller = &token.caller;
                    text.push_str(&format!(
                        "{}  {}  {}  tenant {tenant}  {state}\n",
                        token.id,
                        caller.role.as_str(),
                        caller.subject
                    ));
                }
                std::io::stdout().write_all(text.as_bytes()).context("could not print the list")
            }
            Self::Revoke { id } => {
                if !access::revoke(&mut connection, id, now).await? {
                    bail!("there is no valid token {id}: see kubenova-manager token list");
                }
                Ok(())
            }
            Self::Create { subject, role, tenant, days, out } => {
                let role = Role::parse(&role).with_context(|| {
                    format!("there is no role \"{role}\": see kubenova-manager token create --help")
                })?;
                let tenant = match tenant {
                    None => None,
                    Some(name) => {
                        let found = tenants::find(&mut connection, &TenantRef::parse(&name)).await?;
                        Some(found.with_context(|| format!("there is no tenant \"{name}\""))?.id)
                    }
                };
                let text = token::mint(random::bytes());
                let fresh = ApiToken {
                    id: random::uuid_v7(),
                    caller: Caller { subject, role, tenant },
                    created_at: now,
                    created_by: "kubenova-manager token create".to_owned(),
                    expires_at: days.map(|days| after_days(now, days)).transpose()?,
                    revoked_at: None,
                };
                write_secret(&out, &format!("{text}\n"))?;
                access::insert(&mut connection, &fresh, &token::sha256(&text)).await.context(
                    "could not store the token: tenantOwner and projectDev need --tenant, admin and ops take none",
                )
            }
        }
    }
}

fn after_days(now: Timestamp, days: u32) -> Result<Timestamp> {
    now.checked_add(SignedDuration::from_hours(24 * i64::from(days))).context("--days is too large")
}
