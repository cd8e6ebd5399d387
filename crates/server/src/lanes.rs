//! How a request's answer finds its way back to the thread that waits for it.
//!
//! Each worker thread (a single-threaded runtime) has a *lane*: its own request ids, its own
//! waiters and its own port. The id alone tells the lane, so nothing is shared on the way out;
//! on the way back the apply thread leaves all answers of a batch in the lane's port and wakes
//! the lane once, however many requests were answered.
//!
//! ```text
//!  handler ── register waiter, queue proposal ─┐  worker thread (lane n)
//!  flusher ── one send for all that queued ────┼──▶ raft thread ─▶ … ─▶ apply thread
//!  port    ◀── all answers of a batch ─────────┘◀──── Lanes::answer + Lanes::flush ──┘
//! ```
//!
//! What went to a leader that is gone by now is answered when its successor has applied an entry and a
//! little more time has passed, instead of at the end of its time: nobody can answer it any more.
//!
//! A waiter that gives up (its future was dropped, or its time is over) leaves; the proposal goes
//! on and its answer is dropped in the port.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use apply::{ApplyError, Reply};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Notify;
use types::{BytesArena, MemberId, RequestId, RequestIdGenerator};

use crate::driver::Input;
use crate::mailbox::Sender;
use crate::progress::Progress;

/// Number of lanes: an upper bound of worker threads. Ids carry the lane in their low bits.
pub const LANE_COUNT: u16 = 16;
/// Payload bytes that one lane may have under way: bounds the memory of proposals in all queues.
const MAX_BYTES_UNDER_WAY: usize = 128 << 20;
/// How often waiters whose time is over are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// An encoded request on its way into the log.
#[derive(Debug)]
pub struct Proposal {
    /// Under which its answer comes back.
    pub id: RequestId,
    /// The encoded `InternalRaftRequest`.
    pub payload: Bytes,
}

/// What became of a proposal.
#[derive(Debug)]
pub struct Answer {
    /// The request.
    pub id: RequestId,
    /// Its result.
    pub result: Result<Reply, ApplyError>,
    /// When it began to be applied, and when it was, by the member's clock.
    pub applied: (Duration, Duration),
}

/// Why a proposal has no answer from the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// Too much is under way already.
    TooManyRequests,
    /// It took longer than the request timeout.
    Timeout,
    /// The leader that it went to is gone.
    LeaderLost,
    /// The member stops.
    Stopped,
}

#[derive(Default)]
struct Port {
    answers: Mutex<Vec<Answer>>,
    ready: Notify,
}

/// The ports of all lanes, shared by the apply thread and the workers.
pub struct Lanes {
    member: MemberId,
    started_unix_ms: u64,
    ports: Box<[Port]>,
}

impl Lanes {
    /// Ports for a member that started at this wall-clock time.
    pub fn new(member: MemberId, started_unix_ms: u64) -> Arc<Self> {
        let ports = (0..LANE_COUNT).map(|_| Port::default()).collect();
        Arc::new(Self { member, started_unix_ms, ports })
    }

    /// Delivers a single answer, from any thread.
    pub fn answer(&self, answer: Answer) {
        let port = &self.ports[Self::index_of(answer.id)];
        port.answers.lock().push(answer);
        port.ready.notify_one();
    }

    fn index_of(id: RequestId) -> usize {
        (id.0 % u64::from(LANE_COUNT)) as usize
    }
}

/// The apply thread's side: collects the answers of a batch.
pub struct Answers {
    lanes: Arc<Lanes>,
    collected: Vec<Vec<Answer>>,
}

impl Answers {
    /// A collector that delivers to these lanes.
    pub fn new(lanes: Arc<Lanes>) -> Self {
        let collected = (0..LANE_COUNT).map(|_| Vec::new()).collect();
        Self { lanes, collected }
    }

    /// Takes an answer; ids of other members are dropped.
    pub fn push(&mut self, answer: Answer) {
        if answer.id.0 >> 48 == self.lanes.member.0 & 0xffff {
            self.collected[Lanes::index_of(answer.id)].push(answer);
        }
    }

    /// Delivers what was collected and wakes each lane that got something, once.
    pub fn flush(&mut self) {
        for (port, answers) in self.lanes.ports.iter().zip(&mut self.collected) {
            if !answers.is_empty() {
                port.answers.lock().append(answers);
                port.ready.notify_one();
            }
        }
    }
}

/// Spreads sequential ids over the table; they need no protection against chosen keys.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

/// An answer and how long it took to come back to its thread, or why there is none.
type Outcome = Result<(Answer, Duration), Unanswered>;

struct Waiter {
    outcome: Option<Outcome>,
    /// The task to wake when that is there.
    task: Option<Waker>,
    started: Instant,
    deadline: Instant,
    bytes: usize,
}

/// The worker's side of a lane. Lives on one thread.
struct Lane {
    index: u8,
    ids: RequestIdGenerator,
    waiters: RefCell<HashMap<u64, Waiter, BuildHasherDefault<IdHasher>>>,
    bytes_under_way: Cell<usize>,
    arena: RefCell<BytesArena>,
    outbox: RefCell<Vec<Proposal>>,
    outbox_ready: Notify,
    to_raft: Sender<Input>,
    progress: Arc<Progress>,
}

thread_local! {
    static LANE: OnceCell<Rc<Lane>> = const { OnceCell::new() };
}

/// Makes the calling thread the worker of lane `index`. The returned future serves the lane: run
/// it on the thread's runtime for as long as the worker lives.
///
/// # Panics
/// If the thread has a lane already, or `index` is not below [`LANE_COUNT`].
pub fn enter(
    lanes: &Arc<Lanes>,
    index: u8,
    to_raft: Sender<Input>,
    progress: Arc<Progress>,
) -> impl Future<Output = ()> + use<> {
    let ids = RequestIdGenerator::with_lane(lanes.member, lanes.started_unix_ms, index, LANE_COUNT);
    let lane = Rc::new(Lane {
        index,
        ids,
        waiters: RefCell::default(),
        bytes_under_way: Cell::new(0),
        arena: RefCell::default(),
        outbox: RefCell::default(),
        outbox_ready: Notify::new(),
        to_raft,
        progress,
    });
    let entered = LANE.with(|cell| cell.set(lane.clone()).is_ok());
    assert!(entered, "the thread already serves a lane");
    let lanes = lanes.clone();
    async move {
        let deliver = lane.deliver(&lanes.ports[usize::from(index)]);
        futures_util::future::join3(deliver, lane.flush_outbox(), lane.sweep()).await;
    }
}

/// The next request id of this thread's lane.
///
/// # Panics
/// If the thread serves no lane.
pub fn next_id() -> RequestId {
    LANE.with(|lane| lane.get().expect("called on a worker thread").ids.next())
}

/// Memory for a payload of `len` bytes, filled by `write`.
///
/// # Panics
/// If the thread serves no lane.
pub fn build_payload(len: usize, write: impl FnOnce(&mut BytesMut)) -> Bytes {
    LANE.with(|lane| lane.get().expect("called on a worker thread").arena.borrow_mut().build(len, write))
}

/// The lane of this thread, for those who count by worker; 0 on threads without one.
pub fn current() -> usize {
    LANE.with(|lane| lane.get().map_or(0, |lane| lane.index.into()))
}

/// Proposes an encoded request and waits for its answer, at most `timeout` from `started` on, which is now.
/// Returns the answer and how long it took to come back to this thread.
///
/// The proposal goes out with all others that this thread queued before it went idle.
///
/// # Panics
/// If the thread serves no lane.
pub async fn propose(id: RequestId, payload: Bytes, started: Instant, timeout: Duration) -> Outcome {
    let waiting = LANE.with(|lane| {
        let lane = lane.get().expect("called on a worker thread");
        let bytes = payload.len();
        if lane.bytes_under_way.get() + bytes > MAX_BYTES_UNDER_WAY {
            return Err(Unanswered::TooManyRequests);
        }
        let waiting = lane.wait(id, started, timeout, bytes);
        let mut outbox = lane.outbox.borrow_mut();
        outbox.push(Proposal { id, payload });
        if outbox.len() == 1 {
            lane.outbox_ready.notify_one();
        }
        Ok(waiting)
    });
    waiting?.await
}

/// Gives the raft thread something beside the proposals of clients and waits for its answer, at
/// most `timeout`.
///
/// # Panics
/// If the thread serves no lane.
pub async fn submit(id: RequestId, input: Input, timeout: Duration) -> Outcome {
    let waiting = LANE.with(|lane| {
        let lane = lane.get().expect("called on a worker thread");
        let waiting = lane.wait(id, Instant::now(), timeout, 0);
        lane.to_raft.send(input).map_err(|_| Unanswered::Stopped)?;
        Ok(waiting)
    });
    waiting?.await
}

/// Ready when the outcome is there. Done or dropped, it removes its waiter.
struct Waiting(RequestId);

impl Future for Waiting {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        LANE.with(|lane| lane.get().expect("called on a worker thread").poll_outcome(self.0, cx))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // At thread exit the lane may be gone already.
        let _ = LANE.try_with(|lane| {
            if let Some(lane) = lane.get() {
                lane.leave(self.0);
            }
        });
    }
}

impl Lane {
    fn wait(&self, id: RequestId, started: Instant, timeout: Duration, bytes: usize) -> Waiting {
        self.bytes_under_way.set(self.bytes_under_way.get() + bytes);
        let waiter = Waiter { outcome: None, task: None, started, deadline: started + timeout, bytes };
        self.waiters.borrow_mut().insert(id.0, waiter);
        Waiting(id)
    }

    fn leave(&self, id: RequestId) {
        // The table is free before the waiter is dropped: what its waker holds may wait, and leave, here too.
        let left = self.waiters.borrow_mut().remove(&id.0);
        if let Some(waiter) = left {
            self.bytes_under_way.set(self.bytes_under_way.get() - waiter.bytes);
        }
    }

    fn poll_outcome(&self, id: RequestId, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut waiters = self.waiters.borrow_mut();
        let waiter = waiters.get_mut(&id.0).expect("a waiter stays until its future is done");
        match waiter.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                match &mut waiter.task {
                    Some(task) => task.clone_from(cx.waker()),
                    empty => *empty = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    /// Tells a waiter, if it has not left. The first word counts.
    fn tell(&self, id: u64, outcome: impl FnOnce(&Waiter) -> Outcome) {
        let mut waiters = self.waiters.borrow_mut();
        let Some(waiter) = waiters.get_mut(&id) else { return };
        if waiter.outcome.is_none() {
            waiter.outcome = Some(outcome(waiter));
            let task = waiter.task.take();
            drop(waiters);
            if let Some(task) = task {
                task.wake();
            }
        }
    }

    async fn deliver(&self, port: &Port) {
        loop {
            port.ready.notified().await;
            let answers = std::mem::take(&mut *port.answers.lock());
            let now = Instant::now();
            for answer in answers {
                self.tell(answer.id.0, |waiter| Ok((answer, now.saturating_duration_since(waiter.started))));
            }
        }
    }

    async fn flush_outbox(&self) {
        loop {
            self.outbox_ready.notified().await;
            let proposals = std::mem::take(&mut *self.outbox.borrow_mut());
            if proposals.is_empty() {
                continue;
            }
            if self.to_raft.send(Input::Propose(proposals)).is_err() {
                // The raft thread is gone: nobody will answer.
                let waiting: Vec<u64> = self.waiters.borrow().keys().copied().collect();
                waiting.into_iter().for_each(|id| self.tell(id, |_| Err(Unanswered::Stopped)));
            }
        }
    }

    async fn sweep(&self) {
        let mut interval = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            interval.tick().await;
            let now = Instant::now();
            let lost_before = self.progress.lost_before(now);
            let verdict = |waiter: &Waiter| match waiter.deadline <= now {
                true => Some(Unanswered::Timeout),
                false => lost_before.filter(|lost| waiter.started < *lost).map(|_| Unanswered::LeaderLost),
            };
            let overdue: Vec<(u64, Unanswered)> = self
                .waiters
                .borrow()
                .iter()
                .filter_map(|(id, waiter)| Some((*id, verdict(waiter)?)))
                .collect();
            for (id, reason) in overdue {
                self.tell(id, |_| Err(reason));
            }
        }
    }
}
