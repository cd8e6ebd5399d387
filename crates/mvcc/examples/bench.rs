//! Processor time of the store over a real file: puts, restart, memory, reads, compaction, hash.
//!
//! `cargo run --release -p mvcc --example bench -- [keys] [ordered|random]`

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backend::{Backend, Options, WriteSet};
use bytes::Bytes;
use env::real::RealDisk;
use env::{Random, SeededRandom};
use mvcc::{RangeQuery, Store};
use types::{KeyRange, LeaseId, LogPosition};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Anonymous resident memory of the process in MiB: heap, without the mapped file.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// Processor time of this thread: other load on the machine counts only through the caches.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn report(what: &str, time: Duration, count: usize) {
    let each = time.as_nanos() as f64 / count as f64;
    println!("{what:<44} {:>9.1} ms {each:>10.0} ns each", time.as_secs_f64() * 1e3);
}

/// 30 bytes.
fn key(number: u64) -> Bytes {
    format!("/registry/pods/ns/pod-{number:08x}").into()
}

/// Opens a database and says what that took.
fn restart(path: &Path) {
    let begin = cpu();
    let backend = Backend::open(Arc::new(RealDisk), path, Options::default()).expect("opens");
    report("open of the file", cpu() - begin, 1);
    let before = resident();
    let begin = cpu();
    let (store, _) = Store::open(backend).expect("restores");
    let live = store.live_keys();
    report("restore", cpu() - begin, live);
    println!("{:<44} {:>9.1} MiB resident", "index", resident() - before);
    println!("{:<44} {:>9.1} bytes", "index nodes per key", store.index_memory() as f64 / live as f64);
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    if std::env::args().nth(1).as_deref() == Some("restart") {
        return restart(std::env::args_os().nth(2).expect("a path").as_ref());
    }
    let keys: u64 = arguments.next().map_or(1_000_000, |keys| keys.parse().expect("a number of keys"));
    let random_order = arguments.next().is_some_and(|order| order == "random");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("db");
    let open = || Backend::open(Arc::new(RealDisk), &path, Options { no_sync: true, ..Options::default() });
    let numbers: Vec<u64> = match random_order {
        false => (0..keys).collect(),
        true => {
            let mut random = SeededRandom::new(7);
            (0..keys).map(|_| random.next_u64() & 0xffff_ffff).collect()
        }
    };

    let (store, _) = Store::open(open().expect("opens")).expect("restores");
    let value = Bytes::from(vec![7; 100]);
    let (mut puts, mut commits) = (Duration::ZERO, Duration::ZERO);
    for (batch, numbers) in numbers.chunks(10_000).enumerate() {
        let batch_keys: Vec<Bytes> = numbers.iter().map(|number| key(*number)).collect();
        let begin = cpu();
        for (index, key) in batch_keys.into_iter().enumerate() {
            let mut txn = store.write();
            txn.put(key, value.clone(), LeaseId(0)).expect("puts");
            let applied = Some(LogPosition { index: (batch * 10_000 + index) as u64 + 1, term: 1 });
            black_box(txn.commit(WriteSet { applied, ..WriteSet::default() }));
        }
        puts += cpu() - begin;
        let begin = cpu();
        store.backend().commit().expect("commits");
        commits += cpu() - begin;
    }
    report("put (mvcc and append)", puts, keys as usize);
    report("bolt commit, 10,000 each, no sync", commits, keys as usize);
    println!("{:<44} {:>9.1} MiB", "size", store.backend().size_bytes() as f64 / 1048576.0);
    drop(store);

    // In a process of its own, where nothing else is on the heap.
    let program = std::env::current_exe().expect("this program");
    let child = std::process::Command::new(program).args(["restart".as_ref(), path.as_os_str()]).status();
    assert!(child.expect("runs").success());
    let (store, _) = Store::open(open().expect("opens")).expect("restores");

    let mut random = SeededRandom::new(1);
    let wanted: Vec<RangeQuery> =
        (0..200_000).map(|_| RangeQuery::key(key(numbers[random.below(keys) as usize]))).collect();
    let begin = cpu();
    for query in &wanted {
        assert_eq!(black_box(store.range(query)).expect("reads").count, 1);
    }
    report("get of a random key, cold pages first", cpu() - begin, wanted.len());
    let begin = cpu();
    for query in &wanted {
        assert_eq!(black_box(store.range(query)).expect("reads").count, 1);
    }
    report("get of a random key", cpu() - begin, wanted.len());
    let counted: Vec<RangeQuery> =
        wanted.iter().map(|query| RangeQuery { count_only: true, ..query.clone() }).collect();
    let begin = cpu();
    for query in &counted {
        assert_eq!(black_box(store.range(query)).expect("reads").count, 1);
    }
    report("count of a random key: index only", cpu() - begin, counted.len());
    let hot = &wanted[..1000];
    let begin = cpu();
    for _ in 0..100 {
        for query in hot {
            assert_eq!(black_box(store.range(query)).expect("reads").count, 1);
        }
    }
    report("get of one of 1,000 keys", cpu() - begin, 100 * hot.len());

    let all = KeyRange::from_wire("\0".into(), "\0".into());
    let timed = |what: &str, query: &RangeQuery, times: usize| {
        let begin = cpu();
        let mut results = 0;
        for _ in 0..times {
            results += black_box(store.range(query)).expect("reads").kvs.len();
        }
        report(&format!("{what} ({} results)", results / times), cpu() - begin, times);
    };
    timed(
        "range of 100,000",
        &RangeQuery { limit: 100_000, without_total: true, ..RangeQuery::new(all.clone()) },
        5,
    );
    timed("range of 500 with total", &RangeQuery { limit: 500, ..RangeQuery::new(all.clone()) }, 20);
    timed(
        "range of 500",
        &RangeQuery { limit: 500, without_total: true, ..RangeQuery::new(all.clone()) },
        100,
    );
    timed(
        "keys only of all",
        &RangeQuery { keys_only: true, keys_only_from_index: true, ..RangeQuery::new(all.clone()) },
        3,
    );
    timed("count of all", &RangeQuery { count_only: true, ..RangeQuery::new(all) }, 10);

    let begin = cpu();
    black_box(store.hash_kv(0).expect("hashes"));
    report("hash_kv, not compacted", cpu() - begin, keys as usize);
    let begin = cpu();
    let ticket = store.compact(store.current_revision()).expect("compacts");
    store.backend().append(WriteSet { changes: vec![ticket.change], ..WriteSet::default() });
    let mut job = ticket.job;
    let mut longest = Duration::ZERO;
    loop {
        let begin = cpu();
        let step = store.compaction_step(&mut job).expect("steps");
        longest = longest.max(cpu() - begin);
        store.backend().commit().expect("commits");
        if step.finished {
            break;
        }
    }
    report("compaction with commits", cpu() - begin, keys as usize);
    report("longest compaction step", longest, 1);
    let begin = cpu();
    black_box(store.hash_kv(store.current_revision()).expect("hashes"));
    report("hash_kv of that compaction, cached", cpu() - begin, 1);
}
