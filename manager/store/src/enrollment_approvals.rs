//! Installations that wait for an administrator's approval, and what was decided about them. The row of their token is locked by whoever
//! writes here, so that asking and deciding happen one after the other.

use crate::error::{RowRef, StoreError, failed, one_row};
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{
    cluster::{Approval, ClusterId},
    enrollment_request::{ApprovalRequest, Decision, Installation, Verdict},
};
use sqlx::PgConnection;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Longest version text that is kept: nothing is trusted of it, so nothing may fill a disk with it.
const VERSION_LENGTH_MAX: i32 = 64;

/// Records that an installation asked, or that it asked again.
pub async fn ask(connection: &mut PgConnection, token: Uuid, request: &ApprovalRequest) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into enrollment_approvals (enrollment_id, kubernetes_uid, keys, fingerprint, operator_version, kubernetes_version, nodes,
                                           peer, requested_at, last_requested_at)
         values ($1, $2, $3, $4, left($5, $6), left($7, $6), $8, $9, $10, $11)
         on conflict (enrollment_id) do update set last_requested_at = excluded.last_requested_at, peer = excluded.peer",
        token,
        request.installation.cluster_uid,
        request.installation.keys,
        request.fingerprint,
        request.operator_version,
        VERSION_LENGTH_MAX,
        request.kubernetes_version,
        request.nodes,
        request.peer,
        request.requested_at.to_sqlx(),
        request.last_requested_at.to_sqlx(),
    )
    .execute(connection)
    .await
    .map_err(failed("record an enrollment that waits for approval"))?;
    Ok(())
}

/// The installations that asked with these tokens; a token with which none did is missing.
pub async fn of_tokens(
    connection: &mut PgConnection,
    tokens: &[Uuid],
) -> Result<BTreeMap<Uuid, ApprovalRequest>, StoreError> {
    let rows = sqlx::query!(
        "select enrollment_id, kubernetes_uid, keys, fingerprint, operator_version, kubernetes_version, nodes, peer, requested_at,
                last_requested_at, verdict, decided_at, decided_by, reason
         from enrollment_approvals where enrollment_id = any($1)",
        tokens,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find enrollments that wait for approval"))?;
    let mut requests = BTreeMap::new();
    for row in rows {
        let at = RowRef { table: "enrollment_approvals", id: &row.enrollment_id };
        let verdict = row.verdict.map(|text| at.parse("verdict", &text, Verdict::parse)).transpose()?;
        let decision = verdict.zip(row.decided_at).map(|(verdict, decided_at)| Decision {
            verdict,
            at: decided_at.to_jiff(),
            by: row.decided_by,
            reason: row.reason,
        });
        let request = ApprovalRequest {
            installation: Installation { cluster_uid: row.kubernetes_uid, keys: row.keys },
            fingerprint: row.fingerprint,
            operator_version: row.operator_version,
            kubernetes_version: row.kubernetes_version,
            nodes: row.nodes,
            peer: row.peer,
            requested_at: row.requested_at.to_jiff(),
            last_requested_at: row.last_requested_at.to_jiff(),
            decision,
        };
        requests.insert(row.enrollment_id, request);
    }
    Ok(requests)
}

/// Records what was decided about the installation that waits with this token.
pub async fn decide(connection: &mut PgConnection, token: Uuid, decision: &Decision) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "update enrollment_approvals set verdict = $2, decided_at = $3, decided_by = $4, reason = $5
         where enrollment_id = $1 and verdict is null",
        token,
        decision.verdict.as_str(),
        decision.at.to_sqlx(),
        decision.by,
        decision.reason,
    )
    .execute(connection)
    .await
    .map_err(failed("decide about an enrollment"))?;
    one_row(done.rows_affected(), "enrollment_approvals", &token)
}

/// Says whether enrollments of a cluster wait for an administrator. False when it was so before.
pub async fn set(connection: &mut PgConnection, cluster: &ClusterId, approval: Approval) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update clusters set approval = $2 where id = $1 and approval <> $2",
        cluster.as_str(),
        approval.as_str(),
    )
    .execute(connection)
    .await
    .map_err(failed("set whether enrollments of a cluster wait"))?;
    Ok(done.rows_affected() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clusters,
        enrollments::{self, NewEnrollment},
        fixture::{Fixture, at, new_id},
    };
    use kubenova_core::cluster::ClusterRef;

    #[tokio::test]
    async fn asking_again_changes_the_last_time_only_and_a_decision_is_made_once() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        let token = NewEnrollment {
            id: new_id(),
            cluster_id: cluster.clone(),
            secret_sha256: [7; 32],
            created_at: at(0),
            created_by: "ann".into(),
            expires_at: at(100),
        };
        enrollments::insert(&mut connection, &token).await.unwrap();
        let first = ApprovalRequest {
            installation: Installation { cluster_uid: "uid".into(), keys: "k".into() },
            fingerprint: "sha256:ab".into(),
            operator_version: "1".into(),
            kubernetes_version: "v".repeat(100),
            nodes: Some(3),
            peer: "192.0.2.1".into(),
            requested_at: at(1),
            last_requested_at: at(1),
            decision: None,
        };
        ask(&mut connection, token.id, &first).await.unwrap();
        let again = ApprovalRequest {
            requested_at: at(2),
            last_requested_at: at(2),
            peer: "192.0.2.2".into(),
            ..first.clone()
        };
        ask(&mut connection, token.id, &again).await.unwrap();
        let expected = ApprovalRequest {
            kubernetes_version: "v".repeat(64),
            last_requested_at: at(2),
            peer: "192.0.2.2".into(),
            ..first
        };
        let read = of_tokens(&mut connection, &[token.id, new_id()]).await.unwrap();
        assert_eq!(read, BTreeMap::from([(token.id, expected.clone())]));
        let decision = Decision { verdict: Verdict::Rejected, at: at(3), by: "bob".into(), reason: "no".into() };
        decide(&mut connection, token.id, &decision).await.unwrap();
        let read = of_tokens(&mut connection, &[token.id]).await.unwrap().remove(&token.id).unwrap();
        assert_eq!(read, ApprovalRequest { decision: Some(decision.clone()), ..expected });
        assert!(decide(&mut connection, token.id, &decision).await.is_err(), "the first verdict stays");
    }

    #[tokio::test]
    async fn whether_enrollments_wait_is_kept_with_the_cluster() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        for (approval, changed) in [(Approval::Automatic, false), (Approval::Manual, true), (Approval::Manual, false)] {
            assert_eq!(set(&mut connection, &cluster, approval).await.unwrap(), changed);
            let read = clusters::find(&mut connection, &ClusterRef::Id(cluster.clone())).await.unwrap().unwrap();
            assert_eq!(read.approval, approval);
        }
    }
}
