//! Whole databases: a sound one, edited.
//!
//! ```text
//! base, edits...       base: bit 0 a database of etcd's (pages of 4 KiB) or a small one of ours
//!                            bit 1 also open it for writing, change it and defragment it
//! edit:
//!   0 page:u8 offset:u16 value:u8        one byte
//!   1 page:u8 word:u16 value:u16         two bytes, as a u32, at word * 4
//!   2 page:u8 word:u16 value:u64         eight bytes at word * 4
//!   3 page:u8 from:u8                    page becomes a copy of another, with its own id
//!   4 field:u8 value:u64                 a word of the newest meta, 0 the root, 1 its sequence, ...
//!   5 page:u8 offset:u16 bytes:string    many bytes
//!   6 page:u8 element:u8 word:u8 add:u8  adds a signed byte to one of the four words of an element
//! ```
//!
//! The checksums of both metas are put right after the edits.
//!
//! Promises: opening, checking, reading and copying end with a result, whatever the bytes; what
//! `check` calls sound can be read from both ends with every key found; a writer that accepts a
//! file leaves a sound one if it was sound.

use std::io::Read;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bolt::format::{META_BYTES, PAGE_HEADER_BYTES};
use bolt::{Bucket, Db, Error, Options, ReadTx, Value};
use env::sim::SimDisk;
use env::{Disk, OpenMode};

use crate::Seed;
use crate::input::{Input, Output};

/// Keys that one walk looks at: a damaged bucket may contain itself.
const WALK_KEYS: u32 = 20_000;
/// Depth to which a walk enters buckets, for the same reason.
const WALK_DEPTH: u32 = 50;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let base = input.u8();
    let (image, page_size) = if base & 1 == 0 { (ours(), 1024) } else { (theirs(), 4096) };
    let mut image = Image { bytes: image.to_vec(), page_size };
    while !input.is_empty() {
        image.edit(&mut input);
    }
    let Image { mut bytes, .. } = image;
    fix_meta(&mut bytes);
    fix_meta(&mut bytes[page_size..]);
    let sound = read(&bytes);
    if base & 2 != 0 {
        write(&bytes, sound);
    }
}

struct Image {
    bytes: Vec<u8>,
    page_size: usize,
}

impl Image {
    fn edit(&mut self, input: &mut Input<'_>) {
        match input.u8() % 7 {
            0 => {
                let at = self.place(input.u8(), input.u16().into());
                self.put(at, &[input.u8()]);
            }
            1 => {
                let at = self.place(input.u8(), usize::from(input.u16()) * 4);
                self.put(at, &u32::from(input.u16()).to_le_bytes());
            }
            2 => {
                let at = self.place(input.u8(), usize::from(input.u16()) * 4);
                self.put(at, &input.u64().to_le_bytes());
            }
            3 => {
                let (to, from) = (self.place(input.u8(), 0), self.place(input.u8(), 0));
                self.bytes.copy_within(from..from + self.page_size, to);
                self.put(to, &((to / self.page_size) as u64).to_le_bytes());
            }
            4 => {
                let word = usize::from(input.u8()) % 5;
                let at = self.newest_meta() + PAGE_HEADER_BYTES + 16 + 8 * word;
                self.put(at, &input.u64().to_le_bytes());
            }
            5 => {
                let at = self.place(input.u8(), input.u16().into());
                self.put(at, input.string());
            }
            _ => {
                let (page, element) = (input.u8(), usize::from(input.u8()));
                let at = self.place(page, PAGE_HEADER_BYTES + 16 * element + 4 * usize::from(input.u8() % 4));
                let add = i32::from(input.u8() as i8);
                let word = self.bytes[at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
                self.put(at, &word.wrapping_add_signed(add).to_le_bytes());
            }
        }
    }

    fn place(&self, page: u8, offset: usize) -> usize {
        let pages = self.bytes.len() / self.page_size;
        usize::from(page) % pages * self.page_size + offset % self.page_size
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        let end = (at + bytes.len()).min(self.bytes.len());
        self.bytes[at..end].copy_from_slice(&bytes[..end - at]);
    }

    fn newest_meta(&self) -> usize {
        let txid = |at: usize| &self.bytes[at + PAGE_HEADER_BYTES + 48..at + PAGE_HEADER_BYTES + 56];
        let newer = txid(0).iter().rev().cmp(txid(self.page_size).iter().rev()).is_ge();
        if newer { 0 } else { self.page_size }
    }
}

/// Reads all there is; says whether `check` found it sound.
fn read(image: &[u8]) -> bool {
    let Ok(tx) = ReadTx::from_image(image.to_vec()) else { return false };
    let sound = tx.check().is_empty();
    let walked = Walk::of(&tx, sound);
    assert!(!sound || walked.is_ok(), "check found nothing and a walk did: {walked:?}");
    let mut copied = 0;
    let length = tx.copy_to(&mut |piece| {
        copied += piece.len() as u64;
        Ok(())
    });
    assert_eq!(length.expect("an image in memory can be copied"), copied);
    assert_eq!(copied, tx.size_bytes());
    sound
}

/// Looks at all that a database shows, from both ends.
struct Walk {
    /// What is seen must fit together.
    sound: bool,
    left: u32,
}

impl Walk {
    fn of(tx: &ReadTx, sound: bool) -> Result<(), Error> {
        Self { sound, left: WALK_KEYS }.bucket(tx.root(), 0)
    }

    fn bucket(&mut self, bucket: Bucket<'_>, depth: u32) -> Result<(), Error> {
        let mut keys = Vec::new();
        let mut failure = None;
        for item in bucket.iter() {
            let (key, value) = item?;
            self.left = self.left.saturating_sub(1);
            if self.left == 0 {
                return Ok(());
            }
            if let Value::Bucket(nested) = value
                && depth < WALK_DEPTH
            {
                failure = failure.or(self.bucket(nested, depth + 1).err());
            }
            keys.push((key, value.data()));
        }
        for (key, value) in &keys {
            let found = bucket.get(key)?;
            assert!(!self.sound || found == *value, "{key:?} has {found:?} and is seen with {value:?}");
        }
        let mut cursor = bucket.cursor();
        let mut item = cursor.last()?;
        let mut count = 0;
        while item.is_some() && count <= WALK_KEYS as usize {
            count += 1;
            item = cursor.prev()?;
        }
        assert!(
            !self.sound || count == keys.len(),
            "{count} keys from the end, {} from the start",
            keys.len()
        );
        if let Some((key, _)) = keys.last() {
            cursor.seek(key)?;
            cursor.next()?;
        }
        failure.map_or(Ok(()), Err)
    }
}

/// Opens the image for writing, changes it and defragments it.
fn write(image: &[u8], sound: bool) {
    let disk = Arc::new(SimDisk::new());
    let file = disk.open(Path::new("db"), OpenMode::CreateNew(0o600)).expect("an empty disk");
    file.write_at(image, 0).expect("a healthy disk");
    let Ok(db) = Db::open(disk.clone(), Path::new("db"), Options::default()) else {
        assert!(!sound, "a sound file opens");
        return;
    };
    for round in 0..3 {
        let changed = change(&db, round);
        let refused = matches!(changed, Ok(()) | Err(Error::IncompatibleValue));
        let faults = db.read().check();
        let walked = Walk::of(&db.read(), sound);
        assert!(!sound || (refused && faults.is_empty()), "{changed:?}, {faults:?}");
        assert!(!sound || walked.is_ok(), "{walked:?}");
    }
    let options = Options { verify: true, ..Options::default() };
    let target = Db::open(disk, Path::new("target"), options).expect("a new database");
    let compacted = bolt::compact_into(&db.read(), &target);
    assert!(!sound || compacted.is_ok(), "{compacted:?}");
}

/// Puts, deletes and drops buckets, in those that both bases have and in new ones.
fn change(db: &Db, round: u32) -> Result<(), Error> {
    let mut tx = db.write()?;
    for name in [&b"key"[..], b"lease", b"new"] {
        let mut bucket = tx.create_bucket_if_missing(name)?;
        for number in 0..60_u64 {
            let key = [&(number * 10).to_be_bytes()[..], b"_", &[0; 8]].concat();
            match round {
                0 => drop(bucket.delete(&key)?),
                _ => bucket.put(&key, &[9; 50])?,
            }
        }
        if let Some(mut nested) = bucket.bucket(b"nested")? {
            nested.put(b"new", b"value")?;
            if round == 2 {
                bucket.delete_bucket(b"nested")?;
            }
        }
    }
    tx.commit().map(drop)
}

/// Puts the checksum of the meta at the start of `page` right.
pub(crate) fn fix_meta(page: &mut [u8]) {
    let Some(meta) = page.get_mut(PAGE_HEADER_BYTES..PAGE_HEADER_BYTES + META_BYTES) else { return };
    let hash = meta[..56].iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    meta[56..].copy_from_slice(&hash.to_le_bytes());
}

/// A snapshot of etcd's without the checksum behind it: 30 pages.
pub(crate) fn theirs() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let packed = include_bytes!("../tests/fixtures/snapshot-3.5.30.db.gz");
        let mut image = Vec::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut image).expect("an intact fixture");
        image.truncate(image.len() / 4096 * 4096);
        image
    })
}

/// A small database of ours with branches, overflow pages, nested and inline buckets and a free list.
fn ours() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let options = Options { page_size: 1024, no_freelist_sync: false, ..Options::default() };
        let db = Db::open(Arc::new(SimDisk::new()), Path::new("db"), options).expect("a new database");
        for round in 0..3 {
            fill(&db, round).expect("a healthy disk");
        }
        let mut image = Vec::new();
        let copy = db.read().copy_to(&mut |piece| {
            image.extend_from_slice(piece);
            Ok(())
        });
        copy.expect("a healthy disk");
        image
    })
}

fn fill(db: &Db, round: u8) -> Result<(), Error> {
    let mut tx = db.write()?;
    let mut bucket = tx.create_bucket_if_missing(b"key")?;
    for number in 0..60_u64 {
        let number = (number * 7 + u64::from(round)) % 80;
        bucket.put(&[&(number * 10).to_be_bytes()[..], b"_", &[0; 8]].concat(), &[round; 40])?;
    }
    bucket.put(b"large", &[1; 2500])?;
    bucket.put(&[b'm'; 300], b"long key")?;
    let mut nested = bucket.create_bucket_if_missing(b"nested")?;
    for number in 0..20_u32 {
        nested.put(&number.to_be_bytes(), &[2; 40])?;
    }
    nested.create_bucket_if_missing(b"inner")?.put(b"k", b"v")?;
    tx.create_bucket_if_missing(b"inline")?.put(b"k", b"v")?;
    tx.commit().map(drop)
}

/// The bases as they are, and one edit of each kind.
pub fn seeds() -> Vec<Seed> {
    // Where the root of the largest tree lies in ours.
    let root = ReadTx::from_image(ours().to_vec())
        .ok()
        .and_then(|tx| tx.bucket(b"key").ok().flatten().map(|bucket| bucket.root_page()))
        .unwrap_or_default() as u8;
    let ours_from = |base: u8| Output::default().u8(base);
    vec![
        ("ours", vec![0]),
        ("theirs", vec![1]),
        ("ours-written", vec![2]),
        ("theirs-written", vec![3]),
        ("byte", ours_from(2).u8(0).u8(root).u16(8).u8(2).0),
        ("word", ours_from(2).u8(1).u8(root).u16(4).u16(64).0),
        ("child", ours_from(2).u8(2).u8(root).u16(6).u64(u64::from(root)).0),
        ("page", ours_from(2).u8(3).u8(root).u8(root + 1).0),
        ("root", ours_from(2).u8(4).u8(0).u64(u64::from(root)).0),
        ("freelist", ours_from(2).u8(4).u8(2).u64(u64::MAX).0),
        ("high-water", ours_from(2).u8(4).u8(3).u64(20).0),
        ("bytes", ours_from(2).u8(5).u8(root).u16(100).string(b"other bytes").0),
        ("element", ours_from(2).u8(6).u8(root).u8(1).u8(1).u8(0xff).0),
        ("element-of-theirs", Output::default().u8(3).u8(6).u8(5).u8(1).u8(1).u8(3).0),
    ]
}
