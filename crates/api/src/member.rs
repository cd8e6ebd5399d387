//! What the services need from the member behind them.
//!
//! The server implements [`Member`]; tests implement it over a store in memory. Services read the
//! shared state directly and send every change through [`Member::propose`].

use std::sync::Arc;
use std::time::Duration;

use apply::{Quota, Reply, Shared};
use backend::Backend;
use mvcc::Store;
use mvcc::watch::Hub;

use tokio::sync::watch;

use proto::etcdserverpb::{self as pb, InternalRaftRequest, ResponseHeader};
use types::{ClusterId, CompatVersion, LeaseId, MemberId, Version};

use crate::error::Error;
use crate::services::Passwords;

/// A cluster member, as its services see it. Cheap to share: services hold it in an [`Arc`].
///
/// Futures are not `Send`: each is polled on the worker thread that made it. All of them may be
/// dropped at any time; work already handed to the member goes on.
pub trait Member: Send + Sync + 'static {
    /// Puts a request through the log and waits until this member has applied it. The callee puts an
    /// id into the request's header, which has the user if there is one, and refuses requests that are too large or too many.
    ///
    /// Headers of the reply hold at most a revision. The reply to a compaction comes when it is
    /// applied: waiting for its physical part is [`Member::compaction_finished`].
    fn propose(&self, request: InternalRaftRequest) -> impl Future<Output = Result<Reply, Error>>;

    /// Returns when everything committed before the call is applied here.
    fn read_index(&self) -> impl Future<Output = Result<(), Error>>;

    /// Returns when no physical compaction is due or running any more, and what it did is in a
    /// backend transaction.
    fn compaction_finished(&self) -> impl Future<Output = Result<(), Error>>;

    /// Renews a lease, on the leader wherever that is. Returns its TTL, 0 if there is no such lease.
    /// A lease that is over and not yet revoked is waited for.
    fn renew_lease(&self, id: LeaseId) -> impl Future<Output = Result<i64, Error>>;

    /// Asks the leader how long a lease goes on; `None` if there is no such lease.
    fn lease_times(&self, id: LeaseId, keys: bool)
    -> impl Future<Output = Result<Option<LeaseTimes>, Error>>;

    /// A positive id for a lease of a client that did not choose one. Never the same twice.
    fn new_lease_id(&self) -> LeaseId;

    /// Hands leadership to another member. Called on the leader with a voter as target.
    fn move_leader(&self, to: MemberId) -> impl Future<Output = Result<(), Error>>;

    /// Puts a change of the membership through the log and waits until it is applied here; promotes
    /// by way of the leader, which is shown the caller's token. Refuses a change that could cost the
    /// quorum.
    fn change_members(
        &self,
        change: membership::ConfChange,
        token: Option<&str>,
    ) -> impl Future<Output = Result<(), Error>>;

    /// Returns when the entry of this index is applied here.
    fn wait_applied(&self, index: u64) -> impl Future<Output = Result<(), Error>>;

    /// Hashes and checks passwords.
    fn passwords(&self) -> &Passwords;

    /// Monotonic time, as the applier has it.
    fn now(&self) -> Duration;

    /// The wall clock, in seconds: part of the id of a new member.
    fn unix_seconds(&self) -> u64;

    /// The key-value store.
    fn store(&self) -> &Arc<Store>;

    /// The watch hub.
    fn hub(&self) -> &Hub;

    /// The backend.
    fn backend(&self) -> &Backend;

    /// Cluster, alarms and leases.
    fn shared(&self) -> &Shared;

    /// Raft's view, now. Asked several times per call: a few atomic loads.
    fn raft(&self) -> RaftStatus;

    /// What does not change while the member runs.
    fn config(&self) -> &Config;

    /// The version of the data in the backend, once it is known.
    fn storage_version(&self) -> Option<Version>;

    /// A call came with this `client-api-version`, or `unknown`: counted by
    /// `etcd_server_client_requests_total`.
    fn count_client(&self, kind: ClientCall, version: &str) {
        let _ = (kind, version);
    }

    /// Rewrites the file of the backend without its holes.
    fn defragment(&self) -> impl Future<Output = Result<(), Error>> {
        let backend = self.backend().clone();
        async move {
            let done = tokio::task::spawn_blocking(move || backend.defragment()).await;
            Ok(done.map_err(|_| Error::Stopped)?.map(drop)?)
        }
    }

    /// What the health service says of the whole server: whether it serves, now and later.
    fn serving(&self) -> watch::Receiver<bool> {
        watch::channel(true).1
    }

    /// Something long ended: counted by a histogram of its own.
    fn count_work(&self, work: Work, took: Duration) {
        let _ = (work, took);
    }

    /// Watch responses left together: counted by
    /// `etcd_debugging_server_watch_send_loop_*_duration_seconds`.
    fn count_sent(&self, sent: &WatchSent, took: Duration) {
        let _ = (sent, took);
    }

    /// The requests of a stream broke off: counted by `etcd_network_server_stream_failures_total`.
    fn count_broken_stream(&self, api: &'static str) {
        let _ = api;
    }

    /// A read ended: counted by `etcd_server_request_duration_seconds` and
    /// `etcd_server_range_duration_seconds`.
    fn count_read(&self, times: &ReadTimes) {
        let _ = times;
    }

    /// A read took longer than [`Config::slow_apply`].
    fn slow_read(&self, read: &SlowRead<'_>) {
        let _ = read;
    }
}

/// A read that took long.
#[derive(Clone, Copy, Debug)]
pub struct SlowRead<'a> {
    /// What was asked for.
    pub request: ReadRequest<'a>,
    /// How long it took.
    pub took: Duration,
    /// The answer, or why there is none.
    pub outcome: Result<ReadOutcome<'a>, &'a Error>,
}

/// A request that only reads.
#[derive(Clone, Copy, Debug)]
pub enum ReadRequest<'a> {
    /// `KV.Range`.
    Range(&'a pb::RangeRequest),
    /// `KV.Txn` that only reads.
    Txn(&'a pb::TxnRequest),
}

/// What a read gave.
#[derive(Clone, Copy, Debug)]
pub enum ReadOutcome<'a> {
    /// So many key-values, in so many encoded bytes.
    Range {
        /// Key-values.
        count: usize,
        /// Bytes of the answer.
        bytes: usize,
    },
    /// An answer.
    Txn(&'a pb::TxnResponse),
}

/// Work of which every piece is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Hashing the backend.
    Hash,
    /// Hashing keys and values up to a revision.
    HashRevision,
    /// Streaming the backend to a client.
    Snapshot,
}

/// Watch responses that left together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchSent {
    /// Responses with events.
    pub batches: u64,
    /// The events in them.
    pub events: u64,
    /// Answers about a watch.
    pub controls: u64,
    /// Progress notifications.
    pub progress: u64,
}

/// Reads that are answered without an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadKind {
    /// `KV.Range`.
    Range,
    /// `KV.Txn` that only reads.
    ReadonlyTxn,
}

impl ReadKind {
    /// Its name, as metrics have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Range => "Range",
            Self::ReadonlyTxn => "ReadonlyTxn",
        }
    }
}

/// How long a read took.
#[derive(Clone, Copy, Debug)]
pub struct ReadTimes {
    /// What was read.
    pub kind: ReadKind,
    /// It was answered.
    pub success: bool,
    /// From entry to result.
    pub total: Duration,
    /// The part of it behind the read index; `None` if it did not get there.
    pub in_store: Option<Duration>,
}

/// Kinds of calls in `etcd_server_client_requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCall {
    /// Label `unary`.
    Unary,
    /// Label `stream`.
    Stream,
}

/// Where raft is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RaftStatus {
    /// The leader, if there is one.
    pub leader: Option<MemberId>,
    /// Raft's current term.
    pub term: u64,
    /// Term of the last entry applied: what response headers carry.
    pub applied_term: u64,
    /// Index of the last entry known to be committed.
    pub commit_index: u64,
    /// Index of the last entry applied; never above `commit_index`.
    pub applied_index: u64,
    /// This member has no vote.
    pub is_learner: bool,
}

/// Constants of a member.
#[derive(Clone, Debug)]
pub struct Config {
    /// Id of the cluster.
    pub cluster_id: ClusterId,
    /// Id of this member.
    pub member_id: MemberId,
    /// The release the member stands in for.
    pub compat: CompatVersion,
    /// `--max-request-bytes`.
    pub max_request_bytes: usize,
    /// `--max-txn-ops`.
    pub max_txn_ops: usize,
    /// `--quota-backend-bytes`.
    pub quota: Quota,
    /// `--watch-progress-notify-interval`.
    pub progress_notify_interval: Duration,
    /// 5 s plus two election timeouts.
    pub request_timeout: Duration,
    /// Callers on this machine without credentials may use the Auth service: the token kind is
    /// empty, for somebody who forgot root's password.
    pub auth_recovery: bool,
    /// `--client-cert-auth`: the name in a client's certificate is its user.
    pub client_cert_auth: bool,
    /// `--warning-apply-duration`: reads that take longer are told.
    pub slow_apply: Duration,
    /// Election timeout: how often streams that need a leader look for one.
    pub election_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_id: ClusterId::default(),
            member_id: MemberId::default(),
            compat: CompatVersion::default(),
            max_request_bytes: 1_572_864,
            max_txn_ops: 128,
            quota: Quota::from_flag(0),
            progress_notify_interval: Duration::from_secs(600),
            request_timeout: Duration::from_secs(7),
            auth_recovery: false,
            client_cert_auth: false,
            slow_apply: Duration::MAX,
            election_timeout: Duration::from_secs(1),
        }
    }
}

/// How long a lease goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseTimes {
    /// TTL as granted, in seconds.
    pub granted_seconds: i64,
    /// Whole seconds that remain.
    pub remaining_seconds: i64,
    /// Attached keys, if asked for.
    pub keys: Vec<bytes::Bytes>,
}

/// Headers as the different services fill them.
pub(crate) trait Headers: Member {
    /// A full header of a certain revision.
    fn header_at(&self, revision: i64) -> ResponseHeader {
        let config = self.config();
        ResponseHeader {
            cluster_id: config.cluster_id.0,
            member_id: config.member_id.0,
            revision,
            raft_term: self.raft().applied_term,
        }
    }

    /// A full header of the store's current revision.
    fn header(&self) -> ResponseHeader {
        self.header_at(self.store().current_revision())
    }

    /// Completes the header that applying left: cluster, member and term; the live revision where
    /// there is none.
    fn complete(&self, header: &mut Option<ResponseHeader>) {
        let revision = match header {
            Some(header) if header.revision != 0 => header.revision,
            _ => self.store().current_revision(),
        };
        *header = Some(self.header_at(revision));
    }
}

impl<M: Member> Headers for M {}
