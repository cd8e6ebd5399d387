//! The store: index, revisions, and the way they come back at start.
//!
//! Owner of the state is a read-write lock held for the length of one index operation or one chunk
//! of a walk, never across the disk. One transaction writes at a time. What it adds to the index is
//! newer than the current revision, so readers pass it by until the revision is published.

use std::path::Path;
use std::sync::atomic::AtomicU64;

use backend::{Backend, Error as BackendError, schema};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use types::{BytesArena, KeyRange, LeaseId, RecordKey, Revision};

use crate::compact::CompactionJob;
use crate::hash::HashKv;
use crate::index::{Found, Index, MAX_SUB, Stamp};
use crate::record::{self, MalformedRecord};

/// Why a read, or a compaction, was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The revision lies below the compaction point.
    #[error("mvcc: required revision has been compacted")]
    Compacted,
    /// The revision is yet to come.
    #[error("mvcc: required revision is a future revision")]
    FutureRevision {
        /// The revision asked for.
        revision: i64,
        /// The current revision.
        current: i64,
    },
    /// The index names a record that the backend does not have.
    #[error(
        "mvcc: record of revision {revision} is missing: the database is damaged, restore it from a peer or a snapshot"
    )]
    MissingRecord {
        /// Which one.
        revision: Revision,
    },
    /// A record cannot be read.
    #[error(
        "mvcc: record of revision {revision}: {source}: the database is damaged, restore it from a peer or a snapshot"
    )]
    Malformed {
        /// Which one.
        revision: Revision,
        /// What is wrong with it.
        source: MalformedRecord,
    },
    /// A record has a revision that no store writes.
    #[error(
        "mvcc: record with impossible revision {revision}: the database is damaged, restore it from a peer or a snapshot"
    )]
    ImpossibleRevision {
        /// Which one.
        revision: Revision,
    },
    /// A record passed the check of its outline and is no message all the same.
    #[error(
        "mvcc: a record cannot be decoded: {0}: the database is damaged, restore it from a peer or a snapshot"
    )]
    Undecodable(#[from] prost::DecodeError),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// What the index alone knows of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyMeta {
    /// Revision that created the key.
    pub create_revision: i64,
    /// Revision of its last change.
    pub mod_revision: i64,
    /// Number of puts since it was created.
    pub version: i64,
}

impl From<Found> for KeyMeta {
    fn from(found: Found) -> Self {
        Self { create_revision: found.created, mod_revision: found.modified.main, version: found.version }
    }
}

/// What a start finds besides keys.
#[derive(Debug, Default)]
pub struct Restored {
    /// Keys with a lease, in no particular order. The lease may not exist.
    pub attachments: Vec<(Bytes, LeaseId)>,
    /// A compaction that was begun and not completed: to be run again.
    pub resume_compaction: Option<CompactionJob>,
}

/// The multi-version key-value store of one member.
#[derive(Debug)]
pub struct Store {
    pub(crate) backend: Backend,
    pub(crate) state: RwLock<State>,
    /// Held by the transaction that writes.
    pub(crate) writer: Mutex<BytesArena>,
    /// Hashes of past compactions, ascending by revision.
    pub(crate) hashes: Mutex<Vec<HashKv>>,
    /// Operations since the store was opened.
    pub(crate) counters: Counters,
}

/// Operations executed since the store was opened, those inside transactions included.
#[derive(Debug, Default)]
pub struct Counters {
    /// Ranges.
    pub ranges: AtomicU64,
    /// Puts.
    pub puts: AtomicU64,
    /// Bytes of the keys and values of all puts.
    pub put_bytes: AtomicU64,
    /// Deletions of a key or a range, each once however many keys it found.
    pub deletes: AtomicU64,
    /// Transactions with more than one operation.
    pub txns: AtomicU64,
}

/// What the lock of the store guards.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) index: Index,
    /// Revision of the last committed transaction; 1 for an empty store.
    pub(crate) current: i64,
    /// Reads below it are refused; -1 if there never was a compaction.
    pub(crate) compacted: i64,
    /// Counts replacements of the whole store.
    pub(crate) epoch: u64,
    /// Keys that the open transaction created (1) or deleted (-1), in order.
    pub(crate) uncommitted: Vec<(Bytes, i8)>,
}

impl State {
    /// Number of keys of `range` at `at`, if it is the newest revision of all readers or, for the
    /// open transaction itself, the next one. The index knows both without a walk.
    pub(crate) fn count_now(&self, range: &KeyRange, at: i64) -> Option<usize> {
        if at < self.current {
            return None;
        }
        let uncommitted =
            self.uncommitted.iter().filter(|(key, _)| at == self.current && range.contains(key));
        let change: isize = uncommitted.map(|(_, change)| isize::from(*change)).sum();
        Some(self.index.count_live(range).strict_add_signed(-change))
    }

    /// The open transaction ended: what it did is either published or taken back.
    pub(crate) fn forget_uncommitted(&mut self) {
        self.uncommitted.clear();
        self.uncommitted.shrink_to(256);
    }

    /// The revision that a read at `revision` means, if it may be read.
    pub(crate) fn resolve(&self, revision: i64) -> Result<i64, ReadError> {
        self.resolve_at(revision, self.current)
    }

    /// The same for a reader that sees `current` as the newest revision.
    pub(crate) fn resolve_at(&self, revision: i64, current: i64) -> Result<i64, ReadError> {
        if revision > current {
            return Err(ReadError::FutureRevision { revision, current });
        }
        let at = if revision <= 0 { current } else { revision };
        if at < self.compacted { Err(ReadError::Compacted) } else { Ok(at) }
    }
}

impl Store {
    /// Builds the store from what the backend holds.
    pub fn open(backend: Backend) -> Result<(Self, Restored), ReadError> {
        let (state, restored) = restore(&backend)?;
        let (writer, hashes) = (Mutex::default(), Mutex::new(Vec::new()));
        let (state, counters) = (RwLock::new(state), Counters::default());
        Ok((Self { backend, state, writer, hashes, counters }, restored))
    }

    /// Lets a received database take the place of this one ([`Backend::replace`]) and builds the
    /// state anew. Reads wait meanwhile, views taken before keep the old state; compaction jobs of
    /// the old state end without effect. After an error the store must not be used any more.
    pub fn replace(&self, new_db: &Path) -> Result<Restored, ReadError> {
        let _writer = self.writer.lock();
        let mut state = self.state.write();
        self.backend.replace(new_db)?;
        let (mut new, mut restored) = restore(&self.backend)?;
        new.epoch = state.epoch + 1;
        if let Some(job) = &mut restored.resume_compaction {
            job.epoch = new.epoch;
        }
        let old = std::mem::replace(&mut *state, new);
        drop(state);
        drop(old);
        Ok(restored)
    }

    /// Operations since the store was opened.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What the index knows of a key at a revision; `None` if the key did not exist then. No record
    /// is read. Below the compaction point the answer may be `None` for a key that existed.
    pub fn meta(&self, key: &[u8], revision: i64) -> Option<KeyMeta> {
        self.state.read().index.get(key, revision).map(KeyMeta::from)
    }

    /// The backend below.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Revision of the last committed transaction; 1 for an empty store.
    pub fn current_revision(&self) -> i64 {
        self.state.read().current
    }

    /// The compaction point; -1 if there never was one.
    pub fn compacted_revision(&self) -> i64 {
        self.state.read().compacted
    }

    /// Number of keys that exist now.
    pub fn live_keys(&self) -> usize {
        self.state.read().index.live_keys()
    }

    /// Number of keys in the index, deleted but not compacted ones included.
    pub fn indexed_keys(&self) -> usize {
        self.state.read().index.known_keys()
    }

    /// Bytes held by the nodes of the index, an estimate from below.
    pub fn index_memory(&self) -> usize {
        self.state.read().index.memory()
    }
}

/// Reads all records once, in order of their revisions.
fn restore(backend: &Backend) -> Result<(State, Restored), ReadError> {
    let view = backend.view();
    let compacted = schema::finished_compact_revision(&view)?.unwrap_or(-1);
    let scheduled = schema::scheduled_compact_revision(&view)?.unwrap_or(0);
    let mut index = Index::default();
    let mut attached: Vec<(Bytes, LeaseId, Revision)> = Vec::new();
    let mut last = 1;
    for item in view.records(Revision::default(), Revision::new(i64::MAX, i64::MAX))? {
        let (RecordKey { revision, tombstone }, value) = item?;
        if revision.main <= 0 || !(0..=MAX_SUB).contains(&revision.sub) {
            return Err(ReadError::ImpossibleRevision { revision });
        }
        let fields = record::parse(&value).map_err(|source| ReadError::Malformed { revision, source })?;
        let stamp = match tombstone {
            true => Stamp::tombstone(revision),
            false => Stamp::put(revision, fields.lease != 0),
        };
        index.restore(fields.key, stamp, fields.create_revision, fields.version);
        if !tombstone && fields.lease != 0 {
            attached.push((Bytes::copy_from_slice(fields.key), LeaseId(fields.lease), revision));
        }
        last = revision.main;
    }
    // Only the newest record of a key decides about its lease.
    attached.retain(|(key, _, revision)| {
        index.entry(key).is_some_and(|entry| entry.last().revision() == *revision)
    });
    let current = last.max(compacted).max(scheduled);
    // Upstream never resumes a compaction at 0, which drops nothing.
    let unfinished = scheduled > compacted.max(0);
    let resume_compaction = unfinished.then(|| CompactionJob::new(scheduled, compacted, false, 0));
    let compacted = if unfinished { scheduled } else { compacted };
    let attachments = attached.into_iter().map(|(key, lease, _)| (key, lease)).collect();
    Ok((
        State { index, current, compacted, epoch: 0, uncommitted: Vec::new() },
        Restored { attachments, resume_compaction },
    ))
}
