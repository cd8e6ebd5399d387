//! One peer: its two streams in each direction, its pipeline, its snapshots, its probers.
//!
//! | message | way |
//! |---|---|
//! | `MsgApp` | msgapp stream, else message stream, else pipeline |
//! | `MsgSnap` | `POST /raft/snapshot` |
//! | every other | message stream, else pipeline |
//!
//! A member that is not known yet ([`Remote`]) has a pipeline only: enough to answer it until the
//! log says who it is.
//!
//! **Source**: etcd `server/etcdserver/api/rafthttp/{peer,remote}.go`.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use proto::raftpb::{self, MessageType};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use types::MemberId;

use crate::context::Shared;
use crate::log::Limiter;
use crate::metrics::PeerMetrics;
use crate::outbox::{Offer, Outbox, StreamBody, StreamKind};
use crate::pipeline::{self, Pipeline};
use crate::prober::{self, Prober};
use crate::reader::StreamReader;
use crate::snapshot::send::SnapshotSender;
use crate::status::PeerStatus;
use crate::url::{PeerUrl, UrlPicker};

/// What peers and remotes have in common.
struct Base {
    id: MemberId,
    shared: Arc<Shared>,
    runtime: Handle,
    picker: Arc<UrlPicker>,
    status: Arc<PeerStatus>,
    metrics: Arc<PeerMetrics>,
    pipeline: pipeline::Queue,
    tasks: Mutex<Vec<AbortHandle>>,
    full_queue_lines: Limiter,
}

impl Base {
    fn new(shared: &Arc<Shared>, runtime: &Handle, id: MemberId, urls: Vec<PeerUrl>) -> Self {
        let metrics = shared.metrics.peer(id);
        let (pipeline, queue) = mpsc::channel(pipeline::QUEUE_MESSAGES);
        let base = Self {
            id,
            shared: shared.clone(),
            runtime: runtime.clone(),
            picker: Arc::new(UrlPicker::new(urls)),
            status: Arc::new(PeerStatus::new(id, shared.log().clone(), metrics.clone())),
            metrics,
            pipeline,
            tasks: Mutex::default(),
            full_queue_lines: Limiter::default(),
        };
        let queue = Arc::new(tokio::sync::Mutex::new(queue));
        for _ in 0..pipeline::CONNECTIONS {
            let pipeline = Pipeline {
                peer: id,
                shared: shared.clone(),
                picker: base.picker.clone(),
                status: base.status.clone(),
                metrics: base.metrics.clone(),
                queue: queue.clone(),
            };
            base.spawn(pipeline.run());
        }
        base
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task = self.runtime.spawn(task).abort_handle();
        let mut tasks = self.tasks.lock();
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    fn post(&self, message: raftpb::Message) {
        if let Err(error) = self.pipeline.try_send(message) {
            self.dropped(&error.into_inner(), pipeline::NAME);
        }
    }

    /// Too much waits already: raft hears of it and sends again later.
    fn dropped(&self, message: &raftpb::Message, way: &str) {
        self.metrics.sent_failures.inc();
        self.shared.handler().report_unreachable(self.id);
        let Some(held_back) = self.full_queue_lines.pass() else { return };
        self.shared.log().warn(
            "dropped internal Raft message since sending buffer is full",
            &[
                ("message-type", message.r#type().as_str_name().into()),
                ("local-member-id", self.shared.id().into()),
                ("from", MemberId(message.from()).into()),
                ("remote-peer-id", self.id.into()),
                ("remote-peer-name", way.into()),
                ("remote-peer-active", self.status.is_active().into()),
                ("lines-held-back", held_back.into()),
            ],
        );
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        for task in self.tasks.get_mut().drain(..) {
            task.abort();
        }
    }
}

/// A member of the cluster, as the one that talks to it sees it.
pub(crate) struct Peer {
    base: Base,
    append: Arc<Outbox>,
    message: Arc<Outbox>,
    paused: Arc<AtomicBool>,
    /// A snapshot is on its way to it.
    sends_snapshot: Arc<AtomicBool>,
}

impl Peer {
    /// Starts to talk to a member.
    pub(crate) fn start(shared: &Arc<Shared>, runtime: &Handle, id: MemberId, urls: Vec<PeerUrl>) -> Self {
        shared.log().info("starting remote peer", &[("remote-peer-id", id.into())]);
        let base = Base::new(shared, runtime, id, urls);
        let outbox = |kind| Outbox::new(kind, id, shared.clone(), base.status.clone(), base.metrics.clone());
        let peer = Self {
            append: outbox(StreamKind::Append),
            message: outbox(StreamKind::Message),
            paused: Arc::default(),
            sends_snapshot: Arc::default(),
            base,
        };
        for kind in [StreamKind::Append, StreamKind::Message] {
            peer.read_stream(kind);
        }
        for name in [prober::RAFT_MESSAGES, prober::SNAPSHOTS] {
            peer.probe(name);
        }
        shared.log().info("started remote peer", &[("remote-peer-id", id.into())]);
        peer
    }

    fn read_stream(&self, kind: StreamKind) {
        let reader = StreamReader {
            kind,
            peer: self.base.id,
            shared: self.base.shared.clone(),
            picker: self.base.picker.clone(),
            status: self.base.status.clone(),
            metrics: self.base.metrics.clone(),
            paused: self.paused.clone(),
        };
        self.base.spawn(reader.run());
    }

    fn probe(&self, name: &'static str) {
        let prober = Prober {
            name,
            peer: self.base.id,
            shared: self.base.shared.clone(),
            picker: self.base.picker.clone(),
            metrics: self.base.metrics.clone(),
        };
        self.base.spawn(prober.run());
    }

    /// Leaves a message for the peer; it may go out only after [`Peer::wake`]. Never waits.
    pub(crate) fn send(&self, message: raftpb::Message) {
        if self.paused.load(Ordering::Relaxed) {
            return;
        }
        let offer = match message.r#type() {
            MessageType::MsgSnap => return self.send_snapshot(message),
            MessageType::MsgApp => match self.append.offer(message) {
                Offer::NoStream(message) => (self.message.offer(message), "streamMsg"),
                other => (other, "streamMsgAppV2"),
            },
            _ => (self.message.offer(message), "streamMsg"),
        };
        match offer {
            (Offer::Taken, _) => {}
            (Offer::Full(message), way) => self.base.dropped(&message, way),
            (Offer::NoStream(message), _) => self.base.post(message),
        }
    }

    /// Sends what [`Peer::send`] left.
    pub(crate) fn wake(&self) {
        self.append.wake();
        self.message.wake();
    }

    fn send_snapshot(&self, message: raftpb::Message) {
        if self.sends_snapshot.swap(true, Ordering::AcqRel) {
            // The one under way may be of an older term; its end will not be mistaken for this one's.
            return self.base.shared.handler().report_snapshot(self.base.id, false);
        }
        let sender = SnapshotSender {
            peer: self.base.id,
            shared: self.base.shared.clone(),
            picker: self.base.picker.clone(),
            status: self.base.status.clone(),
            metrics: self.base.metrics.clone(),
        };
        let done = Done(self.sends_snapshot.clone());
        self.base.spawn(async move {
            let _done = done;
            sender.run(message).await;
        });
    }

    /// A body for a stream that the peer asked for.
    pub(crate) fn attach(&self, kind: StreamKind) -> StreamBody {
        match kind {
            StreamKind::Append => self.append.attach(),
            StreamKind::Message => self.message.attach(),
        }
    }

    pub(crate) fn update(&self, urls: Vec<PeerUrl>) {
        self.base.picker.update(urls);
    }

    pub(crate) fn active_since(&self) -> Option<Instant> {
        self.base.status.active_since()
    }

    /// Throws away what is sent and received, or stops doing so.
    pub(crate) fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }
}

/// Resets a flag when a task ends, however it does.
struct Done(Arc<AtomicBool>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let id = [("remote-peer-id", self.base.id.into())];
        self.base.shared.log().info("stopping remote peer", &id);
        self.append.close();
        self.message.close();
        self.base.shared.log().info("stopped remote peer", &id);
    }
}

/// Somebody of this cluster who is no member as far as this member knows.
pub(crate) struct Remote {
    base: Base,
}

impl Remote {
    pub(crate) fn start(shared: &Arc<Shared>, runtime: &Handle, id: MemberId, urls: Vec<PeerUrl>) -> Self {
        Self { base: Base::new(shared, runtime, id, urls) }
    }

    /// Posts a message. Snapshots are for members only.
    pub(crate) fn send(&self, message: raftpb::Message) {
        if message.r#type() == MessageType::MsgSnap {
            return self.base.shared.handler().report_snapshot(self.base.id, false);
        }
        self.base.post(message);
    }

    /// No more messages come: he is a member now. Those that wait still go out, because an answer to the leader may
    /// be among them, who would take a learner for one that lags behind until it asks again.
    pub(crate) fn finish(&self) {
        // The pipelines end when the queue is empty and its sender is gone.
        self.base.tasks.lock().clear();
    }
}
