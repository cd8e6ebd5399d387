//! What applying one entry gives: an answer, events, and things for others to do.

use std::sync::Arc;

use mvcc::{ReadError, RevisionEvents};
use proto::etcdserverpb as pb;
use thiserror::Error;
use types::{LeaseId, RequestId, Version};

use crate::kind::RequestKind;

/// Everything that came out of one committed entry.
#[derive(Debug)]
pub struct Applied {
    /// Whom to answer; `None` for entries nobody waits for.
    pub request: Option<RequestId>,
    /// What was asked for; `None` for entries that are no requests or were applied before.
    pub kind: Option<RequestKind>,
    /// The answer. Entries without a request have `Ok(Reply::Empty)`.
    pub result: Result<Reply, ApplyError>,
    /// Changes of the key space, for watchers.
    pub events: Option<Arc<RevisionEvents>>,
    /// What the driver has to do next.
    pub follow_up: Option<FollowUp>,
    /// A change of users or roles, for the log.
    pub note: Option<Box<auth::Note>>,
}

/// The answer to a request, as the API's message. Headers hold at most the revision: the member
/// that answers fills in cluster, member and term.
#[derive(Debug, Default, PartialEq)]
pub enum Reply {
    /// Nothing to say.
    #[default]
    Empty,
    /// Answer to a put.
    Put(pb::PutResponse),
    /// Answer to a range inside the log.
    Range(pb::RangeResponse),
    /// Answer to a deletion.
    DeleteRange(pb::DeleteRangeResponse),
    /// Answer to a transaction.
    Txn(pb::TxnResponse),
    /// Answer to a compaction. The physical part is the driver's: see [`FollowUp::Compact`].
    Compaction(pb::CompactionResponse),
    /// Answer to a lease grant.
    LeaseGrant(pb::LeaseGrantResponse),
    /// Answer to a lease revocation.
    LeaseRevoke(pb::LeaseRevokeResponse),
    /// Answer to a lease checkpoint.
    LeaseCheckpoint(pb::LeaseCheckpointResponse),
    /// Answer to an alarm request.
    Alarm(pb::AlarmResponse),
    /// Answer to a change of users, roles or the auth switch: it has nothing but a header.
    AuthChange(Option<pb::ResponseHeader>),
    /// Answer to a login. The token is empty where it is signed by who answers.
    Authenticate(pb::AuthenticateResponse),
    /// Whether auth is on.
    AuthStatus(pb::AuthStatusResponse),
    /// Roles of a user.
    AuthUser(pb::AuthUserGetResponse),
    /// All users.
    AuthUsers(pb::AuthUserListResponse),
    /// Permissions of a role.
    AuthRole(pb::AuthRoleGetResponse),
    /// All roles.
    AuthRoles(pb::AuthRoleListResponse),
}

/// Work that an entry asks of the member around the applier.
#[derive(Debug)]
pub enum FollowUp {
    /// A compaction was accepted; its physical part may run now.
    Compact(mvcc::CompactionJob),
    /// The backend passed its quota: raise the NOSPACE alarm for this member, and answer only
    /// after the alarm is committed.
    RaiseNoSpace,
    /// The cluster version was set: adapt capabilities and the storage version.
    ClusterVersionSet {
        /// The version before, if one was decided.
        previous: Option<Version>,
        /// The version now.
        current: Version,
    },
    /// The attributes of a member were published.
    AttributesPublished {
        /// Id of that member.
        member: types::MemberId,
    },
    /// The leader's empty entry: first commit in its term.
    FirstCommitInTerm {
        /// The term.
        term: u64,
    },
    /// The configuration of raft changes. `change` has node id 0 when it was refused.
    ConfChange {
        /// The change to hand to consensus.
        change: proto::raftpb::ConfChange,
    },
}

/// Why a request was refused when it was applied. The same on every member.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ApplyError {
    /// A CORRUPT alarm is on.
    #[error("corrupt cluster")]
    Corrupt,
    /// A NOSPACE alarm is on, or this request passed the quota.
    #[error("database space exceeded")]
    NoSpace,
    /// `ignore_value` or `ignore_lease` on a missing key.
    #[error("key not found")]
    KeyNotFound,
    /// A lease that does not exist.
    #[error("requested lease {0} not found")]
    LeaseNotFound(LeaseId),
    /// A grant of an id in use.
    #[error("lease {0} already exists")]
    LeaseExists(LeaseId),
    /// A TTL above the limit.
    #[error("too large lease TTL")]
    LeaseTtlTooLarge,
    /// A revision below the compaction point.
    #[error("required revision has been compacted")]
    Compacted,
    /// A revision above the current one.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// A membership change that does not fit the membership.
    #[error(transparent)]
    Membership(#[from] membership::ChangeError),
    /// Not allowed, or a change of users and roles that does not fit them.
    #[error(transparent)]
    Auth(#[from] auth::AuthError),
    /// An alarm action outside the protocol (upstream stops the process on it).
    #[error("unknown alarm action")]
    UnknownAlarmAction,
}

/// An entry that cannot be applied here. The member must stop: going on would part it from the
/// others.
#[derive(Debug, Error)]
pub enum FatalApplyError {
    /// The payload is neither a request nor a legacy request.
    #[error("log entry {index}: {source}")]
    Undecodable {
        /// Log index.
        index: u64,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A request kind that this build does not know how to apply.
    #[error(
        "log entry {index}: a request of this kind cannot be applied by this version: start the previous server once \
         on this directory so that it applies and saves the entry, then try again"
    )]
    Unsupported {
        /// Log index.
        index: u64,
    },
    /// A conf change of the second form, which etcd never writes.
    #[error("log entry {index}: joint configuration changes are not supported")]
    ConfChangeV2 {
        /// Log index.
        index: u64,
    },
    /// The store failed while it applied the entry: its data is damaged.
    #[error("log entry {index}: {source}")]
    Store {
        /// Log index.
        index: u64,
        /// What failed.
        source: ReadError,
    },
}
