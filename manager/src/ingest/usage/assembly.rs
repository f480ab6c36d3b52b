//! Chunks to windows. Bounded: what does not fit is forgotten with its acknowledgers, so the server delivers it again.

use super::check::Malformed;
use bytes::Bytes;
use kubenova_bus::consume::Acknowledger;
use kubenova_core::cluster::ClusterId;
use kubenova_schema::{v1::UsageChunk, window::Window};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Windows put together at once. Most windows are one chunk and never wait here.
const WINDOWS_MAX: usize = 64;
/// Chunks of one window: 128 of 512 KiB are some 200,000 tenants.
const CHUNKS_MAX: u32 = 128;

/// Which window, by its very manifest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The cluster that the subject names.
    pub cluster: ClusterId,
    /// The window that the subject names.
    pub window: Window,
    /// Hex SHA-256 of the manifest.
    pub manifest_sha256: String,
}

/// All of a window.
#[derive(Debug)]
pub struct Whole {
    /// Which.
    pub key: Key,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// Its signature, already checked.
    pub manifest_signature: String,
    /// The bytes of all records.
    pub records: Vec<u8>,
    /// The last chunk as it came, for a poison row.
    pub payload: Bytes,
    /// All chunks' acknowledgers, repeated deliveries included.
    pub acknowledgers: Vec<Acknowledger>,
}

/// Windows of which chunks are missing.
#[derive(Debug, Default)]
pub struct Assembly {
    partial: HashMap<Key, Partial>,
    /// In the order they began.
    order: VecDeque<Key>,
}

#[derive(Debug, Default)]
struct Partial {
    count: u32,
    parts: BTreeMap<u32, Vec<u8>>,
    acknowledgers: Vec<Acknowledger>,
}

impl Assembly {
    /// Adds a chunk; the window when nothing is missing any more.
    ///
    /// # Errors
    /// When the chunk contradicts itself or the chunks before it.
    pub fn add(
        &mut self,
        key: Key,
        chunk: UsageChunk,
        acknowledger: Acknowledger,
        payload: Bytes,
    ) -> Result<Option<Whole>, Malformed> {
        if chunk.count == 0 || chunk.count > CHUNKS_MAX || chunk.index >= chunk.count {
            return Err(Malformed::Chunk { index: chunk.index, count: chunk.count });
        }
        if !self.partial.contains_key(&key) {
            self.make_room();
            self.order.push_back(key.clone());
        }
        let partial = self.partial.entry(key.clone()).or_default();
        if partial.count == 0 {
            partial.count = chunk.count;
        } else if partial.count != chunk.count {
            return Err(Malformed::Chunk { index: chunk.index, count: chunk.count });
        }
        partial.parts.insert(chunk.index, chunk.part);
        partial.acknowledgers.push(acknowledger);
        if partial.parts.len() < usize::try_from(partial.count).unwrap_or(usize::MAX) {
            return Ok(None);
        }
        self.order.retain(|other| *other != key);
        let partial = self.partial.remove(&key).unwrap_or_default();
        Ok(Some(Whole {
            key,
            manifest: chunk.manifest,
            manifest_signature: chunk.manifest_signature,
            records: partial.parts.into_values().flatten().collect(),
            payload,
            acknowledgers: partial.acknowledgers,
        }))
    }

    fn make_room(&mut self) {
        while self.partial.len() >= WINDOWS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.partial.remove(&oldest);
        }
    }
}
