//! What the transport needs from the member it belongs to.

use std::io::Read;

use futures_util::future::BoxFuture;
use membership::Member;
use proto::raftpb;
use types::{ClusterId, LeaseId, MemberId, Version};

/// The member behind a transport.
///
/// All plain functions are called on the thread of the peers (and `report_unreachable`,
/// `report_snapshot` also on the thread that calls [`crate::Transport::send`]): they must not
/// block and must not call the transport. Futures are polled on the thread of the peers; work that needs another thread is spawned
/// there by the implementer and awaited through a channel.
pub trait Handler: Send + Sync + 'static {
    /// Hands a raft message to the raft thread, or says at once why not.
    ///
    /// # Errors
    /// The message is dropped; raft sends again what matters.
    fn step(&self, message: raftpb::Message) -> Result<(), StepError>;

    /// Whether a member was removed from the cluster, as far as this member knows.
    fn is_removed(&self, id: MemberId) -> bool;

    /// A message to this member was lost.
    fn report_unreachable(&self, id: MemberId);

    /// A snapshot to this member arrived (`true`) or was lost. The report itself must not be lost,
    /// however much waits for the raft thread: raft sends the member nothing until it comes. There
    /// is one per `MsgSnap`.
    fn report_snapshot(&self, id: MemberId, arrived: bool);

    /// Another member says that this one was removed from the cluster: it has to stop. Called
    /// again and again until the transport is stopped.
    fn removed_from_cluster(&self);

    /// The content for a `MsgSnap` that raft wants to send. Called on a thread of its own, may
    /// block: typically asks the apply thread to commit the backend and to take a view of it.
    ///
    /// The message in the answer replaces raft's: its snapshot has index, term and configuration
    /// of exactly what `content` holds, and the v2 store as data.
    ///
    /// # Errors
    /// The reason, for the log. The transport reports the snapshot as lost.
    fn open_snapshot(&self, message: raftpb::Message) -> Result<OutgoingSnapshot, String>;

    /// Id and members of the cluster, ascending by id.
    fn members(&self) -> (ClusterId, Vec<Member>);

    /// Cluster version and storage version, where known.
    fn versions(&self) -> (Option<Version>, Option<Version>);

    /// Renews a lease on the leader; answers its TTL in seconds. The transport bounds the wait.
    fn renew_lease(&self, id: LeaseId) -> BoxFuture<'static, Result<i64, LeaseError>>;

    /// Looks a lease up on the leader.
    fn lease_times(&self, id: LeaseId, keys: bool) -> BoxFuture<'static, Result<LeaseTimes, LeaseError>>;

    /// Promotes a learner, on behalf of a member that does not lead. `token` is the caller's auth
    /// token.
    fn promote(
        &self,
        id: MemberId,
        token: Option<String>,
    ) -> BoxFuture<'static, Result<Vec<Member>, PromoteError>>;

    /// Hash of the store at a revision, 0 = current.
    fn hash_kv(&self, revision: i64) -> BoxFuture<'static, Result<HashKv, HashKvError>>;

    /// Whether a downgrade job runs, after a linearizable read point.
    ///
    /// The error is the reason why there was no such point.
    fn downgrade_enabled(&self) -> BoxFuture<'static, Result<bool, String>>;
}

/// Why a message was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The queue of the raft thread is full.
    #[error("receiving buffer is full")]
    Full,
    /// The member stops.
    #[error("raft: stopped")]
    Stopped,
}

/// A snapshot to send.
pub struct OutgoingSnapshot {
    /// What is sent in front of the content.
    pub message: raftpb::Message,
    /// Length of the content in bytes.
    pub bytes: u64,
    /// Image of the backend. Dropped when the transfer ended, however it did; read on a thread of
    /// its own.
    pub content: Box<dyn Read + Send>,
}

impl std::fmt::Debug for OutgoingSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutgoingSnapshot").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// A lease as another member asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseTimes {
    /// TTL it was granted with, in seconds.
    pub granted_seconds: i64,
    /// Whole seconds that are left.
    pub remaining_seconds: i64,
    /// Keys attached to it, if they were asked for.
    pub keys: Vec<bytes::Bytes>,
}

/// Why a lease was not renewed or not found. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// There is none of this id.
    #[error("lease not found")]
    NotFound,
    /// This member does not lead.
    #[error("not a primary lessor")]
    NotPrimary,
    /// The member did not catch up in time.
    #[error("waiting for node to catch up its applied index has timed out")]
    Timeout,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// Why a learner was not promoted. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromoteError {
    /// There is no such member.
    #[error("membership: ID not found")]
    NotFound,
    /// It votes already.
    #[error("membership: can only promote a learner member")]
    NotLearner,
    /// It has too much to catch up with.
    #[error("etcdserver: can only promote a learner member which is in sync with leader")]
    NotReady,
    /// No answer in time.
    #[error("etcdserver: request timed out")]
    Timeout,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// Hash of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashKv {
    /// The hash.
    pub hash: u32,
    /// Revision of the last compaction before it.
    pub compact_revision: i64,
    /// Revision that was hashed; 0 from members before 3.6.
    pub hash_revision: i64,
    /// Current revision of the member.
    pub current_revision: i64,
}

/// Why there is no hash. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashKvError {
    /// The revision is compacted.
    #[error("mvcc: required revision has been compacted")]
    Compacted,
    /// The revision does not exist yet.
    #[error("mvcc: required revision is a future revision")]
    FutureRevision,
    /// The member asked belongs to another cluster.
    #[error("cluster ID mismatch")]
    ClusterIdMismatch,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}
