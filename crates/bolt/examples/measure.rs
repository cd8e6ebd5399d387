//! Measures what the server asks of `bolt`: appending records, point reads, scans, commits into a
//! fragmented file, opening. Usage: `cargo run --release -p bolt --example measure [directory]`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bolt::{Db, Options};
use env::real::{RealClock, RealDisk};
use env::{Random, SeededRandom};

const PER_COMMIT: u64 = 10_000;
const COMMITS: u64 = 100;

fn main() {
    let dir = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    for value_bytes in [100, 500, 1000] {
        let path = dir.join(format!("bolt-measure-{}.db", std::process::id()));
        println!("values of {value_bytes} bytes, {PER_COMMIT} puts per commit");
        measure(&path, value_bytes);
        std::fs::remove_file(&path).expect("the file just written");
    }
}

fn open(path: &std::path::Path) -> Db {
    let options = Options {
        initial_map_bytes: 10 << 30,
        clock: Some(Arc::new(RealClock::default())),
        ..Options::default()
    };
    Db::open(Arc::new(RealDisk), path, options).expect("a database")
}

/// Processor time of this thread: steadier than the clock on a busy machine.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default())
}

fn key_of(revision: u64) -> [u8; 17] {
    let mut key = [0; 17];
    key[..8].copy_from_slice(&revision.to_be_bytes());
    key[8] = b'_';
    key
}

fn measure(path: &std::path::Path, value_bytes: usize) {
    let value = vec![0x5a; value_bytes];
    let db = open(path);
    let (mut put, mut commit) = (Duration::ZERO, Duration::ZERO);
    let (mut spill, mut write, mut pages, mut writes) = (Duration::ZERO, Duration::ZERO, 0, 0);
    for round in 0..COMMITS {
        let start = Instant::now();
        let mut tx = db.write().expect("a transaction");
        let mut bucket = tx.create_bucket_if_missing(b"key").expect("a bucket");
        bucket.set_fill_percent(0.9);
        for index in 0..PER_COMMIT {
            bucket.put(&key_of(round * PER_COMMIT + index), &value).expect("a put");
        }
        tx.create_bucket_if_missing(b"meta")
            .expect("a bucket")
            .put(b"consistent_index", &[0; 8])
            .expect("a put");
        put += start.elapsed();
        let start = Instant::now();
        let stats = tx.commit().expect("a commit");
        commit += start.elapsed();
        spill += stats.rebalance + stats.spill;
        write += stats.write;
        pages += stats.pages;
        writes += stats.writes;
    }
    let total = PER_COMMIT * COMMITS;
    let each = |time: Duration, count: u64| time.as_nanos() as f64 / count as f64;
    println!(
        "  put {:.0} ns, split {:.0} ns, write and sync {:.0} ns per record",
        each(put, total),
        each(spill, total),
        each(write, total)
    );
    println!(
        "  {:.1} pages, {:.1} writes, {:.2} ms per commit",
        pages as f64 / COMMITS as f64,
        writes as f64 / COMMITS as f64,
        each(commit, COMMITS) / 1e6
    );

    let mut random = SeededRandom::new(1);
    let tx = db.read();
    let bucket = tx.bucket(b"key").expect("sound").expect("there");
    let mut bytes = 0;
    let get = |bucket: bolt::Bucket<'_>, random: &mut SeededRandom| {
        bucket.get(&key_of(random.below(total))).expect("sound").map_or(0, <[u8]>::len)
    };
    for _ in 0..200_000 {
        bytes += get(bucket, &mut random);
    }
    let start = cpu();
    for _ in 0..1_000_000 {
        bytes += get(bucket, &mut random);
    }
    println!("  random get {:.0} ns of processor time", each(cpu() - start, 1_000_000));
    let start = cpu();
    for _ in 0..1_000_000 {
        bytes += bucket.get(&key_of(total / 2 + random.below(1000))).expect("sound").map_or(0, <[u8]>::len);
    }
    println!("  get of recent ones {:.0} ns", each(cpu() - start, 1_000_000));
    let start = cpu();
    bytes += bucket.iter().map(|item| item.expect("sound").0.len()).sum::<usize>();
    println!("  scan {:.1} ns per record ({bytes} bytes seen)", each(cpu() - start, total));
    drop(tx);
    let start = Instant::now();
    for _ in 0..1_000_000 {
        std::hint::black_box(db.read());
    }
    println!("  begin and end of a reader {:.0} ns", each(start.elapsed(), 1_000_000));

    // Deleting every third record leaves holes of all sizes; then rewriting fills them.
    let start = Instant::now();
    let mut deleted = 0;
    for chunk in 0..total / 30_000 {
        let mut tx = db.write().expect("a transaction");
        let mut bucket = tx.bucket(b"key").expect("sound").expect("there");
        for index in 0..10_000 {
            deleted += u64::from(bucket.delete(&key_of(chunk * 30_000 + index * 3)).expect("sound"));
        }
        tx.commit().expect("a commit");
    }
    println!("  delete {:.0} ns per record, sync included; {:?}", each(start.elapsed(), deleted), db.stats());
    drop(db);
    let start = Instant::now();
    let db = open(path);
    println!("  open {:.1} ms, check {:?} faults", each(start.elapsed(), 1) / 1e6, db.read().check().len());
    let start = Instant::now();
    let mut tx = db.write().expect("a transaction");
    let mut bucket = tx.bucket(b"key").expect("sound").expect("there");
    for _ in 0..PER_COMMIT {
        bucket.put(&key_of(random.below(total)), &value).expect("a put");
    }
    tx.commit().expect("a commit");
    println!("  random put {:.0} ns per record, sync included", each(start.elapsed(), PER_COMMIT));
}
