//! Finds the watchers of a key.
//!
//! Three ways, by what is watched:
//! - one key: a hash map;
//! - a prefix of a length that many watchers use: a hash map per such length, asked once per
//!   event each, so only the most used lengths have one ([`CLASSES`]);
//! - all other ranges, rare prefixes too: the interval tree.

use std::collections::HashMap;

use bytes::Bytes;
use types::KeyRange;

use super::interval::IntervalSet;

/// Lengths of prefixes that have a hash map of their own at most.
const CLASSES: usize = 4;
/// Watchers of one prefix length that are worth a hash map.
const CLASS_FROM: usize = 256;

/// Numbers of watchers; most keys have one.
#[derive(Debug)]
pub(crate) enum Members {
    One(u32),
    Many(Vec<u32>),
}

impl Members {
    pub(crate) fn push(&mut self, member: u32) {
        match self {
            Self::One(only) => *self = Self::Many(vec![*only, member]),
            Self::Many(all) => all.push(member),
        }
    }

    /// Takes a member out; returns whether nobody is left.
    pub(crate) fn remove(&mut self, member: u32) -> bool {
        match self {
            Self::One(only) => *only == member,
            Self::Many(all) => {
                if let Some(at) = all.iter().position(|other| *other == member) {
                    all.swap_remove(at);
                }
                all.is_empty()
            }
        }
    }

    pub(crate) fn append_to(&self, found: &mut Vec<u32>) {
        match self {
            Self::One(only) => found.push(*only),
            Self::Many(all) => found.extend_from_slice(all),
        }
    }
}

/// All ranges that are watched, with the numbers of their watchers.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    keys: Table,
    classes: Vec<(usize, Table)>,
    ranges: IntervalSet,
    /// Watchers of prefixes in `ranges`, by length.
    prefixes: HashMap<usize, usize>,
}

/// Watchers by key or prefix.
#[derive(Debug, Default)]
struct Table(HashMap<Bytes, Members>);

impl Table {
    fn insert(&mut self, key: &Bytes, watcher: u32) {
        match self.0.get_mut(key) {
            Some(members) => members.push(watcher),
            None => drop(self.0.insert(key.clone(), Members::One(watcher))),
        }
    }

    fn remove(&mut self, key: &Bytes, watcher: u32) {
        if self.0.get_mut(key).is_some_and(|members| members.remove(watcher)) {
            self.0.remove(key);
        }
    }

    fn find(&self, key: &[u8], found: &mut Vec<u32>) {
        if let Some(members) = self.0.get(key) {
            members.append_to(found);
        }
    }
}

impl Matcher {
    pub(crate) fn insert(&mut self, range: &KeyRange, watcher: u32) {
        let (start, end) = match range {
            KeyRange::Single(key) => return self.keys.insert(key, watcher),
            KeyRange::Span(start, end) => (start, Some(end)),
            KeyRange::From(start) => (start, None),
        };
        if is_prefix(start, end.map(|end| &end[..])) {
            if let Some(class) = self.class(start.len()) {
                return class.insert(start, watcher);
            }
            let count = self.prefixes.entry(start.len()).or_default();
            *count += 1;
            if *count >= CLASS_FROM && self.classes.len() < CLASSES {
                self.open_class(start.len());
                return self.insert(range, watcher);
            }
        }
        self.ranges.insert(start, end, watcher);
    }

    pub(crate) fn remove(&mut self, range: &KeyRange, watcher: u32) {
        let (start, end) = match range {
            KeyRange::Single(key) => return self.keys.remove(key, watcher),
            KeyRange::Span(start, end) => (start, Some(end)),
            KeyRange::From(start) => (start, None),
        };
        if is_prefix(start, end.map(|end| &end[..])) {
            if let Some(class) = self.class(start.len()) {
                class.remove(start, watcher);
                self.classes.retain(|(_, class)| !class.0.is_empty());
                return;
            }
            if let Some(count) = self.prefixes.get_mut(&start.len()) {
                *count -= 1;
                if *count == 0 {
                    self.prefixes.remove(&start.len());
                }
            }
        }
        self.ranges.remove(start, end, watcher);
    }

    /// Replaces `found` by the watchers of `key`, each once.
    pub(crate) fn find(&self, key: &[u8], found: &mut Vec<u32>) {
        found.clear();
        self.keys.find(key, found);
        for (len, class) in &self.classes {
            if let Some(prefix) = key.get(..*len) {
                class.find(prefix, found);
            }
        }
        self.ranges.stab(key, found);
    }

    fn class(&mut self, len: usize) -> Option<&mut Table> {
        self.classes.iter_mut().find(|(of, _)| *of == len).map(|(_, class)| class)
    }

    /// Moves all prefixes of a length from the tree into a hash map.
    fn open_class(&mut self, len: usize) {
        let moved = self.ranges.extract(|start, end| start.len() == len && is_prefix(start, end));
        let class = moved.into_iter().map(|(start, _, members)| (start, members)).collect();
        self.classes.push((len, Table(class)));
        self.prefixes.remove(&len);
    }
}

/// Whether a range is just the keys that begin with `start`: its end is the start with the last
/// byte raised by one.
fn is_prefix(start: &[u8], end: Option<&[u8]>) -> bool {
    match (start.split_last(), end.and_then(<[u8]>::split_last)) {
        (Some((last, head)), Some((end_last, end_head))) => {
            head == end_head && last.checked_add(1) == Some(*end_last)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(number: usize) -> KeyRange {
        let start = format!("ns-{number:04}/");
        let end = format!("ns-{number:04}0");
        KeyRange::Span(start.into(), end.into())
    }

    #[test]
    fn prefixes_are_told_from_ranges() {
        assert!(is_prefix(b"a/", Some(b"a0")));
        assert!(!is_prefix(b"a/", Some(b"a1")));
        assert!(!is_prefix(b"a/", Some(b"a/0")));
        assert!(!is_prefix(b"\xff", Some(b"")));
        assert!(!is_prefix(b"", None));
    }

    /// Through the threshold and back, everybody is found once.
    #[test]
    fn classes_come_and_go() {
        let mut matcher = Matcher::default();
        let watched = 3 * CLASS_FROM;
        let found = |matcher: &Matcher, number: usize| {
            let mut found = vec![99];
            matcher.find(format!("ns-{number:04}/pod").as_bytes(), &mut found);
            found.sort_unstable();
            found
        };
        matcher.insert(&KeyRange::Span("ns".into(), "nu".into()), 5_000);
        for number in 0..watched {
            matcher.insert(&prefix(number / 2), number as u32);
            let mut expected = vec![number as u32, 5_000];
            expected.splice(..0, (number % 2 == 1).then(|| number as u32 - 1));
            assert_eq!(found(&matcher, number / 2), expected);
        }
        assert_eq!(matcher.classes.len(), 1);
        for number in 0..watched {
            matcher.remove(&prefix(number / 2), number as u32);
            let mut expected = vec![5_000];
            expected.splice(..0, (number % 2 == 0).then_some(number as u32 + 1));
            assert_eq!(found(&matcher, number / 2), expected);
        }
        assert!(matcher.classes.is_empty() && matcher.prefixes.is_empty());
        matcher.remove(&KeyRange::Span("ns".into(), "nu".into()), 5_000);
        assert_eq!(found(&matcher, 0), []);
    }

    /// Past the last class, further lengths stay in the tree.
    #[test]
    fn there_are_few_classes() {
        let mut matcher = Matcher::default();
        for len in 1..10 {
            for number in 0..CLASS_FROM + 10 {
                let start = format!("{number:05}{}/", "x".repeat(len));
                let end = format!("{number:05}{}0", "x".repeat(len));
                matcher.insert(&KeyRange::Span(start.into(), end.into()), (len * 1000 + number) as u32);
            }
        }
        assert_eq!(matcher.classes.len(), CLASSES);
        for len in 1..10 {
            let mut found = Vec::new();
            matcher.find(format!("00007{}/k", "x".repeat(len)).as_bytes(), &mut found);
            assert_eq!(found, [len as u32 * 1000 + 7]);
        }
    }
}
