//! Sets of keys that a user may read or write.
//!
//! Invariant: the intervals are sorted, not empty, and neither touch nor overlap, so a range is
//! covered exactly if one interval covers it, and finding that one is a binary search.
//!
//! **Source**: etcd `server/auth/range_perm_cache.go`: a single key needs an interval around it, a
//! range may be covered by several that overlap or touch.

use bytes::Bytes;

use crate::record::Permission;

/// Where an interval ends. Above every key if `None`.
type End = Option<Bytes>;

/// A set of keys, as intervals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    intervals: Vec<(Bytes, End)>,
}

impl RangeSet {
    /// The union of the keys of these permissions, whatever they allow.
    ///
    /// A stored permission without a key (early releases let that pass) covers nothing.
    pub fn of<'a>(permissions: impl IntoIterator<Item = &'a Permission>) -> Self {
        let mut intervals: Vec<(Bytes, End)> = permissions
            .into_iter()
            .map(|permission| (permission.key.clone(), end_of(&permission.key, &permission.range_end)))
            .filter(|(start, end)| !start.is_empty() && end.as_ref().is_none_or(|end| start < end))
            .collect();
        intervals.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        let mut joined: Vec<(Bytes, End)> = Vec::with_capacity(intervals.len());
        for (start, end) in intervals {
            match joined.last_mut() {
                Some((_, last)) if last.as_ref().is_none_or(|last| start <= *last) => {
                    if is_above(&end, last) {
                        *last = end;
                    }
                }
                _ => joined.push((start, end)),
            }
        }
        Self { intervals: joined }
    }

    /// Whether every key of a range in wire form is in the set. A range that holds no key, because
    /// it ends before it begins, counts as its first key.
    pub fn covers(&self, key: &[u8], range_end: &[u8]) -> bool {
        if key.is_empty() {
            return false;
        }
        // The last interval that begins at or before the key.
        let behind = self.intervals.partition_point(|(start, _)| &start[..] <= key);
        let Some((_, end)) = behind.checked_sub(1).and_then(|at| self.intervals.get(at)) else {
            return false;
        };
        let Some(end) = end else { return true };
        match range_end {
            [0] => false,
            range_end if range_end > key => range_end <= &end[..],
            // A single key, or an empty range.
            _ => key < &end[..],
        }
    }
}

fn end_of(key: &Bytes, range_end: &Bytes) -> End {
    match &range_end[..] {
        [] => Some(Bytes::from([&key[..], b"\0"].concat())),
        [0] => None,
        _ => Some(range_end.clone()),
    }
}

fn is_above(left: &End, right: &End) -> bool {
    match (left, right) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(left), Some(right)) => left > right,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::PermissionKind;

    fn permission(key: &[u8], range_end: &[u8]) -> Permission {
        Permission {
            kind: PermissionKind::Read,
            key: Bytes::copy_from_slice(key),
            range_end: Bytes::copy_from_slice(range_end),
        }
    }

    fn set(ranges: &[(&str, &str)]) -> RangeSet {
        let permissions: Vec<_> =
            ranges.iter().map(|(key, end)| permission(key.as_bytes(), end.as_bytes())).collect();
        RangeSet::of(&permissions)
    }

    #[test]
    fn intervals_that_touch_cover_together() {
        let joined = set(&[("c", "e"), ("a", "c")]);
        assert!(joined.covers(b"a", b"e") && joined.covers(b"b", b"d"));
        assert!(!joined.covers(b"a", b"f") && !joined.covers(b"e", b""));
        let gap = set(&[("a", "b"), ("c", "d")]);
        assert!(!gap.covers(b"a", b"d") && gap.covers(b"c", b"d"));
        // One key and the range right behind it.
        assert!(set(&[("a", ""), ("a\0", "c")]).covers(b"a", b"c"));
    }

    /// A watch or range to the end of all keys needs a permission without an end. 3.5 looked only
    /// at its first key.
    #[test]
    fn an_open_range_needs_an_open_permission() {
        for closed in [set(&[("a", "")]), set(&[("a", "z")]), set(&[("a", "\u{10ffff}")])] {
            assert!(!closed.covers(b"a", b"\0"));
        }
        assert!(set(&[("a", "\0")]).covers(b"a", b"\0"));
        assert!(!set(&[("b", "\0")]).covers(b"a", b"\0"));
        assert!(set(&[("\0", "\0")]).covers(b"\0", b"\0"));
    }

    #[test]
    fn nothing_is_not_covered_by_anything() {
        assert!(!RangeSet::default().covers(b"a", b""));
        assert!(!set(&[("", "\0"), ("", "")]).covers(b"a", b""));
        assert!(!set(&[("\0", "\0")]).covers(b"", b""));
        // An empty range: nothing is read, its first key decides.
        assert!(set(&[("b", "c")]).covers(b"b", b"a"));
        assert!(!set(&[("b", "c")]).covers(b"c", b"a"));
    }

    const LETTERS: u8 = 6;

    /// Keys of one or two letters out of few, so that ends meet often.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0..LETTERS, 1..=2)
    }

    fn end() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![2 => Just(vec![]), 1 => Just(vec![0]), 4 => key()]
    }

    /// Whether one wire range holds a key, straight from the words of the protocol.
    fn holds(key: &[u8], range_end: &[u8], probe: &[u8]) -> bool {
        match range_end {
            [] => probe == key,
            [0] => probe >= key,
            _ => probe >= key && probe < range_end,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Against the naive model: every key of a small universe, one by one. Keys of three
        /// letters stand for what lies between the ends, `ff` for what lies behind all of them.
        #[test]
        fn a_range_is_covered_if_each_of_its_keys_is(
            granted in prop::collection::vec((key(), end()), 0..6),
            (key, range_end) in (key(), end()),
        ) {
            let permissions: Vec<_> = granted.iter().map(|(key, end)| permission(key, end)).collect();
            let set = RangeSet::of(&permissions);
            let mut universe = vec![vec![0xff]];
            for first in 0..LETTERS {
                universe.push(vec![first]);
                for second in 0..LETTERS {
                    universe.push(vec![first, second]);
                    universe.extend((0..2).map(|third| vec![first, second, third]));
                }
            }
            let wanted: Vec<_> = universe.iter().filter(|probe| holds(&key, &range_end, probe)).collect();
            let allowed = |probe: &[u8]| granted.iter().any(|(key, end)| holds(key, end, probe));
            let expected = if wanted.is_empty() { allowed(&key) } else { wanted.iter().all(|probe| allowed(probe)) };
            prop_assert_eq!(set.covers(&key, &range_end), expected);
        }
    }
}
