//! Which pages may be written: the free ones, and those that wait until no reader needs them.
//!
//! A page that transaction `f` replaced is *pending*: the states before `f` still show it. It was
//! allocated by some transaction `a`, so exactly the readers of the states `a..f` can see it; it
//! becomes free as soon as none of them is open. (bbolt gives the same pages back: those older
//! than every reader, and those that came and went between two readers.)
//!
//! Free pages are kept as maximal runs, by position and by length, so that the cost of taking
//! and giving back pages grows with the logarithm of the number of runs. Single pages are taken
//! from the lowest run, one run at a time, which keeps what one commit writes together; longer
//! ones from the shortest run that has room.
//!
//! Nothing of this needs to survive a crash: pending is implied by "not reachable".
//!
//! Source: bbolt `internal/freelist`, `db.go` (`freePages`).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::format::{PageId, TxId};

/// A run of pages: the first one and how many.
pub(crate) type Span = (PageId, u64);

/// Free and pending pages. Owned by the writer.
#[derive(Default)]
pub(crate) struct Freelist {
    /// Runs by first page; no two touch.
    runs: BTreeMap<PageId, u64>,
    /// The same runs as (length, first page).
    by_length: BTreeSet<(u64, PageId)>,
    /// The run from which single pages are being taken; not in `runs`.
    current: Span,
    free_count: u64,
    pending: Vec<Pending>,
    pending_count: u64,
    /// The transaction that allocated a span, by its first page; those not listed are older than
    /// every open reader.
    allocated_by: HashMap<PageId, TxId>,
}

/// The spans that one transaction replaced.
struct Pending {
    freed_by: TxId,
    /// Each with the transaction that allocated it, 0 if that is long ago.
    spans: Vec<(TxId, Span)>,
    /// Whether the spans were held against the readers already; only a reader that ends can
    /// change the outcome afterwards.
    examined: bool,
}

impl Freelist {
    /// A list with these free runs.
    pub(crate) fn new(spans: impl Iterator<Item = Span>) -> Self {
        let mut list = Self::default();
        for (start, count) in spans {
            list.give(start, count);
        }
        list
    }

    /// Number of free pages.
    pub(crate) fn free_count(&self) -> u64 {
        self.free_count
    }

    /// Number of pages that wait for readers.
    pub(crate) fn pending_count(&self) -> u64 {
        self.pending_count
    }

    /// Takes `count` contiguous pages; `None` if there is no such run.
    pub(crate) fn take(&mut self, count: u64) -> Option<PageId> {
        if count == 1 {
            return self.take_one();
        }
        self.put_back_current();
        let (length, start) = *self.by_length.range((count, 0)..).next()?;
        self.remove_run(start, length);
        if length > count {
            self.insert_run(start + count, length - count);
        }
        self.free_count -= count;
        Some(start)
    }

    fn take_one(&mut self) -> Option<PageId> {
        if self.current.1 == 0 {
            let (start, length) = self.runs.first_key_value().map(|(start, length)| (*start, *length))?;
            self.remove_run(start, length);
            self.current = (start, length);
        }
        let page = self.current.0;
        self.current = (page + 1, self.current.1 - 1);
        self.free_count -= 1;
        Some(page)
    }

    /// Makes pages free.
    ///
    /// # Panics
    /// If one of them is free already.
    pub(crate) fn give(&mut self, start: PageId, count: u64) {
        self.put_back_current();
        self.free_count += count;
        self.merge_run(start, count);
    }

    fn merge_run(&mut self, mut start: PageId, mut count: u64) {
        let after = self.runs.range(start..).next().map(|(start, length)| (*start, *length));
        if let Some((next, length)) = after {
            assert!(next >= start + count, "page {next} is freed twice");
            if next == start + count {
                self.remove_run(next, length);
                count += length;
            }
        }
        let before = self.runs.range(..start).next_back().map(|(start, length)| (*start, *length));
        if let Some((previous, length)) = before {
            assert!(previous + length <= start, "page {start} is freed twice");
            if previous + length == start {
                self.remove_run(previous, length);
                start = previous;
                count += length;
            }
        }
        self.insert_run(start, count);
    }

    fn put_back_current(&mut self) {
        let (start, count) = std::mem::take(&mut self.current);
        if count > 0 {
            self.merge_run(start, count);
        }
    }

    fn insert_run(&mut self, start: PageId, length: u64) {
        self.runs.insert(start, length);
        self.by_length.insert((length, start));
    }

    fn remove_run(&mut self, start: PageId, length: u64) {
        self.runs.remove(&start);
        self.by_length.remove(&(length, start));
    }

    /// Notes what transaction `txid` replaced (`freed`) and allocated.
    ///
    /// `watched`: a reader of a state before `txid` is open. Without one it does not matter when
    /// a page was allocated, as every later reader sees all of them.
    pub(crate) fn commit(&mut self, txid: TxId, freed: Vec<Span>, allocated: &[Span], watched: bool) {
        self.pending_count += freed.iter().map(|(_, count)| count).sum::<u64>();
        let spans: Vec<_> =
            freed.into_iter().map(|span| (self.allocated_by.remove(&span.0).unwrap_or(0), span)).collect();
        if !spans.is_empty() {
            self.pending.push(Pending { freed_by: txid, spans, examined: false });
        }
        if watched {
            self.allocated_by.extend(allocated.iter().map(|(start, _)| (*start, txid)));
        } else {
            self.allocated_by.clear();
        }
    }

    /// Frees the pending pages that none of the open readers (ascending) can see.
    /// `readers_ended`: one of them ended since the last call.
    pub(crate) fn release(&mut self, readers: &[TxId], readers_ended: bool) {
        for mut pending in std::mem::take(&mut self.pending) {
            if !pending.examined || readers_ended {
                pending.examined = true;
                let freed_by = pending.freed_by;
                let (kept, released): (Vec<_>, Vec<_>) = std::mem::take(&mut pending.spans)
                    .into_iter()
                    .partition(|(allocated_by, _)| is_visible(readers, *allocated_by, freed_by));
                for (_, (start, count)) in released {
                    self.pending_count -= count;
                    self.give(start, count);
                }
                pending.spans = kept;
            }
            if !pending.spans.is_empty() {
                self.pending.push(pending);
            }
        }
    }

    /// All free and pending pages, ascending: what a persisted list holds.
    pub(crate) fn all_ids(&self, freed: &[Span]) -> Vec<PageId> {
        let pending = self.pending.iter().flat_map(|pending| pending.spans.iter().map(|(_, span)| *span));
        let free = self.runs.iter().map(|(start, length)| (*start, *length)).chain([self.current]);
        let spans = free.chain(pending).chain(freed.iter().copied());
        let mut ids: Vec<PageId> = spans.flat_map(|(start, count)| start..start + count).collect();
        ids.sort_unstable();
        ids
    }
}

/// Whether one of the readers sees a state in `allocated_by..freed_by`.
fn is_visible(readers: &[TxId], allocated_by: TxId, freed_by: TxId) -> bool {
    let first = readers.partition_point(|reader| *reader < allocated_by);
    readers.get(first).is_some_and(|reader| *reader < freed_by)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_merge_and_the_shortest_fitting_one_is_taken() {
        let mut list = Freelist::new([(10, 3), (20, 5), (40, 2)].into_iter());
        assert_eq!(list.take(2), Some(40));
        assert_eq!(list.take(4), Some(20));
        assert_eq!(list.take(4), None);
        list.give(23, 1);
        list.give(21, 2);
        list.give(20, 1);
        assert_eq!(list.take(5), Some(20));
        assert_eq!(
            [list.take(1), list.take(1), list.take(1), list.take(1)],
            [Some(10), Some(11), Some(12), None]
        );
        assert_eq!(list.free_count(), 0);
    }

    #[test]
    fn a_partly_used_run_takes_part_in_merges() {
        let mut list = Freelist::new([(10, 10)].into_iter());
        assert_eq!(list.take(1), Some(10));
        list.give(10, 1);
        assert_eq!(list.take(10), Some(10));
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn freeing_twice_is_a_bug() {
        let mut list = Freelist::new([(10, 10)].into_iter());
        list.give(12, 1);
    }

    #[test]
    fn pages_wait_for_the_readers_that_see_them() {
        let mut list = Freelist::default();
        // Page 7 is there from of old and replaced by 5; page 8 comes in 4 and goes in 6.
        list.commit(4, vec![], &[(8, 1)], true);
        list.commit(5, vec![(7, 1)], &[], true);
        list.commit(6, vec![(8, 1)], &[], true);
        list.release(&[3, 6], false);
        assert_eq!((list.take(1), list.take(1)), (Some(8), None), "8 came and went between 3 and 6");
        list.release(&[6], false);
        assert_eq!(list.take(1), None, "nobody said that a reader ended");
        list.release(&[6], true);
        assert_eq!(list.take(1), Some(7));
        assert_eq!(list.pending_count(), 0);
    }

    #[test]
    fn many_runs_stay_fast() {
        let mut list = Freelist::new((0..100_000).map(|index| (index * 3, 2)));
        for _ in 0..100_000 {
            assert!(list.take(3).is_none());
            assert!(list.take(2).is_some());
        }
        assert_eq!(list.free_count(), 0);
    }
}
