//! gRPC status codes, and a status as it travels in trailers.
//!
//! **Source**: the gRPC over HTTP/2 protocol page; codes as in `google.golang.org/grpc/codes`.

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

use http2::{Field, Head};

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

    /// The field of the headers or trailers that end a call.
    fn field(self) -> Rc<Field> {
        Field::new("grpc-status", (self as u8).to_string())
    }
}

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

    /// Adds the status to headers or trailers.
    pub(crate) fn add_to(&self, head: Head) -> Head {
        let head = head.with(self.code.field());
        match self.message.is_empty() {
            true => head,
            // Texts differ from call to call: they would only push others out of the table.
            false => head.with(Field::literal("grpc-message", percent_encode(&self.message))),
        }
    }
}

/// The trailers of a successful call.
pub(crate) fn ok_trailers() -> Head {
    Head::trailers().with(Code::Ok.field())
}

impl fmt::Display for Status {
    /// The form of Go's gRPC errors, which etcd itself puts into texts such as watch cancel reasons.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rpc error: code = {} desc = {}", self.code.name(), self.message)
    }
}

impl std::error::Error for Status {}

/// `grpc-message` carries printable ASCII as it is, everything else and `%` as `%XX`.
fn percent_encode(message: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            let digits = [b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
            encoded.extend(digits.map(char::from));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_at_their_number() {
        for (number, code) in Code::ALL.iter().enumerate() {
            assert_eq!(*code as usize, number);
            assert_eq!(code.field().value(), number.to_string().as_bytes());
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        let encoded = percent_encode("100% of\nñ ~");
        assert_eq!(encoded, "100%25 of%0A%C3%B1 ~");
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
