//! The power goes at every write and every sync; every one of them fails; the disk is full from
//! any of them on. The file must open again at the last committed transaction, or at the one that
//! was being committed, and be sound.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bolt::{Db, Error, Options, ReadTx};
use env::sim::{Fault, SimDisk, Survival};

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

const COMMITS: u64 = 14;

#[derive(Clone, Copy)]
struct Setup {
    page_size: u32,
    no_freelist_sync: bool,
}

const SETUPS: [Setup; 2] =
    [Setup { page_size: 4096, no_freelist_sync: true }, Setup { page_size: 1024, no_freelist_sync: false }];

fn open(disk: &SimDisk, setup: Setup) -> Result<Db, bolt::OpenError> {
    let Setup { page_size, no_freelist_sync } = setup;
    let options = Options { page_size, no_freelist_sync, verify: true, ..Options::default() };
    Db::open(Arc::new(disk.clone()), Path::new("db"), options)
}

/// The changes of transaction `number`: ascending keys in one bucket, overwritten keys and a
/// large value in another, and deletes.
fn change(number: u64, content: &mut Content, mut put: impl FnMut(&str, &[u8], Option<&[u8]>)) {
    let mut apply = |bucket: &str, key: Vec<u8>, value: Option<Vec<u8>>| {
        put(bucket, &key, value.as_deref());
        let name = [bucket.as_bytes(), b"/", &key].concat();
        match value {
            Some(value) => content.insert(name, value),
            None => content.remove(&name),
        };
    };
    for index in 0..12 {
        let key = format!("{:08}", number * 12 + index).into_bytes();
        apply("key", key, Some(vec![number as u8; 180]));
    }
    for index in 0..6 {
        let key = format!("k{}", (number * 5 + index * 7) % 23).into_bytes();
        apply("other", key, Some(vec![index as u8; 20 + (number as usize * 37) % 200]));
    }
    if number % 4 == 1 {
        apply("other", b"large".to_vec(), Some(vec![number as u8; 9000]));
    }
    if number % 3 == 2 {
        for index in 0..20 {
            let key = format!("{:08}", (number - 2) * 12 + index).into_bytes();
            apply("key", key, None);
        }
    }
}

/// Content after each transaction; index 0 is the empty database.
fn expected() -> Vec<Content> {
    let mut states = vec![Content::new()];
    for number in 0..COMMITS {
        let mut content = states[states.len() - 1].clone();
        change(number, &mut content, |_, _, _| {});
        states.push(content);
    }
    states
}

/// Commits transactions until one fails; returns how many succeeded and the failure.
fn workload(db: &Db, from: u64) -> (u64, Option<Error>) {
    let mut readers: Vec<ReadTx> = Vec::new();
    for number in from..COMMITS {
        if number % 3 == 0 {
            readers.push(db.read());
        }
        if number % 5 == 0 {
            readers.drain(..readers.len() / 2);
        }
        if let Err(error) = transaction(db, number) {
            return (number, Some(error));
        }
    }
    (COMMITS, None)
}

fn transaction(db: &Db, number: u64) -> Result<(), Error> {
    let mut tx = db.write()?;
    change(number, &mut Content::new(), |bucket, key, value| {
        let mut bucket = tx.create_bucket_if_missing(bucket.as_bytes()).unwrap();
        match value {
            Some(value) => bucket.put(key, value).unwrap(),
            None => assert!(bucket.delete(key).unwrap()),
        }
    });
    tx.commit().map(drop)
}

fn content(tx: &ReadTx) -> Content {
    let mut content = Content::new();
    for bucket in tx.buckets() {
        let (name, bucket) = bucket.unwrap();
        for item in bucket.iter() {
            let (key, value) = item.unwrap();
            content.insert([name, b"/", key].concat(), value.data().unwrap().to_vec());
        }
    }
    content
}

/// Opens what is on the disk and checks it; returns the number of transactions it shows.
fn recover(disk: &SimDisk, setup: Setup, states: &[Content], least: u64, most: u64, what: &str) -> u64 {
    let db = open(disk, setup).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let tx = db.read();
    assert_eq!(tx.check(), [], "{what}");
    let found = content(&tx);
    let number = (least..=most).rev().find(|number| states[*number as usize] == found);
    let number = number.unwrap_or_else(|| panic!("{what}: content is neither of {least}..={most}"));
    drop(tx);
    let (done, error) = workload(&db, number);
    assert!(done == COMMITS && error.is_none(), "{what}: goes on after recovery: {error:?}");
    assert_eq!(content(&db.read()), states[COMMITS as usize], "{what}");
    number
}

fn operations(setup: Setup) -> u64 {
    let disk = SimDisk::new();
    let db = open(&disk, setup).unwrap();
    assert_eq!(workload(&db, 0).0, COMMITS);
    assert_eq!(content(&db.read()), expected()[COMMITS as usize]);
    disk.operations()
}

#[test]
fn power_loss_at_every_operation() {
    let states = expected();
    for setup in SETUPS {
        let operations = operations(setup);
        assert!(operations > COMMITS * 4, "the workload writes: {operations}");
        let (mut kept, mut lost) = (0, 0);
        for at in 1..=operations {
            let disk = SimDisk::new();
            disk.fail_after(at, Fault::PowerLoss);
            // A failed open is a crash before the first transaction.
            let (done, in_flight) = match open(&disk, setup) {
                Ok(db) => {
                    let (done, error) = workload(&db, 0);
                    (done, u64::from(error.is_some()))
                }
                Err(_) => (0, 0),
            };
            let survivals = [Survival::Nothing, Survival::Everything]
                .into_iter()
                .chain((0..4).map(|seed| Survival::Random(seed * 1000 + at)));
            for survival in survivals {
                let what = format!("power loss at {at} of {operations}, {survival:?}");
                let number = recover(&disk.crash(survival), setup, &states, done, done + in_flight, &what);
                if number > done { kept += 1 } else { lost += 1 }
            }
        }
        assert!(kept > 0 && lost > 0, "both outcomes of a commit in flight were seen");
    }
}

#[test]
fn one_error_at_every_operation() {
    let states = expected();
    for setup in SETUPS {
        for at in 1..=operations(setup) {
            let disk = SimDisk::new();
            disk.fail_after(at, Fault::OneError);
            fails_cleanly(&disk, setup, &states, &format!("error at {at}"));
        }
    }
}

#[test]
fn disk_full_from_every_operation_on() {
    let states = expected();
    for setup in SETUPS {
        for at in 1..=operations(setup) {
            let disk = SimDisk::new();
            disk.fail_after(at, Fault::DiskFull);
            fails_cleanly(&disk, setup, &states, &format!("disk full from {at} on"));
        }
    }
}

/// The fault surfaces, poisons the database, and takes nothing that was committed.
fn fails_cleanly(disk: &SimDisk, setup: Setup, states: &[Content], what: &str) {
    let (mut done, mut in_flight) = (0, 0);
    if let Ok(db) = open(disk, setup) {
        let (number, error) = workload(&db, 0);
        done = number;
        if let Some(error) = error {
            assert!(matches!(error, Error::Io { .. }), "{what}: {error:?}");
            assert!(matches!(db.write().err(), Some(Error::Poisoned)), "{what}");
            assert_eq!(content(&db.read()), states[done as usize], "{what}: readers see the last commit");
            in_flight = 1;
        } else {
            assert_eq!(done, COMMITS, "{what}");
        }
    }
    disk.clear_fault();
    // The failed transaction may show after a restart only if its meta page had been written.
    let most = (done + in_flight).min(COMMITS);
    recover(disk, setup, states, done, most, what);
    // What the operating system had not written when the error came may also be lost.
    recover(&disk.crash(Survival::Random(done)), setup, states, done, COMMITS, what);
}
