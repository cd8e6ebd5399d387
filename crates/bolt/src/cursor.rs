//! Walking a bucket in key order, without copying.
//!
//! On its way down the cursor checks that the keys of each page lie in the range that the parent
//! gives it. A page that is reachable twice cannot satisfy two ranges, so also on a damaged file
//! a walk ends after at most as many pages as the file has.

use crate::error::Error;
use crate::format::{MAX_DEPTH, Page, PageError, PageFault, PageId};
use crate::read::Bucket;

/// What stands under a key.
#[derive(Clone, Copy)]
pub enum Value<'tx> {
    /// A value.
    Data(&'tx [u8]),
    /// A nested bucket.
    Bucket(Bucket<'tx>),
}

impl<'tx> Value<'tx> {
    /// The value, if it is not a bucket.
    pub fn data(self) -> Option<&'tx [u8]> {
        match self {
            Self::Data(bytes) => Some(bytes),
            Self::Bucket(_) => None,
        }
    }
}

/// A position in a bucket.
///
/// A new cursor stands before the first key. `next` behind the last key and `prev` before the
/// first one give `None` and leave the cursor there; the opposite step comes back.
pub struct Cursor<'tx> {
    bucket: Bucket<'tx>,
    /// The pages from the root to the leaf, each with the index of the element in use.
    stack: Vec<Frame<'tx>>,
    place: Place,
}

#[derive(Clone, Copy)]
struct Frame<'tx> {
    page: Page<'tx>,
    index: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    BeforeFirst,
    On,
    BehindLast,
}

/// A key and what stands under it; `None` beyond the ends.
pub type Item<'tx> = Option<(&'tx [u8], Value<'tx>)>;

impl<'tx> Cursor<'tx> {
    pub(crate) fn new(bucket: Bucket<'tx>) -> Self {
        Self { bucket, stack: Vec::new(), place: Place::BeforeFirst }
    }

    /// Moves to the first key.
    pub fn first(&mut self) -> Result<Item<'tx>, Error> {
        self.restart()?;
        self.descend(|_| Ok(0))?;
        self.settle(Place::BehindLast)
    }

    /// Moves to the last key.
    pub fn last(&mut self) -> Result<Item<'tx>, Error> {
        self.restart()?;
        self.descend(|page| Ok(page.count().saturating_sub(1)))?;
        self.settle(Place::BeforeFirst)
    }

    /// Moves to `key`, or to the next one if it is absent.
    pub fn seek(&mut self, key: &[u8]) -> Result<Item<'tx>, Error> {
        self.restart()?;
        self.descend(|page| match page.is_leaf() {
            true => Ok(page.search(key)?.unwrap_or_else(|index| index)),
            false => page.child_index(key),
        })?;
        match self.stack.last() {
            Some(frame) if frame.index >= frame.page.count() => self.forward(),
            _ => self.settle(Place::BehindLast),
        }
    }

    /// Moves to the next key.
    #[allow(clippy::should_implement_trait, reason = "a cursor goes both ways and can fail")]
    #[inline]
    pub fn next(&mut self) -> Result<Item<'tx>, Error> {
        match self.place {
            Place::BeforeFirst => self.first(),
            Place::BehindLast => Ok(None),
            Place::On => {
                if let Some(frame) = self.stack.last_mut() {
                    frame.index += 1;
                    if frame.index < frame.page.count() {
                        return self.current();
                    }
                }
                self.forward()
            }
        }
    }

    /// Moves to the previous key.
    pub fn prev(&mut self) -> Result<Item<'tx>, Error> {
        match self.place {
            Place::BeforeFirst => Ok(None),
            Place::BehindLast => self.last(),
            Place::On => self.backward(),
        }
    }

    fn restart(&mut self) -> Result<(), PageError> {
        self.stack.clear();
        self.place = Place::BeforeFirst;
        self.stack.push(Frame { page: self.bucket.first_page()?, index: 0 });
        Ok(())
    }

    /// Goes down from the top frame to a leaf; `choose` picks the element on each page, the top
    /// one included.
    fn descend(&mut self, choose: impl Fn(&Page<'tx>) -> Result<usize, PageError>) -> Result<(), PageError> {
        loop {
            let depth = self.stack.len();
            let Some(frame) = self.stack.last_mut() else { return Ok(()) };
            frame.index = choose(&frame.page)?;
            if frame.page.is_leaf() {
                return Ok(());
            }
            if depth >= MAX_DEPTH {
                return Err(PageFault::TooDeep.on(frame.page.id()));
            }
            let child = frame.page.branch(frame.index)?.child;
            let page = self.enter(child)?;
            self.stack.push(Frame { page, index: 0 });
        }
    }

    /// The child page under the top frame, with its keys checked against the parents' ones.
    fn enter(&self, child: PageId) -> Result<Page<'tx>, PageError> {
        let page = self.bucket.snapshot().page(child)?;
        if page.count() == 0 {
            return Err(PageFault::Empty.on(child));
        }
        let Some(parent) = self.stack.last() else { return Ok(page) };
        let above = self.stack.iter().rev().find(|frame| frame.index + 1 < frame.page.count());
        let upper = above.map(|frame| frame.page.key(frame.index + 1)).transpose()?;
        let starts_in_range = page.key(0)? >= parent.page.key(parent.index)?;
        let ends_in_range = match upper {
            Some(upper) => page.key(page.count() - 1)? < upper,
            None => true,
        };
        if starts_in_range && ends_in_range { Ok(page) } else { Err(PageFault::OutOfParentRange.on(child)) }
    }

    /// From behind the end of a page to the first key of the next leaf.
    fn forward(&mut self) -> Result<Item<'tx>, Error> {
        while let Some(frame) = self.stack.last_mut() {
            if frame.index + 1 < frame.page.count() {
                let page = frame.page;
                let next = frame.index + 1;
                frame.index = next;
                let child = page.branch(next)?.child;
                let page = self.enter(child)?;
                self.push(page)?;
                self.descend(|_| Ok(0))?;
                return self.settle(Place::BehindLast);
            }
            self.stack.pop();
        }
        self.place = Place::BehindLast;
        Ok(None)
    }

    fn backward(&mut self) -> Result<Item<'tx>, Error> {
        while let Some(frame) = self.stack.last_mut() {
            if frame.index > 0 {
                frame.index -= 1;
                if !frame.page.is_leaf() {
                    let child = frame.page.branch(frame.index)?.child;
                    let page = self.enter(child)?;
                    self.push(page)?;
                    self.descend(|page| Ok(page.count().saturating_sub(1)))?;
                }
                return self.settle(Place::BeforeFirst);
            }
            self.stack.pop();
        }
        self.place = Place::BeforeFirst;
        Ok(None)
    }

    fn push(&mut self, page: Page<'tx>) -> Result<(), PageError> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(PageFault::TooDeep.on(page.id()));
        }
        self.stack.push(Frame { page, index: 0 });
        Ok(())
    }

    /// The item under the top frame; an empty bucket leaves the cursor at `otherwise`.
    fn settle(&mut self, otherwise: Place) -> Result<Item<'tx>, Error> {
        match self.stack.last() {
            Some(frame) if frame.index < frame.page.count() => {
                self.place = Place::On;
                self.current()
            }
            _ => {
                self.place = otherwise;
                Ok(None)
            }
        }
    }

    #[inline]
    fn current(&self) -> Result<Item<'tx>, Error> {
        let Some(frame) = self.stack.last() else { return Ok(None) };
        let element = frame.page.leaf(frame.index)?;
        let value = match element.is_bucket {
            false => Value::Data(element.value),
            true => Value::Bucket(Bucket::parse(self.bucket.snapshot(), element.value, frame.page.id())?),
        };
        Ok(Some((element.key, value)))
    }
}
