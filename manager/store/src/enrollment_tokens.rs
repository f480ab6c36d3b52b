//! Enrollment tokens as administrators see and revoke them. Their use by clusters is in `enrollments.rs`.

use crate::{
    enrollment_approvals,
    enrollment_attempts::{self, Attempt},
    error::{RowRef, StoreError, failed},
};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{
    cluster::ClusterId,
    enrollment_request::ApprovalRequest,
    enrollment_token::{TokenHistory, parse_id},
    page::Page,
};
use sqlx::PgConnection;
use std::collections::BTreeMap;
use uuid::Uuid;

/// A token with the attempts to use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its id.
    pub id: Uuid,
    /// When it was created.
    pub created_at: Timestamp,
    /// Who created it.
    pub created_by: String,
    /// What happened to it since.
    pub history: TokenHistory,
    /// Who revoked it; empty when it was not.
    pub revoked_by: String,
    /// UID of the Kubernetes cluster that used it.
    pub used_by_uid: Option<String>,
    /// The installation that asked for approval.
    pub request: Option<ApprovalRequest>,
    /// Its uses by others.
    pub second_uses: Option<SecondUses>,
    /// The last attempts to use it, newest first.
    pub attempts: Vec<Attempt>,
}

/// Uses of a token by other installations than the one it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecondUses {
    /// The token.
    pub token: Uuid,
    /// How many.
    pub count: i64,
    /// The last one.
    pub at: Timestamp,
    /// Address that it came from.
    pub peer: String,
}

struct Row {
    id: Uuid,
    created_at: jiff_sqlx::Timestamp,
    created_by: String,
    expires_at: jiff_sqlx::Timestamp,
    used_at: Option<jiff_sqlx::Timestamp>,
    used_by_uid: Option<String>,
    revoked_at: Option<jiff_sqlx::Timestamp>,
    revoked_by: String,
    second_uses: i64,
    second_use_at: Option<jiff_sqlx::Timestamp>,
    second_use_peer: String,
}

impl From<Row> for TokenRow {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            created_at: row.created_at.to_jiff(),
            created_by: row.created_by,
            history: TokenHistory {
                expires_at: row.expires_at.to_jiff(),
                used_at: row.used_at.map(jiff_sqlx::Timestamp::to_jiff),
                revoked_at: row.revoked_at.map(jiff_sqlx::Timestamp::to_jiff),
            },
            revoked_by: row.revoked_by,
            used_by_uid: row.used_by_uid,
            request: None,
            second_uses: row.second_use_at.map(|at| SecondUses {
                token: row.id,
                count: row.second_uses,
                at: at.to_jiff(),
                peer: row.second_use_peer,
            }),
            attempts: Vec::new(),
        }
    }
}

/// One page of a cluster's tokens, newest first, and one row more when there is a next page.
pub async fn list(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    page: &Page,
) -> Result<Vec<TokenRow>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "select id, created_at, created_by, expires_at, used_at, used_by_uid, revoked_at, revoked_by, second_uses,
                second_use_at, second_use_peer
         from enrollments where cluster_id = $1 and ($2::uuid is null or id < $2) order by id desc limit $3",
        cluster.as_str(),
        page.after.as_deref().and_then(parse_id),
        page.rows(),
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("list enrollment tokens"))?;
    with_what_happened(connection, rows).await
}

/// The token of this cluster with this id, its row locked until the transaction ends.
pub async fn lock(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    id: Uuid,
) -> Result<Option<TokenRow>, StoreError> {
    sqlx::query!("select id from enrollments where cluster_id = $1 and id = $2 for update", cluster.as_str(), id)
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed("lock an enrollment token"))?;
    find(connection, cluster, id).await
}

/// The token of this cluster with this id.
pub async fn find(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    id: Uuid,
) -> Result<Option<TokenRow>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, created_at, created_by, expires_at, used_at, used_by_uid, revoked_at, revoked_by, second_uses,
                second_use_at, second_use_peer
         from enrollments where cluster_id = $1 and id = $2",
        cluster.as_str(),
        id,
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("find an enrollment token"))?;
    Ok(with_what_happened(connection, row.into_iter().collect()).await?.pop())
}

async fn with_what_happened(connection: &mut PgConnection, rows: Vec<Row>) -> Result<Vec<TokenRow>, StoreError> {
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let mut attempts = enrollment_attempts::of_tokens(connection, &ids).await?;
    let mut requests = enrollment_approvals::of_tokens(connection, &ids).await?;
    let token = |row: Row| TokenRow {
        attempts: attempts.remove(&row.id).unwrap_or_default(),
        request: requests.remove(&row.id),
        ..row.into()
    };
    Ok(rows.into_iter().map(token).collect())
}

/// The last second use of each of these clusters' tokens that is not settled.
pub async fn second_uses(
    connection: &mut PgConnection,
    clusters: &[ClusterId],
) -> Result<BTreeMap<ClusterId, SecondUses>, StoreError> {
    let ids: Vec<&str> = clusters.iter().map(ClusterId::as_str).collect();
    let rows = sqlx::query!(
        r#"select distinct on (cluster_id) cluster_id as "cluster_id!", id as "id!", second_uses as "count!",
                  second_use_at as "at!", second_use_peer as "peer!"
           from unsettled_second_uses where cluster_id = any($1) order by cluster_id, second_use_at desc"#,
        &ids as _,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find second uses of enrollment tokens"))?;
    let mut uses = BTreeMap::new();
    for row in rows {
        let cluster = RowRef { table: "enrollments", id: &row.id }.cluster_id("cluster_id", &row.cluster_id)?;
        uses.insert(cluster, SecondUses { token: row.id, count: row.count, at: row.at.to_jiff(), peer: row.peer });
    }
    Ok(uses)
}

/// Tokens that were created before this time and can be used still, as [`revoke_open`] sees it: how many there are, and the clusters of the first.
pub async fn open_of_before(
    connection: &mut PgConnection,
    before: Timestamp,
    now: Timestamp,
    limit: i64,
) -> Result<(i64, Vec<String>), StoreError> {
    let rows = sqlx::query!(
        r#"select c.name, count(*) over () as "count!"
           from enrollments e join clusters c on c.id = e.cluster_id
           where e.created_at < $1 and e.used_at is null and e.revoked_at is null
             and (e.expires_at > $2 or exists (select from enrollment_approvals a
                                                where a.enrollment_id = e.id and a.verdict = 'approved'))
           order by c.name limit $3"#,
        before.to_sqlx(),
        now.to_sqlx(),
        limit,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find open enrollment tokens"))?;
    Ok((rows.first().map_or(0, |row| row.count), rows.into_iter().map(|row| row.name).collect()))
}

/// Revokes a token that was not used; one that was revoked stays as it is.
pub async fn revoke(connection: &mut PgConnection, id: Uuid, by: &str, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query!(
        "update enrollments set revoked_at = $2, revoked_by = $3 where id = $1 and used_at is null and revoked_at is null",
        id,
        now.to_sqlx(),
        by,
    )
    .execute(connection)
    .await
    .map_err(failed("revoke an enrollment token"))?;
    Ok(())
}

/// Revokes every token of a cluster that could still be used, and returns them, oldest first. In a transaction that also adds a token it
/// comes first: an enrollment locks its token and then the cluster, which a new token refers to.
pub async fn revoke_open(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    by: &str,
    now: Timestamp,
) -> Result<Vec<Uuid>, StoreError> {
    let mut revoked = sqlx::query_scalar!(
        "update enrollments set revoked_at = $2, revoked_by = $3
         where id in (select id from enrollments
                       where cluster_id = $1 and used_at is null and revoked_at is null
                         and (expires_at > $2 or exists (select from enrollment_approvals a
                                                          where a.enrollment_id = enrollments.id and a.verdict = 'approved'))
                       order by id for update)
           and used_at is null and revoked_at is null
         returning id",
        cluster.as_str(),
        now.to_sqlx(),
        by,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("revoke the open enrollment tokens of a cluster"))?;
    revoked.sort_unstable();
    Ok(revoked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        enrollments::{self, NewEnrollment, TokenUse},
        fixture::{Fixture, at, new_id},
    };
    use kubenova_core::enrollment_token::TokenState;

    async fn token(connection: &mut PgConnection, cluster: &ClusterId, secret: u8, expires_at: Timestamp) -> Uuid {
        let token = NewEnrollment {
            id: new_id(),
            cluster_id: cluster.clone(),
            secret_sha256: [secret; 32],
            created_at: at(0),
            created_by: "ann".into(),
            expires_at,
        };
        enrollments::insert(connection, &token).await.unwrap();
        token.id
    }

    #[tokio::test]
    async fn pages_are_of_one_cluster_and_newest_first() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let mut ids = Vec::new();
        for secret in 0..3 {
            ids.push(token(&mut connection, &clusters[0], secret, at(100)).await);
        }
        let other = token(&mut connection, &clusters[1], 3, at(100)).await;
        let mut first = list(&mut connection, &clusters[0], &Page::new(None, Some(2))).await.unwrap();
        assert_eq!(first.iter().map(|it| it.id).collect::<Vec<_>>(), [ids[2], ids[1], ids[0]]);
        assert!(Page::new(None, Some(2)).cut(&mut first));
        let next = list(&mut connection, &clusters[0], &Page::new(Some(ids[1].to_string()), Some(2))).await.unwrap();
        assert_eq!(next.iter().map(|it| it.id).collect::<Vec<_>>(), [ids[0]]);
        assert_eq!(find(&mut connection, &clusters[0], other).await.unwrap(), None, "that of another cluster");
        assert!(lock(&mut connection, &clusters[1], other).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn only_what_could_still_be_used_is_revoked() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let used = token(&mut connection, &clusters[0], 0, at(100)).await;
        let token_use = TokenUse { cluster_uid: "uid".into(), keys: "k".into(), answer: "{}".into() };
        enrollments::mark_used(&mut connection, used, &token_use, at(1)).await.unwrap();
        let revoked = token(&mut connection, &clusters[0], 1, at(100)).await;
        revoke(&mut connection, revoked, "ann", at(2)).await.unwrap();
        let expired = token(&mut connection, &clusters[0], 2, at(3)).await;
        let open = token(&mut connection, &clusters[0], 3, at(100)).await;
        let other = token(&mut connection, &clusters[1], 4, at(100)).await;
        assert_eq!(revoke_open(&mut connection, &clusters[0], "bob", at(5)).await.unwrap(), [open]);
        revoke(&mut connection, used, "bob", at(6)).await.unwrap();
        revoke(&mut connection, revoked, "bob", at(6)).await.unwrap();
        for (cluster, id, state, by) in [
            (0, used, TokenState::Used, ""),
            (0, revoked, TokenState::Revoked, "ann"),
            (0, expired, TokenState::Expired, ""),
            (0, open, TokenState::Revoked, "bob"),
            (1, other, TokenState::Open, ""),
        ] {
            let token = find(&mut connection, &clusters[cluster], id).await.unwrap().unwrap();
            assert_eq!((token.history.state(None, at(7)), token.revoked_by.as_str()), (state, by));
        }
    }

    #[tokio::test]
    async fn a_second_use_is_shown_until_another_token_was_used() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        let (first, next) = (
            token(&mut connection, &clusters[0], 0, at(100)).await,
            token(&mut connection, &clusters[0], 1, at(100)).await,
        );
        let token_use = TokenUse { cluster_uid: "uid".into(), keys: "k".into(), answer: "{}".into() };
        enrollments::mark_used(&mut connection, first, &token_use, at(1)).await.unwrap();
        assert_eq!(second_uses(&mut connection, &clusters).await.unwrap(), BTreeMap::new());
        for (second, peer) in [(2, "192.0.2.1"), (3, "192.0.2.2")] {
            enrollments::raise_second_use(&mut connection, first, peer, at(second)).await.unwrap();
        }
        let expected = SecondUses { token: first, count: 2, at: at(3), peer: "192.0.2.2".into() };
        let shown = second_uses(&mut connection, &clusters).await.unwrap();
        assert_eq!(shown, BTreeMap::from([(clusters[0].clone(), expected.clone())]));
        enrollments::mark_used(&mut connection, next, &token_use, at(4)).await.unwrap();
        assert_eq!(second_uses(&mut connection, &clusters).await.unwrap(), BTreeMap::new());
        let of_token = find(&mut connection, &clusters[0], first).await.unwrap().unwrap().second_uses;
        assert_eq!(of_token, Some(expected), "the token keeps it");
    }
}
