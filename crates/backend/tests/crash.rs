//! The power goes at every single operation on the disk: consistent index and data must agree.
#![allow(missing_docs)]

use std::path::Path;
use std::sync::Arc;

use backend::{Backend, BucketId, Change, Error, Options, WriteSet, schema};
use bytes::Bytes;
use env::Disk;
use env::sim::{Fault, SimDisk, Survival};
use types::{LogPosition, RecordKey, Revision};

const PATH: &str = "db";

fn open(disk: &SimDisk) -> Result<Backend, Error> {
    let options = Options { initial_map_bytes: 1 << 24, verify: true, ..Options::default() };
    Backend::open(Arc::new(disk.clone()), Path::new(PATH), options)
}

fn value(index: u64) -> Bytes {
    vec![index as u8; 100 + (index as usize * 37) % 900].into()
}

/// What the log entry `index` does: a record, a counter in another bucket, now and then the
/// deletion of old records and a new raft configuration.
fn set(index: u64) -> WriteSet {
    let revision = |index: u64| Revision::new(index as i64 + 1, 0);
    let mut set = WriteSet {
        records: vec![(RecordKey::put(revision(index)), value(index))],
        changes: vec![
            Change::put(BucketId::Cluster, "counter", index.to_string()),
            Change::put(BucketId::Lease, index.to_be_bytes().to_vec(), "lease"),
        ],
        applied: Some(LogPosition { index, term: 1 + index / 10 }),
        ..WriteSet::default()
    };
    if index >= 5 {
        set.changes.push(Change::delete(BucketId::Lease, (index - 4).to_be_bytes().to_vec()));
    }
    if index.is_multiple_of(10) {
        set.record_deletes = (index - 9..index - 4).map(|old| RecordKey::put(revision(old))).collect();
        set.conf_state = Some(format!("conf {index}").into());
    }
    set
}

/// The file must be exactly as the entries up to its consistent index left it.
fn check(backend: &Backend) -> u64 {
    let LogPosition { index, term } = backend.stored_consistent_position();
    let view = backend.view();
    assert_eq!(term, if index == 0 { 0 } else { 1 + index / 10 });
    let found: Vec<(RecordKey, Vec<u8>)> = view
        .records(Revision::default(), Revision::new(i64::MAX, i64::MAX))
        .unwrap()
        .map(|item| item.map(|(key, value)| (key, value.to_vec())).unwrap())
        .collect();
    let deleted = |old: u64| {
        let block = (old - 1) / 10 * 10;
        old <= block + 5 && index >= block + 10
    };
    let expected: Vec<(RecordKey, Vec<u8>)> = (1..=index)
        .filter(|old| !deleted(*old))
        .map(|old| (RecordKey::put(Revision::new(old as i64 + 1, 0)), value(old).to_vec()))
        .collect();
    assert_eq!(found, expected, "records at index {index}");
    let counter = view.get(BucketId::Cluster, b"counter").unwrap();
    assert_eq!(counter, (index > 0).then(|| index.to_string().into()));
    let leases = view.scan(BucketId::Lease).unwrap();
    assert_eq!(leases.len() as u64, index.min(4));
    let conf_state = (index >= 10).then(|| format!("conf {}", index / 10 * 10).into());
    assert_eq!(schema::conf_state(&view).unwrap(), conf_state);
    assert_eq!(backend.check(), Vec::<String>::new());
    index
}

/// Forty entries, committed in uneven batches, with two defragmentations. Returns the index that
/// is surely durable when the power goes.
fn workload(disk: &SimDisk) -> u64 {
    let Ok(backend) = open(disk) else { return 0 };
    let mut durable = 0;
    for index in 1..=40 {
        backend.append(set(index));
        let result = match index {
            15 | 33 => backend.defragment().map(drop),
            _ if index % 7 == 0 || index % 4 == 3 => backend.commit().map(drop),
            _ => continue,
        };
        match result {
            Ok(()) => durable = index,
            Err(_) => return durable,
        }
    }
    durable
}

#[test]
fn index_and_data_agree_after_every_crash() {
    let clean = SimDisk::new();
    assert_eq!(workload(&clean), 39);
    let operations = clean.operations();
    assert!(operations > 80, "{operations} operations");
    for at in 1..=operations {
        let disk = SimDisk::new();
        disk.fail_after(at, Fault::PowerLoss);
        let durable = workload(&disk);
        let extreme = if at.is_multiple_of(2) { Survival::Nothing } else { Survival::Everything };
        for survival in [extreme, Survival::Random(at)] {
            let crashed = disk.crash(survival);
            let backend =
                open(&crashed).unwrap_or_else(|error| panic!("operation {at}, {survival:?}: {error}"));
            let index = check(&backend);
            assert!(index >= durable, "operation {at}, {survival:?}: lost entries {index}..{durable}");
            // It goes on from there.
            backend.append(set(index + 1));
            backend.commit().unwrap();
            assert_eq!(check(&backend), index + 1);
        }
    }
}

/// One failing operation, the power stays on: nothing that waits gets lost for readers, and what is
/// on the disk stays whole.
#[test]
fn a_failed_operation_loses_nothing() {
    let clean = SimDisk::new();
    workload(&clean);
    for at in 1..=clean.operations() {
        let disk = SimDisk::new();
        disk.fail_after(at, Fault::OneError);
        let Ok(backend) = open(&disk) else { continue };
        let mut appended = 0;
        for index in 1..=40 {
            backend.append(set(index));
            appended = index;
            let result =
                if index == 15 { backend.defragment().map(drop) } else { backend.commit().map(drop) };
            let newest = RecordKey::put(Revision::new(index as i64 + 1, 0));
            assert_eq!(&*backend.view().record(newest).unwrap().unwrap(), &value(index)[..]);
            if result.is_err() && index != 15 {
                break;
            }
        }
        assert_eq!(backend.consistent_position().index, appended);
        drop(backend);
        let backend = open(&disk.crash(Survival::Everything)).unwrap();
        check(&backend);
    }
}

#[test]
fn appends_go_on_during_defragmentation_and_views_stay() {
    let disk = SimDisk::new();
    let backend = open(&disk).unwrap();
    (1..=20).for_each(|index| backend.append(set(index)));
    backend.commit().unwrap();
    let old = backend.view();
    std::thread::scope(|scope| {
        let appender = scope.spawn(|| (21..=60).for_each(|index| backend.append(set(index))));
        for _ in 0..3 {
            backend.defragment().unwrap();
        }
        appender.join().unwrap();
    });
    assert!(old.record(RecordKey::put(Revision::new(21, 0))).unwrap().is_some());
    backend.commit().unwrap();
    assert_eq!(check(&backend), 60);
    drop((old, backend));
    assert_eq!(check(&open(&disk).unwrap()), 60);
    let names: Vec<String> = disk.list(Path::new(".")).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, [PATH]);
}

#[test]
fn a_received_file_replaces_all() {
    let disk = SimDisk::new();
    let backend = open(&disk).unwrap();
    (1..=30).for_each(|index| backend.append(set(index)));
    let mut image = Vec::new();
    let mut snapshot = backend.snapshot().unwrap();
    std::io::Read::read_to_end(&mut snapshot, &mut image).unwrap();
    assert_eq!(snapshot.size(), image.len() as u64);
    assert_eq!(snapshot.position().index, 30);

    let other_disk = SimDisk::new();
    let other = open(&other_disk).unwrap();
    (1..=3).for_each(|index| other.append(set(index)));
    other.commit().unwrap();
    other.append(set(4));
    let received = other_disk.open(Path::new("received"), env::OpenMode::CreateNew(0o600)).unwrap();
    received.write_at(&image, 0).unwrap();
    received.sync_all().unwrap();
    drop(received);
    let old = other.view();
    other.replace(Path::new("received")).unwrap();
    assert_eq!(check(&other), 30);
    assert_eq!(other.pending(), 0);
    assert_eq!(other.consistent_position().index, 30);
    assert_eq!(
        old.records(Revision::default(), Revision::new(9, 0)).unwrap().count(),
        4,
        "the old view stays"
    );
    other.append(set(31));
    other.commit().unwrap();
    assert_eq!(check(&other), 31);
    assert_eq!(check(&open(&other_disk.crash(Survival::Nothing)).unwrap()), 31);
}

#[test]
fn views_merge_file_and_segments() {
    let disk = SimDisk::new();
    let backend = open(&disk).unwrap();
    let change = |change| WriteSet { changes: vec![change], ..WriteSet::default() };
    backend.append(change(Change::put(BucketId::Members, "a", "1")));
    backend.append(change(Change::put(BucketId::Members, "b", "1")));
    backend.commit().unwrap();
    backend.append(change(Change::put(BucketId::Members, "c", "2")));
    backend.append(change(Change::delete(BucketId::Members, "a")));
    backend.append(change(Change::put(BucketId::Members, "b", "2")));
    let expected = vec![(Bytes::from("b"), Bytes::from("2")), ("c".into(), "2".into())];
    assert_eq!(backend.pending(), 3);
    assert_eq!(backend.view().scan(BucketId::Members).unwrap(), expected);
    assert_eq!(backend.view().get(BucketId::Members, b"a").unwrap(), None);
    let stats = backend.commit().unwrap();
    assert!(stats.committed && stats.operations == 3 && backend.pending() == 0);
    assert!(!backend.commit().unwrap().committed, "nothing waits");
    assert_eq!(backend.view().scan(BucketId::Members).unwrap(), expected);
    // The log position alone is worth a commit when one is asked for, but not a batch.
    assert!(matches!(schema::detect_version(&backend.view()), Err(schema::VersionError::MissingTerm)));
    backend.append(WriteSet { applied: Some(LogPosition { index: 5, term: 2 }), ..WriteSet::default() });
    assert_eq!(backend.pending(), 0);
    assert_eq!(schema::detect_version(&backend.view()).unwrap().to_string(), "3.5.0", "the term waits");
    assert!(backend.commit().unwrap().committed);
    // It never moves back.
    backend.append(WriteSet { applied: Some(LogPosition { index: 4, term: 2 }), ..WriteSet::default() });
    backend.commit().unwrap();
    assert_eq!(backend.stored_consistent_position(), LogPosition { index: 5, term: 2 });
    assert_eq!(schema::detect_version(&backend.view()).unwrap().to_string(), "3.5.0");
}
