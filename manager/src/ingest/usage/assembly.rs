//! Chunks to windows. Bounded for each cluster and for all of them: a chunk that is kept is a delivery that the broker waits
//! for, and when it waits for too many it delivers nothing more to anybody. A window that does not become whole is ended: its
//! cluster publishes it again until it holds a receipt.

use super::invalid::InvalidUsage;
use bytes::Bytes;
use kubenova_bus::consume::Acknowledger;
use kubenova_core::cluster::ClusterId;
use kubenova_schema::{streams, v1::UsageChunk, window::Window};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Windows of one cluster that may miss chunks at once. Most windows are one chunk and never wait here.
const WINDOWS_MAX: usize = 8;
/// Chunks of one window: 96 of 192 KiB are some 50,000 tenants.
const CHUNKS_MAX: u32 = 96;
/// Bytes of one chunk: no message of a cluster is larger.
const CHUNK_BYTES_MAX: usize = streams::CLUSTER_MESSAGE_BYTES_MAX;
/// Bytes of one cluster's windows that miss chunks: the largest window, and some room.
const CLUSTER_BYTES_MAX: usize = 24 * 1024 * 1024;
/// Bytes of all windows that miss chunks.
const ALL_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Chunks that are kept of all clusters: a quarter of the deliveries that the broker lets all Managers hold together.
const ALL_CHUNKS_MAX: usize = 250;
/// How often every kept chunk of a window may be delivered again before the window is ended; the broker delivers a chunk again
/// every minute.
const REPEATS_MAX: usize = 2;

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
pub(super) struct Whole<A = Acknowledger> {
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
    pub(super) acknowledgers: Vec<A>,
}

/// What a chunk came to.
#[derive(Debug)]
pub(super) struct Added<A = Acknowledger> {
    /// The window, when this was its last chunk.
    pub(super) whole: Option<Whole<A>>,
    /// Windows that are not waited for any more.
    pub(super) ended: Vec<Ended<A>>,
}

/// A window that did not become whole.
#[derive(Debug)]
pub(super) struct Ended<A = Acknowledger> {
    /// Which window.
    pub(super) key: Key,
    /// The acknowledgers of its chunks.
    pub(super) acknowledgers: Vec<A>,
}

/// Windows of which chunks are missing.
#[derive(Debug)]
pub(super) struct Assembly<A = Acknowledger> {
    partial: HashMap<Key, Partial<A>>,
    /// In the order of their first chunks.
    order: VecDeque<Key>,
}

impl<A> Default for Assembly<A> {
    fn default() -> Self {
        Self { partial: HashMap::new(), order: VecDeque::new() }
    }
}

/// A window of which chunks are missing: by index the part and its acknowledger.
#[derive(Debug)]
struct Partial<A> {
    count: u32,
    parts: BTreeMap<u32, (Vec<u8>, A)>,
    bytes: usize,
    /// Chunks that were delivered again while they were kept.
    repeats: usize,
}

impl<A> Assembly<A> {
    /// Adds a chunk. One that is delivered again replaces the one before, whose acknowledger is void by then.
    ///
    /// # Errors
    /// When the chunk contradicts itself or the chunks before it.
    pub(super) fn add(
        &mut self,
        key: Key,
        chunk: UsageChunk,
        acknowledger: A,
        payload: Bytes,
    ) -> Result<Added<A>, InvalidUsage> {
        let known = self.partial.get(&key).map(|partial| partial.count);
        if chunk.count == 0
            || chunk.count > CHUNKS_MAX
            || chunk.index >= chunk.count
            || chunk.part.len() > CHUNK_BYTES_MAX
            || known.is_some_and(|count| count != chunk.count)
        {
            return Err(InvalidUsage::Chunk { index: chunk.index, count: chunk.count });
        }
        let kept = self.partial.get(&key).map_or(0, |partial| partial.parts.len());
        let repeated = self.partial.get(&key).is_some_and(|partial| partial.parts.contains_key(&chunk.index));
        let completes = !repeated && kept + 1 == usize::try_from(chunk.count).unwrap_or(usize::MAX);
        let mut ended = if completes { Vec::new() } else { self.make_room(&key, chunk.part.len()) };
        if known.is_none() {
            self.order.push_back(key.clone());
        }
        let partial = self.partial.entry(key.clone()).or_insert_with(|| Partial {
            count: chunk.count,
            parts: BTreeMap::new(),
            bytes: 0,
            repeats: 0,
        });
        partial.bytes += chunk.part.len();
        if let Some((before, _)) = partial.parts.insert(chunk.index, (chunk.part, acknowledger)) {
            partial.bytes -= before.len();
            partial.repeats += 1;
        }
        if !completes {
            if partial.repeats >= REPEATS_MAX * partial.parts.len() {
                ended.push(self.drop_window(key));
            }
            return Ok(Added { whole: None, ended });
        }
        self.order.retain(|other| *other != key);
        let parts = self.partial.remove(&key).map(|partial| partial.parts).unwrap_or_default();
        let (parts, acknowledgers): (Vec<_>, Vec<_>) = parts.into_values().unzip();
        let whole = Whole {
            key,
            manifest: chunk.manifest,
            manifest_signature: chunk.manifest_signature,
            records: parts.concat(),
            payload,
            acknowledgers,
        };
        Ok(Added { whole: Some(whole), ended })
    }

    fn drop_window(&mut self, key: Key) -> Ended<A> {
        self.order.retain(|other| *other != key);
        let parts = self.partial.remove(&key).map(|partial| partial.parts).unwrap_or_default();
        Ended { key, acknowledgers: parts.into_values().map(|(_, acknowledger)| acknowledger).collect() }
    }

    /// Ends windows, oldest first, until what is added to this one fits: those of its own cluster when that has too many, else
    /// those of the cluster that keeps most, so that a cluster that sends parts of windows for ever delays its own.
    fn make_room(&mut self, adding: &Key, more: usize) -> Vec<Ended<A>> {
        let mut ended = Vec::new();
        while let Some(oldest) = self.too_much(adding, more) {
            ended.push(self.drop_window(oldest));
        }
        ended
    }

    /// The window to end before so many bytes are added to another one; none when they fit, or when nothing else is kept.
    fn too_much(&self, adding: &Key, more: usize) -> Option<Key> {
        let bytes =
            |keys: &[&Key]| keys.iter().filter_map(|key| self.partial.get(*key)).map(|it| it.bytes).sum::<usize>();
        let all: Vec<&Key> = self.order.iter().collect();
        let own: Vec<&Key> = all.iter().copied().filter(|key| key.cluster == adding.cluster).collect();
        let others = |keys: &[&Key]| keys.iter().copied().find(|key| *key != adding).cloned();
        let own_others = own.iter().filter(|key| **key != adding).count();
        if own_others >= WINDOWS_MAX || bytes(&own) + more > CLUSTER_BYTES_MAX {
            return others(&own);
        }
        let chunks =
            |keys: &[&Key]| keys.iter().filter_map(|key| self.partial.get(*key)).map(|it| it.parts.len()).sum();
        let all_chunks: usize = chunks(&all);
        if all_chunks < ALL_CHUNKS_MAX && bytes(&all) + more <= ALL_BYTES_MAX {
            return None;
        }
        let of = |cluster: &ClusterId| all.iter().copied().filter(|key| key.cluster == *cluster).collect::<Vec<_>>();
        let most = all.iter().filter(|key| **key != adding).max_by_key(|key| -> usize { chunks(&of(&key.cluster)) })?;
        others(&of(&most.cluster))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn key(cluster: u128, start: i64) -> Key {
        Key {
            cluster: ClusterId::from_uuid(Uuid::from_u128(cluster)),
            window: Window { start, seconds: 60 },
            manifest_sha256: String::new(),
        }
    }

    /// Adds a chunk whose acknowledger is this number.
    fn add(assembly: &mut Assembly<u32>, key: Key, index: u32, count: u32, number: u32) -> Added<u32> {
        let chunk = UsageChunk { index, count, part: vec![0; 10], ..UsageChunk::default() };
        assembly.add(key, chunk, number, Bytes::new()).unwrap()
    }

    #[test]
    fn a_window_is_whole_with_its_last_chunk_whatever_the_order_and_repetition() {
        let mut assembly = Assembly::default();
        for (index, number) in [(2, 1), (0, 2), (2, 3)] {
            let added = add(&mut assembly, key(1, 0), index, 3, number);
            assert!(added.whole.is_none() && added.ended.is_empty());
        }
        let whole = add(&mut assembly, key(1, 0), 1, 3, 4).whole.unwrap();
        assert_eq!(
            (whole.acknowledgers, whole.records.len()),
            (vec![2, 4, 3], 30),
            "the newest delivery of each chunk"
        );
        assert!(assembly.partial.is_empty() && assembly.order.is_empty());
    }

    #[test]
    fn a_window_that_stays_incomplete_is_ended_after_its_chunks_came_again() {
        let mut assembly = Assembly::default();
        let mut ended = Vec::new();
        for number in 0..6 {
            ended = add(&mut assembly, key(1, 0), number % 2, 3, number).ended;
            assert!(ended.is_empty() || number == 5, "{number}");
        }
        assert_eq!((ended[0].key.clone(), ended[0].acknowledgers.clone()), (key(1, 0), vec![4, 5]));
        assert!(assembly.partial.is_empty());
    }

    #[test]
    fn a_cluster_that_sends_parts_only_ends_its_own_windows_and_no_others() {
        let mut assembly = Assembly::default();
        add(&mut assembly, key(2, 0), 0, 2, 1000);
        let mut ended = Vec::new();
        for number in 0..50 {
            ended.extend(add(&mut assembly, key(1, i64::from(number)), 0, 2, number).ended);
        }
        let kept = u32::try_from(WINDOWS_MAX).unwrap();
        let answered: Vec<u32> = ended.into_iter().flat_map(|window| window.acknowledgers).collect();
        assert_eq!(answered, (0..50 - kept).collect::<Vec<_>>(), "the oldest, each answered");
        let whole = add(&mut assembly, key(2, 0), 1, 2, 1001).whole;
        assert!(whole.is_some(), "the window of the other cluster was kept");
    }

    #[test]
    fn so_few_chunks_are_kept_of_all_clusters_that_the_broker_goes_on_delivering() {
        let mut assembly = Assembly::default();
        // One that sends as much as it may, and many that send a little.
        let mut ended = Vec::new();
        for (window, index) in (0..8).flat_map(|window| (0..30).map(move |index| (window, index))) {
            ended.extend(add(&mut assembly, key(1000, window), index, 32, 0).ended);
        }
        for cluster in 0..100 {
            ended.extend(add(&mut assembly, key(cluster, 0), 0, 2, 0).ended);
        }
        let kept: usize = assembly.partial.values().map(|partial| partial.parts.len()).sum();
        assert!(kept <= ALL_CHUNKS_MAX, "{kept}");
        assert!(
            !ended.is_empty() && ended.iter().all(|window| window.key.cluster == key(1000, 0).cluster),
            "{ended:?}"
        );
        let whole = add(&mut assembly, key(7, 7), 0, 1, 1);
        assert!(whole.whole.is_some() && whole.ended.is_empty(), "a window of one chunk needs no room");
    }

    #[test]
    fn impossible_chunks_are_refused_and_change_nothing() {
        let mut assembly = Assembly::default();
        add(&mut assembly, key(1, 0), 0, 2, 1);
        for (index, count) in [(0, 0), (2, 2), (0, CHUNKS_MAX + 1), (1, 3)] {
            let chunk = UsageChunk { index, count, ..UsageChunk::default() };
            assert!(assembly.add(key(1, 0), chunk, 2, Bytes::new()).is_err(), "{index} of {count}");
        }
        assert_eq!(add(&mut assembly, key(1, 0), 1, 2, 3).whole.unwrap().acknowledgers, [1, 3]);
    }
}
