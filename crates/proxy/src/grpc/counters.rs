//! What the proxy counts: the families `etcd_grpc_proxy_*`.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Counts of one proxy.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) cache_hits: AtomicU64,
    pub(crate) cache_misses: AtomicU64,
    pub(crate) cache_keys: AtomicU64,
    pub(crate) watchers_coalescing: AtomicI64,
    pub(crate) events_coalescing: AtomicU64,
    pub(crate) health_success: AtomicU64,
    pub(crate) health_failures: AtomicU64,
}

impl Counters {
    /// Sets the families in `metrics`.
    pub fn fill(&self, metrics: &server::metrics::Metrics) {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        metrics.proxy_cache_hits.set_count(value(&self.cache_hits));
        metrics.proxy_cache_misses.set_count(value(&self.cache_misses));
        metrics.proxy_cache_keys.set_count(value(&self.cache_keys));
        metrics.proxy_watchers_coalescing.set(self.watchers_coalescing.load(Ordering::Relaxed));
        metrics.proxy_events_coalescing.set(value(&self.events_coalescing));
        metrics.health_success.set(value(&self.health_success));
        metrics.health_failures.set(value(&self.health_failures));
    }
}

/// Counts one more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
