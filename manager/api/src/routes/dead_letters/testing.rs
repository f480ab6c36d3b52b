//! Dead letters in tests, written as ingest does.

use crate::testing::TestApi;
use kubenova_runtime::{clock, random};
use kubenova_store::dead_letters::{self, NewDeadLetter};

/// Stores a message of this cluster and returns the dead letter's id.
pub(crate) async fn store(api: &TestApi, cluster: &str, subject: &str, payload: &[u8]) -> String {
    let id = random::uuid_v7();
    let sha256 = format!("{id}");
    let letter = NewDeadLetter { id, cluster, payload_sha256: &sha256, subject, reason: "it is no outcome", payload };
    dead_letters::insert(&mut api.state.store.acquire().await.unwrap(), &letter, clock::now()).await.unwrap();
    id.to_string()
}
