//! Files that etcd 3.5.30 wrote, and what is known about them. See the README beside the files
//! for how they were made.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bolt::format::{FREELIST_NOT_PERSISTED, Meta};
use bolt::{Db, Options, ReadTx};
use env::real::RealDisk;

const BUCKETS: [&str; 10] = [
    "alarm",
    "auth",
    "authRoles",
    "authUsers",
    "cluster",
    "key",
    "lease",
    "members",
    "members_removed",
    "meta",
];

fn unpack(bytes: &[u8]) -> Vec<u8> {
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut unpacked).unwrap();
    unpacked
}

/// The `db` of a member that was stopped.
fn clean() -> Vec<u8> {
    unpack(include_bytes!("fixtures/clean-3.5.30.db.gz"))
}

/// A snapshot without the checksum behind it.
fn snapshot() -> Vec<u8> {
    let mut bytes = unpack(include_bytes!("fixtures/snapshot-3.5.30.db.gz"));
    assert_eq!(bytes.len(), 122_912);
    bytes.truncate(122_880);
    bytes
}

fn count(tx: &ReadTx, bucket: &str) -> usize {
    tx.bucket(bucket.as_bytes()).unwrap().unwrap().iter().map(Result::unwrap).count()
}

fn check_content(tx: &ReadTx) {
    let names: Vec<_> =
        tx.buckets().map(|bucket| String::from_utf8(bucket.unwrap().0.to_vec()).unwrap()).collect();
    assert_eq!(names, BUCKETS);
    assert_eq!(count(tx, "key"), 560);
    assert_eq!(count(tx, "meta"), 5);
    assert_eq!(count(tx, "lease"), 2);
    assert_eq!(tx.check(), []);
    let key = tx.bucket(b"key").unwrap().unwrap();
    assert_ne!(key.root_page(), 0, "records have a tree of their own");
    assert_eq!(tx.bucket(b"meta").unwrap().unwrap().root_page(), 0, "small buckets are inline");
    // The revision at which auth was set up has tombstones and puts before and after it.
    let mut cursor = key.cursor();
    let (first, _) = cursor.first().unwrap().unwrap();
    let (last, _) = cursor.last().unwrap().unwrap();
    assert!(first.len() >= 17 && first[8] == b'_');
    assert_eq!(last[..8], 567_u64.to_be_bytes(), "the last revision");
}

#[test]
fn a_database_of_a_stopped_member() {
    let bytes = clean();
    assert_eq!(bytes.len(), 16_801_792);
    let tx = ReadTx::from_image(bytes).unwrap();
    let meta = tx.meta();
    assert_eq!((meta.txid, meta.high_water, meta.page_size), (23, 30, 4096));
    assert_eq!(meta.freelist, FREELIST_NOT_PERSISTED);
    check_content(&tx);
    let stored = tx.bucket(b"meta").unwrap().unwrap();
    assert_eq!(stored.get(b"consistent_index").unwrap(), Some(&578_u64.to_be_bytes()[..]));
    assert_eq!(stored.get(b"term").unwrap(), Some(&2_u64.to_be_bytes()[..]));
    let conf_state = &br#"{"voters":[17402000849597972512],"auto_leave":false}"#[..];
    assert_eq!(stored.get(b"confState").unwrap(), Some(conf_state));
}

#[test]
fn a_snapshot() {
    let bytes = snapshot();
    let (first, second) = (Meta::parse(&bytes).unwrap(), Meta::parse(&bytes[4096..]).unwrap());
    assert_eq!(second, Meta { txid: first.txid - 1, ..first });
    let tx = ReadTx::from_image(bytes.clone()).unwrap();
    assert_eq!(tx.size_bytes(), 122_880);
    check_content(&tx);
    let total: usize = BUCKETS.iter().map(|bucket| count(&tx, bucket)).sum();
    assert_eq!(total, 572, "what etcdutl counts");

    let mut copy = Vec::new();
    let length = tx.copy_to(&mut |piece| {
        copy.extend_from_slice(piece);
        Ok(())
    });
    assert_eq!(length.unwrap(), 122_880);
    assert!(copy == bytes, "a copy of a snapshot is the snapshot, byte for byte");
}

/// Every record of all buckets, in order.
fn records(tx: &ReadTx) -> Vec<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let mut records = Vec::new();
    for bucket in tx.buckets() {
        let (name, bucket) = bucket.unwrap();
        for item in bucket.iter() {
            let (key, value) = item.unwrap();
            records.push((name.to_vec(), key.to_vec(), value.data().unwrap().to_vec()));
        }
    }
    records
}

#[test]
fn goes_on_with_their_file_and_defragments_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    std::fs::write(&path, clean()).unwrap();
    let before = records(&ReadTx::from_image(clean()).unwrap());
    let open = |path: &Path| {
        let options = Options { verify: true, ..Options::default() };
        Db::open(Arc::new(RealDisk), path, options).unwrap()
    };
    let db = open(&path);
    assert_eq!(records(&db.read()), before);
    for round in 0..20_u64 {
        let mut tx = db.write().unwrap();
        assert_eq!(tx.txid(), 24 + round);
        let mut bucket = tx.bucket(b"key").unwrap().unwrap();
        bucket.set_fill_percent(0.9);
        for index in 0..100_u64 {
            let key = [&(1000 + round * 100 + index).to_be_bytes()[..], b"_", &[0; 8]].concat();
            bucket.put(&key, &[7; 100]).unwrap();
        }
        tx.commit().unwrap();
    }
    let mut tx = db.write().unwrap();
    let mut bucket = tx.bucket(b"key").unwrap().unwrap();
    for number in 1000..3000_u64 {
        assert!(bucket.delete(&[&number.to_be_bytes()[..], b"_", &[0; 8]].concat()).unwrap());
    }
    tx.commit().unwrap();
    drop(db);
    let db = open(&path);
    assert_eq!(records(&db.read()), before, "only our records came and went");

    let target = open(&dir.path().join("db.tmp.1"));
    let keys = bolt::compact_into(&db.read(), &target).unwrap();
    assert_eq!(keys as usize, before.len() + BUCKETS.len());
    assert_eq!(records(&target.read()), before);
    assert!(target.stats().size_bytes < db.stats().size_bytes / 2, "{:?} {:?}", target.stats(), db.stats());
}
