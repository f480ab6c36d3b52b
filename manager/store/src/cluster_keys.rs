//! Public nkeys that were enrolled for a cluster, old ones included: a usage report is verified by the key that sealed it.

use crate::error::{StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::cluster::ClusterId;
use sqlx::PgConnection;

/// Adds the nkey of an enrollment, in its transaction.
pub async fn insert(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    nkey_public: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into cluster_keys (cluster_id, nkey_public, created_at) values ($1, $2, $3) on conflict do nothing",
        cluster.as_str(),
        nkey_public,
        now.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("add a cluster's nkey"))?;
    Ok(())
}

/// Whether this nkey is or was enrolled for this cluster.
pub async fn contains(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    nkey_public: &str,
) -> Result<bool, StoreError> {
    let found = sqlx::query_scalar!(
        "select exists (select from cluster_keys where cluster_id = $1 and nkey_public = $2) as \"found!\"",
        cluster.as_str(),
        nkey_public,
    )
    .fetch_one(connection)
    .await
    .map_err(failed("find a cluster's nkey"))?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, at};

    #[tokio::test]
    async fn a_key_belongs_to_the_cluster_that_enrolled_it_for_ever() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for nkey in ["UOLD", "UNEW", "UNEW"] {
            insert(&mut connection, &clusters[0], nkey, at(0)).await.unwrap();
        }
        for (cluster, nkey, known) in [(0, "UOLD", true), (0, "UNEW", true), (1, "UNEW", false), (0, "UX", false)] {
            let found = contains(&mut connection, &clusters[cluster], nkey).await.unwrap();
            assert_eq!(found, known, "{cluster} {nkey}");
        }
    }
}
