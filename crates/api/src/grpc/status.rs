//! gRPC status codes, and a status as it travels in trailers.
//!
//! **Source**: the gRPC over HTTP/2 protocol page; codes as in `google.golang.org/grpc/codes`.

use std::borrow::Cow;
use std::fmt;

use http::header::HeaderValue;
use http::{HeaderMap, HeaderName};

/// A gRPC status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// Success.
    Ok = 0,
    /// The caller gave up.
    Canceled = 1,
    /// Anything without a code of its own.
    Unknown = 2,
    /// The request is wrong in itself.
    InvalidArgument = 3,
    /// The caller's deadline passed.
    DeadlineExceeded = 4,
    /// Something named in the request does not exist.
    NotFound = 5,
    /// Something to be created exists.
    AlreadyExists = 6,
    /// The caller is known and may not do this.
    PermissionDenied = 7,
    /// A quota or limit is used up.
    ResourceExhausted = 8,
    /// The system is not in the state this needs.
    FailedPrecondition = 9,
    /// Given up because of a conflict.
    Aborted = 10,
    /// Outside of the valid range.
    OutOfRange = 11,
    /// No such service or method, or not offered.
    Unimplemented = 12,
    /// A broken invariant.
    Internal = 13,
    /// Try again later.
    Unavailable = 14,
    /// Data are lost or corrupt.
    DataLoss = 15,
    /// The caller is not known.
    Unauthenticated = 16,
}

impl Code {
    /// Every code, at the index of its number.
    pub const ALL: [Code; 17] = [
        Code::Ok,
        Code::Canceled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    /// The name that etcd prints in metrics labels and in formatted errors.
    pub const fn name(self) -> &'static str {
        match self {
            Code::Ok => "OK",
            Code::Canceled => "Canceled",
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

    const fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Code::Ok => "0",
            Code::Canceled => "1",
            Code::Unknown => "2",
            Code::InvalidArgument => "3",
            Code::DeadlineExceeded => "4",
            Code::NotFound => "5",
            Code::AlreadyExists => "6",
            Code::PermissionDenied => "7",
            Code::ResourceExhausted => "8",
            Code::FailedPrecondition => "9",
            Code::Aborted => "10",
            Code::OutOfRange => "11",
            Code::Unimplemented => "12",
            Code::Internal => "13",
            Code::Unavailable => "14",
            Code::DataLoss => "15",
            Code::Unauthenticated => "16",
        })
    }
}

pub(crate) static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(crate) static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// How a call ended, when it did not end well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The code.
    pub code: Code,
    /// The text that the caller sees.
    pub message: Cow<'static, str>,
}

impl Status {
    /// A status of `code` with a text.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }

    /// A call whose deadline passed while a handler worked on it.
    pub fn deadline_exceeded() -> Self {
        Self::new(Code::DeadlineExceeded, "context deadline exceeded")
    }

    /// A call that the client took back.
    pub fn canceled() -> Self {
        Self::new(Code::Canceled, "context canceled")
    }

    /// Writes the status into headers or trailers.
    pub(crate) fn write_to(&self, headers: &mut HeaderMap) {
        headers.insert(GRPC_STATUS.clone(), self.code.header());
        if !self.message.is_empty() {
            headers.insert(GRPC_MESSAGE.clone(), percent_encode(&self.message));
        }
    }
}

/// The trailers of a successful call.
pub(crate) fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS.clone(), Code::Ok.header());
    trailers
}

impl fmt::Display for Status {
    /// The form of Go's gRPC errors, which etcd itself puts into texts such as watch cancel reasons.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rpc error: code = {} desc = {}", self.code.name(), self.message)
    }
}

impl std::error::Error for Status {}

/// `grpc-message` carries printable ASCII as it is, everything else and `%` as `%XX`.
fn percent_encode(message: &str) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = Vec::with_capacity(message.len());
    for byte in message.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(byte);
        } else {
            encoded.extend_from_slice(&[b'%', HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]]);
        }
    }
    HeaderValue::from_bytes(&encoded).expect("only printable ASCII was pushed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_at_their_number() {
        for (number, code) in Code::ALL.iter().enumerate() {
            assert_eq!(*code as usize, number);
            assert_eq!(code.header().to_str().unwrap(), number.to_string());
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        let encoded = percent_encode("100% of\nñ ~");
        assert_eq!(encoded.to_str().unwrap(), "100%25 of%0A%C3%B1 ~");
    }

    #[test]
    fn a_status_prints_as_gos() {
        let status = Status::new(Code::PermissionDenied, "etcdserver: permission denied");
        assert_eq!(
            status.to_string(),
            "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
        );
    }
}
