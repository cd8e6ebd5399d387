//! Receiving: cutting frames out of bytes, and what each kind does.

use bytes::{Bytes, BytesMut};

use super::frame::*;
use super::streams::{Stream, wake};
use super::{
    Assembly, Broken, Core, Fault, GOING_PING, Going, KEEPALIVE_PING, Key, MAX_GAPS, MAX_ORPHANS,
    MAX_WINDOW_CHANGES,
};
use crate::head::Role;
use crate::hpack::Decoded;

/// CONTINUATION frames of one header block; a block of the largest list fills sixteen.
const MAX_CONTINUATIONS: usize = 256;
/// The buffer behind a stream's first unread frame begins with this.
const MORE_BYTES: usize = 1024;

/// The payload of a frame: in the read buffer, or in a buffer of its own.
struct Payload<'a> {
    bytes: &'a [u8],
    owned: Option<Bytes>,
}

impl Core {
    /// Takes bytes from the socket. In the order of the socket; cut anywhere.
    pub fn receive(&mut self, mut bytes: &[u8]) {
        if self.over.is_some() {
            return;
        }
        if self.preface_left > 0 {
            let (said, rest) = bytes.split_at(self.preface_left.min(bytes.len()));
            let begin = PREFACE.len() - self.preface_left;
            if said != &PREFACE[begin..begin + said.len()] {
                return self.shut_down(Reason::PROTOCOL_ERROR);
            }
            self.preface_left -= said.len();
            bytes = rest;
        }
        if !self.carry.is_empty() && !self.complete_carried(&mut bytes) {
            return;
        }
        while let Some((head, rest)) = bytes.split_first_chunk::<HEADER_LEN>() {
            let header = FrameHeader::read(head);
            if header.len > self.config.max_frame_bytes as usize {
                return self.shut_down(Reason::FRAME_SIZE_ERROR);
            }
            let Some((payload, behind)) = rest.split_at_checked(header.len) else { break };
            self.take_frame(header, Payload { bytes: payload, owned: None });
            if self.over.is_some() {
                return;
            }
            bytes = behind;
        }
        if !bytes.is_empty() {
            // The length was checked above if it is there.
            let len = bytes.first_chunk().map_or(0, |head| FrameHeader::read(head).len);
            self.carry.reserve(HEADER_LEN + len);
            self.carry.extend_from_slice(bytes);
        }
    }

    /// Goes on with the frame that began earlier. True if it is complete and was taken.
    fn complete_carried(&mut self, bytes: &mut &[u8]) -> bool {
        let mut fill = |carry: &mut BytesMut, target: usize| {
            let (part, rest) = bytes.split_at((target - carry.len().min(target)).min(bytes.len()));
            carry.extend_from_slice(part);
            *bytes = rest;
            carry.len() >= target
        };
        if !fill(&mut self.carry, HEADER_LEN) {
            return false;
        }
        let Some(head) = self.carry.first_chunk() else { return false };
        let header = FrameHeader::read(head);
        if header.len > self.config.max_frame_bytes as usize {
            self.shut_down(Reason::FRAME_SIZE_ERROR);
            return false;
        }
        if !fill(&mut self.carry, HEADER_LEN + header.len) {
            return false;
        }
        let frame = std::mem::take(&mut self.carry).freeze();
        let owned = frame.slice(HEADER_LEN..);
        self.take_frame(header, Payload { bytes: &owned, owned: Some(owned.clone()) });
        self.over.is_none()
    }

    fn take_frame(&mut self, header: FrameHeader, payload: Payload<'_>) {
        let result = match (&self.assembly, header.kind) {
            (Some(assembly), CONTINUATION) if assembly.stream == header.stream => {
                self.on_continuation(header, payload.bytes)
            }
            (Some(_), _) | (None, CONTINUATION) => Err(Fault::Connection(Reason::PROTOCOL_ERROR)),
            (None, SETTINGS) => self.on_settings(header, payload.bytes),
            _ if !self.settings_seen => Err(Fault::Connection(Reason::PROTOCOL_ERROR)),
            (None, DATA) => self.on_data(header, payload),
            (None, HEADERS) => self.on_headers(header, payload.bytes),
            (None, PRIORITY) => on_priority(header, payload.bytes),
            (None, RST_STREAM) => self.on_reset(header, payload.bytes),
            (None, PUSH_PROMISE) => Err(Fault::Connection(Reason::PROTOCOL_ERROR)),
            (None, PING) => self.on_ping(header, payload.bytes),
            (None, GOAWAY) => self.on_goaway(header, payload.bytes),
            (None, WINDOW_UPDATE) => self.on_window_update(header, payload.bytes),
            _ => Ok(()),
        };
        match result {
            Ok(()) => {}
            Err(Fault::Connection(reason)) => self.shut_down(reason),
            Err(Fault::Stream(id, reason)) => {
                self.reset_frame(id, reason);
                if let Some(key) = self.streams.find(id) {
                    self.break_stream(key, Broken::ByUs(reason));
                }
            }
        }
        if self.orphans > MAX_ORPHANS {
            self.shut_down(Reason::ENHANCE_YOUR_CALM);
        }
    }

    /// What the peer may send on a new stream.
    fn stream_window(&self) -> i64 {
        let window = self.config.stream_window_bytes;
        i64::from(if self.settings_acknowledged { window } else { window.max(DEFAULT_WINDOW_BYTES) })
    }

    /// A stream on which nothing has happened; it has two handles.
    pub(super) fn fresh(&self, id: u32) -> Stream {
        Stream {
            id,
            handles: 2,
            receive_window: self.stream_window(),
            send_window: self.peer.stream_window,
            ..Stream::default()
        }
    }

    /// Whether a stream was never used so far.
    fn is_idle(&self, id: u32) -> bool {
        match (id % 2 == 1) == self.server {
            // Behind the last one that was promised to be looked at everything counts as closed.
            true => id > self.last_stream && self.going != Going::Final,
            false => id >= self.next_stream,
        }
    }

    fn on_data(&mut self, header: FrameHeader, payload: Payload<'_>) -> Result<(), Fault> {
        if header.stream == 0 || self.is_idle(header.stream) {
            return Err(Fault::Connection(Reason::PROTOCOL_ERROR));
        }
        let counted = header.len;
        self.receive_window -= counted as i64;
        if self.receive_window < 0 {
            return Err(Fault::Connection(Reason::FLOW_CONTROL_ERROR));
        }
        let (begin, end) = strip_padding(header, payload.bytes)?;
        let Some(key) = self.streams.find(header.stream) else {
            self.give_back_connection(counted);
            return Err(Fault::Stream(header.stream, Reason::STREAM_CLOSED));
        };
        let data = &payload.bytes[begin..end];
        let stream = &mut self.streams[key];
        let reason = match () {
            () if stream.receive_ended => Some(Reason::STREAM_CLOSED),
            // A response has its head first.
            () if !self.server && !stream.answered => Some(Reason::PROTOCOL_ERROR),
            () if stream.receive_window < counted as i64 => Some(Reason::FLOW_CONTROL_ERROR),
            () => stream.count_content(data.len(), header.has(END_STREAM)).err(),
        };
        if let Some(reason) = reason {
            self.give_back_connection(counted);
            return Err(Fault::Stream(header.stream, reason));
        }
        stream.receive_window -= counted as i64;
        let mut unread = counted - data.len();
        if stream.unread {
            unread = counted;
        } else if stream.first.is_empty() && stream.more.is_empty() {
            stream.first = match payload.owned {
                Some(owned) => owned.slice(begin..end),
                None => Bytes::copy_from_slice(data),
            };
        } else {
            if stream.more.capacity() == 0 {
                stream.more.reserve(MORE_BYTES.max(data.len()));
            }
            stream.more.extend_from_slice(data);
        }
        let ended = header.has(END_STREAM);
        stream.receive_ended |= ended;
        wake(&mut stream.on_receive);
        if unread > 0 {
            self.give_back(key, unread);
        }
        if ended {
            self.received_end(key);
        }
        Ok(())
    }

    /// The peer's side has ended.
    fn received_end(&mut self, key: Key) {
        if self.streams[key].send_ended {
            self.close(key);
        }
    }

    /// Gives the peer back what was read of a stream, in few frames.
    pub(super) fn give_back(&mut self, key: Key, count: usize) {
        self.give_back_connection(count);
        let stream = &mut self.streams[key];
        if stream.receive_ended || stream.broken.is_some() {
            return;
        }
        stream.returned += count as u32;
        if stream.returned >= self.config.stream_window_bytes / 2 {
            let more = std::mem::take(&mut stream.returned);
            stream.receive_window += i64::from(more);
            let id = stream.id;
            self.output.frame(WINDOW_UPDATE, 0, id, &more.to_be_bytes());
            self.wake_task();
        }
    }

    fn give_back_connection(&mut self, count: usize) {
        self.returned += count as u32;
        if self.over.is_none()
            && self.returned >= self.config.connection_window_bytes.max(DEFAULT_WINDOW_BYTES) / 2
        {
            let more = std::mem::take(&mut self.returned);
            self.receive_window += i64::from(more);
            self.output.frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
            self.wake_task();
        }
    }

    /// Throws away what arrived and was not read.
    pub(super) fn discard(&mut self, key: Key) {
        let stream = &mut self.streams[key];
        let count = stream.received_bytes();
        stream.first = Bytes::new();
        stream.more = BytesMut::new();
        if count > 0 {
            self.give_back(key, count);
        }
    }

    fn on_headers(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        if header.stream == 0 {
            return Err(Fault::Connection(Reason::PROTOCOL_ERROR));
        }
        let (mut begin, end) = strip_padding(header, payload)?;
        let mut depends_on_itself = false;
        if header.has(WITH_PRIORITY) {
            let dependency =
                payload[begin..end].get(..5).ok_or(Fault::Connection(Reason::FRAME_SIZE_ERROR))?;
            depends_on_itself = word(dependency) & MAX_STREAM_ID == header.stream;
            begin += 5;
        }
        if depends_on_itself {
            return Err(Fault::Connection(Reason::PROTOCOL_ERROR));
        }
        let block = &payload[begin..end];
        if header.has(END_HEADERS) {
            return self.on_block(header.stream, header.has(END_STREAM), block);
        }
        self.assembly = Some(Assembly {
            stream: header.stream,
            end_stream: header.has(END_STREAM),
            block: block.to_vec(),
            frames: 0,
        });
        Ok(())
    }

    fn on_continuation(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        let Some(mut assembly) = self.assembly.take() else { return Ok(()) };
        assembly.frames += 1;
        let len = assembly.block.len() + payload.len();
        if assembly.frames > MAX_CONTINUATIONS || len > self.config.max_header_list_bytes as usize {
            return Err(Fault::Connection(Reason::ENHANCE_YOUR_CALM));
        }
        assembly.block.extend_from_slice(payload);
        if header.has(END_HEADERS) {
            return self.on_block(assembly.stream, assembly.end_stream, &assembly.block);
        }
        self.assembly = Some(assembly);
        Ok(())
    }

    /// A whole header block.
    fn on_block(&mut self, id: u32, end: bool, block: &[u8]) -> Result<(), Fault> {
        let decoded = self.decoder.decode(block).map_err(|_| Fault::Connection(Reason::COMPRESSION_ERROR))?;
        if let Some(key) = self.streams.find(id) {
            return self.on_further_block(key, end, decoded);
        }
        if !self.server || id.is_multiple_of(2) {
            // For a client: the end of a stream that it has taken back.
            let known = !self.server && !self.is_idle(id) && !id.is_multiple_of(2);
            return if known { Ok(()) } else { Err(Fault::Connection(Reason::PROTOCOL_ERROR)) };
        }
        if id <= self.last_stream {
            let passed_over = self.gaps.iter().any(|&(first, behind)| (first..behind).contains(&id));
            return Err(match passed_over {
                true => Fault::Connection(Reason::PROTOCOL_ERROR),
                false if self.ended.contains(&id) => Fault::Connection(Reason::STREAM_CLOSED),
                false => Fault::Stream(id, Reason::STREAM_CLOSED),
            });
        }
        if self.going == Going::Final {
            // The peer has been told that this one will not be looked at.
            return Ok(());
        }
        self.note_opened(id);
        if self.streams.open() >= self.config.max_concurrent_streams as usize {
            return Err(Fault::Stream(id, Reason::REFUSED_STREAM));
        }
        let Decoded { head, too_large } = decoded;
        if too_large {
            // `:status: 431`, spelled out; nothing that the table would remember.
            self.output.frame(HEADERS, END_HEADERS | END_STREAM, id, b"\x08\x03431");
            return Err(Fault::Stream(id, Reason::NO_ERROR));
        }
        let wrong_length = end && head.content_length().is_some_and(|length| length > 0);
        if !head.is_proper(Role::Request) || wrong_length {
            return Err(Fault::Stream(id, Reason::PROTOCOL_ERROR));
        }
        let content_left = head.content_length();
        let fresh = self.fresh(id);
        let key = self.streams.insert(Stream { head: Some(head), receive_ended: end, content_left, ..fresh });
        self.accepted.push_back(key);
        Ok(())
    }

    fn note_opened(&mut self, id: u32) {
        let expected = self.last_stream + if self.last_stream == 0 { 1 } else { 2 };
        if id > expected {
            if self.gaps.len() == MAX_GAPS {
                self.gaps.pop_front();
            }
            self.gaps.push_back((expected, id));
        }
        self.last_stream = id;
    }

    /// A response, or the trailers of either side.
    fn on_further_block(&mut self, key: Key, end: bool, decoded: Decoded) -> Result<(), Fault> {
        let Decoded { head, too_large } = decoded;
        let stream = &mut self.streams[key];
        let id = stream.id;
        if stream.receive_ended {
            return Err(Fault::Stream(id, Reason::STREAM_CLOSED));
        }
        if too_large {
            return Err(Fault::Stream(id, Reason::ENHANCE_YOUR_CALM));
        }
        if !self.server && !stream.answered {
            if !head.is_proper(Role::Response) {
                return Err(Fault::Stream(id, Reason::PROTOCOL_ERROR));
            }
            if head.status() < 200 {
                // Only informational; the response follows.
                return if end { Err(Fault::Stream(id, Reason::PROTOCOL_ERROR)) } else { Ok(()) };
            }
            stream.answered = true;
            stream.content_left = head.content_length();
            stream.head = Some(head);
        } else {
            if !end || !head.is_proper(Role::Trailers) {
                return Err(Fault::Stream(id, Reason::PROTOCOL_ERROR));
            }
            stream.trailers = Some(head);
        }
        if end {
            if let Err(reason) = stream.count_content(0, self.server) {
                return Err(Fault::Stream(id, reason));
            }
            stream.receive_ended = true;
        }
        wake(&mut stream.on_receive);
        if end {
            self.received_end(key);
        }
        Ok(())
    }

    fn on_reset(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        let Ok(code) = <[u8; 4]>::try_from(payload) else {
            return Err(Fault::Connection(Reason::FRAME_SIZE_ERROR));
        };
        if header.stream == 0 || self.is_idle(header.stream) {
            return Err(Fault::Connection(Reason::PROTOCOL_ERROR));
        }
        if let Some(key) = self.streams.find(header.stream) {
            self.break_stream(key, Broken::ByPeer(Reason(u32::from_be_bytes(code))));
        }
        Ok(())
    }

    fn on_settings(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        let ack = header.has(ACK);
        if header.stream != 0 || (ack && !self.settings_seen) {
            return Err(Fault::Connection(Reason::PROTOCOL_ERROR));
        }
        if ack && !payload.is_empty() || !payload.len().is_multiple_of(6) {
            return Err(Fault::Connection(Reason::FRAME_SIZE_ERROR));
        }
        if ack {
            self.on_settings_acknowledged();
            return Ok(());
        }
        self.settings_seen = true;
        for setting in payload.chunks_exact(6) {
            let id = u16::from_be_bytes([setting[0], setting[1]]);
            self.apply_setting(id, word(&setting[2..])).map_err(Fault::Connection)?;
        }
        self.output.frame(SETTINGS, ACK, 0, &[]);
        self.wake_task();
        self.pump();
        Ok(())
    }

    /// A window smaller than the protocol's own holds from here on. Some streams may be below zero.
    fn on_settings_acknowledged(&mut self) {
        let before = self.stream_window();
        self.settings_acknowledged = true;
        let difference = self.stream_window() - before;
        if difference != 0 {
            for key in self.streams.keys() {
                self.streams[key].receive_window += difference;
            }
        }
    }

    fn apply_setting(&mut self, id: u16, value: u32) -> Result<(), Reason> {
        match id {
            HEADER_TABLE_SIZE => self.encoder.set_peer_limit(value as usize),
            ENABLE_PUSH if value > 1 || (!self.server && value > 0) => return Err(Reason::PROTOCOL_ERROR),
            MAX_CONCURRENT_STREAMS => self.peer.concurrent_streams = value as usize,
            INITIAL_WINDOW_SIZE => return self.set_stream_window(value.into()),
            MAX_FRAME_SIZE if !(DEFAULT_FRAME_BYTES..1 << 24).contains(&value) => {
                return Err(Reason::PROTOCOL_ERROR);
            }
            MAX_FRAME_SIZE => self.peer.frame_bytes = value as usize,
            _ => {}
        }
        Ok(())
    }

    /// Changes the window of all streams by the difference; some may become negative.
    fn set_stream_window(&mut self, window: i64) -> Result<(), Reason> {
        if window > MAX_WINDOW_BYTES {
            return Err(Reason::FLOW_CONTROL_ERROR);
        }
        let difference = window - self.peer.stream_window;
        self.peer.stream_window = window;
        if difference == 0 {
            return Ok(());
        }
        self.window_changes += self.streams.open();
        if self.window_changes > MAX_WINDOW_CHANGES {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        for key in self.streams.keys() {
            let stream = &mut self.streams[key];
            stream.send_window += difference;
            if stream.send_window > MAX_WINDOW_BYTES {
                return Err(Reason::FLOW_CONTROL_ERROR);
            }
            self.enqueue(key);
        }
        Ok(())
    }

    fn on_ping(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(Fault::Connection(Reason::PROTOCOL_ERROR));
        }
        if payload.len() != 8 {
            return Err(Fault::Connection(Reason::FRAME_SIZE_ERROR));
        }
        if !header.has(ACK) {
            if self.pings.count == 0 {
                self.pings.forgiven = self.sent_since_ping;
                self.pings.idle = self.streams.open() == 0;
            }
            self.pings.count = self.pings.count.saturating_add(1);
            self.sent_since_ping = false;
            self.output.frame(PING, ACK, 0, payload);
            self.wake_task();
        } else if payload == KEEPALIVE_PING {
            self.pong = true;
        } else if payload == GOING_PING && self.going == Going::Announced {
            self.finish();
        }
        Ok(())
    }

    fn on_goaway(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(Fault::Connection(Reason::PROTOCOL_ERROR));
        }
        if payload.len() < 8 {
            return Err(Fault::Connection(Reason::FRAME_SIZE_ERROR));
        }
        let (last, reason) = (word(payload) & MAX_STREAM_ID, Reason(word(&payload[4..])));
        self.peer_going = Some(reason);
        if !self.server {
            for key in self.streams.keys() {
                if self.streams[key].id > last {
                    self.break_stream(key, Broken::GoAway(reason));
                }
            }
        }
        self.openers.drain(..).for_each(std::task::Waker::wake);
        self.wake_task();
        Ok(())
    }

    fn on_window_update(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        if payload.len() != 4 {
            return Err(Fault::Connection(Reason::FRAME_SIZE_ERROR));
        }
        let more = i64::from(word(payload) & MAX_STREAM_ID);
        if header.stream == 0 {
            self.send_window += more;
            match () {
                () if more == 0 => return Err(Fault::Connection(Reason::PROTOCOL_ERROR)),
                () if self.send_window > MAX_WINDOW_BYTES => {
                    return Err(Fault::Connection(Reason::FLOW_CONTROL_ERROR));
                }
                () => {}
            }
        } else {
            if self.is_idle(header.stream) {
                return Err(Fault::Connection(Reason::PROTOCOL_ERROR));
            }
            let Some(key) = self.streams.find(header.stream) else { return Ok(()) };
            if more == 0 {
                return Err(Fault::Stream(header.stream, Reason::PROTOCOL_ERROR));
            }
            let stream = &mut self.streams[key];
            stream.send_window += more;
            if stream.send_window > MAX_WINDOW_BYTES {
                return Err(Fault::Stream(header.stream, Reason::FLOW_CONTROL_ERROR));
            }
            self.enqueue(key);
        }
        self.pump();
        Ok(())
    }
}

impl Stream {
    /// Holds the data against `content-length`.
    fn count_content(&mut self, len: usize, end: bool) -> Result<(), Reason> {
        let Some(left) = self.content_left else { return Ok(()) };
        let left = left.checked_sub(len as u64).ok_or(Reason::PROTOCOL_ERROR)?;
        self.content_left = Some(left);
        if end && left > 0 { Err(Reason::PROTOCOL_ERROR) } else { Ok(()) }
    }
}

fn on_priority(header: FrameHeader, payload: &[u8]) -> Result<(), Fault> {
    match () {
        () if header.stream == 0 => Err(Fault::Connection(Reason::PROTOCOL_ERROR)),
        () if payload.len() != 5 => Err(Fault::Stream(header.stream, Reason::FRAME_SIZE_ERROR)),
        () if word(payload) & MAX_STREAM_ID == header.stream => {
            Err(Fault::Stream(header.stream, Reason::PROTOCOL_ERROR))
        }
        () => Ok(()),
    }
}

/// Where the payload without its padding begins and ends.
fn strip_padding(header: FrameHeader, payload: &[u8]) -> Result<(usize, usize), Fault> {
    if !header.has(PADDED) {
        return Ok((0, payload.len()));
    }
    let padding = usize::from(*payload.first().ok_or(Fault::Connection(Reason::FRAME_SIZE_ERROR))?);
    match (payload.len() - 1).checked_sub(padding) {
        Some(len) => Ok((1, 1 + len)),
        None => Err(Fault::Connection(Reason::PROTOCOL_ERROR)),
    }
}

/// The first four bytes as a number; zeros behind the end.
fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |word| u32::from_be_bytes(*word))
}
