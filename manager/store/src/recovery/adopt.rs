//! Adopts what a cluster holds and this database lost: commands with their own ids and revisions, so that the cluster's replay
//! reports their outcomes, and the desired state that they carry. Nothing is half done: a refusal undoes everything.
//!
//! Before it: `mod.rs` says what would be done. After it: the cluster's next hello is accepted, and the relay sends the
//! adopted commands, which the cluster has carried out already.

use super::{
    Line,
    adoption::{AdoptError, Adopted, Adoption, Taken, refused},
    desired::{self, application_of, tenant_of},
    lines, room,
};
use crate::{
    diverged_records::{self, StoredRecord},
    divergences::{self, Divergence},
    error::{StoreError, failed},
    listings, outbox,
};
use jiff_sqlx::ToSqlx as _;
use kubenova_core::{
    cluster::ClusterId,
    command::CommandId,
    recovery::{Action, HeldCommand, next_epoch, verify},
};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Keys that a refusal names.
const NAMED_MAX: usize = 5;

/// Adopts, in the transaction of the caller.
///
/// # Errors
/// With [`AdoptError::Refused`] when the records are not all here, one is not the Manager's, or a name is taken.
pub async fn adopt(connection: &mut PgConnection, adoption: Adoption<'_>) -> Result<Adopted, AdoptError> {
    let cluster = adoption.cluster;
    let (epoch, counter) = lock(&mut *connection, cluster).await?;
    let records = diverged_records::all(&mut *connection, cluster).await?;
    let divergence = divergences::list(&mut *connection, Some(cluster)).await?.pop();
    let divergence = divergence.ok_or_else(|| refused("the cluster has not diverged: there is nothing to recover"))?;
    let usable: Vec<&StoredRecord> = records
        .iter()
        .filter(|record| !adoption.leave.contains(&record.listed.key) || !record.body.is_empty())
        .collect();
    let commands = verified(adoption, &divergence, &usable)?;
    let lines = lines(&mut *connection, cluster, &usable).await?;
    check_left(adoption.leave, &lines, &records)?;
    let actions: BTreeMap<&str, Action> = lines.iter().map(|line| (line.key.as_str(), line.action)).collect();
    let taken: Vec<Taken> = commands.into_iter().map(|command| take(command, &actions, adoption.leave)).collect();
    check(&mut *connection, &divergence, &usable, &taken).await?;
    let of_commands = taken.iter().map(|one| one.command.epoch).max().unwrap_or_default();
    let epoch = next_epoch(epoch, of_commands, divergence.epoch).ok_or_else(|| {
        refused(format!("the cluster names epoch {}, which no Manager can have given it", divergence.epoch))
    })?;
    let highest = usable.iter().map(|record| record.listed.revision).max().unwrap_or_default().max(counter);
    let again = room::make_room(&mut *connection, adoption, &usable, &taken, &newer(&lines), highest).await?;
    let mut generations = Vec::new();
    for one in &taken {
        let generation = if one.is_left { 1 } else { desired::apply(&mut *connection, adoption, one).await? };
        generations.push(generation);
    }
    insert(&mut *connection, adoption, &taken, &generations).await?;
    set_epoch(&mut *connection, cluster, epoch).await?;
    outbox::enqueue_again(&mut *connection, adoption.issuer, cluster, &again, None).await?;
    desired::bring_in_line(&mut *connection, adoption, &taken).await?;
    divergences::end(&mut *connection, cluster).await?;
    listings::unsettle(&mut *connection, cluster).await?;
    let counter = finish(&mut *connection, adoption, &taken).await?;
    let mut keys: BTreeMap<Action, usize> = BTreeMap::new();
    for line in lines.iter().filter(|line| !adoption.leave.contains(&line.key)) {
        *keys.entry(line.action).or_default() += 1;
    }
    Ok(Adopted { keys, epoch, counter })
}

/// A key that is mistyped would have what was meant to be left adopted for good.
fn check_left(leave: &BTreeSet<String>, lines: &[Line], records: &[StoredRecord]) -> Result<(), AdoptError> {
    let is_known = |key: &&String| {
        lines.iter().any(|line| line.key == **key) || records.iter().any(|record| record.listed.key == **key)
    };
    match leave.iter().find(|key| !is_known(key)) {
        None => Ok(()),
        Some(key) => Err(refused(format!("there is no object \"{key}\" to leave: name it as recover list does"))),
    }
}

/// The commands of this database that are wanted although the cluster holds others about their objects, which it lacks: they
/// have to stand above those.
fn newer(lines: &[Line]) -> Vec<CommandId> {
    let lacked = |line: &&Line| line.held.as_ref().is_some_and(|held| !held.is_known);
    let wanted = |line: &&Line| matches!(line.action, Action::SendNewer | Action::SendAgain);
    lines.iter().filter(lacked).filter(wanted).filter_map(|line| Some(line.newest.as_ref()?.id)).collect()
}

/// The cluster's epoch and counter, its row locked: nothing is enqueued meanwhile.
async fn lock(connection: &mut PgConnection, cluster: &ClusterId) -> Result<(i64, i64), AdoptError> {
    let row = sqlx::query!("select epoch, revision_counter from clusters where id = $1 for update", cluster.as_str())
        .fetch_optional(connection)
        .await
        .map_err(failed("lock a cluster to recover"))?;
    row.map(|row| (row.epoch, row.revision_counter)).ok_or_else(|| refused("there is no such cluster"))
}

/// The commands that this database lacks, each verified as the Manager's own; deletes last, so that what they belong to is here.
fn verified(
    adoption: Adoption<'_>,
    divergence: &Divergence,
    records: &[&StoredRecord],
) -> Result<Vec<HeldCommand>, AdoptError> {
    if !divergence.is_listed {
        let wait =
            "the cluster has not sent yet what it holds: it does within a minute while its Operator is connected";
        return Err(refused(wait));
    }
    let (mut commands, mut problems) = (Vec::new(), Vec::new());
    for record in records.iter().filter(|record| record.is_lacking) {
        let key = &record.listed.key;
        if record.body.is_empty() && record.problem.is_empty() {
            problems.push(format!("{key} has not come yet"));
            continue;
        }
        match verify(&record.body, &record.signature, adoption.keys, adoption.cluster, &record.listed) {
            Ok(command) => commands.push(command),
            Err(_) if !record.problem.is_empty() => problems.push(format!("{key}: {}", record.problem)),
            Err(not_ours) => problems.push(format!("{key}: {not_ours}")),
        }
    }
    if problems.is_empty() {
        commands.sort_by_key(|command| (command.kind.is_delete(), command.revision));
        return Ok(commands);
    }
    let more = problems.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    problems.truncate(NAMED_MAX);
    Err(refused(format!(
        "what the cluster sent is not whole: {}{more}; wait a minute, or give --leave with a key to leave that object as it is",
        problems.join("; ")
    )))
}

fn take(command: HeldCommand, actions: &BTreeMap<&str, Action>, leave: &BTreeSet<String>) -> Taken {
    let key = command.key.to_string();
    let action = actions.get(key.as_str()).copied().unwrap_or(Action::Keep);
    Taken { is_left: leave.contains(&key), command, action }
}

/// Refuses what no statement below could set right.
async fn check(
    connection: &mut PgConnection,
    divergence: &Divergence,
    records: &[&StoredRecord],
    taken: &[Taken],
) -> Result<(), AdoptError> {
    let mut revisions = BTreeMap::new();
    for record in records {
        if let Some(other) = revisions.insert(record.listed.revision, &record.listed.key) {
            let revision = record.listed.revision;
            return Err(refused(format!(
                "the cluster holds two commands of revision {revision}, about {other} and {}: two histories of the database \
                 are mixed in it; give --leave with one of them",
                record.listed.key
            )));
        }
    }
    let ids: Vec<Uuid> = taken.iter().map(|one| one.command.id.0).collect();
    let known = sqlx::query_scalar!("select object_key from commands where id = any($1) limit 1", &ids)
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed("find adopted commands"))?;
    if let Some(key) = known {
        return Err(refused(format!(
            "the command about {key} is here with another revision: the database was edited since it was restored; restore the \
             backup again and recover before anything else is changed"
        )));
    }
    let named = (divergence.highest_revision, divergence.highest_command);
    let is_here = records.iter().any(|record| (record.listed.revision, Some(record.listed.command_id.0)) == named);
    if is_here || named.0 == 0 {
        return Ok(());
    }
    let known = sqlx::query_scalar!(
        r#"select exists (select from commands where cluster_id = $1 and revision = $2 and id = $3) as "known!""#,
        divergence.cluster_id.as_str(),
        named.0,
        named.1,
    )
    .fetch_one(connection)
    .await
    .map_err(failed("find the highest command of a diverged cluster"))?;
    if known {
        return Ok(());
    }
    Err(refused(format!(
        "the record of the cluster's highest revision, {}, cannot be used or was left out, and without it that revision would be \
         given a second time; take its object out of --leave, or enroll the cluster again",
        named.0
    )))
}

/// Writes the adopted commands as sent and due: the cluster has them, and its replay reports how they ended.
async fn insert(
    connection: &mut PgConnection,
    adoption: Adoption<'_>,
    taken: &[Taken],
    generations: &[i64],
) -> Result<(), StoreError> {
    let column = |text: fn(&Taken) -> String| -> Vec<String> { taken.iter().map(text).collect() };
    let ids: Vec<Uuid> = taken.iter().map(|one| one.command.id.0).collect();
    let revisions: Vec<i64> = taken.iter().map(|one| one.command.revision).collect();
    let tenants: Vec<Option<Uuid>> = taken.iter().map(|one| tenant_of(&one.command.key).map(|id| id.0)).collect();
    let names: Vec<Option<String>> = taken.iter().map(|one| application_of(&one.command.key)).collect();
    let deadlines: Vec<Option<jiff_sqlx::Timestamp>> =
        taken.iter().map(|one| one.command.not_after.map(|deadline| deadline.to_sqlx())).collect();
    let left: Vec<bool> = taken.iter().map(|one| one.is_left).collect();
    sqlx::query!(
        "with adopted as (
             insert into commands (id, cluster_id, revision, kind, object_key, document, tenant_id, application_name, generation,
                                   created_by, queued_at, sent_at, state, reason, message, finished_at, not_after)
             select a.id, $1, a.revision, a.kind, a.object_key, a.document, t.id, a.application_name, a.generation, $2, $3, $3,
                    case when a.is_left then 'superseded' else 'sent' end,
                    case when a.is_left then 'LeftInCluster' else '' end,
                    case when a.is_left then 'the object was left as it is in the cluster when the database was recovered'
                         else '' end,
                    case when a.is_left then $3::timestamptz end, a.not_after
             from unnest($4::uuid[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::uuid[], $10::text[], $11::bigint[],
                         $12::bool[], $14::timestamptz[])
                  as a (id, revision, kind, object_key, document, tenant_id, application_name, generation, is_left, not_after)
             left join tenants t on t.id = a.tenant_id
             returning *
         )
         insert into audit_pending (at, subject, role, action, target, tenant_id, command_id, cluster_id, revision,
                                    document_sha256, detail)
         select queued_at, created_by, $13, case when finished_at is null then 'command/adopted' else 'command/left' end,
                object_key, tenant_id, id, cluster_id, revision, encode(sha256(convert_to(document, 'UTF8')), 'hex'), kind
         from adopted order by revision",
        adoption.cluster.as_str(),
        adoption.issuer.subject,
        adoption.issuer.now.to_sqlx(),
        &ids,
        &revisions,
        &column(|one| one.command.kind.as_str().to_owned()),
        &column(|one| one.command.key.to_string()),
        &column(|one| one.command.document.clone()),
        &tenants as &[Option<Uuid>],
        &names as &[Option<String>],
        generations,
        &left,
        adoption.issuer.role,
        deadlines as _,
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("adopt the commands of a diverged cluster"))
}

async fn set_epoch(connection: &mut PgConnection, cluster: &ClusterId, epoch: i64) -> Result<(), StoreError> {
    sqlx::query!("update clusters set epoch = $2 where id = $1", cluster.as_str(), epoch)
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("raise the epoch of a recovered cluster"))
}

/// Forgets what was shown as unknown, leaves an audit record, and returns the counter.
async fn finish(connection: &mut PgConnection, adoption: Adoption<'_>, taken: &[Taken]) -> Result<i64, StoreError> {
    let keys: Vec<String> = taken.iter().filter(|one| !one.is_left).map(|one| one.command.key.to_string()).collect();
    let detail = format!("{} adopted, {} left", keys.len(), taken.len().saturating_sub(keys.len()));
    sqlx::query_scalar!(
        "with known as (
             delete from unknown_objects where cluster_id = $1 and object_key = any($2)
         ), audited as (
             insert into audit_pending (at, subject, role, action, target, cluster_id, detail)
             values ($3, $4, $5, 'recover/adopt', 'cluster/' || $1, $1, $6)
         )
         select revision_counter from clusters where id = $1",
        adoption.cluster.as_str(),
        &keys,
        adoption.issuer.now.to_sqlx(),
        adoption.issuer.subject,
        adoption.issuer.role,
        detail,
    )
    .fetch_one(connection)
    .await
    .map_err(failed("record a recovery"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        applications,
        diverged_records::{Piece, RecordsListed},
        divergences::DivergedHello,
        fixture::{Fixture, application, at, issuer, new_id, reported, tenant},
        outcomes::{self, Recorded},
        placements,
        recovery::plan,
        sessions, tenants, wire,
    };
    use kubenova_core::{
        application::Application,
        change::Change,
        command::CommandState,
        recovery::ListedRecord,
        tenant::{Tenant, TenantId, TenantRef},
    };
    use kubenova_schema::{
        message,
        signature::{AcceptedKeys, PayloadType, SigningKey, sha256_hex},
        v1::Command,
    };

    /// A database as it was restored, and what the cluster holds beside it.
    struct Restored {
        fixture: Fixture,
        cluster: ClusterId,
        key: SigningKey,
        held: Vec<Command>,
    }

    /// Tenant 1 and its applications `old` and `shop` are in the database, and on the cluster as revisions 1 to 3. Revisions 4 to
    /// 6 were lost: tenant 2 was created, `shop` was changed, `old` was deleted.
    async fn restored() -> Restored {
        let fixture = Fixture::new().await;
        let cluster = fixture.connected_cluster().await;
        let one = std::slice::from_ref(&cluster);
        let tenant = fixture.tenant().await;
        let mut connection = fixture.store.acquire().await.unwrap();
        placements::insert(&mut connection, tenant.id, one, "ann", at(0)).await.unwrap();
        let changes = [
            Change::Tenant(tenant.clone()),
            of(&tenant, fixture.application(&tenant, "old", one).await),
            of(&tenant, fixture.application(&tenant, "shop", one).await),
        ];
        let mut held = Vec::new();
        for change in &changes {
            let enqueued = fixture.enqueue(one, change).await.remove(0);
            held.push(signed(&cluster, enqueued.command_id, enqueued.revision, change));
        }
        fixture.execute("update commands set state = 'succeeded', sent_at = queued_at, acknowledged_at = queued_at, finished_at = queued_at").await;
        let deleted =
            Change::ApplicationDeleted { tenant: tenant.name.clone(), application: application(&tenant, "old") };
        let changed =
            Application { spec: r#"{"components":[{"weight":2.50}]}"#.into(), ..application(&tenant, "shop") };
        for (revision, change) in
            [(4, Change::Tenant(crate::fixture::tenant(2))), (5, of(&tenant, changed)), (6, deleted)]
        {
            held.push(signed(&cluster, CommandId(new_id()), revision, &change));
        }
        let key = SigningKey::from_seed(&[3; 32]).unwrap();
        drop(connection);
        Restored { fixture, cluster, key, held }
    }

    fn of(tenant: &Tenant, application: Application) -> Change {
        Change::Application { tenant: tenant.name.clone(), application }
    }

    fn signed(cluster: &ClusterId, id: CommandId, revision: i64, change: &Change) -> Command {
        let encoded = wire::encode(change);
        Command {
            id: id.to_string(),
            cluster_id: cluster.to_string(),
            epoch: 1,
            revision: revision.unsigned_abs(),
            kind: encoded.kind.as_str().to_owned(),
            key: encoded.key.to_string(),
            document: encoded.document,
            ..Command::default()
        }
    }

    fn listed(command: &Command) -> ListedRecord {
        ListedRecord {
            key: command.key.clone(),
            kind: command.kind.clone(),
            revision: i64::try_from(command.revision).unwrap(),
            command_id: CommandId::parse(&command.id).unwrap(),
            document_sha256: sha256_hex(command.document.as_bytes()),
        }
    }

    impl Restored {
        /// The newest record of each key, as the inbox has them.
        fn records(&self) -> Vec<&Command> {
            let by_key: BTreeMap<&str, &Command> = self.held.iter().map(|one| (one.key.as_str(), one)).collect();
            by_key.into_values().collect()
        }

        /// The cluster says hello and sends what it holds, signed with this key.
        async fn diverge(&self, key: &SigningKey) {
            let mut connection = self.fixture.store.acquire().await.unwrap();
            let highest = self.held.iter().max_by_key(|command| command.revision).unwrap();
            let hello = DivergedHello {
                cluster_id: self.cluster.clone(),
                epoch: 1,
                highest_revision: i64::try_from(highest.revision).unwrap(),
                highest_command: highest.id.parse().ok(),
                listing_sha256: String::new(),
            };
            assert!(divergences::record(&mut connection, &hello, at(10)).await.unwrap());
            let records = self.records().into_iter().map(listed).collect();
            let (cluster_id, after_key) = (self.cluster.clone(), String::new());
            let part = RecordsListed { cluster_id, after_key, last: true, records };
            diverged_records::take_listing(&mut connection, &part).await.unwrap();
            for command in self.records() {
                let body = message::to_json(command);
                let piece = Piece {
                    key: command.key.clone(),
                    command_id: CommandId::parse(&command.id).unwrap(),
                    signature: key.sign(PayloadType::Command, &body),
                    total_bytes: i64::try_from(body.len()).unwrap(),
                    offset: 0,
                    bytes: body,
                };
                diverged_records::add_piece(&mut connection, &self.cluster, &piece).await.unwrap();
                diverged_records::record_verified(&mut connection, &self.cluster, &piece.key, None).await.unwrap();
            }
        }

        async fn adopt(&self, leave: &[String]) -> Result<Adopted, AdoptError> {
            let keys = AcceptedKeys::new([(self.key.id().to_owned(), self.key.public_key())]);
            let leave: BTreeSet<String> = leave.iter().cloned().collect();
            let issuer = outbox::Issuer { now: at(20), ..issuer() };
            let adoption = Adoption { cluster: &self.cluster, keys: &keys, leave: &leave, issuer };
            self.fixture.store.transaction("test", async |tx| adopt(tx, adoption).await).await
        }

        async fn connection(&self) -> sqlx::pool::PoolConnection<sqlx::Postgres> {
            self.fixture.store.acquire().await.unwrap()
        }

        async fn commands(&self) -> Vec<(i64, String, String)> {
            sqlx::query_as("select revision, object_key, state from commands order by revision")
                .fetch_all(&mut *self.connection().await)
                .await
                .unwrap()
        }

        async fn succeed(&self, command: &Command) -> Recorded {
            let reported = reported(&self.cluster, CommandId::parse(&command.id).unwrap(), CommandState::Succeeded);
            outcomes::record(&mut *self.connection().await, &reported, at(30), new_id).await.unwrap()
        }
    }

    #[tokio::test]
    async fn what_the_cluster_holds_is_the_databases_again_and_its_replay_ends_the_commands() {
        let restored = restored().await;
        restored.diverge(&restored.key).await;
        let lines = plan(&mut *restored.connection().await, &restored.cluster).await.unwrap();
        let actions: Vec<Action> = lines.iter().map(|line| line.action).collect();
        let expected = [Action::AdoptDelete, Action::AdoptApply, Action::Keep, Action::AdoptApply];
        assert_eq!(actions, expected, "{lines:?}");
        let adopted = restored.adopt(&[]).await.unwrap();
        assert_eq!((adopted.epoch, adopted.counter, adopted.keys[&Action::AdoptApply]), (2, 6, 2));
        let mut connection = restored.connection().await;
        let highest = &restored.held[5];
        let (revision, id) = (6, highest.id.parse().ok());
        assert!(sessions::revision_matches(&mut connection, &restored.cluster, revision, id).await.unwrap());
        let two = tenants::find(&mut connection, &TenantRef::Id(tenant(2).id)).await.unwrap().unwrap();
        assert_eq!((two.name, two.pod_security, two.quota), (tenant(2).name, tenant(2).pod_security, tenant(2).quota));
        let on = placements::of_tenants(&mut connection, &[tenant(2).id]).await.unwrap();
        assert_eq!(on[0].cluster_id, restored.cluster);
        let shop = applications::find(&mut connection, tenant(1).id, "shop").await.unwrap().unwrap();
        assert_eq!((shop.spec.as_str(), shop.generation), (r#"{"components":[{"weight":2.50}]}"#, 2));
        assert!(
            applications::find(&mut connection, tenant(1).id, "old").await.unwrap().unwrap().deleting_since.is_some()
        );
        assert_eq!(divergences::list(&mut connection, None).await.unwrap(), []);
        for command in &restored.held[3..] {
            assert_eq!(restored.succeed(command).await, Recorded::Moved);
        }
        assert_eq!(applications::find(&mut connection, tenant(1).id, "old").await.unwrap(), None, "it stays deleted");
        assert!(restored.commands().await.iter().all(|(.., state)| state == "succeeded"));
    }

    #[tokio::test]
    async fn what_was_found_before_counts_no_more_until_both_sides_are_compared_again() {
        let restored = restored().await;
        // Long after the last command of the fixture: nothing explains the difference.
        let (session, hash) = (1, "of before");
        listings::at_hello(&mut *restored.connection().await, &restored.cluster, hash, session, at(1000))
            .await
            .unwrap();
        let found = listings::state(&mut *restored.connection().await, &restored.cluster).await.unwrap();
        assert_eq!((found.unsettled, found.differs_since), (false, Some(at(1000))));
        restored.diverge(&restored.key).await;
        restored.adopt(&[]).await.unwrap();
        let found = listings::state(&mut *restored.connection().await, &restored.cluster).await.unwrap();
        assert_eq!((found.unsettled, found.differs_since), (true, None));
    }

    #[tokio::test]
    async fn an_object_that_is_left_must_be_one_of_those_that_are_listed() {
        let restored = restored().await;
        restored.diverge(&restored.key).await;
        let before = restored.commands().await;
        let refused = restored.adopt(&["shop".to_owned()]).await;
        assert!(refused.is_err_and(|error| error.to_string().contains("\"shop\"")));
        assert_eq!(restored.commands().await, before, "nothing was changed");
        let key = restored.held[3].key.clone();
        assert!(restored.adopt(&[key]).await.is_ok());
    }

    #[tokio::test]
    async fn changes_since_the_restore_are_sent_above_what_the_cluster_holds() {
        let restored = restored().await;
        let one = std::slice::from_ref(&restored.cluster);
        // They have revisions that are other commands' in the cluster: one about an object that the cluster changed, too.
        let later = Application { spec: "{}".into(), ..application(&tenant(1), "shop") };
        restored.fixture.enqueue(one, &of(&tenant(1), later)).await;
        let extra = restored.fixture.application(&tenant(1), "extra", one).await;
        let extra = restored.fixture.enqueue(one, &of(&tenant(1), extra)).await.remove(0);
        assert_eq!(extra.revision, 5);
        restored.diverge(&restored.key).await;
        let adopted = restored.adopt(&[]).await.unwrap();
        assert_eq!((adopted.keys[&Action::SendNewer], adopted.counter), (2, 8));
        let open: Vec<(i64, String, String)> =
            restored.commands().await.into_iter().filter(|(revision, ..)| *revision > 6).collect();
        let name =
            |open: &(i64, String, String)| (open.0, open.1.rsplit('/').next().unwrap().to_owned(), open.2.clone());
        let expected = [(7, "shop".to_owned(), "queued".to_owned()), (8, "extra".to_owned(), "queued".to_owned())];
        assert_eq!(open.iter().map(name).collect::<Vec<_>>(), expected, "with the ids that their callers know");
        let moved: i64 = sqlx::query_scalar("select revision from commands where id = $1")
            .bind(extra.command_id.0)
            .fetch_one(&mut *restored.connection().await)
            .await
            .unwrap();
        assert_eq!(moved, 8);
    }

    #[tokio::test]
    async fn what_was_queued_at_the_backup_and_replaced_since_is_not_sent() {
        let restored = restored().await;
        restored
            .fixture
            .execute(
                "update commands set state = 'queued', acknowledged_at = null, finished_at = null where revision = 3",
            )
            .await;
        restored.diverge(&restored.key).await;
        restored.adopt(&[]).await.unwrap();
        let states: Vec<String> = restored.commands().await.into_iter().map(|(.., state)| state).collect();
        assert_eq!(states, ["succeeded", "succeeded", "superseded", "sent", "sent", "sent"]);
    }

    #[tokio::test]
    async fn what_was_carried_out_after_the_cluster_held_something_else_is_sent_again_above_it() {
        let restored = restored().await;
        let one = std::slice::from_ref(&restored.cluster);
        // The cluster was restored, too, after it had carried this out.
        let later = Application { spec: "{}".into(), ..application(&tenant(1), "shop") };
        let later = restored.fixture.enqueue(one, &of(&tenant(1), later)).await.remove(0);
        restored
            .fixture
            .execute("update commands set state = 'succeeded', sent_at = queued_at, acknowledged_at = queued_at, finished_at = queued_at where state = 'queued'")
            .await;
        restored.diverge(&restored.key).await;
        let adopted = restored.adopt(&[]).await.unwrap();
        assert_eq!((later.revision, adopted.keys[&Action::SendAgain], adopted.counter), (4, 1, 8));
        let newest = restored.commands().await.pop().unwrap();
        assert_eq!((newest.0, newest.2.as_str()), (8, "queued"));
        assert!(newest.1.ends_with("/shop"), "{newest:?}");
    }

    #[tokio::test]
    async fn an_operation_is_taken_over_and_not_carried_out_again() {
        let mut restored = restored().await;
        let id = CommandId(new_id());
        restored.held.push(Command {
            id: id.to_string(),
            cluster_id: restored.cluster.to_string(),
            epoch: 1,
            revision: 7,
            kind: "restart-workflow".to_owned(),
            key: format!("operation/{id}"),
            document: format!(r#"{{"tenantId":"{}","application":"shop"}}"#, tenant(1).id),
            ..Command::default()
        });
        restored.diverge(&restored.key).await;
        let adopted = restored.adopt(&[]).await.unwrap();
        assert_eq!(adopted.counter, 7, "its revision is the highest that the cluster names");
        let operation = restored.held.last().unwrap();
        let taken = (7, operation.key.clone(), "sent".to_owned());
        assert_eq!(restored.commands().await.last(), Some(&taken), "its replay reports how it ended");
        assert_eq!(restored.succeed(operation).await, Recorded::Moved);
    }

    #[tokio::test]
    async fn a_record_that_the_manager_did_not_sign_is_refused_by_name_and_nothing_is_half_done() {
        let restored = restored().await;
        restored.diverge(&SigningKey::from_seed(&[4; 32]).unwrap()).await;
        let before = restored.commands().await;
        let refused = restored.adopt(&[]).await.unwrap_err().to_string();
        assert!(refused.contains(&restored.held[3].key) && refused.contains("did not sign it"), "{refused}");
        assert_eq!(restored.commands().await, before);
    }

    #[tokio::test]
    async fn a_taken_name_is_refused_with_the_way_out() {
        let restored = restored().await;
        let taken = Tenant { id: TenantId(new_id()), ..tenant(2) };
        tenants::insert(&mut *restored.connection().await, &taken).await.unwrap();
        restored.diverge(&restored.key).await;
        let key = restored.held[3].key.clone();
        let before = restored.commands().await;
        let refused = restored.adopt(&[]).await.unwrap_err().to_string();
        assert!(refused.contains(&format!("--leave {key}")), "{refused}");
        assert_eq!(restored.commands().await, before, "nothing is half done");
        let adopted = restored.adopt(std::slice::from_ref(&key)).await.unwrap();
        assert_eq!((adopted.keys[&Action::AdoptApply], adopted.counter), (1, 6));
        let left = restored.commands().await.into_iter().find(|(_, of, _)| *of == key).unwrap();
        assert_eq!(left.2, "superseded");
        let none = tenants::find(&mut *restored.connection().await, &TenantRef::Id(tenant(2).id)).await.unwrap();
        assert_eq!(none, None);
    }

    #[tokio::test]
    async fn a_cluster_that_has_not_diverged_or_not_sent_everything_is_refused() {
        let restored = restored().await;
        let refused = restored.adopt(&[]).await.unwrap_err().to_string();
        assert!(refused.contains("nothing to recover"), "{refused}");
        restored.diverge(&restored.key).await;
        restored.fixture.execute("update diverged_records set body = '', is_verified = false").await;
        let refused = restored.adopt(&[]).await.unwrap_err().to_string();
        assert!(refused.contains("has not come yet"), "{refused}");
        let old = applications::find(&mut *restored.connection().await, tenant(1).id, "old").await.unwrap().unwrap();
        assert!(old.deleting_since.is_none(), "nothing was changed");
    }
}
