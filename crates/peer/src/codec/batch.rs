//! Encoded messages on their way to a socket.

use bytes::{BufMut, Bytes, BytesMut};

/// Shared bytes of at least this length are sent as they are; shorter ones are copied, because a
/// piece of its own costs more than the copy.
const SHARE_FROM_BYTES: usize = 16 << 10;

/// Pieces that follow each other on the wire.
#[derive(Debug, Default)]
pub struct Batch {
    pieces: Vec<Bytes>,
    tail: BytesMut,
    len: usize,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn put_u8(&mut self, byte: u8) {
        self.tail.put_u8(byte);
        self.len += 1;
    }

    pub(super) fn put_u64(&mut self, number: u64) {
        self.tail.put_u64(number);
        self.len += 8;
    }

    pub(super) fn put_message(&mut self, message: &impl prost::Message) {
        let before = self.tail.len();
        self.tail.reserve(message.encoded_len());
        message.encode_raw(&mut self.tail);
        self.len += self.tail.len() - before;
    }

    pub(super) fn put_varint(&mut self, number: u64) {
        let before = self.tail.len();
        prost::encoding::encode_varint(number, &mut self.tail);
        self.len += self.tail.len() - before;
    }

    pub(super) fn put_shared(&mut self, bytes: Bytes) {
        self.len += bytes.len();
        if bytes.len() < SHARE_FROM_BYTES {
            self.tail.put_slice(&bytes);
            return;
        }
        self.seal();
        self.pieces.push(bytes);
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push(self.tail.split().freeze());
        }
    }

    /// The pieces in order; the batch is empty afterwards.
    pub fn take(&mut self) -> Vec<Bytes> {
        self.seal();
        self.len = 0;
        std::mem::take(&mut self.pieces)
    }
}
