//! Nodes: pages that a write transaction has taken into memory to change them.
//!
//! A node is a list of small fixed-size entries. Keys and values are not copied into it: each
//! entry says with a [`Place`] where its bytes are, either on the mapped page they were read
//! from, which stays as it is until the transaction ends, or in the transaction's [`Arena`].
//! A value always stands right behind its key, as in the file.

use std::sync::Arc;

use crate::format::{
    ELEMENT_BYTES, FLAG_BRANCH, FLAG_LEAF, PAGE_HEADER_BYTES, Page, PageError, PageFault, PageHeader, PageId,
    write_branch_element, write_leaf_element,
};
use crate::snapshot::Snapshot;

/// Where bytes are: a position in the file, or with the top bit set a chunk and a position in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u64);

const IN_ARENA: u64 = 1 << 63;

impl Place {
    pub(crate) fn in_file(offset: usize) -> Self {
        Self(offset as u64)
    }

    /// The place `count` bytes further on.
    pub(crate) fn plus(self, count: usize) -> Self {
        Self(self.0 + count as u64)
    }
}

/// Bytes of keys and values that were put, in chunks that are filled one after the other.
#[derive(Default)]
pub(crate) struct Arena {
    chunks: Vec<Vec<u8>>,
    /// Empty chunks kept from earlier transactions.
    spare: Vec<Vec<u8>>,
}

const CHUNK_BYTES: usize = 256 * 1024;
const SPARE_CHUNKS: usize = 8;

impl Arena {
    /// Appends a key and its value.
    pub(crate) fn push(&mut self, parts: &[&[u8]]) -> Place {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let full = self.chunks.last().is_none_or(|chunk| chunk.capacity() - chunk.len() < len);
        if full {
            let chunk = match self.spare.pop() {
                Some(chunk) if len <= chunk.capacity() => chunk,
                _ => Vec::with_capacity(len.max(CHUNK_BYTES)),
            };
            self.chunks.push(chunk);
        }
        let index = self.chunks.len() - 1;
        let chunk = &mut self.chunks[index];
        let place = Place(IN_ARENA | (index as u64) << 32 | chunk.len() as u64);
        for part in parts {
            chunk.extend_from_slice(part);
        }
        place
    }

    fn bytes(&self, place: Place, len: usize) -> &[u8] {
        let chunk = ((place.0 & !IN_ARENA) >> 32) as usize;
        let at = (place.0 & u64::from(u32::MAX)) as usize;
        &self.chunks[chunk][at..at + len]
    }

    /// Forgets everything, keeping some memory for the next transaction.
    pub(crate) fn clear(&mut self) {
        for mut chunk in self.chunks.drain(..) {
            if self.spare.len() < SPARE_CHUNKS && chunk.capacity() == CHUNK_BYTES {
                chunk.clear();
                self.spare.push(chunk);
            }
        }
    }
}

/// A key with its value in a leaf node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeafEntry {
    pub(crate) place: Place,
    pub(crate) value_len: u32,
    pub(crate) key_len: u16,
    pub(crate) is_bucket: bool,
}

impl LeafEntry {
    fn len(&self) -> usize {
        usize::from(self.key_len) + self.value_len as usize
    }

    pub(crate) fn value_place(&self) -> Place {
        self.place.plus(usize::from(self.key_len))
    }
}

/// A child in a branch node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BranchEntry {
    pub(crate) place: Place,
    pub(crate) key_len: u16,
    /// The child's node, if it is in memory.
    pub(crate) node: Option<NodeId>,
    /// The child's page; without meaning if `node` is set.
    pub(crate) child: PageId,
}

/// Number of a node in its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeId(u32);

/// A page in memory.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) body: Body,
    /// First page and number of pages that it was read from; `None` if it is new, came from an
    /// inline bucket, or gave its pages back already.
    pub(crate) origin: Option<(PageId, u64)>,
    /// Something was deleted from it, so it may have to be merged with a neighbour.
    pub(crate) unbalanced: bool,
}

/// Its entries, ascending by key.
#[derive(Debug)]
pub(crate) enum Body {
    Leaf(Vec<LeafEntry>),
    Branch(Vec<BranchEntry>),
}

impl Body {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Branch(entries) => entries.len(),
        }
    }

    /// Bytes as a page.
    pub(crate) fn size(&self) -> usize {
        PAGE_HEADER_BYTES + (0..self.len()).map(|index| self.entry_size(index)).sum::<usize>()
    }

    /// Bytes that one entry takes on a page.
    pub(crate) fn entry_size(&self, index: usize) -> usize {
        ELEMENT_BYTES
            + match self {
                Self::Leaf(entries) => entries[index].len(),
                Self::Branch(entries) => usize::from(entries[index].key_len),
            }
    }

    fn key_place(&self, index: usize) -> (Place, u16) {
        match self {
            Self::Leaf(entries) => (entries[index].place, entries[index].key_len),
            Self::Branch(entries) => (entries[index].place, entries[index].key_len),
        }
    }
}

/// All nodes of a transaction and the bytes they speak of.
pub(crate) struct Nodes {
    pub(crate) base: Arc<Snapshot>,
    pub(crate) arena: Arena,
    list: Vec<Node>,
}

impl std::ops::Index<NodeId> for Nodes {
    type Output = Node;

    fn index(&self, id: NodeId) -> &Node {
        &self.list[id.0 as usize]
    }
}

impl std::ops::IndexMut<NodeId> for Nodes {
    fn index_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.list[id.0 as usize]
    }
}

impl Nodes {
    pub(crate) fn new(base: Arc<Snapshot>, arena: Arena) -> Self {
        Self { base, arena, list: Vec::new() }
    }

    pub(crate) fn add(&mut self, body: Body, origin: Option<(PageId, u64)>) -> NodeId {
        self.list.push(Node { body, origin, unbalanced: false });
        NodeId(self.list.len() as u32 - 1)
    }

    /// Takes page `id` into memory.
    pub(crate) fn load(&mut self, id: PageId) -> Result<NodeId, PageError> {
        let (header, bytes) = self.base.raw(id)?;
        let page = Page::of(bytes, header, id)?;
        let body = entries_of(&page, Place::in_file(id as usize * self.base.page_size()))?;
        Ok(self.add(body, Some((id, u64::from(header.overflow) + 1))))
    }

    /// Takes the page image of an inline bucket into memory.
    pub(crate) fn load_inline(&mut self, place: Place, len: usize) -> Result<NodeId, PageError> {
        let page = Page::inline(self.bytes(place, len), 0)?;
        let body = entries_of(&page, place)?;
        Ok(self.add(body, None))
    }

    #[inline]
    pub(crate) fn bytes(&self, place: Place, len: usize) -> &[u8] {
        if place.0 & IN_ARENA != 0 {
            self.arena.bytes(place, len)
        } else {
            self.base.bytes(place.0 as usize, len)
        }
    }

    pub(crate) fn key(&self, (place, len): (Place, u16)) -> &[u8] {
        self.bytes(place, usize::from(len))
    }

    /// Key `index` of a node.
    pub(crate) fn key_of(&self, id: NodeId, index: usize) -> &[u8] {
        self.key(self[id].body.key_place(index))
    }

    /// Place of key `index` of a node.
    pub(crate) fn key_place(&self, id: NodeId, index: usize) -> (Place, u16) {
        self[id].body.key_place(index)
    }

    pub(crate) fn value(&self, entry: &LeafEntry) -> &[u8] {
        self.bytes(entry.value_place(), entry.value_len as usize)
    }

    /// Where `key` stands in a node, or would stand.
    pub(crate) fn search(&self, id: NodeId, key: &[u8]) -> Result<usize, usize> {
        match &self[id].body {
            Body::Leaf(entries) => {
                entries.binary_search_by(|entry| self.key((entry.place, entry.key_len)).cmp(key))
            }
            Body::Branch(entries) => {
                entries.binary_search_by(|entry| self.key((entry.place, entry.key_len)).cmp(key))
            }
        }
    }

    /// Index of the child of a branch node under which `key` belongs.
    pub(crate) fn child_index(&self, id: NodeId, key: &[u8]) -> usize {
        self.search(id, key).unwrap_or_else(|index| index.saturating_sub(1))
    }

    /// Writes entries `range` of a node as page `id`, `page.len()` bytes long with its overflow.
    pub(crate) fn write_page(
        &self,
        node: NodeId,
        range: std::ops::Range<usize>,
        id: PageId,
        overflow: u32,
        page: &mut [u8],
    ) {
        let count = range.len();
        let body = &self[node].body;
        let flags = if matches!(body, Body::Leaf(_)) { FLAG_LEAF } else { FLAG_BRANCH };
        PageHeader { id, flags, count: count as u16, overflow }.write(page);
        let mut position = PAGE_HEADER_BYTES + ELEMENT_BYTES * count;
        // Keys and values that lie one behind the other are copied in one piece.
        let mut run: Option<(Place, usize)> = None;
        let mut write = position;
        let mut flush = |page: &mut [u8], run: Option<(Place, usize)>| {
            if let Some((place, len)) = run {
                page[write..write + len].copy_from_slice(self.bytes(place, len));
                write += len;
            }
        };
        for (index, at) in range.enumerate() {
            let (place, len) = match body {
                Body::Leaf(entries) => {
                    let entry = &entries[at];
                    let key_len = usize::from(entry.key_len);
                    let value_len = entry.value_len as usize;
                    write_leaf_element(page, index, u32::from(entry.is_bucket), position, key_len, value_len);
                    (entry.place, entry.len())
                }
                Body::Branch(entries) => {
                    let entry = &entries[at];
                    assert!(entry.node.is_none(), "children are written before their parent");
                    write_branch_element(page, index, position, usize::from(entry.key_len), entry.child);
                    (entry.place, usize::from(entry.key_len))
                }
            };
            position += len;
            run = match run {
                Some((start, sum)) if start.plus(sum) == place => Some((start, sum + len)),
                other => {
                    flush(page, other);
                    Some((place, len))
                }
            };
        }
        flush(page, run);
        page[position..].fill(0);
    }
}

/// The entries of a page whose first byte is at `start`. Other than a reader, a writer relies on
/// the order of the keys: with a wrong one it could write under another key than it read.
fn entries_of(page: &Page<'_>, start: Place) -> Result<Body, PageError> {
    let count = page.count();
    for index in 1..count {
        if page.key(index)? <= page.key(index - 1)? {
            return Err(PageFault::KeyOrder { index }.on(page.id()));
        }
    }
    if page.is_leaf() {
        let entry = |index| {
            page.leaf(index).map(|element| LeafEntry {
                place: start.plus(element.position),
                value_len: element.value.len() as u32,
                key_len: element.key.len() as u16,
                is_bucket: element.is_bucket,
            })
        };
        return Ok(Body::Leaf((0..count).map(entry).collect::<Result<_, _>>()?));
    }
    if count == 0 {
        return Err(PageFault::Empty.on(page.id()));
    }
    let entry = |index| {
        page.branch(index).map(|element| BranchEntry {
            place: start.plus(element.position),
            key_len: element.key.len() as u16,
            node: None,
            child: element.child,
        })
    };
    Ok(Body::Branch((0..count).map(entry).collect::<Result<_, _>>()?))
}
