//! A B+tree from keys to entries, built for little memory per key.
//!
//! Leaves hold up to [`LEAF_KEYS`] keys in a packed row and their entries beside it; inner nodes
//! hold separators in the same kind of row. A separator is above every key of the child before it
//! and not above any key of the child behind it; it need not be a key of the tree.
//!
//! Walks resume from a key, so that a caller can let go of the tree between chunks. Keys appended
//! at the end of a leaf leave full leaves behind; nodes that deletions have left mostly empty join
//! a neighbour.

use std::ops::ControlFlow;

use super::entry::Entry;
use super::keys::{PackedKeys, common_prefix};

const LEAF_KEYS: usize = 64;
const INNER_KEYS: usize = 64;
/// A node with fewer keys looks for a neighbour to join, if both fit in three quarters of a node.
const SMALL: usize = 16;
/// Room added when a leaf must grow.
const GROW_ENTRIES: usize = 16;

/// Leaves stand in their parent's row of children: one miss less on the way to a key.
#[derive(Debug)]
enum Node {
    Leaf(Leaf),
    Inner(Box<Inner>),
}

#[derive(Debug, Default)]
struct Leaf {
    keys: PackedKeys,
    entries: Vec<Entry>,
    /// Number of entries that are live.
    live: u32,
}

#[derive(Debug, Default)]
struct Inner {
    separators: PackedKeys,
    /// One more than separators.
    children: Vec<Node>,
    /// Number of live entries below.
    live: usize,
}

/// A node that was split: what goes into the parent.
struct Split {
    separator: Vec<u8>,
    right: Node,
}

/// What [`Node::upsert`] did: the caller's result, whether a key was added, by how much the number of
/// live entries changed, and a split.
struct Upserted<R> {
    result: R,
    grown: bool,
    live: isize,
    split: Option<Split>,
}

/// Entries that [`Tree::retain_leaf`] removed.
#[derive(Clone, Copy, Debug, Default)]
struct Dropped {
    keys: usize,
    live: usize,
}

/// The tree.
#[derive(Debug)]
pub(super) struct Tree {
    root: Node,
    len: usize,
}

impl Default for Tree {
    fn default() -> Self {
        Self { root: Node::Leaf(Leaf::default()), len: 0 }
    }
}

impl Tree {
    /// Number of keys.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Number of keys that are live.
    pub(super) fn live(&self) -> usize {
        self.root.live()
    }

    /// Number of live keys in `from..end`, in time that hardly depends on how many there are.
    pub(super) fn count_live(&self, from: &[u8], end: Option<&[u8]>) -> usize {
        if end.is_some_and(|end| end <= from) {
            return 0;
        }
        self.root.count_live(Some(from), end)
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Entry> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(leaf) => {
                    return leaf.keys.search(key).ok().map(|position| &leaf.entries[position]);
                }
                Node::Inner(inner) => node = &inner.children[inner.child_of(key)],
            }
        }
    }

    /// Changes the entry of `key`, or inserts what `update` returns if there is none.
    pub(super) fn upsert<R>(
        &mut self,
        key: &[u8],
        update: impl FnOnce(Option<&mut Entry>) -> (R, Option<Entry>),
    ) -> R {
        let Upserted { result, grown, split, .. } = self.root.upsert(key, update);
        self.len += usize::from(grown);
        if let Some(Split { separator, right }) = split {
            let left = std::mem::replace(&mut self.root, Node::Leaf(Leaf::default()));
            let live = left.live() + right.live();
            let mut root = Inner { children: vec![left, right], live, ..Inner::default() };
            root.separators.insert(0, &separator);
            self.root = Node::Inner(Box::new(root));
        }
        result
    }

    /// Changes the entry of `key` if there is one; drops the key if `update` says so.
    pub(super) fn update<R>(
        &mut self,
        key: &[u8],
        update: impl FnOnce(&mut Entry) -> (R, Keep),
    ) -> Option<R> {
        let (result, kept, _) = self.root.update(key, update)?;
        if kept == Keep::No {
            self.len -= 1;
            self.collapse();
        }
        Some(result)
    }

    /// Visits keys from `from` on, ascending, until `visit` breaks.
    pub(super) fn walk<B>(
        &self,
        from: &[u8],
        mut visit: impl FnMut(&[u8], &Entry) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.root.walk(Some(from), &mut Vec::new(), &mut visit)
    }

    /// Visits the entries of one leaf from key `from` on and drops those that `visit` does not
    /// keep. Returns where the next leaf begins, `None` at the end.
    pub(super) fn retain_leaf(
        &mut self,
        from: &[u8],
        mut visit: impl FnMut(&mut Entry) -> Keep,
    ) -> Option<Vec<u8>> {
        let mut dropped = Dropped::default();
        let next = self.root.retain_leaf(from, &mut visit, &mut dropped);
        self.len -= dropped.keys;
        if dropped.keys > 0 {
            self.collapse();
        }
        next
    }

    fn collapse(&mut self) {
        loop {
            match &mut self.root {
                Node::Inner(inner) if inner.children.len() == 1 => {
                    if let Some(child) = inner.children.pop() {
                        self.root = child;
                    }
                }
                Node::Inner(inner) if inner.children.is_empty() => self.root = Node::Leaf(Leaf::default()),
                _ => return,
            }
        }
    }

    /// Bytes of memory held by nodes, without histories and allocator overhead.
    pub(super) fn memory(&self) -> usize {
        self.root.memory()
    }
}

/// Whether an entry stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    Yes,
    No,
}

impl Inner {
    fn child_of(&self, key: &[u8]) -> usize {
        match self.separators.search(key) {
            Ok(position) => position + 1,
            Err(position) => position,
        }
    }

    fn split(&mut self) -> Split {
        let middle = self.separators.len() / 2;
        let separator = self.separators.key(middle);
        let mut right = Inner { separators: self.separators.split_off(middle + 1), ..Inner::default() };
        self.separators.remove(middle);
        right.children = self.children.split_off(middle + 1);
        right.live = right.children.iter().map(Node::live).sum();
        self.live -= right.live;
        self.children.shrink_to_fit();
        Split { separator, right: Node::Inner(Box::new(right)) }
    }

    /// After the child at `position` lost keys: removes it if empty, joins it if small.
    fn tidy(&mut self, position: usize) {
        let count = self.children[position].count();
        if count == 0 {
            self.children.remove(position);
            if self.separators.len() > 0 {
                self.separators.remove(position.saturating_sub(1));
            }
        } else if count < SMALL && self.children.len() > 1 {
            let left = position.saturating_sub(1);
            let limit = LEAF_KEYS * 3 / 4;
            if self.children[left].count() + self.children[left + 1].count() <= limit {
                let right = self.children.remove(left + 1);
                let separator = self.separators.key(left);
                self.separators.remove(left);
                self.children[left].join(&separator, right);
            }
        }
    }
}

impl Node {
    /// Keys of a leaf, children of an inner node.
    fn count(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.entries.len(),
            Self::Inner(inner) => inner.children.len(),
        }
    }

    fn live(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.live as usize,
            Self::Inner(inner) => inner.live,
        }
    }

    /// Live keys at or above `from` and below `end`; without a bound where the whole node is meant.
    fn count_live(&self, from: Option<&[u8]>, end: Option<&[u8]>) -> usize {
        match self {
            node if from.is_none() && end.is_none() => node.live(),
            Self::Leaf(leaf) => {
                let position = |key| leaf.keys.search(key).unwrap_or_else(|position| position);
                let range = from.map_or(0, position)..end.map_or(leaf.entries.len(), position);
                leaf.entries[range].iter().filter(|entry| entry.is_live()).count()
            }
            Self::Inner(inner) => {
                let first = from.map_or(0, |from| inner.child_of(from));
                let last = end.map_or(inner.children.len() - 1, |end| inner.child_of(end));
                let bounded = |position: usize| {
                    let from = from.filter(|_| position == first);
                    inner.children[position].count_live(from, end.filter(|_| position == last))
                };
                (first..=last).map(bounded).sum()
            }
        }
    }

    fn upsert<R>(
        &mut self,
        key: &[u8],
        update: impl FnOnce(Option<&mut Entry>) -> (R, Option<Entry>),
    ) -> Upserted<R> {
        match self {
            Self::Leaf(leaf) => match leaf.keys.search(key) {
                Ok(position) => {
                    let (result, live) = leaf.change(position, |entry| update(Some(entry)).0);
                    Upserted { result, grown: false, live, split: None }
                }
                Err(position) => match update(None) {
                    (result, None) => Upserted { result, grown: false, live: 0, split: None },
                    (result, Some(entry)) => {
                        let live = isize::from(entry.is_live());
                        Upserted { result, grown: true, live, split: leaf.insert(position, key, entry) }
                    }
                },
            },
            Self::Inner(inner) => {
                let position = inner.child_of(key);
                let Upserted { result, grown, live, split } = inner.children[position].upsert(key, update);
                inner.live = inner.live.strict_add_signed(live);
                let split = split.and_then(|Split { separator, right }| {
                    inner.separators.insert(position, &separator);
                    inner.children.insert(position + 1, right);
                    (inner.separators.len() > INNER_KEYS).then(|| inner.split())
                });
                Upserted { result, grown, live, split }
            }
        }
    }

    /// The third part of the result is by how much the number of live entries changed.
    fn update<R>(
        &mut self,
        key: &[u8],
        update: impl FnOnce(&mut Entry) -> (R, Keep),
    ) -> Option<(R, Keep, isize)> {
        match self {
            Self::Leaf(leaf) => {
                let position = leaf.keys.search(key).ok()?;
                let ((result, keep), live) = leaf.change(position, update);
                let removed = if keep == Keep::No { leaf.remove(position) } else { 0 };
                Some((result, keep, live - removed))
            }
            Self::Inner(inner) => {
                let position = inner.child_of(key);
                let (result, keep, live) = inner.children[position].update(key, update)?;
                inner.live = inner.live.strict_add_signed(live);
                if keep == Keep::No {
                    inner.tidy(position);
                }
                Some((result, keep, live))
            }
        }
    }

    fn walk<B>(
        &self,
        from: Option<&[u8]>,
        key: &mut Vec<u8>,
        visit: &mut impl FnMut(&[u8], &Entry) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        match self {
            Self::Leaf(leaf) => {
                let start = from.map_or(0, |from| leaf.keys.search(from).unwrap_or_else(|position| position));
                key.clear();
                key.extend_from_slice(leaf.keys.prefix());
                let prefix_len = key.len();
                for (position, entry) in leaf.entries.iter().enumerate().skip(start) {
                    key.truncate(prefix_len);
                    key.extend_from_slice(leaf.keys.rest(position));
                    visit(key, entry)?;
                }
            }
            Self::Inner(inner) => {
                let start = from.map_or(0, |from| inner.child_of(from));
                for (position, child) in inner.children.iter().enumerate().skip(start) {
                    child.walk(from.filter(|_| position == start), key, visit)?;
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn retain_leaf(
        &mut self,
        from: &[u8],
        visit: &mut impl FnMut(&mut Entry) -> Keep,
        dropped: &mut Dropped,
    ) -> Option<Vec<u8>> {
        match self {
            Self::Leaf(leaf) => {
                let mut position = leaf.keys.search(from).unwrap_or_else(|position| position);
                while position < leaf.entries.len() {
                    match visit(&mut leaf.entries[position]) {
                        Keep::Yes => position += 1,
                        Keep::No => {
                            dropped.live += leaf.remove(position) as usize;
                            dropped.keys += 1;
                        }
                    }
                }
                None
            }
            Self::Inner(inner) => {
                let position = inner.child_of(from);
                let before = *dropped;
                let next = inner.children[position].retain_leaf(from, visit, dropped);
                inner.live -= dropped.live - before.live;
                let next = next
                    .or_else(|| (position < inner.separators.len()).then(|| inner.separators.key(position)));
                if dropped.keys > before.keys {
                    inner.tidy(position);
                }
                next
            }
        }
    }

    /// Takes over the node behind this one.
    fn join(&mut self, separator: &[u8], right: Node) {
        match (self, right) {
            (Self::Leaf(left), Node::Leaf(mut right)) => {
                left.live += right.live;
                left.keys.append(&right.keys);
                left.entries.append(&mut right.entries);
            }
            (Self::Inner(left), Node::Inner(mut right)) => {
                left.live += right.live;
                let end = left.separators.len();
                left.separators.insert(end, separator);
                left.separators.append(&right.separators);
                left.children.append(&mut right.children);
            }
            _ => unreachable!("neighbours are of one height"),
        }
    }

    fn memory(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.keys.memory() + leaf.entries.capacity() * size_of::<Entry>(),
            Self::Inner(inner) => {
                let own = size_of::<Inner>() + inner.separators.memory();
                own + inner.children.iter().map(|child| size_of::<Node>() + child.memory()).sum::<usize>()
            }
        }
    }
}

impl Leaf {
    /// Changes an entry. Also returns by how much the number of live entries changed.
    fn change<R>(&mut self, position: usize, change: impl FnOnce(&mut Entry) -> R) -> (R, isize) {
        let entry = &mut self.entries[position];
        let was_live = entry.is_live();
        let result = change(entry);
        let live = i32::from(entry.is_live()) - i32::from(was_live);
        self.live = self.live.strict_add_signed(live);
        (result, live as isize)
    }

    /// Removes an entry. Returns 1 if it was live, else 0.
    fn remove(&mut self, position: usize) -> isize {
        self.keys.remove(position);
        let live = u32::from(self.entries.remove(position).is_live());
        self.live -= live;
        live as isize
    }

    fn insert(&mut self, position: usize, key: &[u8], entry: Entry) -> Option<Split> {
        let appended = position == self.entries.len();
        self.live += u32::from(entry.is_live());
        self.keys.insert(position, key);
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(GROW_ENTRIES);
        }
        self.entries.insert(position, entry);
        if self.entries.len() <= LEAF_KEYS {
            return None;
        }
        // Ascending keys leave full leaves behind.
        let cut = if appended { self.entries.len() - 1 } else { self.entries.len() / 2 };
        let (last, first) = (self.keys.key(cut - 1), self.keys.key(cut));
        // The shortest string above `last` and not above `first`.
        let separator = first[..common_prefix(&last, &first) + 1].to_vec();
        let (keys, entries) = (self.keys.split_off(cut), self.entries.split_off(cut));
        let live = entries.iter().filter(|entry| entry.is_live()).count() as u32;
        self.live -= live;
        let right = Leaf { keys, entries, live };
        self.entries.shrink_to(self.entries.len() + GROW_ENTRIES / 2);
        Some(Split { separator, right: Node::Leaf(right) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::Stamp;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use types::Revision;

    fn entry(main: i64) -> Entry {
        Entry::created(Stamp::put(Revision::new(main, 0), false))
    }

    fn insert(tree: &mut Tree, key: &[u8], main: i64) -> bool {
        tree.upsert(key, |old| match old {
            Some(old) => {
                *old = entry(main);
                (false, None)
            }
            None => (true, Some(entry(main))),
        })
    }

    fn content(tree: &Tree, from: &[u8]) -> Vec<(Vec<u8>, i64)> {
        let mut all = Vec::new();
        let end: ControlFlow<()> = tree.walk(from, |key, entry| {
            all.push((key.to_vec(), entry.last().revision().main));
            ControlFlow::Continue(())
        });
        assert!(end.is_continue());
        all
    }

    fn model_content(model: &BTreeMap<Vec<u8>, i64>, from: &[u8]) -> Vec<(Vec<u8>, i64)> {
        model.range(from.to_vec()..).map(|(key, main)| (key.clone(), *main)).collect()
    }

    fn key_of(number: u32, shape: u8) -> Vec<u8> {
        match shape % 3 {
            0 => format!("/registry/pods/ns{}/pod-{number:06}", number % 7).into_bytes(),
            1 => number.to_be_bytes().to_vec(),
            _ => vec![b'a'; (number % 300) as usize],
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn behaves_like_a_btree_map(
            operations in prop::collection::vec((0u8..12, 0u32..2000, 0u8..3), 1..3000),
            ascending in 0u32..3000,
        ) {
            let mut tree = Tree::default();
            let mut model = BTreeMap::new();
            for number in 0..ascending {
                let key = format!("seq/{number:05}").into_bytes();
                prop_assert!(insert(&mut tree, &key, 1));
                model.insert(key, 1);
            }
            for (main, (kind, number, shape)) in (1..).zip(operations) {
                let key = key_of(number, shape);
                match kind {
                    0..6 => prop_assert_eq!(insert(&mut tree, &key, main), model.insert(key, main).is_none()),
                    6..9 => {
                        let removed = tree.update(&key, |entry| (entry.last().revision().main, Keep::No));
                        prop_assert_eq!(removed, model.remove(&key));
                    }
                    9 => prop_assert_eq!(tree.get(&key).map(|entry| entry.last().revision().main), model.get(&key).copied()),
                    10 => {
                        // Drop entries with a main divisible by 3, leaf by leaf, from a key on.
                        let mut from = Some(key.clone());
                        while let Some(at) = from {
                            from = tree.retain_leaf(&at, |entry| {
                                if entry.last().revision().main % 3 == 0 { Keep::No } else { Keep::Yes }
                            });
                        }
                        model.retain(|other, main| *other < key || *main % 3 != 0);
                    }
                    _ if number % 50 == 0 => prop_assert_eq!(content(&tree, &key), model_content(&model, &key)),
                    _ => {}
                }
                prop_assert_eq!(tree.len(), model.len());
                prop_assert_eq!(tree.live(), model.len());
                if kind == 11 {
                    let (from, end) = (key_of(number / 2, shape), key_of(number, shape.wrapping_add(number as u8)));
                    let within = |key: &&Vec<u8>| from <= **key && **key < end;
                    prop_assert_eq!(tree.count_live(&from, Some(&end)), model.keys().filter(within).count());
                    prop_assert_eq!(tree.count_live(&end, None), model.keys().filter(|key| **key >= end).count());
                }
            }
            prop_assert_eq!(content(&tree, b""), model_content(&model, b""));
            for key in model.keys() {
                prop_assert!(tree.update(key, |_| ((), Keep::No)).is_some());
            }
            prop_assert_eq!(tree.len(), 0);
            prop_assert_eq!(content(&tree, b""), Vec::new());
        }
    }
}
