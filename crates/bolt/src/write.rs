//! Write transactions: buckets, puts and deletes in memory. [`crate::commit`] makes them durable.
//!
//! Nothing is written and no page is taken before the commit, so dropping a transaction is all
//! there is to rolling it back. Trees keep their shape until then, except that leaves may grow
//! far beyond a page; merging and splitting is the commit's work. Therefore a bucket can remember
//! the leaf that it used last ([`Hint`]): ascending puts cost one comparison and one append.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use parking_lot::MutexGuard;

use crate::db::{Db, Writer};
use crate::error::Error;
use crate::format::{
    BUCKET_HEADER_BYTES, BucketHeader, FLAG_LEAF, MAX_DEPTH, MAX_KEY_BYTES, MAX_VALUE_BYTES, Meta,
    PAGE_HEADER_BYTES, Page, PageError, PageFault, PageHeader, PageId,
};
use crate::freelist::Span;
use crate::node::{Body, BranchEntry, LeafEntry, NodeId, Nodes, Place};
use crate::reach::for_each_span;

/// Share of a page that is filled when a node is split, unless set otherwise.
pub const DEFAULT_FILL_PERCENT: f32 = 0.5;

/// Called with a key and its value, `None` for a bucket; says whether to go on.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], Option<&[u8]>) -> ControlFlow<()>;

/// Leaves in memory with more entries than this are cut in two when something is inserted into
/// their middle; appending moves nothing and so needs no limit.
const LONG_LEAF_ENTRIES: usize = 1024;

/// The only write transaction. Dropping it undoes everything.
pub struct WriteTx<'db> {
    pub(crate) db: &'db Db,
    pub(crate) writer: MutexGuard<'db, Writer>,
    pub(crate) trees: Trees,
}

/// Index of a bucket in its transaction; 0 is the root bucket, parents come before children.
pub(crate) type BucketIndex = usize;
const ROOT: BucketIndex = 0;

/// The changed trees of a transaction.
pub(crate) struct Trees {
    pub(crate) nodes: Nodes,
    pub(crate) buckets: Vec<BucketState>,
    pub(crate) meta: Meta,
    /// Pages of the old state that the new one does not use.
    pub(crate) freed: Vec<Span>,
    /// Root pages of deleted buckets, whose pages are in `freed`.
    deleted_roots: HashSet<PageId>,
}

/// A bucket that the transaction has opened.
pub(crate) struct BucketState {
    pub(crate) parent: BucketIndex,
    pub(crate) name: Vec<u8>,
    pub(crate) header: BucketHeader,
    /// The page image of a bucket that is inline so far.
    inline: Option<(Place, usize)>,
    /// The root in memory; set as soon as something under it changes.
    pub(crate) root: Option<NodeId>,
    pub(crate) sequence_changed: bool,
    pub(crate) deleted: bool,
    pub(crate) fill_percent: f32,
    pub(crate) hint: Option<Hint>,
    children: HashMap<Vec<u8>, BucketIndex>,
}

/// The leaf that was used last, and the lowest key that does not belong to it any more.
#[derive(Clone, Copy)]
pub(crate) struct Hint {
    leaf: NodeId,
    upper: Option<(Place, u16)>,
}

impl BucketState {
    fn new(parent: BucketIndex, name: &[u8], header: BucketHeader, inline: Option<(Place, usize)>) -> Self {
        Self {
            parent,
            name: name.to_vec(),
            header,
            inline,
            root: None,
            sequence_changed: false,
            deleted: false,
            fill_percent: DEFAULT_FILL_PERCENT,
            hint: None,
            children: HashMap::new(),
        }
    }

    pub(crate) fn changed(&self) -> bool {
        !self.deleted && (self.root.is_some() || self.sequence_changed)
    }
}

impl<'db> WriteTx<'db> {
    pub(crate) fn new(db: &'db Db, writer: MutexGuard<'db, Writer>, nodes: Nodes) -> Self {
        let meta = Meta { txid: nodes.base.meta.txid + 1, ..nodes.base.meta };
        let header = BucketHeader { root: meta.root, sequence: meta.root_sequence };
        let buckets = vec![BucketState::new(ROOT, b"", header, None)];
        let trees = Trees { nodes, buckets, meta, freed: Vec::new(), deleted_roots: HashSet::new() };
        Self { db, writer, trees }
    }

    /// The id that this transaction will commit under.
    pub fn txid(&self) -> u64 {
        self.trees.meta.txid
    }

    /// A top-level bucket.
    pub fn bucket(&mut self, name: &[u8]) -> Result<Option<BucketMut<'_>>, Error> {
        self.root().into_bucket(name)
    }

    /// A top-level bucket, made if there is none.
    pub fn create_bucket_if_missing(&mut self, name: &[u8]) -> Result<BucketMut<'_>, Error> {
        self.root().into_created_bucket(name)
    }

    /// Deletes a top-level bucket and everything in it.
    pub fn delete_bucket(&mut self, name: &[u8]) -> Result<(), Error> {
        self.root().delete_bucket(name)
    }

    fn root(&mut self) -> BucketMut<'_> {
        BucketMut { trees: &mut self.trees, index: ROOT }
    }
}

impl Drop for WriteTx<'_> {
    fn drop(&mut self) {
        let mut arena = std::mem::take(&mut self.trees.nodes.arena);
        arena.clear();
        self.writer.arena = arena;
    }
}

/// A bucket in a write transaction.
pub struct BucketMut<'tx> {
    trees: &'tx mut Trees,
    index: BucketIndex,
}

impl<'tx> BucketMut<'tx> {
    /// Sets how full pages are made when they are split (0.1 to 1.0; 0.5 unless set). Higher is
    /// better where keys come in ascending order. Lasts until the end of the transaction.
    pub fn set_fill_percent(&mut self, fill_percent: f32) {
        self.trees.buckets[self.index].fill_percent = fill_percent.clamp(0.1, 1.0);
    }

    /// Stores a value.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        if key.is_empty() {
            return Err(Error::KeyRequired);
        }
        if key.len() > MAX_KEY_BYTES {
            return Err(Error::KeyTooLarge);
        }
        if value.len() > MAX_VALUE_BYTES {
            return Err(Error::ValueTooLarge);
        }
        self.trees.put(self.index, key, &[value], false)
    }

    /// Removes a key; `false` if it was absent.
    pub fn delete(&mut self, key: &[u8]) -> Result<bool, Error> {
        match self.trees.lookup(self.index, key)? {
            None => Ok(false),
            Some(entry) if entry.is_bucket => Err(Error::IncompatibleValue),
            Some(_) => self.trees.remove(self.index, key).map(|()| true),
        }
    }

    /// The value of a key; `None` if it is absent or holds a bucket.
    pub fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, Error> {
        let entry = self.trees.lookup(self.index, key)?;
        Ok(entry.filter(|entry| !entry.is_bucket).map(|entry| self.trees.nodes.value(&entry)))
    }

    /// Whether the bucket has no keys.
    pub fn is_empty(&self) -> Result<bool, Error> {
        let mut empty = true;
        self.scan(b"", &mut |_, _| {
            empty = false;
            ControlFlow::Break(())
        })?;
        Ok(empty)
    }

    /// Calls `visit` with the keys from `from` on in order, until it breaks; the value is `None`
    /// for a bucket.
    pub fn scan(&self, from: &[u8], visit: Visit<'_>) -> Result<(), Error> {
        let root = self.trees.root_ref(self.index)?;
        let _complete = self.trees.scan(root, from, 0, visit)?;
        Ok(())
    }

    /// The first key from `from` on with its value, `None` for a bucket.
    #[allow(clippy::type_complexity, reason = "a key and maybe a value")]
    pub fn seek(&self, from: &[u8]) -> Result<Option<(Vec<u8>, Option<Vec<u8>>)>, Error> {
        let mut found = None;
        self.scan(from, &mut |key, value| {
            found = Some((key.to_vec(), value.map(<[u8]>::to_vec)));
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// The bucket's counter.
    pub fn sequence(&self) -> u64 {
        self.trees.buckets[self.index].header.sequence
    }

    /// Sets the bucket's counter.
    pub fn set_sequence(&mut self, sequence: u64) {
        let state = &mut self.trees.buckets[self.index];
        state.sequence_changed |= state.header.sequence != sequence;
        state.header.sequence = sequence;
    }

    /// A nested bucket.
    pub fn bucket(&mut self, name: &[u8]) -> Result<Option<BucketMut<'_>>, Error> {
        let index = self.trees.open_bucket(self.index, name)?;
        Ok(index.map(|index| BucketMut { trees: self.trees, index }))
    }

    /// As [`BucketMut::bucket`], giving this one up.
    pub fn into_bucket(self, name: &[u8]) -> Result<Option<BucketMut<'tx>>, Error> {
        let index = self.trees.open_bucket(self.index, name)?;
        Ok(index.map(|index| BucketMut { trees: self.trees, index }))
    }

    /// A nested bucket, made if there is none.
    pub fn create_bucket_if_missing(&mut self, name: &[u8]) -> Result<BucketMut<'_>, Error> {
        let index = self.trees.create_bucket(self.index, name)?;
        Ok(BucketMut { trees: self.trees, index })
    }

    /// As [`BucketMut::create_bucket_if_missing`], giving this one up.
    pub fn into_created_bucket(self, name: &[u8]) -> Result<BucketMut<'tx>, Error> {
        let index = self.trees.create_bucket(self.index, name)?;
        Ok(BucketMut { trees: self.trees, index })
    }

    /// Deletes a nested bucket and everything in it.
    pub fn delete_bucket(&mut self, name: &[u8]) -> Result<(), Error> {
        self.trees.delete_bucket(self.index, name)
    }
}

/// A place in a tree: in memory, or still on its page.
#[derive(Clone, Copy)]
pub(crate) enum TreeRef<'a> {
    Node(NodeId),
    /// A page and the place where it begins.
    Page(Page<'a>, Place),
}

impl Trees {
    fn page_ref(&self, id: PageId) -> Result<TreeRef<'_>, PageError> {
        let place = Place::in_file((id as usize).wrapping_mul(self.nodes.base.page_size()));
        Ok(TreeRef::Page(self.nodes.base.page(id)?, place))
    }

    fn root_ref(&self, bucket: BucketIndex) -> Result<TreeRef<'_>, PageError> {
        let state = &self.buckets[bucket];
        match (state.root, state.inline) {
            (Some(node), _) => Ok(TreeRef::Node(node)),
            (None, Some((place, len))) => {
                Ok(TreeRef::Page(Page::inline(self.nodes.bytes(place, len), 0)?, place))
            }
            (None, None) => self.page_ref(state.header.root),
        }
    }

    /// Child `index` of a branch.
    fn child_ref<'a>(&'a self, parent: TreeRef<'a>, index: usize) -> Result<TreeRef<'a>, PageError> {
        match parent {
            TreeRef::Page(page, _) => self.page_ref(page.branch(index)?.child),
            TreeRef::Node(id) => match &self.nodes[id].body {
                Body::Branch(entries) => match entries[index].node {
                    Some(node) => Ok(TreeRef::Node(node)),
                    None => self.page_ref(entries[index].child),
                },
                Body::Leaf(_) => unreachable!("only branches are asked for children"),
            },
        }
    }

    fn is_leaf(&self, at: TreeRef<'_>) -> bool {
        match at {
            TreeRef::Node(id) => matches!(self.nodes[id].body, Body::Leaf(_)),
            TreeRef::Page(page, _) => page.is_leaf(),
        }
    }

    fn count(&self, at: TreeRef<'_>) -> usize {
        match at {
            TreeRef::Node(id) => self.nodes[id].body.len(),
            TreeRef::Page(page, _) => page.count(),
        }
    }

    fn search(&self, at: TreeRef<'_>, key: &[u8]) -> Result<Result<usize, usize>, PageError> {
        match at {
            TreeRef::Node(id) => Ok(self.nodes.search(id, key)),
            TreeRef::Page(page, _) => page.search(key),
        }
    }

    fn child_index(&self, at: TreeRef<'_>, key: &[u8]) -> Result<usize, PageError> {
        match at {
            TreeRef::Node(id) => Ok(self.nodes.child_index(id, key)),
            TreeRef::Page(page, _) => page.child_index(key),
        }
    }

    /// Element `index` of a leaf.
    fn leaf_entry(&self, at: TreeRef<'_>, index: usize) -> Result<LeafEntry, PageError> {
        match at {
            TreeRef::Page(page, place) => {
                let element = page.leaf(index)?;
                Ok(LeafEntry {
                    place: place.plus(element.position),
                    value_len: element.value.len() as u32,
                    key_len: element.key.len() as u16,
                    is_bucket: element.is_bucket,
                })
            }
            TreeRef::Node(id) => match &self.nodes[id].body {
                Body::Leaf(entries) => Ok(entries[index]),
                Body::Branch(_) => unreachable!("only leaves are asked for values"),
            },
        }
    }

    /// The entry of a key, without taking anything into memory.
    fn lookup(&self, bucket: BucketIndex, key: &[u8]) -> Result<Option<LeafEntry>, PageError> {
        if let Some(leaf) = self.hinted_leaf(bucket, key) {
            let index = self.nodes.search(leaf, key).ok();
            return index.map(|index| self.leaf_entry(TreeRef::Node(leaf), index)).transpose();
        }
        let mut at = self.root_ref(bucket)?;
        for _ in 0..MAX_DEPTH {
            if self.is_leaf(at) {
                let index = self.search(at, key)?.ok();
                return index.map(|index| self.leaf_entry(at, index)).transpose();
            }
            at = self.child_ref(at, self.child_index(at, key)?)?;
        }
        Err(PageFault::TooDeep.on(self.buckets[bucket].header.root))
    }

    fn scan(
        &self,
        at: TreeRef<'_>,
        from: &[u8],
        depth: usize,
        visit: Visit<'_>,
    ) -> Result<ControlFlow<()>, PageError> {
        if depth >= MAX_DEPTH {
            return Err(PageFault::TooDeep.on(self.nodes.base.meta.root));
        }
        if self.is_leaf(at) {
            let start = self.search(at, from)?.unwrap_or_else(|index| index);
            for index in start..self.count(at) {
                let entry = self.leaf_entry(at, index)?;
                let value = (!entry.is_bucket).then(|| self.nodes.value(&entry));
                if visit(self.nodes.key((entry.place, entry.key_len)), value).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            return Ok(ControlFlow::Continue(()));
        }
        for index in self.child_index(at, from)?..self.count(at) {
            if self.scan(self.child_ref(at, index)?, from, depth + 1, visit)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The remembered leaf, if `key` belongs to it.
    fn hinted_leaf(&self, bucket: BucketIndex, key: &[u8]) -> Option<NodeId> {
        let hint = self.buckets[bucket].hint?;
        let below = hint.upper.is_none_or(|upper| key < self.nodes.key(upper));
        let belongs = below && self.nodes[hint.leaf].body.len() > 0 && key >= self.nodes.key_of(hint.leaf, 0);
        belongs.then_some(hint.leaf)
    }

    /// The leaf node for `key`, in memory with all nodes above it.
    pub(crate) fn leaf_for(&mut self, bucket: BucketIndex, key: &[u8]) -> Result<NodeId, PageError> {
        if let Some(leaf) = self.hinted_leaf(bucket, key) {
            return Ok(leaf);
        }
        let mut node = self.root_node(bucket)?;
        let mut upper = None;
        for _ in 0..MAX_DEPTH {
            if matches!(self.nodes[node].body, Body::Leaf(_)) {
                self.buckets[bucket].hint = Some(Hint { leaf: node, upper });
                return Ok(node);
            }
            let index = self.nodes.child_index(node, key);
            if index + 1 < self.nodes[node].body.len() {
                upper = Some(self.nodes.key_place(node, index + 1));
            }
            node = self.child_node(node, index)?;
        }
        Err(PageFault::TooDeep.on(self.buckets[bucket].header.root))
    }

    pub(crate) fn root_node(&mut self, bucket: BucketIndex) -> Result<NodeId, PageError> {
        let state = &self.buckets[bucket];
        if let Some(node) = state.root {
            return Ok(node);
        }
        let node = match state.inline {
            Some((place, len)) => self.nodes.load_inline(place, len)?,
            None => self.nodes.load(state.header.root)?,
        };
        self.buckets[bucket].root = Some(node);
        Ok(node)
    }

    /// Child `index` of a branch node, taken into memory if it is not there.
    pub(crate) fn child_node(&mut self, parent: NodeId, index: usize) -> Result<NodeId, PageError> {
        let Body::Branch(entries) = &self.nodes[parent].body else {
            unreachable!("only branches are asked for children")
        };
        if let Some(node) = entries[index].node {
            return Ok(node);
        }
        let node = self.nodes.load(entries[index].child)?;
        if self.nodes[node].body.len() == 0 {
            return Err(PageFault::Empty.on(self.nodes[node].origin.map_or(0, |(id, _)| id)));
        }
        if let Body::Branch(entries) = &mut self.nodes[parent].body {
            entries[index].node = Some(node);
        }
        Ok(node)
    }

    /// Stores `parts`, joined, as the value of `key`.
    pub(crate) fn put(
        &mut self,
        bucket: BucketIndex,
        key: &[u8],
        parts: &[&[u8]],
        is_bucket: bool,
    ) -> Result<(), Error> {
        let entry = |place, value_len: usize| LeafEntry {
            place,
            value_len: value_len as u32,
            key_len: key.len() as u16,
            is_bucket,
        };
        let leaf = self.leaf_for(bucket, key)?;
        let count = self.nodes[leaf].body.len();
        let at = match count > 0 && self.nodes.key_of(leaf, count - 1) < key {
            true => Err(count),
            false => self.nodes.search(leaf, key),
        };
        let value_len = parts.iter().map(|part| part.len()).sum();
        if let Ok(index) = at
            && self.leaf_entry(TreeRef::Node(leaf), index)?.is_bucket != is_bucket
        {
            return Err(Error::IncompatibleValue);
        }
        let place = match parts {
            [value] => self.nodes.arena.push(&[key, value]),
            [first, second] => self.nodes.arena.push(&[key, first, second]),
            _ => unreachable!("values have one or two parts"),
        };
        let Body::Leaf(entries) = &mut self.nodes[leaf].body else { unreachable!("`leaf_for` gives leaves") };
        match at {
            Ok(index) => entries[index] = entry(place, value_len),
            Err(index) if index == entries.len() => entries.push(entry(place, value_len)),
            Err(index) => {
                entries.insert(index, entry(place, value_len));
                if entries.len() > LONG_LEAF_ENTRIES {
                    self.halve(bucket, leaf, key);
                }
            }
        }
        Ok(())
    }

    /// Cuts a leaf in two, so that inserting into its middle stays cheap. `key` is one of its keys.
    fn halve(&mut self, bucket: BucketIndex, leaf: NodeId, key: &[u8]) {
        self.buckets[bucket].hint = None;
        let Body::Leaf(entries) = &mut self.nodes[leaf].body else { return };
        let upper_half = entries.split_off(entries.len() / 2);
        let unbalanced = self.nodes[leaf].unbalanced;
        let added = self.nodes.add(Body::Leaf(upper_half), None);
        self.nodes[added].unbalanced = unbalanced;
        let branch_entry = |nodes: &Nodes, node| {
            let (place, key_len) = nodes.key_place(node, 0);
            BranchEntry { place, key_len, node: Some(node), child: 0 }
        };
        let Some(mut parent) = self.buckets[bucket].root else { return };
        if parent == leaf {
            let entries = [leaf, added].map(|node| branch_entry(&self.nodes, node)).to_vec();
            self.buckets[bucket].root = Some(self.nodes.add(Body::Branch(entries), None));
            return;
        }
        // All nodes on the way are in memory, as the leaf is.
        loop {
            let index = self.nodes.child_index(parent, key);
            let entry = branch_entry(&self.nodes, added);
            let Body::Branch(entries) = &mut self.nodes[parent].body else {
                unreachable!("the leaf is further down")
            };
            match entries[index].node {
                Some(node) if node == leaf => return entries.insert(index + 1, entry),
                Some(node) => parent = node,
                None => unreachable!("nodes above a leaf in memory are in memory"),
            }
        }
    }

    /// Removes a key that is there.
    fn remove(&mut self, bucket: BucketIndex, key: &[u8]) -> Result<(), Error> {
        let leaf = self.leaf_for(bucket, key)?;
        let Ok(index) = self.nodes.search(leaf, key) else { return Ok(()) };
        let node = &mut self.nodes[leaf];
        node.unbalanced = true;
        if let Body::Leaf(entries) = &mut node.body {
            entries.remove(index);
        }
        Ok(())
    }

    fn open_bucket(&mut self, parent: BucketIndex, name: &[u8]) -> Result<Option<BucketIndex>, Error> {
        if let Some(index) = self.buckets[parent].children.get(name) {
            return Ok(Some(*index));
        }
        let Some(entry) = self.lookup(parent, name)?.filter(|entry| entry.is_bucket) else { return Ok(None) };
        let value = self.nodes.value(&entry);
        let header = BucketHeader::parse(value, 0)?;
        let image = (entry.value_place().plus(BUCKET_HEADER_BYTES), value.len() - BUCKET_HEADER_BYTES);
        let inline = (header.root == 0).then_some(image);
        let index = self.buckets.len();
        self.buckets.push(BucketState::new(parent, name, header, inline));
        self.buckets[parent].children.insert(name.to_vec(), index);
        Ok(Some(index))
    }

    fn create_bucket(&mut self, parent: BucketIndex, name: &[u8]) -> Result<BucketIndex, Error> {
        if name.is_empty() {
            return Err(Error::BucketNameRequired);
        }
        if name.len() > MAX_KEY_BYTES {
            return Err(Error::KeyTooLarge);
        }
        if let Some(index) = self.open_bucket(parent, name)? {
            return Ok(index);
        }
        let mut image = [0; PAGE_HEADER_BYTES];
        PageHeader { id: 0, flags: FLAG_LEAF, count: 0, overflow: 0 }.write(&mut image);
        let header = BucketHeader { root: 0, sequence: 0 };
        self.put(parent, name, &[&header.to_bytes(), &image], true)?;
        self.open_bucket(parent, name)?.ok_or(Error::BucketNotFound)
    }

    fn delete_bucket(&mut self, parent: BucketIndex, name: &[u8]) -> Result<(), Error> {
        let entry = self.lookup(parent, name)?.ok_or(Error::BucketNotFound)?;
        if !entry.is_bucket {
            return Err(Error::IncompatibleValue);
        }
        // The header in the parent is the old one until the commit, so this frees what the old
        // state uses. New pages do not exist yet.
        let root = BucketHeader::parse(self.nodes.value(&entry), 0)?.root;
        if root != 0 {
            let (freed, deleted) = (&mut self.freed, &self.deleted_roots);
            for_each_span(&self.nodes.base, root, |id, count| {
                let anew = !deleted.contains(&id);
                if anew {
                    freed.push((id, count));
                }
                Ok(anew)
            })?;
            self.deleted_roots.insert(root);
        }
        let mut forgotten: Vec<_> = self.buckets[parent].children.remove(name).into_iter().collect();
        while let Some(index) = forgotten.pop() {
            self.buckets[index].deleted = true;
            forgotten.extend(std::mem::take(&mut self.buckets[index].children).into_values());
        }
        self.remove(parent, name)
    }
}
