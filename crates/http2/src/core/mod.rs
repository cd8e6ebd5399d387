//! One side of a connection as a machine without I/O: bytes in, bytes out, streams by key.
//!
//! ```text
//! receive(bytes) -> new streams wait in `accept`, wakers of handles are woken, answers of the
//!                   protocol itself are appended to the output
//! send_*(key, ..) -> frames are appended to the output as far as windows allow, the rest waits in
//!                    the stream
//! slices/advance  -> the output leaves
//! ```
//!
//! - An error of the peer never surfaces as a panic or a `Result` of [`Core::receive`]: it resets a
//!   stream, or ends the connection with a GOAWAY, after which [`Core::is_over`] turns true.
//! - A stream that was reset while its handler runs is an *orphan*. It counts no longer as open, so
//!   orphans have a bound of their own: opening streams and taking them back at once (rapid reset,
//!   CVE-2023-44487), or provoking us to reset them, ends the connection.
//! - Answers to PING, SETTINGS, and frames for closed streams go to the output; who drives the
//!   connection stops reading while that is full ([`Core::wants_input`]).
//!
//! **Source**: RFC 9113.

pub(crate) mod frame;
mod output;
mod receive;
mod send;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};

use self::frame::*;
use self::output::Output;
use self::streams::{End, Streams, register};
use crate::Config;
use crate::head::Head;
use crate::hpack::{Decoder, Encoder};

pub use self::frame::Reason;
pub use self::streams::Key;

/// Data for streams enter the output up to here; the rest waits where it is counted per stream.
const OUTPUT_BYTES: usize = 256 << 10;
/// Nothing is read while the output is longer.
const OUTPUT_FULL_BYTES: usize = 1 << 20;
/// Streams that may be reset and still worked on. A handler sees a reset in the next turn, and a
/// turn reads about 5,000 resets at most: a client that drops all its watches at once stays below.
const MAX_ORPHANS: usize = 8192;
/// Gaps in the peer's stream ids that are remembered, to tell a late id from a closed one.
const MAX_GAPS: usize = 16;
/// Windows that the peer's settings may change, all streams and all settings taken together: who
/// opens very many streams and changes their window again and again keeps us busy with few bytes.
const MAX_WINDOW_CHANGES: usize = 10_000_000;
/// Streams remembered that the peer has ended, to tell a second request on them from one that was
/// under way when we reset the stream.
const ENDED: usize = 8;
const KEEPALIVE_PING: [u8; 8] = *b"alive?\0\0";
const GOING_PING: [u8; 8] = *b"going!\0\0";

/// Why a stream broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The peer reset it.
    #[error("stream reset by the other side: {0}")]
    ByPeer(Reason),
    /// We reset it.
    #[error("stream reset: {0}")]
    ByUs(Reason),
    /// The peer goes away and will not look at it.
    #[error("connection is going away: {0}")]
    GoAway(Reason),
    /// The connection has ended.
    #[error("connection lost")]
    Lost,
}

/// What a frame from the peer can cause.
enum Fault {
    Connection(Reason),
    Stream(u32, Reason),
}

/// How far we have come with going away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Going {
    Staying,
    /// Announced; streams that were under way when the peer heard of it are still accepted.
    Announced,
    /// The last stream is known.
    Final,
}

/// What the peer allows.
struct PeerLimits {
    stream_window: i64,
    frame_bytes: usize,
    concurrent_streams: usize,
}

/// A header block whose CONTINUATION frames are awaited.
struct Assembly {
    stream: u32,
    end_stream: bool,
    block: Vec<u8>,
    frames: usize,
}

/// Pings that have come from the peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pings {
    /// How many.
    pub count: u32,
    /// Whether the first of them came behind a head or data that we had sent.
    pub forgiven: bool,
    /// Whether no stream was open.
    pub idle: bool,
}

/// One side of a connection.
pub struct Core {
    server: bool,
    config: Config,
    peer: PeerLimits,
    decoder: Decoder,
    encoder: Encoder,
    streams: Streams,
    output: Output,
    /// The beginning of a frame that has not arrived as a whole.
    carry: BytesMut,
    /// Bytes of the preface still to come.
    preface_left: usize,
    settings_seen: bool,
    /// The peer has said that it keeps to our settings.
    settings_acknowledged: bool,
    window_changes: usize,
    assembly: Option<Assembly>,
    receive_window: i64,
    returned: u32,
    send_window: i64,
    /// Highest stream that the peer opened.
    last_stream: u32,
    /// Ids below it that it passed over.
    gaps: VecDeque<(u32, u32)>,
    /// The streams that closed last after the peer had ended them, in a ring.
    ended: [u32; ENDED],
    ended_at: usize,
    next_stream: u32,
    accepted: VecDeque<Key>,
    /// Ids of streams that could send if the connection's window or the output had room.
    queue: VecDeque<u32>,
    orphans: usize,
    going: Going,
    peer_going: Option<Reason>,
    pong: bool,
    pings: Pings,
    /// A head or data were sent since the last ping came.
    sent_since_ping: bool,
    /// Set when nothing more is read or sent except what is in the output.
    over: Option<Broken>,
    /// The task that drives the connection, and whether it runs, or has been woken since it ran.
    task: Option<Waker>,
    woken: bool,
    /// Those who wait to open a stream.
    openers: Vec<Waker>,
}

impl Core {
    /// The side that accepts streams.
    pub fn server(config: Config) -> Self {
        Self::new(true, config)
    }

    /// The side that opens them.
    pub fn client(config: Config) -> Self {
        Self::new(false, config)
    }

    fn new(server: bool, config: Config) -> Self {
        let mut core = Self {
            server,
            peer: PeerLimits {
                stream_window: DEFAULT_WINDOW_BYTES.into(),
                frame_bytes: DEFAULT_FRAME_BYTES as usize,
                concurrent_streams: usize::MAX,
            },
            decoder: Decoder::new(config.max_header_list_bytes as usize),
            encoder: Encoder::new(),
            streams: Streams::default(),
            output: Output::default(),
            carry: BytesMut::new(),
            preface_left: if server { PREFACE.len() } else { 0 },
            settings_seen: false,
            settings_acknowledged: false,
            window_changes: 0,
            assembly: None,
            receive_window: i64::from(config.connection_window_bytes.max(DEFAULT_WINDOW_BYTES)),
            returned: 0,
            send_window: DEFAULT_WINDOW_BYTES.into(),
            last_stream: 0,
            gaps: VecDeque::new(),
            ended: [0; ENDED],
            ended_at: 0,
            next_stream: if server { 2 } else { 1 },
            accepted: VecDeque::new(),
            queue: VecDeque::new(),
            orphans: 0,
            going: Going::Staying,
            peer_going: None,
            pong: false,
            pings: Pings::default(),
            sent_since_ping: false,
            over: None,
            task: None,
            woken: false,
            openers: Vec::new(),
            config,
        };
        core.say_hello();
        core
    }

    fn say_hello(&mut self) {
        if !self.server {
            self.output.append(|buffer| buffer.extend_from_slice(PREFACE));
        }
        let config = &self.config;
        let settings = [
            (ENABLE_PUSH, if self.server { None } else { Some(0) }),
            (
                MAX_CONCURRENT_STREAMS,
                (config.max_concurrent_streams < u32::MAX).then_some(config.max_concurrent_streams),
            ),
            (INITIAL_WINDOW_SIZE, Some(config.stream_window_bytes)),
            (
                MAX_FRAME_SIZE,
                (config.max_frame_bytes != DEFAULT_FRAME_BYTES).then_some(config.max_frame_bytes),
            ),
            (MAX_HEADER_LIST_SIZE, Some(config.max_header_list_bytes)),
        ];
        let mut payload = Vec::new();
        for (id, value) in settings {
            if let Some(value) = value {
                payload.extend_from_slice(&id.to_be_bytes());
                payload.extend_from_slice(&value.to_be_bytes());
            }
        }
        self.output.frame(SETTINGS, 0, 0, &payload);
        let more = self.config.connection_window_bytes.saturating_sub(DEFAULT_WINDOW_BYTES);
        if more > 0 {
            self.output.frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
    }

    /// The next stream that the peer has opened. It holds two handles already: see [`Core::release`].
    pub fn accept(&mut self) -> Option<Key> {
        self.accepted.pop_front()
    }

    /// Whether the driver should read on.
    pub fn wants_input(&self) -> bool {
        self.over.is_none() && self.output.len() < OUTPUT_FULL_BYTES
    }

    /// Whether the connection has ended, apart from what is still in the output.
    pub fn is_over(&self) -> bool {
        let left = self.going == Going::Final || self.peer_going.is_some() && self.accepted.is_empty();
        self.over.is_some() || left && self.streams.open() == 0
    }

    /// Whether the end of a stream has been said here and waits for windows or for the output.
    pub fn has_unsent_ends(&self) -> bool {
        self.streams.slots().any(|stream| !stream.send_ended && !matches!(stream.end, End::Open))
    }

    /// Bytes in the output.
    pub fn output_len(&self) -> usize {
        self.output.len()
    }

    /// Fills `slices` with the output's beginning, `most` bytes at most; returns how many.
    pub fn output_slices<'a>(&'a self, slices: &mut [std::io::IoSlice<'a>], most: usize) -> usize {
        self.output.slices(slices, most)
    }

    /// Says that so many bytes of the output have left.
    pub fn output_written(&mut self, count: usize) {
        self.output.advance(count);
        self.pump();
    }

    /// Pings the peer.
    pub fn ping(&mut self) {
        self.output.frame(PING, 0, 0, &KEEPALIVE_PING);
        self.wake_task();
    }

    /// Whether a ping was answered since this was asked last.
    pub fn take_pong(&mut self) -> bool {
        std::mem::take(&mut self.pong)
    }

    /// The pings that have come since this was asked last.
    pub fn take_pings(&mut self) -> Option<Pings> {
        match self.pings.count {
            0 => None,
            _ => Some(std::mem::take(&mut self.pings)),
        }
    }

    /// Says that no further streams are accepted. Those that are open go on; then the connection is
    /// over. Two steps: streams that the peer opens before it hears of this are still served.
    pub fn go_away(&mut self) {
        if self.going == Going::Staying && self.over.is_none() {
            self.going = Going::Announced;
            self.goaway_frame(MAX_STREAM_ID, Reason::NO_ERROR, &[]);
            self.output.frame(PING, 0, 0, &GOING_PING);
            self.wake_task();
        }
    }

    /// As [`Core::go_away`] in one step: streams that the peer opens from now on are not looked at.
    pub fn finish(&mut self) {
        if self.going != Going::Final && self.over.is_none() {
            self.going = Going::Final;
            self.goaway_frame(self.last_stream, Reason::NO_ERROR, &[]);
            self.wake_task();
        }
    }

    /// Ends the connection, and all streams with it.
    pub fn shut_down(&mut self, reason: Reason) {
        self.shut_down_saying(reason, &[]);
    }

    /// As [`Core::shut_down`], with a word about why.
    pub fn shut_down_saying(&mut self, reason: Reason, why: &[u8]) {
        if self.over.is_none() {
            self.goaway_frame(self.last_stream, reason, why);
            self.end(Broken::GoAway(reason));
        }
    }

    /// The socket has ended.
    pub fn lost(&mut self) {
        self.end(Broken::Lost);
        self.output = Output::default();
    }

    fn goaway_frame(&mut self, last: u32, reason: Reason, why: &[u8]) {
        let mut payload = Vec::with_capacity(8 + why.len());
        payload.extend_from_slice(&last.to_be_bytes());
        payload.extend_from_slice(&reason.0.to_be_bytes());
        payload.extend_from_slice(why);
        self.output.frame(GOAWAY, 0, 0, &payload);
    }

    fn end(&mut self, broken: Broken) {
        if self.over.is_some() {
            return;
        }
        self.over = Some(broken);
        self.carry = BytesMut::new();
        self.assembly = None;
        for key in self.streams.keys() {
            self.break_stream(key, broken);
        }
        self.queue.clear();
        self.openers.drain(..).for_each(Waker::wake);
        self.wake_task();
    }

    /// Frames neither come nor go on this stream any more. What has arrived completely stays
    /// readable.
    fn break_stream(&mut self, key: Key, broken: Broken) {
        let stream = &mut self.streams[key];
        stream.broken = Some(broken);
        stream.waiting = VecDeque::new();
        stream.waiting_bytes = 0;
        if !stream.receive_ended {
            self.discard(key);
        }
        let stream = &mut self.streams[key];
        stream.wake_all();
        if stream.handles > 0 && !stream.orphan {
            stream.orphan = true;
            self.orphans += 1;
        }
        self.close(key);
    }

    fn close(&mut self, key: Key) {
        if self.streams[key].receive_ended {
            self.ended[self.ended_at % ENDED] = self.streams[key].id;
            self.ended_at = self.ended_at.wrapping_add(1);
        }
        self.streams.close(key);
        if !self.openers.is_empty() {
            self.openers.drain(..).for_each(Waker::wake);
        }
        if self.going != Going::Staying || self.peer_going.is_some() {
            // That may have been the last one.
            self.wake_task();
        }
    }

    /// Resets a stream from our side.
    fn reset_frame(&mut self, id: u32, reason: Reason) {
        self.output.frame(RST_STREAM, 0, id, &reason.0.to_be_bytes());
        self.wake_task();
    }

    // What the handles of a stream call.

    /// Begins a turn of the task that writes and reads. It is woken when there is something to do for it, but
    /// not by what happens before [`Core::end_turn`]: that it sees itself.
    pub fn begin_turn(&mut self, cx: &Context<'_>) {
        self.woken = true;
        register(&mut self.task, cx);
    }

    /// See [`Core::begin_turn`].
    pub fn end_turn(&mut self) {
        self.woken = false;
    }

    fn wake_task(&mut self) {
        if !self.woken {
            self.woken = true;
            if let Some(task) = &self.task {
                task.wake_by_ref();
            }
        }
    }

    /// The head that opened an accepted stream.
    pub fn head(&mut self, key: Key) -> Rc<Head> {
        self.streams[key].head.take().unwrap_or_default()
    }

    /// The head of the response.
    pub fn poll_head(&mut self, key: Key, cx: &Context<'_>) -> Poll<Result<Rc<Head>, Broken>> {
        let stream = &mut self.streams[key];
        match (stream.head.take(), stream.broken) {
            (Some(head), _) => Poll::Ready(Ok(head)),
            (None, Some(broken)) => Poll::Ready(Err(broken)),
            (None, None) => {
                register(&mut stream.on_receive, cx);
                Poll::Pending
            }
        }
    }

    /// Data in the order in which they arrived; `None` at the end. Reading gives the peer's window
    /// back.
    pub fn poll_data(&mut self, key: Key, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let stream = &mut self.streams[key];
        if let Some(data) = stream.take_data() {
            self.give_back(key, data.len());
            return Poll::Ready(Some(Ok(data)));
        }
        match stream.broken {
            _ if stream.receive_ended => Poll::Ready(None),
            Some(broken) => Poll::Ready(Some(Err(broken))),
            None => {
                register(&mut stream.on_receive, cx);
                Poll::Pending
            }
        }
    }

    /// The trailers, once the data have ended.
    pub fn take_trailers(&mut self, key: Key) -> Option<Rc<Head>> {
        self.streams[key].trailers.take()
    }

    /// Whether all has arrived that will.
    pub fn is_received(&self, key: Key) -> bool {
        self.streams[key].receive_ended
    }

    /// How much may be sent before it waits; ready when that is more than nothing.
    pub fn poll_room(&mut self, key: Key, cx: &Context<'_>) -> Poll<Result<usize, Broken>> {
        let limit = self.config.send_buffer_bytes;
        let stream = &mut self.streams[key];
        match (stream.broken, limit.saturating_sub(stream.waiting_bytes)) {
            (Some(broken), _) => Poll::Ready(Err(broken)),
            (None, 0) => {
                register(&mut stream.on_room, cx);
                Poll::Pending
            }
            (None, room) => Poll::Ready(Ok(room)),
        }
    }

    /// Ready when the stream is broken.
    pub fn poll_reset(&mut self, key: Key, cx: &Context<'_>) -> Poll<Broken> {
        let stream = &mut self.streams[key];
        match stream.broken {
            Some(broken) => Poll::Ready(broken),
            None => {
                register(&mut stream.on_reset, cx);
                Poll::Pending
            }
        }
    }

    /// Breaks a stream off.
    pub fn reset(&mut self, key: Key, reason: Reason) {
        if self.streams.is_open(key) {
            self.reset_frame(self.streams[key].id, reason);
            self.break_stream(key, Broken::ByUs(reason));
        }
    }

    /// Nobody will read this stream's data any more.
    pub fn stop_reading(&mut self, key: Key) {
        self.streams[key].unread = true;
        self.discard(key);
    }

    /// Gives one of a stream's handles back. With the last one the stream ends if it has not.
    pub fn release(&mut self, key: Key) {
        self.streams[key].handles -= 1;
        if self.streams[key].handles > 0 {
            return;
        }
        self.discard(key);
        let stream = &mut self.streams[key];
        if std::mem::take(&mut stream.orphan) {
            self.orphans -= 1;
        }
        if self.streams.is_open(key) {
            let stream = &self.streams[key];
            if !stream.has_to_send() || matches!(stream.end, End::Open) {
                self.drop_open(key);
            }
            return;
        }
        self.streams.free_if_unused(key);
    }

    /// Resets an open stream that nobody holds. A server that has answered wants the rest of the
    /// request no more, and nothing is wrong with that.
    fn drop_open(&mut self, key: Key) {
        let answered = self.server && self.streams[key].send_ended;
        self.reset(key, if answered { Reason::NO_ERROR } else { Reason::CANCEL });
    }

    /// Bytes held for streams, received and to be sent, for bounds in tests.
    pub fn held_bytes(&self) -> usize {
        let streams = self.streams.slots().map(|stream| stream.received_bytes() + stream.waiting_bytes);
        let assembly = self.assembly.as_ref().map_or(0, |assembly| assembly.block.capacity());
        streams.sum::<usize>() + assembly + self.carry.capacity() + self.output.len()
    }

    /// Streams that are open, and those that are broken and still held.
    pub fn stream_counts(&self) -> (usize, usize) {
        (self.streams.open(), self.orphans)
    }
}
