//! [`Node`] as the services see it.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use api::error::Error;
use api::member::{ClientCall, Config, LeaseTimes, Member, RaftStatus, ReadTimes};
use apply::{ApplyError, Reply, Shared};
use backend::Backend;
use lease::RenewOutcome;
use mvcc::Store;
use mvcc::watch::Hub;
use proto::etcdserverpb::{InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest};
use types::{LeaseId, MemberId, Version};

use crate::node::{self, Node};

/// How often an expired lease that waits for its revocation is looked at again.
const EXPIRED_LEASE_POLL: Duration = Duration::from_millis(50);

impl From<node::Error> for Error {
    fn from(error: node::Error) -> Self {
        use node::Error as Node;
        match error {
            Node::TooManyRequests => Self::TooManyRequests,
            Node::TooLarge => Self::RequestTooLarge,
            Node::Timeout => Self::Timeout,
            // Raft takes no proposal without a leader: upstream's context runs out.
            Node::NoLeader => Self::Status(api::grpc::Status::new(
                api::grpc::Code::DeadlineExceeded,
                "context deadline exceeded",
            )),
            Node::Stopped => Self::Stopped,
            Node::Backend(text) => Self::Other(text),
            Node::Apply(error) => refused(error),
        }
    }
}

fn refused(error: ApplyError) -> Error {
    match error {
        ApplyError::Corrupt => Error::Corrupt,
        ApplyError::NoSpace => Error::NoSpace,
        ApplyError::KeyNotFound => Error::KeyNotFound,
        ApplyError::LeaseNotFound(_) => Error::LeaseNotFound,
        ApplyError::LeaseExists(_) => Error::LeaseExists,
        ApplyError::LeaseTtlTooLarge => Error::LeaseTtlTooLarge,
        ApplyError::Compacted => Error::Compacted,
        ApplyError::FutureRevision => Error::FutureRevision,
        ApplyError::Membership(error) => Error::Other(error.to_string()),
        ApplyError::UnknownAlarmAction => Error::Other("etcdserver: unknown alarm action".to_owned()),
    }
}

impl Member for Node {
    fn propose(&self, request: InternalRaftRequest) -> impl Future<Output = Result<Reply, Error>> {
        let answer = Self::propose(self, request);
        async move { Ok(answer.await?) }
    }

    async fn read_index(&self) -> Result<(), Error> {
        Ok(Self::read_index(self).await?)
    }

    async fn compaction_finished(&self) -> Result<(), Error> {
        // The compaction point is the revision of the last accepted one.
        let accepted = self.parts().store.compacted_revision();
        Ok(self.compaction_done(accepted).await?)
    }

    async fn renew_lease(&self, id: LeaseId) -> Result<i64, Error> {
        let deadline = tokio::time::Instant::now() + self.request_timeout();
        loop {
            let outcome = self.shared().lessor.lock().renew(id, self.clock().now());
            match outcome {
                RenewOutcome::Renewed(ttl_seconds) => {
                    self.metrics().lease_renewed.inc();
                    return Ok(ttl_seconds);
                }
                RenewOutcome::NotFound => return Ok(0),
                RenewOutcome::ClearCheckpointFirst => {
                    let checkpoints = vec![LeaseCheckpoint { id: id.0, remaining_ttl: 0 }];
                    let request = InternalRaftRequest {
                        lease_checkpoint: Some(Box::new(LeaseCheckpointRequest { checkpoints })),
                        ..Default::default()
                    };
                    Self::propose(self, request).await?;
                }
                // Revoked soon, or somebody else leads soon: look again.
                RenewOutcome::ExpiredPending | RenewOutcome::NotPrimary => {
                    if tokio::time::Instant::now() >= deadline {
                        let leads = outcome == RenewOutcome::ExpiredPending;
                        return Err(if leads { Error::Timeout } else { Error::NoLeader });
                    }
                    tokio::time::sleep(EXPIRED_LEASE_POLL).await;
                }
            }
        }
    }

    async fn lease_times(&self, id: LeaseId, keys: bool) -> Result<Option<LeaseTimes>, Error> {
        Self::read_index(self).await?;
        let lessor = self.shared().lessor.lock();
        let Some(times) = lessor.time_to_live(id, self.clock().now()) else { return Ok(None) };
        Ok(Some(LeaseTimes {
            granted_seconds: times.granted_seconds,
            remaining_seconds: times.remaining_seconds.unwrap_or(times.granted_seconds),
            keys: if keys { lessor.keys(id).unwrap_or_default() } else { Vec::new() },
        }))
    }

    fn new_lease_id(&self) -> LeaseId {
        loop {
            let id = i64::try_from(crate::lanes::next_id().0 & (u64::MAX >> 1)).unwrap_or_default();
            if id != 0 {
                return LeaseId(id);
            }
        }
    }

    async fn move_leader(&self, to: MemberId) -> Result<(), Error> {
        if to == self.id() { Ok(()) } else { Err(Error::BadLeaderTransferee) }
    }

    fn store(&self) -> &Arc<Store> {
        &self.parts().store
    }

    fn hub(&self) -> &Hub {
        &self.parts().hub
    }

    fn backend(&self) -> &Backend {
        &self.parts().backend
    }

    fn shared(&self) -> &Shared {
        &self.parts().shared
    }

    fn raft(&self) -> RaftStatus {
        let progress = self.progress();
        // Applied first: it never passes the commit index that is read after it.
        let applied_index = progress.applied.load(Acquire);
        RaftStatus {
            leader: Some(progress.leader()).filter(|leader| leader.0 != 0),
            term: progress.term(),
            applied_term: progress.applied_term.load(Relaxed),
            commit_index: progress.commit.load(Acquire).max(applied_index),
            applied_index,
            is_learner: false,
        }
    }

    fn config(&self) -> &Config {
        &self.parts().api
    }

    fn count_client(&self, kind: ClientCall, version: &str) {
        let kind = match kind {
            ClientCall::Unary => "unary",
            ClientCall::Stream => "stream",
        };
        self.metrics().client_requests.with([version, kind]).inc();
    }

    fn count_read(&self, times: &ReadTimes) {
        self.metrics().read(times);
    }

    fn storage_version(&self) -> Option<Version> {
        let stored = backend::schema::storage_version(&self.backend().view());
        match stored {
            Ok(Some(version)) => Some(version),
            _ => backend::schema::detect_version(&self.backend().view()).ok(),
        }
    }
}
