//! Attempts to use an enrollment token or to renew credentials, accepted and refused: what an administrator sees of them.
//!
//! The endpoints are public, so the rows of each cluster are bounded, and old ones are deleted (`manager/src/expiry.rs`).

use crate::error::{StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use kubenova_core::cluster::ClusterId;
use sqlx::PgConnection;
use std::collections::BTreeMap;
use uuid::Uuid;

/// What an attempt asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptKind {
    /// To enroll, with a token.
    Enrollment,
    /// New credentials for an identity.
    Renewal,
}

impl AttemptKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Enrollment => "enrollment",
            Self::Renewal => "renewal",
        }
    }
}

/// An attempt to use a token or to renew credentials, accepted or refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAttempt {
    /// Its id (UUIDv7).
    pub id: Uuid,
    /// What it asked for.
    pub kind: AttemptKind,
    /// The token; none when no token has this secret.
    pub enrollment_id: Option<Uuid>,
    /// The cluster it claimed to be.
    pub cluster_id: ClusterId,
    /// When.
    pub at: Timestamp,
    /// `accepted`, or the reason of the refusal.
    pub outcome: String,
    /// A sentence.
    pub message: String,
    /// Address it came from.
    pub peer: String,
}

/// Attempts of a kind recorded of one cluster in an hour: the endpoint is public, and a flood of attempts must fill no disk.
const PER_HOUR_MAX: i64 = 60;

/// Records an attempt, unless the cluster does not exist or [`PER_HOUR_MAX`] is reached; false then. With `always` it is recorded whatever
/// else was in this hour: for what is limited elsewhere, and which no flood of refusals may keep out.
pub async fn insert(connection: &mut PgConnection, attempt: &NewAttempt, always: bool) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "insert into enrollment_attempts (id, kind, enrollment_id, cluster_id, at, outcome, message, peer)
         select $1, $9, $2, c.id, $4, $5, $6, $7 from clusters c
         where c.id = $3
           and ($10 or $8 > (select count(*) from enrollment_attempts a
                              where a.cluster_id = c.id and a.kind = $9 and a.at > $4::timestamptz - interval '1 hour'))",
        attempt.id,
        attempt.enrollment_id,
        attempt.cluster_id.as_str(),
        attempt.at.to_sqlx(),
        attempt.outcome,
        attempt.message,
        attempt.peer,
        PER_HOUR_MAX,
        attempt.kind.as_str(),
        always,
    )
    .execute(connection)
    .await
    .map_err(failed("record an enrollment attempt"))?;
    Ok(done.rows_affected() == 1)
}

/// An attempt as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// When.
    pub at: Timestamp,
    /// `accepted`, or the reason of the refusal.
    pub outcome: String,
    /// A sentence.
    pub message: String,
    /// Address it came from.
    pub peer: String,
}

/// Attempts that are shown of one token: the newest ones explain why its cluster does not join.
const SHOWN_OF_TOKEN: i64 = 20;

/// The last attempts to use each of these tokens, newest first; a token without any is missing.
pub async fn of_tokens(
    connection: &mut PgConnection,
    tokens: &[Uuid],
) -> Result<BTreeMap<Uuid, Vec<Attempt>>, StoreError> {
    let rows = sqlx::query!(
        r#"select t.id as "token!", a.at, a.outcome, a.message, a.peer
           from unnest($1::uuid[]) as t(id)
           cross join lateral (select * from enrollment_attempts a where a.enrollment_id = t.id order by a.id desc limit $2) a
           order by a.id desc"#,
        tokens,
        SHOWN_OF_TOKEN,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list enrollment attempts"))?;
    let mut attempts: BTreeMap<Uuid, Vec<Attempt>> = BTreeMap::new();
    for row in rows {
        let attempt = Attempt { at: row.at.to_jiff(), outcome: row.outcome, message: row.message, peer: row.peer };
        attempts.entry(row.token).or_default().push(attempt);
    }
    Ok(attempts)
}

/// Renewals that are shown of one cluster.
const RENEWALS_MAX: i64 = 10;

/// The cluster's last renewals, accepted and refused, newest first.
pub async fn renewals(connection: &mut PgConnection, cluster: &ClusterId) -> Result<Vec<Attempt>, StoreError> {
    let rows = sqlx::query!(
        "select at, outcome, message, peer from enrollment_attempts
         where cluster_id = $1 and kind = 'renewal' order by id desc limit $2",
        cluster.as_str(),
        RENEWALS_MAX,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("list renewals"))?;
    Ok(rows
        .into_iter()
        .map(|row| Attempt { at: row.at.to_jiff(), outcome: row.outcome, message: row.message, peer: row.peer })
        .collect())
}

/// Deletes attempts before this time, at most `limit`; returns how many. Their ids rise with time.
pub async fn delete_old(connection: &mut PgConnection, before: Timestamp, limit: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "delete from enrollment_attempts where id in
            (select id from enrollment_attempts where at < $1 order by id limit $2)",
        before.to_sqlx(),
        limit,
    )
    .execute(connection)
    .await
    .map_err(failed("delete old enrollment attempts"))?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        enrollments::{self, NewEnrollment},
        fixture::{Fixture, at, new_id},
    };

    async fn count(connection: &mut PgConnection) -> i64 {
        sqlx::query_scalar("select count(*) from enrollment_attempts").fetch_one(connection).await.unwrap()
    }

    #[tokio::test]
    async fn attempts_are_bounded_per_hour_and_those_of_no_cluster_are_dropped() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        let token = NewEnrollment {
            id: new_id(),
            cluster_id: cluster.clone(),
            secret_sha256: [7; 32],
            created_at: at(0),
            created_by: "ann".into(),
            expires_at: at(3600),
        };
        enrollments::insert(&mut connection, &token).await.unwrap();
        let attempt = |cluster: &ClusterId, second: i64| NewAttempt {
            kind: AttemptKind::Enrollment,
            id: new_id(),
            enrollment_id: Some(token.id),
            cluster_id: cluster.clone(),
            at: at(second),
            outcome: "accepted".into(),
            message: String::new(),
            peer: "192.0.2.1".into(),
        };
        let unknown = NewAttempt { enrollment_id: None, ..attempt(&crate::fixture::cluster(9).id, 0) };
        assert!(!insert(&mut connection, &unknown, false).await.unwrap());
        for second in 0..PER_HOUR_MAX + 5 {
            let inserted = insert(&mut connection, &attempt(&cluster, second), false).await.unwrap();
            assert_eq!(inserted, second < PER_HOUR_MAX);
        }
        assert_eq!(count(&mut connection).await, PER_HOUR_MAX);
        assert!(insert(&mut connection, &attempt(&cluster, 2 * 3600 - 1), true).await.unwrap());
        assert_eq!(count(&mut connection).await, PER_HOUR_MAX + 1, "what was granted is recorded all the same");
        assert!(insert(&mut connection, &attempt(&cluster, 2 * 3600), false).await.unwrap());
        assert_eq!(count(&mut connection).await, PER_HOUR_MAX + 2);
        let shown = of_tokens(&mut connection, &[token.id, new_id()]).await.unwrap();
        assert_eq!(shown.len(), 1);
        assert_eq!(i64::try_from(shown[&token.id].len()).unwrap(), SHOWN_OF_TOKEN);
        assert_eq!(shown[&token.id][0].at, at(2 * 3600), "newest first");
        assert_eq!(delete_old(&mut connection, at(5), 3).await.unwrap(), 3, "at most the limit");
        assert_eq!(delete_old(&mut connection, at(5), 3).await.unwrap(), 2, "none after the time");
    }
}
