//! A queue of (time, lease) pairs whose owner says which entries are still meant.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Nanoseconds of the caller's monotonic time. Ends at [`NEVER`], some 584 years.
pub(crate) type Nanos = u64;

/// The time that does not come.
pub(crate) const NEVER: Nanos = Nanos::MAX;

/// Min-heap by time, then id. Entries are never changed or removed from inside: the owner keeps
/// beside each lease the time of its one live entry and ignores all others that come up.
#[derive(Debug, Default)]
pub(crate) struct TimeQueue {
    heap: BinaryHeap<Reverse<(Nanos, i64)>>,
}

impl TimeQueue {
    pub(crate) fn push(&mut self, at: Nanos, id: i64) {
        self.heap.push(Reverse((at, id)));
    }

    /// Takes out the first entry if its time has come.
    pub(crate) fn pop_due(&mut self, now: Nanos) -> Option<(Nanos, i64)> {
        let due = self.heap.peek().is_some_and(|Reverse((at, _))| *at <= now);
        if due { self.heap.pop().map(|Reverse(entry)| entry) } else { None }
    }

    /// Time of the first entry, dead ones included.
    pub(crate) fn first(&self) -> Option<Nanos> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Replaces everything by `entries`.
    pub(crate) fn rebuild(&mut self, entries: impl Iterator<Item = (Nanos, i64)>) {
        self.heap = entries.map(Reverse).collect::<Vec<_>>().into();
    }
}
