//! Whether a database has exactly the migrations of this release, and what to do when it has not.
//!
//! `pool.rs` applies them: a Manager that starts, and `kubenova-manager init`. Everything else is refused another database than the one
//! that its statements were checked against.

use crate::error::{MigrationsDiffer, StoreError, failed};
use sqlx::PgConnection;
use std::collections::BTreeMap;

/// The migrations of this release, in order.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations");

/// Checksums of migrations by their versions.
type Checksums = BTreeMap<i64, Vec<u8>>;

/// Fails unless the database has exactly the migrations of this release.
pub(crate) async fn check(connection: &mut PgConnection) -> Result<(), StoreError> {
    let applied = applied(connection).await.map_err(failed("read which migrations were applied"))?;
    let known: Checksums =
        MIGRATIONS.iter().map(|migration| (migration.version, migration.checksum.to_vec())).collect();
    compare(&applied, &known)?;
    Ok(())
}

/// The table is sqlx's own: no migration creates it, so these queries cannot be checked by the compiler.
async fn applied(connection: &mut PgConnection) -> Result<Checksums, sqlx::Error> {
    let is_prepared = sqlx::query_scalar::<_, bool>("select to_regclass('_sqlx_migrations') is not null");
    if !is_prepared.fetch_one(&mut *connection).await? {
        return Ok(Checksums::new());
    }
    let rows = sqlx::query_as::<_, (i64, Vec<u8>)>("select version, checksum from _sqlx_migrations");
    Ok(rows.fetch_all(connection).await?.into_iter().collect())
}

fn compare(applied: &Checksums, known: &Checksums) -> Result<(), MigrationsDiffer> {
    if applied.is_empty() {
        return Err(MigrationsDiffer::Unprepared);
    }
    let unknown = applied.keys().find(|version| !known.contains_key(*version)).copied();
    let lacking = known.keys().find(|version| !applied.contains_key(*version)).copied();
    let other = known.iter().find(|(version, checksum)| applied.get(*version).is_some_and(|held| held != *checksum));
    match (other.map(|(version, _)| *version), unknown, lacking) {
        (None, None, None) => Ok(()),
        (None, Some(first), None) => Err(MigrationsDiffer::DatabaseNewer { first }),
        (None, None, Some(first)) => Err(MigrationsDiffer::DatabaseOlder { first }),
        (Some(first), ..) => Err(MigrationsDiffer::Unrelated { first }),
        (None, Some(unknown), Some(lacking)) => Err(MigrationsDiffer::Unrelated { first: unknown.min(lacking) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_of_them_is_newer_follows_from_what_each_has() {
        let of = |migrations: &[(i64, u8)]| -> Checksums {
            migrations.iter().map(|(version, checksum)| (*version, vec![*checksum])).collect()
        };
        let compare = |applied: &[(i64, u8)], known: &[(i64, u8)]| compare(&of(applied), &of(known));
        let release = [(1, 7), (2, 8)];
        assert_eq!(compare(&release, &release), Ok(()));
        assert_eq!(compare(&[], &release), Err(MigrationsDiffer::Unprepared));
        assert_eq!(compare(&[(1, 7), (2, 8), (3, 9)], &release), Err(MigrationsDiffer::DatabaseNewer { first: 3 }));
        assert_eq!(compare(&[(2, 8)], &release), Err(MigrationsDiffer::DatabaseOlder { first: 1 }));
        assert_eq!(compare(&[(1, 7), (3, 9)], &release), Err(MigrationsDiffer::Unrelated { first: 2 }));
        assert_eq!(compare(&[(1, 7), (2, 0), (3, 9)], &release), Err(MigrationsDiffer::Unrelated { first: 2 }));
    }
}
