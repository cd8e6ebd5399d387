//! The member as its peers see it: what the transport calls.
//!
//! Messages go to the raft thread, of which so many wait at most: what comes on top is dropped,
//! raft sends again what matters. Questions that need the member (leases, promotions) are answered
//! on a worker; a snapshot is opened by the apply thread, the only one that knows what is applied.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak, mpsc};

use api::error::Error as ApiError;
use api::grpc::Workers;
use api::member::Member as _;
use apply::Shared;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use membership::Member;
use parking_lot::Mutex;
use peer::{Handler, HashKv, HashKvError, LeaseError, LeaseTimes, OutgoingSnapshot, PromoteError, StepError};
use proto::raftpb;
use tokio::sync::oneshot;
use types::{ClusterId, LeaseId, MemberId, Version};

use crate::driver::Input;
use crate::driver::apply_thread::ApplyWork;
use crate::fatal::Fatal;
use crate::log;
use crate::mailbox::Sender;
use crate::node::Node;

/// Messages of peers that may wait for the raft thread.
const MAX_WAITING_MESSAGES: usize = 4096;

/// Why a member that was removed ends. Upstream's words.
pub const REMOVED: &str = "the member has been permanently removed from the cluster";

/// Counts the messages of peers that wait for the raft thread.
#[derive(Debug, Default)]
pub struct Inbox {
    waiting: AtomicUsize,
}

impl Inbox {
    /// The raft thread took one.
    pub fn taken(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }

    fn admit(&self) -> bool {
        let admitted = self.waiting.fetch_add(1, Relaxed) < MAX_WAITING_MESSAGES;
        if !admitted {
            self.waiting.fetch_sub(1, Relaxed);
        }
        admitted
    }
}

/// See the module documentation.
pub struct PeerSide {
    cluster_id: ClusterId,
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    to_raft: Sender<Input>,
    to_apply: Sender<ApplyWork>,
    fatal: Fatal,
    workers: Weak<Workers>,
    /// Set when the member is complete, taken when it stops.
    node: Mutex<Option<Node>>,
}

impl PeerSide {
    /// The side of a member that is not complete yet.
    pub fn new(
        cluster_id: ClusterId,
        shared: Arc<Shared>,
        inbox: Arc<Inbox>,
        to_raft: Sender<Input>,
        to_apply: Sender<ApplyWork>,
        fatal: Fatal,
        workers: &Arc<Workers>,
    ) -> Self {
        let (workers, node) = (Arc::downgrade(workers), Mutex::default());
        Self { cluster_id, shared, inbox, to_raft, to_apply, fatal, workers, node }
    }

    /// From now on peers' questions are answered (`Some`), or no more.
    pub fn set_node(&self, node: Option<Node>) {
        let old = std::mem::replace(&mut *self.node.lock(), node);
        drop(old);
    }

    fn node(&self) -> Option<Node> {
        self.node.lock().clone()
    }

    /// Has a worker answer. `gone` is the answer of a member that starts or stops.
    fn on_worker<T, W>(&self, gone: T, work: impl FnOnce(Node) -> W + Send + 'static) -> BoxFuture<'static, T>
    where
        T: Send + 'static,
        W: Future<Output = T> + 'static,
    {
        let (Some(node), Some(workers)) = (self.node(), self.workers.upgrade()) else {
            return async move { gone }.boxed();
        };
        let (answer, answered) = oneshot::channel();
        workers.spawn_on(0, move || async move {
            // The peer may have left.
            let _ = answer.send(work(node).await);
        });
        async move { answered.await.unwrap_or(gone) }.boxed()
    }
}

impl Handler for PeerSide {
    fn step(&self, message: raftpb::Message) -> Result<(), StepError> {
        if !self.inbox.admit() {
            return Err(StepError::Full);
        }
        self.to_raft.send(Input::Message(Box::new(message))).map_err(|_| StepError::Stopped)
    }

    fn is_removed(&self, id: MemberId) -> bool {
        self.shared.cluster().is_removed(id)
    }

    fn report_unreachable(&self, id: MemberId) {
        // The raft thread is gone: nobody has to know.
        let _ = self.to_raft.send(Input::PeerUnreachable(id));
    }

    fn report_snapshot(&self, id: MemberId, arrived: bool) {
        let _ = self.to_raft.send(Input::SnapshotReport { to: id, delivered: arrived });
    }

    fn removed_from_cluster(&self) {
        self.fatal.stop(REMOVED.to_owned());
    }

    fn open_snapshot(&self, mut message: raftpb::Message) -> Result<OutgoingSnapshot, String> {
        let (answer, answered) = mpsc::sync_channel(1);
        let stops = || "the member stops".to_owned();
        self.to_apply.send(ApplyWork::OpenSnapshot(answer)).map_err(|_| stops())?;
        let image = answered.recv().map_err(|_| stops())?.map_err(|error| error.to_string())?;
        let snapshot = image.snapshot;
        message.snapshot = Some(raftpb::Snapshot {
            data: Some(snapshot.data),
            metadata: Some(raftpb::SnapshotMetadata {
                conf_state: Some(raftpb::ConfState {
                    voters: snapshot.conf_state.voters,
                    learners: snapshot.conf_state.learners,
                    voters_outgoing: Vec::new(),
                    learners_next: Vec::new(),
                    auto_leave: Some(false),
                }),
                index: Some(snapshot.position.index),
                term: Some(snapshot.position.term),
            }),
        });
        Ok(OutgoingSnapshot { message, bytes: image.content.size(), content: Box::new(image.content) })
    }

    fn members(&self) -> (ClusterId, Vec<Member>) {
        (self.cluster_id, self.shared.cluster().members().cloned().collect())
    }

    fn versions(&self) -> (Option<Version>, Option<Version>) {
        (self.shared.cluster().version(), self.node().and_then(|node| node.storage_version()))
    }

    fn renew_lease(&self, id: LeaseId) -> BoxFuture<'static, Result<i64, LeaseError>> {
        self.on_worker(Err(LeaseError::NotPrimary), move |node| async move {
            if !node.progress().is_leader() {
                return Err(LeaseError::NotPrimary);
            }
            match node.renew_as_leader(id).await {
                Ok(Some(0)) => Err(LeaseError::NotFound),
                Ok(Some(ttl)) => Ok(ttl),
                Ok(None) => Err(LeaseError::NotPrimary),
                Err(ApiError::Timeout) => Err(LeaseError::Timeout),
                Err(error) => Err(LeaseError::Other(error.to_string())),
            }
        })
    }

    fn lease_times(&self, id: LeaseId, keys: bool) -> BoxFuture<'static, Result<LeaseTimes, LeaseError>> {
        self.on_worker(Err(LeaseError::NotPrimary), move |node| async move {
            if !node.progress().is_leader() {
                return Err(LeaseError::NotPrimary);
            }
            match node.lease_times_as_leader(id, keys).await {
                Ok(Some(times)) => Ok(LeaseTimes {
                    granted_seconds: times.granted_seconds,
                    remaining_seconds: times.remaining_seconds,
                    keys: times.keys,
                }),
                Ok(None) => Err(LeaseError::NotFound),
                Err(ApiError::Timeout) => Err(LeaseError::Timeout),
                Err(error) => Err(LeaseError::Other(error.to_string())),
            }
        })
    }

    fn promote(
        &self,
        id: MemberId,
        token: Option<String>,
    ) -> BoxFuture<'static, Result<Vec<Member>, PromoteError>> {
        let gone = Err(PromoteError::Other("etcdserver: server stopped".to_owned()));
        self.on_worker(gone, move |node| async move {
            if let Err(error) = may_promote(&node, token).await {
                return Err(PromoteError::Other(error.to_string()));
            }
            match node.promote_as_leader(id).await {
                Ok(()) => Ok(node.shared().cluster().members().cloned().collect()),
                Err(ApiError::MemberNotFound) => Err(PromoteError::NotFound),
                Err(ApiError::MemberNotLearner) => Err(PromoteError::NotLearner),
                Err(ApiError::LearnerNotReady) => Err(PromoteError::NotReady),
                Err(ApiError::Timeout) => Err(PromoteError::Timeout),
                Err(error) => Err(PromoteError::Other(error.to_string())),
            }
        })
    }

    fn hash_kv(&self, revision: i64) -> BoxFuture<'static, Result<HashKv, HashKvError>> {
        let gone = Err(HashKvError::Other("etcdserver: server stopped".to_owned()));
        self.on_worker(gone, move |node| async move {
            let store = node.parts().store.clone();
            let hashed = tokio::task::spawn_blocking(move || store.hash_kv(revision)).await;
            match hashed {
                Ok(Ok(hash)) => Ok(HashKv {
                    hash: hash.hash,
                    compact_revision: hash.compact_revision,
                    hash_revision: hash.hash_revision,
                    current_revision: hash.current_revision,
                }),
                Ok(Err(mvcc::ReadError::Compacted)) => Err(HashKvError::Compacted),
                Ok(Err(mvcc::ReadError::FutureRevision { .. })) => Err(HashKvError::FutureRevision),
                Ok(Err(error)) => Err(HashKvError::Other(error.to_string())),
                Err(error) => Err(HashKvError::Other(error.to_string())),
            }
        })
    }

    fn downgrade_enabled(&self) -> BoxFuture<'static, Result<bool, String>> {
        self.on_worker(Err("server stopped".to_owned()), move |node| async move {
            node.read_index().await.map_err(|error| error.to_string())?;
            Ok(node.shared().cluster().downgrade().enabled)
        })
    }
}

/// The transport's lines, as ours.
pub fn log_lines() -> peer::Log {
    peer::Log::new(|level, text, fields| {
        let level = match level {
            peer::Level::Debug => log::Level::Debug,
            peer::Level::Info => log::Level::Info,
            peer::Level::Warn => log::Level::Warn,
            peer::Level::Error => log::Level::Error,
        };
        let value = |field: &peer::Field<'_>| match field {
            peer::Field::Text(text) => log::Value::from(text.to_string()),
            peer::Field::Number(number) => log::Value::from(*number),
            peer::Field::Flag(flag) => log::Value::from(*flag),
            peer::Field::Span(span) => log::Value::from(*span),
            peer::Field::Id(id) => log::Value::Hex(*id),
        };
        let fields: Vec<log::Field<'_>> = fields.iter().map(|(name, field)| (*name, value(field))).collect();
        log::log(level, text, &fields);
    })
}

/// The caller of the member that asks must be root: that member showed its token.
async fn may_promote(node: &Node, token: Option<String>) -> Result<(), ApiError> {
    let auth = node.shared().auth();
    if !auth.is_enabled() {
        return Ok(());
    }
    let who = match &token {
        Some(token) => Some(api::services::access::identify(node, token).await?),
        None => None,
    };
    Ok(auth.store().may_administrate(who.as_ref())?)
}
