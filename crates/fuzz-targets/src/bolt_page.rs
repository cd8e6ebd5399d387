//! Single pages of a database file: elements, free lists, metas, bucket headers.
//!
//! ```text
//! 0, bytes     the page as it is, under the id that its header says
//! 1, bytes     a meta: the checksum is put right
//! ```
//!
//! Promises: what parses is read without a panic; a search in a page whose keys ascend gives what a
//! plain search gives; metas and free lists that are accepted are written back the same.

use bolt::format::{
    BUCKET_HEADER_BYTES, BucketHeader, ELEMENT_BYTES, FLAG_BRANCH, FLAG_LEAF, Meta, PAGE_HEADER_BYTES, Page,
    PageHeader, freelist_image, freelist_pages, parse_freelist, parse_page,
};

use crate::Seed;
use crate::bolt_image::{fix_meta, theirs};

/// Runs one input.
pub fn run(data: &[u8]) {
    let Some((mode, bytes)) = data.split_first() else { return };
    let mut page = bytes.to_vec();
    if mode & 1 == 1 {
        fix_meta(&mut page);
    }
    if let Ok(meta) = Meta::parse(&page)
        // A page may be as large as 16 MiB: writing those would be all that the fuzzer does.
        && meta.page_size <= 65_536
    {
        assert_eq!(Meta::parse(&meta.page(1)), Ok(meta), "a meta that was written again");
    }
    let Some(header) = PageHeader::parse(&page) else { return };
    if let Ok(ids) = parse_freelist(&page, header.id) {
        let pages = freelist_pages(ids.len(), 4096);
        let image = freelist_image(&ids, header.id, pages, 4096);
        assert_eq!(parse_freelist(&image, header.id), Ok(ids), "a free list that was written again");
    }
    if let Ok(page) = parse_page(&page, header.id) {
        elements(&page);
    }
}

fn elements(page: &Page<'_>) {
    let mut keys = Vec::new();
    for index in 0..page.count() {
        if let Ok(leaf) = page.leaf(index) {
            assert_eq!(page.key(index), Ok(leaf.key));
            if let Ok(header) = BucketHeader::parse(leaf.value, page.id()) {
                assert_eq!(header.to_bytes(), leaf.value[..BUCKET_HEADER_BYTES]);
            }
        }
        if let Ok(branch) = page.branch(index) {
            assert_eq!(page.key(index), Ok(branch.key));
        }
        keys.extend(page.key(index));
    }
    assert!(page.leaf(page.count()).is_err() && page.branch(page.count()).is_err());
    let _ = (page.search(b""), page.child_index(b"key"));
    if keys.len() < page.count() {
        return;
    }
    let ascending = keys.windows(2).all(|pair| pair[0] < pair[1]);
    for (index, key) in keys.iter().enumerate().take(64) {
        let found = page.search(key).expect("all keys are readable");
        assert!(!ascending || found == Ok(index), "key {index} is found at {found:?}");
        let behind = [key, &b"\0"[..]].concat();
        let found = page.search(&behind).expect("all keys are readable");
        assert!(!ascending || found == keys.binary_search(&&behind[..]), "behind key {index}: {found:?}");
    }
}

/// One page of each kind from a database of etcd's, the free list from one of ours.
pub fn seeds() -> Vec<Seed> {
    let image = theirs();
    let mut seeds = vec![("meta", [&[1], &image[..PAGE_HEADER_BYTES + 64]].concat())];
    for (name, kind) in [("branch", FLAG_BRANCH), ("leaf", FLAG_LEAF)] {
        let of_kind = |page: &&[u8]| PageHeader::parse(page).is_some_and(|header| header.flags == kind);
        let page = image.chunks(4096).skip(2).find(of_kind).unwrap_or_default();
        let end = page.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        seeds.push((name, [&[0], &page[..end]].concat()));
    }
    let list = freelist_image(&[5, 6, 9, 400], 3, 1, 1024);
    seeds.push(("freelist", [&[0], &list[..PAGE_HEADER_BYTES + 4 * 8]].concat()));
    // Two elements whose keys lie in each other.
    let mut overlapping = vec![0; PAGE_HEADER_BYTES + 2 * ELEMENT_BYTES + 8];
    PageHeader { id: 7, flags: FLAG_LEAF, count: 2, overflow: 0 }.write(&mut overlapping);
    for (at, word) in [(20, 32_u32), (24, 4), (28, 4), (36, 17), (40, 4), (44, 3)] {
        overlapping[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    seeds.push(("overlapping", [&[0], &overlapping[..]].concat()));
    seeds
}
