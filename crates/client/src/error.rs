//! What a call can fail with.
//!
//! The text of an [`Error`] is what upstream's tools print: a server text that etcd's own table
//! knows stands alone (`etcdserver: key is not provided`), any other status is wrapped
//! (`rpc error: code = Unknown desc = …`).
//!
//! **Source**: etcd `api/v3rpc/rpctypes/error.go`.

use std::fmt;

pub use tonic::Code;

/// Server texts that stand alone, without their common prefix `etcdserver: `.
const KNOWN: &[&str] = &[
    "key is not provided",
    "key not found",
    "value is provided",
    "lease is provided",
    "too many operations in txn request",
    "duplicate key given in txn request",
    "invalid client api version",
    "invalid sort option",
    "mvcc: required revision has been compacted",
    "mvcc: required revision is a future revision",
    "mvcc: database space exceeded",
    "requested lease not found",
    "lease already exists",
    "too large lease TTL",
    "watch canceled",
    "member ID already exist",
    "Peer URLs already exists",
    "re-configuration failed due to not enough started members",
    "given member URLs are invalid",
    "member not found",
    "can only promote a learner member",
    "can only promote a learner member which is in sync with leader",
    "too many learner members in cluster",
    "cluster ID mismatch",
    "request is too large",
    "too many requests",
    "root user does not exist",
    "root user does not have root role",
    "user name already exists",
    "user name is empty",
    "user name not found",
    "role name already exists",
    "role name not found",
    "role name is empty",
    "authentication failed, invalid user ID or password",
    "permission not given",
    "permission denied",
    "role is not granted to the user",
    "permission is not granted to the role",
    "authentication is not enabled",
    "invalid auth token",
    "invalid auth management",
    "revision of auth store is old",
    "no leader",
    "not leader",
    "leader changed",
    "not capable",
    "server stopped",
    "request timed out",
    "request timed out, possibly due to previous leader failure",
    "request timed out, possibly due to connection lost",
    "request timed out, waiting for the applied index took too long",
    "unhealthy cluster",
    "corrupt cluster",
    "rpc not supported for learner",
    "bad leader transferee",
    "wrong downgrade target version format",
    "invalid downgrade target version",
    "cluster version not found during downgrade",
    "cluster has a downgrade job in progress",
    "no inflight downgrade job",
    "request canceled",
    "context deadline exceeded",
];

/// The text of the status with which a request fails that certainly never left this process.
pub(crate) const NOT_SENT: &str = "there is no connection available";

/// Why a call, a watch or a recipe failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The server, or the transport, answered with a status other than OK.
    #[error("{}", StatusText { code: *code, message })]
    Rpc {
        /// The gRPC code.
        code: Code,
        /// The text of the status.
        message: String,
    },
    /// The deadline passed before an answer came.
    #[error("context deadline exceeded")]
    DeadlineExceeded,
    /// The caller gave up.
    #[error("context canceled")]
    Canceled,
    /// The list of endpoints is empty.
    #[error("etcdclient: no available endpoints")]
    NoEndpoints,
    /// Limits that contradict each other.
    #[error("gRPC message recv limit ({receive} bytes) must be greater than send limit ({send} bytes)")]
    Limits {
        /// Largest answer accepted.
        receive: usize,
        /// Largest request sent.
        send: usize,
    },
    /// A lock's own key vanished while waiting: its session is over.
    #[error("mutex: session is expired")]
    SessionExpired,
    /// A lock that is not held was released.
    #[error("mutex: lock has already been released")]
    LockReleased,
    /// Another session holds the lock.
    #[error("mutex: Locked by another session")]
    Locked,
    /// The leadership of an election was lost, or never held.
    #[error("election: not leader")]
    NotLeader,
    /// The watch that waited for a key to go away ended by itself.
    #[error("lost watcher waiting for delete")]
    WatchLost,
}

impl Error {
    /// The gRPC code, where there is one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Rpc { code, .. } => Some(*code),
            Self::DeadlineExceeded => Some(Code::DeadlineExceeded),
            Self::Canceled => Some(Code::Cancelled),
            _ => None,
        }
    }

    /// Whether the server's text is `etcdserver: ` + `text`.
    pub fn is_server(&self, text: &str) -> bool {
        matches!(self, Self::Rpc { message, .. } if message.strip_prefix("etcdserver: ") == Some(text))
    }

    /// Whether a stream that failed with this will fail again when it is simply reopened.
    pub(crate) fn is_final(&self) -> bool {
        !matches!(self.code(), Some(Code::Unavailable | Code::Internal))
    }

    /// Whether the request never reached a server.
    pub(crate) fn is_not_sent(&self) -> bool {
        matches!(self, Self::Rpc { code: Code::Unavailable, message } if message == NOT_SENT)
    }

    /// The status in its long form, `rpc error: code = … desc = …`, for logs.
    pub fn status_text(&self) -> String {
        match self {
            Self::Rpc { code, message } => {
                format!("rpc error: code = {} desc = {message}", code_name(*code))
            }
            Self::DeadlineExceeded => format!("rpc error: code = DeadlineExceeded desc = {self}"),
            Self::Canceled => format!("rpc error: code = Canceled desc = {self}"),
            other => other.to_string(),
        }
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        match too_large(status.message()) {
            Some(message) => Self::Rpc { code: Code::ResourceExhausted, message },
            None => Self::Rpc { code: status.code(), message: status.message().to_owned() },
        }
    }
}

/// The transport's own words for an answer above the limit, in those of Go's gRPC.
fn too_large(message: &str) -> Option<String> {
    let rest = message.strip_prefix("Error, decoded message length too large: found ")?;
    let (found, rest) = rest.split_once(" bytes, the limit is: ")?;
    let limit = rest.strip_suffix(" bytes")?;
    Some(format!("grpc: received message larger than max ({found} vs. {limit})"))
}

struct StatusText<'a> {
    code: Code,
    message: &'a str,
}

impl fmt::Display for StatusText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.message.strip_prefix("etcdserver: ").is_some_and(|text| KNOWN.contains(&text));
        match known {
            true => f.write_str(self.message),
            false => write!(f, "rpc error: code = {} desc = {}", code_name(self.code), self.message),
        }
    }
}

/// The name of a code as Go's gRPC prints it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_texts_stand_alone_and_others_are_wrapped() {
        let error = |code, message: &str| Error::Rpc { code, message: message.to_owned() };
        let known = error(Code::NotFound, "etcdserver: requested lease not found");
        assert_eq!(known.to_string(), "etcdserver: requested lease not found");
        assert_eq!(
            known.status_text(),
            "rpc error: code = NotFound desc = etcdserver: requested lease not found"
        );
        assert!(known.is_server("requested lease not found"));
        let unknown = error(Code::Unknown, "auth: authentication failed");
        assert_eq!(unknown.to_string(), "rpc error: code = Unknown desc = auth: authentication failed");
        let foreign = error(Code::Unknown, "etcdserver: unknown method");
        assert_eq!(foreign.to_string(), "rpc error: code = Unknown desc = etcdserver: unknown method");
    }

    #[test]
    fn an_answer_above_the_limit() {
        let text = "Error, decoded message length too large: found 45 bytes, the limit is: 10 bytes";
        let error = Error::from(tonic::Status::out_of_range(text));
        assert_eq!(error.code(), Some(Code::ResourceExhausted));
        let expected =
            "rpc error: code = ResourceExhausted desc = grpc: received message larger than max (45 vs. 10)";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn only_transient_stream_errors_are_retried() {
        let error = |code| Error::Rpc { code, message: String::new() };
        assert!(!error(Code::Unavailable).is_final());
        assert!(!error(Code::Internal).is_final());
        assert!(error(Code::PermissionDenied).is_final());
        assert!(Error::DeadlineExceeded.is_final());
    }
}
