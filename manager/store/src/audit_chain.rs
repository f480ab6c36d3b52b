//! The hash chain of the audit log: committed records are moved into it, checked in batches, and the oldest are deleted.
//!
//! Whoever writes the chain holds the one row of `audit_start`, so that several Managers write one chain. Transactions that
//! write records never wait for it (`docs/adr/0010`).

use crate::error::{StoreError, failed};
use jiff::Timestamp;
use jiff_sqlx::{Timestamp as SqlTimestamp, ToSqlx as _};
use kubenova_core::audit::{Head, LinkedRecord, PRUNE, Record};
use sqlx::PgConnection;
use uuid::Uuid;

/// Who deletes old records.
const MANAGER: &str = "manager";

/// What a round of linking did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    /// How many records were linked.
    pub records: usize,
    /// The last record of the chain.
    pub head: Head,
}

/// Links the oldest committed records, at most `limit`, in the order in which they were written. A record whose transaction
/// committed late is linked later. Must run in a transaction; none when another Manager is writing the chain.
pub async fn link(connection: &mut PgConnection, limit: i64) -> Result<Option<Linked>, StoreError> {
    let Some(start) = lock(connection).await? else { return Ok(None) };
    let head = head_after(connection, start).await?;
    let rows = sqlx::query!(
        "select id, at, subject, role, action, target, tenant_id, request_id, command_id, cluster_id, revision, document_sha256,
                detail
         from audit_pending order by id limit $1",
        limit,
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("read audit records to link"))?;
    let mut ids = Vec::with_capacity(rows.len());
    let records = rows.into_iter().map(|row| {
        ids.push(row.id);
        Record {
            at: row.at.to_jiff(),
            subject: row.subject,
            role: row.role,
            action: row.action,
            target: row.target,
            tenant: row.tenant_id,
            request_id: row.request_id,
            command: row.command_id,
            cluster: row.cluster_id,
            revision: row.revision,
            document_sha256: row.document_sha256,
            detail: row.detail,
        }
    });
    let linked = head.link(records.collect());
    move_into_chain(connection, &ids, &linked).await?;
    let head = linked.last().map_or(head, |last| Head { position: last.position, sha256: last.sha256.clone() });
    Ok(Some(Linked { records: linked.len(), head }))
}

async fn move_into_chain(
    connection: &mut PgConnection,
    ids: &[i64],
    linked: &[LinkedRecord],
) -> Result<(), StoreError> {
    let positions: Vec<i64> = linked.iter().map(|one| one.position).collect();
    let previous: Vec<String> = linked.iter().map(|one| one.previous_sha256.clone()).collect();
    let hashes: Vec<String> = linked.iter().map(|one| one.sha256.clone()).collect();
    sqlx::query!(
        "with moved as (delete from audit_pending where id = any($1) returning *)
         insert into audit (position, at, subject, role, action, target, tenant_id, request_id, command_id, cluster_id, revision,
                            document_sha256, detail, previous_sha256, sha256)
         select l.position, m.at, m.subject, m.role, m.action, m.target, m.tenant_id, m.request_id, m.command_id, m.cluster_id,
                m.revision, m.document_sha256, m.detail, l.previous_sha256, l.sha256
         from moved m join unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[])
                           as l (id, position, previous_sha256, sha256) on l.id = m.id",
        ids,
        &positions,
        &previous,
        &hashes,
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("link audit records"))
}

/// Deletes the oldest records of the chain that are older than `before`, at most `limit`, and links a record that says up to
/// where. Must run in a transaction. Returns how many were deleted; none while another Manager is writing the chain.
pub async fn prune(
    connection: &mut PgConnection,
    before: Timestamp,
    now: Timestamp,
    limit: i64,
) -> Result<u64, StoreError> {
    let Some(start) = lock(connection).await? else { return Ok(0) };
    let oldest = sqlx::query!(
        r#"select position, sha256, at < $1 as "is_old!" from audit order by position limit $2"#,
        before.to_sqlx(),
        limit,
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("find old audit records"))?;
    // The oldest without a gap: times need not rise with positions.
    let Some(last) = oldest.into_iter().take_while(|row| row.is_old).last() else { return Ok(0) };
    let until = Head { position: last.position, sha256: last.sha256 };
    let head = head_after(connection, start).await?;
    let record = Record {
        at: now,
        subject: MANAGER.to_owned(),
        role: MANAGER.to_owned(),
        action: PRUNE.to_owned(),
        target: format!("audit/{}", until.position),
        tenant: None,
        request_id: String::new(),
        command: None,
        cluster: String::new(),
        revision: None,
        document_sha256: String::new(),
        detail: until.to_string(),
    };
    for linked in head.link(vec![record]) {
        append(connection, &linked).await?;
    }
    sqlx::query!("select set_config('kubenova.audit_prune', 'on', true)")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed("allow the deletion of old audit records"))?;
    let deleted = sqlx::query!("delete from audit where position <= $1", until.position)
        .execute(&mut *connection)
        .await
        .map_err(failed("delete old audit records"))?;
    sqlx::query!("select set_config('kubenova.audit_prune', 'off', true)")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed("forbid the deletion of audit records"))?;
    sqlx::query!("update audit_start set position = $1, sha256 = $2", until.position, until.sha256)
        .execute(connection)
        .await
        .map_err(failed("record where the audit log begins"))?;
    Ok(deleted.rows_affected())
}

async fn append(connection: &mut PgConnection, linked: &LinkedRecord) -> Result<(), StoreError> {
    let record = &linked.record;
    sqlx::query!(
        "insert into audit (position, at, subject, role, action, target, request_id, cluster_id, document_sha256, detail,
                            previous_sha256, sha256)
         values ($1, $2, $3, $4, $5, $6, '', '', '', $7, $8, $9)",
        linked.position,
        record.at.to_sqlx(),
        record.subject,
        record.role,
        record.action,
        record.target,
        record.detail,
        linked.previous_sha256,
        linked.sha256,
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("add a record to the audit log"))
}

/// Where the chain begins; locked until the transaction ends. None when another Manager holds it.
async fn lock(connection: &mut PgConnection) -> Result<Option<Head>, StoreError> {
    sqlx::query_as!(Head, "select position, sha256 from audit_start for update skip locked")
        .fetch_optional(connection)
        .await
        .map_err(failed("lock the chain of the audit log"))
}

/// Where the chain begins: the last record that was deleted on schedule.
pub async fn start(connection: &mut PgConnection) -> Result<Head, StoreError> {
    sqlx::query_as!(Head, "select position, sha256 from audit_start")
        .fetch_one(connection)
        .await
        .map_err(failed("read where the audit log begins"))
}

/// The last record of the chain.
pub async fn head(connection: &mut PgConnection) -> Result<Head, StoreError> {
    let start = start(connection).await?;
    head_after(connection, start).await
}

async fn head_after(connection: &mut PgConnection, start: Head) -> Result<Head, StoreError> {
    let last = sqlx::query_as!(Head, "select position, sha256 from audit order by position desc limit 1")
        .fetch_optional(connection)
        .await
        .map_err(failed("read the last record of the audit log"))?;
    Ok(last.unwrap_or(start))
}

/// Whether records wait to be linked.
pub async fn is_pending(connection: &mut PgConnection) -> Result<bool, StoreError> {
    sqlx::query_scalar!(r#"select exists (select from audit_pending) as "exists!""#)
        .fetch_one(connection)
        .await
        .map_err(failed("look for audit records to link"))
}

/// How many records wait to be linked.
pub async fn pending(connection: &mut PgConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar!(r#"select count(*) as "count!" from audit_pending"#)
        .fetch_one(connection)
        .await
        .map_err(failed("count audit records to link"))
}

struct Row {
    position: i64,
    at: SqlTimestamp,
    subject: String,
    role: String,
    action: String,
    target: String,
    tenant_id: Option<Uuid>,
    request_id: String,
    command_id: Option<Uuid>,
    cluster_id: String,
    revision: Option<i64>,
    document_sha256: String,
    detail: String,
    previous_sha256: String,
    sha256: String,
}

impl From<Row> for LinkedRecord {
    fn from(row: Row) -> Self {
        let record = Record {
            at: row.at.to_jiff(),
            subject: row.subject,
            role: row.role,
            action: row.action,
            target: row.target,
            tenant: row.tenant_id,
            request_id: row.request_id,
            command: row.command_id,
            cluster: row.cluster_id,
            revision: row.revision,
            document_sha256: row.document_sha256,
            detail: row.detail,
        };
        Self { position: row.position, record, previous_sha256: row.previous_sha256, sha256: row.sha256 }
    }
}

/// The records after this position, in order, at most `limit`.
pub async fn batch(connection: &mut PgConnection, after: i64, limit: i64) -> Result<Vec<LinkedRecord>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "select position, at, subject, role, action, target, tenant_id, request_id, command_id, cluster_id, revision,
                document_sha256, detail, previous_sha256, sha256
         from audit where position > $1 order by position limit $2",
        after,
        limit,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read audit records"))?;
    Ok(rows.into_iter().map(LinkedRecord::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::{self, Entry},
        fixture::{Fixture, at},
    };
    use kubenova_core::{
        access::Role,
        audit::{Fault, Verifier},
    };

    async fn write(connection: &mut PgConnection, second: i64) {
        let entry = Entry {
            at: at(second),
            subject: format!("caller-{second}"),
            role: Role::Ops,
            action: "writeTenants/create".into(),
            target: format!("tenant/{second}"),
            tenant: None,
            request_id: format!("r-{second}"),
        };
        audit::insert(connection, &entry).await.unwrap();
    }

    /// A database whose chain has this many records, one of each second.
    async fn chain(records: i64) -> Fixture {
        let fixture = Fixture::new().await;
        let mut connection = fixture.store.acquire().await.unwrap();
        for second in 1..=records {
            write(&mut connection, second).await;
        }
        drop(connection);
        link_all(&fixture).await;
        fixture
    }

    async fn link_all(fixture: &Fixture) -> Head {
        let mut tx = fixture.begin().await;
        let linked = link(&mut tx, 1000).await.unwrap().expect("no other Manager");
        tx.commit().await.unwrap();
        linked.head
    }

    async fn verify(fixture: &Fixture) -> Result<Head, Fault> {
        let mut connection = fixture.store.acquire().await.unwrap();
        let mut verifier = Verifier::new(start(&mut connection).await.unwrap(), None);
        loop {
            let records = batch(&mut connection, verifier.head().position, 3).await.unwrap();
            if records.is_empty() {
                return verifier.finish(true);
            }
            records.iter().try_for_each(|linked| verifier.check(linked))?;
        }
    }

    /// What the owner of the database can do.
    async fn tamper(fixture: &Fixture, sql: &'static str) {
        let mut tx = fixture.begin().await;
        sqlx::raw_sql("set local session_replication_role = replica").execute(&mut *tx).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn records_of_several_rounds_are_one_chain() {
        let fixture = chain(5).await;
        let first = link_all(&fixture).await;
        assert_eq!(first.position, 5, "a round without records changes nothing");
        write(&mut fixture.store.acquire().await.unwrap(), 6).await;
        let second = link_all(&fixture).await;
        assert_eq!((second.position, verify(&fixture).await), (6, Ok(second.clone())));
        assert_eq!(pending(&mut fixture.store.acquire().await.unwrap()).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_record_that_commits_late_is_linked_later_and_no_writer_waits_for_the_chain() {
        let fixture = chain(1).await;
        let mut late = fixture.begin().await;
        write(&mut late, 2).await;
        let mut linking = fixture.begin().await;
        assert_eq!(link(&mut linking, 10).await.unwrap().unwrap().records, 0);
        // While the chain is held by a transaction that did not end, records are written and committed.
        write(&mut fixture.store.acquire().await.unwrap(), 3).await;
        late.commit().await.unwrap();
        linking.commit().await.unwrap();
        let head = link_all(&fixture).await;
        assert_eq!((head.position, verify(&fixture).await), (3, Ok(head.clone())));
    }

    #[tokio::test]
    async fn of_two_managers_one_writes_the_chain() {
        let fixture = chain(1).await;
        let (mut one, mut other) = (fixture.begin().await, fixture.begin().await);
        assert!(link(&mut one, 10).await.unwrap().is_some());
        assert_eq!(link(&mut other, 10).await.unwrap(), None);
        assert_eq!(prune(&mut other, at(100), at(100), 10).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn tampering_is_found_at_its_record() {
        for (sql, expected) in [
            ("update audit set subject = 'bob' where position = 4", Fault::Changed { position: 4, at: at(4) }),
            (
                "update audit set at = at + interval '1 second' where position = 7",
                Fault::Changed { position: 7, at: at(8) },
            ),
            ("update audit set sha256 = repeat('a', 64) where position = 2", Fault::Changed { position: 2, at: at(2) }),
            ("delete from audit where position in (5, 6)", Fault::Missing { first: 5, last: 6 }),
            (
                "update audit set position = 100 where position = 3; update audit set position = 3 where position = 4;
                 update audit set position = 4 where position = 100",
                Fault::Misplaced { position: 3, at: at(4) },
            ),
        ] {
            let fixture = chain(8).await;
            tamper(&fixture, sql).await;
            assert_eq!(verify(&fixture).await, Err(expected), "{sql}");
        }
    }

    /// The statements of the document for whoever checks the log without this code.
    async fn verify_as_documented(fixture: &Fixture) -> Option<i64> {
        let document = include_str!("../../../docs/operations/audit.md");
        let block = document
            .split("```")
            .find(|block| block.starts_with("sql\ncreate or replace function"))
            .expect("the statements");
        let (create, query) = block.strip_prefix("sql\n").unwrap().split_once(";\n").unwrap();
        let mut connection = fixture.store.acquire().await.unwrap();
        sqlx::raw_sql(create).execute(&mut *connection).await.unwrap();
        sqlx::query_scalar(query).fetch_optional(&mut *connection).await.unwrap()
    }

    #[tokio::test]
    async fn the_document_says_how_to_check_the_log_without_this_code() {
        let fixture = chain(5).await;
        let command = "insert into audit_pending (at, subject, role, action, target, tenant_id, command_id, cluster_id, revision, detail)
                       values ('2026-03-01Z', 'änn', 'ops', 'a', 't', gen_random_uuid(), gen_random_uuid(), 'c', 7, 'd')";
        fixture.execute(command).await;
        assert_eq!(link_all(&fixture).await.position, 6);
        assert_eq!(verify_as_documented(&fixture).await, None);
        tamper(&fixture, "update audit set target = 'tenant/9' where position = 3").await;
        assert_eq!(verify_as_documented(&fixture).await, Some(3));
    }

    #[tokio::test]
    async fn old_records_are_deleted_in_batches_and_the_rest_still_verifies() {
        let fixture = chain(6).await;
        let prune_old = async || {
            let mut tx = fixture.begin().await;
            let deleted = prune(&mut tx, at(5), at(50), 3).await.unwrap();
            tx.commit().await.unwrap();
            deleted
        };
        assert_eq!((prune_old().await, prune_old().await, prune_old().await), (3, 1, 0));
        let head = verify(&fixture).await.unwrap();
        assert_eq!(head.position, 8, "six records, and one for each batch that was deleted");
        let mut connection = fixture.store.acquire().await.unwrap();
        assert_eq!(start(&mut connection).await.unwrap().position, 4);
        let refused = sqlx::raw_sql("delete from audit").execute(&mut *connection).await;
        assert!(refused.is_err(), "only within the deletion of old records");
    }

    #[tokio::test]
    async fn a_chain_that_was_pruned_whole_goes_on() {
        let fixture = chain(2).await;
        let mut tx = fixture.begin().await;
        assert_eq!(prune(&mut tx, at(100), at(100), 10).await.unwrap(), 2);
        tx.commit().await.unwrap();
        write(&mut fixture.store.acquire().await.unwrap(), 101).await;
        let head = link_all(&fixture).await;
        assert_eq!((head.position, verify(&fixture).await), (4, Ok(head.clone())));
    }

    #[tokio::test]
    async fn a_begin_that_was_removed_by_hand_is_found() {
        let fixture = chain(4).await;
        tamper(
            &fixture,
            "update audit_start set position = 2, sha256 = (select sha256 from audit where position = 2);
             delete from audit where position <= 2",
        )
        .await;
        assert_eq!(verify(&fixture).await, Err(Fault::NotPruned { position: 2 }));
        tamper(&fixture, "update audit_start set position = 0, sha256 = repeat('0', 64)").await;
        assert_eq!(verify(&fixture).await, Err(Fault::Missing { first: 1, last: 2 }));
    }
}
