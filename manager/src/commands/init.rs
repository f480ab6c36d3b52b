//! `init`: tables, keys, and the first administrator's token. Idempotent: what exists is kept.

use super::{
    keys::{make_kek, to_row},
    say, write_secret,
};
use crate::settings::Settings;
use anyhow::{Result, bail};
use kubenova_api::token;
use kubenova_core::access::{ApiToken, Caller, Role};
use kubenova_runtime::{clock, random};
use kubenova_store::{access, connection::Connection, keys, pool::Store};
use kubenova_trust::{envelope::Envelope, keyring};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// Creator of the first token; the next one that is made this way revokes it.
const MADE_BY: &str = "kubenova-manager init";

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
pub struct Init {
    /// Write an administrator's token to this file (mode 0600). If the file holds a valid one it is kept; else a new one
    /// is made, and the one that an earlier `init` made is revoked.
    #[arg(long)]
    admin_token_file: Option<PathBuf>,
}

impl Init {
    pub(super) async fn run(self, settings: &Settings) -> Result<()> {
        let store = settings.connect_and_migrate().await?;
        let made = make_keys(settings, &store).await?;
        say(&format!("keys: {made} created, the others existed"));
        if let Some(path) = &self.admin_token_file {
            let fresh = ensure_admin(&store, path).await?;
            let what = if fresh { "written to" } else { "still valid, in" };
            say(&format!("administrator's token: {what} {}", path.display()));
        }
        Ok(())
    }
}

/// Creates the missing keys in one transaction, and the key-encryption key when no key is sealed with one yet.
async fn make_keys(settings: &Settings, store: &Store) -> Result<usize> {
    store.transaction("make the keys", async |transaction| insert_missing(settings, transaction).await).await
}

async fn insert_missing(settings: &Settings, transaction: &mut Connection) -> Result<usize> {
    keys::lock(transaction).await?;
    let rows = keys::all(transaction).await?;
    if !settings.kek_file.exists() {
        if let Some(row) = rows.first() {
            let path = settings.kek_file.display();
            bail!(
                "the keys are sealed with key-encryption key {}, but {path} does not exist: restore it from your backup",
                row.kek_id
            );
        }
        make_kek(&settings.kek_file)?;
        say(&format!(
            "key-encryption key: created {}; back it up, without it no key can be read",
            settings.kek_file.display()
        ));
    }
    let envelope = Envelope::from_file(&settings.kek_file)?;
    if let Some(row) = rows.iter().find(|row| row.kek_id != envelope.id()) {
        bail!(
            "key \"{}\" is sealed with key-encryption key {}, but kekFile holds {}: set kekFile to the file of the first",
            row.name,
            row.kek_id,
            envelope.id()
        );
    }
    let present: BTreeSet<String> = rows.into_iter().map(|row| row.name).collect();
    let now = clock::now();
    let made = keyring::make_missing(&present, &envelope, now)?;
    let count = made.len();
    let fresh: Vec<_> = made.into_iter().map(to_row).collect();
    keys::insert(transaction, &fresh, now).await?;
    Ok(count)
}

/// True when a new token was made.
async fn ensure_admin(store: &Store, path: &Path) -> Result<bool> {
    store.transaction("make the administrator's token", async |transaction| insert_admin(transaction, path).await).await
}

async fn insert_admin(transaction: &mut Connection, path: &Path) -> Result<bool> {
    let now = clock::now();
    if let Ok(text) = std::fs::read_to_string(path) {
        let caller = access::caller(transaction, &token::sha256(text.trim()), now).await?;
        if caller.is_some_and(|caller| caller.role == Role::Admin) {
            return Ok(false);
        }
    }
    let earlier = access::list(transaction).await?;
    for old in earlier.iter().filter(|token| token.created_by == MADE_BY && token.revoked_at.is_none()) {
        access::revoke(transaction, old.id, now).await?;
    }
    let text = token::mint(random::bytes());
    let fresh = ApiToken {
        id: random::uuid_v7(),
        caller: Caller { subject: "admin".to_owned(), role: Role::Admin, tenant: None },
        created_at: now,
        created_by: MADE_BY.to_owned(),
        expires_at: None,
        revoked_at: None,
    };
    access::insert(transaction, &fresh, &token::sha256(&text)).await?;
    // The file first: when the commit fails, the next run finds an invalid token in it and makes a new one.
    write_secret(path, &format!("{text}\n"))?;
    Ok(true)
}
