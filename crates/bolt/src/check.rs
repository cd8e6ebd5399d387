//! Whether a state of the database is sound: every page used once or free once, keys in order.
//!
//! Looks at each page once and keeps going after a fault, so that one call shows all of them.
//!
//! Source: bbolt `tx_check.go`.

use thiserror::Error;

use crate::format::{
    BucketHeader, FREELIST_NOT_PERSISTED, Page, PageError, PageFault, PageId, PageKind, parse_freelist,
};
use crate::freelist::Freelist;
use crate::reach::PageSet;
use crate::read::{Bucket, ReadTx};
use crate::snapshot::Snapshot;

/// Something that is wrong with a database.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum Fault {
    #[error(transparent)]
    Page(#[from] PageError),
    #[error("page {page}: already freed")]
    FreedTwice { page: PageId },
    #[error("page {page}: reachable freed")]
    ReachableFreed { page: PageId },
    #[error("page {page}: unreachable unfreed")]
    UnreachableUnfreed { page: PageId },
    #[error("page {page}: the first key is less than the key of the page in its parent {parent}")]
    BelowParentKey { page: PageId, parent: PageId },
    #[error("page {page}: key {index} is not less than the next key of an ancestor")]
    BeyondParentKey { page: PageId, index: usize },
    #[error("page {page}: key {index} is empty")]
    EmptyKey { page: PageId, index: usize },
}

impl ReadTx {
    /// All faults of this state; none if it is sound. Reads every page in use once.
    pub fn check(&self) -> Vec<Fault> {
        let mut check = Check::new(&self.snapshot);
        check.run();
        check.faults
    }
}

/// A page that is still to be looked at, with what its ancestors say about its keys.
struct Visit<'a> {
    id: PageId,
    parent: PageId,
    lower: Option<&'a [u8]>,
    upper: Option<&'a [u8]>,
    kind: Option<PageKind>,
}

impl Visit<'_> {
    /// The root of a tree, of whose keys nobody says anything.
    fn of_root(id: PageId) -> Self {
        Self { id, parent: id, lower: None, upper: None, kind: None }
    }
}

struct Check<'a> {
    snapshot: &'a Snapshot,
    used: PageSet,
    free: Option<PageSet>,
    faults: Vec<Fault>,
    waiting: Vec<Visit<'a>>,
    /// Also find what is not damage but must not be written: see [`Check::shape`].
    strict: bool,
}

impl<'a> Check<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        let used = PageSet::new(snapshot.meta.high_water);
        Self { snapshot, used, free: None, faults: Vec::new(), waiting: Vec::new(), strict: false }
    }

    fn run(&mut self) {
        self.used.insert(0);
        self.used.insert(1);
        self.read_freelist();
        let root = self.snapshot.meta.root;
        self.waiting.push(Visit::of_root(root));
        while let Some(visit) = self.waiting.pop() {
            if let Err(error) = self.visit(visit) {
                self.faults.push(error.into());
            }
        }
        // Without a persisted list every page that is not in use is free by definition.
        if let Some(free) = self.free.take() {
            for page in (0..self.snapshot.meta.high_water).filter(|page| !self.used.contains(*page)) {
                if !free.contains(page) {
                    self.faults.push(Fault::UnreachableUnfreed { page });
                }
            }
        }
    }

    fn read_freelist(&mut self) {
        let id = self.snapshot.meta.freelist;
        if id == FREELIST_NOT_PERSISTED {
            return;
        }
        let listed = self.snapshot.raw(id).and_then(|(header, bytes)| {
            let ids = parse_freelist(bytes, id)?;
            Ok((u64::from(header.overflow) + 1, ids))
        });
        let high_water = self.snapshot.meta.high_water;
        let mut free = PageSet::new(high_water);
        match listed {
            Err(error) => self.faults.push(error.into()),
            Ok((pages, ids)) => {
                for page in ids {
                    if page < 2 || page >= high_water {
                        self.faults.push(PageFault::FreeId { id: page }.on(id).into());
                    } else if !free.insert(page) {
                        self.faults.push(Fault::FreedTwice { page });
                    }
                }
                self.free = Some(free);
                self.mark(id, pages);
            }
        }
    }

    /// Notes pages as used; `false` if one of them was already.
    fn mark(&mut self, id: PageId, pages: u64) -> bool {
        let mut first_time = true;
        for page in id..id + pages {
            if !self.used.insert(page) {
                self.faults.push(PageFault::MultipleReferences.on(page).into());
                first_time = false;
            }
            if self.free.as_ref().is_some_and(|free| free.contains(page)) {
                self.faults.push(Fault::ReachableFreed { page });
            }
        }
        first_time
    }

    fn visit(&mut self, visit: Visit<'a>) -> Result<(), PageError> {
        let (header, bytes) = self.snapshot.raw(visit.id)?;
        if !self.mark(visit.id, u64::from(header.overflow) + 1) {
            return Ok(());
        }
        let page = Page::of(bytes, header, visit.id)?;
        if visit.kind.is_some_and(|kind| kind != page.kind()) {
            self.faults.push(PageFault::MixedSiblings.on(visit.id).into());
        }
        let is_root = visit.id == visit.parent;
        if page.count() == 0 && !(is_root && page.is_leaf()) {
            return Err(PageFault::Empty.on(visit.id));
        }
        if self.strict && !is_root {
            self.shape(&page);
        }
        self.keys(&page, &visit)?;
        if page.is_leaf() { self.buckets(&page) } else { self.children(&page, &visit) }
    }

    /// A branch below the root has at least two children: bbolt panics on others when it merges.
    fn shape(&self, page: &Page<'_>) {
        assert!(page.is_leaf() || page.count() >= 2, "page {} has only one child", page.id());
    }

    fn keys(&mut self, page: &Page<'a>, visit: &Visit<'a>) -> Result<(), PageError> {
        let id = page.id();
        let mut before: Option<&[u8]> = None;
        for index in 0..page.count() {
            let key = page.key(index)?;
            if key.is_empty() {
                self.faults.push(Fault::EmptyKey { page: id, index });
            }
            if before.is_some_and(|before| key <= before) {
                self.faults.push(PageFault::KeyOrder { index }.on(id).into());
            }
            if index == 0 && visit.lower.is_some_and(|lower| key < lower) {
                self.faults.push(Fault::BelowParentKey { page: id, parent: visit.parent });
            }
            if visit.upper.is_some_and(|upper| key >= upper) {
                self.faults.push(Fault::BeyondParentKey { page: id, index });
            }
            before = Some(key);
        }
        Ok(())
    }

    fn children(&mut self, page: &Page<'a>, visit: &Visit<'a>) -> Result<(), PageError> {
        let first = self.snapshot.page(page.branch(0)?.child).ok();
        let kind = first.map(|page| page.kind());
        for index in (0..page.count()).rev() {
            let element = page.branch(index)?;
            let upper = if index + 1 < page.count() { Some(page.key(index + 1)?) } else { visit.upper };
            let visit = Visit { id: element.child, parent: page.id(), lower: Some(element.key), upper, kind };
            self.waiting.push(visit);
        }
        Ok(())
    }

    fn buckets(&mut self, page: &Page<'a>) -> Result<(), PageError> {
        for index in 0..page.count() {
            let element = page.leaf(index)?;
            if !element.is_bucket {
                continue;
            }
            let root = BucketHeader::parse(element.value, page.id())?.root;
            if root != 0 {
                self.waiting.push(Visit::of_root(root));
                continue;
            }
            let inline = Bucket::parse(self.snapshot, element.value, page.id())?.first_page()?;
            // bbolt's check passes inline pages over; keys out of order are not found here either.
            self.keys(&inline, &Visit::of_root(page.id()))?;
            for index in 0..inline.count() {
                if inline.leaf(index)?.is_bucket {
                    return Err(PageFault::BucketInInline.on(page.id()));
                }
            }
        }
        Ok(())
    }
}

/// Panics unless the newest state is sound and each page is exactly one of used, free and pending.
pub(crate) fn assert_consistent(snapshot: &Snapshot, freelist: &Freelist) {
    let mut check = Check::new(snapshot);
    check.strict = true;
    check.run();
    assert!(check.faults.is_empty(), "after transaction {}: {:#?}", snapshot.meta.txid, check.faults);
    let mut pages = check.used;
    let mut waiting = freelist.all_ids(&[]);
    waiting.retain(|page| *page < snapshot.meta.high_water);
    assert_eq!(waiting.len() as u64, freelist.free_count() + freelist.pending_count(), "free pages counted");
    for page in waiting {
        assert!(pages.insert(page), "page {page} is used and free, or free twice");
    }
    let lost: Vec<_> = pages.gaps().collect();
    assert!(lost.is_empty(), "pages neither used nor free: {lost:?}");
}
