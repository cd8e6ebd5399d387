//! The two stream formats: messages as bytes, usable without a connection.
//!
//! ```text
//! message stream   u64be length, raftpb.Message                      … repeated
//! msgapp stream    0x00                                              link heartbeat
//!                  0x01, u64be n, n × (u64be length, raftpb.Entry), u64be commit
//!                  0x02, u64be length, raftpb.Message                … repeated
//! ```
//!
//! A decoder takes bytes as they come and never reserves what a length merely promises. Whatever
//! is still incomplete is bounded by [`MAX_MESSAGE_BYTES`].
//!
//! **Source**: etcd `server/etcdserver/api/rafthttp/{msg_codec,msgappv2_codec}.go`; captures of
//! 3.5.30 under `tests/golden`.

mod append;
mod batch;
mod message;

use bytes::{Buf, Bytes, BytesMut};
use proto::raftpb;

pub use append::{AppendDecoder, AppendEncoder};
pub use batch::Batch;
pub use message::{MessageDecoder, encode_message};

/// Longest message or entry that is taken, and most memory that an incomplete one may hold.
pub const MAX_MESSAGE_BYTES: u64 = 512 << 20;

/// Bytes that are no stream of messages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A length beyond the limit.
    #[error("rafthttp: error limit exceeded")]
    TooLong,
    /// A frame type that does not exist.
    #[error("failed to parse type {0} in msgappv2 stream")]
    UnknownFrame(u8),
    /// Not the protobuf message that it should be.
    #[error("malformed raft message: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// Turns bytes into messages.
pub trait Decoder {
    /// Adds bytes that arrived.
    fn feed(&mut self, bytes: &[u8]);

    /// The next whole message; `None` until more bytes arrived. After an error nothing behind it
    /// can be understood.
    ///
    /// # Errors
    /// The bytes are not what this stream carries.
    fn next(&mut self) -> Result<Option<raftpb::Message>, DecodeError>;
}

/// The message that only says "I am still here".
pub fn link_heartbeat() -> raftpb::Message {
    raftpb::Message {
        r#type: Some(raftpb::MessageType::MsgHeartbeat.into()),
        to: Some(0),
        from: Some(0),
        ..Default::default()
    }
}

/// Whether a message is a link heartbeat: no raft message lacks sender and receiver.
pub fn is_link_heartbeat(message: &raftpb::Message) -> bool {
    message.r#type() == raftpb::MessageType::MsgHeartbeat && message.from() == 0 && message.to() == 0
}

/// Bytes that arrived and are not decoded yet.
#[derive(Debug, Default)]
struct Input {
    bytes: BytesMut,
}

impl Input {
    fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn take_u8(&mut self) -> Option<u8> {
        (!self.bytes.is_empty()).then(|| self.bytes.get_u8())
    }

    fn take_u64(&mut self) -> Option<u64> {
        (self.bytes.len() >= 8).then(|| self.bytes.get_u64())
    }

    fn take(&mut self, len: usize) -> Option<Bytes> {
        (self.bytes.len() >= len).then(|| self.bytes.split_to(len).freeze())
    }
}

/// A length in front of a message or entry, checked.
fn checked_len(len: u64) -> Result<usize, DecodeError> {
    if len > MAX_MESSAGE_BYTES {
        return Err(DecodeError::TooLong);
    }
    usize::try_from(len).map_err(|_| DecodeError::TooLong)
}
