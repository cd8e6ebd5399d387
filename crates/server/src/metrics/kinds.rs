//! Counters, gauges and histograms: relaxed atomics, no locks, no allocation after creation.
//!
//! A histogram counts in whole raw units (nanoseconds, milliseconds, seconds) so that observing is
//! two additions; its bounds and its sum are divided by the unit's scale when printed.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Only ever grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// For totals that are kept elsewhere: takes over the count of now.
    pub fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Replaces the value.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Replaces the value by that of an unsigned count; what does not fit becomes the largest value.
    pub fn set_count(&self, value: u64) {
        self.set(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// Adds, or takes away below zero.
    pub fn add(&self, value: i64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of a histogram's buckets in raw units, ascending.
#[derive(Debug)]
pub struct Bounds {
    raw: &'static [u64],
    /// Raw units in one printed unit.
    scale: f64,
}

const NANOS: f64 = 1e9;

const fn doubling<const COUNT: usize>(start: u64) -> [u64; COUNT] {
    let mut bounds = [0; COUNT];
    let mut position = 0;
    while position < COUNT {
        bounds[position] = start << position;
        position += 1;
    }
    bounds
}

/// 1 ms doubling to 8.192 s: disk and commit latencies.
pub static DISK: Bounds = Bounds { raw: &doubling::<14>(1_000_000), scale: NANOS };
/// 0.1 ms doubling to 52.4288 s: applying and ranging.
pub static APPLY: Bounds = Bounds { raw: &doubling::<20>(100_000), scale: NANOS };
/// 0.1 ms doubling to 3.2768 s: round trips.
pub static ROUND_TRIP: Bounds = Bounds { raw: &doubling::<16>(100_000), scale: NANOS };
/// 0.1 s doubling to 51.2 s: transfers of snapshots.
pub static TRANSFER: Bounds = Bounds { raw: &doubling::<10>(100_000_000), scale: NANOS };
/// 0.1 s doubling to 409.6 s: defragmentation.
pub static DEFRAG: Bounds = Bounds { raw: &doubling::<13>(100_000_000), scale: NANOS };
/// 10 ms doubling to 655.36 s: streaming the database.
pub static SNAPSHOT: Bounds = Bounds { raw: &doubling::<17>(10_000_000), scale: NANOS };
/// 10 ms doubling to 163.84 s: hashing.
pub static HASH: Bounds = Bounds { raw: &doubling::<15>(10_000_000), scale: NANOS };
/// 1 doubling to 4096 milliseconds: one step of a compaction.
pub static COMPACTION_PAUSE: Bounds = Bounds { raw: &doubling::<13>(1_000_000), scale: 1e6 };
/// 100 doubling to 819200 milliseconds: a whole compaction.
pub static COMPACTION_TOTAL: Bounds = Bounds { raw: &doubling::<14>(100_000_000), scale: 1e6 };
/// 0.5 doubling to 4096 milliseconds: compaction of the index.
pub static INDEX_PAUSE: Bounds = Bounds { raw: &doubling::<14>(500_000), scale: 1e6 };
/// 1 doubling to 8388608 seconds: lifetimes of leases.
pub static TTL: Bounds = Bounds { raw: &doubling::<24>(1), scale: 1.0 };
/// 5 ms to 10 s in the steps that Prometheus clients use by default: gRPC calls.
pub static CALL: Bounds = Bounds { raw: &api::grpc::HANDLING_BOUNDS, scale: NANOS };

impl Bounds {
    /// The bounds in printed units.
    pub fn printed(&self) -> impl Iterator<Item = f64> {
        self.raw.iter().map(|raw| *raw as f64 / self.scale)
    }
}

/// How often values fell below each bound, and their sum.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static Bounds,
    /// One per bound and one for everything above the last.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// An empty histogram.
    pub fn new(bounds: &'static Bounds) -> Self {
        let counts = (0..=bounds.raw.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    /// What was counted elsewhere: values by bucket, those above the last bound included, and their sum in
    /// raw units.
    pub fn of(bounds: &'static Bounds, counts: &[u64], sum: u64) -> Self {
        let histogram = Self::new(bounds);
        for (cell, count) in histogram.counts.iter().zip(counts) {
            cell.store(*count, Ordering::Relaxed);
        }
        histogram.sum.store(sum, Ordering::Relaxed);
        histogram
    }

    /// Adds one value in raw units.
    pub fn observe_raw(&self, raw: u64) {
        self.observe_many(raw, 1);
    }

    /// Adds the same value several times, for the price of once.
    pub fn observe_many(&self, raw: u64, times: u64) {
        let bucket = self.bounds.raw.partition_point(|bound| *bound < raw);
        self.counts[bucket].fetch_add(times, Ordering::Relaxed);
        self.sum.fetch_add(raw.saturating_mul(times), Ordering::Relaxed);
    }

    /// Adds one span of time; for histograms whose raw unit is the nanosecond.
    pub fn observe(&self, span: Duration) {
        self.observe_raw(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds one span of time in whole milliseconds, as etcd does for compactions.
    pub fn observe_whole_millis(&self, span: Duration) {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.observe_raw(millis.saturating_mul(1_000_000));
    }

    /// Adds all that another histogram of the same bounds has seen.
    pub fn merge(&self, other: &Self) {
        for (count, more) in self.counts.iter().zip(&other.counts) {
            count.fetch_add(more.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.sum.fetch_add(other.sum.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Bounds in printed units with the number of values up to each, then the sum and the count.
    pub fn read(&self) -> (Vec<(f64, u64)>, f64, u64) {
        let mut total = 0;
        let mut buckets = Vec::with_capacity(self.bounds.raw.len());
        for (bound, count) in self.bounds.printed().zip(&self.counts) {
            total += count.load(Ordering::Relaxed);
            buckets.push((bound, total));
        }
        total += self.counts[self.bounds.raw.len()].load(Ordering::Relaxed);
        (buckets, self.sum.load(Ordering::Relaxed) as f64 / self.bounds.scale, total)
    }

    /// Whether nothing was observed yet.
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| count.load(Ordering::Relaxed) == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_match_the_known_ends() {
        for (bounds, first, last) in [
            (&DISK, 0.001, 8.192),
            (&APPLY, 0.0001, 52.4288),
            (&ROUND_TRIP, 0.0001, 3.2768),
            (&TRANSFER, 0.1, 51.2),
            (&DEFRAG, 0.1, 409.6),
            (&SNAPSHOT, 0.01, 655.36),
            (&HASH, 0.01, 163.84),
            (&COMPACTION_PAUSE, 1.0, 4096.0),
            (&COMPACTION_TOTAL, 100.0, 819_200.0),
            (&INDEX_PAUSE, 0.5, 4096.0),
            (&TTL, 1.0, 8_388_608.0),
            (&CALL, 0.005, 10.0),
        ] {
            let printed: Vec<f64> = bounds.printed().collect();
            assert_eq!((printed[0], printed[printed.len() - 1]), (first, last));
        }
    }

    #[test]
    fn a_value_on_a_bound_belongs_below_it() {
        let histogram = Histogram::new(&DISK);
        for span in [Duration::from_millis(1), Duration::from_nanos(1_000_001), Duration::from_secs(100)] {
            histogram.observe(span);
        }
        let (buckets, sum, count) = histogram.read();
        assert_eq!(buckets[..2], [(0.001, 1), (0.002, 2)]);
        assert_eq!(buckets[13], (8.192, 2));
        assert_eq!((sum, count), (100.002000001, 3));
    }
}
