//! Damaged files: whatever bytes they hold, reading, checking and writing end with a result.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bolt::format::{self, Meta, PageHeader};
use bolt::{Bucket, Db, Error, Options, ReadTx, Value};
use env::sim::SimDisk;
use env::{Disk, OpenMode};
use proptest::prelude::*;

fn options(page_size: u32, no_freelist_sync: bool) -> Options {
    Options { page_size, no_freelist_sync, ..Options::default() }
}

/// A database with trees of several levels, overflow pages, nested and inline buckets and free pages.
fn sound(no_freelist_sync: bool) -> &'static [u8] {
    static IMAGES: [OnceLock<Vec<u8>>; 2] = [OnceLock::new(), OnceLock::new()];
    IMAGES[usize::from(no_freelist_sync)].get_or_init(|| {
        let db =
            Db::open(Arc::new(SimDisk::new()), Path::new("db"), options(1024, no_freelist_sync)).unwrap();
        for round in 0..4_u32 {
            let mut tx = db.write().unwrap();
            let mut bucket = tx.create_bucket_if_missing(b"tree").unwrap();
            for key in 0..300_u32 {
                let key = (key * 7 + round) % 400;
                bucket.put(format!("{key:05}").as_bytes(), &[round as u8; 30]).unwrap();
            }
            bucket.put(b"large", &[1; 5000]).unwrap();
            bucket.put(&[b'm'; 700], b"long key").unwrap();
            let mut nested = bucket.create_bucket_if_missing(b"nested").unwrap();
            for key in 0..40 * (round + 1) {
                nested.put(&key.to_be_bytes(), &[2; 20]).unwrap();
            }
            nested.create_bucket_if_missing(b"inner").unwrap().put(b"k", b"v").unwrap();
            tx.create_bucket_if_missing(b"inline").unwrap().put(b"k", b"v").unwrap();
            tx.commit().unwrap();
        }
        let mut image = Vec::new();
        let read = db.read();
        assert_eq!(read.check(), []);
        read.copy_to(&mut |piece| {
            image.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
        image
    })
}

/// Walks all that a bucket shows; `left` bounds the number of keys, as a damaged bucket may
/// contain itself.
fn walk(bucket: Bucket<'_>, depth: u32, left: &mut u32) -> Result<(), Error> {
    let mut previous: Option<Vec<u8>> = None;
    let mut group = vec![b"00100".to_vec()];
    for item in bucket.iter() {
        let (key, value) = item?;
        *left = left.saturating_sub(1);
        if *left == 0 {
            return Ok(());
        }
        group.push(key.to_vec());
        if group.len() == 16 {
            let alone: Result<Vec<_>, _> = group.iter().map(|key| bucket.get(key)).collect();
            let together = bucket.get_all(&group);
            assert_eq!(together.is_ok(), alone.is_ok());
            assert_eq!(together?, alone?);
            group.clear();
        }
        match value {
            Value::Data(_) => {}
            Value::Bucket(nested) if depth < 50 => drop(walk(nested, depth + 1, left)),
            Value::Bucket(_) => {}
        }
        previous = Some(key.to_vec());
    }
    let mut cursor = bucket.cursor();
    let mut item = cursor.last()?;
    while item.is_some() {
        item = cursor.prev()?;
    }
    if let Some(key) = previous {
        cursor.seek(&key)?;
        cursor.next()?;
    }
    Ok(())
}

/// Everything one can do with a file; returns whether anything noticed that it is damaged.
fn exercise(image: &[u8]) -> bool {
    for page in image.chunks(1024) {
        if let Some(header) = PageHeader::parse(page)
            && let Ok(page) = format::parse_page(page, header.id)
        {
            for index in 0..page.count() {
                let _ = (page.leaf(index), page.branch(index), page.key(index));
            }
            let _ = page.search(b"00100");
        }
    }
    let mut noticed = false;
    match ReadTx::from_image(image.to_vec()) {
        Err(_) => noticed = true,
        Ok(tx) => {
            noticed |= !tx.check().is_empty();
            noticed |= walk(tx.root(), 0, &mut 100_000).is_err();
            tx.copy_to(&mut |_| Ok(())).unwrap();
        }
    }
    noticed | write(image)
}

fn write(image: &[u8]) -> bool {
    let disk = SimDisk::new();
    disk.open(Path::new("db"), OpenMode::CreateNew(0o600)).unwrap().write_at(image, 0).unwrap();
    let Ok(db) = Db::open(Arc::new(disk.clone()), Path::new("db"), options(1024, true)) else { return true };
    let target = Db::open(Arc::new(disk), Path::new("target"), options(1024, true)).unwrap();
    let mut noticed = bolt::compact_into(&db.read(), &target).is_err();
    for round in 0..3 {
        noticed |= change(&db, round).is_err();
        noticed |= walk(db.read().root(), 0, &mut 100_000).is_err();
    }
    noticed
}

fn change(db: &Db, round: u32) -> Result<(), Error> {
    let mut tx = db.write()?;
    let mut bucket = tx.create_bucket_if_missing(b"tree")?;
    for key in 0..400_u32 {
        let key = format!("{key:05}");
        match round {
            0 => drop(bucket.delete(key.as_bytes())?),
            _ => bucket.put(key.as_bytes(), &[9; 50])?,
        }
    }
    if let Some(mut nested) = bucket.bucket(b"nested")? {
        nested.put(b"new", b"value")?;
        if round == 2 {
            nested.delete_bucket(b"inner").ok();
            bucket.delete_bucket(b"nested")?;
        }
    }
    tx.create_bucket_if_missing(b"inline")?.put(b"new", b"value")?;
    tx.commit().map(drop)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_anywhere(
        unsynced in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut image = sound(unsynced).to_vec();
        for (index, byte) in changes {
            let at = index.index(image.len());
            image[at] = byte;
        }
        exercise(&image);
    }

    /// Aimed at the words that lead the way: page headers and elements.
    #[test]
    fn random_words_in_headers_and_elements(
        unsynced in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, 0_usize..4, any::<u8>()), 1..6),
    ) {
        let mut image = sound(unsynced).to_vec();
        let pages = image.len() / 1024 - 2;
        for (page, element, word, value) in changes {
            let at = (2 + page.index(pages)) * 1024 + element * 16 + word * 4;
            image[at..at + 4].copy_from_slice(&u32::from(value).to_le_bytes());
        }
        exercise(&image);
    }

    /// One page stands where another belongs, with the right id: cycles, shared pages, wrong kinds.
    #[test]
    fn pages_in_the_place_of_others(
        unsynced in any::<bool>(),
        swaps in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6),
    ) {
        let mut image = sound(unsynced).to_vec();
        let pages = image.len() / 1024 - 2;
        for (from, to) in swaps {
            let (from, to) = (2 + from.index(pages), 2 + to.index(pages));
            image.copy_within(from * 1024..(from + 1) * 1024, to * 1024);
            image[to * 1024..to * 1024 + 8].copy_from_slice(&(to as u64).to_le_bytes());
        }
        exercise(&image);
    }

    #[test]
    fn cut_files(unsynced in any::<bool>(), len in any::<prop::sample::Index>()) {
        let image = sound(unsynced);
        let image = &image[..len.index(image.len())];
        prop_assert!(ReadTx::from_image(image.to_vec()).is_err(), "a cut file is noticed");
        exercise(image);
    }
}

#[test]
fn sound_files_are_found_sound() {
    for unsynced in [false, true] {
        assert!(!exercise(sound(unsynced)));
    }
}

/// Rewrites the newest meta page.
fn with_meta(image: &mut [u8], change: impl Fn(&mut Meta)) {
    let mut meta = Meta::parse(image).unwrap();
    change(&mut meta);
    image[..1024].copy_from_slice(&meta.page(0));
    meta.txid -= 1;
    image[1024..2048].copy_from_slice(&meta.page(1));
}

fn faults(image: Vec<u8>) -> Vec<String> {
    ReadTx::from_image(image).unwrap().check().iter().map(ToString::to_string).collect()
}

/// Position of the first page that fits.
fn find_page(image: &[u8], fits: impl Fn(&PageHeader, &[u8]) -> bool) -> usize {
    let used = ReadTx::from_image(image.to_vec()).unwrap();
    let root = used.bucket(b"tree").unwrap().unwrap().root_page() as usize;
    let mut candidates: Vec<usize> = (2..image.len() / 1024).collect();
    candidates.sort_by_key(|page| *page != root);
    let page = candidates.into_iter().find(|page| {
        let bytes = &image[page * 1024..];
        PageHeader::parse(bytes).is_some_and(|header| header.id == *page as u64 && fits(&header, bytes))
    });
    page.unwrap() * 1024
}

/// The faults that bbolt's check knows, each made on purpose.
#[test]
fn check_names_each_fault() {
    let root_page = |image: &[u8]| find_page(image, |header, _| header.flags == format::FLAG_BRANCH);
    let mut image = sound(true).to_vec();
    let at = root_page(&image);

    // The first child of the tree's root stands in the place of the second, too.
    let child = image[at + 16 + 8..at + 16 + 16].to_vec();
    let mut twice = image.clone();
    twice[at + 32 + 8..at + 32 + 16].copy_from_slice(&child);
    assert!(faults(twice).iter().any(|fault| fault.contains("referenced more than once")));

    let mut beyond = image.clone();
    beyond[at + 24..at + 32].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(faults(beyond).iter().any(|fault| fault.contains("beyond the end of the database")));

    let first_child = u64::from_le_bytes(child.try_into().unwrap()) as usize * 1024;
    let mut kind = image.clone();
    kind[first_child + 8] = 0x10;
    assert!(faults(kind).iter().any(|fault| fault.contains("unexpected type 0x0010")));

    // The keys of the page are swapped by swapping its first two elements' positions.
    let mut order = image.clone();
    let first: Vec<u8> = order[first_child + 16..first_child + 32].to_vec();
    let mut second: Vec<u8> = order[first_child + 32..first_child + 48].to_vec();
    let leaf = order[first_child + 8] == 0x02;
    let pos = if leaf { 4 } else { 0 };
    let shift = |element: &mut Vec<u8>, by: i32| {
        let old = i32::from_le_bytes(element[pos..pos + 4].try_into().unwrap());
        element[pos..pos + 4].copy_from_slice(&(old + by).to_le_bytes());
    };
    let mut first = first;
    shift(&mut first, -16);
    shift(&mut second, 16);
    order[first_child + 16..first_child + 32].copy_from_slice(&second);
    order[first_child + 32..first_child + 48].copy_from_slice(&first);
    assert!(faults(order).iter().any(|fault| fault.contains("is not greater than the key before it")));

    // A parent's key above its child's first key.
    let mut below = image.clone();
    let key_at = at + 32 + u32::from_le_bytes(below[at + 32..at + 36].try_into().unwrap()) as usize;
    below[key_at + 4] += 1;
    assert!(faults(below).iter().any(|fault| fault.contains("less than the key of the page in its parent")));
    image[key_at + 2] -= 1;
    assert!(faults(image).iter().any(|fault| fault.contains("is not less than the next key of an ancestor")));
}

/// The page of an inline bucket stands in the value of a leaf. Found by fuzzing: check looked at
/// its kind and its size and not at its keys, so that a bucket whose keys cannot be found was sound.
#[test]
fn check_looks_into_inline_buckets() {
    let db = Db::open(Arc::new(SimDisk::new()), Path::new("db"), options(1024, true)).unwrap();
    let mut tx = db.write().unwrap();
    let mut bucket = tx.create_bucket_if_missing(b"inline").unwrap();
    for key in [b"key-1", b"key-2"] {
        bucket.put(key, b"v").unwrap();
    }
    tx.commit().unwrap();
    let mut image = Vec::new();
    let read = db.read();
    assert_eq!(read.bucket(b"inline").unwrap().unwrap().root_page(), 0);
    read.copy_to(&mut |piece| {
        image.extend_from_slice(piece);
        Ok(())
    })
    .unwrap();
    assert_eq!(faults(image.clone()), Vec::<String>::new());
    let at = image.windows(5).rposition(|window| window == b"key-1").unwrap();
    image[at + 4] = b'3';
    let found = faults(image);
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("key 1 is not greater than the key before it"), "{found:?}");
}

#[test]
fn check_holds_the_freelist_against_the_tree() {
    let image = sound(false).to_vec();
    let meta = Meta::parse(&image).unwrap();
    let list = meta.freelist as usize * 1024;
    let count = u16::from_le_bytes([image[list + 10], image[list + 11]]);
    assert!(count > 2, "the image has free pages");
    let set = |image: &mut Vec<u8>, index: usize, id: u64| {
        image[list + 16 + 8 * index..list + 24 + 8 * index].copy_from_slice(&id.to_le_bytes());
    };

    let mut twice = image.clone();
    let first = u64::from_le_bytes(image[list + 16..list + 24].try_into().unwrap());
    set(&mut twice, 1, first);
    let found = faults(twice);
    assert!(found.contains(&format!("page {first}: already freed")));
    assert!(found.iter().any(|fault| fault.ends_with("unreachable unfreed")));

    let mut in_use = image.clone();
    set(&mut in_use, 0, meta.root);
    assert!(faults(in_use.clone()).contains(&format!("page {}: reachable freed", meta.root)));
    assert!(write(&in_use), "a writer refuses to write on pages that are in use");

    let mut outside = image.clone();
    set(&mut outside, 0, meta.high_water);
    assert!(faults(outside).iter().any(|fault| fault.contains("cannot be free")));

    let mut wrong = image;
    with_meta(&mut wrong, |meta| meta.freelist = meta.root);
    assert!(!faults(wrong).is_empty());
}

/// Forty branches of two elements that both lead to the next one: a walk that believed them would
/// visit 2^40 leaves.
#[test]
fn shared_pages_do_not_multiply_the_work() {
    const LEVELS: u64 = 40;
    let meta = Meta {
        page_size: 1024,
        root: 2,
        root_sequence: 0,
        freelist: format::FREELIST_NOT_PERSISTED,
        high_water: 2 + LEVELS + 1,
        txid: 2,
    };
    let mut image = [meta.page(0), meta.page(1)].concat();
    for id in 2..=2 + LEVELS {
        let mut page = vec![0; 1024];
        let leaf = id == 2 + LEVELS;
        let flags = if leaf { format::FLAG_LEAF } else { format::FLAG_BRANCH };
        PageHeader { id, flags, count: if leaf { 1 } else { 2 }, overflow: 0 }.write(&mut page);
        for element in 0..2_usize {
            let at = 16 + 16 * element;
            let key_at = 48 + element;
            page[key_at] = b'a' + element as u8;
            let words = [(key_at - at) as u32, 1, id as u32 + 1, 0];
            let leaf_words = [0, (key_at - at) as u32, 1, 0];
            for (index, word) in (if leaf { leaf_words } else { words }).iter().enumerate() {
                page[at + 4 * index..at + 4 * index + 4].copy_from_slice(&word.to_le_bytes());
            }
        }
        image.extend(page);
    }
    let tx = ReadTx::from_image(image.clone()).unwrap();
    assert!(tx.root().iter().take(1_000).any(|item| item.is_err()), "the walk notices");
    let mut cursor = tx.root().cursor();
    assert!(cursor.last().is_err() || (0..1_000).any(|_| cursor.prev().is_err()));
    assert!(tx.check().len() < 100);
    assert!(write(&image), "a writer refuses it");
}
