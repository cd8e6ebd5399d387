//! [`Node`] as the services see it.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use api::error::Error;
use api::member::{ClientCall, Config, LeaseTimes, Member, RaftStatus, ReadTimes, SlowRead, WatchSent, Work};
use api::services::Passwords;
use apply::{ApplyError, Reply, Shared};
use backend::Backend;
use futures_util::TryFutureExt;
use membership::ConfChange;
use mvcc::Store;
use mvcc::watch::Hub;
use proto::etcdserverpb::InternalRaftRequest;
use types::{LeaseId, MemberId, Version};

use crate::node::{self, Node};
use crate::observe::slow;

impl From<node::Error> for Error {
    fn from(error: node::Error) -> Self {
        use node::Error as Node;
        match error {
            Node::TooManyRequests => Self::TooManyRequests,
            Node::TooLarge => Self::RequestTooLarge,
            Node::Timeout => Self::Timeout,
            Node::LeaderFailed => Self::TimeoutLeaderFailure,
            Node::ConnectionLost => Self::TimeoutConnectionLost,
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
        ApplyError::Membership(error) => error.into(),
        ApplyError::Auth(error) => error.into(),
        ApplyError::UnknownAlarmAction => Error::Other("etcdserver: unknown alarm action".to_owned()),
    }
}

impl Member for Node {
    fn propose(&self, request: InternalRaftRequest) -> impl Future<Output = Result<Reply, Error>> {
        Self::propose(self, request).map_err(Error::from)
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
        self.renew_anywhere(id).await
    }

    async fn lease_times(&self, id: LeaseId, keys: bool) -> Result<Option<LeaseTimes>, Error> {
        self.lease_times_anywhere(id, keys).await
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
        if to == self.id() { Ok(()) } else { self.hand_leadership_to(to).await }
    }

    async fn change_members(&self, change: ConfChange, token: Option<&str>) -> Result<(), Error> {
        match change {
            ConfChange::Promote(id) => self.promote(id, token).await,
            change => Self::change_members(self, change).await,
        }
    }

    async fn wait_applied(&self, index: u64) -> Result<(), Error> {
        Ok(Self::wait_applied(self, index).await?)
    }

    fn passwords(&self) -> &Passwords {
        &self.parts().passwords
    }

    fn now(&self) -> Duration {
        self.clock().now()
    }

    fn unix_seconds(&self) -> u64 {
        self.clock().unix().as_secs()
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
            is_learner: progress.is_learner.load(Relaxed),
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

    async fn defragment(&self) -> Result<(), Error> {
        crate::defragment::on_request(self.clone()).await
    }

    fn serving(&self) -> tokio::sync::watch::Receiver<bool> {
        self.parts().serving.subscribe()
    }

    fn count_work(&self, work: Work, took: Duration) {
        let metrics = self.metrics();
        let histogram = match work {
            Work::Hash => &metrics.hash_duration,
            Work::HashRevision => &metrics.hash_rev_duration,
            Work::Snapshot => &metrics.backend_snapshot_duration,
        };
        histogram.observe(took);
    }

    fn count_sent(&self, sent: &WatchSent, took: Duration) {
        self.metrics().watch_sent(sent, took);
    }

    fn count_broken_stream(&self, api: &'static str) {
        self.metrics().stream_failures.with([api, "receive"]).inc();
    }

    fn count_read(&self, times: &ReadTimes) {
        self.metrics().read(times);
    }

    fn slow_read(&self, read: &SlowRead<'_>) {
        slow::report_read(read, self.config().slow_apply, self.metrics());
    }

    fn storage_version(&self) -> Option<Version> {
        let stored = backend::schema::storage_version(&self.backend().view());
        match stored {
            Ok(Some(version)) => Some(version),
            _ => backend::schema::detect_version(&self.backend().view()).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use api::grpc::CallContext;
    use api::services::kv;

    use super::*;

    fn bytes_of<'a, Request, Answer: Future>(
        _handler: fn(&'a Node, &'a CallContext, Request) -> Answer,
    ) -> usize {
        size_of::<Answer>()
    }

    /// Each call that waits is as large as its handler's future, which is also copied once. A request or another
    /// future that is kept beside what is awaited shows here: they were 1,224, 1,208 and 3,208 bytes once.
    #[test]
    fn calls_that_wait_are_small() {
        assert!(bytes_of(kv::put::<Node>) <= 800, "{}", bytes_of(kv::put::<Node>));
        assert!(bytes_of(kv::txn::<Node>) <= 800, "{}", bytes_of(kv::txn::<Node>));
        assert!(bytes_of(kv::range::<Node>) <= 1200, "{}", bytes_of(kv::range::<Node>));
    }
}
