//! Which pages a tree uses: the base of the freelist that is rebuilt at open, of deleting buckets
//! and of `check`.
//!
//! Works with a list of its own instead of recursion and looks at each page at most once, so it
//! ends on every input.

use crate::format::{BucketHeader, Page, PageError, PageFault, PageId};
use crate::read::Bucket;
use crate::snapshot::Snapshot;

/// A set of page ids below a bound.
pub(crate) struct PageSet {
    words: Vec<u64>,
    bound: PageId,
}

impl PageSet {
    pub(crate) fn new(bound: PageId) -> Self {
        Self { words: vec![0; bound.div_ceil(64) as usize], bound }
    }

    /// Adds `id`; `false` if it was there.
    ///
    /// # Panics
    /// If `id` is not below the bound.
    pub(crate) fn insert(&mut self, id: PageId) -> bool {
        assert!(id < self.bound, "page ids are checked against the high-water mark before");
        let word = &mut self.words[(id / 64) as usize];
        let bit = 1 << (id % 64);
        let added = *word & bit == 0;
        *word |= bit;
        added
    }

    pub(crate) fn contains(&self, id: PageId) -> bool {
        id < self.bound && self.words[(id / 64) as usize] & (1 << (id % 64)) != 0
    }

    /// The maximal runs of ids that are not in the set, as (first, count), ascending.
    pub(crate) fn gaps(&self) -> impl Iterator<Item = (PageId, u64)> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let start = self.find(next, false)?;
            let end = self.find(start, true).unwrap_or(self.bound);
            next = end;
            Some((start, end - start))
        })
    }

    /// The first id from `from` on whose membership is `member`.
    fn find(&self, from: PageId, member: bool) -> Option<PageId> {
        let mut id = from;
        while id < self.bound {
            let word = self.words[(id / 64) as usize];
            let wanted = if member { word } else { !word } >> (id % 64);
            if wanted != 0 {
                return Some(id + u64::from(wanted.trailing_zeros())).filter(|id| *id < self.bound);
            }
            id = (id / 64 + 1) * 64;
        }
        None
    }
}

/// Calls `visit` with each span (first page, number of pages) of the tree at `root` and of all
/// buckets nested in it. A page whose `visit` says `false` is not looked into. Ends with an error
/// once there were more visits than there are pages.
pub(crate) fn for_each_span(
    snapshot: &Snapshot,
    root: PageId,
    mut visit: impl FnMut(PageId, u64) -> Result<bool, PageError>,
) -> Result<(), PageError> {
    let mut waiting = vec![root];
    let mut visits = 0;
    while let Some(id) = waiting.pop() {
        visits += 1;
        if visits > snapshot.meta.high_water {
            return Err(PageFault::MultipleReferences.on(id));
        }
        let (header, bytes) = snapshot.raw(id)?;
        if !visit(id, u64::from(header.overflow) + 1)? {
            continue;
        }
        let page = Page::of(bytes, header, id)?;
        if page.is_leaf() {
            for index in 0..page.count() {
                let element = page.leaf(index)?;
                if element.is_bucket {
                    waiting.extend(nested_root(snapshot, element.value, id)?);
                }
            }
        } else {
            // Backwards, so that the stack gives the children in order and reads move forward.
            for index in (0..page.count()).rev() {
                waiting.push(page.branch(index)?.child);
            }
        }
    }
    Ok(())
}

/// Root page of the bucket in this value; `None` if the bucket is inline.
fn nested_root(snapshot: &Snapshot, value: &[u8], holder: PageId) -> Result<Option<PageId>, PageError> {
    let header = BucketHeader::parse(value, holder)?;
    if header.root != 0 {
        return Ok(Some(header.root));
    }
    let page = Bucket::parse(snapshot, value, holder)?.first_page()?;
    for index in 0..page.count() {
        if page.leaf(index)?.is_bucket {
            return Err(PageFault::BucketInInline.on(holder));
        }
    }
    Ok(None)
}

/// All pages in use: the meta pages, the persisted freelist and everything under the root.
/// A page that is used twice is an error.
pub(crate) fn pages_in_use(snapshot: &Snapshot) -> Result<PageSet, PageError> {
    let meta = &snapshot.meta;
    let mut used = PageSet::new(meta.high_water);
    used.insert(0);
    used.insert(1);
    let mut mark = |id: PageId, count: u64| {
        for page in id..id + count {
            if !used.insert(page) {
                return Err(PageFault::MultipleReferences.on(page));
            }
        }
        Ok(true)
    };
    if meta.freelist != crate::format::FREELIST_NOT_PERSISTED {
        let (header, _) = snapshot.raw(meta.freelist)?;
        mark(meta.freelist, u64::from(header.overflow) + 1)?;
    }
    for_each_span(snapshot, meta.root, mark)?;
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_the_complement() {
        let mut set = PageSet::new(200);
        let members = [0, 1, 5, 63, 64, 65, 127, 130, 199];
        for id in members {
            assert!(set.insert(id));
            assert!(!set.insert(id));
        }
        let missing: Vec<PageId> = set.gaps().flat_map(|(start, count)| start..start + count).collect();
        let expected: Vec<PageId> = (0..200).filter(|id| !members.contains(id)).collect();
        assert_eq!(missing, expected);
        assert_eq!(PageSet::new(0).gaps().count(), 0);
    }
}
