//! Revocations: user JWTs that the broker must not accept any more. They are in force once every server of the broker has the account
//! JWT that names them (`account_jwts.rs`).

use crate::error::{StoreError, failed};
use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx as _;
use kubenova_core::cluster::ClusterId;
use sqlx::PgConnection;
use std::collections::BTreeMap;

/// Why JWTs are void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationReason {
    /// A person revoked the cluster's credentials.
    Revoked,
    /// The cluster was enrolled again since, with other keys.
    Replaced,
    /// The cluster is no longer managed.
    Detached,
    /// The cluster was given up.
    Purged,
}

impl RevocationReason {
    /// As it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "Revoked",
            Self::Replaced => "Replaced",
            Self::Detached => "Detached",
            Self::Purged => "Purged",
        }
    }
}

/// Most revocations in an account JWT, about 90 bytes each: a message of the broker has 1 MiB. Beyond it those of replaced incarnations
/// are left out first, whose holders get no commands, no renewal and no session.
const IN_FORCE_MAX: i64 = 8_000;

/// A database that was restored knows nothing of the renewals since the backup. So what a person revoked is kept as long as credentials
/// of these months can be in use, whatever it says of their end.
const KEPT: SignedDuration = SignedDuration::from_hours(90 * 24);

/// A JWT may be used a little longer than it says, by a server whose clock is behind.
const SKEW: SignedDuration = SignedDuration::from_hours(1);

/// Revokes the JWTs of a cluster's incarnations, but not of the one named. The cluster is locked, so that none is issued meanwhile.
/// Returns how many identities it were.
pub async fn insert_of_cluster(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    except_incarnation: Option<i64>,
    reason: RevocationReason,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let kept_until = if reason == RevocationReason::Replaced { now } else { now + KEPT };
    let done = sqlx::query!(
        "with revoked as (
             update identities set revoked_at = $4
              where cluster_id = $1 and incarnation is distinct from $2 and revoked_at is null
         )
         insert into revocations as r (nkey_public, account, cluster_id, reason, void_up_to, expires_at, requested_at)
         select nkey_public, 'EDGE', cluster_id, $3, greatest($4, issued_at), greatest(user_jwt_expires_at, $6), $4
           from identities
          where cluster_id = $1 and incarnation is distinct from $2 and ($3 <> 'Replaced' or user_jwt_expires_at > $5)
         on conflict (nkey_public) do update
            set reason = excluded.reason, void_up_to = excluded.void_up_to, expires_at = excluded.expires_at,
                requested_at = excluded.requested_at, effective_at = null
          where r.void_up_to < excluded.void_up_to and excluded.reason <> 'Replaced'",
        cluster.as_str(),
        except_incarnation,
        reason.as_str(),
        now.to_sqlx(),
        (now - SKEW).to_sqlx(),
        kept_until.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("revoke a cluster's credentials"))?;
    Ok(done.rows_affected())
}

/// Deletes revocations of JWTs that have expired; returns how many.
pub async fn delete_expired(connection: &mut PgConnection, now: Timestamp) -> Result<u64, StoreError> {
    let done = sqlx::query!("delete from revocations where expires_at < $1", (now - SKEW).to_sqlx())
        .execute(connection)
        .await
        .map_err(failed("delete revocations of expired credentials"))?;
    Ok(done.rows_affected())
}

/// Whether one waits to be in force. Those of replaced incarnations count for two minutes: some may be left out for good.
pub async fn is_pending(connection: &mut PgConnection) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"select exists (select from revocations where effective_at is null
                             and (reason <> 'Replaced' or requested_at > now() - interval '2 minutes')) as "pending!""#
    )
    .fetch_one(connection)
    .await
    .map_err(failed("look for new revocations"))
}

/// What an account's JWT says: public nkey to the second up to which its JWTs are void.
pub type InForce = BTreeMap<String, BTreeMap<String, i64>>;

/// The revocations that account JWTs carry, by account, at most [`IN_FORCE_MAX`] of an account.
pub async fn in_force(connection: &mut PgConnection) -> Result<InForce, StoreError> {
    let rows = sqlx::query!(
        r#"select account, nkey_public, void_up_to from (
               select account, nkey_public, void_up_to,
                      row_number() over (partition by account order by reason = 'Replaced', requested_at desc, nkey_public) as place
                 from revocations) ranked
            where place <= $1"#,
        IN_FORCE_MAX,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read revocations"))?;
    let mut accounts = InForce::new();
    for row in rows {
        accounts.entry(row.account).or_default().insert(row.nkey_public, row.void_up_to.to_jiff().as_second());
    }
    Ok(accounts)
}

/// Records that every server of the broker has these revocations of an account. One that was changed meanwhile waits for the next time.
pub async fn mark_effective(
    connection: &mut PgConnection,
    account: &str,
    in_force: &BTreeMap<String, i64>,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let nkeys: Vec<String> = in_force.keys().cloned().collect();
    let seconds: Vec<i64> = in_force.values().copied().collect();
    let done = sqlx::query!(
        "update revocations r set effective_at = $4
           from unnest($2::text[], $3::bigint[]) as had (nkey_public, second)
          where r.account = $1 and r.nkey_public = had.nkey_public and r.effective_at is null
            and floor(extract(epoch from r.void_up_to)) <= had.second",
        account,
        &nkeys,
        &seconds,
        now.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("record that revocations are in force"))?;
    Ok(done.rows_affected())
}

/// The last revocation of a cluster's credentials, as REST shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownRevocation {
    /// One CamelCase word.
    pub reason: String,
    /// When it was requested.
    pub requested_at: Timestamp,
    /// When every server of the broker had it; none while one has not.
    pub effective_at: Option<Timestamp>,
    /// The servers that do not have it yet.
    pub waiting_for: String,
}

/// The last revocation of a cluster's credentials. That of an incarnation which a later one replaced is none.
pub async fn of_cluster(
    connection: &mut PgConnection,
    cluster: &ClusterId,
) -> Result<Option<ShownRevocation>, StoreError> {
    let row = sqlx::query!(
        r#"select r.reason, r.requested_at, r.effective_at, coalesce(a.behind, '') as "behind!"
             from revocations r left join account_jwts a on a.account = r.account
            where r.cluster_id = $1 and r.reason <> 'Replaced'
            order by r.requested_at desc, r.effective_at desc nulls first limit 1"#,
        cluster.as_str(),
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("find the revocation of a cluster"))?;
    Ok(row.map(|row| ShownRevocation {
        reason: row.reason,
        requested_at: row.requested_at.to_jiff(),
        effective_at: row.effective_at.map(jiff_sqlx::Timestamp::to_jiff),
        waiting_for: if row.effective_at.is_some() { String::new() } else { row.behind },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixture::{Fixture, at},
        identities::{self, CredentialsLife},
    };

    fn life(issued: i64, expires: i64) -> CredentialsLife {
        CredentialsLife { issued_at: at(issued), expires_at: at(expires), user_jwt_expires_at: at(expires) }
    }

    fn second(offset: i64) -> i64 {
        at(offset).as_second()
    }

    #[tokio::test]
    async fn a_revocation_reaches_the_last_jwt_that_was_issued_and_waits_until_it_is_in_force() {
        let fixture = Fixture::new().await;
        let clusters = fixture.clusters(2).await;
        let mut connection = fixture.store.acquire().await.unwrap();
        // Issued by a Manager whose clock is ahead.
        identities::insert(&mut connection, &clusters[0], 1, "UONE", None, life(50, 9_000)).await.unwrap();
        identities::insert(&mut connection, &clusters[0], 2, "UTWO", None, life(5, 9_000)).await.unwrap();
        identities::insert(&mut connection, &clusters[0], 3, "UOLD", None, life(-90_000, -4_000)).await.unwrap();
        identities::insert(&mut connection, &clusters[1], 1, "UOTHER", None, life(5, 9_000)).await.unwrap();
        assert!(!is_pending(&mut connection).await.unwrap());
        let reason = RevocationReason::Revoked;
        let count = insert_of_cluster(&mut connection, &clusters[0], None, reason, at(10)).await.unwrap();
        assert_eq!(
            count, 3,
            "what has expired may have been renewed after a backup from which this database was restored"
        );
        let expected = BTreeMap::from([
            ("UOLD".to_owned(), second(10)),
            ("UONE".to_owned(), second(50)),
            ("UTWO".to_owned(), second(10)),
        ]);
        let accounts = in_force(&mut connection).await.unwrap();
        assert_eq!(accounts, InForce::from([("EDGE".to_owned(), expected.clone())]));
        let shown = of_cluster(&mut connection, &clusters[0]).await.unwrap().unwrap();
        assert_eq!((shown.requested_at, shown.effective_at), (at(10), None));

        // One of them was revoked once more meanwhile: a later JWT had been issued.
        identities::renewed(&mut connection, &clusters[0], 2, life(60, 9_100)).await.unwrap();
        assert_eq!(insert_of_cluster(&mut connection, &clusters[0], None, reason, at(20)).await.unwrap(), 2);
        let had = BTreeMap::from([("UOLD".to_owned(), second(20)), ("UONE".to_owned(), second(50))]);
        assert_eq!(mark_effective(&mut connection, "EDGE", &had, at(30)).await.unwrap(), 2);
        assert!(is_pending(&mut connection).await.unwrap());
        let accounts = in_force(&mut connection).await.unwrap();
        assert_eq!(accounts["EDGE"]["UTWO"], second(60));
        assert_eq!(mark_effective(&mut connection, "EDGE", &accounts["EDGE"], at(31)).await.unwrap(), 1);
        assert!(!is_pending(&mut connection).await.unwrap());
        let shown = of_cluster(&mut connection, &clusters[0]).await.unwrap().unwrap();
        assert_eq!(shown.effective_at, Some(at(31)));
        assert_eq!(of_cluster(&mut connection, &clusters[1]).await.unwrap(), None);

        let kept = 90 * 24 * 3_600;
        assert_eq!(delete_expired(&mut connection, at(20 + kept)).await.unwrap(), 0, "clocks differ");
        assert_eq!(delete_expired(&mut connection, at(21 + kept + 3_600)).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn the_incarnation_that_goes_on_is_spared_and_a_replaced_one_stays_revoked() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        for (incarnation, nkey) in [(1, "UONE"), (2, "UTWO")] {
            identities::insert(&mut connection, &cluster, incarnation, nkey, None, life(0, 9_000)).await.unwrap();
        }
        let replaced = RevocationReason::Replaced;
        assert_eq!(insert_of_cluster(&mut connection, &cluster, Some(2), replaced, at(1)).await.unwrap(), 1);
        assert_eq!(insert_of_cluster(&mut connection, &cluster, Some(2), replaced, at(2)).await.unwrap(), 0);
        assert_eq!(in_force(&mut connection).await.unwrap()["EDGE"].keys().collect::<Vec<_>>(), ["UONE"]);
        assert_eq!(of_cluster(&mut connection, &cluster).await.unwrap(), None, "the cluster's credentials are good");
    }
}
