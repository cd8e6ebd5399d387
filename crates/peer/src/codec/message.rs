//! The message stream: a length in front of each message.

use proto::raftpb;

use prost::Message as _;

use super::{Batch, DecodeError, Decoder, Input, checked_len};

/// Appends a message with its length.
pub fn encode_message(message: &raftpb::Message, out: &mut Batch) {
    out.put_u64(message.encoded_len() as u64);
    out.put_message(message);
}

/// Reads a message stream.
#[derive(Debug)]
pub struct MessageDecoder {
    input: Input,
    /// Length of the message that is being received.
    len: Option<usize>,
    limit: u64,
}

impl Default for MessageDecoder {
    fn default() -> Self {
        Self::with_limit(super::MAX_MESSAGE_BYTES)
    }
}

impl MessageDecoder {
    /// A decoder that takes messages of at most `limit` bytes.
    pub fn with_limit(limit: u64) -> Self {
        Self { input: Input::default(), len: None, limit }
    }

    /// What arrived behind the last message: for a body that goes on with something else.
    pub fn into_rest(self) -> bytes::Bytes {
        self.input.bytes.freeze()
    }
}

impl Decoder for MessageDecoder {
    fn feed(&mut self, bytes: &[u8]) {
        self.input.feed(bytes);
    }

    fn next(&mut self) -> Result<Option<raftpb::Message>, DecodeError> {
        let len = match self.len {
            Some(len) => len,
            None => {
                let Some(len) = self.input.take_u64() else { return Ok(None) };
                if len > self.limit {
                    return Err(DecodeError::TooLong);
                }
                *self.len.insert(checked_len(len)?)
            }
        };
        let Some(bytes) = self.input.take(len) else { return Ok(None) };
        self.len = None;
        Ok(Some(raftpb::Message::decode(bytes)?))
    }
}
