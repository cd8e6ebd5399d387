//! The key index: which record holds which key at which revision.
//!
//! In memory only, rebuilt at start from the `key` bucket. Reading at a revision ignores what is
//! newer, so a writer may add records of a transaction that is not yet visible.
//!
//! Owner: [`crate::Store`], behind its lock.

mod entry;
mod keys;
mod tree;

use std::ops::ControlFlow;

use types::{KeyRange, Revision};

pub(crate) use entry::{Entry, Found, MAX_SUB, Stamp};
use tree::{Keep, Tree};

/// The smallest key a client can name. The empty key may be in the index (see [`crate::record`]) but
/// is in no range.
const FIRST_KEY: &[u8] = b"\0";

/// The index.
#[derive(Debug, Default)]
pub(crate) struct Index {
    tree: Tree,
}

/// What a put did to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Indexed {
    pub(crate) created: i64,
    pub(crate) version: i64,
    /// The record before, if the key existed.
    pub(crate) previous: Option<Stamp>,
}

/// Progress of pruning the index, leaf by leaf.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pruning {
    next: Vec<u8>,
    /// Some key keeps a record at or below the compaction revision.
    pub(crate) kept_any: bool,
}

impl Index {
    /// Number of keys that exist now.
    pub(crate) fn live_keys(&self) -> usize {
        self.tree.live()
    }

    /// Number of keys of `range` that exist now, in time that hardly depends on how many there are.
    pub(crate) fn count_live(&self, range: &KeyRange) -> usize {
        let start: &[u8] = range.start();
        let from = start.max(FIRST_KEY);
        match range {
            KeyRange::Single(key) => usize::from(!key.is_empty() && self.get(key, i64::MAX).is_some()),
            KeyRange::Span(_, end) => self.tree.count_live(from, Some(end)),
            KeyRange::From(_) => self.tree.count_live(from, None),
        }
    }

    /// Number of keys with any record.
    pub(crate) fn known_keys(&self) -> usize {
        self.tree.len()
    }

    /// Bytes of memory held by the tree, without histories of keys with several records.
    pub(crate) fn memory(&self) -> usize {
        self.tree.memory()
    }

    pub(crate) fn entry(&self, key: &[u8]) -> Option<&Entry> {
        self.tree.get(key)
    }

    /// The key as of `at`.
    pub(crate) fn get(&self, key: &[u8], at: i64) -> Option<Found> {
        self.tree.get(key)?.at(at)
    }

    /// Adds a put at `revision`.
    pub(crate) fn put(&mut self, key: &[u8], revision: Revision, leased: bool) -> Indexed {
        let stamp = Stamp::put(revision, leased);
        self.tree.upsert(key, |entry| match entry {
            None => {
                (Indexed { created: revision.main, version: 1, previous: None }, Some(Entry::created(stamp)))
            }
            Some(entry) => {
                let last = entry.last();
                let (created, version) = entry.put(stamp);
                (Indexed { created, version, previous: Some(last).filter(|last| !last.is_tombstone()) }, None)
            }
        })
    }

    /// Adds a tombstone at `revision`. Returns the record it ends, `None` if the key does not exist.
    pub(crate) fn tombstone(&mut self, key: &[u8], revision: Revision) -> Option<Stamp> {
        self.tree.update(key, |entry| {
            let last = entry.last();
            (entry.tombstone(Stamp::tombstone(revision)).then_some(last), Keep::Yes)
        })?
    }

    /// Takes back the newest record of a key.
    pub(crate) fn undo(&mut self, key: &[u8], revision: Revision) {
        self.tree.update(key, |entry| ((), if entry.undo(revision) { Keep::No } else { Keep::Yes }));
    }

    /// Adds a record found in the store; records come in order of their revisions. `created` and
    /// `version` count only if the key is not known yet.
    pub(crate) fn restore(&mut self, key: &[u8], stamp: Stamp, created: i64, version: i64) {
        self.tree.upsert(key, |entry| match entry {
            None => ((), Some(Entry::restored(stamp, created, version))),
            Some(entry) => {
                if stamp.is_tombstone() {
                    entry.tombstone(stamp);
                } else {
                    entry.put(stamp);
                }
                ((), None)
            }
        });
    }

    /// Visits the keys of `range`, from key `from` on if given, with what they were at `at`; `None` for those that
    /// did not exist then. A single key is visited whatever `from` is.
    pub(crate) fn walk<B>(
        &self,
        range: &KeyRange,
        from: Option<&[u8]>,
        at: i64,
        mut visit: impl FnMut(&[u8], Option<Found>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        if let KeyRange::Single(key) = range {
            return visit(key, self.get(key, at).filter(|_| !key.is_empty()));
        }
        let end: Option<&[u8]> = match range {
            KeyRange::Span(_, end) => Some(end),
            _ => None,
        };
        let start = from.unwrap_or(range.start()).max(FIRST_KEY);
        let result = self.tree.walk(start, |key, entry| {
            if end.is_some_and(|end| key >= end) {
                return ControlFlow::Break(None);
            }
            visit(key, entry.at(at)).map_break(Some)
        });
        match result {
            ControlFlow::Break(Some(result)) => ControlFlow::Break(result),
            _ => ControlFlow::Continue(()),
        }
    }

    /// Drops what a compaction at `at` drops, for the next leaf. Returns whether that was the last.
    pub(crate) fn prune(&mut self, at: i64, pruning: &mut Pruning) -> bool {
        let kept_any = &mut pruning.kept_any;
        let next = self.tree.retain_leaf(&pruning.next, |entry| {
            let compacted = entry.compact(at);
            *kept_any |= compacted.kept;
            if compacted.empty { Keep::No } else { Keep::Yes }
        });
        match next {
            Some(next) => {
                pruning.next = next;
                false
            }
            None => true,
        }
    }

    /// Looks, from key `from` on and through up to `limit` keys, for a record that a hash at `at`
    /// keeps. `Break(true)`: found; `Break(false)`: there is none; otherwise where to go on.
    pub(crate) fn keeps_any_for_hash(
        &self,
        from: &[u8],
        at: i64,
        limit: usize,
    ) -> ControlFlow<bool, Vec<u8>> {
        let mut seen = 0;
        let end = self.tree.walk(from, |key, entry| {
            seen += 1;
            match entry.kept_for_hash(at) {
                Some(_) => ControlFlow::Break(None),
                None if seen == limit => ControlFlow::Break(Some([key, b"\0"].concat())),
                None => ControlFlow::Continue(()),
            }
        });
        match end {
            ControlFlow::Continue(()) => ControlFlow::Break(false),
            ControlFlow::Break(None) => ControlFlow::Break(true),
            ControlFlow::Break(Some(next)) => ControlFlow::Continue(next),
        }
    }
}
