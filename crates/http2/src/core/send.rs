//! Sending: heads, data and trailers of a stream, as far as the windows allow.
//!
//! A stream whose data all fit sends straight into the output. Otherwise its data wait in the
//! stream; streams that wait for the connection's window or for the output take turns of one frame.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::frame::*;
use super::streams::{End, wake};
use super::{Broken, Core, Key, OUTPUT_BYTES};
use crate::head::Head;

/// Longest DATA frame sent, however long the peer allows: what one stream may take of a turn.
const DATA_BYTES: usize = 64 << 10;

impl Core {
    /// Opens a stream with a head; it then holds two handles. Waits while the peer allows no more.
    pub fn poll_open(&mut self, head: &Rc<Head>, end: bool, cx: &Context<'_>) -> Poll<Result<Key, Broken>> {
        let broken = self.over.or(self.peer_going.map(Broken::GoAway));
        if let Some(broken) = broken.or((self.next_stream > MAX_STREAM_ID).then_some(Broken::Lost)) {
            return Poll::Ready(Err(broken));
        }
        if self.streams.open() >= self.peer.concurrent_streams {
            self.openers.push(cx.waker().clone());
            return Poll::Pending;
        }
        let id = self.next_stream;
        self.next_stream += 2;
        let key = self.streams.insert(self.fresh(id));
        // The stream is open, so this cannot fail.
        let _ = self.send_head(key, head, end);
        Poll::Ready(Ok(key))
    }

    fn sendable(&self, key: Key) -> Result<u32, Broken> {
        let stream = &self.streams[key];
        match stream.broken {
            Some(broken) => Err(broken),
            // What comes behind the end is a mistake of ours; for the peer the stream is complete.
            None if stream.send_ended || !matches!(stream.end, End::Open) => {
                Err(Broken::ByUs(Reason::STREAM_CLOSED))
            }
            None => Ok(stream.id),
        }
    }

    /// Sends a head.
    pub fn send_head(&mut self, key: Key, head: &Rc<Head>, end: bool) -> Result<(), Broken> {
        let id = self.sendable(key)?;
        self.headers_frame(id, head, end);
        if end {
            self.sent_end(key);
        }
        Ok(())
    }

    /// Sends the data that `write` appends, as many bytes as it was said to: without a buffer of their own if they
    /// may leave at once.
    pub fn send_written(
        &mut self,
        key: Key,
        bytes: usize,
        end: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Broken> {
        let id = self.sendable(key)?;
        if bytes > 0 && self.leaves_at_once(key, bytes) {
            self.output.frame_written(DATA, if end { END_STREAM } else { 0 }, id, bytes, write);
            self.data_left(key, bytes, end);
            return Ok(());
        }
        let mut data = Vec::with_capacity(bytes);
        write(&mut data);
        self.send_data(key, data.into(), end)
    }

    /// Whether so many data may go straight into the output, as one frame.
    fn leaves_at_once(&self, key: Key, bytes: usize) -> bool {
        let stream = &self.streams[key];
        let room = stream.send_window.min(self.send_window);
        stream.waiting.is_empty()
            && bytes <= self.peer.frame_bytes.min(DATA_BYTES)
            && (bytes == 0 || bytes as i64 <= room && self.output.len() < OUTPUT_BYTES)
    }

    /// So many data have gone into the output.
    fn data_left(&mut self, key: Key, bytes: usize, end: bool) {
        self.streams[key].send_window -= bytes as i64;
        self.send_window -= bytes as i64;
        if bytes > 0 || end {
            self.sent_since_ping = true;
            self.wake_task();
        }
        if end {
            self.sent_end(key);
        }
    }

    /// Sends data, or keeps them until the peer's windows have room.
    pub fn send_data(&mut self, key: Key, data: Bytes, end: bool) -> Result<(), Broken> {
        let id = self.sendable(key)?;
        let len = data.len();
        if self.leaves_at_once(key, len) {
            if len > 0 || end {
                self.output.frame_with_body(DATA, if end { END_STREAM } else { 0 }, id, data);
            }
            self.data_left(key, len, end);
            return Ok(());
        }
        let stream = &mut self.streams[key];
        if len > 0 {
            stream.waiting_bytes += len;
            stream.waiting.push_back(data);
        }
        if end {
            stream.end = End::Data;
        }
        self.enqueue(key);
        self.pump();
        Ok(())
    }

    /// Ends our side with trailers, behind all data.
    pub fn send_trailers(&mut self, key: Key, trailers: &Rc<Head>) -> Result<(), Broken> {
        let id = self.sendable(key)?;
        let stream = &mut self.streams[key];
        if stream.waiting.is_empty() {
            self.headers_frame(id, trailers, true);
            self.sent_end(key);
        } else {
            stream.end = End::Trailers(trailers.clone());
        }
        Ok(())
    }

    fn headers_frame(&mut self, id: u32, head: &Rc<Head>, end: bool) {
        self.sent_since_ping = true;
        let (encoder, frame_bytes) = (&mut self.encoder, self.peer.frame_bytes);
        let end_stream = if end { END_STREAM } else { 0 };
        self.output.append(|buffer| {
            let start = buffer.len();
            buffer.extend_from_slice(&[0; HEADER_LEN]);
            encoder.encode(head, buffer);
            let len = buffer.len() - start - HEADER_LEN;
            let first = len.min(frame_bytes);
            let flags = end_stream | if first == len { END_HEADERS } else { 0 };
            let header = FrameHeader { len: first, kind: HEADERS, flags, stream: id };
            buffer[start..start + HEADER_LEN].copy_from_slice(&header.write());
            if first < len {
                let rest = buffer.split_off(start + HEADER_LEN + first);
                let mut parts = rest.chunks(frame_bytes).peekable();
                while let Some(part) = parts.next() {
                    let flags = if parts.peek().is_none() { END_HEADERS } else { 0 };
                    let header = FrameHeader { len: part.len(), kind: CONTINUATION, flags, stream: id };
                    buffer.extend_from_slice(&header.write());
                    buffer.extend_from_slice(part);
                }
            }
        });
        self.wake_task();
    }

    /// The end of our side is in the output.
    fn sent_end(&mut self, key: Key) {
        let stream = &mut self.streams[key];
        stream.send_ended = true;
        if stream.receive_ended {
            self.close(key);
        } else if stream.handles == 0 {
            self.drop_open(key);
        }
    }

    /// Lets a stream take its turns.
    pub(super) fn enqueue(&mut self, key: Key) {
        let stream = &mut self.streams[key];
        if !stream.queued && stream.has_to_send() {
            stream.queued = true;
            self.queue.push_back(stream.id);
        }
    }

    /// Sends what waits, one frame of each stream in turn, until the windows or the output are full.
    pub(super) fn pump(&mut self) {
        while self.output.len() < OUTPUT_BYTES {
            let Some(id) = self.queue.pop_front() else { return };
            // A stream that has closed meanwhile has nothing to send.
            let Some(key) = self.streams.find(id) else { continue };
            let stream = &mut self.streams[key];
            stream.queued = false;
            let next = stream.waiting.front().map_or(0, Bytes::len);
            let room = stream.send_window.min(self.send_window).max(0) as usize;
            let part = next.min(room).min(self.peer.frame_bytes).min(DATA_BYTES);
            if next > 0 && part == 0 {
                if stream.send_window > 0 {
                    // The connection's window is what is missing: nobody can go on.
                    stream.queued = true;
                    self.queue.push_front(id);
                    return;
                }
                // Its own window will bring it back.
                continue;
            }
            self.send_waiting(key, part);
            if let Some(key) = self.streams.find(id) {
                self.enqueue(key);
            }
        }
    }

    /// Sends `part` bytes of what waits, and the end if nothing else does.
    fn send_waiting(&mut self, key: Key, part: usize) {
        let stream = &mut self.streams[key];
        let id = stream.id;
        let data = match stream.waiting.front_mut() {
            Some(front) if front.len() > part => front.split_to(part),
            Some(_) => stream.waiting.pop_front().unwrap_or_default(),
            None => Bytes::new(),
        };
        stream.waiting_bytes -= part;
        stream.send_window -= part as i64;
        self.send_window -= part as i64;
        let end = match stream.waiting.is_empty() {
            true => std::mem::take(&mut stream.end),
            false => End::Open,
        };
        if stream.waiting_bytes < self.config.send_buffer_bytes {
            wake(&mut stream.on_room);
        }
        let ends = matches!(end, End::Data);
        if part > 0 || ends {
            self.sent_since_ping = true;
            self.output.frame_with_body(DATA, if ends { END_STREAM } else { 0 }, id, data);
        }
        if let End::Trailers(trailers) = &end {
            self.headers_frame(id, trailers, true);
        }
        self.wake_task();
        if !matches!(end, End::Open) {
            self.sent_end(key);
        }
    }
}
