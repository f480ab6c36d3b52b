//! Learning of new commands as soon as their transaction commits, instead of at the relay's next poll.
//!
//! Before it: `outbox_notification.rs` notifies in the writer's transaction. After it: the relay looks for due rows.

use crate::{
    error::{StoreError, failed},
    outbox_notification::{self, Notification},
};
use sqlx::{PgPool, postgres::PgListener};
use std::time::Duration;

/// Longest silence before the server is asked whether it is still there: one that is gone without a word never says so.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Longest wait for its answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A connection of its own that listens for new commands.
#[derive(Debug)]
pub struct OutboxListener {
    listener: PgListener,
    silence_max: Duration,
}

impl OutboxListener {
    pub(crate) async fn connect(pool: &PgPool) -> Result<Self, StoreError> {
        let mut listener = PgListener::connect_with(pool).await.map_err(failed("connect to listen for commands"))?;
        listener.listen(outbox_notification::CHANNEL).await.map_err(failed("listen for commands"))?;
        Ok(Self { listener, silence_max: SILENCE_MAX })
    }

    /// Waits until commands were written, or may have been: after a lost connection was made again, notifications of
    /// the time between are missing, and any cluster may have some.
    ///
    /// # Errors
    /// When the server does not answer any more.
    pub async fn notified(&mut self) -> Result<Notification, StoreError> {
        loop {
            if let Ok(lost_or_notified) = tokio::time::timeout(self.silence_max, self.listener.try_recv()).await {
                let notified = lost_or_notified.map_err(failed("listen for commands"))?;
                return Ok(notified.map_or(Notification::Any, |one| Notification::read(one.payload())));
            }
            let asked = sqlx::raw_sql("select 1").execute(&mut self.listener);
            let answered = tokio::time::timeout(ANSWER_MAX, asked).await;
            let answered = answered.unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())));
            answered.map_err(failed("ask whether Postgres is there"))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixture::Fixture, line::Line, pool::Store};
    use kubenova_core::change::Change;

    #[tokio::test]
    async fn a_server_that_is_gone_without_a_word_is_noticed() {
        let fixture = Fixture::new().await;
        let line = Line::to(&fixture).await;
        let mut listener = Store::open(&line.url, 1).unwrap().listen().await.unwrap();
        listener.silence_max = Duration::from_millis(10);
        let silent = tokio::time::timeout(Duration::from_millis(300), listener.notified()).await;
        assert!(silent.is_err(), "it is there, and says so each time it is asked: {silent:?}");
        line.lose();
        let lost = listener.notified().await.unwrap_err();
        assert!(lost.is_transient(), "{lost:?}");
    }

    #[tokio::test]
    async fn a_committed_command_is_notified_with_its_clusters() {
        let fixture = Fixture::new().await;
        let (clusters, tenant) = (fixture.clusters(3).await, fixture.tenant().await);
        let mut listener = fixture.store.listen().await.unwrap();
        fixture.enqueue(&clusters[..2], &Change::Tenant(tenant)).await;
        let notified = tokio::time::timeout(Duration::from_secs(10), listener.notified()).await.expect("notified");
        assert_eq!(notified.unwrap(), Notification::Clusters(clusters[..2].to_vec()));
    }

    #[tokio::test]
    async fn after_a_connection_that_was_lost_any_cluster_may_have_commands() {
        let fixture = Fixture::new().await;
        let mut listener = fixture.store.listen().await.unwrap();
        fixture.execute("select pg_terminate_backend(pid) from pg_stat_activity where query like 'LISTEN%'").await;
        let notified = tokio::time::timeout(Duration::from_secs(10), listener.notified()).await.expect("noticed");
        assert_eq!(notified.unwrap(), Notification::Any);
    }
}
