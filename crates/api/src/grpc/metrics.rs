//! Counters of calls and messages, by method.
//!
//! Each worker thread owns a [`Shard`] and is its only writer, so counting is a plain load and
//! store; [`Metrics`] sums the shards when somebody asks. The time that calls take is counted only if
//! that was asked for ([`Metrics::timed`]): it costs two looks at the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::message::PREFIX_LEN;
use super::status::Code;

/// Index of a method in the service's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodId(pub u8);

/// The shape of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One message each way.
    Unary,
    /// One message in, many out.
    ServerStream,
    /// Many both ways.
    Bidi,
}

impl Shape {
    /// The `grpc_type` label.
    pub const fn label(self) -> &'static str {
        match self {
            Shape::Unary => "unary",
            Shape::ServerStream => "server_stream",
            Shape::Bidi => "bidi_stream",
        }
    }
}

/// A row of a service's method table.
#[derive(Clone, Copy, Debug)]
pub struct MethodInfo {
    /// Full service name.
    pub service: &'static str,
    /// Method name.
    pub method: &'static str,
    /// Its shape.
    pub shape: Shape,
}

const STARTED: usize = 0;
const RECEIVED: usize = 1;
const SENT: usize = 2;
const HANDLED: usize = 3;
const CELLS: usize = HANDLED + Code::ALL.len();

/// Upper bounds of `grpc_server_handling_seconds`, in nanoseconds: those that Prometheus clients use by
/// default.
pub const HANDLING_BOUNDS: [u64; 11] = [
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Cell of the sum in nanoseconds, behind one per bound and one for everything above.
const SUM: usize = HANDLING_BOUNDS.len() + 1;

/// How long the calls of a method took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handling {
    /// Calls up to each of [`HANDLING_BOUNDS`] and above the one before, then those above the last.
    pub counts: [u64; HANDLING_BOUNDS.len() + 1],
    /// All of it together.
    pub sum_nanos: u64,
}

/// The counters of one worker.
#[derive(Debug)]
pub struct Shard {
    cells: Box<[[AtomicU64; CELLS]]>,
    /// Bytes of messages in and out, all methods together.
    bytes: [AtomicU64; 2],
    /// One per method, or nothing where times are not counted.
    times: Box<[[AtomicU64; SUM + 1]]>,
}

impl Shard {
    fn new(methods: usize, timed: bool) -> Self {
        let times = if timed { methods } else { 0 };
        Self {
            cells: (0..methods).map(|_| [const { AtomicU64::new(0) }; CELLS]).collect(),
            bytes: Default::default(),
            times: (0..times).map(|_| [const { AtomicU64::new(0) }; SUM + 1]).collect(),
        }
    }

    pub(crate) fn times_calls(&self) -> bool {
        !self.times.is_empty()
    }

    pub(crate) fn took(&self, method: MethodId, span: Duration) {
        let Some(cells) = self.times.get(usize::from(method.0)) else { return };
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let bucket = HANDLING_BOUNDS.partition_point(|bound| *bound < nanos);
        for (cell, count) in [(bucket, 1), (SUM, nanos)] {
            let before = cells[cell].load(Ordering::Relaxed);
            cells[cell].store(before.saturating_add(count), Ordering::Relaxed);
        }
    }

    fn add(&self, method: MethodId, cell: usize, count: u64) {
        let Some(cells) = self.cells.get(usize::from(method.0)) else { return };
        // Only this shard's worker writes, so no read-modify-write is needed.
        cells[cell].store(cells[cell].load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    pub(crate) fn bytes_received(&self, count: usize) {
        self.bytes[0].store(self.bytes[0].load(Ordering::Relaxed) + count as u64, Ordering::Relaxed);
    }

    /// Bytes of so many framed messages.
    pub(crate) fn frames_sent(&self, bytes: usize, messages: u64) {
        let bytes = (bytes as u64).saturating_sub(messages * PREFIX_LEN as u64);
        self.bytes[1].store(self.bytes[1].load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
    }

    pub(crate) fn started(&self, method: MethodId) {
        self.add(method, STARTED, 1);
    }

    pub(crate) fn received(&self, method: MethodId) {
        self.add(method, RECEIVED, 1);
    }

    pub(crate) fn sent(&self, method: MethodId) {
        self.add(method, SENT, 1);
    }

    pub(crate) fn sent_many(&self, method: MethodId, count: u64) {
        self.add(method, SENT, count);
    }

    pub(crate) fn handled(&self, method: MethodId, code: Code) {
        self.add(method, HANDLED + code as usize, 1);
    }
}

/// What was counted for one method.
#[derive(Clone, Copy, Debug)]
pub struct MethodCounts {
    /// The method.
    pub info: MethodInfo,
    /// Calls begun: `grpc_server_started_total`.
    pub started: u64,
    /// Messages in: `grpc_server_msg_received_total`.
    pub received: u64,
    /// Messages out: `grpc_server_msg_sent_total`.
    pub sent: u64,
    /// Calls ended, by the number of their code: `grpc_server_handled_total`.
    pub handled: [u64; Code::ALL.len()],
    /// How long they took, if that is counted: `grpc_server_handling_seconds`.
    pub handling: Option<Handling>,
}

/// The counters of a server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    methods: &'static [MethodInfo],
    timed: bool,
    shards: Arc<Mutex<Vec<Arc<Shard>>>>,
}

impl Metrics {
    /// Counters for a table of methods.
    pub fn new(methods: &'static [MethodInfo]) -> Self {
        Self { methods, timed: false, shards: Arc::default() }
    }

    /// The same, with the time that calls take: `--metrics extensive`. Before it serves anything.
    pub fn timed(self, timed: bool) -> Self {
        Self { timed, ..self }
    }

    /// A shard for one more worker.
    pub(crate) fn shard(&self) -> Arc<Shard> {
        let shard = Arc::new(Shard::new(self.methods.len(), self.timed));
        self.shards.lock().push(shard.clone());
        shard
    }

    /// Bytes of all messages received and sent, without their prefixes.
    pub fn bytes(&self) -> (u64, u64) {
        let shards = self.shards.lock();
        let sum = |way: usize| shards.iter().map(|shard| shard.bytes[way].load(Ordering::Relaxed)).sum();
        (sum(0), sum(1))
    }

    /// The sums over all workers, in the table's order.
    pub fn snapshot(&self) -> Vec<MethodCounts> {
        let shards = self.shards.lock().clone();
        let sum = |method: usize, cell: usize| -> u64 {
            shards.iter().map(|shard| shard.cells[method][cell].load(Ordering::Relaxed)).sum()
        };
        let time = |method: usize, cell: usize| -> u64 {
            shards.iter().map(|shard| shard.times[method][cell].load(Ordering::Relaxed)).sum()
        };
        let counts = |(method, info): (usize, &MethodInfo)| MethodCounts {
            info: *info,
            started: sum(method, STARTED),
            received: sum(method, RECEIVED),
            sent: sum(method, SENT),
            handled: std::array::from_fn(|code| sum(method, HANDLED + code)),
            handling: self.timed.then(|| Handling {
                counts: std::array::from_fn(|bucket| time(method, bucket)),
                sum_nanos: time(method, SUM),
            }),
        };
        self.methods.iter().enumerate().map(counts).collect()
    }
}
