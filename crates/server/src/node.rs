//! The handle to a running member: what services and duties call.

use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;
use std::time::{Duration, Instant};

use api::grpc::{Stages, note_stages, wants_stages};
use apply::{ApplyError, Quota, Reply, RequestKind, Shared};
use backend::Backend;
use bytes::Bytes;
use env::Clock;
use membership::Attributes;
use mvcc::Store;
use mvcc::watch::Hub;
use prost::Message;
use proto::etcdserverpb as pb;
use thiserror::Error;
use tokio::sync::watch;
use types::{ClusterId, CompatVersion, MemberId, RequestId};

use crate::driver::Input;
use crate::lanes::{self, Answer, Lanes, Unanswered};
use crate::mailbox::Sender;
use crate::metrics::Metrics;
use crate::observe::slow;
use crate::progress::Progress;
use crate::reads::{self, Reads, Unconfirmed};

/// Committed entries that may wait for being applied before writes are refused.
const MAX_COMMIT_APPLY_GAP: u64 = 5000;

/// Whether one more proposal is taken while so many entries wait for being applied. What has priority, the end
/// of a lease, frees memory and locks: it may wait in a queue twice as long.
fn is_admitted(gap: u64, has_priority: bool) -> bool {
    gap <= if has_priority { 2 * MAX_COMMIT_APPLY_GAP } else { MAX_COMMIT_APPLY_GAP }
}

/// A running member. Clones share it.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

/// What a [`Node`] is made of.
pub struct Inner {
    /// Id of the member.
    pub id: MemberId,
    /// Id of the cluster.
    pub cluster_id: ClusterId,
    /// The release that the member stands in for.
    pub compat: CompatVersion,
    /// Space quota.
    pub quota: Quota,
    /// Largest encoded request in bytes.
    pub max_request_bytes: usize,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// What the member publishes about itself.
    pub attributes: Attributes,
    /// The key-value store.
    pub store: Arc<Store>,
    /// The backend.
    pub backend: Backend,
    /// State beside the key space.
    pub shared: Arc<Shared>,
    /// The watch hub.
    pub hub: Hub,
    /// Ports of answers.
    pub lanes: Arc<Lanes>,
    /// Shared numbers.
    pub progress: Arc<Progress>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Revision of the last compaction whose physical part is done.
    pub compacted: watch::Receiver<i64>,
    /// What the services need to know.
    pub api: api::member::Config,
    /// The peers.
    pub transport: peer::Transport,
    /// Asks other members.
    pub client: peer::Client,
    /// Hashes and checks passwords.
    pub passwords: api::services::Passwords,
    /// Reads that wait for their read point.
    pub reads: Arc<Reads>,
    /// To the raft thread.
    pub to_raft: Sender<Input>,
    /// `--strict-reconfig-check`.
    pub strict_reconfig_check: bool,
    /// Raised when the member stops.
    pub stopping: watch::Sender<bool>,
    /// What the health service says.
    pub serving: watch::Sender<bool>,
    /// Whether it says no during a defragmentation: the gate `StopGRPCServiceOnDefrag`.
    pub stop_serving_on_defrag: bool,
    /// Whether revocations of leases have priority: the gate `PriorityRequest`.
    pub priority_requests: bool,
    /// The file of the backend.
    pub db_path: std::path::PathBuf,
}

/// Why a request failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// The member is overloaded.
    #[error("too many requests")]
    TooManyRequests,
    /// The encoded request is larger than allowed.
    #[error("request is too large")]
    TooLarge,
    /// No answer in time.
    #[error("request timed out")]
    Timeout,
    /// No answer, since the leader that was asked is gone.
    #[error("request timed out, possibly due to previous leader failure")]
    LeaderFailed,
    /// No answer in time, and the leader, or as a leader a quorum, was not connected all that time.
    #[error("request timed out, possibly due to connection lost")]
    ConnectionLost,
    /// There is no leader to take the request.
    #[error("no leader")]
    NoLeader,
    /// The member stops.
    #[error("server stopped")]
    Stopped,
    /// The state machine refused it.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Disk trouble while waiting for the physical part.
    #[error("{0}")]
    Backend(String),
}

impl From<Unconfirmed> for Error {
    fn from(reason: Unconfirmed) -> Self {
        match reason {
            Unconfirmed::Timeout => Self::Timeout,
            Unconfirmed::Stopped => Self::Stopped,
        }
    }
}

impl From<Unanswered> for Error {
    fn from(reason: Unanswered) -> Self {
        match reason {
            Unanswered::TooManyRequests => Self::TooManyRequests,
            Unanswered::Timeout => Self::Timeout,
            Unanswered::LeaderLost => Self::LeaderFailed,
            Unanswered::Stopped => Self::Stopped,
        }
    }
}

/// Counts a proposal as long as somebody waits for it, also if he leaves before it is answered.
struct Pending<'m>(&'m Metrics);

impl<'m> Pending<'m> {
    fn new(metrics: &'m Metrics) -> Self {
        metrics.proposal_pending(1);
        Self(metrics)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.proposal_pending(-1);
    }
}

/// A request ready for the log.
struct Encoded {
    id: RequestId,
    payload: Bytes,
    kind: RequestKind,
}

impl Node {
    /// A handle to these parts.
    pub fn new(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// The parts.
    pub fn parts(&self) -> &Inner {
        &self.inner
    }

    /// Proposes a client's request and waits until it is applied. The header is filled in here.
    ///
    /// Call it on a worker thread: the answer comes back through the thread's lane. The request is
    /// encoded at once, so the future holds only its bytes.
    pub fn propose(
        &self,
        request: pb::InternalRaftRequest,
    ) -> impl Future<Output = Result<Reply, Error>> + use<> {
        let progress = &self.inner.progress;
        let gap = progress.commit.load(Acquire).saturating_sub(progress.applied.load(Acquire));
        let has_priority = self.inner.priority_requests && request.lease_revoke.is_some();
        let encoded = match is_admitted(gap, has_priority) {
            true => self.encode(request),
            false => Err(Error::TooManyRequests),
        };
        self.clone().wait_for_answer(encoded)
    }

    /// Proposes a request of the member itself, which is never refused for load.
    pub async fn propose_internal(&self, request: pb::InternalRaftRequest) -> Result<Reply, Error> {
        let encoded = self.encode(request);
        self.clone().wait_for_answer(encoded).await
    }

    /// Proposes what this member decided as leader of a term. If it leads that term no more the
    /// request is forgotten, and times out.
    pub async fn propose_leading(&self, term: u64, request: pb::InternalRaftRequest) -> Result<Reply, Error> {
        let Encoded { id, payload, .. } = self.encode(request)?;
        let input = Input::ProposeLeading { term, payload };
        Ok(self.submit(id, input).await?.result?)
    }

    /// Gives the raft thread something beside the proposals of clients and waits for its answer.
    pub async fn submit(&self, id: RequestId, input: Input) -> Result<Answer, Error> {
        let start = Instant::now();
        match lanes::submit(id, input, self.inner.request_timeout).await {
            Ok((answer, _)) => Ok(answer),
            Err(reason) => Err(self.explain(reason, start)),
        }
    }

    /// What most likely kept a request that began at `start` from being answered.
    fn explain(&self, reason: Unanswered, start: Instant) -> Error {
        if reason != Unanswered::Timeout {
            return reason.into();
        }
        let (progress, api) = (&self.inner.progress, &self.inner.api);
        if progress.leader_failed_after(start, 2 * api.election_timeout) {
            return Error::LeaderFailed;
        }
        match progress.leader() {
            MemberId(0) if progress.lost_leader_after(start) => Error::Timeout,
            MemberId(0) => Error::NoLeader,
            leader if leader == self.inner.id => match self.had_quorum_since(start) {
                true => Error::Timeout,
                false => Error::ConnectionLost,
            },
            leader => match self.was_connected_since(leader, start) {
                true => Error::Timeout,
                false => Error::ConnectionLost,
            },
        }
    }

    fn was_connected_since(&self, to: MemberId, start: Instant) -> bool {
        self.inner.transport.active_since(to).is_some_and(|since| since < start)
    }

    fn had_quorum_since(&self, start: Instant) -> bool {
        let cluster = self.inner.shared.cluster();
        let connected = |id: MemberId| id == self.inner.id || self.was_connected_since(id, start);
        let count = cluster.members().filter(|member| connected(member.id)).count();
        count > cluster.members().len() / 2
    }

    fn encode(&self, mut request: pb::InternalRaftRequest) -> Result<Encoded, Error> {
        let id = lanes::next_id();
        request.header.get_or_insert_default().id = id.0;
        let length = request.encoded_len();
        if length > self.inner.max_request_bytes {
            return Err(Error::TooLarge);
        }
        let payload = lanes::build_payload(length, |out| request.encode_raw(out));
        Ok(Encoded { id, payload, kind: RequestKind::of(&request) })
    }

    async fn wait_for_answer(self, encoded: Result<Encoded, Error>) -> Result<Reply, Error> {
        let Encoded { id, payload, kind } = encoded?;
        let start = Instant::now();
        let pending = Pending::new(&self.inner.metrics);
        let result = lanes::propose(id, payload, start, self.inner.request_timeout).await;
        drop(pending);
        match result {
            Ok((answer, took)) => {
                self.inner.metrics.request(kind, answer.result.is_ok(), took);
                if wants_stages(took) {
                    self.note_stages(&answer, took);
                }
                Ok(answer.result?)
            }
            Err(reason) => {
                self.inner.metrics.proposal_failed();
                Err(self.explain(reason, start))
            }
        }
    }

    /// Leaves what a request went through, for whoever looks at the call.
    fn note_stages(&self, answer: &Answer, took: Duration) {
        let clock_now = self.inner.clock.now();
        let (begun, ended) = answer.applied;
        note_stages(Stages {
            agreed: None,
            proposed: Instant::now().checked_sub(took),
            applied: slow::instant_of(begun, clock_now).zip(slow::instant_of(ended, clock_now)),
        });
    }

    /// Waits for a point after which a read sees every write that was acknowledged before the
    /// call.
    ///
    /// With a single voter that is at once while it leads: an acknowledged write is applied
    /// already, since the answer leaves after the apply. With several the leader is asked for an
    /// index, once for all that ask at the same time.
    pub async fn read_index(&self) -> Result<(), Error> {
        if self.inner.progress.reads_locally() {
            return Ok(());
        }
        let node = self.clone();
        Ok(reads::share_turn(move || async move { node.read_point().await }).await?)
    }

    /// Waits until the entry of this index is applied here.
    pub async fn wait_applied(&self, index: u64) -> Result<(), Error> {
        let answered = self.inner.reads.wait_applied(index, &self.inner.progress);
        match tokio::time::timeout(self.inner.request_timeout, answered).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Error::Stopped),
            Err(_) => Err(Error::Timeout),
        }
    }

    /// Takes part in a round of read points.
    async fn read_point(&self) -> Result<(), Unconfirmed> {
        let (answered, begun) = self.inner.reads.join();
        if let Some(round) = begun {
            self.inner.to_raft.send(Input::ReadIndex(round)).map_err(|_| Unconfirmed::Stopped)?;
        }
        match tokio::time::timeout(self.inner.request_timeout, answered).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Unconfirmed::Stopped),
            Err(_) => {
                crate::log::warn!(
                    "timed out waiting for read index response (local node might have slow network)",
                    "timeout" => self.inner.request_timeout
                );
                self.inner.metrics.read_index_failed();
                Err(Unconfirmed::Timeout)
            }
        }
    }

    /// Waits until the physical part of a compaction is done and on disk.
    pub async fn compaction_done(&self, revision: i64) -> Result<(), Error> {
        let mut compacted = self.inner.compacted.clone();
        compacted.wait_for(|done| *done >= revision).await.map_err(|_| Error::Stopped)?;
        let backend = self.inner.backend.clone();
        match tokio::task::spawn_blocking(move || backend.commit()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Error::Backend(error.to_string())),
            Err(_) => Err(Error::Stopped),
        }
    }

    /// Says that the member is about to stop: streams end, new requests are refused.
    pub fn begin_stop(&self) {
        self.inner.stopping.send_replace(true);
    }

    /// Id of the member.
    pub fn id(&self) -> MemberId {
        self.inner.id
    }

    /// Id of the cluster.
    pub fn cluster_id(&self) -> ClusterId {
        self.inner.cluster_id
    }

    /// The release that the member stands in for.
    pub fn compat(&self) -> CompatVersion {
        self.inner.compat
    }

    /// How long a request may take.
    pub fn request_timeout(&self) -> Duration {
        self.inner.request_timeout
    }

    /// What the member publishes about itself.
    pub fn attributes(&self) -> &Attributes {
        &self.inner.attributes
    }

    /// State beside the key space.
    pub fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    /// The backend.
    pub fn backend(&self) -> &Backend {
        &self.inner.backend
    }

    /// Shared numbers.
    pub fn progress(&self) -> &Progress {
        &self.inner.progress
    }

    /// Counters.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Time.
    pub fn clock(&self) -> &dyn Clock {
        &*self.inner.clock
    }

    /// Space quota.
    pub fn quota(&self) -> Quota {
        self.inner.quota
    }

    /// Ports of answers.
    pub fn lanes(&self) -> &Lanes {
        &self.inner.lanes
    }
}

#[cfg(test)]
mod tests {
    use super::is_admitted;

    #[test]
    fn proposals_are_taken_up_to_a_gap() {
        assert!(is_admitted(5000, false) && !is_admitted(5001, false));
        assert!(is_admitted(10_000, true) && !is_admitted(10_001, true));
    }
}
