//! `token create`, `token list`, `token revoke`: who may call the REST API. For whoever may read the settings file: it needs
//! the database, not a token.

use super::say;
use crate::settings::Settings;
use anyhow::{Context as _, Result, anyhow, bail};
use jiff::{SignedDuration, Timestamp};
use kubenova_api::token;
use kubenova_core::{
    access::{Action, ApiToken, Caller, Role},
    plain_text::is_plain,
    tenant::{TenantId, TenantRef},
};
use kubenova_runtime::{
    clock,
    file::{self, Readers},
    random,
};
use kubenova_store::{access, audit, connection::Connection, pool::Store, tenants};
use std::{
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
};
use uuid::Uuid;

/// Commands about tokens.
#[derive(Debug, clap::Subcommand)]
pub enum TokenVerb {
    /// Create a token and write it to a new file (mode 0600).
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
        /// New file to write the token to.
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
        let now = clock::now();
        match self {
            Self::List => {
                let text: String = access::list(&mut *store.acquire().await?)
                    .await?
                    .iter()
                    .map(|token| format!("{}\n", line(token, now)))
                    .collect();
                std::io::stdout().write_all(text.as_bytes()).context("could not print the list")
            }
            Self::Revoke { id } => {
                let revoke = store.transaction("revoke a token", async |connection| {
                    if !access::revoke(connection, id, now).await? {
                        bail!("there is no valid token {id}: see kubenova-manager token list");
                    }
                    record(connection, "revoke", id, None, now).await
                });
                revoke.await
            }
            Self::Create { subject, role, tenant, days, out } => {
                let role = Role::parse(&role).with_context(|| {
                    format!("there is no role \"{role}\": see kubenova-manager token create --help")
                })?;
                check_subject(&subject)?;
                check_scope(role, tenant.is_some())?;
                let expires_at = days.map(|days| after_days(now, days)).transpose()?;
                let fresh = ApiToken {
                    id: random::uuid_v7(),
                    caller: Caller { subject, role, tenant: None },
                    created_at: now,
                    created_by: "kubenova-manager token create".to_owned(),
                    expires_at,
                    revoked_at: None,
                };
                create(&store, fresh, tenant.as_deref(), &out).await?;
                // With the folder: it may be another one than the caller's.
                let out = std::path::absolute(&out).unwrap_or(out);
                say(&format!("the token is in {}", out.display()));
                Ok(())
            }
        }
    }
}

/// Stores a token, limited to this tenant or not, and writes its text to a new file: both, or neither.
async fn create(store: &Store, mut fresh: ApiToken, tenant: Option<&str>, out: &Path) -> Result<()> {
    let text = token::mint(random::bytes());
    let mut written = false;
    let stored = store.transaction("create a token", async |connection| {
        if let Some(name) = tenant {
            fresh.caller.tenant = Some(tenant_id(connection, name).await?);
        }
        access::insert(connection, &fresh, &token::sha256(&text)).await?;
        record(connection, "create", fresh.id, fresh.caller.tenant, fresh.created_at).await?;
        // The file before the commit: a token whose text is lost would be valid until it expires.
        write(out, &text)?;
        written = true;
        anyhow::Ok(())
    });
    let stored = stored.await;
    if stored.is_err() && written {
        std::fs::remove_file(out)
            .with_context(|| format!("could not remove {}, whose token is not valid", out.display()))?;
    }
    stored
}

/// Writes the audit record: who may run this command is an administrator.
async fn record(
    connection: &mut Connection,
    verb: &str,
    token: Uuid,
    tenant: Option<TenantId>,
    now: Timestamp,
) -> Result<()> {
    let entry = audit::Entry {
        at: now,
        subject: "kubenova-manager token".to_owned(),
        role: Role::Admin,
        action: format!("{}/{verb}", Action::WriteAccess.as_str()),
        target: format!("token/{token}"),
        tenant,
        request_id: String::new(),
    };
    Ok(audit::insert(connection, &entry).await?)
}

async fn tenant_id(connection: &mut Connection, name: &str) -> Result<TenantId> {
    let found = tenants::find(connection, &TenantRef::parse(name)).await?;
    Ok(found.with_context(|| format!("there is no tenant \"{name}\": GET /api/v1/tenants lists them"))?.id)
}

fn write(out: &Path, text: &str) -> Result<()> {
    file::create(out, format!("{text}\n").as_bytes(), Readers::Owner).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => anyhow!("{} exists already: name another file with --out", out.display()),
        _ => {
            anyhow!(error).context(format!("could not write {}: its folder must exist and be writable", out.display()))
        }
    })
}

/// Longest subject, in characters: it stands in every audit row.
const SUBJECT_LENGTH_MAX: usize = 253;

fn check_subject(subject: &str) -> Result<()> {
    if subject.trim().is_empty() || !is_plain(subject, SUBJECT_LENGTH_MAX) {
        bail!(
            "--subject must be 1 to {SUBJECT_LENGTH_MAX} characters without control characters, for example the user's or the program's name"
        );
    }
    Ok(())
}

fn check_scope(role: Role, of_tenant: bool) -> Result<()> {
    match (role, of_tenant) {
        (Role::TenantOwner | Role::ProjectDev, false) => {
            bail!("role {} is for one tenant: name it with --tenant", role.as_str())
        }
        (Role::Admin | Role::Ops, true) => {
            bail!("role {} is for all tenants: leave out --tenant, or choose another role", role.as_str())
        }
        _ => Ok(()),
    }
}

/// One token in the list.
fn line(token: &ApiToken, now: Timestamp) -> String {
    let caller = &token.caller;
    let tenant = caller.tenant.map_or_else(|| "-".to_owned(), |tenant| tenant.to_string());
    let state = match (token.revoked_at, token.expires_at) {
        (Some(at), _) => format!("revoked at {at:.0}"),
        (None, None) => "valid".to_owned(),
        (None, Some(at)) if at <= now => format!("expired at {at:.0}"),
        (None, Some(at)) => format!("valid until {at:.0}"),
    };
    format!("{}  {}  {}  tenant {tenant}  {state}", token.id, caller.role.as_str(), caller.subject)
}

fn after_days(now: Timestamp, days: u32) -> Result<Timestamp> {
    if days == 0 {
        bail!("--days 0 would be a token that is expired at once: write at least 1");
    }
    now.checked_add(SignedDuration::from_hours(24 * i64::from(days))).context("--days is too large")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_store::audit_chain;
    use kubenova_test_postgres::Database;

    fn fresh(revoked_at: Option<Timestamp>, expires_at: Option<Timestamp>) -> ApiToken {
        ApiToken {
            id: random::uuid_v7(),
            caller: Caller { subject: "ann".to_owned(), role: Role::Admin, tenant: None },
            created_at: Timestamp::UNIX_EPOCH,
            created_by: "test".to_owned(),
            expires_at,
            revoked_at,
        }
    }

    #[test]
    fn the_list_says_whether_a_token_is_valid_and_until_when() {
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        let now = Timestamp::from_second(10).unwrap();
        for (token, state) in [
            (fresh(None, None), "valid"),
            (fresh(None, at(11)), "valid until 1970-01-01T00:00:11Z"),
            (fresh(None, at(10)), "expired at 1970-01-01T00:00:10Z"),
            (fresh(at(3), at(10)), "revoked at 1970-01-01T00:00:03Z"),
        ] {
            let shown = line(&token, now);
            assert!(shown.ends_with(&format!("  admin  ann  tenant -  {state}")), "{shown}");
        }
    }

    #[test]
    fn what_cannot_be_a_token_is_refused_with_what_to_write() {
        for subject in ["", " ", "ann\nbob", "\u{1b}[31m", &"a".repeat(254)] {
            assert!(check_subject(subject).unwrap_err().to_string().starts_with("--subject must be"), "{subject:?}");
        }
        check_subject("ann@example.com").unwrap();
        assert!(check_scope(Role::ProjectDev, false).unwrap_err().to_string().contains("--tenant"));
        assert!(check_scope(Role::Ops, true).is_err());
        check_scope(Role::ReadOnly, true).unwrap();
        assert!(after_days(Timestamp::UNIX_EPOCH, 0).is_err());
    }

    #[tokio::test]
    async fn a_token_is_stored_only_with_a_new_file() {
        let database = Database::new().await;
        let store = Store::open(database.url(), 2).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let count = async || access::list(&mut store.acquire().await.unwrap()).await.unwrap().len();
        let create = async |path: &Path| create(&store, fresh(None, None), None, path).await;

        let taken = folder.path().join("taken");
        std::fs::write(&taken, "precious").unwrap();
        let error = create(&taken).await.unwrap_err().to_string();
        assert!(error.contains("taken exists already"), "{error}");
        assert_eq!(std::fs::read_to_string(&taken).unwrap(), "precious");
        create(&folder.path().join("missing/token")).await.unwrap_err();
        assert_eq!(count().await, 0, "no token without its text");

        let path = folder.path().join("token");
        create(&path).await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let hash = token::sha256(text.trim());
        let caller = access::caller(&mut store.acquire().await.unwrap(), &hash, clock::now()).await.unwrap();
        assert_eq!(caller.unwrap().subject, "ann");
        let records = audit_chain::pending(&mut store.acquire().await.unwrap()).await.unwrap();
        assert_eq!(records, 1, "in the audit log");
    }

    #[tokio::test]
    async fn a_missing_tenant_is_named_and_nothing_is_written_when_the_row_is_refused() {
        let database = Database::new().await;
        let store = Store::open(database.url(), 2).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let error = create(&store, fresh(None, None), Some("missing"), &path).await.unwrap_err().to_string();
        assert!(error.starts_with("there is no tenant \"missing\""), "{error}");

        let mut refused = fresh(None, None);
        refused.caller.role = Role::TenantOwner;
        create(&store, refused, None, &path).await.unwrap_err();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
