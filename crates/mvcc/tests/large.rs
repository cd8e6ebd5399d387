//! Ranges and deletions that go over the bounds of chunks.
#![allow(missing_docs)]

mod common;

use backend::WriteSet;
use env::sim::SimDisk;
use mvcc::{RangeQuery, SortOrder, Store};
use types::{KeyRange, LeaseId};

use common::{everything, open, read_all};

const KEYS: usize = 1300;

fn key(number: usize) -> String {
    format!("k{number:04}")
}

fn filled() -> Store {
    let (store, _) = open(&SimDisk::new());
    let mut txn = store.write();
    for number in 0..KEYS {
        let lease = LeaseId((number % 3) as i64);
        txn.put(key(number).into(), number.to_string().into(), lease).unwrap();
    }
    txn.commit(WriteSet::default());
    store
}

#[test]
fn limits_around_chunks() {
    let store = filled();
    for first in [0, 1, 700] {
        let there = KEYS - first;
        for limit in [1, 2, 511, 512, 513, 1023, 1024, 1025, there - 1, there, there + 1] {
            let range = KeyRange::From(key(first).into());
            let query = RangeQuery { limit: limit as i64, ..RangeQuery::new(range) };
            let result = store.range(&query).unwrap();
            let expected = limit.min(there);
            assert_eq!(
                (result.kvs.len(), result.count as usize, result.more),
                (expected, there, limit < there)
            );
            assert_eq!(result.kvs.last_key().unwrap(), key(first + expected - 1).as_bytes());
            // Without the total the walk ends early, and says so only in the count.
            let result = store.range(&RangeQuery { without_total: true, ..query }).unwrap();
            assert_eq!((result.kvs.len(), result.more), (expected, limit < there));
            assert_eq!(result.count as usize, there.min(limit + 1));
        }
    }
    let empty = KeyRange::Span("x".into(), "a".into());
    assert_eq!(store.range(&RangeQuery::new(empty)).unwrap().count, 0);
}

/// Whether a query is small, by the keys it takes to look at: those that it wants, with one more to know whether there
/// are more, and without those that are only counted if the newest revision is read.
#[test]
fn small_ranges() {
    let store = filled();
    let mut txn = store.write();
    txn.delete_range(&KeyRange::Span(key(0).into(), key(1000).into())).unwrap();
    txn.commit(WriteSet::default());
    let from = |first: usize| RangeQuery::new(KeyRange::From(key(first).into()));
    let small = |query: RangeQuery, keys| {
        let ranges = store.counters().ranges.load(std::sync::atomic::Ordering::Relaxed);
        let result = store.range_within(&query, keys).unwrap();
        let counted = store.counters().ranges.load(std::sync::atomic::Ordering::Relaxed) - ranges;
        assert_eq!(counted, u64::from(result.is_some()));
        let Some(result) = result else { return false };
        let whole = store.range(&query).unwrap();
        assert_eq!((result.count, result.more, result.revision), (whole.count, whole.more, whole.revision));
        assert_eq!(result.kvs, whole.kvs);
        true
    };
    assert!(small(from(1200), 101) && !small(from(1200), 100), "the end is a look more");
    assert!(small(RangeQuery { limit: 100, ..from(1000) }, 101));
    assert!(!small(RangeQuery { limit: 100, ..from(1000) }, 100));
    assert!(small(RangeQuery { count_only: true, ..from(1000) }, 1));
    assert!(!small(RangeQuery { sort_order: SortOrder::Descend, limit: 1, ..from(1000) }, 100));
    assert!(small(RangeQuery { sort_order: SortOrder::Descend, limit: 1, ..from(1250) }, 100));
    // What is counted by a walk.
    assert!(!small(RangeQuery { revision: 2, count_only: true, ..from(1000) }, 300));
    assert!(small(RangeQuery { revision: 2, count_only: true, ..from(1000) }, 301));
    assert!(!small(RangeQuery { revision: 2, limit: 10, ..from(1000) }, 300));
    assert!(small(RangeQuery { revision: 2, limit: 10, without_total: true, ..from(1000) }, 11));
    // Keys that are deleted are looked at.
    assert!(!small(RangeQuery { limit: 1, ..from(0) }, 500));
    assert!(small(RangeQuery::key(key(1299)), 1) && small(RangeQuery::key(key(5)), 1));
    // What is refused is counted as well.
    let ranges = || store.counters().ranges.load(std::sync::atomic::Ordering::Relaxed);
    let before = ranges();
    let future = RangeQuery { revision: 1000, ..from(0) };
    assert!(store.range_within(&future, 100).is_err() && store.range(&future).is_err());
    assert_eq!(ranges() - before, 2);
    // An open transaction changes nothing, unless it is large: what it has deleted would have to be looked at.
    let mut txn = store.write();
    txn.delete_range(&KeyRange::Span(key(1250).into(), key(1300).into())).unwrap();
    txn.put("".into(), "value".into(), LeaseId(0)).unwrap();
    assert!(small(from(1200), 101) && !small(from(1200), 100));
    assert!(small(RangeQuery { limit: 60, ..from(1200) }, 61));
    assert!(small(RangeQuery { count_only: true, ..from(1000) }, 51));
    assert!(!small(RangeQuery { count_only: true, ..from(1000) }, 50));
    txn.delete_range(&KeyRange::Span(key(1000).into(), key(1100).into())).unwrap();
    assert!(!small(RangeQuery { limit: 1, ..from(1200) }, 100));
    drop(txn);
    assert!(small(RangeQuery { count_only: true, ..from(1000) }, 1));
}

#[test]
fn keys_only_knows_leases_unless_told_not_to() {
    let store = filled();
    for (from_index, limit) in [(false, 0), (true, 0), (true, 7)] {
        let query = RangeQuery {
            keys_only: true,
            keys_only_from_index: from_index,
            limit,
            ..RangeQuery::new(everything())
        };
        for (number, kv) in store.range(&query).unwrap().kvs.decode().unwrap().iter().enumerate() {
            assert_eq!(kv.key, key(number));
            assert!(kv.value.is_empty());
            assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 2, 1));
            assert_eq!(kv.lease, if from_index { 0 } else { (number % 3) as i64 });
        }
        let single = RangeQuery { range: KeyRange::Single(key(2).into()), ..query };
        let kvs = store.range(&single).unwrap().kvs.decode().unwrap();
        assert_eq!((kvs[0].lease, kvs[0].value.len()), (if from_index { 0 } else { 2 }, 0));
    }
}

#[test]
fn a_large_deletion_and_its_rollback() {
    let store = filled();
    let before = read_all(&store, 0);
    let range = KeyRange::Span(key(100).into(), key(1200).into());
    let mut txn = store.write();
    txn.put(key(500).into(), "new".into(), LeaseId(9)).unwrap();
    let deleted = txn.delete_range(&range).unwrap();
    assert_eq!(deleted.len(), 1100);
    assert!(deleted.is_sorted_by(|left, right| left.key < right.key));
    let lease = |number: usize| if number == 500 { 9 } else { (number % 3) as i64 };
    assert!(deleted.iter().zip(100..).all(|(deleted, number)| deleted.lease.0 == lease(number)));
    assert_eq!(txn.range(&RangeQuery::new(everything())).unwrap().count, 200);
    assert!(txn.delete_range(&range).unwrap().is_empty());
    assert_eq!(store.range(&RangeQuery::new(everything())).unwrap().count, 1300, "not yet");
    drop(txn);
    assert_eq!(read_all(&store, 0), before);
    assert_eq!(store.live_keys(), KEYS);

    let mut txn = store.write();
    assert_eq!(txn.delete_range(&everything()).unwrap().len(), KEYS);
    let outcome = txn.commit(WriteSet::default());
    assert_eq!(outcome.revision, 3);
    assert_eq!(outcome.events.unwrap().events.len(), KEYS);
    assert_eq!(store.range(&RangeQuery::new(everything())).unwrap().count, 0);
    assert_eq!((store.live_keys(), store.indexed_keys()), (0, KEYS));
    let changes = store.changes(3, 3, 10).unwrap();
    assert_eq!((changes.len(), changes[0].events.len()), (1, KEYS));

    // Compaction above the deletion leaves nothing, in small steps.
    store.write().commit(WriteSet::default());
    let mut txn = store.write();
    txn.put("other".into(), "1".into(), LeaseId(0)).unwrap();
    txn.commit(WriteSet::default());
    let ticket = store.compact(4).unwrap();
    store.backend().append(WriteSet { changes: vec![ticket.change], ..WriteSet::default() });
    let mut job = ticket.job;
    let mut steps = 0;
    while !store.compaction_step(&mut job).unwrap().finished {
        store.backend().commit().unwrap();
        steps += 1;
    }
    store.backend().commit().unwrap();
    assert!(steps >= 3);
    assert_eq!((job.deleted(), store.indexed_keys()), (2 * KEYS, 1));
    assert_eq!(read_all(&store, 4).len(), 1);
}

#[test]
fn a_received_database_takes_over() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let mut txn = store.write();
    txn.put("old".into(), "1".into(), LeaseId(0)).unwrap();
    txn.commit(WriteSet::default());
    let mut stale = store.compact(2).unwrap().job;

    let sender = filled();
    let mut image = Vec::new();
    std::io::Read::read_to_end(&mut sender.backend().snapshot().unwrap(), &mut image).unwrap();
    let path = std::path::Path::new("received");
    let file = env::Disk::open(&disk, path, env::OpenMode::CreateNew(0o600)).unwrap();
    file.write_at(&image, 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let restored = store.replace(path).unwrap();
    assert_eq!(restored.attachments.len(), KEYS - KEYS.div_ceil(3));
    assert_eq!(read_all(&store, 0), read_all(&sender, 0));
    assert_eq!((store.current_revision(), store.compacted_revision()), (2, -1));
    let step = store.compaction_step(&mut stale).unwrap();
    assert!(step.finished && step.deleted == 0, "a job of the old store ends");
    assert_eq!(store.live_keys(), KEYS);
}
