//! Frames as bytes.
//!
//! ```text
//! length: u24be | kind: u8 | flags: u8 | stream: u32be (top bit ignored) | payload
//! ```
//!
//! **Source**: RFC 9113, sections 4.1, 6 and 7.

use std::fmt;

pub(crate) const HEADER_LEN: usize = 9;
/// What a client says first.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DEFAULT_WINDOW_BYTES: u32 = 65_535;
pub(crate) const DEFAULT_FRAME_BYTES: u32 = 16_384;
pub(crate) const MAX_WINDOW_BYTES: i64 = (1 << 31) - 1;
pub(crate) const MAX_STREAM_ID: u32 = (1 << 31) - 1;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const WITH_PRIORITY: u8 = 0x20;

pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
pub(crate) const ENABLE_PUSH: u16 = 2;
pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(crate) const MAX_FRAME_SIZE: u16 = 5;
pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;

/// The nine bytes before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) len: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl FrameHeader {
    pub(crate) fn read(bytes: &[u8; HEADER_LEN]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        Self {
            len: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & MAX_STREAM_ID,
        }
    }

    pub(crate) fn write(self) -> [u8; HEADER_LEN] {
        let [_, a, b, c] = (self.len as u32).to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, d, e, f, g]
    }

    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Why a stream or a connection ended, as a number of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason(pub u32);

macro_rules! reasons {
    ($($name:ident $number:literal $text:literal;)*) => {
        impl Reason {
            $(#[doc = $text]
            pub const $name: Self = Self($number);)*

            /// The protocol's name of the number.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

reasons! {
    NO_ERROR 0 "Nothing is wrong.";
    PROTOCOL_ERROR 1 "A rule was broken that has no number of its own.";
    INTERNAL_ERROR 2 "The sender has a problem.";
    FLOW_CONTROL_ERROR 3 "More was sent than the window allows.";
    SETTINGS_TIMEOUT 4 "Settings were not acknowledged.";
    STREAM_CLOSED 5 "A frame for a stream that has ended.";
    FRAME_SIZE_ERROR 6 "A frame of a length it cannot have.";
    REFUSED_STREAM 7 "The stream was not looked at.";
    CANCEL 8 "The stream is no longer wanted.";
    COMPRESSION_ERROR 9 "The header table is lost.";
    CONNECT_ERROR 10 "A tunnel broke.";
    ENHANCE_YOUR_CALM 11 "Too much of something.";
    INADEQUATE_SECURITY 12 "TLS is too weak.";
    HTTP_1_1_REQUIRED 13 "Not over HTTP/2.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error code {}", self.0),
        }
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
