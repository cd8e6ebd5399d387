//! bbolt's file format: pages as bytes, usable without opening a database.
//!
//! A file is an array of pages of `page_size` bytes; page `id` starts at `id * page_size`. All
//! integers are little endian and are read byte by byte, so nothing needs to be aligned.
//!
//! Page header, 16 bytes:
//!
//! | at | field | |
//! |---|---|---|
//! | 0 | id u64 | the page's own id; 0 in the image inside an inline bucket |
//! | 8 | flags u16 | exactly one of [`FLAG_BRANCH`], [`FLAG_LEAF`], [`FLAG_META`], [`FLAG_FREELIST`] |
//! | 10 | count u16 | number of elements |
//! | 12 | overflow u32 | number of further contiguous pages that belong to this one |
//!
//! Elements of 16 bytes follow, then keys and values:
//!
//! | page | element |
//! |---|---|
//! | leaf | flags u32 ([`ELEMENT_BUCKET`] or 0), pos u32, key size u32, value size u32 |
//! | branch | pos u32, key size u32, child page id u64 |
//!
//! `pos` counts from the start of its element; the value follows its key without a gap.
//!
//! Everything here treats its input as hostile: a wrong byte gives a [`PageError`] or a
//! [`MetaError`], never a panic and never a read outside the input.
//!
//! Source: bbolt `internal/common/{page,meta,inode,bucket}.go`.

mod meta;
mod page;

pub use meta::{FREELIST_NOT_PERSISTED, META_BYTES, Meta, MetaError, VERSION};
pub(crate) use page::{Bounds, write_branch_element, write_leaf_element};
pub use page::{
    BranchElement, BucketHeader, LeafElement, Page, PageError, PageFault, PageHeader, PageKind,
    freelist_image, freelist_pages, parse_freelist, parse_page,
};

/// Number of a page in the file.
pub type PageId = u64;
/// Number of a transaction.
pub type TxId = u64;

/// Bytes of a page header.
pub const PAGE_HEADER_BYTES: usize = 16;
/// Bytes of a leaf or branch element.
pub const ELEMENT_BYTES: usize = 16;
/// Bytes of the header in front of an inline page, which is all of a bucket's value otherwise.
pub const BUCKET_HEADER_BYTES: usize = 16;
/// Flag of a branch page.
pub const FLAG_BRANCH: u16 = 0x01;
/// Flag of a leaf page.
pub const FLAG_LEAF: u16 = 0x02;
/// Flag of a meta page.
pub const FLAG_META: u16 = 0x04;
/// Flag of a page with the list of free pages.
pub const FLAG_FREELIST: u16 = 0x10;
/// Flag of a leaf element whose value is a nested bucket.
pub const ELEMENT_BUCKET: u32 = 0x01;
/// Largest key in bytes.
pub const MAX_KEY_BYTES: usize = 32_768;
/// Largest value in bytes.
pub const MAX_VALUE_BYTES: usize = (1 << 31) - 2;
/// Most elements on a page: a count of 0xFFFF has a meaning of its own on freelist pages.
pub const MAX_ELEMENTS: usize = 0xFFFE;
/// Smallest page size that is looked for.
pub const MIN_PAGE_SIZE: usize = 1024;
/// Largest page size that is looked for.
pub const MAX_PAGE_SIZE: usize = 1024 << 14;
/// Most levels of one tree. Each branch has at least two children, so no valid tree is deeper.
pub const MAX_DEPTH: usize = 64;

const _: () = assert!(usize::BITS >= 64, "positions in the file are kept in usize");

/// Whether a page size can occur: a power of two in the range that is searched for at open.
pub fn valid_page_size(page_size: usize) -> bool {
    page_size.is_power_of_two() && (MIN_PAGE_SIZE..=MAX_PAGE_SIZE).contains(&page_size)
}

/// Four bytes at `at`, which the caller has checked to lie inside.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

/// Eight bytes at `at`, which the caller has checked to lie inside.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
