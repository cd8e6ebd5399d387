//! Commit: from changed nodes to a durable new state.
//!
//! 1. merge nodes that lost keys ([`crate::rebalance`]), children buckets before their parents;
//! 2. split nodes to pages and give them page ids, again from the inside out: first the children
//!    buckets, in a tree first the leaves, so that each parent learns its children's new ids;
//! 3. write the freelist, if it is kept in the file;
//! 4. let the file grow, and the map with it;
//! 5. write the pages, ascending and with neighbours in one write; sync;
//! 6. write the meta page; sync;
//! 7. show the new state to readers.
//!
//! No page that the state before can reach is overwritten, so until step 6 is durable a crash
//! leaves that state. A failure in steps 1 to 3 undoes the transaction; one in steps 4 to 6 also
//! poisons the database, as nothing is known about what the disk will hold.
//!
//! Source: bbolt `tx.go` (`Commit`), `node.go` (`spill`, `split`), `bucket.go` (`spill`), `db.go` (`grow`).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use env::Mapping;

use crate::db::{Db, Writer, map_len};
use crate::error::Error;
use crate::format::{
    BUCKET_HEADER_BYTES, FREELIST_NOT_PERSISTED, MAX_ELEMENTS, PAGE_HEADER_BYTES, PageId, freelist_image,
    freelist_pages,
};
use crate::freelist::Span;
use crate::node::{Body, BranchEntry, NodeId, Place};
use crate::snapshot::Snapshot;
use crate::write::{BucketIndex, Trees, WriteTx};

/// What a commit did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitStats {
    /// The transaction; without changes the one before.
    pub txid: u64,
    /// Number of pages written, the meta page not counted.
    pub pages: u64,
    /// Number of write calls for them.
    pub writes: u64,
    /// Time spent merging; zero if the options name no clock.
    pub rebalance: Duration,
    /// Time spent splitting; zero if the options name no clock.
    pub spill: Duration,
    /// Time spent writing and syncing; zero if the options name no clock.
    pub write: Duration,
}

/// Nodes with at most this many elements are not split, however large.
const MIN_SPLIT_ELEMENTS: usize = 4;
/// Least elements on each side of a split.
const MIN_SIDE_ELEMENTS: usize = 2;
/// The file grows in steps of this size.
const GROWTH_BYTES: u64 = 16 << 20;
/// Pages are gathered up to about this many bytes for one write.
const WRITE_BYTES: usize = 1 << 20;

/// A page to be written: entries of a node, and its place.
struct Output {
    id: PageId,
    pages: u64,
    node: NodeId,
    entries: Range<usize>,
}

/// Where a node went: its first key and its page.
struct Piece {
    key: (Place, u16),
    id: PageId,
}

impl WriteTx<'_> {
    /// Makes the changes durable and visible. Without changes nothing is written.
    pub fn commit(mut self) -> Result<CommitStats, Error> {
        let db = self.db;
        if !self.trees.changed() {
            return Ok(CommitStats { txid: self.trees.meta.txid - 1, ..CommitStats::default() });
        }
        let mut spill = Spill::new(&mut self.writer);
        let prepared = spill.prepare(db, &mut self.trees);
        let Spill { outputs, allocated, freelist_page, .. } = spill;
        let finished = prepared.and_then(|stats| {
            let mut write = Write { db, writer: &mut self.writer, trees: &self.trees };
            let write_time = db.timer();
            let map = poison(db, write.grow())?;
            let mut stats = poison(db, write.pages(outputs, freelist_page, stats))?;
            stats.write = write_time();
            Ok((map, stats))
        });
        match finished {
            Ok((map, stats)) => {
                self.publish(map, &allocated);
                Ok(stats)
            }
            Err(error) => {
                // Pages above the old mark vanish with the new meta; the others become free again.
                let old_mark = self.trees.nodes.base.meta.high_water;
                for (start, count) in allocated.into_iter().filter(|(start, _)| *start < old_mark) {
                    self.writer.freelist.give(start, count);
                }
                Err(error)
            }
        }
    }

    fn publish(&mut self, map: Arc<dyn Mapping>, allocated: &[Span]) {
        let shared = &self.db.shared;
        let meta = self.trees.meta;
        let snapshot = Arc::new(Snapshot::new(map, Some(shared.file.clone()), meta));
        self.trees.nodes.base = snapshot.clone();
        let watched = shared.versions.lock().publish(snapshot.clone());
        let freed = std::mem::take(&mut self.trees.freed);
        self.writer.freelist.commit(meta.txid, freed, allocated, watched);
        self.db.count_pages(&self.writer.freelist);
        if shared.verify {
            crate::check::assert_consistent(&snapshot, &self.writer.freelist);
        }
    }
}

/// Passes a result on; after a failed write or sync no write is accepted any more.
fn poison<T>(db: &Db, result: Result<T, Error>) -> Result<T, Error> {
    if matches!(result, Err(Error::Io { .. })) {
        db.shared.poisoned.store(true, Ordering::Release);
    }
    result
}

impl Trees {
    fn changed(&self) -> bool {
        !self.freed.is_empty() || self.buckets.iter().any(|bucket| bucket.changed())
    }
}

/// Steps 2 and 3.
struct Spill<'a> {
    writer: &'a mut Writer,
    outputs: Vec<Output>,
    allocated: Vec<Span>,
    /// The freelist as a page image, and its place.
    freelist_page: Option<(PageId, Vec<u8>)>,
}

impl<'a> Spill<'a> {
    fn new(writer: &'a mut Writer) -> Self {
        Self { writer, outputs: Vec::new(), allocated: Vec::new(), freelist_page: None }
    }

    fn prepare(&mut self, db: &Db, trees: &mut Trees) -> Result<CommitStats, Error> {
        let mut stats = CommitStats { txid: trees.meta.txid, ..CommitStats::default() };
        let time = db.timer();
        for bucket in (0..trees.buckets.len()).rev() {
            trees.rebalance(bucket)?;
        }
        stats.rebalance = time();
        let time = db.timer();
        for bucket in (0..trees.buckets.len()).rev() {
            self.spill_bucket(trees, bucket)?;
        }
        self.write_freelist(db, trees);
        self.outputs.sort_unstable_by_key(|output| output.id);
        stats.spill = time();
        Ok(stats)
    }

    /// Takes `count` contiguous pages.
    fn allocate(&mut self, trees: &mut Trees, count: u64) -> PageId {
        let id = self.writer.freelist.take(count).unwrap_or_else(|| {
            let id = trees.meta.high_water;
            trees.meta.high_water += count;
            id
        });
        self.allocated.push((id, count));
        id
    }

    fn spill_bucket(&mut self, trees: &mut Trees, bucket: BucketIndex) -> Result<(), Error> {
        if !trees.buckets[bucket].changed() {
            return Ok(());
        }
        let is_root = bucket == 0;
        if let Some(root) = trees.buckets[bucket].root {
            if !is_root && trees.fits_inline(root) {
                return self.spill_inline(trees, bucket, root);
            }
            let fill_percent = trees.buckets[bucket].fill_percent;
            trees.buckets[bucket].header.root = self.spill_root(trees, root, fill_percent);
        }
        let header = trees.buckets[bucket].header;
        if is_root {
            trees.meta.root = header.root;
            trees.meta.root_sequence = header.sequence;
            return Ok(());
        }
        if header.root == 0 {
            // Only the sequence of an inline bucket changed.
            let root = trees.root_node(bucket)?;
            return self.spill_inline(trees, bucket, root);
        }
        store_header(trees, bucket, &header.to_bytes(), &[])
    }

    fn spill_inline(&mut self, trees: &mut Trees, bucket: BucketIndex, root: NodeId) -> Result<(), Error> {
        let size = trees.nodes[root].body.size();
        let mut image = vec![0; size];
        trees.nodes.write_page(root, 0..trees.nodes[root].body.len(), 0, 0, &mut image);
        trees.free_origin(root);
        trees.buckets[bucket].header.root = 0;
        let header = trees.buckets[bucket].header.to_bytes();
        store_header(trees, bucket, &header, &image)
    }

    /// Spills a tree and puts new roots on top until there is one page; returns its id.
    fn spill_root(&mut self, trees: &mut Trees, root: NodeId, fill_percent: f32) -> PageId {
        let mut pieces = self.spill_node(trees, root, fill_percent);
        while pieces.len() > 1 {
            let entries = pieces.iter().map(branch_entry).collect();
            let above = trees.nodes.add(Body::Branch(entries), None);
            pieces = self.split(trees, above, fill_percent);
        }
        pieces[0].id
    }

    /// Spills a node after its children; the depth is bounded as loading a node bounds it.
    fn spill_node(&mut self, trees: &mut Trees, node: NodeId, fill_percent: f32) -> Vec<Piece> {
        if let Body::Branch(entries) = &mut trees.nodes[node].body {
            let old = std::mem::take(entries);
            let mut new = Vec::with_capacity(old.len() + 4);
            for entry in old {
                match entry.node {
                    None => new.push(entry),
                    Some(child) => {
                        new.extend(self.spill_node(trees, child, fill_percent).iter().map(branch_entry));
                    }
                }
            }
            trees.nodes[node].body = Body::Branch(new);
        }
        trees.free_origin(node);
        self.split(trees, node, fill_percent)
    }

    /// Cuts a node into pages.
    fn split(&mut self, trees: &mut Trees, node: NodeId, fill_percent: f32) -> Vec<Piece> {
        let page_size = trees.nodes.base.page_size();
        let threshold = (page_size as f64 * f64::from(fill_percent)) as usize;
        let mut pieces = Vec::new();
        let count = trees.nodes[node].body.len();
        let mut rest_size = trees.nodes[node].body.size();
        let mut start = 0;
        loop {
            let body = &trees.nodes[node].body;
            let (end, size) = match fits_one_page(count - start, rest_size, page_size) {
                true => (count, rest_size),
                false => split_point(body, start, threshold),
            };
            rest_size -= size - PAGE_HEADER_BYTES;
            let key = if count > 0 { trees.nodes.key_place(node, start) } else { (Place::in_file(0), 0) };
            let pages = size.div_ceil(page_size) as u64;
            let id = self.allocate(trees, pages);
            self.outputs.push(Output { id, pages, node, entries: start..end });
            pieces.push(Piece { key, id });
            start = end;
            if start == count {
                return pieces;
            }
        }
    }

    fn write_freelist(&mut self, db: &Db, trees: &mut Trees) {
        if let Some(span) = db.freelist_span(&trees.nodes.base) {
            trees.freed.push(span);
        }
        if db.shared.no_freelist_sync {
            trees.meta.freelist = FREELIST_NOT_PERSISTED;
            return;
        }
        // Taking the list's own pages can only make it shorter.
        let page_size = trees.nodes.base.page_size();
        let freed: u64 = trees.freed.iter().map(|(_, count)| count).sum();
        let listed = self.writer.freelist.free_count() + self.writer.freelist.pending_count() + freed;
        let pages = freelist_pages(listed as usize, page_size);
        let id = self.allocate(trees, pages as u64);
        let ids = self.writer.freelist.all_ids(&trees.freed);
        self.freelist_page = Some((id, freelist_image(&ids, id, pages, page_size)));
        trees.meta.freelist = id;
    }
}

fn branch_entry(piece: &Piece) -> BranchEntry {
    BranchEntry { place: piece.key.0, key_len: piece.key.1, node: None, child: piece.id }
}

fn store_header(trees: &mut Trees, bucket: BucketIndex, header: &[u8], image: &[u8]) -> Result<(), Error> {
    let (parent, name) = (trees.buckets[bucket].parent, std::mem::take(&mut trees.buckets[bucket].name));
    trees.put(parent, &name, &[header, image], true)
}

fn fits_one_page(count: usize, size: usize, page_size: usize) -> bool {
    count <= MIN_SPLIT_ELEMENTS || (size <= page_size && count <= MAX_ELEMENTS)
}

/// End and size of the page that begins with entry `start`, where the rest does not fit one page.
fn split_point(body: &Body, start: usize, threshold: usize) -> (usize, usize) {
    let mut size = PAGE_HEADER_BYTES;
    let last = (body.len() - MIN_SIDE_ELEMENTS).min(start + MAX_ELEMENTS);
    let mut end = start;
    while end < last {
        let entry = body.entry_size(end);
        if end - start >= MIN_SIDE_ELEMENTS && size + entry > threshold {
            break;
        }
        size += entry;
        end += 1;
    }
    (end, size)
}

impl Trees {
    /// The pages that a node came from become free with this transaction.
    pub(crate) fn free_origin(&mut self, node: NodeId) {
        self.freed.extend(self.nodes[node].origin.take());
    }

    /// Whether a bucket with this root is kept inside its parent.
    fn fits_inline(&self, root: NodeId) -> bool {
        let node = &self.nodes[root];
        match &node.body {
            Body::Leaf(entries) => {
                node.body.size() <= self.nodes.base.page_size() / 4
                    && !entries.iter().any(|entry| entry.is_bucket)
            }
            Body::Branch(_) => false,
        }
    }
}

const _: () = assert!(BUCKET_HEADER_BYTES == PAGE_HEADER_BYTES);

/// Steps 4 to 6.
struct Write<'a> {
    db: &'a Db,
    writer: &'a mut Writer,
    trees: &'a Trees,
}

impl Write<'_> {
    /// Lets the file grow over the new high-water mark; returns a map that covers it.
    fn grow(&mut self) -> Result<Arc<dyn Mapping>, Error> {
        let (old, new) = (&self.trees.nodes.base, &self.trees.meta);
        let page_size = old.page_size() as u64;
        let needed = new.high_water * page_size;
        let mut map = old.map.clone();
        if needed > map.len() as u64 {
            let bytes = map_len(needed);
            map = self.db.shared.file.map(bytes as usize).map_err(|source| Error::Map { bytes, source })?;
            if needed > map.len() as u64 {
                let source = std::io::Error::from(std::io::ErrorKind::FileTooLarge);
                return Err(Error::Map { bytes, source });
            }
        }
        // The growth rule looks at the size of the map as bbolt does: small files double.
        let target = needed + page_size;
        if new.high_water > old.meta.high_water && self.writer.file_len < target {
            let len = if map.len() as u64 <= GROWTH_BYTES { map.len() as u64 } else { target + GROWTH_BYTES };
            let len = len.max(needed);
            let file = &self.db.shared.file;
            file.set_len(len).map_err(io("extend the file"))?;
            if !self.db.shared.no_sync {
                file.sync_all().map_err(io("sync the extended file"))?;
            }
            self.writer.file_len = len;
            if self.db.shared.lock_memory {
                // Pages of the old map that are in the new one as well would count twice.
                if !Arc::ptr_eq(&map, &old.map) {
                    old.map.unlock();
                }
                map.lock(len as usize).map_err(|source| Error::LockMemory { bytes: len, source })?;
            }
        }
        Ok(map)
    }

    fn pages(
        &mut self,
        outputs: Vec<Output>,
        freelist_page: Option<(PageId, Vec<u8>)>,
        mut stats: CommitStats,
    ) -> Result<CommitStats, Error> {
        let page_size = self.trees.nodes.base.page_size();
        let file = self.db.shared.file.clone();
        let mut write = |bytes: &[u8], id: PageId| {
            if bytes.is_empty() {
                return Ok(());
            }
            stats.writes += 1;
            stats.pages += (bytes.len() / page_size) as u64;
            file.write_at(bytes, id * page_size as u64).map_err(io("write pages"))
        };
        // Gathered so far: `used` bytes of the buffer, to be written at page `start`.
        let mut buffer = std::mem::take(&mut self.writer.buffer);
        let (mut start, mut end, mut used) = (0, 0, 0);
        for output in outputs {
            let bytes = output.pages as usize * page_size;
            if output.id != end || used + bytes > WRITE_BYTES {
                write(&buffer[..used], start)?;
                (start, used) = (output.id, 0);
            }
            end = output.id + output.pages;
            if buffer.len() < used + bytes {
                buffer.resize(used + bytes, 0);
            }
            let page = &mut buffer[used..used + bytes];
            self.trees.nodes.write_page(
                output.node,
                output.entries,
                output.id,
                output.pages as u32 - 1,
                page,
            );
            used += bytes;
        }
        write(&buffer[..used], start)?;
        if let Some((id, image)) = freelist_page {
            write(&image, id)?;
        }
        self.sync("sync pages")?;

        let meta = &self.trees.meta;
        let id = meta.txid % 2;
        file.write_at(&meta.page(id), id * page_size as u64).map_err(io("write the meta page"))?;
        self.sync("sync the meta page")?;
        buffer.truncate(WRITE_BYTES);
        buffer.shrink_to(WRITE_BYTES);
        self.writer.buffer = buffer;
        Ok(stats)
    }

    fn sync(&self, action: &'static str) -> Result<(), Error> {
        if self.db.shared.no_sync { Ok(()) } else { self.db.shared.file.sync_data().map_err(io(action)) }
    }
}

fn io(action: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { action, source }
}
