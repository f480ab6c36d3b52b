//! The records of diverged clusters: their listing, and the commands that this database lost, as the Manager once signed them.
//!
//! Before it: `divergences.rs`; `manager/src/session/records.rs` brings them. After it: `recovery`. What one cluster can make the
//! Manager keep is bounded in rows and in bytes.

use crate::error::{StoreError, failed};
use kubenova_core::{cluster::ClusterId, command::CommandId, recovery::ListedRecord};
use sqlx::PgConnection;
use uuid::Uuid;

/// Records that are kept of one cluster: three times the largest that is measured (6,000 applications).
pub const RECORDS_MAX: i64 = 20_000;
/// Bytes of records that are kept of one cluster.
pub const BYTES_MAX: i64 = 128 * 1024 * 1024;

/// A part of the listing of a diverged cluster: every key above `after_key` up to that of its last record, or to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordsListed {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Where it begins; empty for the first.
    pub after_key: String,
    /// Whether it goes up to the end.
    pub last: bool,
    /// In the order of their keys.
    pub records: Vec<ListedRecord>,
}

/// What became of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// Taken; the records of these keys are wanted.
    Taken(Vec<String>),
    /// The cluster is not recorded as diverged.
    NotWanted,
    /// It has more records than are kept of one cluster.
    TooMany,
}

/// Takes a part of a listing in.
pub async fn take_listing(connection: &mut PgConnection, part: &RecordsListed) -> Result<Listed, StoreError> {
    let cluster = part.cluster_id.as_str();
    let known = sqlx::query_scalar!("select cluster_id from divergences where cluster_id = $1 for update", cluster)
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed("lock a divergence"))?;
    if known.is_none() {
        return Ok(Listed::NotWanted);
    }
    let keys: Vec<String> = part.records.iter().map(|record| record.key.clone()).collect();
    let end = keys.last().filter(|_| !part.last);
    sqlx::query!(
        r#"delete from diverged_records
           where cluster_id = $1 and object_key > $2 collate "C" and ($3::text is null or object_key <= $3 collate "C")
             and object_key <> all($4)"#,
        cluster,
        part.after_key,
        end,
        &keys,
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("forget records that a diverged cluster no longer has"))?;
    upsert(&mut *connection, cluster, &part.records, &keys).await?;
    let row = sqlx::query!(
        r#"select count(*) as "count!",
                  array_agg(object_key order by object_key collate "C")
                      filter (where is_lacking and not is_verified and object_key = any($2)) as wanted
           from diverged_records where cluster_id = $1"#,
        cluster,
        &keys,
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed("find the records that are wanted of a diverged cluster"))?;
    if row.count > RECORDS_MAX {
        sqlx::query!("delete from diverged_records where cluster_id = $1", cluster)
            .execute(connection)
            .await
            .map_err(failed("forget too many records of a diverged cluster"))?;
        return Ok(Listed::TooMany);
    }
    if part.last {
        sqlx::query!("update divergences set is_listed = true where cluster_id = $1", cluster)
            .execute(connection)
            .await
            .map_err(failed("record that a listing is whole"))?;
    }
    Ok(Listed::Taken(row.wanted.unwrap_or_default()))
}

/// Adds the listed records; what has come of one that is the same as before stays.
async fn upsert(
    connection: &mut PgConnection,
    cluster: &str,
    records: &[ListedRecord],
    keys: &[String],
) -> Result<(), StoreError> {
    let kinds: Vec<String> = records.iter().map(|record| record.kind.clone()).collect();
    let revisions: Vec<i64> = records.iter().map(|record| record.revision).collect();
    let commands: Vec<Uuid> = records.iter().map(|record| record.command_id.0).collect();
    let hashes: Vec<String> = records.iter().map(|record| record.document_sha256.clone()).collect();
    sqlx::query!(
        "with listed as (
             select * from unnest($2::text[], $3::text[], $4::bigint[], $5::uuid[], $6::text[])
                        as l (object_key, kind, revision, command_id, document_sha256)
         ), changed as (
             delete from diverged_records r using listed l
              where r.cluster_id = $1 and r.object_key = l.object_key
                and (r.kind, r.revision, r.command_id, r.document_sha256)
                    is distinct from (l.kind, l.revision, l.command_id, l.document_sha256)
         )
         select 1 as done from listed limit 1",
        cluster,
        keys,
        &kinds,
        &revisions,
        &commands,
        &hashes,
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("forget records that have changed in a diverged cluster"))?;
    // A statement of its own: it sees what the one before deleted.
    sqlx::query!(
        "insert into diverged_records (cluster_id, object_key, kind, revision, command_id, document_sha256, is_lacking)
         select $1, l.object_key, l.kind, l.revision, l.command_id, l.document_sha256,
                not exists (select from commands k where k.cluster_id = $1 and k.revision = l.revision
                               and k.id = l.command_id)
         from unnest($2::text[], $3::text[], $4::bigint[], $5::uuid[], $6::text[])
              as l (object_key, kind, revision, command_id, document_sha256)
         on conflict (cluster_id, object_key) do update set is_lacking = excluded.is_lacking",
        cluster,
        keys,
        &kinds,
        &revisions,
        &commands,
        &hashes,
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("record what a diverged cluster holds"))
}

/// A piece of the body of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The object.
    pub key: String,
    /// The command.
    pub command_id: CommandId,
    /// As in the header of the message.
    pub signature: String,
    /// Of the whole body.
    pub total_bytes: i64,
    /// Where it begins.
    pub offset: i64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What became of a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Added {
    /// More of the body is missing.
    Partly,
    /// This was the last of it.
    Whole(StoredRecord),
    /// This record is not wanted, or is whole already.
    NotWanted,
    /// It does not go on where the one before ended: the body is sent from its begin again.
    Misplaced,
    /// The cluster has sent as much as is kept of one.
    TooMuch,
}

/// A record with what has come of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// As listed.
    pub listed: ListedRecord,
    /// This database does not have the command.
    pub is_lacking: bool,
    /// As in the header of the message.
    pub signature: String,
    /// The bytes that the Manager once signed, when all of them have come.
    pub body: Vec<u8>,
    /// Why they cannot be used; empty otherwise.
    pub problem: String,
}

/// Adds a piece to its record. One at the begin begins it again.
pub async fn add_piece(connection: &mut PgConnection, cluster: &ClusterId, piece: &Piece) -> Result<Added, StoreError> {
    let row = sqlx::query!(
        r#"select r.kind, r.revision, r.document_sha256, r.body, r.problem,
                  (select coalesce(sum(greatest(o.total_bytes, octet_length(o.body))), 0)::bigint from diverged_records o
                    where o.cluster_id = $1 and o.object_key <> $2) as "others!"
           from divergences d join diverged_records r on r.cluster_id = d.cluster_id
           where d.cluster_id = $1 and r.object_key = $2 and r.command_id = $3 and r.is_lacking and not r.is_verified
           for update of d"#,
        cluster.as_str(),
        piece.key,
        piece.command_id.0,
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("find the record of a diverged cluster"))?;
    let Some(row) = row else { return Ok(Added::NotWanted) };
    if row.others.saturating_add(piece.total_bytes) > BYTES_MAX {
        return Ok(Added::TooMuch);
    }
    let mut body = if piece.offset == 0 { Vec::new() } else { row.body };
    let begin = i64::try_from(body.len()).unwrap_or(i64::MAX);
    body.extend_from_slice(&piece.bytes);
    let end = i64::try_from(body.len()).unwrap_or(i64::MAX);
    if begin != piece.offset || end > piece.total_bytes {
        return Ok(Added::Misplaced);
    }
    sqlx::query!(
        "update diverged_records set body = $3, signature = $4, total_bytes = $5
         where cluster_id = $1 and object_key = $2",
        cluster.as_str(),
        piece.key,
        body,
        piece.signature,
        piece.total_bytes,
    )
    .execute(connection)
    .await
    .map_err(failed("add a piece of a record of a diverged cluster"))?;
    if end < piece.total_bytes {
        return Ok(Added::Partly);
    }
    let listed = ListedRecord {
        key: piece.key.clone(),
        kind: row.kind,
        revision: row.revision,
        command_id: piece.command_id,
        document_sha256: row.document_sha256,
    };
    let signature = piece.signature.clone();
    Ok(Added::Whole(StoredRecord { listed, is_lacking: true, signature, body, problem: row.problem }))
}

/// Records that the bytes of a record are what the Manager signed, or why not: then they are not kept.
pub async fn record_verified(
    connection: &mut PgConnection,
    cluster: &ClusterId,
    key: &str,
    problem: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update diverged_records
            set is_verified = $3::text is null, problem = coalesce($3, ''),
                body = case when $3 is null then body else '' end,
                total_bytes = case when $3 is null then total_bytes else 0 end
          where cluster_id = $1 and object_key = $2",
        cluster.as_str(),
        key,
        problem,
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("record whether a record is the Manager's"))
}

/// What a diverged cluster holds, in the order of the keys.
pub async fn all(connection: &mut PgConnection, cluster: &ClusterId) -> Result<Vec<StoredRecord>, StoreError> {
    let rows = sqlx::query!(
        r#"select object_key, kind, revision, command_id, document_sha256, is_lacking, signature, body, problem
           from diverged_records where cluster_id = $1 order by object_key collate "C""#,
        cluster.as_str(),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read the records of a diverged cluster"))?;
    let records = rows.into_iter().map(|row| StoredRecord {
        listed: ListedRecord {
            key: row.object_key,
            kind: row.kind,
            revision: row.revision,
            command_id: CommandId(row.command_id),
            document_sha256: row.document_sha256,
        },
        is_lacking: row.is_lacking,
        signature: row.signature,
        body: row.body,
        problem: row.problem,
    });
    Ok(records.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        divergences::{DivergedHello, end, list, record},
        fixture::{Fixture, at},
    };
    use kubenova_core::change::Change;

    fn hello(cluster: &ClusterId, highest_revision: i64) -> DivergedHello {
        let (cluster_id, listing_sha256) = (cluster.clone(), "a".to_owned());
        DivergedHello { cluster_id, epoch: 2, highest_revision, highest_command: None, listing_sha256 }
    }

    fn listed(key: &str, revision: i64, command: u128) -> ListedRecord {
        ListedRecord {
            key: key.to_owned(),
            kind: "apply-tenant".to_owned(),
            revision,
            command_id: CommandId(Uuid::from_u128(command)),
            document_sha256: "0".repeat(64),
        }
    }

    fn whole(cluster: &ClusterId, records: Vec<ListedRecord>) -> RecordsListed {
        RecordsListed { cluster_id: cluster.clone(), after_key: String::new(), last: true, records }
    }

    fn piece(key: &str, command: u128, offset: i64, bytes: &[u8]) -> Piece {
        Piece {
            key: key.to_owned(),
            command_id: CommandId(Uuid::from_u128(command)),
            signature: "s".to_owned(),
            total_bytes: 6,
            offset,
            bytes: bytes.to_vec(),
        }
    }

    #[tokio::test]
    async fn only_the_records_that_the_database_lacks_are_wanted_until_they_are_verified() {
        let fixture = Fixture::new().await;
        let (cluster, tenant) = (fixture.clusters(1).await.remove(0), fixture.tenant().await);
        let known = fixture.enqueue(std::slice::from_ref(&cluster), &Change::Tenant(tenant)).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        let records = vec![listed("tenant/a", known.revision, known.command_id.0.as_u128()), listed("tenant/b", 9, 9)];
        let part = whole(&cluster, records);
        assert_eq!(take_listing(&mut connection, &part).await.unwrap(), Listed::NotWanted, "it has not diverged");
        assert!(record(&mut connection, &hello(&cluster, 9), at(1)).await.unwrap());
        let taken = take_listing(&mut connection, &part).await.unwrap();
        assert_eq!(taken, Listed::Taken(vec!["tenant/b".to_owned()]));
        assert!(record(&mut connection, &hello(&cluster, 9), at(2)).await.unwrap(), "the record has not come");
        for (offset, bytes, added) in
            [(0, b"abc", Added::Partly), (0, b"abc", Added::Partly), (4, b"def", Added::Misplaced)]
        {
            let done = add_piece(&mut connection, &cluster, &piece("tenant/b", 9, offset, bytes)).await.unwrap();
            assert_eq!(done, added);
        }
        let done = add_piece(&mut connection, &cluster, &piece("tenant/b", 9, 3, b"def")).await.unwrap();
        assert!(matches!(&done, Added::Whole(record) if record.body == b"abcdef"), "{done:?}");
        record_verified(&mut connection, &cluster, "tenant/b", Some("not ours")).await.unwrap();
        let kept = records_of(&mut connection, &cluster).await;
        assert_eq!((kept[1].body.len(), kept[1].problem.as_str()), (0, "not ours"));
        assert!(
            record(&mut connection, &hello(&cluster, 9), at(3)).await.unwrap(),
            "a tampered record is asked for again"
        );
        let again = Piece { bytes: b"abcdef".to_vec(), ..piece("tenant/b", 9, 0, b"") };
        add_piece(&mut connection, &cluster, &again).await.unwrap();
        record_verified(&mut connection, &cluster, "tenant/b", None).await.unwrap();
        assert!(!record(&mut connection, &hello(&cluster, 9), at(4)).await.unwrap(), "all is here");
        assert_eq!(add_piece(&mut connection, &cluster, &again).await.unwrap(), Added::NotWanted);
        let found = list(&mut connection, None).await.unwrap().remove(0);
        assert_eq!((found.since, found.lacking, found.missing, found.is_listed), (at(1), 1, 0, true));
    }

    async fn records_of(connection: &mut PgConnection, cluster: &ClusterId) -> Vec<StoredRecord> {
        all(connection, cluster).await.unwrap()
    }

    #[tokio::test]
    async fn what_describes_another_state_of_the_cluster_is_forgotten_and_all_of_it_with_the_session() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        record(&mut connection, &hello(&cluster, 9), at(1)).await.unwrap();
        take_listing(&mut connection, &whole(&cluster, vec![listed("tenant/b", 9, 9)])).await.unwrap();
        assert!(record(&mut connection, &hello(&cluster, 10), at(2)).await.unwrap());
        assert_eq!(records_of(&mut connection, &cluster).await, []);
        assert_eq!(list(&mut connection, Some(&cluster)).await.unwrap()[0].since, at(1));
        end(&mut connection, &cluster).await.unwrap();
        assert_eq!(list(&mut connection, None).await.unwrap(), []);
    }

    #[tokio::test]
    async fn what_one_cluster_can_make_the_manager_keep_is_bounded() {
        let fixture = Fixture::new().await;
        let cluster = fixture.clusters(1).await.remove(0);
        let mut connection = fixture.store.acquire().await.unwrap();
        record(&mut connection, &hello(&cluster, 9), at(1)).await.unwrap();
        take_listing(&mut connection, &whole(&cluster, vec![listed("tenant/b", 9, 9)])).await.unwrap();
        let large = Piece { total_bytes: BYTES_MAX + 1, ..piece("tenant/b", 9, 0, b"abc") };
        assert_eq!(add_piece(&mut connection, &cluster, &large).await.unwrap(), Added::TooMuch);
        let many = (0..=RECORDS_MAX).map(|number| listed(&format!("tenant/{number:06}"), number + 1, 1)).collect();
        let taken = take_listing(&mut connection, &whole(&cluster, many)).await.unwrap();
        assert_eq!((taken, records_of(&mut connection, &cluster).await), (Listed::TooMany, vec![]));
    }
}
