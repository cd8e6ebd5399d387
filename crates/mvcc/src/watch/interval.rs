//! Ranges of keys that are asked which of them a key lies in.
//!
//! A treap ordered by (start, end); each node knows the largest end below it, so that a question
//! visits only subtrees that reach the key. Nodes live in a vector, freed ones are used again.
//! Watchers of the same range share a node.

use std::cmp::Ordering;

use bytes::Bytes;

use super::matcher::Members;
use super::scatter;

type NodeId = u32;
const NONE: NodeId = NodeId::MAX;

#[derive(Debug)]
struct Node {
    start: Bytes,
    /// `None` = no end.
    end: Option<Bytes>,
    /// The node of this subtree with the largest end.
    reach: NodeId,
    priority: u64,
    left: NodeId,
    right: NodeId,
    members: Members,
}

/// A set of (range, member) pairs.
#[derive(Debug)]
pub(crate) struct IntervalSet {
    nodes: Vec<Node>,
    free: Vec<NodeId>,
    root: NodeId,
    inserted: u64,
}

impl Default for IntervalSet {
    fn default() -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), root: NONE, inserted: 0 }
    }
}

impl IntervalSet {
    /// Adds a member to the range from `start` to before `end`.
    pub(crate) fn insert(&mut self, start: &Bytes, end: Option<&Bytes>, member: u32) {
        if let Some(at) = self.find(start, end) {
            self.node_mut(at).members.push(member);
            return;
        }
        self.inserted += 1;
        let node = Node {
            start: start.clone(),
            end: end.cloned(),
            reach: NONE,
            priority: scatter(self.inserted),
            left: NONE,
            right: NONE,
            members: Members::One(member),
        };
        let new = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as NodeId
            }
        };
        self.update(new);
        let (less, more) = self.split(self.root, start, end);
        let less = self.merge(less, new);
        self.root = self.merge(less, more);
    }

    /// Takes a member off a range.
    pub(crate) fn remove(&mut self, start: &Bytes, end: Option<&Bytes>, member: u32) {
        let Some(at) = self.find(start, end) else { return };
        let members = &mut self.node_mut(at).members;
        if members.remove(member) {
            self.root = self.without(self.root, at);
            let node = self.node_mut(at);
            (node.start, node.end) = (Bytes::new(), None);
            self.free.push(at);
        }
    }

    /// Appends the members of all ranges that contain `key`.
    pub(crate) fn stab(&self, key: &[u8], found: &mut Vec<u32>) {
        self.stab_below(self.root, key, found);
    }

    fn stab_below(&self, at: NodeId, key: &[u8], found: &mut Vec<u32>) {
        let mut at = at;
        while at != NONE {
            let node = self.node(at);
            if !reaches(self.node(node.reach), key) {
                return;
            }
            self.stab_below(node.left, key, found);
            if node.start[..] > *key {
                return;
            }
            if reaches(node, key) {
                node.members.append_to(found);
            }
            at = node.right;
        }
    }

    /// Takes out and returns all (start, end, members) that `wanted` chooses.
    pub(crate) fn extract(
        &mut self,
        wanted: impl Fn(&[u8], Option<&[u8]>) -> bool,
    ) -> Vec<(Bytes, Option<Bytes>, Members)> {
        let mut chosen = Vec::new();
        self.collect(self.root, &wanted, &mut chosen);
        let mut taken = Vec::new();
        for at in chosen {
            self.root = self.without(self.root, at);
            self.free.push(at);
            let node = self.node_mut(at);
            let members = std::mem::replace(&mut node.members, Members::Many(Vec::new()));
            taken.push((std::mem::take(&mut node.start), node.end.take(), members));
        }
        taken
    }

    fn collect(&self, at: NodeId, wanted: &impl Fn(&[u8], Option<&[u8]>) -> bool, chosen: &mut Vec<NodeId>) {
        if at == NONE {
            return;
        }
        let node = self.node(at);
        if wanted(&node.start, node.end.as_deref()) {
            chosen.push(at);
        }
        self.collect(node.left, wanted, chosen);
        self.collect(node.right, wanted, chosen);
    }

    fn find(&self, start: &Bytes, end: Option<&Bytes>) -> Option<NodeId> {
        let mut at = self.root;
        while at != NONE {
            let node = self.node(at);
            at = match order(start, end, node) {
                Ordering::Less => node.left,
                Ordering::Greater => node.right,
                Ordering::Equal => return Some(at),
            };
        }
        None
    }

    /// Splits a subtree into what is before and what is behind a range that it does not hold.
    fn split(&mut self, at: NodeId, start: &Bytes, end: Option<&Bytes>) -> (NodeId, NodeId) {
        if at == NONE {
            return (NONE, NONE);
        }
        if order(start, end, self.node(at)) == Ordering::Less {
            let (less, more) = self.split(self.node(at).left, start, end);
            self.node_mut(at).left = more;
            self.update(at);
            (less, at)
        } else {
            let (less, more) = self.split(self.node(at).right, start, end);
            self.node_mut(at).right = less;
            self.update(at);
            (at, more)
        }
    }

    /// Joins two subtrees, all of `less` being before all of `more`.
    fn merge(&mut self, less: NodeId, more: NodeId) -> NodeId {
        if less == NONE || more == NONE {
            return if less == NONE { more } else { less };
        }
        if self.node(less).priority > self.node(more).priority {
            let right = self.merge(self.node(less).right, more);
            self.node_mut(less).right = right;
            self.update(less);
            less
        } else {
            let left = self.merge(less, self.node(more).left);
            self.node_mut(more).left = left;
            self.update(more);
            more
        }
    }

    /// The subtree `at` without node `gone`, which is in it.
    fn without(&mut self, at: NodeId, gone: NodeId) -> NodeId {
        let node = self.node(at);
        let (left, right) = (node.left, node.right);
        if at == gone {
            return self.merge(left, right);
        }
        let target = self.node(gone);
        if order(&target.start, target.end.as_ref(), node) == Ordering::Less {
            let left = self.without(left, gone);
            self.node_mut(at).left = left;
        } else {
            let right = self.without(right, gone);
            self.node_mut(at).right = right;
        }
        self.update(at);
        at
    }

    fn update(&mut self, at: NodeId) {
        let node = self.node(at);
        let mut reach = at;
        for child in [node.left, node.right] {
            if child != NONE {
                let candidate = self.node(child).reach;
                if by_end(self.node(candidate).end.as_ref(), self.node(reach).end.as_ref()).is_gt() {
                    reach = candidate;
                }
            }
        }
        self.node_mut(at).reach = reach;
    }

    fn node(&self, at: NodeId) -> &Node {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: NodeId) -> &mut Node {
        &mut self.nodes[at as usize]
    }
}

/// Whether the node's end is behind `key`.
fn reaches(node: &Node, key: &[u8]) -> bool {
    node.end.as_ref().is_none_or(|end| end[..] > *key)
}

fn order(start: &Bytes, end: Option<&Bytes>, node: &Node) -> Ordering {
    start.cmp(&node.start).then_with(|| by_end(end, node.end.as_ref()))
}

/// No end is behind every end.
fn by_end(one: Option<&Bytes>, other: Option<&Bytes>) -> Ordering {
    match (one, other) {
        (Some(one), Some(other)) => one.cmp(other),
        (one, other) => one.is_none().cmp(&other.is_none()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Bytes> {
        "[a-c]{0,3}".prop_map(Bytes::from)
    }

    impl IntervalSet {
        /// Order, heap and reach hold everywhere; returns the number of nodes.
        fn check(&self, at: NodeId) -> usize {
            if at == NONE {
                return 0;
            }
            let node = self.node(at);
            let mut best = node.end.as_ref();
            for (child, expected) in [(node.left, Ordering::Less), (node.right, Ordering::Greater)] {
                if child != NONE {
                    let child = self.node(child);
                    assert_eq!(order(&child.start, child.end.as_ref(), node), expected);
                    assert!(child.priority <= node.priority);
                    let end = self.node(child.reach).end.as_ref();
                    best = if by_end(end, best).is_gt() { end } else { best };
                }
            }
            assert_eq!(self.node(node.reach).end.as_ref(), best);
            1 + self.check(node.left) + self.check(node.right)
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_list(
            steps in prop::collection::vec((any::<bool>(), key(), prop::option::of(key()), 0u32..4), 0..80),
            asked in prop::collection::vec(key(), 1..10),
        ) {
            let mut set = IntervalSet::default();
            let mut list = Vec::new();
            for (add, start, end, member) in steps {
                let entry = (start, end, member);
                let (start, end) = (&entry.0, entry.1.as_ref());
                match list.iter().position(|other| *other == entry) {
                    Some(at) => {
                        set.remove(start, end, member);
                        list.remove(at);
                    }
                    None if add => {
                        set.insert(start, end, member);
                        list.push(entry);
                    }
                    None => set.remove(start, end, member),
                }
                let distinct: std::collections::BTreeSet<_> = list.iter().map(|(start, end, _)| (start, end)).collect();
                prop_assert_eq!(set.check(set.root), distinct.len());
            }
            for key in asked {
                let mut found = Vec::new();
                set.stab(&key, &mut found);
                found.sort_unstable();
                let inside = |(start, end, _): &&(Bytes, Option<Bytes>, u32)| {
                    *start <= key && end.as_ref().is_none_or(|end| key < *end)
                };
                let mut expected: Vec<_> = list.iter().filter(inside).map(|entry| entry.2).collect();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
