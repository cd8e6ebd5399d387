//! Compaction: forgetting what no reader at or above a revision can ask for.
//!
//! [`Store::compact`] moves the compaction point, from then on reads below it are refused. The rest
//! is done in bounded steps by [`Store::compaction_step`], which the driver spreads over time:
//!
//! ```text
//! prune index, a few leaves per lock  →  scan records 0..=R, 1000 per step, delete what the pruned
//! index does not know  →  last step: finishedCompactRev, hash into the cache
//! ```
//! There is no set of records to keep: a record stays if and only if the pruned index contains it.
//! The driver commits the backend after each step, so that waiting deletions stay few, and runs
//! jobs one after the other in the order of their creation.
//!
//! After a crash scheduledCompactRev is above finishedCompactRev and [`crate::Restored`] carries a
//! job that begins again; what was deleted already is simply not found.
//!
//! **Source**: etcd `server/storage/mvcc/kvstore_compaction.go`.

use backend::{Change, WriteSet, schema};
use types::Revision;

use crate::hash::{HashKv, Hasher};
use crate::index::Pruning;
use crate::record;
use crate::store::{ReadError, Store};

/// Leaves of the index pruned under one lock.
const LEAVES_PER_LOCK: usize = 4;
/// Locks taken for pruning in one step.
const LOCKS_PER_STEP: usize = 16;
/// Records looked up under one lock.
const LOOKUPS_PER_LOCK: usize = 32;
/// Records scanned in one step, as upstream's default batch.
const DEFAULT_BATCH: usize = 1000;

/// An accepted compaction.
#[derive(Debug)]
pub struct CompactionTicket {
    /// Goes into the write set of the log entry that asked for the compaction.
    pub change: Change,
    /// The physical work.
    pub job: CompactionJob,
}

/// Physical work of one compaction, and how far it is.
#[derive(Clone, Debug)]
pub struct CompactionJob {
    revision: i64,
    previous: i64,
    /// The compaction before was complete, so that the hash covers all since then.
    store_hash: bool,
    pub(crate) epoch: u64,
    batch: usize,
    pruning: Pruning,
    pruned: bool,
    next: Revision,
    hasher: Hasher,
    deleted: usize,
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Nothing is left to do.
    pub finished: bool,
    /// Records deleted by this step.
    pub deleted: usize,
    /// Whether something waits for a commit of the backend.
    pub commit: bool,
}

impl CompactionJob {
    /// Whether the index is done, and only records are left.
    pub fn is_index_done(&self) -> bool {
        self.pruned
    }

    pub(crate) fn new(revision: i64, previous: i64, store_hash: bool, epoch: u64) -> Self {
        Self {
            revision,
            previous,
            store_hash,
            epoch,
            batch: DEFAULT_BATCH,
            pruning: Pruning::default(),
            pruned: false,
            next: Revision::default(),
            hasher: Hasher::new(previous, revision),
            deleted: 0,
        }
    }

    /// The compaction revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Records deleted so far.
    pub fn deleted(&self) -> usize {
        self.deleted
    }

    /// Sets the number of records per step (`--compaction-batch-limit`).
    #[must_use]
    pub fn with_batch(mut self, records: usize) -> Self {
        self.batch = records.max(1);
        self
    }
}

impl Store {
    /// Moves the compaction point to `revision`: reads below it are refused from now on.
    pub fn compact(&self, revision: i64) -> Result<CompactionTicket, ReadError> {
        let view = self.backend.view();
        let scheduled = schema::scheduled_compact_revision(&view)?;
        let finished = schema::finished_compact_revision(&view)?;
        let mut state = self.state.write();
        if revision <= state.compacted {
            return Err(ReadError::Compacted);
        }
        if revision > state.current {
            return Err(ReadError::FutureRevision { revision, current: state.current });
        }
        let previous = std::mem::replace(&mut state.compacted, revision);
        let job = CompactionJob::new(revision, previous, scheduled == finished, state.epoch);
        Ok(CompactionTicket { change: schema::set_scheduled_compact_revision(revision), job })
    }

    /// Does the next part of a job. Safe from any thread, next to readers and the writer.
    pub fn compaction_step(&self, job: &mut CompactionJob) -> Result<Step, ReadError> {
        if !job.pruned {
            for _ in 0..LOCKS_PER_STEP {
                let mut state = self.state.write();
                if state.epoch != job.epoch {
                    return Ok(Step { finished: true, deleted: 0, commit: false });
                }
                job.pruned = (0..LEAVES_PER_LOCK).any(|_| state.index.prune(job.revision, &mut job.pruning));
                drop(state);
                if job.pruned {
                    job.hasher.keep_is_empty = !job.pruning.kept_any;
                    break;
                }
            }
            return Ok(Step { finished: false, deleted: 0, commit: false });
        }
        self.scan_step(job)
    }

    fn scan_step(&self, job: &mut CompactionJob) -> Result<Step, ReadError> {
        let view = self.backend.view();
        let mut set = WriteSet::default();
        let mut scanned = 0;
        let mut records = view.records(job.next, Revision::new(job.revision, i64::MAX))?;
        while scanned < job.batch {
            let limit = LOOKUPS_PER_LOCK.min(job.batch - scanned);
            let batch = records.by_ref().take(limit).collect::<Result<Vec<_>, _>>()?;
            let state = self.state.read();
            if state.epoch != job.epoch {
                return Ok(Step { finished: true, deleted: 0, commit: false });
            }
            for (key, value) in &batch {
                let malformed = |source| ReadError::Malformed { revision: key.revision, source };
                let entry = state.index.entry(record::key_of(value).map_err(malformed)?);
                let kept = entry.and_then(|entry| entry.kept_by_compaction(job.revision));
                job.hasher.feed(*key, value, kept.is_some_and(|kept| kept.revision() == key.revision));
                if !entry.is_some_and(|entry| entry.contains(key.revision)) {
                    set.record_deletes.push(*key);
                }
                job.next = Revision::new(key.revision.main, key.revision.sub + 1);
            }
            drop(state);
            scanned += batch.len();
            if batch.len() < limit {
                break;
            }
        }
        let finished = scanned < job.batch;
        let deleted = set.record_deletes.len();
        job.deleted += deleted;
        if finished {
            set.changes.push(schema::set_finished_compact_revision(job.revision));
        }
        let commit = set.operations() > 0;
        self.backend.append(set);
        if finished && job.store_hash {
            self.store_hash(HashKv {
                hash: job.hasher.finish(),
                compact_revision: job.previous,
                hash_revision: job.revision,
                current_revision: 0,
            });
        }
        Ok(Step { finished, deleted, commit })
    }
}
