//! HashKV: one number for the content of the `key` bucket up to a revision.
//!
//! Members compare it to find out whether they hold the same data, so every byte counts. CRC-32C
//! over the word `key`, then over key and value of each record in order, except
//! - records above the hash revision;
//! - records at or below the compaction point that a compaction at the hash revision would not
//!   keep, because one member may have deleted them and another not yet; unless it would keep
//!   nothing at all;
//! - a tombstone exactly at the compaction point: older releases deleted it.
//!
//! **Source**: etcd `server/storage/mvcc/hash.go`.

use std::ops::ControlFlow;

use types::{RecordKey, Revision};

use crate::record;
use crate::store::{ReadError, Store};

/// Number of compaction hashes that are remembered.
const CACHED_HASHES: usize = 10;
/// Records looked up, or keys visited, under one lock.
const CHUNK: usize = 64;

/// A hash and what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// The hash.
    pub hash: u32,
    /// The compaction point it was computed with; -1 for none.
    pub compact_revision: i64,
    /// The revision it covers.
    pub hash_revision: i64,
    /// Current revision of the store when it was asked for.
    pub current_revision: i64,
}

/// The hash in the making.
#[derive(Clone, Debug)]
pub(crate) struct Hasher {
    crc: u32,
    compact_revision: i64,
    revision: i64,
    /// A compaction at `revision` would keep no record at or below it.
    pub(crate) keep_is_empty: bool,
}

impl Hasher {
    pub(crate) fn new(compact_revision: i64, revision: i64) -> Self {
        Self { crc: crc32c::crc32c(b"key"), compact_revision, revision, keep_is_empty: false }
    }

    /// Whether it matters for this record if it is kept.
    fn asks(&self, key: RecordKey) -> bool {
        key.revision.main <= self.compact_revision && !self.keep_is_empty
    }

    /// Adds the next record. `kept`: a compaction at the hash revision would keep it.
    pub(crate) fn feed(&mut self, key: RecordKey, value: &[u8], kept: bool) {
        let main = key.revision.main;
        let skipped = main > self.revision
            || (self.asks(key) && !kept)
            || (key.tombstone && main == self.compact_revision);
        if !skipped {
            self.crc = crc32c::crc32c_append(crc32c::crc32c_append(self.crc, &key.encode()), value);
        }
    }

    pub(crate) fn finish(&self) -> u32 {
        self.crc
    }
}

impl Store {
    /// Hashes the store at `revision`; 0 means the current one. The revision of a recent compaction
    /// is answered with the hash taken then, which names the compaction point before it.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, ReadError> {
        let cached = self.hashes.lock().iter().find(|hash| hash.hash_revision == revision).copied();
        if let Some(cached) = cached.filter(|_| revision != 0) {
            return Ok(HashKv { current_revision: self.current_revision(), ..cached });
        }
        let state = self.state.read();
        let (current, compacted, epoch) = (state.current, state.compacted, state.epoch);
        if revision > 0 {
            state.resolve(revision)?;
        }
        let revision = if revision == 0 { current } else { revision };
        let view = self.backend.view();
        drop(state);
        let disturbed = |state: &crate::store::State| state.epoch != epoch || state.compacted > revision;

        let mut hasher = Hasher::new(compacted, revision);
        let mut next = Vec::new();
        hasher.keep_is_empty = loop {
            let state = self.state.read();
            if disturbed(&state) {
                return Err(ReadError::Compacted);
            }
            match state.index.keeps_any_for_hash(&next, revision, CHUNK) {
                ControlFlow::Break(found) => break !found,
                ControlFlow::Continue(from) => next = from,
            }
        };
        let mut records = view.records(Revision::default(), Revision::new(revision, i64::MAX))?;
        loop {
            let batch = records.by_ref().take(CHUNK).collect::<Result<Vec<_>, _>>()?;
            if batch.is_empty() {
                let hash = hasher.finish();
                return Ok(HashKv {
                    hash,
                    compact_revision: compacted,
                    hash_revision: revision,
                    current_revision: current,
                });
            }
            let first = batch[0].0;
            let state = hasher.asks(first).then(|| self.state.read());
            if state.as_ref().is_some_and(|state| disturbed(state)) {
                return Err(ReadError::Compacted);
            }
            for (key, value) in &batch {
                let malformed = |source| ReadError::Malformed { revision: key.revision, source };
                let kept = match &state {
                    Some(state) if hasher.asks(*key) => {
                        let entry = state.index.entry(record::key_of(value).map_err(malformed)?);
                        entry.and_then(|entry| entry.kept_for_hash(revision)) == Some(key.revision)
                    }
                    _ => false,
                };
                hasher.feed(*key, value, kept);
            }
        }
    }

    /// Hashes of past compactions, ascending by revision, at most ten.
    pub fn compaction_hashes(&self) -> Vec<HashKv> {
        self.hashes.lock().clone()
    }

    pub(crate) fn store_hash(&self, hash: HashKv) {
        let mut hashes = self.hashes.lock();
        let at = hashes.partition_point(|other| other.hash_revision <= hash.hash_revision);
        hashes.insert(at, hash);
        if hashes.len() > CACHED_HASHES {
            hashes.remove(0);
        }
    }
}
