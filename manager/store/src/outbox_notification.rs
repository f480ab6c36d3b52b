//! The notification about new commands, sent in the transaction that writes them: the relay looks at the clusters that it names as
//! soon as the transaction commits, instead of at its next poll. Only a shortcut: the poll finds every command.
//!
//! Before it: `outbox.rs` and whatever else makes commands due. After it: `outbox_listener.rs`.

use crate::error::{StoreError, failed};
use kubenova_core::cluster::ClusterId;
use sqlx::PgConnection;

/// Channel that the relay listens on.
pub(crate) const CHANNEL: &str = "kubenova_outbox";

/// Most clusters that a notification names: 256 ids of 27 characters and what separates them are 7167 of the fewer than 8000 bytes
/// that Postgres carries.
const NAMED_MAX: usize = 256;
/// Separates ids.
const SEPARATOR: &str = " ";

/// Which clusters may have something to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// These.
    Clusters(Vec<ClusterId>),
    /// Any: they are too many to be named, or notifications were lost.
    Any,
}

impl Notification {
    pub(crate) fn read(payload: &str) -> Self {
        let clusters: Option<Vec<ClusterId>> = payload.split(SEPARATOR).map(ClusterId::parse).collect();
        clusters.map_or(Self::Any, Self::Clusters)
    }
}

/// What is sent about these clusters: their ids, or nothing when they are too many.
pub(crate) fn payload(clusters: &[String]) -> String {
    if clusters.len() > NAMED_MAX { String::new() } else { clusters.join(SEPARATOR) }
}

/// Has the relay look at these clusters once the transaction is committed.
pub(crate) async fn send(connection: &mut PgConnection, clusters: &[String]) -> Result<(), StoreError> {
    sqlx::query!("select pg_notify($1, $2)", CHANNEL, payload(clusters))
        .fetch_one(connection)
        .await
        .map(drop)
        .map_err(failed("notify the relay"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;
    use uuid::Uuid;

    fn clusters(count: usize) -> Vec<ClusterId> {
        (0..count).map(|number| ClusterId::from_uuid(Uuid::from_u128(number as u128))).collect()
    }

    fn sent(clusters: &[ClusterId]) -> String {
        payload(&clusters.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn clusters_are_named_as_long_as_they_fit_and_what_cannot_be_read_is_about_any() {
        for count in [1, 2, NAMED_MAX] {
            let named = clusters(count);
            assert_eq!(Notification::read(&sent(&named)), Notification::Clusters(named));
        }
        assert_eq!(Notification::read(&sent(&clusters(NAMED_MAX + 1))), Notification::Any);
        for unreadable in ["", "all", "c0123456789abcdefghjkmnpqrs  c0123456789abcdefghjkmnpqrs"] {
            assert_eq!(Notification::read(unreadable), Notification::Any);
        }
    }

    #[tokio::test]
    async fn postgres_carries_as_many_as_are_named() {
        let fixture = Fixture::new().await;
        let named: Vec<String> = clusters(NAMED_MAX).iter().map(ToString::to_string).collect();
        send(&mut fixture.store.acquire().await.unwrap(), &named).await.unwrap();
    }
}
