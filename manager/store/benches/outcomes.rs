//! How fast outcomes are recorded, one a transaction and many, beside the raw stage: `cargo bench -p kubenova-store --bench outcomes`.
//!
//! The raw stage locks and updates a row in a transaction of its own, as anything must that stores one outcome durably. On a PostgreSQL
//! of its own that does not wait for its disk: where one does, each commit costs more, and many in one gain more.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints its results, and ends when a step fails"
)]

use jiff::Timestamp;
use kubenova_core::{
    cluster::ClusterId,
    command::{CommandId, CommandState},
};
use kubenova_store::{cluster_reports, error::StoreError, outcomes::Reported, pool::Store};
use kubenova_test_postgres::Database;
use sqlx::{Connection as _, PgConnection};
use std::time::Instant;
use uuid::Uuid;

const CLUSTER: &str = "c0123456789abcdefghjkmnpqrs";
/// Commands of each stage.
const COMMANDS: usize = 4_000;
/// As many as ingest stores at once.
const TOGETHER: usize = 64;
const ROWS: &str = "
    insert into clusters (id, name, state, revision_counter, created_at, updated_at, created_by)
    values ('c0123456789abcdefghjkmnpqrs', 'bench', 'enrolled', 4000, now(), now(), 'bench');
    insert into commands (id, cluster_id, revision, kind, object_key, document, generation, state, created_by, queued_at, sent_at)
    select lpad(to_hex(i), 32, '0')::uuid, 'c0123456789abcdefghjkmnpqrs', i, 'apply-tenant', 'tenant/' || i, '{}', 1, 'sent',
           'bench', now(), now()
    from generate_series(1, 4000) i";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let database = filled().await;
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    let begun = Instant::now();
    for report in reports() {
        update(&mut connection, report.command_id.0).await.unwrap();
    }
    let raw = rate(begun);
    println!("| stage | outcomes a second | beside raw |\n| --- | --- | --- |\n| raw | {raw:.0} | |");
    for size in [1, TOGETHER] {
        let database = filled().await;
        let store = Store::open(database.url(), 2).unwrap();
        let begun = Instant::now();
        for group in reports().chunks(size) {
            let record = store.transaction("record outcomes", async |tx| {
                cluster_reports::record_outcomes(tx, group, Timestamp::UNIX_EPOCH, Uuid::nil).await?;
                Ok::<_, StoreError>(())
            });
            record.await.unwrap();
        }
        let reached = rate(begun);
        println!("| {size} a transaction | {reached:.0} | {:.2} |", reached / raw);
    }
}

async fn filled() -> Database {
    let database = Database::new().await;
    database.execute(ROWS).await;
    database.execute("analyze").await;
    database
}

async fn update(connection: &mut PgConnection, id: Uuid) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    sqlx::query("select state from commands where id = $1 for update").bind(id).fetch_one(&mut *tx).await?;
    let update = "update commands set state = 'acknowledged', acknowledged_at = now() where id = $1";
    sqlx::query(update).bind(id).execute(&mut *tx).await?;
    tx.commit().await
}

fn rate(begun: Instant) -> f64 {
    f64::from(u32::try_from(COMMANDS).unwrap()) / begun.elapsed().as_secs_f64()
}

fn reports() -> Vec<Reported> {
    let acknowledged = |number: usize| Reported {
        cluster_id: ClusterId::parse(CLUSTER).unwrap(),
        command_id: CommandId(Uuid::from_u128(u128::try_from(number).unwrap())),
        epoch: 1,
        state: Some(CommandState::Acknowledged),
        reason: String::new(),
        message: String::new(),
        hops: Vec::new(),
        send_again_at: None,
    };
    (1..=COMMANDS).map(acknowledged).collect()
}
