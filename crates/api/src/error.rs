//! Every error that a client can see, with its code and its exact text.
//!
//! Being drop-in means these texts: clients compare them. The table is held by
//! `tests/errors.golden`. Each text is sent behind `etcdserver: `.
//!
//! **Source**: etcd `api/v3rpc/rpctypes/error.go`; the two codes that upstream declares but does not
//! send (its table of conversions holds an error without a status) are the sent ones here.

use types::CompatVersion;

use crate::grpc::{Code, Status};

/// Before every text of the table.
pub const PREFIX: &str = "etcdserver: ";

macro_rules! table {
    ($($(#[$doc:meta])* $name:ident: $code:ident $text:literal,)*) => {
        /// Why a request was refused or failed.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Error {
            $($(#[$doc])* $name,)*
            /// An error without a row in the table: code Unknown and its own text.
            Other(String),
            /// An error that has a status already.
            Status(Status),
        }

        impl Error {
            /// All rows of the table.
            pub const TABLE: &'static [Error] = &[$(Error::$name,)*];

            /// Name of the row.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Error::$name => stringify!($name),)*
                    Error::Other(_) => "Other",
                    Error::Status(_) => "Status",
                }
            }

            /// The status as etcd 3.7 sends it.
            pub fn status(&self) -> Status {
                match self {
                    $(Error::$name => Status::new(Code::$code, concat!("etcdserver: ", $text)),)*
                    Error::Other(text) => Status::new(Code::Unknown, text.clone()),
                    Error::Status(status) => status.clone(),
                }
            }
        }
    };
}

table! {
    /// An empty key.
    EmptyKey: InvalidArgument "key is not provided",
    /// `ignore_value` or `ignore_lease` on a missing key; an operation without content.
    KeyNotFound: InvalidArgument "key not found",
    /// `ignore_value` with a value.
    ValueProvided: InvalidArgument "value is provided",
    /// `ignore_lease` with a lease.
    LeaseProvided: InvalidArgument "lease is provided",
    /// More than `--max-txn-ops` operations.
    TooManyOps: InvalidArgument "too many operations in txn request",
    /// Two writes of a transaction overlap.
    DuplicateKey: InvalidArgument "duplicate key given in txn request",
    /// `client-api-version` is not text.
    InvalidClientApiVersion: InvalidArgument "invalid client api version",
    /// A sort order or target outside the protocol.
    InvalidSortOption: InvalidArgument "invalid sort option",
    /// A revision below the compaction point.
    Compacted: OutOfRange "mvcc: required revision has been compacted",
    /// A revision above the current one.
    FutureRevision: OutOfRange "mvcc: required revision is a future revision",
    /// Over quota, or the NOSPACE alarm is on.
    NoSpace: ResourceExhausted "mvcc: database space exceeded",
    /// No such lease.
    LeaseNotFound: NotFound "requested lease not found",
    /// A grant of an id in use.
    LeaseExists: FailedPrecondition "lease already exists",
    /// A TTL above the limit.
    LeaseTtlTooLarge: OutOfRange "too large lease TTL",
    /// The client took a watch stream back.
    WatchCanceled: Canceled "watch canceled",
    /// A new member whose derived id exists.
    MemberExists: FailedPrecondition "member ID already exist",
    /// A URL of another member.
    PeerUrlExists: FailedPrecondition "Peer URLs already exists",
    /// Too few started members for this change. Declared FailedPrecondition, sent as Unknown.
    MemberNotEnoughStarted: Unknown "re-configuration failed due to not enough started members",
    /// URLs that do not parse.
    MemberBadUrls: InvalidArgument "given member URLs are invalid",
    /// No such member.
    MemberNotFound: NotFound "member not found",
    /// Promotion of a voter.
    MemberNotLearner: FailedPrecondition "can only promote a learner member",
    /// Promotion of a learner that lags.
    LearnerNotReady: FailedPrecondition "can only promote a learner member which is in sync with leader",
    /// More learners than allowed.
    TooManyLearners: FailedPrecondition "too many learner members in cluster",
    /// Hash requests between members of different clusters.
    ClusterIdMismatch: FailedPrecondition "cluster ID mismatch",
    /// The log entry would exceed `--max-request-bytes`.
    RequestTooLarge: InvalidArgument "request is too large",
    /// Commits run too far ahead of applying. Declared ResourceExhausted, sent as Unknown.
    TooManyRequests: Unknown "too many requests",
    /// Auth cannot be enabled without user root.
    RootUserNotExist: FailedPrecondition "root user does not exist",
    /// Auth cannot be enabled while root lacks its role.
    RootRoleNotExist: FailedPrecondition "root user does not have root role",
    /// A user of that name exists.
    UserAlreadyExists: FailedPrecondition "user name already exists",
    /// No user given.
    UserEmpty: InvalidArgument "user name is empty",
    /// No such user.
    UserNotFound: FailedPrecondition "user name not found",
    /// A role of that name exists.
    RoleAlreadyExists: FailedPrecondition "role name already exists",
    /// No such role.
    RoleNotFound: FailedPrecondition "role name not found",
    /// No role given.
    RoleEmpty: InvalidArgument "role name is empty",
    /// Unknown user or wrong password.
    AuthFailed: InvalidArgument "authentication failed, invalid user ID or password",
    /// A grant without a permission.
    PermissionNotGiven: InvalidArgument "permission not given",
    /// The user may not do this.
    PermissionDenied: PermissionDenied "permission denied",
    /// Revocation of a role the user does not hold.
    RoleNotGranted: FailedPrecondition "role is not granted to the user",
    /// Revocation of a permission the role does not hold.
    PermissionNotGranted: FailedPrecondition "permission is not granted to the role",
    /// Auth is off.
    AuthNotEnabled: FailedPrecondition "authentication is not enabled",
    /// An unknown, expired or malformed token.
    InvalidAuthToken: Unauthenticated "invalid auth token",
    /// A change that would lock everybody out, or a bad permission range.
    InvalidAuthManagement: InvalidArgument "invalid auth management",
    /// Users or roles changed since the caller authenticated.
    AuthOldRevision: InvalidArgument "revision of auth store is old",
    /// There is no leader.
    NoLeader: Unavailable "no leader",
    /// Only the leader can do this.
    NotLeader: FailedPrecondition "not leader",
    /// The leader changed during a linearizable read.
    LeaderChanged: Unavailable "leader changed",
    /// The cluster version has no such capability.
    NotCapable: FailedPrecondition "not capable",
    /// The server stops.
    Stopped: Unavailable "server stopped",
    /// The request timeout passed.
    Timeout: Unavailable "request timed out",
    /// The request timeout passed around an election.
    TimeoutLeaderFailure: Unavailable "request timed out, possibly due to previous leader failure",
    /// The request timeout passed without contact to the leader.
    TimeoutConnectionLost: Unavailable "request timed out, possibly due to connection lost",
    /// Applying did not catch up in time.
    TimeoutWaitAppliedIndex: Unavailable "request timed out, waiting for the applied index took too long",
    /// Too few members are connected for this change.
    Unhealthy: Unavailable "unhealthy cluster",
    /// The CORRUPT alarm is on.
    Corrupt: DataLoss "corrupt cluster",
    /// Not offered by a learner.
    NotSupportedForLearner: FailedPrecondition "rpc not supported for learner",
    /// Leadership cannot go to that member.
    BadLeaderTransferee: FailedPrecondition "bad leader transferee",
    /// A downgrade target that is no version.
    WrongDowngradeVersionFormat: InvalidArgument "wrong downgrade target version format",
    /// A downgrade target other than one minor below.
    InvalidDowngradeTargetVersion: InvalidArgument "invalid downgrade target version",
    /// No cluster version is decided yet.
    ClusterVersionUnavailable: FailedPrecondition "cluster version not found during downgrade",
    /// A downgrade runs.
    DowngradeInProcess: FailedPrecondition "cluster has a downgrade job in progress",
    /// No downgrade runs.
    NoInflightDowngrade: FailedPrecondition "no inflight downgrade job",
    /// The caller gave up while a proposal waited.
    Canceled: Canceled "request canceled",
    /// Declared for completeness; deadlines of callers carry no prefix.
    DeadlineExceeded: DeadlineExceeded "context deadline exceeded",
    /// A bad Downgrade action.
    UnknownMethod: Unknown "unknown method",
}

impl From<auth::AuthError> for Error {
    fn from(error: auth::AuthError) -> Self {
        use auth::AuthError as Auth;
        match error {
            Auth::RootUserNotExist => Self::RootUserNotExist,
            Auth::RootRoleNotExist => Self::RootRoleNotExist,
            Auth::UserAlreadyExists => Self::UserAlreadyExists,
            Auth::UserEmpty => Self::UserEmpty,
            Auth::UserNotFound => Self::UserNotFound,
            Auth::RoleAlreadyExists => Self::RoleAlreadyExists,
            Auth::RoleNotFound => Self::RoleNotFound,
            Auth::RoleEmpty => Self::RoleEmpty,
            Auth::PermissionNotGiven => Self::PermissionNotGiven,
            Auth::AuthFailed => Self::AuthFailed,
            Auth::PermissionDenied => Self::PermissionDenied,
            Auth::RoleNotGranted => Self::RoleNotGranted,
            Auth::PermissionNotGranted => Self::PermissionNotGranted,
            Auth::NotEnabled => Self::AuthNotEnabled,
            Auth::OldRevision => Self::AuthOldRevision,
            Auth::InvalidToken => Self::InvalidAuthToken,
            Auth::InvalidManagement => Self::InvalidAuthManagement,
            Auth::NoPasswordUser | Auth::VerifyOnly => Self::Other(error.to_string()),
        }
    }
}

impl Error {
    /// The status as the claimed release sends it: 3.5 used Unavailable for three conditions.
    pub fn status_for(&self, compat: CompatVersion) -> Status {
        let mut status = self.status();
        if compat == CompatVersion::V3_5
            && matches!(
                self,
                Self::NotCapable | Self::NotSupportedForLearner | Self::ClusterVersionUnavailable
            )
        {
            status.code = Code::Unavailable;
        }
        status
    }

    /// The text without prefix, as upstream's internal errors and HTTP endpoints show it.
    pub fn text(&self) -> String {
        let text = self.to_string();
        text.strip_prefix(PREFIX).map(str::to_owned).unwrap_or(text)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.status().message)
    }
}

impl std::error::Error for Error {}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        error.status()
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<mvcc::ReadError> for Error {
    fn from(error: mvcc::ReadError) -> Self {
        match error {
            mvcc::ReadError::Compacted => Self::Compacted,
            mvcc::ReadError::FutureRevision { .. } => Self::FutureRevision,
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<backend::Error> for Error {
    fn from(error: backend::Error) -> Self {
        Self::Other(error.to_string())
    }
}

impl From<apply::ApplyError> for Error {
    fn from(error: apply::ApplyError) -> Self {
        use apply::ApplyError;
        match error {
            ApplyError::Corrupt => Self::Corrupt,
            ApplyError::NoSpace => Self::NoSpace,
            ApplyError::KeyNotFound => Self::KeyNotFound,
            ApplyError::LeaseNotFound(_) => Self::LeaseNotFound,
            ApplyError::LeaseExists(_) => Self::LeaseExists,
            ApplyError::LeaseTtlTooLarge => Self::LeaseTtlTooLarge,
            ApplyError::Compacted => Self::Compacted,
            ApplyError::FutureRevision => Self::FutureRevision,
            ApplyError::Membership(change) => change.into(),
            ApplyError::Auth(error) => error.into(),
            ApplyError::UnknownAlarmAction => Self::Other(error.to_string()),
        }
    }
}

impl From<apply::ReadTxnError> for Error {
    fn from(error: apply::ReadTxnError) -> Self {
        match error {
            apply::ReadTxnError::Refused(error) => error.into(),
            apply::ReadTxnError::Store(error) => error.into(),
        }
    }
}

impl From<membership::ChangeError> for Error {
    fn from(error: membership::ChangeError) -> Self {
        use membership::ChangeError;
        match error {
            ChangeError::IdRemoved | ChangeError::IdNotFound => Self::MemberNotFound,
            ChangeError::IdExists => Self::MemberExists,
            ChangeError::PeerUrlExists => Self::PeerUrlExists,
            ChangeError::NotLearner => Self::MemberNotLearner,
            ChangeError::TooManyLearners => Self::TooManyLearners,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_upstreams() {
        let line = |error: &Error| {
            let status = error.status();
            format!("{} {} {}\n", status.code as u8, status.code.name(), status.message)
        };
        let table: String = Error::TABLE.iter().map(line).collect();
        assert_eq!(table, include_str!("../tests/errors.golden"));
    }

    #[test]
    fn three_codes_differ_in_3_5() {
        let differing: Vec<&str> = Error::TABLE
            .iter()
            .filter(|error| error.status_for(CompatVersion::V3_5) != error.status_for(CompatVersion::V3_7))
            .map(Error::name)
            .collect();
        assert_eq!(differing, ["NotCapable", "NotSupportedForLearner", "ClusterVersionUnavailable"]);
    }
}
