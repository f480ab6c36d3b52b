//! Chunks to windows. Bounded for each cluster: what does not fit is dropped with its acknowledgers, so the broker delivers
//! it again.

use super::invalid::InvalidUsage;
use bytes::Bytes;
use kubenova_bus::consume::Acknowledger;
use kubenova_core::cluster::ClusterId;
use kubenova_schema::{v1::UsageChunk, window::Window};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Windows of one cluster that may miss chunks at once. Most windows are one chunk and never wait here.
const WINDOWS_MAX: usize = 8;
/// Chunks of one window: 32 of 512 KiB are some 50,000 tenants.
const CHUNKS_MAX: u32 = 32;
/// Bytes of one chunk: the 512 KiB that an Operator makes, and some room.
const CHUNK_BYTES_MAX: usize = 600 * 1024;
/// Bytes of one cluster's windows that miss chunks: the largest window, and some room.
const CLUSTER_BYTES_MAX: usize = 24 * 1024 * 1024;

/// Which window, by its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The cluster that the subject names.
    pub(super) cluster: ClusterId,
    /// The window that the subject names.
    pub(super) window: Window,
    /// Hex SHA-256 of the manifest.
    pub(super) manifest_sha256: String,
}

/// A window of which every chunk arrived.
#[derive(Debug)]
pub(super) struct Whole {
    /// Which window.
    pub(super) key: Key,
    /// The manifest's bytes.
    pub(super) manifest: Vec<u8>,
    /// Its signature, already checked.
    pub(super) manifest_signature: String,
    /// The bytes of all records.
    pub(super) records: Vec<u8>,
    /// The last chunk as it arrived, for a dead letter.
    pub(super) payload: Bytes,
    /// The acknowledger of each chunk, of its newest delivery.
    pub(super) acknowledgers: Vec<Acknowledger>,
}

/// Windows of which chunks are missing.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    partial: HashMap<Key, Partial>,
    /// In the order of their first chunks.
    order: VecDeque<Key>,
}

/// A window of which chunks are missing: by index the part and its acknowledger.
#[derive(Debug, Default)]
struct Partial {
    count: u32,
    parts: BTreeMap<u32, (Vec<u8>, Acknowledger)>,
    bytes: usize,
}

impl Assembly {
    /// Adds a chunk; returns the window when none is missing any more. A chunk that is delivered again replaces the one
    /// before, whose acknowledger is void by then.
    ///
    /// # Errors
    /// When the chunk contradicts itself or the chunks before it.
    pub(super) fn add(
        &mut self,
        key: Key,
        chunk: UsageChunk,
        acknowledger: Acknowledger,
        payload: Bytes,
    ) -> Result<Option<Whole>, InvalidUsage> {
        if chunk.count == 0
            || chunk.count > CHUNKS_MAX
            || chunk.index >= chunk.count
            || chunk.part.len() > CHUNK_BYTES_MAX
        {
            return Err(InvalidUsage::Chunk { index: chunk.index, count: chunk.count });
        }
        self.make_room(&key, chunk.part.len());
        if !self.partial.contains_key(&key) {
            self.order.push_back(key.clone());
        }
        let partial = self.partial.entry(key.clone()).or_default();
        if partial.count == 0 {
            partial.count = chunk.count;
        } else if partial.count != chunk.count {
            return Err(InvalidUsage::Chunk { index: chunk.index, count: chunk.count });
        }
        partial.bytes += chunk.part.len();
        if let Some((before, _)) = partial.parts.insert(chunk.index, (chunk.part, acknowledger)) {
            partial.bytes -= before.len();
        }
        if partial.parts.len() < usize::try_from(partial.count).unwrap_or(usize::MAX) {
            return Ok(None);
        }
        let partial = self.drop_window(&key).unwrap_or_default();
        let (parts, acknowledgers): (Vec<_>, Vec<_>) = partial.parts.into_values().unzip();
        Ok(Some(Whole {
            key,
            manifest: chunk.manifest,
            manifest_signature: chunk.manifest_signature,
            records: parts.concat(),
            payload,
            acknowledgers,
        }))
    }

    fn drop_window(&mut self, key: &Key) -> Option<Partial> {
        self.order.retain(|other| other != key);
        self.partial.remove(key)
    }

    /// Drops other windows of the cluster, oldest first, until what is added to this one fits: a cluster that sends parts
    /// of windows for ever delays only its own.
    fn make_room(&mut self, adding: &Key, more: usize) {
        loop {
            let own = || self.order.iter().filter(|key| key.cluster == adding.cluster);
            let others = || own().filter(|key| *key != adding);
            let bytes: usize = own().filter_map(|key| self.partial.get(key)).map(|partial| partial.bytes).sum();
            if others().count() < WINDOWS_MAX && bytes + more <= CLUSTER_BYTES_MAX {
                return;
            }
            let Some(oldest) = others().next().cloned() else { return };
            self.drop_window(&oldest);
        }
    }
}
