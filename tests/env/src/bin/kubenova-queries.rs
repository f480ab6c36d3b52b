//! Rewrites `.sqlx`, what the compiler needs to check queries without a database: `cargo dev gen`.
//!
//! Starts PostgreSQL in a sandbox, applies the migrations in order, and lets the compiler ask it. The folder is replaced
//! as a whole and only when everything compiled, so that no query stays that the source no longer has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use kubenova_env::postgres::Postgres;
use kubenova_env::repository;
use kubenova_env::sandbox::{self, Options, Sandbox};

const DATABASE: &str = "queries";
/// The crate with all queries; it is compiled again even if nothing in it changed.
const STORE: &str = "manager/store/src/lib.rs";

fn main() -> Result<ExitCode> {
    if let Some(code) = sandbox::play_stage() {
        return Ok(code);
    }
    if Sandbox::require().is_err() {
        return sandbox::enter_ourselves(&Options { with_parent: true, ..Options::default() });
    }
    let runtime = tokio::runtime::Runtime::new().context("could not make a runtime")?;
    runtime.block_on(Box::pin(rewrite(&repository::root()?)))?;
    Ok(ExitCode::SUCCESS)
}

async fn rewrite(repository: &Path) -> Result<()> {
    let sandbox = Sandbox::require()?;
    let postgres = Postgres::start(&sandbox).await?;
    let url = postgres.database(DATABASE)?;
    let mut migrations: Vec<PathBuf> =
        fs::read_dir(repository.join("migrations")).context("no migrations")?.flatten().map(|it| it.path()).collect();
    migrations.sort();
    for migration in &migrations {
        let sql = fs::read_to_string(migration)?;
        postgres.query(DATABASE, &sql).with_context(|| format!("could not apply {}", migration.display()))?;
    }

    let (kept, fresh) = (repository.join(".sqlx"), sandbox.folder("sqlx")?);
    fs::write(repository.join(STORE), fs::read(repository.join(STORE))?)?;
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["check", "--workspace", "--quiet"])
        .current_dir(repository)
        .envs([("SQLX_OFFLINE", "false"), ("DATABASE_URL", &url)])
        .env("SQLX_OFFLINE_DIR", &fresh)
        .status()
        .context("could not start cargo")?;
    ensure!(status.success(), "the workspace does not compile against its migrations; .sqlx stays as it was");
    let mut written = 0;
    let names =
        |folder: &Path| -> Result<Vec<_>> { Ok(fs::read_dir(folder)?.flatten().map(|it| it.file_name()).collect()) };
    let wanted = names(&fresh)?;
    ensure!(!wanted.is_empty(), "the compiler asked no query; .sqlx stays as it was");
    for name in &wanted {
        let text = fs::read(fresh.join(name))?;
        if fs::read(kept.join(name)).is_ok_and(|present| present == text) {
            continue;
        }
        fs::write(kept.join(name), text)?;
        written += 1;
    }
    for name in names(&kept)?.into_iter().filter(|name| !wanted.contains(name)) {
        fs::remove_file(kept.join(name))?;
        written += 1;
    }
    eprintln!("{} queries in .sqlx, {written} files changed", wanted.len());
    Ok(())
}
