//! Changes on their way to the file.
//!
//! The active segment takes what is appended; sealed, it is written into bolt in one transaction
//! and then forgotten by all but the readers that still hold it. A segment only grows, so a reader
//! that holds it never loses a record.
//!
//! Records ascend by revision inside a segment and from one segment to the next: a reader that
//! looks into bolt, the sealed and the active segment in this order sees them sorted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard};
use types::{LogPosition, RecordKey, Revision};

use crate::BucketId;

/// One change of a bucket other than `key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The bucket.
    pub bucket: BucketId,
    /// The key.
    pub key: Bytes,
    /// The new value; `None` deletes the key.
    pub value: Option<Bytes>,
}

impl Change {
    /// Sets a key.
    pub fn put(bucket: BucketId, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { bucket, key: key.into(), value: Some(value.into()) }
    }

    /// Deletes a key.
    pub fn delete(bucket: BucketId, key: impl Into<Bytes>) -> Self {
        Self { bucket, key: key.into(), value: None }
    }
}

/// Changes that belong together: they reach the file in one transaction or not at all.
#[derive(Clone, Debug, Default)]
pub struct WriteSet {
    /// New records, ascending and newer than all before.
    pub records: Vec<(RecordKey, Bytes)>,
    /// Changes of the other buckets, in order.
    pub changes: Vec<Change>,
    /// Records that a compaction removes. Readers see them until the commit.
    pub record_deletes: Vec<RecordKey>,
    /// The log entry whose effects these are. Every entry has one, also if it changes nothing else.
    pub applied: Option<LogPosition>,
    /// The new value of `meta/confState`.
    pub conf_state: Option<Bytes>,
}

impl WriteSet {
    /// Number of operations on the file, without consistent index and conf state.
    pub fn operations(&self) -> usize {
        self.records.len() + self.changes.len() + self.record_deletes.len()
    }
}

#[derive(Debug, Default)]
pub(crate) struct SegmentData {
    pub(crate) records: Vec<(RecordKey, Bytes)>,
    pub(crate) changes: BTreeMap<(BucketId, Bytes), Option<Bytes>>,
    pub(crate) record_deletes: Vec<RecordKey>,
    pub(crate) applied: Option<LogPosition>,
    pub(crate) conf_state: Option<Bytes>,
    pub(crate) operations: usize,
}

impl SegmentData {
    pub(crate) fn is_empty(&self) -> bool {
        self.operations == 0 && self.applied.is_none() && self.conf_state.is_none()
    }

    /// Position of the first record that is not below `revision`.
    fn position_of(&self, revision: Revision) -> usize {
        // Most transactions write one record, so the distance of revisions is the distance in the row.
        if let Some((first, _)) = self.records.first() {
            let guess = revision.main.saturating_sub(first.revision.main) as usize;
            if let Some((key, _)) = self.records.get(guess)
                && key.revision == revision
            {
                return guess;
            }
        }
        self.records.partition_point(|(key, _)| key.revision < revision)
    }
}

#[derive(Debug)]
pub(crate) struct Segment {
    data: RwLock<SegmentData>,
    /// Main revision of the first record, the maximum while there is none.
    first_main: AtomicI64,
}

impl Default for Segment {
    fn default() -> Self {
        Self { data: RwLock::default(), first_main: AtomicI64::new(i64::MAX) }
    }
}

impl Segment {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, SegmentData> {
        self.data.read()
    }

    /// Takes a set over. Returns the number of operations that now wait.
    pub(crate) fn append(&self, set: WriteSet, applied: Option<LogPosition>) -> usize {
        let mut data = self.data.write();
        data.operations += set.operations();
        if let Some((first, _)) = set.records.first() {
            match data.records.last() {
                Some((last, _)) => {
                    assert!(last < first, "record {} behind {}", first.revision, last.revision)
                }
                None => self.first_main.store(first.revision.main, Ordering::Release),
            }
        }
        assert!(set.records.is_sorted_by(|(left, _), (right, _)| left < right), "records out of order");
        data.records.extend(set.records);
        for Change { bucket, key, value } in set.changes {
            assert!(bucket != BucketId::Key, "records go into `records`");
            data.changes.insert((bucket, key), value);
        }
        data.record_deletes.extend(set.record_deletes);
        data.applied = applied.or(data.applied);
        data.conf_state = set.conf_state.or(data.conf_state.take());
        data.operations
    }

    /// Whether records from this revision on may be here.
    fn may_hold(&self, revision: Revision) -> bool {
        revision.main >= self.first_main.load(Ordering::Acquire)
    }

    pub(crate) fn record(&self, key: RecordKey) -> Option<Bytes> {
        if !self.may_hold(key.revision) {
            return None;
        }
        let data = self.data.read();
        let (found, value) = data.records.get(data.position_of(key.revision))?;
        (*found == key).then(|| value.clone())
    }

    /// Up to `limit` records of `from..=to`.
    pub(crate) fn records(&self, from: Revision, to: Revision, limit: usize) -> Vec<(RecordKey, Bytes)> {
        if !self.may_hold(to) {
            return Vec::new();
        }
        let data = self.data.read();
        let rest = data.records[data.position_of(from)..].iter();
        rest.take_while(|(key, _)| key.revision <= to).take(limit).cloned().collect()
    }

    pub(crate) fn get(&self, bucket: BucketId, key: &Bytes) -> Option<Option<Bytes>> {
        let data = self.data.read();
        if data.changes.is_empty() {
            return None;
        }
        data.changes.get(&(bucket, key.clone())).cloned()
    }

    /// All changes of a bucket, sorted by key.
    pub(crate) fn changes_of(&self, bucket: BucketId) -> Vec<(Bytes, Option<Bytes>)> {
        let data = self.data.read();
        let from = data.changes.range((bucket, Bytes::new())..);
        from.take_while(|((other, _), _)| *other == bucket)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect()
    }
}
