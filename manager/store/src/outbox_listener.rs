//! Learning of new commands as soon as their transaction commits, instead of at the relay's next poll.
//!
//! Before it: `outbox.rs` notifies in the writer's transaction. After it: the relay looks for due rows.

use crate::{
    error::{StoreError, failed},
    outbox,
};
use sqlx::{PgPool, postgres::PgListener};

/// A connection of its own that listens for new commands.
#[derive(Debug)]
pub struct OutboxListener(PgListener);

impl OutboxListener {
    pub(crate) async fn connect(pool: &PgPool) -> Result<Self, StoreError> {
        let mut listener = PgListener::connect_with(pool).await.map_err(failed("connect to listen for commands"))?;
        listener.listen(outbox::CHANNEL).await.map_err(failed("listen for commands"))?;
        Ok(Self(listener))
    }

    /// Waits until commands were written, or may have been: after a lost connection was made again, notifications of
    /// the time between are missing, and the caller should look.
    pub async fn notified(&mut self) -> Result<(), StoreError> {
        let _lost_or_notified = self.0.try_recv().await.map_err(failed("listen for commands"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::fixture::Fixture;
    use kubenova_core::change::Change;
    use std::time::Duration;

    #[tokio::test]
    async fn a_committed_command_is_notified() {
        let fixture = Fixture::new().await;
        let (clusters, tenant) = (fixture.clusters(1).await, fixture.tenant().await);
        let mut listener = fixture.store.listen().await.unwrap();
        fixture.enqueue(&clusters, &Change::Tenant(tenant)).await;
        tokio::time::timeout(Duration::from_secs(10), listener.notified()).await.expect("notified").unwrap();
    }
}
