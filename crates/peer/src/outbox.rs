//! Messages that wait for a stream, and the stream's body that takes them.
//!
//! The receiver of messages dials: a stream is the endless answer to its request. Between two
//! connections nothing waits here: [`Outbox::offer`] gives the message back and the caller takes
//! another way.
//!
//! ```text
//! raft thread ──offer──▶ queue (≤ 4096) ◀──poll_frame── StreamBody, driven by its connection
//! ```
//!
//! No task of its own: the connection asks the body for bytes when it can write, and gets all that
//! waits (up to [`BATCH_BYTES`]) as one piece. A newer stream ends the older one of its kind. When
//! a connection breaks, its body is dropped, which reports what still waited as lost.
//!
//! **Source**: etcd `server/etcdserver/api/rafthttp/stream.go` (streamWriter).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use hyper::body::{Body, Frame};
use parking_lot::Mutex;
use proto::raftpb;
use tokio::time::{Interval, MissedTickBehavior};
use types::MemberId;

use crate::codec::{AppendEncoder, Batch, encode_message, link_heartbeat};
use crate::context::Shared;
use crate::metrics::PeerMetrics;
use crate::status::{Failure, PeerStatus};

/// Messages that may wait for one stream.
pub(crate) const QUEUE_MESSAGES: usize = 4096;
/// Bytes after which a batch goes out even if more waits.
const BATCH_BYTES: usize = 512 << 10;

/// The two kinds of streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamKind {
    /// Entries from a leader.
    Append,
    /// Everything else.
    Message,
}

impl StreamKind {
    /// Name in log lines.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Append => "stream MsgApp v2",
            Self::Message => "stream Message",
        }
    }

    /// Where a peer serves it.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Append => "/raft/stream/msgapp",
            Self::Message => "/raft/stream/message",
        }
    }
}

/// What happened to an offered message.
pub(crate) enum Offer {
    /// It waits for the stream.
    Taken,
    /// There is no stream.
    NoStream(raftpb::Message),
    /// There is one, but too much waits.
    Full(raftpb::Message),
}

#[derive(Default)]
struct State {
    queue: VecDeque<raftpb::Message>,
    /// Number of the attached stream; 0 = none.
    attached: u64,
    last: u64,
}

pub(crate) struct Outbox {
    kind: StreamKind,
    peer: MemberId,
    shared: Arc<Shared>,
    status: Arc<PeerStatus>,
    metrics: Arc<PeerMetrics>,
    state: Mutex<State>,
    waker: AtomicWaker,
}

impl Outbox {
    pub(crate) fn new(
        kind: StreamKind,
        peer: MemberId,
        shared: Arc<Shared>,
        status: Arc<PeerStatus>,
        metrics: Arc<PeerMetrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            kind,
            peer,
            shared,
            status,
            metrics,
            state: Mutex::default(),
            waker: AtomicWaker::new(),
        })
    }

    /// Leaves a message for the stream. It goes out after [`Outbox::wake`].
    pub(crate) fn offer(&self, message: raftpb::Message) -> Offer {
        let mut state = self.state.lock();
        if state.attached == 0 {
            return Offer::NoStream(message);
        }
        if state.queue.len() >= QUEUE_MESSAGES {
            return Offer::Full(message);
        }
        state.queue.push_back(message);
        Offer::Taken
    }

    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// A body for a stream that the peer asked for. The stream before it, if any, ends.
    pub(crate) fn attach(self: &Arc<Self>) -> StreamBody {
        let (stream, replaced, lost) = {
            let mut state = self.state.lock();
            state.last += 1;
            let replaced = state.attached != 0;
            state.attached = state.last;
            // What waits was meant for the old stream.
            (state.last, replaced, std::mem::take(&mut state.queue))
        };
        self.waker.wake();
        self.report_lost(&lost);
        self.status.activate();
        if replaced {
            self.log_stream("closed TCP streaming connection with remote peer");
        }
        self.shared.log().info(
            "established TCP streaming connection with remote peer",
            &[
                ("stream-writer-type", self.kind.name().into()),
                ("local-member-id", self.shared.id().into()),
                ("remote-peer-id", self.peer.into()),
            ],
        );
        let encoder = match self.kind {
            StreamKind::Append => Encoder::Append(AppendEncoder::default()),
            StreamKind::Message => Encoder::Message,
        };
        StreamBody {
            outbox: self.clone(),
            stream,
            encoder,
            heartbeat: link_ticks(self.shared.config.read_timeout),
            batch: Batch::new(),
            ready: VecDeque::new(),
        }
    }

    /// Ends the stream.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        if state.attached != 0 {
            state.attached = 0;
            state.queue.clear();
            drop(state);
            self.waker.wake();
            self.log_stream("closed TCP streaming connection with remote peer");
        }
    }

    /// The connection of a stream is gone.
    fn detach(&self, stream: u64) {
        let lost = {
            let mut state = self.state.lock();
            if state.attached != stream {
                return;
            }
            state.attached = 0;
            std::mem::take(&mut state.queue)
        };
        self.report_lost(&lost);
        self.status.deactivate(
            Failure { source: self.kind.name(), action: "write" },
            "the connection was closed or a write timed out",
        );
        self.metrics.sent_failures.add((lost.len() as u64).max(1));
        self.log_stream("lost TCP streaming connection with remote peer");
    }

    fn report_lost(&self, lost: &VecDeque<raftpb::Message>) {
        if !lost.is_empty() {
            self.shared.handler().report_unreachable(self.peer);
        }
    }

    fn log_stream(&self, text: &str) {
        self.shared.log().warn(
            text,
            &[
                ("stream-writer-type", self.kind.name().into()),
                ("local-member-id", self.shared.id().into()),
                ("remote-peer-id", self.peer.into()),
            ],
        );
    }
}

/// Ticks for link heartbeats: three in the time after which silence is taken for a broken link.
fn link_ticks(read_timeout: Duration) -> Interval {
    let period = read_timeout / 3;
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

enum Encoder {
    Append(AppendEncoder),
    Message,
}

impl Encoder {
    fn encode(&mut self, message: raftpb::Message, out: &mut Batch) {
        match self {
            Self::Append(encoder) => encoder.encode(message, out),
            Self::Message => encode_message(&message, out),
        }
    }
}

/// The endless answer that carries messages to a peer.
pub(crate) struct StreamBody {
    outbox: Arc<Outbox>,
    stream: u64,
    encoder: Encoder,
    heartbeat: Interval,
    batch: Batch,
    ready: VecDeque<Bytes>,
}

impl StreamBody {
    /// Takes what waits and encodes it outside of the lock, or asks to be woken. `false` if the
    /// stream was replaced or closed: then the waker belongs to another stream.
    fn fill(&mut self, cx: &Context<'_>) -> bool {
        let mut taken = {
            let mut state = self.outbox.state.lock();
            if state.attached != self.stream {
                return false;
            }
            if state.queue.is_empty() {
                self.outbox.waker.register(cx.waker());
            }
            take_batch(&mut state.queue)
        };
        for message in taken.drain(..) {
            self.encoder.encode(message, &mut self.batch);
        }
        true
    }

    fn next_piece(&mut self) -> Option<Bytes> {
        if self.ready.is_empty() && !self.batch.is_empty() {
            self.outbox.metrics.sent_bytes.add(self.batch.len() as u64);
            self.ready.extend(self.batch.take());
        }
        self.ready.pop_front()
    }
}

/// All that waits, or as much of it as one batch should carry.
fn take_batch(queue: &mut VecDeque<raftpb::Message>) -> VecDeque<raftpb::Message> {
    let mut bytes = 0;
    let within = queue.iter().position(|message| {
        bytes += payload_bytes(message);
        bytes >= BATCH_BYTES
    });
    match within {
        Some(last) if last + 1 < queue.len() => {
            let rest = queue.split_off(last + 1);
            std::mem::replace(queue, rest)
        }
        _ => std::mem::take(queue),
    }
}

fn payload_bytes(message: &raftpb::Message) -> usize {
    message.entries.iter().map(|entry| 32 + entry.data.as_ref().map_or(0, Bytes::len)).sum()
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if this.ready.is_empty() {
            if !this.fill(cx) {
                return Poll::Ready(None);
            }
            while this.heartbeat.poll_tick(cx).is_ready() {
                this.encoder.encode(link_heartbeat(), &mut this.batch);
            }
        }
        match this.next_piece() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => Poll::Pending,
        }
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        self.outbox.detach(self.stream);
    }
}
