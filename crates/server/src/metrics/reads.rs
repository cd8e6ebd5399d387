//! Latencies of reads. They are as frequent as anything gets, so each worker has histograms of its
//! own: counting touches no memory that another core writes. A scrape adds them up.

use api::member::{ReadKind, ReadTimes};

use super::kinds::{APPLY, Bounds, DISK, Histogram};
use crate::lanes::{self, LANE_COUNT};

const KINDS: [ReadKind; 2] = [ReadKind::Range, ReadKind::ReadonlyTxn];

/// Latencies of reads, by worker.
#[derive(Debug)]
pub struct Reads {
    workers: Box<[Worker]>,
}

/// Failures stand first in each pair.
#[derive(Debug)]
struct Worker {
    /// From entry to result, by kind.
    requests: [[Histogram; 2]; KINDS.len()],
    /// Ranges in the store.
    ranges: [Histogram; 2],
}

impl Default for Reads {
    fn default() -> Self {
        let pair = |bounds: &'static Bounds| [Histogram::new(bounds), Histogram::new(bounds)];
        let worker = || Worker { requests: KINDS.map(|_| pair(&DISK)), ranges: pair(&APPLY) };
        Self { workers: (0..LANE_COUNT).map(|_| worker()).collect() }
    }
}

impl Reads {
    /// Counts one read, for the worker that this thread is.
    pub fn observe(&self, times: &ReadTimes) {
        let Some(worker) = self.workers.get(lanes::current()) else { return };
        let success = usize::from(times.success);
        worker.requests[times.kind as usize][success].observe(times.total);
        if let (ReadKind::Range, Some(in_store)) = (times.kind, times.in_store) {
            worker.ranges[success].observe(in_store);
        }
    }

    /// Calls `action` with each series of requests in use: kind, success as text, latencies.
    pub(super) fn for_each_request(&self, mut action: impl FnMut(&'static str, &'static str, &Histogram)) {
        for kind in KINDS {
            self.sums(
                &DISK,
                |worker| &worker.requests[kind as usize],
                |success, sum| {
                    action(kind.name(), success, sum);
                },
            );
        }
    }

    /// Calls `action` with each series of ranges in use: success as text, latencies.
    pub(super) fn for_each_range(&self, action: impl FnMut(&'static str, &Histogram)) {
        self.sums(&APPLY, |worker| &worker.ranges, action);
    }

    fn sums(
        &self,
        bounds: &'static Bounds,
        of: impl Fn(&Worker) -> &[Histogram; 2],
        mut action: impl FnMut(&'static str, &Histogram),
    ) {
        for (position, success) in ["false", "true"].into_iter().enumerate() {
            let sum = Histogram::new(bounds);
            self.workers.iter().for_each(|worker| sum.merge(&of(worker)[position]));
            if !sum.is_empty() {
                action(success, &sum);
            }
        }
    }
}
