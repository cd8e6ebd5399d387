//! What is to be written to the socket: small frames in buffers, large bodies as they are.
//!
//! An empty output holds no buffer; the next one begins with the size that the last one had. A thread keeps the
//! buffers that were emptied last and gives them out again: what was written a moment ago is still in the cache.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use super::frame::{FrameHeader, HEADER_LEN};

/// From this size on a body is not copied; below it, copying costs less than one more slice to write.
const SHARE_BYTES: usize = 8 << 10;
/// A buffer that has grown to this is followed by a new one, so that what was written can go.
const BUFFER_BYTES: usize = 64 << 10;
const FIRST_BUFFER_BYTES: std::ops::RangeInclusive<usize> = 256..=16 << 10;
/// A thread keeps so many bytes of empty buffers at most.
const SPARE_BYTES: usize = 512 << 10;

/// Empty buffers of a thread.
#[derive(Default)]
struct Spares {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl Spares {
    fn take(&mut self) -> Option<Vec<u8>> {
        let buffer = self.buffers.pop()?;
        self.bytes -= buffer.capacity();
        Some(buffer)
    }

    fn keep(&mut self, mut buffer: Vec<u8>) {
        if self.bytes + buffer.capacity() <= SPARE_BYTES {
            buffer.clear();
            self.bytes += buffer.capacity();
            self.buffers.push(buffer);
        }
    }
}

thread_local! {
    static SPARES: RefCell<Spares> = RefCell::default();
}

enum Chunk {
    Buffer(Vec<u8>),
    Body(Bytes),
}

#[derive(Default)]
pub(crate) struct Output {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that are written, if it is a buffer.
    written: usize,
    len: usize,
    last_size: usize,
}

impl Output {
    /// Bytes still to be written.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Lets `write` append to the last buffer.
    pub(crate) fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !matches!(self.chunks.back(), Some(Chunk::Buffer(buffer)) if buffer.len() < BUFFER_BYTES) {
            let size = self.last_size.clamp(*FIRST_BUFFER_BYTES.start(), *FIRST_BUFFER_BYTES.end());
            let spare = SPARES.with_borrow_mut(Spares::take);
            self.chunks.push_back(Chunk::Buffer(spare.unwrap_or_else(|| Vec::with_capacity(size))));
        }
        if let Some(Chunk::Buffer(buffer)) = self.chunks.back_mut() {
            let before = buffer.len();
            write(buffer);
            self.len += buffer.len() - before;
        }
    }

    pub(crate) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let header = FrameHeader { len: payload.len(), kind, flags, stream }.write();
        self.append(|buffer| {
            buffer.reserve(HEADER_LEN + payload.len());
            buffer.extend_from_slice(&header);
            buffer.extend_from_slice(payload);
        });
    }

    /// A frame whose payload of so many bytes `write` appends.
    pub(crate) fn frame_written(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        bytes: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let header = FrameHeader { len: bytes, kind, flags, stream }.write();
        self.append(|buffer| {
            buffer.reserve(HEADER_LEN + bytes);
            buffer.extend_from_slice(&header);
            let behind = buffer.len() + bytes;
            write(buffer);
            assert_eq!(buffer.len(), behind, "the end of a frame of {bytes} bytes");
        });
    }

    /// A frame whose payload need not be copied.
    pub(crate) fn frame_with_body(&mut self, kind: u8, flags: u8, stream: u32, body: Bytes) {
        if body.len() < SHARE_BYTES {
            return self.frame(kind, flags, stream, &body);
        }
        let header = FrameHeader { len: body.len(), kind, flags, stream }.write();
        self.append(|buffer| buffer.extend_from_slice(&header));
        self.len += body.len();
        self.chunks.push_back(Chunk::Body(body));
    }

    /// Fills `slices` with what comes next, `most` bytes at most; returns how many.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>], most: usize) -> usize {
        let (mut skip, mut left) = (self.written, most);
        let mut count = 0;
        for (chunk, slice) in self.chunks.iter().zip(slices) {
            if left == 0 {
                break;
            }
            let bytes = match chunk {
                Chunk::Buffer(buffer) => &buffer[std::mem::take(&mut skip)..],
                Chunk::Body(body) => body,
            };
            let bytes = &bytes[..bytes.len().min(left)];
            left -= bytes.len();
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        count
    }

    /// Says that `count` bytes were written.
    pub(crate) fn advance(&mut self, mut count: usize) {
        self.len -= count;
        while let Some(chunk) = self.chunks.front_mut() {
            let left = match chunk {
                Chunk::Buffer(buffer) => buffer.len() - self.written,
                Chunk::Body(body) => body.len(),
            };
            if count < left {
                match chunk {
                    Chunk::Buffer(_) => self.written += count,
                    Chunk::Body(body) => body.advance(count),
                }
                return;
            }
            if let Chunk::Buffer(buffer) = chunk {
                self.last_size = buffer.len();
                self.written = 0;
            }
            count -= left;
            if let Some(Chunk::Buffer(buffer)) = self.chunks.pop_front() {
                SPARES.with_borrow_mut(|spares| spares.keep(buffer));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emptied_buffer_is_used_again_and_only_so_much_is_kept() {
        let taken = || SPARES.with_borrow_mut(Spares::take);
        let mut output = Output::default();
        output.frame(0, 0, 1, b"first");
        output.advance(output.len());
        output.frame(0, 0, 1, b"second");
        let mut slices = [IoSlice::new(&[]); 1];
        output.slices(&mut slices, 100);
        assert_eq!(&slices[0][HEADER_LEN..], b"second");
        assert!(taken().is_none(), "it is in use");
        output.advance(output.len());
        assert!(taken().is_some_and(|buffer| buffer.is_empty() && buffer.capacity() > 0));
        for _ in 0..20 {
            SPARES.with_borrow_mut(|spares| spares.keep(Vec::with_capacity(BUFFER_BYTES)));
        }
        assert_eq!(SPARES.with_borrow(|spares| spares.bytes), SPARE_BYTES);
        while taken().is_some() {}
        assert_eq!(SPARES.with_borrow(|spares| spares.bytes), 0);
    }

    #[test]
    fn a_call_gets_so_many_bytes_and_the_next_one_goes_on_there() {
        let body: Bytes = (0..20_000u32).map(|number| number as u8).collect();
        let mut output = Output::default();
        output.frame(0, 0, 1, b"first");
        output.frame_with_body(0, 0, 3, body.clone());
        output.frame(0, 0, 5, b"last");
        let (mut written, mut calls) = (Vec::new(), 0);
        while output.len() > 0 {
            let mut slices = [IoSlice::new(&[]); 4];
            let count = output.slices(&mut slices, 6_000);
            let len: usize = slices[..count].iter().map(|slice| slice.len()).sum();
            assert_eq!(len, output.len().min(6_000));
            slices[..count].iter().for_each(|slice| written.extend_from_slice(slice));
            output.advance(len);
            calls += 1;
        }
        assert_eq!(calls, 4);
        assert_eq!(written.len(), 3 * HEADER_LEN + 9 + body.len());
        assert_eq!(&written[HEADER_LEN..HEADER_LEN + 5], b"first");
        assert_eq!(&written[2 * HEADER_LEN + 5..][..body.len()], &body[..]);
        assert_eq!(&written[written.len() - 4..], b"last");
    }
}
