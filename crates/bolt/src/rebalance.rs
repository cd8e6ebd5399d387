//! Merging nodes that have become small, before a commit writes them.
//!
//! Source: bbolt `node.go` (`rebalance`). Other than there, a node that is still small after a
//! merge is merged again, so that deleting many keys leaves no chain of nearly empty pages.

use crate::error::Error;
use crate::format::{PageError, PageFault};
use crate::node::{Body, NodeId};
use crate::write::{BucketIndex, Trees};

impl Trees {
    /// Merges the small nodes of a bucket.
    pub(crate) fn rebalance(&mut self, bucket: BucketIndex) -> Result<(), Error> {
        self.buckets[bucket].hint = None;
        if self.buckets[bucket].deleted {
            return Ok(());
        }
        let Some(root) = self.buckets[bucket].root else { return Ok(()) };
        let page_size = self.nodes.base.page_size() as f64;
        let threshold = (page_size * f64::from(self.buckets[bucket].fill_percent) / 2.0) as usize;
        self.rebalance_below(root, threshold)?;
        let root = self.collapse(root)?;
        self.buckets[bucket].root = Some(root);
        Ok(())
    }

    /// Replaces a root branch that has one child by that child, and one without children by an
    /// empty leaf.
    fn collapse(&mut self, mut root: NodeId) -> Result<NodeId, PageError> {
        loop {
            match &self.nodes[root].body {
                Body::Branch(entries) if entries.is_empty() => {
                    self.nodes[root].body = Body::Leaf(Vec::new());
                    return Ok(root);
                }
                Body::Branch(entries) if entries.len() == 1 => {
                    let child = self.child_node(root, 0)?;
                    self.free_origin(root);
                    root = child;
                }
                _ => return Ok(root),
            }
        }
    }

    /// Merges small nodes below `node`, deepest first. The depth is bounded by that of the nodes
    /// in memory.
    fn rebalance_below(&mut self, node: NodeId, threshold: usize) -> Result<(), PageError> {
        let Body::Branch(entries) = &self.nodes[node].body else { return Ok(()) };
        let children: Vec<NodeId> = entries.iter().filter_map(|entry| entry.node).collect();
        for child in children {
            self.rebalance_below(child, threshold)?;
        }
        self.rebalance_children(node, threshold)
    }

    /// Merges small nodes among the direct children of `node`.
    fn rebalance_children(&mut self, node: NodeId, threshold: usize) -> Result<(), PageError> {
        let mut index = 0;
        while matches!(self.nodes[node].body, Body::Branch(_)) && index < self.nodes[node].body.len() {
            index = self.rebalance_child(node, index, threshold)?;
        }
        Ok(())
    }

    /// Looks after one child; returns the index to go on with.
    fn rebalance_child(
        &mut self,
        parent: NodeId,
        index: usize,
        threshold: usize,
    ) -> Result<usize, PageError> {
        let Body::Branch(entries) = &self.nodes[parent].body else { return Ok(usize::MAX) };
        let siblings = entries.len();
        let Some(child) = entries[index].node.filter(|child| self.nodes[*child].unbalanced) else {
            return Ok(index + 1);
        };
        let body = &self.nodes[child].body;
        let least = if matches!(body, Body::Leaf(_)) { 1 } else { 2 };
        if body.len() > least && body.size() > threshold {
            self.nodes[child].unbalanced = false;
            return Ok(index + 1);
        }
        let is_empty = body.len() == 0;
        self.nodes[parent].unbalanced = true;
        if is_empty {
            self.free_origin(child);
            self.remove_entry(parent, index);
            return Ok(index);
        }
        if siblings == 1 {
            // It gets siblings when its parent is merged, and stays unbalanced until then.
            return Ok(index + 1);
        }
        let left = index.saturating_sub(1);
        let (into, from) = (self.child_node(parent, left)?, self.child_node(parent, left + 1)?);
        self.merge(into, from)?;
        self.remove_entry(parent, left + 1);
        self.rebalance_children(into, threshold)?;
        // The merged node may still be too small.
        self.nodes[into].unbalanced = true;
        Ok(left)
    }

    fn remove_entry(&mut self, parent: NodeId, index: usize) {
        if let Body::Branch(entries) = &mut self.nodes[parent].body {
            entries.remove(index);
        }
    }

    /// Appends the entries of `from` to those of `into`.
    fn merge(&mut self, into: NodeId, from: NodeId) -> Result<(), PageError> {
        self.free_origin(from);
        let moved = std::mem::replace(&mut self.nodes[from].body, Body::Leaf(Vec::new()));
        match (&mut self.nodes[into].body, moved) {
            (Body::Leaf(entries), Body::Leaf(moved)) => entries.extend(moved),
            (Body::Branch(entries), Body::Branch(moved)) => entries.extend(moved),
            _ => {
                let page = self.nodes[into].origin.map_or(0, |(id, _)| id);
                return Err(PageFault::MixedSiblings.on(page));
            }
        }
        Ok(())
    }
}
