//! Our HTTP/2 by itself, as a server and as a client: what the other side sends, mixed with what our
//! side does with its streams.
//!
//! ```text
//! side:u8 (0 server, 1 client), steps...
//!     0 flags:u8 block:string        HEADERS on the next stream
//!     1 kind:u8 flags:u8 stream:u8 payload:string    any frame
//!     2 bytes:string                 any bytes
//!     3 cut:u8                       from here on bytes arrive in pieces of this size
//!     4 count:u8                     a common request that many times, each on a new stream
//!     5 stream:u8 len:u16            our side sends a head and so many bytes
//!     6 stream:u8                    our side sends trailers
//!     7 stream:u8                    our side reads what there is
//!     8 stream:u8                    our side lets the stream go
//!     9 stream:u8 reason:u8          our side resets it
//!    10                              the output leaves
//!    11 how:u8                       a ping, going away, or the end
//! ```
//!
//! Promises: no panic; what is held stays below the windows and limits, as long as nobody reads on
//! while the output is full; when all handles are gone, no stream is left behind on a connection that
//! is over.

use std::io::IoSlice;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http2::core::{Core, Key};
use http2::{Config, Field, Head, Reason};

use crate::Seed;
use crate::input::{Input, Output};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
const WINDOW_BYTES: u32 = 100_000;
const SEND_BUFFER_BYTES: usize = 16 << 10;
/// Streams that our side keeps.
const MOST_STREAMS: usize = 64;
/// Received data, a header list that is put together, a cut frame, the output up to where reading
/// stops and one step behind it. Buffers may be twice as large as what is in them.
const HELD_BYTES: usize = 2 * (WINDOW_BYTES as usize + (16 << 10) + (1 << 20) + (70 << 10))
    + MOST_STREAMS * (SEND_BUFFER_BYTES + (70 << 10));

struct Side {
    core: Core,
    server: bool,
    streams: Vec<Key>,
    next_id: u32,
    cut: usize,
    head: Rc<Head>,
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let server = input.u8().is_multiple_of(2);
    let config = Config {
        stream_window_bytes: WINDOW_BYTES,
        connection_window_bytes: WINDOW_BYTES,
        max_concurrent_streams: 40,
        max_header_list_bytes: 16 << 10,
        send_buffer_bytes: SEND_BUFFER_BYTES,
        ..Config::default()
    };
    let core = if server { Core::server(config) } else { Core::client(config) };
    let head = match server {
        true => Head::response(200).with(Field::new("content-type", "application/grpc")),
        false => Head::request("POST", "http", "a", "/b").with(Field::literal("c", "d")),
    };
    let mut side =
        Side { core, server, streams: Vec::new(), next_id: 1, cut: usize::MAX, head: Rc::new(head) };
    if server {
        side.core.receive(PREFACE);
    }
    side.core.receive(SETTINGS);
    while !input.is_empty() {
        side.step(&mut input);
        let held = side.core.held_bytes();
        assert!(held < HELD_BYTES, "{held} bytes are held");
    }
    side.finish();
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl Side {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 12 {
            0 => {
                let id = self.new_id();
                self.frame(1, input.u8(), id, input.string());
            }
            1 => self.frame(input.u8(), input.u8(), input.u8().into(), input.string()),
            2 => self.receive(input.string()),
            3 => self.cut = usize::from(input.u8()).max(1),
            4 => {
                for _ in 0..input.u8() {
                    let id = self.new_id();
                    self.frame(1, 5, id, if self.server { b"\x83\x86\x84" } else { b"\x88" });
                }
            }
            5 => {
                let (key, len) = (self.stream(input), input.u16());
                let Some(key) = key else { return self.open() };
                let _ = self.core.send_head(key, &self.head, false);
                if let Poll::Ready(Ok(_)) = self.core.poll_room(key, &cx()) {
                    let _ = self.core.send_data(key, Bytes::from(vec![0; len.into()]), false);
                }
            }
            6 => {
                let trailers = Rc::new(Head::trailers().with(Field::new("grpc-status", "0")));
                if let Some(key) = self.stream(input) {
                    let _ = self.core.send_trailers(key, &trailers);
                }
            }
            7 => {
                if let Some(key) = self.stream(input) {
                    let _ = self.core.poll_head(key, &cx());
                    while let Poll::Ready(Some(Ok(_))) = self.core.poll_data(key, &cx()) {}
                }
            }
            8 => {
                if let Some(key) = self.stream(input) {
                    self.streams.retain(|&other| other != key);
                    self.let_go(key);
                }
            }
            9 => {
                let (key, reason) = (self.stream(input), input.u8());
                if let Some(key) = key {
                    self.core.reset(key, Reason(reason.into()));
                }
            }
            10 => self.write(),
            _ => match input.u8() % 4 {
                0 => self.core.ping(),
                1 => self.core.go_away(),
                2 => self.core.finish(),
                _ => self.core.shut_down(Reason::NO_ERROR),
            },
        }
    }

    fn new_id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id += 2;
        if !self.server {
            self.open();
        }
        id
    }

    fn stream(&self, input: &mut Input<'_>) -> Option<Key> {
        let number = usize::from(input.u8());
        (!self.streams.is_empty()).then(|| self.streams[number % self.streams.len()])
    }

    fn open(&mut self) {
        if !self.server
            && self.streams.len() < MOST_STREAMS
            && let Poll::Ready(Ok(key)) = self.core.poll_open(&self.head, false, &cx())
        {
            self.streams.push(key);
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        self.receive(&bytes);
    }

    fn receive(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(self.cut) {
            if !self.core.wants_input() {
                self.write();
            }
            self.core.receive(piece);
        }
        while let Some(key) = self.core.accept() {
            match self.streams.len() < MOST_STREAMS {
                true => self.streams.push(key),
                false => self.let_go(key),
            }
        }
    }

    fn let_go(&mut self, key: Key) {
        self.core.stop_reading(key);
        self.core.release(key);
        self.core.release(key);
    }

    fn write(&mut self) {
        while self.core.output_len() > 0 {
            let mut slices = [IoSlice::new(&[]); 3];
            let count = self.core.output_slices(&mut slices, 999);
            let len: usize = slices[..count].iter().map(|slice| slice.len()).sum();
            // Half of it: sockets take what they like.
            self.core.output_written(len.div_ceil(2));
        }
    }

    fn finish(mut self) {
        for key in std::mem::take(&mut self.streams) {
            self.let_go(key);
        }
        self.core.shut_down(Reason::NO_ERROR);
        self.write();
        assert_eq!(self.core.stream_counts(), (0, 0));
        assert_eq!(self.core.held_bytes(), 0);
    }
}

/// Calls of each shape from both sides, and the usual attacks.
pub fn seeds() -> Vec<Seed> {
    let server = || Output::default().u8(0);
    let client = || Output::default().u8(1);
    let block = b"\x83\x86\x44\x01/\x41\x01a\x40\x01b\x01c";
    let open = |steps: Output, flags: u8| steps.u8(0).u8(flags).string(block);
    let data = |steps: Output, flags: u8| steps.u8(1).u8(0).u8(flags).u8(1).string(b"hello");
    let answer = |steps: Output| steps.u8(5).u8(0).u16(3).u8(6).u8(0).u8(10);
    let cut = server().u8(3).u8(1);
    let mut flood = open(server(), 4);
    for _ in 0..50 {
        flood = data(flood, 0).u8(1).u8(6).u8(0).u8(0).string(&[0; 8]);
    }
    let windows = open(server(), 5).u8(5).u8(0).u16(60_000).u8(5).u8(0).u16(60_000).u8(10);
    let windows =
        windows.u8(1).u8(8).u8(0).u8(1).string(&[0, 1, 0, 0]).u8(1).u8(8).u8(0).u8(0).string(&[0, 1, 0, 0]);
    let response = client().u8(5).u8(0).u16(9).u8(1).u8(1).u8(4).u8(1).string(b"\x88");
    vec![
        ("call", answer(data(open(server(), 4), 1).u8(7).u8(0)).u8(8).u8(0).0),
        ("call-in-bytes", answer(data(open(cut, 4), 1).u8(7).u8(0)).0),
        ("continued", open(server(), 0).u8(1).u8(9).u8(4).u8(1).string(b"\x82").0),
        ("many", server().u8(4).u8(60).u8(10).u8(8).u8(3).u8(9).u8(2).u8(8).0),
        ("taken-back", open(server(), 4).u8(1).u8(3).u8(0).u8(1).string(&[0, 0, 0, 8]).u8(7).u8(0).0),
        ("flood", flood.0),
        ("windows", windows.u8(1).u8(4).u8(0).u8(0).string(b"\0\x04\0\0\0\x01").u8(10).0),
        ("going", open(server(), 4).u8(11).u8(1).u8(1).u8(6).u8(1).u8(0).string(b"going!\0\0").0),
        ("response", data(response, 0).u8(1).u8(1).u8(5).u8(1).string(b"\x40\x01a\x01b").u8(7).u8(0).0),
        ("client-goaway", client().u8(5).u8(0).u16(9).u8(1).u8(7).u8(0).u8(0).string(&[0; 8]).0),
        ("bytes", server().u8(2).string(b"\0\0\x03\x01\x05\0\0\0\x01\x83\x86\x84").0),
        ("table", server().u8(0).u8(5).string(b"\x20\x3f\xe1\x1f\x83\x86\x84\x40\x01a\x01b\xbe").0),
    ]
}
