//! A sorted row of byte strings, packed.
//!
//! ```text
//! bytes: common prefix | rest of key 0 | rest of key 1 | ...
//! slots: per key: first four bytes of its rest as a big-endian number, padded with zeros (upper
//!        half) | end of its rest in `bytes` (lower half)
//! ```
//!
//! The prefix that all keys share is stored once. A search goes through the slots, eight to a cache
//! line, and looks at bytes only where the upper halves are equal. The prefix is chosen when a row
//! is split or joined; a new key that does not have it shortens it.

use std::ops::Range;

/// Room added when a row must grow: rows are many, so slack counts.
const GROW_KEYS: usize = 16;
const GROW_BYTES: usize = 256;

/// The row.
#[derive(Clone, Debug, Default)]
pub(super) struct PackedKeys {
    slots: Vec<u64>,
    bytes: Vec<u8>,
    prefix_len: usize,
}

impl PackedKeys {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn prefix(&self) -> &[u8] {
        &self.bytes[..self.prefix_len]
    }

    /// The key at `position` without the prefix.
    pub(super) fn rest(&self, position: usize) -> &[u8] {
        &self.bytes[self.start(position)..end_of(self.slots[position])]
    }

    pub(super) fn key(&self, position: usize) -> Vec<u8> {
        [self.prefix(), self.rest(position)].concat()
    }

    fn start(&self, position: usize) -> usize {
        match position {
            0 => self.prefix_len,
            _ => end_of(self.slots[position - 1]),
        }
    }

    /// Position of `key`, or where it would be inserted.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let prefix = self.prefix();
        if !key.starts_with(prefix) {
            return Err(if key < prefix { 0 } else { self.len() });
        }
        let rest = &key[prefix.len()..];
        let (first, last) = (slot(head_of(rest), 0), slot(head_of(rest), u32::MAX as usize));
        // Not a binary search: its loads wait for one another, these go out together, and a row
        // is rarely in the cache.
        let mut low = self.slots.iter().map(|slot| usize::from(*slot < first)).sum();
        let mut high = low;
        while high < self.len() && self.slots[high] <= last {
            high += 1;
        }
        while low < high {
            let middle = low + (high - low) / 2;
            match self.rest(middle).cmp(rest) {
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    pub(super) fn insert(&mut self, position: usize, key: &[u8]) {
        let shared = common_prefix(self.prefix(), key);
        if shared < self.prefix_len {
            *self = self.with_prefix(0..self.len(), shared);
        }
        let rest = &key[self.prefix_len..];
        let (at, old_len) = (self.start(position), self.bytes.len());
        reserve(&mut self.bytes, rest.len(), GROW_BYTES);
        self.bytes.resize(old_len + rest.len(), 0);
        self.bytes.copy_within(at..old_len, at + rest.len());
        self.bytes[at..at + rest.len()].copy_from_slice(rest);
        assert!(self.bytes.len() <= u32::MAX as usize, "a row stays below 4 GiB");
        reserve(&mut self.slots, 1, GROW_KEYS);
        self.slots.insert(position, slot(head_of(rest), at));
        // Ends are the lower halves and stay below 2^32, so they can be moved in place.
        self.slots[position..].iter_mut().for_each(|slot| *slot += rest.len() as u64);
    }

    pub(super) fn remove(&mut self, position: usize) {
        let (from, to) = (self.start(position), end_of(self.slots[position]));
        self.bytes.drain(from..to);
        self.slots.remove(position);
        self.slots[position..].iter_mut().for_each(|slot| *slot -= (to - from) as u64);
    }

    /// Cuts the row: keys from `position` on leave. Both parts get the longest prefix.
    pub(super) fn split_off(&mut self, position: usize) -> PackedKeys {
        assert!(0 < position && position < self.len());
        // A single key would be all prefix; what it shares with its neighbour is a better guess.
        let last = self.len() - 1;
        let first = if position == last { position - 1 } else { position };
        let right = self.with_prefix(position..self.len(), self.shared(first, last));
        *self = self.with_prefix(0..position, self.shared(0, position - 1));
        right
    }

    /// Puts `others` behind this row.
    pub(super) fn append(&mut self, other: &PackedKeys) {
        if self.len() == 0 {
            *self = other.clone();
            return;
        }
        if other.len() == 0 {
            return;
        }
        let shared = common_prefix(self.prefix(), other.prefix());
        let mut joined = self.with_prefix(0..self.len(), shared);
        let moved = other.with_prefix(0..other.len(), shared);
        let shift = (joined.bytes.len() - shared) as u64;
        joined.bytes.extend_from_slice(&moved.bytes[shared..]);
        joined.slots.extend(moved.slots.iter().map(|slot| slot + shift));
        *self = joined;
    }

    /// Length of what the keys at two positions share, prefix included.
    fn shared(&self, first: usize, last: usize) -> usize {
        if first == last {
            return self.prefix_len;
        }
        self.prefix_len + common_prefix(self.rest(first), self.rest(last))
    }

    /// A copy of some keys with another prefix, which they must have.
    fn with_prefix(&self, range: Range<usize>, prefix_len: usize) -> PackedKeys {
        let mut copy = PackedKeys { prefix_len, ..PackedKeys::default() };
        let Some(first) = range.clone().next() else {
            copy.bytes.extend_from_slice(&self.bytes[..prefix_len]);
            return copy;
        };
        let rest_bytes = end_of(self.slots[range.end - 1]) - self.start(first);
        let total = prefix_len + rest_bytes + range.len() * self.prefix_len - range.len() * prefix_len;
        copy.bytes.reserve_exact(total + GROW_BYTES);
        copy.slots.reserve_exact(range.len() + GROW_KEYS);
        // More prefix comes from the first key, less goes in front of every key.
        let taken = prefix_len.saturating_sub(self.prefix_len);
        let given = &self.bytes[prefix_len.min(self.prefix_len)..self.prefix_len];
        copy.bytes.extend_from_slice(&self.bytes[..prefix_len.min(self.prefix_len)]);
        copy.bytes.extend_from_slice(&self.rest(first)[..taken]);
        for position in range {
            let begin = copy.bytes.len();
            copy.bytes.extend_from_slice(given);
            copy.bytes.extend_from_slice(&self.rest(position)[taken..]);
            copy.slots.push(slot(head_of(&copy.bytes[begin..]), copy.bytes.len()));
        }
        copy
    }

    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity() + 8 * self.slots.capacity()
    }
}

fn reserve<T>(row: &mut Vec<T>, needed: usize, grow: usize) {
    if row.capacity() - row.len() < needed {
        row.reserve_exact(needed.max(grow));
    }
}

fn slot(head: u32, end: usize) -> u64 {
    u64::from(head) << 32 | end as u64
}

fn end_of(slot: u64) -> usize {
    slot as u32 as usize
}

fn head_of(rest: &[u8]) -> u32 {
    match rest.first_chunk() {
        Some(head) => u32::from_be_bytes(*head),
        None => rest.iter().enumerate().fold(0, |head, (at, byte)| head | u32::from(*byte) << (24 - 8 * at)),
    }
}

/// Number of leading bytes that two strings share.
pub(super) fn common_prefix(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(keys: &PackedKeys) -> Vec<Vec<u8>> {
        (0..keys.len()).map(|position| keys.key(position)).collect()
    }

    proptest! {
        #[test]
        fn behaves_like_a_sorted_vec(
            operations in prop::collection::vec((0u8..10, "[ab\\x00]{0,7}", any::<prop::sample::Index>()), 1..60),
        ) {
            let mut model: Vec<Vec<u8>> = Vec::new();
            let mut keys = PackedKeys::default();
            for (kind, key, index) in operations {
                let key = key.into_bytes();
                prop_assert_eq!(keys.search(&key), model.binary_search(&key));
                match (kind, model.binary_search(&key)) {
                    (0..6, Err(position)) => {
                        keys.insert(position, &key);
                        model.insert(position, key);
                    }
                    (6..8, Ok(position)) => {
                        keys.remove(position);
                        model.remove(position);
                    }
                    (8, _) if model.len() > 1 => {
                        let cut = 1 + index.index(model.len() - 1);
                        let right = keys.split_off(cut);
                        prop_assert_eq!(all(&right), &model[cut..]);
                        prop_assert_eq!(all(&keys), &model[..cut]);
                        keys.append(&right);
                    }
                    (9, _) if model.len() > 1 => {
                        let cut = 1 + index.index(model.len() - 1);
                        let right = keys.split_off(cut);
                        (keys, model) = if index.index(2) == 0 { (right, model.split_off(cut)) } else {
                            model.truncate(cut);
                            (keys, model)
                        };
                    }
                    _ => {}
                }
                prop_assert_eq!(all(&keys), &model[..]);
            }
        }
    }
}
