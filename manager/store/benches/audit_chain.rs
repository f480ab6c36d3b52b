//! How long it takes to link and to check the audit log: `cargo bench -p kubenova-store --bench audit_chain -- 1000000`.
//!
//! On a PostgreSQL of its own; results stand in `docs/operations/audit.md`.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints its results, and ends when a step fails"
)]

use kubenova_core::audit::Verifier;
use kubenova_store::{audit_chain, connection::Connection, pool::Store};
use kubenova_test_postgres::Database;
use std::time::Instant;

/// Records in one run unless the command line says another number.
const RECORDS: i64 = 1_000_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // cargo passes `--bench` as well.
    let records = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(RECORDS);
    let database = Database::new().await;
    database
        .execute(
            "create procedure fill(records bigint) language sql as $$
                 insert into audit_pending (at, subject, role, action, target, request_id, command_id, cluster_id, revision,
                                            document_sha256, detail)
                 select now(), 'caller-' || n % 100, 'ops', 'command/enqueued', 'application/' || gen_random_uuid() || '/shop',
                        gen_random_uuid()::text, gen_random_uuid(), 'c0123456789abcdefghjkmnpqrs', n, repeat('a', 64), 'apply-application'
                 from generate_series(1, records) n $$",
        )
        .await;
    let store = Store::open(database.url(), 2).unwrap();
    // In parts, because a statement of the store ends after half a minute.
    const PART: i64 = 100_000;
    database.execute("create procedure part() language sql as 'call fill(100000)'").await;
    for _ in 0..records / PART {
        database.execute("call part()").await;
    }

    let begun = Instant::now();
    let mut linked = 0;
    while linked < records / PART * PART {
        let link = async |tx: &mut Connection| audit_chain::link(tx, 1000).await;
        let round = store.transaction("link audit records", link).await.unwrap();
        linked += i64::try_from(round.map_or(0, |round| round.records)).unwrap();
    }
    println!("linked {linked} records in {:.1} s", begun.elapsed().as_secs_f64());

    let begun = Instant::now();
    let mut connection = store.acquire().await.unwrap();
    let mut verifier = Verifier::new(audit_chain::start(&mut connection).await.unwrap(), None);
    loop {
        let batch = audit_chain::batch(&mut connection, verifier.head().position, 2000).await.unwrap();
        if batch.is_empty() {
            break;
        }
        batch.iter().try_for_each(|one| verifier.check(one)).unwrap();
    }
    let head = verifier.finish(true).unwrap();
    println!("verified {} records in {:.1} s", head.position, begun.elapsed().as_secs_f64());
}
