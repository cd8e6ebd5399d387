//! Keeps a storm of equal records from filling the disk.
//!
//! Per second and per level and message the first 100 records pass, then every 100th. Messages
//! share 4,096 counters per level by hash, so two messages may share one.
//!
//! Source: behaviour of zap's sampler with etcd's settings.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::Level;

const FIRST: u64 = 100;
const THEN_EVERY: u64 = 100;
const COUNTERS: usize = 4_096;
const TICK_NANOS: i64 = 1_000_000_000;

#[derive(Default)]
struct Counter {
    reset_at: AtomicI64,
    count: AtomicU64,
}

impl Counter {
    fn count_at(&self, now_nanos: i64) -> u64 {
        let reset_at = self.reset_at.load(Ordering::Relaxed);
        if reset_at > now_nanos {
            return self.count.fetch_add(1, Ordering::Relaxed) + 1;
        }
        self.count.store(1, Ordering::Relaxed);
        let next = now_nanos.saturating_add(TICK_NANOS);
        match self.reset_at.compare_exchange(reset_at, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => 1,
            Err(_) => self.count.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }
}

/// Counts records and says which to drop.
pub(super) struct Sampler {
    counters: Vec<Counter>,
}

impl Sampler {
    pub fn new() -> Self {
        Self {
            counters: std::iter::repeat_with(Counter::default).take(COUNTERS * Level::ALL.len()).collect(),
        }
    }

    /// Whether the record of this moment is written.
    pub fn admits(&self, level: Level, msg: &str, now_nanos: i64) -> bool {
        let slot = level as usize * COUNTERS + fnv1a(msg) as usize % COUNTERS;
        let count = self.counters[slot].count_at(now_nanos);
        count <= FIRST || (count - FIRST).is_multiple_of(THEN_EVERY)
    }
}

fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(2_166_136_261, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_thinned_per_second_and_message() {
        let sampler = Sampler::new();
        let passed = |second: i64, level, msg| {
            (0..500).filter(|_| sampler.admits(level, msg, second * TICK_NANOS + 5)).count()
        };
        assert_eq!(passed(1, Level::Warn, "a"), 104);
        assert_eq!(passed(1, Level::Warn, "a"), 5);
        assert_eq!(passed(1, Level::Error, "a"), 104);
        assert_eq!(passed(1, Level::Warn, "b"), 104);
        assert_eq!(passed(2, Level::Warn, "a"), 104);
    }
}
