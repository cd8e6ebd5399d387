//! Branch, leaf and freelist pages.

use std::cmp::Ordering;

use thiserror::Error;

use super::{
    BUCKET_HEADER_BYTES, ELEMENT_BUCKET, ELEMENT_BYTES, FLAG_BRANCH, FLAG_FREELIST, FLAG_LEAF, MAX_KEY_BYTES,
    PAGE_HEADER_BYTES, PageId, u32_at, u64_at,
};

/// Something on a page that must not be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("page {page}: {fault}")]
pub struct PageError {
    /// The page; for an inline bucket the page of the leaf that holds it.
    pub page: PageId,
    /// What is wrong with it.
    pub fault: PageFault,
}

/// What can be wrong with a page.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum PageFault {
    #[error("beyond the end of the database, which has {high_water} pages")]
    OutOfBounds { high_water: PageId },
    #[error(
        "with {overflow} overflow pages reaches beyond the end of the database, which has {high_water} pages"
    )]
    OverflowOutOfBounds { overflow: u32, high_water: PageId },
    #[error("holds the page id {found}")]
    WrongId { found: PageId },
    #[error("has the unexpected type {flags:#06x}")]
    WrongType { flags: u16 },
    #[error("is too short for its {count} elements")]
    Truncated { count: u64 },
    #[error("element {index} reaches outside the page")]
    ElementOutOfBounds { index: usize },
    #[error("element {index} has a key of {bytes} bytes, more than a key may have")]
    KeyTooLarge { index: usize, bytes: usize },
    #[error("key {index} is not greater than the key before it")]
    KeyOrder { index: usize },
    #[error("has no elements")]
    Empty,
    #[error("has keys outside the range that its parent gives it")]
    OutOfParentRange,
    #[error("is nested too deep")]
    TooDeep,
    #[error("is a leaf beside branches, or a branch beside leaves")]
    MixedSiblings,
    #[error("the value of a bucket has only {bytes} bytes")]
    BucketHeader { bytes: usize },
    #[error("an inline bucket contains a bucket")]
    BucketInInline,
    #[error("is referenced more than once")]
    MultipleReferences,
    #[error("is in the freelist and in use")]
    FreeAndReachable,
    #[error("the freelist names page {id}, which cannot be free")]
    FreeId { id: PageId },
}

impl PageFault {
    pub(crate) fn on(self, page: PageId) -> PageError {
        PageError { page, fault: self }
    }
}

/// The first 16 bytes of every page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// The page's own id.
    pub id: PageId,
    /// Type of the page.
    pub flags: u16,
    /// Number of elements.
    pub count: u16,
    /// Number of further contiguous pages.
    pub overflow: u32,
}

impl PageHeader {
    /// Reads a header; `None` if there are fewer than 16 bytes.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..PAGE_HEADER_BYTES)?;
        let word = u32_at(bytes, 8);
        Some(Self {
            id: u64_at(bytes, 0),
            flags: word as u16,
            count: (word >> 16) as u16,
            overflow: u32_at(bytes, 12),
        })
    }

    /// Writes the header to the start of `page`.
    pub fn write(&self, page: &mut [u8]) {
        page[0..8].copy_from_slice(&self.id.to_le_bytes());
        page[8..10].copy_from_slice(&self.flags.to_le_bytes());
        page[10..12].copy_from_slice(&self.count.to_le_bytes());
        page[12..16].copy_from_slice(&self.overflow.to_le_bytes());
    }
}

/// The two kinds of pages in a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Elements point to child pages.
    Branch,
    /// Elements are keys with values.
    Leaf,
}

/// A page of a tree. Its elements are checked one by one as they are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    bytes: &'a [u8],
    id: PageId,
    count: u16,
    kind: PageKind,
}

/// An element of a leaf page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafElement<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value: data, or a bucket.
    pub value: &'a [u8],
    /// Whether the value is a bucket.
    pub is_bucket: bool,
    /// Where in the page the key starts; the value follows it.
    pub position: usize,
}

/// An element of a branch page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BranchElement<'a> {
    /// Lower bound of the keys below the child.
    pub key: &'a [u8],
    /// The child.
    pub child: PageId,
    /// Where in the page the key starts.
    pub position: usize,
}

/// Reads a leaf or branch page from its complete bytes, overflow pages included.
///
/// Checks the header and that the elements fit; the elements themselves are checked on access.
/// `id` is the id that the page must have: its place in the file, 0 for an inline bucket.
pub fn parse_page(bytes: &[u8], id: PageId) -> Result<Page<'_>, PageError> {
    let header = PageHeader::parse(bytes).ok_or(PageFault::Truncated { count: 0 }.on(id))?;
    if header.id != id {
        return Err(PageFault::WrongId { found: header.id }.on(id));
    }
    Page::of(bytes, header, id)
}

impl<'a> Page<'a> {
    /// The page with this (already read) header; errors are reported on page `id`.
    pub(crate) fn of(bytes: &'a [u8], header: PageHeader, id: PageId) -> Result<Self, PageError> {
        let kind = match header.flags {
            FLAG_BRANCH => PageKind::Branch,
            FLAG_LEAF => PageKind::Leaf,
            flags => return Err(PageFault::WrongType { flags }.on(id)),
        };
        if bytes.len() < PAGE_HEADER_BYTES + ELEMENT_BYTES * usize::from(header.count) {
            return Err(PageFault::Truncated { count: u64::from(header.count) }.on(id));
        }
        Ok(Self { bytes, id, count: header.count, kind })
    }

    /// The page inside the value of an inline bucket that stands on page `holder`.
    pub(crate) fn inline(bytes: &'a [u8], holder: PageId) -> Result<Self, PageError> {
        let header = PageHeader::parse(bytes).ok_or(PageFault::Truncated { count: 0 }.on(holder))?;
        if header.flags != FLAG_LEAF {
            return Err(PageFault::WrongType { flags: header.flags }.on(holder));
        }
        Self::of(bytes, header, holder)
    }

    /// The page's id; for the page of an inline bucket that of the leaf around it.
    pub fn id(&self) -> PageId {
        self.id
    }

    /// Branch or leaf.
    pub fn kind(&self) -> PageKind {
        self.kind
    }

    /// Whether it is a leaf.
    pub fn is_leaf(&self) -> bool {
        self.kind == PageKind::Leaf
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        usize::from(self.count)
    }

    #[cold]
    fn outside(&self, index: usize) -> PageError {
        PageFault::ElementOutOfBounds { index }.on(self.id)
    }

    /// Position of element `index`, checked.
    #[inline]
    fn element(&self, index: usize) -> Result<usize, PageError> {
        if index < self.count() {
            Ok(PAGE_HEADER_BYTES + ELEMENT_BYTES * index)
        } else {
            Err(self.outside(index))
        }
    }

    /// The key of element `index` of either kind.
    #[inline]
    pub fn key(&self, index: usize) -> Result<&'a [u8], PageError> {
        let at = self.element(index)?;
        let sizes_at = match self.kind {
            PageKind::Leaf => at + 4,
            PageKind::Branch => at,
        };
        let start = at + u32_at(self.bytes, sizes_at) as usize;
        let size = u32_at(self.bytes, sizes_at + 4) as usize;
        self.bytes.get(start..start + size).ok_or_else(|| self.outside(index))
    }

    /// Element `index` of a leaf page.
    #[inline]
    pub fn leaf(&self, index: usize) -> Result<LeafElement<'a>, PageError> {
        let at = self.element(index)?;
        if self.kind != PageKind::Leaf {
            return Err(PageFault::WrongType { flags: FLAG_BRANCH }.on(self.id));
        }
        let flags = u32_at(self.bytes, at);
        let position = at + u32_at(self.bytes, at + 4) as usize;
        let key_size = u32_at(self.bytes, at + 8) as usize;
        let value_size = u32_at(self.bytes, at + 12) as usize;
        let both = self.bytes.get(position..position + key_size + value_size);
        let (key, value) = both.ok_or_else(|| self.outside(index))?.split_at(key_size);
        if key_size > MAX_KEY_BYTES {
            return Err(PageFault::KeyTooLarge { index, bytes: key_size }.on(self.id));
        }
        Ok(LeafElement { key, value, is_bucket: flags & ELEMENT_BUCKET != 0, position })
    }

    /// Element `index` of a branch page.
    #[inline]
    pub fn branch(&self, index: usize) -> Result<BranchElement<'a>, PageError> {
        let at = self.element(index)?;
        if self.kind != PageKind::Branch {
            return Err(PageFault::WrongType { flags: FLAG_LEAF }.on(self.id));
        }
        let position = at + u32_at(self.bytes, at) as usize;
        let key_size = u32_at(self.bytes, at + 4) as usize;
        let key = self.bytes.get(position..position + key_size).ok_or_else(|| self.outside(index))?;
        if key_size > MAX_KEY_BYTES {
            return Err(PageFault::KeyTooLarge { index, bytes: key_size }.on(self.id));
        }
        Ok(BranchElement { key, child: u64_at(self.bytes, at + 8), position })
    }

    /// Where `key` stands: `Ok` with its index, or `Err` with the index where it would stand.
    ///
    /// Starts where the key would be if keys were evenly spaced, as etcd's revisions nearly are,
    /// and goes from there in growing steps: a page that is not in the processor's cache costs a
    /// fetch for each key that is looked at.
    #[inline]
    pub fn search(&self, key: &[u8]) -> Result<Result<usize, usize>, PageError> {
        self.search_from(key, self.guess(key)?)
    }

    /// [`Page::search`] of a page whose keys are known to lie between two, which saves the look at both ends of it.
    #[inline]
    pub(crate) fn search_within(
        &self,
        key: &[u8],
        bounds: Option<Bounds>,
    ) -> Result<Result<usize, usize>, PageError> {
        match bounds {
            Some(bounds) => self.search_from(key, bounds.guess(key, self.count())),
            None => self.search(key),
        }
    }

    #[inline]
    fn search_from(&self, key: &[u8], mut probe: Option<usize>) -> Result<Result<usize, usize>, PageError> {
        let (mut low, mut high) = (0, self.count());
        let mut step = 1;
        // While `probe` is set it lies in `low..high`; all below `low` are less than the key,
        // all from `high` on greater.
        let mut upwards = None;
        while let Some(index) = probe {
            let direction = match compare(self.key(index)?, key) {
                Ordering::Equal => return Ok(Ok(index)),
                Ordering::Less => {
                    low = index + 1;
                    true
                }
                Ordering::Greater => {
                    high = index;
                    false
                }
            };
            if *upwards.get_or_insert(direction) != direction {
                break;
            }
            probe = if direction { low.checked_add(step - 1) } else { high.checked_sub(step) };
            probe = probe.filter(|index| (low..high).contains(index));
            step *= 2;
        }
        while low < high {
            let middle = low.midpoint(high);
            match compare(self.key(middle)?, key) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(Ok(middle)),
                Ordering::Greater => high = middle,
            }
        }
        Ok(Err(low))
    }

    /// Where `key` would be if keys were evenly spaced between the first and the last.
    #[inline]
    fn guess(&self, key: &[u8]) -> Result<Option<usize>, PageError> {
        const LEAST_COUNT: usize = 8;
        if self.count() < LEAST_COUNT {
            return Ok(None);
        }
        let last = self.count() - 1;
        let bounds = Bounds { low: leading_number(self.key(0)?), high: leading_number(self.key(last)?) };
        Ok(bounds.guess(key, self.count()))
    }

    /// Index of the child of a branch page under which `key` belongs.
    #[inline]
    pub fn child_index(&self, key: &[u8]) -> Result<usize, PageError> {
        self.child_index_within(key, None)
    }

    /// [`Page::child_index`] of a page whose keys are known to lie between two.
    #[inline]
    pub(crate) fn child_index_within(&self, key: &[u8], bounds: Option<Bounds>) -> Result<usize, PageError> {
        if self.count == 0 {
            return Err(PageFault::Empty.on(self.id));
        }
        Ok(match self.search_within(key, bounds)? {
            Ok(index) => index,
            Err(index) => index.saturating_sub(1),
        })
    }

    /// Between which keys those below child `index` of a branch page lie; `None` for the last child.
    #[inline]
    pub(crate) fn bounds_below(&self, index: usize) -> Result<Option<Bounds>, PageError> {
        if index + 1 == self.count() {
            return Ok(None);
        }
        let low = leading_number(self.key(index)?);
        Ok(Some(Bounds { low, high: leading_number(self.key(index + 1)?) }))
    }
}

/// Between which numbers the first eight bytes of keys lie. Only for guessing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    low: u64,
    high: u64,
}

impl Bounds {
    /// Where `key` would be if `count` keys were evenly spaced between the bounds; `None` if there is no saying.
    #[inline]
    fn guess(self, key: &[u8], count: usize) -> Option<usize> {
        let Self { low, high } = self;
        if high <= low || count == 0 {
            return None;
        }
        let offset = leading_number(key).clamp(low, high) - low;
        let index = match offset.checked_mul(count as u64) {
            Some(product) => (product / (high - low)) as usize,
            None => (u128::from(offset) * count as u128 / u128::from(high - low)) as usize,
        };
        Some(index.min(count - 1))
    }
}

/// The order of two keys. Most differ in their first eight bytes, and then no function for any length is called.
#[inline]
fn compare(left: &[u8], right: &[u8]) -> Ordering {
    match (left.split_first_chunk::<8>(), right.split_first_chunk::<8>()) {
        (Some((left, left_rest)), Some((right, right_rest))) if left == right => left_rest.cmp(right_rest),
        (Some((left, _)), Some((right, _))) => u64::from_be_bytes(*left).cmp(&u64::from_be_bytes(*right)),
        _ => left.cmp(right),
    }
}

#[inline]
fn leading_number(key: &[u8]) -> u64 {
    match key.first_chunk() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => {
            key.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)) << (64 - 8 * key.len()).min(63)
        }
    }
}

/// The start of a bucket's value: where its tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketHeader {
    /// Root page of its tree; 0 if the bucket is inline: then its only page follows.
    pub root: PageId,
    /// Its counter for unique numbers; etcd leaves it at 0.
    pub sequence: u64,
}

impl BucketHeader {
    /// Reads the header from the value of a bucket that stands on page `holder`.
    pub fn parse(value: &[u8], holder: PageId) -> Result<Self, PageError> {
        if value.len() < BUCKET_HEADER_BYTES {
            return Err(PageFault::BucketHeader { bytes: value.len() }.on(holder));
        }
        Ok(Self { root: u64_at(value, 0), sequence: u64_at(value, 8) })
    }

    /// The header as bytes.
    pub fn to_bytes(self) -> [u8; BUCKET_HEADER_BYTES] {
        let mut bytes = [0; BUCKET_HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.root.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sequence.to_le_bytes());
        bytes
    }
}

/// Writes the 16 bytes of leaf element `index`; its key starts at `position` of the page.
pub(crate) fn write_leaf_element(
    page: &mut [u8],
    index: usize,
    flags: u32,
    position: usize,
    key_bytes: usize,
    value_bytes: usize,
) {
    let at = PAGE_HEADER_BYTES + ELEMENT_BYTES * index;
    let words = [flags, (position - at) as u32, key_bytes as u32, value_bytes as u32];
    for (word, target) in words.iter().zip(page[at..at + ELEMENT_BYTES].chunks_exact_mut(4)) {
        target.copy_from_slice(&word.to_le_bytes());
    }
}

/// Writes the 16 bytes of branch element `index`; its key starts at `position` of the page.
pub(crate) fn write_branch_element(
    page: &mut [u8],
    index: usize,
    position: usize,
    key_bytes: usize,
    child: PageId,
) {
    let at = PAGE_HEADER_BYTES + ELEMENT_BYTES * index;
    page[at..at + 4].copy_from_slice(&((position - at) as u32).to_le_bytes());
    page[at + 4..at + 8].copy_from_slice(&(key_bytes as u32).to_le_bytes());
    page[at + 8..at + 16].copy_from_slice(&child.to_le_bytes());
}

/// A count that says that the true number stands in the first word.
const COUNT_IN_FIRST_WORD: u16 = 0xFFFF;

/// Reads the ids from the complete bytes of a freelist page, in the order in which they stand.
pub fn parse_freelist(bytes: &[u8], id: PageId) -> Result<Vec<PageId>, PageError> {
    let header = PageHeader::parse(bytes).ok_or(PageFault::Truncated { count: 0 }.on(id))?;
    if header.id != id {
        return Err(PageFault::WrongId { found: header.id }.on(id));
    }
    if header.flags != FLAG_FREELIST {
        return Err(PageFault::WrongType { flags: header.flags }.on(id));
    }
    let words = &bytes[PAGE_HEADER_BYTES..];
    let (count, words) = if header.count == COUNT_IN_FIRST_WORD {
        if words.len() < 8 {
            return Err(PageFault::Truncated { count: u64::from(header.count) }.on(id));
        }
        (u64_at(words, 0), &words[8..])
    } else {
        (u64::from(header.count), words)
    };
    if count > (words.len() / 8) as u64 {
        return Err(PageFault::Truncated { count }.on(id));
    }
    Ok(words.chunks_exact(8).take(count as usize).map(|word| u64_at(word, 0)).collect())
}

/// Number of pages to allocate for a list of `count` ids.
pub fn freelist_pages(count: usize, page_size: usize) -> usize {
    let words = if count >= usize::from(COUNT_IN_FIRST_WORD) { count + 1 } else { count };
    (PAGE_HEADER_BYTES + 8 * words) / page_size + 1
}

/// A freelist page with these sorted ids, `pages` pages long.
///
/// # Panics
/// If they do not fit.
pub fn freelist_image(ids: &[PageId], id: PageId, pages: usize, page_size: usize) -> Vec<u8> {
    let mut page = vec![0; pages * page_size];
    let long = ids.len() >= usize::from(COUNT_IN_FIRST_WORD);
    let count = if long { COUNT_IN_FIRST_WORD } else { ids.len() as u16 };
    PageHeader { id, flags: FLAG_FREELIST, count, overflow: pages as u32 - 1 }.write(&mut page);
    let words = long.then_some(ids.len() as u64).into_iter().chain(ids.iter().copied());
    for (index, word) in words.enumerate() {
        let at = PAGE_HEADER_BYTES + 8 * index;
        page[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(entries: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut page = vec![0; 4096];
        let count = entries.len() as u16;
        PageHeader { id: 9, flags: FLAG_LEAF, count, overflow: 0 }.write(&mut page);
        let mut position = PAGE_HEADER_BYTES + ELEMENT_BYTES * entries.len();
        for (index, (key, value)) in entries.iter().enumerate() {
            write_leaf_element(&mut page, index, 0, position, key.len(), value.len());
            for part in [key, value] {
                page[position..position + part.len()].copy_from_slice(part);
                position += part.len();
            }
        }
        page
    }

    #[test]
    fn a_leaf_reads_back_and_is_searched() {
        let bytes = leaf(&[(b"b", b"1"), (b"d", b""), (b"f", b"three")]);
        let page = parse_page(&bytes, 9).unwrap();
        assert_eq!(page.leaf(2).unwrap().value, b"three");
        assert_eq!(page.search(b"d").unwrap(), Ok(1));
        assert_eq!(page.search(b"a").unwrap(), Err(0));
        assert_eq!(page.search(b"g").unwrap(), Err(3));
        assert!(page.leaf(3).is_err());
        assert!(page.branch(0).is_err());
        assert_eq!(parse_page(&bytes, 8).unwrap_err().fault, PageFault::WrongId { found: 9 });
    }

    #[test]
    fn the_search_finds_every_key_and_every_gap_however_keys_are_spaced() {
        let spacings: [fn(u64) -> Vec<u8>; 5] = [
            |index| (index * 10 + 5).to_be_bytes().to_vec(),
            |index| (index * index * index + 5).to_be_bytes().to_vec(),
            |index| (u64::MAX - (40 - index).pow(9)).to_be_bytes().to_vec(),
            |index| [&b"/registry/pods/"[..], &(index * 10 + 5).to_be_bytes()].concat(),
            |index| vec![7; index as usize + 1],
        ];
        for spacing in spacings {
            for count in [0, 1, 7, 8, 9, 40] {
                let keys: Vec<Vec<u8>> = (0..count).map(spacing).collect();
                let entries: Vec<(&[u8], &[u8])> = keys.iter().map(|key| (&key[..], &b"v"[..])).collect();
                let bytes = leaf(&entries);
                let page = parse_page(&bytes, 9).unwrap();
                let probes = keys.iter().flat_map(|key| {
                    let mut less = key.clone();
                    let last = less.len() - 1;
                    less[last] -= 1;
                    [key.clone(), less, [&key[..], b"x"].concat(), key[..last].to_vec()]
                });
                for probe in probes.chain([vec![], vec![0], vec![0xFF; 20]]) {
                    assert_eq!(
                        page.search(&probe).unwrap(),
                        keys.binary_search(&probe),
                        "{probe:?} in {keys:?}"
                    );
                    for bounds in [(0, u64::MAX), (5, 5), (205, 215), (5, 405), (400, 100)] {
                        let bounds = Some(Bounds { low: bounds.0, high: bounds.1 });
                        assert_eq!(page.search_within(&probe, bounds).unwrap(), keys.binary_search(&probe));
                    }
                }
            }
        }
    }

    #[test]
    fn freelists_of_both_forms_read_back() {
        for count in [0, 1, 510, 511, 512, 65_534, 65_535, 70_000] {
            let ids: Vec<PageId> = (0..count).map(|id| id * 2 + 5).collect();
            let pages = freelist_pages(ids.len(), 4096);
            let image = freelist_image(&ids, 77, pages, 4096);
            assert_eq!(parse_freelist(&image, 77).unwrap(), ids, "{count}");
            assert_eq!(image[10..12] == [0xFF, 0xFF], count >= 65_535);
        }
        let short = &freelist_image(&[5, 6, 7], 77, 1, 4096)[..32];
        assert_eq!(parse_freelist(short, 77).unwrap_err().fault, PageFault::Truncated { count: 3 });
    }
}
