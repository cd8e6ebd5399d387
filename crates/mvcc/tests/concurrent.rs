//! Readers, writer, compaction and commits at the same time.
#![allow(missing_docs)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use backend::WriteSet;
use env::sim::SimDisk;
use mvcc::{RangeQuery, ReadError, Store};
use types::LeaseId;

use common::{everything, open};

const ACCOUNTS: usize = 1500;
const TRANSFERS: usize = 6000;
const START: i64 = 1000;

fn key(account: usize) -> String {
    format!("account/{account:05}")
}

fn put(txn: &mut mvcc::WriteTxn<'_>, account: usize, amount: i64) {
    txn.put(key(account).into(), amount.to_string().into(), LeaseId(0)).unwrap();
}

fn amount(value: &[u8]) -> i64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

/// Sums all accounts; a torn view would show money made or lost.
fn check(store: &Store, revision: i64) -> Result<i64, ReadError> {
    let result = store.range(&RangeQuery { revision, ..RangeQuery::new(everything()) })?;
    let kvs = result.kvs.decode().unwrap();
    assert_eq!(kvs.len(), ACCOUNTS);
    assert_eq!(kvs.iter().map(|kv| amount(&kv.value)).sum::<i64>(), ACCOUNTS as i64 * START);
    let newest = kvs.iter().map(|kv| kv.mod_revision).max().unwrap();
    assert!(newest <= if revision > 0 { revision } else { result.revision });
    Ok(result.revision)
}

#[test]
fn readers_see_whole_transactions() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let mut txn = store.write();
    (0..ACCOUNTS).for_each(|account| put(&mut txn, account, START));
    txn.commit(WriteSet::default());
    store.backend().commit().unwrap();

    let done = AtomicBool::new(false);
    let (reads, compactions) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (store, done, reads) = (&store, &done, &reads);
            scope.spawn(move || {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let revision = check(store, 0).unwrap();
                    reads.fetch_add(1, Ordering::Relaxed);
                    assert!(last <= revision, "time does not go back");
                    last = revision;
                    // The past is there or compacted, never wrong.
                    match check(store, (revision - 40 * (reader + 1)).max(2)) {
                        Ok(_) | Err(ReadError::Compacted) => {}
                        Err(error) => panic!("{error}"),
                    }
                    match store.hash_kv(0) {
                        Ok(_) | Err(ReadError::Compacted) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                store.backend().commit().unwrap();
                let target = store.current_revision() - 10;
                let Ok(ticket) = store.compact(target) else { continue };
                store.backend().append(WriteSet { changes: vec![ticket.change], ..WriteSet::default() });
                let mut job = ticket.job.with_batch(300);
                while !store.compaction_step(&mut job).unwrap().finished {
                    store.backend().commit().unwrap();
                }
                compactions.fetch_add(1, Ordering::Relaxed);
            }
        });
        for transfer in 0..TRANSFERS {
            let (from, to) = (transfer * 7919 % ACCOUNTS, transfer * 104_729 % ACCOUNTS);
            let mut txn = store.write();
            if from != to {
                let held = |txn: &mvcc::WriteTxn<'_>, account| {
                    let record = txn.get(key(account).as_bytes()).unwrap().unwrap();
                    amount(mvcc::record::parse(&record).unwrap().value)
                };
                let (rich, poor) = (held(&txn, from), held(&txn, to));
                put(&mut txn, from, rich - 1);
                put(&mut txn, to, poor + 1);
            }
            if transfer % 5 == 0 {
                drop(txn);
            } else {
                txn.commit(WriteSet::default());
            }
        }
        // On a busy machine the others may have had no turn yet.
        while reads.load(Ordering::Relaxed) < 4 || compactions.load(Ordering::Relaxed) < 2 {
            let mut txn = store.write();
            put(&mut txn, 0, 0);
            drop(txn);
            std::thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
    });
    check(&store, 0).unwrap();
    store.backend().commit().unwrap();
    assert_eq!(store.backend().check(), Vec::<String>::new());
}
