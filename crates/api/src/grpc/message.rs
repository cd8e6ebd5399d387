//! Messages inside a gRPC stream: cutting them out of DATA frames, and building them.
//!
//! ```text
//! flag: u8 (0 plain, 1 compressed) | length: u32be | message
//! ```
//!
//! - A message that lies in one DATA frame is handed on as a slice of it, without a copy.
//! - Never buffers more than one message plus one DATA frame; a length above the limit is refused
//!   when its prefix arrives.
//! - Requests may be compressed with gzip, as upstream's server accepts; answers never are.
//!
//! **Source**: texts and order of checks of `google.golang.org/grpc` `rpc_util.go`.

use std::io::Read;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http2::{Broken, Reason};
use prost::Message;

use super::inner::Source;
use super::status::{Code, Status};

/// Bytes before each message.
pub const PREFIX_LEN: usize = 5;

/// Something that can be sent as one gRPC message.
pub trait Reply {
    /// Appends the prefix and the message.
    fn write_framed(&self, buffer: &mut BytesMut);

    /// The message with its prefix in a buffer of its own.
    fn into_frame(self) -> Bytes
    where
        Self: Sized,
    {
        let mut buffer = BytesMut::new();
        self.write_framed(&mut buffer);
        buffer.freeze()
    }

    /// The message with its prefix in pieces: for replies whose largest part exists as bytes, which
    /// a worker should not copy.
    fn into_pieces(self) -> Pieces
    where
        Self: Sized,
    {
        Pieces::Whole(self.into_frame())
    }
}

/// A framed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pieces {
    /// In one piece.
    Whole(Bytes),
    /// In several, in order.
    Several(Vec<Bytes>),
}

impl<M: Message> Reply for M {
    fn write_framed(&self, buffer: &mut BytesMut) {
        let len = self.encoded_len();
        buffer.reserve(PREFIX_LEN + len);
        write_prefix(buffer, len);
        self.encode_raw(buffer);
    }
}

/// Appends the prefix of a plain message of `len` bytes.
///
/// # Panics
/// If `len` is above what the prefix can say; replies are bounded far below.
pub fn write_prefix(buffer: &mut BytesMut, len: usize) {
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(len).expect("a reply is below 4 GiB"));
}

/// What a request stream may carry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accept {
    /// Longest message, before and after decompression.
    pub max_bytes: usize,
    /// `grpc-encoding: gzip` was announced.
    pub gzip: bool,
}

/// Cuts the messages out of a request body.
pub(crate) struct MessageReader {
    body: Source,
    accept: Accept,
    /// Rest of the DATA frame that arrived last.
    chunk: Bytes,
    /// A message that spans frames, prefix included.
    partial: BytesMut,
}

impl MessageReader {
    pub(crate) fn new(body: Source, accept: Accept) -> Self {
        Self { body, accept, chunk: Bytes::new(), partial: BytesMut::new() }
    }

    /// The next message; `None` when the client has closed its side.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            match self.cut() {
                Ok(Some((flag, message))) => return Poll::Ready(Some(self.open(flag, message))),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) => self.chunk = data,
                Some(Err(broken)) => return Poll::Ready(Some(Err(transport_status(broken)))),
                None if self.partial.is_empty() => return Poll::Ready(None),
                None => {
                    self.partial.clear();
                    return Poll::Ready(Some(Err(Status::new(Code::Internal, "unexpected EOF"))));
                }
            }
        }
    }

    /// Takes one whole message out of what has arrived, or moves all of it into `partial`.
    fn cut(&mut self) -> Result<Option<(u8, Bytes)>, Status> {
        if self.partial.is_empty() {
            if let Some(len) = self.message_len(&self.chunk)?
                && self.chunk.len() >= PREFIX_LEN + len
            {
                let flag = self.chunk[0];
                let mut message = self.chunk.split_to(PREFIX_LEN + len);
                message.advance(PREFIX_LEN);
                return Ok(Some((flag, message)));
            }
            self.partial.extend_from_slice(&self.chunk);
            self.chunk = Bytes::new();
            return Ok(None);
        }
        if self.partial.len() < PREFIX_LEN {
            self.fill_partial(PREFIX_LEN);
        }
        let Some(len) = self.message_len(&self.partial)? else { return Ok(None) };
        if self.body.is_inner() {
            // Our own word for the length can be taken: it grows once.
            self.partial.reserve(PREFIX_LEN + len - self.partial.len());
        }
        self.fill_partial(PREFIX_LEN + len);
        if self.partial.len() < PREFIX_LEN + len {
            return Ok(None);
        }
        let flag = self.partial[0];
        let mut message = std::mem::take(&mut self.partial).freeze();
        message.advance(PREFIX_LEN);
        Ok(Some((flag, message)))
    }

    fn fill_partial(&mut self, target: usize) {
        let missing = target - self.partial.len();
        let part = self.chunk.split_to(missing.min(self.chunk.len()));
        self.partial.extend_from_slice(&part);
    }

    /// Length of the message that starts at `bytes`, once its prefix is there.
    fn message_len(&self, bytes: &[u8]) -> Result<Option<usize>, Status> {
        let Some(prefix) = bytes.get(1..PREFIX_LEN) else { return Ok(None) };
        let len = u32::from_be_bytes(prefix.try_into().expect("four bytes")) as usize;
        if len > self.accept.max_bytes {
            let text =
                format!("grpc: received message larger than max ({len} vs. {})", self.accept.max_bytes);
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        Ok(Some(len))
    }

    fn open(&self, flag: u8, message: Bytes) -> Result<Bytes, Status> {
        match flag {
            0 => Ok(message),
            1 if self.accept.gzip => gunzip(&message, self.accept.max_bytes),
            1 => {
                Err(Status::new(Code::Internal, "grpc: compressed flag set with identity or empty encoding"))
            }
            other => {
                Err(Status::new(Code::Internal, format!("grpc: received unexpected payload format {other}")))
            }
        }
    }
}

/// Reads one byte more than allowed at most, so that a small bomb cannot blow up.
fn gunzip(compressed: &[u8], max_bytes: usize) -> Result<Bytes, Status> {
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(compressed)
        .take(max_bytes as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(|error| {
            Status::new(Code::Internal, format!("grpc: failed to read decompressed data: {error}"))
        })?;
    if plain.len() > max_bytes {
        return Err(Status::new(
            Code::ResourceExhausted,
            format!("grpc: received message after decompression larger than max {max_bytes}"),
        ));
    }
    Ok(plain.into())
}

/// Decodes a request.
pub(crate) fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message)
        .map_err(|error| Status::new(Code::Internal, format!("grpc: error unmarshalling request: {error}")))
}

/// How a broken stream looks to a handler that was reading from it.
pub(crate) fn transport_status(broken: Broken) -> Status {
    match broken {
        Broken::ByPeer(Reason::CANCEL) | Broken::Lost | Broken::GoAway(Reason::NO_ERROR) => {
            Status::canceled()
        }
        _ => Status::new(Code::Internal, format!("stream terminated: {broken}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn replies_carry_their_length() {
        let reply = proto::etcdserverpb::HashResponse { header: None, hash: 7 };
        assert_eq!(&reply.into_frame()[..], b"\0\0\0\0\x02\x10\x07");
    }

    #[test]
    fn gzip_opens_and_is_bounded() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&[b'x'; 1000]).unwrap();
        let compressed = encoder.finish().unwrap();
        assert_eq!(gunzip(&compressed, 1000).unwrap().len(), 1000);
        assert_eq!(gunzip(&compressed, 999).unwrap_err().code, Code::ResourceExhausted);
        assert_eq!(gunzip(b"no gzip", 10).unwrap_err().code, Code::Internal);
        assert_eq!(gunzip(&compressed[..20], 1000).unwrap_err().code, Code::Internal);
    }
}
