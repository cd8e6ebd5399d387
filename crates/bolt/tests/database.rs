//! The database as a whole: files, locks, maps, readers on other threads, copies, statistics.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bolt::format::{FREELIST_NOT_PERSISTED, Meta};
use bolt::{Db, Error, OpenError, Options, ReadTx};
use env::real::RealDisk;
use env::sim::SimDisk;
use env::{Disk, File, OpenMode, Random, SeededRandom};

fn verified() -> Options {
    Options { verify: true, ..Options::default() }
}

fn open(disk: &SimDisk, options: Options) -> Result<Db, OpenError> {
    Db::open(Arc::new(disk.clone()), Path::new("db"), options)
}

fn put(db: &Db, key: &[u8], value: &[u8]) {
    let mut tx = db.write().unwrap();
    tx.create_bucket_if_missing(b"b").unwrap().put(key, value).unwrap();
    tx.commit().unwrap();
}

fn get<'tx>(tx: &'tx ReadTx, key: &[u8]) -> Option<&'tx [u8]> {
    tx.bucket(b"b").unwrap()?.get(key).unwrap()
}

fn file(disk: &SimDisk) -> Arc<dyn File> {
    disk.open(Path::new("db"), OpenMode::ReadWrite).unwrap()
}

#[test]
fn a_new_file_is_bbolts() {
    for page_size in [1024, 4096, 16_384, 65_536] {
        let disk = SimDisk::new();
        let db = open(&disk, Options { page_size, ..verified() }).unwrap();
        let size = page_size as usize;
        let mut bytes = vec![0; 5 * size];
        assert_eq!(file(&disk).read_at(&mut bytes, 0).unwrap(), 4 * size);
        let first = Meta::parse(&bytes).unwrap();
        let expected = Meta { page_size, root: 3, root_sequence: 0, freelist: 2, high_water: 4, txid: 0 };
        assert_eq!(first, expected);
        assert_eq!(Meta::parse(&bytes[size..]).unwrap(), Meta { txid: 1, ..first });
        // The first commit frees the freelist page and reuses it in the next one.
        put(&db, b"k", b"v");
        let meta = *db.read().meta();
        assert_eq!((meta.txid, meta.freelist), (2, FREELIST_NOT_PERSISTED));
        drop(db);
        let db = open(&disk, verified()).unwrap();
        assert_eq!(db.stats().page_size, page_size, "an existing file keeps its page size");
        assert_eq!(get(&db.read(), b"k"), Some(&b"v"[..]));
    }
}

#[test]
fn files_grow_as_bbolts_do() {
    let len_after_one_put = |initial_map_bytes| {
        let disk = SimDisk::new();
        let db = open(&disk, Options { initial_map_bytes, ..verified() }).unwrap();
        put(&db, b"k", b"v");
        file(&disk).len().unwrap()
    };
    assert_eq!(len_after_one_put(0), 32 << 10, "small maps: as long as the map");
    // The simulated disk maps at most 1 GiB, which is beyond the 16 MiB step, too.
    let len = len_after_one_put(10 << 30);
    assert!((16 << 20..(16 << 20) + 16 * 4096).contains(&len), "{len}");

    let disk = SimDisk::new();
    let db = open(&disk, verified()).unwrap();
    for round in 0..40_u8 {
        put(&db, &[round], &vec![round; 1 << 20]);
        let (len, size) = (file(&disk).len().unwrap(), db.stats().size_bytes);
        assert!(len >= size && len <= size + (17 << 20), "{len} for {size}");
    }
}

#[test]
fn the_lock_keeps_a_second_writer_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let open = |read_only, timeout| {
        let options = Options { read_only, lock_timeout: Some(Duration::from_millis(timeout)), ..verified() };
        Db::open(Arc::new(RealDisk), &path, options)
    };
    let db = open(false, 0).unwrap();
    put(&db, b"k", b"v");
    for read_only in [false, true] {
        let error = open(read_only, 60).err().unwrap();
        assert!(matches!(error, OpenError::LockTimeout { .. }), "{error:?}");
        assert!(error.to_string().contains("timeout"));
    }
    let reader = db.read();
    drop(db);
    assert!(open(false, 0).is_err(), "a read transaction keeps the file open");
    drop(reader);

    let first = open(true, 0).unwrap();
    let second = open(true, 0).unwrap();
    assert_eq!(get(&first.read(), b"k"), get(&second.read(), b"k"));
    assert!(matches!(first.write().err(), Some(Error::ReadOnly)));
    assert!(open(false, 0).is_err(), "readers keep a writer out");
    drop((first, second));
    assert!(open(false, 0).is_ok());
    assert!(matches!(
        Db::open(Arc::new(RealDisk), &dir.path().join("absent"), Options { read_only: true, ..verified() }),
        Err(OpenError::Io { .. })
    ));
}

#[test]
fn either_meta_page_is_enough() {
    for page_size in [1024, 4096, 65_536] {
        for broken in [0, 1] {
            let disk = SimDisk::new();
            let db = open(&disk, Options { page_size, ..verified() }).unwrap();
            put(&db, b"k", b"one");
            put(&db, b"k", b"two");
            let newest = db.read().txid() % 2;
            drop(db);
            file(&disk).write_at(&[0xEE; 8], broken * u64::from(page_size) + 40).unwrap();
            let db = open(&disk, Options { page_size, ..verified() }).unwrap();
            let expected: &[u8] = if newest == broken { b"one" } else { b"two" };
            assert_eq!(get(&db.read(), b"k"), Some(expected), "page size {page_size}, meta {broken} broken");
            put(&db, b"k", b"three");
            assert_eq!(get(&db.read(), b"k"), Some(&b"three"[..]));
        }
    }
}

#[test]
fn files_that_are_no_databases_are_refused() {
    let refuse = |bytes: &[u8]| {
        let disk = SimDisk::new();
        disk.open(Path::new("db"), OpenMode::CreateNew(0o600)).unwrap().write_at(bytes, 0).unwrap();
        open(&disk, verified()).err().unwrap().to_string()
    };
    assert_eq!(refuse(b"hello"), "db: invalid database");
    assert_eq!(refuse(&[0; 100_000]), "db: invalid database");
    let disk = SimDisk::new();
    put(&open(&disk, verified()).unwrap(), b"k", b"v");
    let mut bytes = vec![0; file(&disk).len().unwrap() as usize];
    file(&disk).read_at(&mut bytes, 0).unwrap();
    let with = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0xFF;
        bytes[4096 + at] ^= 0xFF;
        refuse(&bytes)
    };
    assert_eq!(with(16), "db: invalid database");
    assert_eq!(with(20), "db: version mismatch");
    assert_eq!(with(70), "db: checksum error");
    assert!(refuse(&bytes[..3 * 4096]).contains("file size too small"));
    assert!(matches!(
        open(&SimDisk::new(), Options { page_size: 3000, ..verified() }),
        Err(OpenError::PageSize { .. })
    ));
}

#[test]
fn keys_and_values_have_limits() {
    let db = open(&SimDisk::new(), verified()).unwrap();
    let mut tx = db.write().unwrap();
    assert!(matches!(tx.create_bucket_if_missing(b"").err(), Some(Error::BucketNameRequired)));
    assert!(matches!(tx.delete_bucket(b"absent"), Err(Error::BucketNotFound)));
    let mut bucket = tx.create_bucket_if_missing(b"b").unwrap();
    assert!(matches!(bucket.put(b"", b"v"), Err(Error::KeyRequired)));
    assert!(matches!(bucket.put(&[1; 32_769], b"v"), Err(Error::KeyTooLarge)));
    bucket.put(&[1; 32_768], b"v").unwrap();
    bucket.create_bucket_if_missing(b"nested").unwrap();
    assert!(matches!(bucket.put(b"nested", b"v"), Err(Error::IncompatibleValue)));
    assert!(matches!(bucket.delete(b"nested"), Err(Error::IncompatibleValue)));
    assert!(matches!(bucket.delete_bucket(&[1; 32_768]), Err(Error::IncompatibleValue)));
    assert!(matches!(bucket.create_bucket_if_missing(&[1; 32_768]).err(), Some(Error::IncompatibleValue)));
    assert_eq!(bucket.get(b"nested").unwrap(), None);
    tx.commit().unwrap();
    assert_eq!(get(&db.read(), &[1; 32_768]), Some(&b"v"[..]));
}

#[test]
fn a_commit_without_changes_writes_nothing() {
    let disk = SimDisk::new();
    let db = open(&disk, verified()).unwrap();
    put(&db, b"k", b"v");
    let (operations, txid) = (disk.operations(), db.read().txid());
    let mut tx = db.write().unwrap();
    assert_eq!(tx.bucket(b"b").unwrap().unwrap().get(b"k").unwrap(), Some(&b"v"[..]));
    assert_eq!(tx.commit().unwrap().txid, txid);
    assert_eq!((disk.operations(), db.read().txid()), (operations, txid));
}

#[test]
fn sequences_are_kept() {
    let db = open(&SimDisk::new(), verified()).unwrap();
    for large in [false, true] {
        let mut tx = db.write().unwrap();
        let mut bucket = tx.create_bucket_if_missing(b"b").unwrap();
        if large {
            bucket.put(b"k", &[0; 3000]).unwrap();
        }
        tx.commit().unwrap();
        // Nothing but the sequence changes here.
        let mut tx = db.write().unwrap();
        let mut bucket = tx.bucket(b"b").unwrap().unwrap();
        let next = bucket.sequence() + 7;
        bucket.set_sequence(next);
        tx.commit().unwrap();
        assert_eq!(db.read().bucket(b"b").unwrap().unwrap().sequence(), next);
    }
    let target = open(&SimDisk::new(), verified()).unwrap();
    bolt::compact_into(&db.read(), &target).unwrap();
    assert_eq!(target.read().bucket(b"b").unwrap().unwrap().sequence(), 14);
}

#[test]
fn many_random_keys_in_one_transaction() {
    let db = open(&SimDisk::new(), verified()).unwrap();
    let mut random = SeededRandom::new(5);
    let mut expected = std::collections::BTreeMap::new();
    for _ in 0..2 {
        let mut tx = db.write().unwrap();
        let mut bucket = tx.create_bucket_if_missing(b"b").unwrap();
        for _ in 0..20_000 {
            let key = random.next_u64().to_be_bytes();
            bucket.put(&key, &key[..4]).unwrap();
            expected.insert(key, key[..4].to_vec());
            if random.below(4) == 0 {
                let gone =
                    *expected.range(random.next_u64().to_be_bytes()..).next().map_or(&key, |(key, _)| key);
                assert_eq!(bucket.delete(&gone).unwrap(), expected.remove(&gone).is_some());
            }
        }
        tx.commit().unwrap();
        let tx = db.read();
        let bucket = tx.bucket(b"b").unwrap().unwrap();
        let found = bucket.iter().map(|item| {
            let (key, value) = item.unwrap();
            (key.to_vec(), value.data().unwrap().to_vec())
        });
        assert!(found.eq(expected.iter().map(|(key, value)| (key.to_vec(), value.clone()))));
    }
}

/// More than 65,534 free pages, kept in the file: the count of the list needs its long form.
#[test]
fn a_freelist_of_the_long_form() {
    const KEYS: u32 = 70_000;
    let disk = SimDisk::new();
    let options =
        || Options { page_size: 1024, no_freelist_sync: false, no_sync: true, ..Options::default() };
    let db = open(&disk, options()).unwrap();
    let mut tx = db.write().unwrap();
    let mut bucket = tx.create_bucket_if_missing(b"b").unwrap();
    for key in 0..KEYS {
        bucket.put(&key.to_be_bytes(), &[1; 600]).unwrap();
    }
    tx.commit().unwrap();
    let mut tx = db.write().unwrap();
    tx.delete_bucket(b"b").unwrap();
    tx.commit().unwrap();
    let free = db.stats().pending_pages + db.stats().free_pages;
    assert!(free > 65_534, "{free} free pages");
    for round in 0..2 {
        put(&db, b"k", &[round; 2000]);
        assert_eq!(db.read().check(), []);
    }
    let before = db.stats();
    drop(db);
    let db = open(&disk, options()).unwrap();
    assert_eq!(db.stats().free_pages, before.free_pages + before.pending_pages);
    assert_eq!(db.stats().size_bytes, before.size_bytes);
    assert_eq!(get(&db.read(), b"k"), Some(&[1; 2000][..]));
}

/// Readers on other threads see one transaction's values, whole, while the writer goes on, pages
/// are reused and the map is replaced by larger ones.
#[test]
fn readers_on_other_threads() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { no_sync: true, ..verified() };
    let db = Db::open(Arc::new(RealDisk), &dir.path().join("db"), options).unwrap();
    let write = |round: u64| {
        let mut tx = db.write().unwrap();
        let mut bucket = tx.create_bucket_if_missing(b"b").unwrap();
        for key in 0..40_u64 {
            let len = 8 * (1 + (key * 31 + round * 17) % 60) as usize;
            bucket.put(&key.to_be_bytes(), &round.to_be_bytes().repeat(len / 8)).unwrap();
        }
        // Something that stays, so that the file grows over several maps.
        tx.create_bucket_if_missing(b"kept").unwrap().put(&round.to_be_bytes(), &[7; 3000]).unwrap();
        tx.commit().unwrap();
    };
    write(0);
    let stop = AtomicBool::new(false);
    let read = || {
        let mut held: Vec<ReadTx> = Vec::new();
        let mut checked = 0_u64;
        while !stop.load(Ordering::Relaxed) || checked < 10 {
            held.push(db.read());
            if held.len() > 4 {
                held.remove((checked % 4) as usize);
            }
            for tx in &held {
                let round = tx.txid() - 2;
                for item in tx.bucket(b"b").unwrap().unwrap().iter() {
                    let value = item.unwrap().1.data().unwrap();
                    assert!(value.chunks(8).all(|word| word == round.to_be_bytes()), "torn: {value:?}");
                }
            }
            checked += 1;
        }
    };
    std::thread::scope(|scope| {
        let readers = [scope.spawn(read), scope.spawn(read), scope.spawn(read)];
        (1..300).for_each(write);
        stop.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    assert_eq!(db.stats().open_readers, 0);
    put(&db, &99_u64.to_be_bytes(), b"x");
    put(&db, &99_u64.to_be_bytes(), b"y");
    assert!(db.stats().pending_pages < 10, "without readers pages come back: {:?}", db.stats());
}

#[test]
fn a_copy_is_the_state_it_was_begun_at() {
    let db = open(&SimDisk::new(), verified()).unwrap();
    for round in 0..20_u8 {
        put(&db, &[round], &[round; 3000]);
    }
    let tx = db.read();
    let mut reader = tx.copy_reader();
    let size = reader.size_bytes();
    let mut copy = vec![0; 10_000];
    reader.read_exact(&mut copy).unwrap();
    drop(tx);
    for round in 0..60_u8 {
        put(&db, &[round % 20], &[0xFF; 3000]);
    }
    reader.read_to_end(&mut copy).unwrap();
    assert_eq!(copy.len() as u64, size);
    let disk = SimDisk::new();
    disk.open(Path::new("db"), OpenMode::CreateNew(0o600)).unwrap().write_at(&copy, 0).unwrap();
    let copied = open(&disk, verified()).unwrap();
    let tx = copied.read();
    assert_eq!(tx.check(), []);
    for round in 0..20_u8 {
        assert_eq!(get(&tx, &[round]), Some(&[round; 3000][..]));
    }
    drop(tx);
    put(&copied, b"new", b"value");
}

#[test]
fn statistics() {
    let db = open(&SimDisk::new(), verified()).unwrap();
    for round in 0..10_u8 {
        put(&db, &[round], &[round; 3000]);
    }
    let readers = [db.read(), db.read()];
    let before = db.stats();
    assert_eq!(before.open_readers, 2);
    assert_eq!(before.size_bytes, readers[0].size_bytes());
    for _ in 0..10 {
        put(&db, &[0], &[9; 3000]);
    }
    let during = db.stats();
    assert_eq!((during.open_readers, during.txid), (2, before.txid + 10));
    drop(readers);
    put(&db, &[0], &[9; 3000]);
    let after = db.stats();
    assert!(after.free_pages > during.free_pages, "{during:?} {after:?}");
    assert_eq!(after.open_readers, 0);
    db.release_resident();
    assert_eq!(get(&db.read(), &[0]), Some(&[9; 3000][..]));
}

/// Pages of a bucket that is deleted with its parent right behind it must not be freed twice.
#[test]
fn a_deleted_bucket_inside_a_deleted_bucket() {
    let db = open(&SimDisk::new(), verified()).unwrap();
    let fill = |tx: &mut bolt::WriteTx<'_>| {
        let mut bucket = tx.create_bucket_if_missing(b"b").unwrap();
        for name in [&b"one"[..], b"two"] {
            let mut nested = bucket.create_bucket_if_missing(name).unwrap();
            for key in 0..200_u8 {
                nested.put(&[key], &[key; 100]).unwrap();
            }
            nested.create_bucket_if_missing(b"inner").unwrap().put(b"k", &[1; 3000]).unwrap();
        }
    };
    let mut tx = db.write().unwrap();
    fill(&mut tx);
    tx.commit().unwrap();
    let mut tx = db.write().unwrap();
    let mut bucket = tx.bucket(b"b").unwrap().unwrap();
    bucket.bucket(b"two").unwrap().unwrap().delete_bucket(b"inner").unwrap();
    bucket.bucket(b"one").unwrap().unwrap().put(b"k", b"changed before it goes").unwrap();
    bucket.delete_bucket(b"one").unwrap();
    tx.delete_bucket(b"b").unwrap();
    fill(&mut tx);
    tx.bucket(b"b").unwrap().unwrap().delete_bucket(b"two").unwrap();
    tx.commit().unwrap();
    let tx = db.read();
    let bucket = tx.bucket(b"b").unwrap().unwrap();
    assert!(bucket.bucket(b"two").unwrap().is_none());
    assert_eq!(bucket.bucket(b"one").unwrap().unwrap().iter().count(), 201);
}
