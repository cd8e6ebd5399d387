//! What the threads of a member count. Rendered by [`crate::metrics`].

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

/// A histogram of durations with fixed upper bounds.
#[derive(Debug)]
pub struct DurationHistogram {
    /// Upper bounds in seconds, ascending.
    pub bounds: &'static [f64],
    buckets: Box<[AtomicU64]>,
    sum_nanos: AtomicU64,
}

impl DurationHistogram {
    /// An empty histogram.
    pub fn new(bounds: &'static [f64]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, buckets, sum_nanos: AtomicU64::new(0) }
    }

    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.iter().position(|bound| seconds <= *bound).unwrap_or(self.bounds.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_nanos.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Count of each bucket, the one above all bounds last.
    pub fn counts(&self) -> Vec<u64> {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect()
    }

    /// Sum of all durations in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_nanos.load(Relaxed) as f64 / 1e9
    }
}

/// Doubling bounds from 1 ms on: the buckets of etcd's disk histograms.
const DISK_BOUNDS: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192];

/// The counters of a member.
#[derive(Debug)]
pub struct Counters {
    /// Durations of log syncs.
    pub wal_fsync: DurationHistogram,
    /// Durations of backend commits.
    pub backend_commit: DurationHistogram,
    /// Bytes written to the log.
    pub wal_bytes: AtomicU64,
    /// Proposals that wait for their answer.
    pub proposals_pending: AtomicI64,
    /// Proposals without an answer.
    pub proposals_failed: AtomicU64,
    /// Linearizable reads that failed.
    pub read_indexes_failed: AtomicU64,
    /// Entries applied.
    pub entries_applied: AtomicU64,
    /// Batches whose entries took more than 100 ms each to apply.
    pub slow_applies: AtomicU64,
    /// Leases that ended by themselves.
    pub leases_expired: AtomicU64,
    /// Records deleted by compactions.
    pub compaction_keys: AtomicU64,
    /// Durations of compactions.
    pub compaction: DurationHistogram,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            wal_fsync: DurationHistogram::new(DISK_BOUNDS),
            backend_commit: DurationHistogram::new(DISK_BOUNDS),
            wal_bytes: AtomicU64::new(0),
            proposals_pending: AtomicI64::new(0),
            proposals_failed: AtomicU64::new(0),
            read_indexes_failed: AtomicU64::new(0),
            entries_applied: AtomicU64::new(0),
            slow_applies: AtomicU64::new(0),
            leases_expired: AtomicU64::new(0),
            compaction_keys: AtomicU64::new(0),
            compaction: DurationHistogram::new(DISK_BOUNDS),
        }
    }
}
