//! Counts of the traffic with each peer, under etcd's names.
//!
//! Plain atomics that grow as peers are used. [`Metrics::visit`] hands out every series that was
//! used at least once, which is when etcd's appear, too.
//!
//! **Source**: etcd `server/etcdserver/api/rafthttp/metrics.go`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use types::MemberId;

/// Remote addresses that failures are counted for; further ones share a series.
const MAX_ADDRESSES: usize = 64;
/// What further addresses are counted under.
const OTHER_ADDRESSES: &str = "other";

/// Only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Goes up and down; knows whether it ever moved.
#[derive(Debug, Default)]
pub struct Gauge {
    value: AtomicI64,
    used: AtomicBool,
}

impl Gauge {
    /// Adds, or takes away.
    pub fn add(&self, value: i64) {
        self.used.store(true, Relaxed);
        self.value.fetch_add(value, Relaxed);
    }

    /// The value.
    pub fn get(&self) -> i64 {
        self.value.load(Relaxed)
    }
}

/// Durations by power-of-two buckets.
#[derive(Debug)]
pub struct Histogram<const BUCKETS: usize> {
    first: Duration,
    /// One count per bucket; values above the last bound are in `above`.
    counts: [AtomicU64; BUCKETS],
    above: AtomicU64,
    sum_nanos: AtomicU64,
}

impl<const BUCKETS: usize> Histogram<BUCKETS> {
    /// Buckets with upper bounds `first`, `2 × first`, `4 × first`, …
    pub fn new(first: Duration) -> Self {
        Self {
            first,
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            above: AtomicU64::new(0),
            sum_nanos: AtomicU64::new(0),
        }
    }

    fn bound(&self, bucket: usize) -> Duration {
        self.first * (1 << bucket)
    }

    /// Adds one value.
    pub fn observe(&self, span: Duration) {
        let bucket = (0..BUCKETS).find(|bucket| span <= self.bound(*bucket));
        bucket.map_or(&self.above, |bucket| &self.counts[bucket]).fetch_add(1, Relaxed);
        self.sum_nanos.fetch_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    fn read(&self) -> Distribution {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(BUCKETS);
        for bucket in 0..BUCKETS {
            count += self.counts[bucket].load(Relaxed);
            buckets.push((self.bound(bucket).as_secs_f64(), count));
        }
        count += self.above.load(Relaxed);
        let sum_seconds = Duration::from_nanos(self.sum_nanos.load(Relaxed)).as_secs_f64();
        Distribution { buckets, sum_seconds, count }
    }
}

/// A histogram as it is printed.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Upper bounds in seconds, each with the number of values up to it.
    pub buckets: Vec<(f64, u64)>,
    /// Sum of all values in seconds.
    pub sum_seconds: f64,
    /// Number of all values.
    pub count: u64,
}

/// A value of a series.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter.
    Counter(u64),
    /// Of a gauge.
    Gauge(i64),
    /// Of a histogram.
    Histogram(Distribution),
}

/// One series of a family.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Name of the family.
    pub name: &'static str,
    /// What the family counts.
    pub help: &'static str,
    /// Label names and values, sorted by name.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: Value,
}

/// Traffic with one peer.
#[derive(Debug)]
pub struct PeerMetrics {
    /// Bytes of messages sent.
    pub sent_bytes: Counter,
    /// Bytes of messages received.
    pub received_bytes: Counter,
    /// Messages that were dropped or could not be sent.
    pub sent_failures: Counter,
    /// Messages that were dropped or could not be read.
    pub received_failures: Counter,
    /// 1 while the peer is reachable.
    pub active: Gauge,
    /// How often it became unreachable.
    pub disconnected: Counter,
    /// Snapshots delivered.
    pub snapshot_send_success: Counter,
    /// Snapshots not delivered.
    pub snapshot_send_failures: Counter,
    /// Snapshots on their way.
    pub snapshot_send_inflights: Gauge,
    /// How long deliveries took.
    pub snapshot_send_duration: Histogram<10>,
    /// Snapshots received.
    pub snapshot_receive_success: Counter,
    /// Receptions that failed.
    pub snapshot_receive_failures: Counter,
    /// Receptions under way.
    pub snapshot_receive_inflights: Gauge,
    /// How long receptions took.
    pub snapshot_receive_duration: Histogram<10>,
    /// Round trips of probes, smoothed.
    pub round_trip: Histogram<16>,
}

impl Default for PeerMetrics {
    fn default() -> Self {
        Self {
            sent_bytes: Counter::default(),
            received_bytes: Counter::default(),
            sent_failures: Counter::default(),
            received_failures: Counter::default(),
            active: Gauge::default(),
            disconnected: Counter::default(),
            snapshot_send_success: Counter::default(),
            snapshot_send_failures: Counter::default(),
            snapshot_send_inflights: Gauge::default(),
            snapshot_send_duration: Histogram::new(Duration::from_millis(100)),
            snapshot_receive_success: Counter::default(),
            snapshot_receive_failures: Counter::default(),
            snapshot_receive_inflights: Gauge::default(),
            snapshot_receive_duration: Histogram::new(Duration::from_millis(100)),
            round_trip: Histogram::new(Duration::from_micros(100)),
        }
    }
}

/// All counts of one transport.
#[derive(Debug)]
pub struct Metrics {
    local: MemberId,
    peers: RwLock<BTreeMap<MemberId, Arc<PeerMetrics>>>,
    /// Requests that could not be read, by remote address: their sender is not known.
    failed_requests: Mutex<BTreeMap<String, u64>>,
    /// Snapshots refused before their sender was known.
    refused_snapshots: Counter,
    /// Databases received since somebody asked.
    saved: Mutex<Vec<SavedDatabase>>,
}

/// How long a received database took to save.
#[derive(Clone, Copy, Debug)]
pub struct SavedDatabase {
    /// From the first byte to the end.
    pub total: Duration,
    /// The last sync.
    pub sync: Duration,
}

/// Databases that are remembered when nobody asks.
const MAX_SAVED: usize = 1024;

impl Metrics {
    /// Nothing counted yet.
    pub fn new(local: MemberId) -> Self {
        Self {
            local,
            peers: RwLock::default(),
            failed_requests: Mutex::default(),
            refused_snapshots: Counter::default(),
            saved: Mutex::default(),
        }
    }

    pub(crate) fn database_saved(&self, saved: SavedDatabase) {
        let mut all = self.saved.lock();
        if all.len() < MAX_SAVED {
            all.push(saved);
        }
    }

    /// The databases received since the last call.
    pub fn take_saved(&self) -> Vec<SavedDatabase> {
        std::mem::take(&mut self.saved.lock())
    }

    /// The counts of one peer; keep them where they are used often. Id 0 stands for messages
    /// without a sender.
    pub fn peer(&self, id: MemberId) -> Arc<PeerMetrics> {
        if let Some(found) = self.peers.read().get(&id) {
            return found.clone();
        }
        self.peers.write().entry(id).or_default().clone()
    }

    pub(crate) fn request_failed(&self, remote: &str) {
        let mut failed = self.failed_requests.lock();
        let known = failed.contains_key(remote) || failed.len() < MAX_ADDRESSES;
        *failed.entry(if known { remote } else { OTHER_ADDRESSES }.to_owned()).or_default() += 1;
    }

    pub(crate) fn snapshot_refused(&self) {
        self.refused_snapshots.inc();
    }

    /// Hands out every series that was used.
    pub fn visit(&self, mut take: impl FnMut(Series)) {
        for (id, peer) in self.peers.read().iter() {
            visit_peer(self.local, *id, peer, &mut take);
        }
        for (address, count) in self.failed_requests.lock().iter() {
            take(Series {
                name: RECEIVED_FAILURES.0,
                help: RECEIVED_FAILURES.1,
                labels: vec![("From", address.clone())],
                value: Value::Counter(*count),
            });
        }
        if self.refused_snapshots.get() > 0 {
            take(Series {
                name: RECEIVE_FAILURES.0,
                help: RECEIVE_FAILURES.1,
                labels: vec![("From", "UNKNOWN_SNAPSHOT_SENDER".to_owned())],
                value: Value::Counter(self.refused_snapshots.get()),
            });
        }
    }
}

const RECEIVED_FAILURES: (&str, &str) = (
    "etcd_network_peer_received_failures_total",
    "Messages from a peer that were dropped or not understood.",
);
const RECEIVE_FAILURES: (&str, &str) =
    ("etcd_network_snapshot_receive_failures", "Database snapshots that were not received whole.");

fn visit_peer(local: MemberId, id: MemberId, peer: &PeerMetrics, take: &mut impl FnMut(Series)) {
    let to = || vec![("To", id.to_string())];
    let from = || vec![("From", id.to_string())];
    let pair = || vec![("Local", local.to_string()), ("Remote", id.to_string())];
    let mut series =
        |(name, help), labels: &dyn Fn() -> Vec<(&'static str, String)>, value: Option<Value>| {
            if let Some(value) = value {
                take(Series { name, help, labels: labels(), value });
            }
        };
    let counter = |counter: &Counter| Some(counter.get()).filter(|count| *count > 0).map(Value::Counter);
    let gauge = |gauge: &Gauge| gauge.used.load(Relaxed).then(|| Value::Gauge(gauge.get()));
    let times = |read: Distribution| (read.count > 0).then_some(Value::Histogram(read));

    series(("etcd_network_peer_sent_bytes_total", "Bytes sent to a peer."), &to, counter(&peer.sent_bytes));
    series(
        ("etcd_network_peer_received_bytes_total", "Bytes received from a peer."),
        &from,
        counter(&peer.received_bytes),
    );
    series(
        ("etcd_network_peer_sent_failures_total", "Messages to a peer that were dropped or not sent."),
        &to,
        counter(&peer.sent_failures),
    );
    series(RECEIVED_FAILURES, &from, counter(&peer.received_failures));
    series(("etcd_network_active_peers", "1 while a peer is reachable, else 0."), &pair, gauge(&peer.active));
    series(
        ("etcd_network_disconnected_peers_total", "How often a peer became unreachable."),
        &pair,
        counter(&peer.disconnected),
    );
    series(
        ("etcd_network_snapshot_send_success", "Database snapshots delivered to a peer."),
        &to,
        counter(&peer.snapshot_send_success),
    );
    series(
        ("etcd_network_snapshot_send_failures", "Database snapshots that did not reach a peer."),
        &to,
        counter(&peer.snapshot_send_failures),
    );
    series(
        ("etcd_network_snapshot_send_inflights_total", "Database snapshots on their way to a peer."),
        &to,
        gauge(&peer.snapshot_send_inflights),
    );
    series(
        ("etcd_network_snapshot_send_total_duration_seconds", "Time taken by delivered database snapshots."),
        &to,
        times(peer.snapshot_send_duration.read()),
    );
    series(
        ("etcd_network_snapshot_receive_success", "Database snapshots received from a peer."),
        &from,
        counter(&peer.snapshot_receive_success),
    );
    series(RECEIVE_FAILURES, &from, counter(&peer.snapshot_receive_failures));
    series(
        ("etcd_network_snapshot_receive_inflights_total", "Database snapshots that are being received."),
        &from,
        gauge(&peer.snapshot_receive_inflights),
    );
    series(
        (
            "etcd_network_snapshot_receive_total_duration_seconds",
            "Time taken by received database snapshots.",
        ),
        &from,
        times(peer.snapshot_receive_duration.read()),
    );
    series(
        ("etcd_network_peer_round_trip_time_seconds", "Round trips of probes to a peer."),
        &to,
        times(peer.round_trip.read()),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_used_is_there() {
        let metrics = Metrics::new(MemberId(0x1a));
        let peer = metrics.peer(MemberId(0x2b));
        peer.sent_bytes.add(7);
        peer.active.add(1);
        peer.active.add(-1);
        peer.round_trip.observe(Duration::from_micros(150));
        peer.round_trip.observe(Duration::from_secs(9));
        let mut found = Vec::new();
        metrics.visit(|series| found.push(series));
        let names: Vec<_> = found.iter().map(|series| series.name).collect();
        assert_eq!(
            names,
            [
                "etcd_network_peer_sent_bytes_total",
                "etcd_network_active_peers",
                "etcd_network_peer_round_trip_time_seconds"
            ]
        );
        assert_eq!(found[0].labels, [("To", "2b".to_owned())]);
        assert_eq!(found[1].labels, [("Local", "1a".to_owned()), ("Remote", "2b".to_owned())]);
        let Value::Histogram(times) = &found[2].value else { panic!("{:?}", found[2]) };
        assert_eq!((times.buckets.len(), times.count), (16, 2));
        assert_eq!((times.buckets[0], times.buckets[1].1), ((0.0001, 0), 1));
        assert!((times.buckets[15].0 - 3.2768).abs() < 1e-9 && times.buckets[15].1 == 1);
    }

    #[test]
    fn addresses_do_not_pile_up() {
        let metrics = Metrics::new(MemberId(1));
        for port in 0..1000 {
            metrics.request_failed(&format!("127.0.0.1:{port}"));
        }
        let mut count = 0;
        metrics.visit(|_| count += 1);
        assert_eq!(count, MAX_ADDRESSES + 1);
    }
}
