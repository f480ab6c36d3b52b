//! `audit verify`: walks the hash chain of the audit log and names the first record that is not what was written.
//!
//! For whoever may read the settings file; `docs/operations/audit.md` says how to use it.

use crate::settings::Settings;
use anyhow::{Context as _, Result, anyhow, bail};
use kubenova_core::audit::{Fault, Head, Verifier};
use kubenova_store::{audit_chain, connection::Connection, pool::Store};
use std::io::Write as _;

/// Records read at once: about a megabyte.
const BATCH: i64 = 2000;

/// Commands about the audit log.
#[derive(Debug, clap::Subcommand)]
pub enum AuditVerb {
    /// Check every record of the audit log. Prints how many there are and the head, which is worth noting elsewhere.
    Verify(Verify),
}

/// Arguments of `audit verify`.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// A head that was noted earlier, `<position>:<hash>`: the record must still be there with this hash.
    #[arg(long, value_parser = head)]
    expect_head: Option<Head>,
    /// Check only the records after this head, `<position>:<hash>`, which was noted earlier.
    #[arg(long, value_parser = head)]
    from: Option<Head>,
}

impl AuditVerb {
    pub(super) async fn run(self, settings: &Settings) -> Result<()> {
        let Self::Verify(arguments) = self;
        let store = settings.connect().await?;
        let verified = verify(&store, arguments).await?;
        std::io::stdout().write_all(verified.to_string().as_bytes()).context("could not print the result")
    }
}

fn head(text: &str) -> Result<Head, String> {
    Head::parse(text).ok_or_else(|| "write <position>:<hash in hex>, as audit verify prints it".to_owned())
}

/// A chain that is as it was written.
#[derive(Debug)]
struct Verified {
    records: i64,
    head: Head,
    /// Committed, but not in the chain yet.
    pending: i64,
}

impl std::fmt::Display for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { records, head, pending } = self;
        writeln!(f, "{records} records are as they were written\nhead {head}")?;
        if *pending > 0 {
            writeln!(f, "{pending} newer records are not linked yet: a running Manager links them within a second")?;
        }
        Ok(())
    }
}

async fn verify(store: &Store, arguments: Verify) -> Result<Verified> {
    let mut connection = store.acquire().await?;
    let start = audit_chain::start(&mut connection).await?;
    verify_from_start(&mut connection, start, &arguments).await
}

/// Begins again when what is missing was deleted on schedule meanwhile.
async fn verify_from_start(connection: &mut Connection, mut start: Head, arguments: &Verify) -> Result<Verified> {
    loop {
        let walked = walk(connection, &start, arguments).await?;
        let present = audit_chain::start(connection).await?;
        match walked {
            Err(_) if present != start => start = present,
            walked => {
                let (records, head) =
                    walked.map_err(|fault| anyhow!("the audit log is not what was written: {fault}"))?;
                return Ok(Verified { records, head, pending: audit_chain::pending(connection).await? });
            }
        }
    }
}

/// How many records there are, and the last one; or the first fault.
async fn walk(connection: &mut Connection, start: &Head, arguments: &Verify) -> Result<Result<(i64, Head), Fault>> {
    let begin = arguments.from.as_ref().unwrap_or(start).clone();
    if begin.position < start.position {
        bail!("the records up to {} were deleted on schedule: give a later head with --from", start.position);
    }
    if let Some(expected) = arguments.expect_head.as_ref().filter(|expected| expected.position < begin.position) {
        bail!("record {} lies before the ones to check: give a later head with --expect-head", expected.position);
    }
    let before = begin.position;
    let mut verifier = Verifier::new(begin, arguments.expect_head.clone());
    loop {
        let records = audit_chain::batch(connection, verifier.head().position, BATCH).await?;
        if records.is_empty() {
            return Ok(verifier.finish(arguments.from.is_none()).map(|head| (head.position - before, head)));
        }
        if let Err(fault) = records.iter().try_for_each(|linked| verifier.check(linked)) {
            return Ok(Err(fault));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_test_postgres::Database;

    /// A database with ten linked records.
    async fn chain() -> (Database, Store) {
        let database = Database::new().await;
        let store = Store::open(database.url(), 2).unwrap();
        add(&database, &store).await;
        (database, store)
    }

    async fn add(database: &Database, store: &Store) {
        database
            .execute(
                "insert into audit_pending (at, subject, role, action, target)
                 select timestamptz '2026-01-01Z' + n * interval '1 minute', 'ann', 'ops', 'writeTenants/create', 'tenant/' || n
                 from generate_series(1, 10) n",
            )
            .await;
        let link = async |tx: &mut Connection| audit_chain::link(tx, 100).await;
        store.transaction("test", link).await.unwrap();
    }

    async fn run(store: &Store, expect_head: Option<&Head>, from: Option<&Head>) -> Result<Verified> {
        verify(store, Verify { expect_head: expect_head.cloned(), from: from.cloned() }).await
    }

    #[tokio::test]
    async fn an_untouched_log_is_counted_and_its_head_is_found_again_later() {
        let (database, store) = chain().await;
        let first = run(&store, None, None).await.unwrap();
        assert_eq!((first.records, first.head.position), (10, 10));
        add(&database, &store).await;
        let second = run(&store, Some(&first.head), None).await.unwrap();
        assert_eq!(second.records, 20);
        let newer = run(&store, Some(&second.head), Some(&first.head)).await.unwrap();
        assert_eq!((newer.records, &newer.head), (10, &second.head));
        assert!(newer.to_string().starts_with("10 records are as they were written\nhead 20:"), "{newer}");
        database
            .execute("insert into audit_pending (at, subject, role, action, target) values (now(), '', '', '', '')")
            .await;
        let unlinked = run(&store, None, None).await.unwrap();
        assert!(unlinked.to_string().contains("\n1 newer records are not linked yet"), "{unlinked}");
    }

    #[tokio::test]
    async fn the_first_bad_record_is_named_with_what_is_wrong() {
        for (sql, message) in [
            (
                "update audit set subject = 'bob' where position >= 4",
                "record 4 of 2026-01-01T00:04:00Z was changed: its content does not have its hash",
            ),
            ("delete from audit where position = 5", "record 5 is missing"),
            ("delete from audit where position between 5 and 7", "records 5 to 7 are missing"),
            (
                "update audit set position = 100 where position = 2; update audit set position = 2 where position = 3;
                 update audit set position = 3 where position = 100",
                "record 2 of 2026-01-01T00:03:00Z does not follow the record before it: the order was changed, or record 1 \
                 was replaced together with its hash",
            ),
        ] {
            let (database, store) = chain().await;
            database.execute("alter table audit disable trigger user").await;
            database.execute(sql).await;
            let error = run(&store, None, None).await.unwrap_err().to_string();
            assert_eq!(error, format!("the audit log is not what was written: {message}"));
        }
    }

    #[tokio::test]
    async fn a_cut_end_and_another_chain_are_found_with_a_noted_head() {
        let (database, store) = chain().await;
        let noted = run(&store, None, None).await.unwrap().head;
        database.execute("alter table audit disable trigger user").await;
        database.execute("delete from audit where position > 8").await;
        assert_eq!(run(&store, None, None).await.unwrap().records, 8, "without the noted head nothing is missing");
        let error = run(&store, Some(&noted), None).await.unwrap_err().to_string();
        assert!(error.ends_with("records 9 to 10 are missing"), "{error}");
        add(&database, &store).await;
        let error = run(&store, Some(&noted), None).await.unwrap_err().to_string();
        assert!(error.contains("record 10 has the hash"), "{error}");
    }

    #[tokio::test]
    async fn records_that_are_deleted_on_schedule_while_the_log_is_read_are_no_fault() {
        let (_database, store) = chain().await;
        let before = run(&store, None, None).await.unwrap().head;
        let later = "2027-01-01T00:00:00Z".parse().unwrap();
        let prune = async |tx: &mut Connection| audit_chain::prune(tx, later, later, 4).await;
        assert_eq!(store.transaction("test", prune).await.unwrap(), 4);
        let mut connection = store.acquire().await.unwrap();
        let arguments = Verify { expect_head: Some(before), from: None };
        assert!(
            walk(&mut connection, &Head::none(), &arguments).await.unwrap().is_err(),
            "what was read before is gone"
        );
        let verified = verify_from_start(&mut connection, Head::none(), &arguments).await.unwrap();
        assert_eq!((verified.records, verified.head.position), (7, 11));
        drop(connection);
        let from =
            run(&store, None, Some(&Head { position: 3, sha256: "a".repeat(64) })).await.unwrap_err().to_string();
        assert!(from.contains("the records up to 4 were deleted on schedule"), "{from}");
    }
}
