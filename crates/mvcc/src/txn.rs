//! The write transaction.
//!
//! All its changes share the main revision after the current one; subs count them. They go into the
//! index at once, where only the transaction itself looks for them, and into the backend with the
//! commit, which then publishes the revision. Dropped without a commit, it takes them back.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use backend::{View, WriteSet};
use bytes::Bytes;
use parking_lot::MutexGuard;
use types::{BytesArena, KeyRange, LeaseId, RecordKey, Revision};

use crate::event::{Event, RevisionEvents};
use crate::index::Stamp;
use crate::range::{RangeQuery, RangeResult, Source, range_in_txn};
use crate::record::{self, RecordFields};
use crate::store::{Counters, KeyMeta, ReadError, Store};

/// Deletions done under one lock.
const DELETE_CHUNK: usize = 256;

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// Main revision of the transaction.
    pub revision: i64,
    /// The lease that the key had before; 0 if none. The caller detaches it if it differs from the
    /// new one, and attaches that.
    pub previous_lease: LeaseId,
    /// The key did not exist before.
    pub created: bool,
}

/// A key that was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedKey {
    /// The key.
    pub key: Bytes,
    /// The lease that it had; 0 if none. The caller detaches it.
    pub lease: LeaseId,
}

/// What a committed transaction left behind.
#[derive(Clone, Debug)]
pub struct TxnOutcome {
    /// Current revision of the store after the transaction.
    pub revision: i64,
    /// Its events; `None` if it changed nothing.
    pub events: Option<Arc<RevisionEvents>>,
}

/// The transaction. There is one at a time; on the server only the apply thread opens it.
pub struct WriteTxn<'s> {
    store: &'s Store,
    /// Memory for records; locked as long as the transaction lives.
    arena: MutexGuard<'s, BytesArena>,
    /// Current revision at the beginning.
    begin: i64,
    view: Arc<View>,
    records: Vec<(RecordKey, Bytes)>,
    events: Vec<Event>,
    done: Done,
}

/// Operations of one transaction, added to the store's counters at its end.
#[derive(Default)]
struct Done {
    ranges: Cell<u64>,
    puts: u64,
    put_bytes: u64,
    deletes: u64,
}

impl Done {
    fn add_to(&self, counters: &Counters) {
        let ranges = self.ranges.get();
        for (counter, count) in [
            (&counters.ranges, ranges),
            (&counters.puts, self.puts),
            (&counters.put_bytes, self.put_bytes),
            (&counters.deletes, self.deletes),
            (&counters.txns, u64::from(ranges + self.puts + self.deletes > 1)),
        ] {
            if count > 0 {
                counter.fetch_add(count, Relaxed);
            }
        }
    }
}

impl Store {
    /// Begins a transaction; waits for the one before.
    pub fn write(&self) -> WriteTxn<'_> {
        let arena = self.writer.lock();
        let begin = self.state.read().current;
        let view = self.backend.view();
        WriteTxn {
            store: self,
            arena,
            begin,
            view,
            records: Vec::new(),
            events: Vec::new(),
            done: Done::default(),
        }
    }
}

impl WriteTxn<'_> {
    /// The newest revision that reads of this transaction see: its own once it changed something.
    pub fn revision(&self) -> i64 {
        self.begin + i64::from(!self.records.is_empty())
    }

    fn next(&self) -> Revision {
        Revision::new(self.begin + 1, self.records.len() as i64)
    }

    fn source(&self) -> Result<Source<'_>, ReadError> {
        Source::new(&self.view, &self.records)
    }

    /// Creates or overwrites a key.
    ///
    /// The value is taken as it is; whether `lease` exists is for the caller to check. Fails only if
    /// the previous record, asked for its lease, is damaged; then nothing has changed.
    pub fn put(&mut self, key: Bytes, value: Bytes, lease: LeaseId) -> Result<Put, ReadError> {
        let revision = self.next();
        let mut state = self.store.state.write();
        let indexed = state.index.put(&key, revision, lease.0 != 0);
        let created = indexed.previous.is_none();
        if created {
            state.uncommitted.push((key.clone(), 1));
        }
        drop(state);
        let previous_lease = self.lease_of(indexed.previous).inspect_err(|_| {
            // Only a record that exists has a lease, so nothing was created.
            self.store.state.write().index.undo(&key, revision);
        })?;
        self.done.puts += 1;
        self.done.put_bytes += (key.len() + value.len()) as u64;
        let fields = RecordFields {
            key: &key,
            create_revision: indexed.created,
            mod_revision: revision.main,
            version: indexed.version,
            value: &value,
            lease: lease.0,
        };
        let record = record::encode_in(&mut self.arena, &fields);
        self.records.push((RecordKey::put(revision), record.clone()));
        self.events.push(Event::put(revision, key, record, created));
        Ok(Put { revision: revision.main, previous_lease, created })
    }

    /// Deletes all keys of a range that exist. Returns them in key order.
    pub fn delete_range(&mut self, range: &KeyRange) -> Result<Vec<DeletedKey>, ReadError> {
        self.done.deletes += 1;
        let at = self.revision();
        let mut deleted = Vec::new();
        let mut from: Option<Vec<u8>> = None;
        loop {
            let (keys, next) = self.existing_keys(range, from.as_deref(), at);
            self.delete_keys(keys, &mut deleted)?;
            match next {
                Some(next) => from = Some(next),
                None => return Ok(deleted),
            }
        }
    }

    /// Up to [`DELETE_CHUNK`] keys of the range, and where to go on.
    fn existing_keys(&self, range: &KeyRange, from: Option<&[u8]>, at: i64) -> (Vec<Bytes>, Option<Vec<u8>>) {
        let mut keys = Vec::new();
        let end = self.store.state.read().index.walk(range, from, at, |key, found| {
            if found.is_none() {
                return ControlFlow::Continue(());
            }
            keys.push(Bytes::copy_from_slice(key));
            match keys.len() {
                DELETE_CHUNK => ControlFlow::Break([key, b"\0"].concat()),
                _ => ControlFlow::Continue(()),
            }
        });
        (keys, end.break_value())
    }

    fn delete_keys(&mut self, keys: Vec<Bytes>, deleted: &mut Vec<DeletedKey>) -> Result<(), ReadError> {
        let mut ended = Vec::with_capacity(keys.len());
        let mut state = self.store.state.write();
        for key in keys {
            let revision = self.next();
            // A key changed twice in this transaction may be gone already.
            let Some(stamp) = state.index.tombstone(&key, revision) else { continue };
            state.uncommitted.push((key.clone(), -1));
            let record = record::encode_tombstone_in(&mut self.arena, &key);
            self.records.push((RecordKey::tombstone(revision), record));
            self.events.push(Event::delete(revision, key.clone()));
            ended.push((key, stamp));
        }
        drop(state);
        for (key, stamp) in ended {
            deleted.push(DeletedKey { key, lease: self.lease_of(Some(stamp))? });
        }
        Ok(())
    }

    fn lease_of(&self, previous: Option<Stamp>) -> Result<LeaseId, ReadError> {
        match previous.filter(|stamp| stamp.is_leased()) {
            Some(stamp) => Ok(LeaseId(self.source()?.lease(stamp.revision())?)),
            None => Ok(LeaseId(0)),
        }
    }

    /// Reads a range; sees what this transaction changed.
    pub fn range(&self, query: &RangeQuery) -> Result<RangeResult, ReadError> {
        self.done.ranges.set(self.done.ranges.get() + 1);
        range_in_txn(&self.store.state.read(), query, self.revision(), &self.source()?)
    }

    /// What the index knows of a key as this transaction sees it.
    pub fn meta(&self, key: &[u8]) -> Option<KeyMeta> {
        self.store.meta(key, self.revision())
    }

    /// The compaction point of the store; -1 if there never was one.
    pub fn compacted_revision(&self) -> i64 {
        self.store.compacted_revision()
    }

    /// The raw record of a key as this transaction sees it.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let found = self.store.state.read().index.get(key, self.revision());
        let Some(found) = found else { return Ok(None) };
        self.source()?.record(found.modified).map(|record| Some(record.into_bytes()))
    }

    /// Hands the changes to the backend together with `set`, which carries the log position and
    /// changes of other buckets, and publishes the revision. Does not wait for the disk.
    ///
    /// # Panics
    /// If `set` brings records of its own.
    pub fn commit(mut self, mut set: WriteSet) -> TxnOutcome {
        assert!(set.records.is_empty(), "records come from the transaction");
        set.records = std::mem::take(&mut self.records);
        let events = std::mem::take(&mut self.events);
        let changed = !set.records.is_empty();
        let revision = self.begin + i64::from(changed);
        self.store.backend.append(set);
        if !changed {
            return TxnOutcome { revision, events: None };
        }
        let mut state = self.store.state.write();
        state.current = revision;
        state.forget_uncommitted();
        drop(state);
        TxnOutcome { revision, events: Some(Arc::new(RevisionEvents { main: revision, events })) }
    }
}

impl Drop for WriteTxn<'_> {
    fn drop(&mut self) {
        self.done.add_to(&self.store.counters);
        if self.events.is_empty() {
            return;
        }
        let mut state = self.store.state.write();
        for event in self.events.drain(..).rev() {
            state.index.undo(&event.key, event.revision);
        }
        state.forget_uncommitted();
    }
}
