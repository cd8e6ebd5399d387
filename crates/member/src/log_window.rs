//! How much of the applied log stays in memory.
//!
//! Followers that are a little behind are served from it; those far behind get a snapshot. What is
//! kept is bounded by entries, as upstream's is, and by bytes, as upstream's is not: 5,000 entries
//! of the largest size would take 7 GiB. After a restart the log comes from the disk, so a cut
//! here needs no snapshot there.
//!
//! While a follower receives a snapshot, more is kept: it must find the entries behind that snapshot
//! when it has it, or it would need the next one.

use std::collections::VecDeque;

use types::Entry;

/// How much larger the window may grow while a snapshot is under way.
const HELD_FACTOR: u64 = 4;

/// Policy of cutting the log in memory.
#[derive(Clone, Debug)]
pub struct LogWindow {
    catch_up_entries: u64,
    step_entries: u64,
    max_bytes: u64,
    /// Payload bytes of the entries from `first` on.
    sizes: VecDeque<u32>,
    first: u64,
    bytes: u64,
}

impl LogWindow {
    /// Keeps `catch_up_entries` applied entries (`--snapshot-catchup-entries`) or `max_bytes` of
    /// payload, whichever is less, and cuts when at least `step_entries` go at once.
    pub fn new(catch_up_entries: u64, step_entries: u64, max_bytes: u64) -> Self {
        Self { catch_up_entries, step_entries, max_bytes, sizes: VecDeque::new(), first: 0, bytes: 0 }
    }

    /// Takes note of entries appended to the log; a lower index than before overwrites the tail.
    pub fn appended(&mut self, entries: &[Entry]) {
        for entry in entries {
            if self.sizes.is_empty() || entry.index < self.first {
                self.sizes.clear();
                self.bytes = 0;
                self.first = entry.index;
            }
            while self.first + self.sizes.len() as u64 > entry.index {
                self.bytes -= self.sizes.pop_back().map_or(0, u64::from);
            }
            let size = u32::try_from(entry.data.len()).unwrap_or(u32::MAX);
            self.sizes.push_back(size);
            self.bytes += u64::from(size);
        }
    }

    /// A snapshot took the place of the log: what was held is gone.
    pub fn clear(&mut self) {
        self.sizes.clear();
        self.bytes = 0;
    }

    /// The index up to which the log may be forgotten now, if that is worth doing. `is_held` is asked
    /// whether a follower receives a snapshot.
    pub fn cut(&mut self, applied: u64, is_held: impl FnOnce() -> bool) -> Option<u64> {
        let mut last_gone = applied.saturating_sub(self.catch_up_entries);
        let mut max_bytes = self.max_bytes;
        let worth_it = last_gone + 1 >= self.first + self.step_entries;
        if !worth_it && self.bytes <= max_bytes {
            return None;
        }
        if is_held() {
            (last_gone, max_bytes) = (0, max_bytes * HELD_FACTOR);
        }
        let before = self.first;
        while self.first <= last_gone || (self.bytes > max_bytes && self.first <= applied) {
            let Some(size) = self.sizes.pop_front() else { break };
            self.bytes -= u64::from(size);
            self.first += 1;
        }
        (self.first > before).then(|| self.first - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(indexes: std::ops::RangeInclusive<u64>, bytes: usize) -> Vec<Entry> {
        indexes.map(|index| Entry { index, data: vec![0; bytes].into(), ..Entry::default() }).collect()
    }

    #[test]
    fn cuts_behind_the_window() {
        let mut window = LogWindow::new(10, 5, 1 << 20);
        window.appended(&entries(1..=100, 8));
        assert_eq!(window.cut(13, || false), None, "three entries are not worth a cut");
        assert_eq!(window.cut(50, || false), Some(40));
        assert_eq!(window.cut(50, || false), None);
    }

    #[test]
    fn a_snapshot_under_way_keeps_what_comes_behind_it() {
        let mut window = LogWindow::new(10, 5, 400);
        window.appended(&entries(1..=100, 8));
        assert_eq!(window.cut(90, || true), None);
        window.appended(&entries(101..=300, 8));
        assert_eq!(window.cut(300, || true), Some(100), "up to four times the bytes");
        assert_eq!(window.cut(300, || false), Some(290));
    }

    #[test]
    fn large_entries_are_cut_earlier_but_never_before_they_are_applied() {
        let mut window = LogWindow::new(1000, 5, 100);
        window.appended(&entries(1..=10, 50));
        assert_eq!(window.cut(4, || false), Some(4));
        assert_eq!(window.cut(10, || false), Some(8));
    }

    #[test]
    fn an_overwritten_tail_is_counted_once() {
        let mut window = LogWindow::new(0, 1, 1 << 20);
        window.appended(&entries(1..=10, 50));
        window.appended(&entries(6..=7, 1));
        assert_eq!((window.bytes, window.sizes.len()), (252, 7));
    }
}
