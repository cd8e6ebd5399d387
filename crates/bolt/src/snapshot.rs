//! One committed state of the database: a meta and a view of the file. The only module with `unsafe`.
//!
//! Invariants that make the reads sound:
//! - `meta.high_water * page_size` bytes lie inside the file and inside the map (checked when the
//!   snapshot is made; the file is never shortened while it is open);
//! - pages that a snapshot can reach are never written while the snapshot lives: the writer works
//!   by copy-on-write and takes only pages from the freelist, which are released by the rules in
//!   [`crate::freelist`]. At open for writing the freelist is always made from the pages that are
//!   *not* reachable, and a page that is referenced twice is refused, so that also a damaged file
//!   cannot break this rule;
//! - only the holder of the file's lock writes to it.
//!
//! Pages 0 and 1 are rewritten in place, so they are read through the file and never from here.

use std::sync::Arc;

use env::{File, Mapping};

use crate::format::{Meta, Page, PageError, PageFault, PageHeader, PageId};

/// A committed state. Readers share it; it stays readable as long as anybody holds it.
pub(crate) struct Snapshot {
    pub(crate) map: Arc<dyn Mapping>,
    /// For reading free pages, which must not be read from the map; `None` for an image in memory.
    pub(crate) file: Option<Arc<dyn File>>,
    pub(crate) meta: Meta,
    page_size: usize,
    /// End of the last page below the high-water mark.
    limit: usize,
}

impl Snapshot {
    /// A state whose pages all lie inside the file, which the caller has checked.
    ///
    /// # Panics
    /// If the map is smaller than the database.
    pub(crate) fn new(map: Arc<dyn Mapping>, file: Option<Arc<dyn File>>, meta: Meta) -> Self {
        let page_size = meta.page_size as usize;
        let limit = meta.high_water as usize * page_size;
        assert!(limit <= map.len(), "the map covers all pages up to the high-water mark");
        Self { map, file, meta, page_size, limit }
    }

    pub(crate) fn page_size(&self) -> usize {
        self.page_size
    }

    /// Length of the database in bytes.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.limit as u64
    }

    /// Bytes at a position of the file, all of them on pages that this state can reach.
    ///
    /// # Panics
    /// If they reach outside the database or into a meta page.
    #[inline]
    pub(crate) fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        assert!(offset >= 2 * self.page_size && offset <= self.limit && len <= self.limit - offset);
        // SAFETY: the range was just checked to lie below the high-water mark and so inside the
        // file, and behind the meta pages. Nobody writes it while `self` lives: see the module.
        unsafe { self.map.slice(offset, len) }
    }

    /// The complete bytes of page `id`, overflow pages included, and its header.
    #[inline]
    pub(crate) fn raw(&self, id: PageId) -> Result<(PageHeader, &[u8]), PageError> {
        let high_water = self.meta.high_water;
        if id < 2 || id >= high_water {
            return Err(PageFault::OutOfBounds { high_water }.on(id));
        }
        let offset = id as usize * self.page_size;
        let mut bytes = self.bytes(offset, self.page_size);
        let header = PageHeader::parse(bytes).ok_or(PageFault::Truncated { count: 0 }.on(id))?;
        if header.id != id {
            return Err(PageFault::WrongId { found: header.id }.on(id));
        }
        if header.overflow > 0 {
            let pages = u64::from(header.overflow) + 1;
            if pages > high_water - id {
                return Err(PageFault::OverflowOutOfBounds { overflow: header.overflow, high_water }.on(id));
            }
            bytes = self.bytes(offset, pages as usize * self.page_size);
        }
        Ok((header, bytes))
    }

    /// Page `id` of a tree.
    #[inline]
    pub(crate) fn page(&self, id: PageId) -> Result<Page<'_>, PageError> {
        let (header, bytes) = self.raw(id)?;
        Page::of(bytes, header, id)
    }
}

/// A database image in memory as a [`Mapping`].
pub(crate) struct Image(pub(crate) Vec<u8>);

impl Mapping for Image {
    fn len(&self) -> usize {
        self.0.len()
    }

    unsafe fn slice(&self, offset: usize, len: usize) -> &[u8] {
        &self.0[offset..offset + len]
    }

    fn release_resident(&self) {}

    fn lock(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn unlock(&self) {}
}
