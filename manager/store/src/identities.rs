//! Identities: one for each incarnation of a cluster, with the public nkey that was enrolled for it and the life of its credentials.
//! Old ones stay: a usage report is verified by the key that sealed it.

use crate::error::{RowRef, StoreError, failed, one_row};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{
    cluster::{ClusterId, ClusterState},
    renewal::EnrolledRecord,
};
use kubenova_schema::sealing::SealingKey;
use sqlx::PgConnection;
use std::collections::BTreeMap;

/// The life of certificate and user JWT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CredentialsLife {
    /// When they were issued.
    pub issued_at: Timestamp,
    /// When the first of them expires.
    pub expires_at: Timestamp,
    /// When the user JWT expires.
    pub user_jwt_expires_at: Timestamp,
}

/// Adds the identity of an enrollment, in its transaction. No cluster has enrolled this nkey before ([`is_taken`]).
pub async fn insert(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    incarnation: i64,
    nkey_public: &str,
    sealing_key: Option<&SealingKey>,
    life: CredentialsLife,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into identities (cluster_id, incarnation, nkey_public, sealing_key, sealing_key_signature, enrolled_at, issued_at,
                                 expires_at, user_jwt_expires_at)
         values ($1, $2, $3, $4, $5, $6, $6, $7, $8)",
        cluster.as_str(),
        incarnation,
        nkey_public,
        sealing_key.map(|key| key.public_key.as_str()),
        sealing_key.map(|key| key.signature.as_str()),
        life.issued_at.to_sqlx(),
        life.expires_at.to_sqlx(),
        life.user_jwt_expires_at.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("add a cluster's identity"))?;
    Ok(())
}

/// The sealing key of a cluster's current incarnation, unless that is revoked: what is sealed to it then is for a thief.
pub async fn sealing_key(connection: &mut PgConnection, cluster: &ClusterId) -> Result<Option<SealingKey>, StoreError> {
    let row = sqlx::query!(
        "select i.sealing_key, i.sealing_key_signature
         from clusters c join identities i on i.cluster_id = c.id and i.incarnation = c.incarnation
         where c.id = $1 and i.revoked_at is null",
        cluster.as_str(),
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("find a cluster's sealing key"))?;
    let key = row.and_then(|row| row.sealing_key.zip(row.sealing_key_signature));
    Ok(key.map(|(public_key, signature)| SealingKey { public_key, signature }))
}

/// Whether this nkey is or was enrolled for this cluster.
pub async fn contains(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    nkey_public: &str,
) -> Result<bool, StoreError> {
    let found = sqlx::query_scalar!(
        "select exists (select from identities where cluster_id = $1 and nkey_public = $2) as \"found!\"",
        cluster.as_str(),
        nkey_public,
    )
    .fetch_one(connection)
    .await
    .map_err(failed("find a cluster's nkey"))?;
    Ok(found)
}

/// Whether this nkey is or was enrolled, for whichever cluster.
pub async fn is_taken(connection: &mut PgConnection, nkey_public: &str) -> Result<bool, StoreError> {
    let found = sqlx::query_scalar!(
        "select exists (select from identities where nkey_public = $1) as \"found!\"",
        nkey_public,
    )
    .fetch_one(connection)
    .await
    .map_err(failed("find an nkey"))?;
    Ok(found)
}

/// The identity that a renewal is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewable {
    /// What decides whether it may be renewed.
    pub record: EnrolledRecord,
    /// The public nkey that was enrolled for it.
    pub nkey_public: String,
    /// Current epoch of the cluster.
    pub epoch: i64,
}

/// The nkey of an incarnation; none when the cluster has no such incarnation.
pub async fn nkey(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    incarnation: i64,
) -> Result<Option<String>, StoreError> {
    sqlx::query_scalar!(
        "select nkey_public from identities where cluster_id = $1 and incarnation = $2",
        cluster.as_str(),
        incarnation,
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("find the nkey of an incarnation"))
}

/// The identity of an incarnation, and its cluster locked until the transaction ends.
pub async fn lock(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    incarnation: i64,
) -> Result<Option<Renewable>, StoreError> {
    let row = sqlx::query!(
        "select c.state, c.kubernetes_uid, c.incarnation, c.epoch, i.nkey_public, i.expires_at, i.revoked_at
         from clusters c join identities i on i.cluster_id = c.id and i.incarnation = $2
         where c.id = $1 for no key update of c",
        cluster.as_str(),
        incarnation,
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("find the identity of a renewal"))?;
    row.map(|row| {
        let at = RowRef { table: "clusters", id: cluster };
        let record = EnrolledRecord {
            state: at.parse("state", &row.state, ClusterState::parse)?,
            kubernetes_uid: row.kubernetes_uid,
            incarnation: row.incarnation,
            expires_at: row.expires_at.to_jiff(),
            is_revoked: row.revoked_at.is_some(),
        };
        Ok(Renewable { record, nkey_public: row.nkey_public, epoch: row.epoch })
    })
    .transpose()
}

/// Records that the credentials of an incarnation were issued again. The time of issue never goes back, whatever the clock of the Manager:
/// a revocation must reach the JWT that was issued last.
pub async fn renewed(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    incarnation: i64,
    life: CredentialsLife,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "update identities set issued_at = greatest(issued_at, $3), expires_at = greatest(expires_at, $4),
                user_jwt_expires_at = greatest(user_jwt_expires_at, $5)
         where cluster_id = $1 and incarnation = $2",
        cluster.as_str(),
        incarnation,
        life.issued_at.to_sqlx(),
        life.expires_at.to_sqlx(),
        life.user_jwt_expires_at.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("record a renewal"))?;
    one_row(done.rows_affected(), "identities", cluster)
}

/// The life of the credentials of these clusters' current incarnations; clusters that never enrolled are missing.
pub async fn of_clusters(
    connection: &mut PgConnection,
    clusters: &[ClusterId],
) -> Result<BTreeMap<ClusterId, CredentialsLife>, StoreError> {
    let ids: Vec<String> = clusters.iter().map(ToString::to_string).collect();
    let rows = sqlx::query!(
        "select i.cluster_id, i.issued_at, i.expires_at, i.user_jwt_expires_at
         from clusters c join identities i on i.cluster_id = c.id and i.incarnation = c.incarnation where c.id = any($1)",
        &ids,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read the life of clusters' credentials"))?;
    rows.into_iter()
        .map(|row| {
            let cluster =
                RowRef { table: "identities", id: &row.cluster_id }.cluster_id("cluster_id", &row.cluster_id)?;
            let life = CredentialsLife {
                issued_at: row.issued_at.to_jiff(),
                expires_at: row.expires_at.to_jiff(),
                user_jwt_expires_at: row.user_jwt_expires_at.to_jiff(),
            };
            Ok((cluster, life))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        enrollments,
        fixture::{Fixture, at},
    };

    fn life(from: i64) -> CredentialsLife {
        CredentialsLife { issued_at: at(from), expires_at: at(from + 60), user_jwt_expires_at: at(from + 90) }
    }

    #[tokio::test]
    async fn a_key_belongs_to_the_cluster_that_enrolled_it_for_ever() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for (incarnation, nkey) in [(1, "UOLD"), (2, "UNEW")] {
            insert(&mut connection, &clusters[0], incarnation, nkey, None, life(0)).await.unwrap();
        }
        for (cluster, nkey, known) in [(0, "UOLD", true), (0, "UNEW", true), (1, "UNEW", false), (0, "UX", false)] {
            let found = contains(&mut connection, &clusters[cluster], nkey).await.unwrap();
            assert_eq!(found, known, "{cluster} {nkey}");
            assert_eq!(is_taken(&mut connection, nkey).await.unwrap(), nkey != "UX");
        }
        // Another cluster that enrolled with it could be revoked in its place.
        insert(&mut connection, &clusters[1], 1, "UOLD", None, life(0)).await.unwrap_err();
    }

    #[tokio::test]
    async fn a_renewal_changes_the_life_of_its_incarnation_only() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        assert_eq!(lock(&mut connection, &cluster, 1).await.unwrap(), None);
        for (incarnation, nkey) in [(1, "UOLD"), (2, "UNEW")] {
            enrollments::enroll(&mut connection, &cluster, "uid-1", at(0)).await.unwrap();
            insert(&mut connection, &cluster, incarnation, nkey, None, life(0)).await.unwrap();
        }
        // The second one by a Manager whose clock is behind.
        for from in [20, 10] {
            renewed(&mut connection, &cluster, 2, life(from)).await.unwrap();
        }
        let (old, new) =
            (lock(&mut connection, &cluster, 1).await.unwrap(), lock(&mut connection, &cluster, 2).await.unwrap());
        let shown = |it: Option<Renewable>| it.map(|it| (it.nkey_public, it.record.expires_at, it.record.incarnation));
        assert_eq!(shown(old), Some(("UOLD".to_owned(), at(60), 2)));
        assert_eq!(shown(new), Some(("UNEW".to_owned(), at(80), 2)));
        let shown = of_clusters(&mut connection, std::slice::from_ref(&cluster)).await.unwrap();
        assert_eq!(shown, BTreeMap::from([(cluster.clone(), life(20))]));
        assert!(matches!(renewed(&mut connection, &cluster, 3, life(0)).await, Err(StoreError::Missing { .. })));
    }
}
