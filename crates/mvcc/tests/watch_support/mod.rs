//! A store that is nothing but its history.

// Each test binary uses another part of this.
#![allow(dead_code)]

use std::sync::Arc;
use std::sync::Mutex;

use bytes::Bytes;
use mvcc::watch::{Batch, History, HistoryError};
use mvcc::{Event, EventKind, RevisionEvents};
use prost::Message;
use proto::mvccpb;
use types::Revision;

/// The history. Revision 1 is the empty store; `revisions[0]` is revision 2.
#[derive(Default)]
pub struct Past {
    inner: Mutex<Inner>,
}

struct Inner {
    revisions: Vec<Arc<RevisionEvents>>,
    first_revision: i64,
    compacted: i64,
    unreadable: bool,
}

impl Default for Inner {
    fn default() -> Self {
        Self { revisions: Vec::new(), first_revision: 2, compacted: -1, unreadable: false }
    }
}

/// A change to make: a key, and a value unless it is deleted.
pub type Change<'a> = (&'a str, Option<&'a str>);

impl Past {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Commits one revision.
    pub fn write(&self, changes: &[Change<'_>]) -> Arc<RevisionEvents> {
        let mut inner = self.inner.lock().unwrap();
        let main = inner.first_revision + inner.revisions.len() as i64;
        let mut events: Vec<Event> = Vec::new();
        for (sub, (key, value)) in changes.iter().enumerate() {
            let (key, revision) = (Bytes::copy_from_slice(key.as_bytes()), Revision::new(main, sub as i64));
            events.push(match value {
                None => Event::delete(revision, key),
                Some(value) => {
                    let previous =
                        inner.record_at(&key, main - 1).map(|kv| mvccpb::KeyValue::decode(kv).unwrap());
                    let kv = mvccpb::KeyValue {
                        key: key.clone(),
                        value: Bytes::copy_from_slice(value.as_bytes()),
                        mod_revision: main,
                        create_revision: previous.as_ref().map_or(main, |kv| kv.create_revision),
                        version: previous.as_ref().map_or(1, |kv| kv.version + 1),
                        lease: 0,
                    };
                    Event::put(revision, key, kv.encode_to_vec().into(), previous.is_none())
                }
            });
        }
        let events = Arc::new(RevisionEvents { main, events });
        inner.revisions.push(events.clone());
        events
    }

    pub fn put(&self, key: &str, value: &str) -> Arc<RevisionEvents> {
        self.write(&[(key, Some(value))])
    }

    pub fn compact(&self, revision: i64) {
        self.inner.lock().unwrap().compacted = revision;
    }

    pub fn set_unreadable(&self, unreadable: bool) {
        self.inner.lock().unwrap().unreadable = unreadable;
    }

    /// Replaces the store by one whose history begins at `revision`, as a received snapshot does.
    pub fn replace(&self, revision: i64) {
        let mut inner = self.inner.lock().unwrap();
        *inner = Inner { first_revision: revision + 1, compacted: revision, ..Inner::default() };
    }

    /// All revisions, compacted ones too.
    pub fn all(&self) -> Vec<Arc<RevisionEvents>> {
        self.inner.lock().unwrap().revisions.clone()
    }

    /// The key's record at a revision, compacted or not.
    pub fn true_record_at(&self, key: &[u8], revision: i64) -> Option<Bytes> {
        self.inner.lock().unwrap().record_at(key, revision)
    }
}

impl Inner {
    fn record_at(&self, key: &[u8], revision: i64) -> Option<Bytes> {
        let mut events =
            self.revisions.iter().filter(|events| events.main <= revision).flat_map(|events| &events.events);
        let last = events.rfind(|event| event.key == key)?;
        (last.kind == EventKind::Put).then(|| last.record.clone())
    }
}

impl History for Past {
    fn current_revision(&self) -> i64 {
        let inner = self.inner.lock().unwrap();
        inner.first_revision - 1 + inner.revisions.len() as i64
    }

    fn compacted_revision(&self) -> i64 {
        self.inner.lock().unwrap().compacted
    }

    fn changes(
        &self,
        from: i64,
        to: i64,
        max_revisions: usize,
    ) -> Result<Vec<Arc<RevisionEvents>>, HistoryError> {
        let inner = self.inner.lock().unwrap();
        if inner.unreadable {
            return Err(HistoryError::Unreadable("the disk is gone".into()));
        }
        if from < inner.compacted {
            return Err(HistoryError::Compacted);
        }
        let wanted = inner.revisions.iter().filter(|events| (from..=to).contains(&events.main));
        // As read from disk: with nothing encoded yet.
        let fresh = |events: &Arc<RevisionEvents>| {
            let again = events.events.iter().map(|event| match event.kind {
                EventKind::Put => {
                    Event::put(event.revision, event.key.clone(), event.record.clone(), event.created)
                }
                EventKind::Delete => Event::delete(event.revision, event.key.clone()),
            });
            Arc::new(RevisionEvents { main: events.main, events: again.collect() })
        };
        Ok(wanted.take(max_revisions).map(fresh).collect())
    }

    fn record_at(&self, key: &[u8], revision: i64) -> Option<Bytes> {
        let inner = self.inner.lock().unwrap();
        (revision >= inner.compacted).then(|| inner.record_at(key, revision))?
    }
}

/// The events of a batch, both ways: as one message and entry by entry.
pub fn decode(batch: &Batch) -> Vec<mvccpb::Event> {
    let whole = proto::etcdserverpb::WatchResponse::decode(batch.encoded().clone()).unwrap().events;
    let parts: Vec<_> = batch
        .entries()
        .flat_map(|entry| proto::etcdserverpb::WatchResponse::decode(entry).unwrap().events)
        .collect();
    assert_eq!(whole, parts);
    assert_eq!(whole.len(), batch.len());
    whole
}
