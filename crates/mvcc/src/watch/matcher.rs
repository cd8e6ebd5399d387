//! Finds the watchers of a key.

use std::collections::HashMap;

use bytes::Bytes;
use types::KeyRange;

use super::interval::IntervalSet;

/// All ranges that are watched, with the numbers of their watchers.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    keys: HashMap<Bytes, Vec<u32>>,
    ranges: IntervalSet,
}

impl Matcher {
    pub(crate) fn insert(&mut self, range: &KeyRange, watcher: u32) {
        match range {
            KeyRange::Single(key) => self.keys.entry(key.clone()).or_default().push(watcher),
            KeyRange::Span(start, end) => self.ranges.insert(start, Some(end), watcher),
            KeyRange::From(start) => self.ranges.insert(start, None, watcher),
        }
    }

    pub(crate) fn remove(&mut self, range: &KeyRange, watcher: u32) {
        match range {
            KeyRange::Single(key) => {
                let Some(watchers) = self.keys.get_mut(key) else { return };
                if let Some(at) = watchers.iter().position(|other| *other == watcher) {
                    watchers.swap_remove(at);
                }
                if watchers.is_empty() {
                    self.keys.remove(key);
                }
            }
            KeyRange::Span(start, end) => self.ranges.remove(start, Some(end), watcher),
            KeyRange::From(start) => self.ranges.remove(start, None, watcher),
        }
    }

    /// Replaces `found` by the watchers of `key`, each once.
    pub(crate) fn find(&self, key: &[u8], found: &mut Vec<u32>) {
        found.clear();
        if let Some(watchers) = self.keys.get(key) {
            found.extend_from_slice(watchers);
        }
        self.ranges.stab(key, found);
    }
}
