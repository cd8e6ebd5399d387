//! The machine fed with bytes: what each wrong frame causes, abuse, and flow control with random
//! windows.

use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use proptest::prelude::*;

use super::frame::*;
use super::*;
use crate::hpack::Field;

const REQUEST: &[u8] = b"\x83\x86\x84"; // POST, http, /

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader { len: payload.len(), kind, flags, stream }.write();
    [&header[..], payload].concat()
}

fn request(stream: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, REQUEST)
}

/// A server that has exchanged its first words with a client.
fn server() -> Core {
    server_with(Config::default())
}

fn server_with(config: Config) -> Core {
    let mut core = Core::server(config);
    core.receive(PREFACE);
    core.receive(&frame(SETTINGS, 0, 0, &[]));
    take(&mut core);
    core
}

/// Takes the whole output.
fn take(core: &mut Core) -> Vec<u8> {
    let mut bytes = Vec::new();
    while core.output_len() > 0 {
        let mut slices = [std::io::IoSlice::new(&[]); 4];
        let count = core.output_slices(&mut slices, 999);
        let before = bytes.len();
        slices[..count].iter().for_each(|slice| bytes.extend_from_slice(slice));
        let written = bytes.len() - before;
        core.output_written(written);
    }
    bytes
}

/// Frames as text: kind, flags, stream, and the payload if it is short.
fn show(mut bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk() {
        let header = FrameHeader::read(head);
        let (payload, behind) = rest.split_at(header.len);
        let number = |at: usize| {
            payload.get(at..at + 4).map_or(0, |word| u32::from_be_bytes(word.try_into().unwrap()))
        };
        lines.push(match header.kind {
            RST_STREAM => format!("RST {} {}", header.stream, Reason(number(0))),
            GOAWAY => format!("GOAWAY {} {}", number(0), Reason(number(4))),
            WINDOW_UPDATE => format!("WINDOW {} {}", header.stream, number(0)),
            PING => format!("PING {}", header.flags),
            SETTINGS => format!("SETTINGS {}", header.flags),
            HEADERS => format!("HEADERS {} {}", header.stream, header.flags),
            DATA => format!("DATA {} {} {}", header.stream, header.flags, header.len),
            other => format!("{other} {} {}", header.stream, header.flags),
        });
        bytes = behind;
    }
    lines
}

#[track_caller]
fn check(core: &mut Core, input: &[u8], expected: &[&str]) {
    core.receive(input);
    assert_eq!(show(&take(core)), expected);
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn read_all(core: &mut Core, key: Key) -> (Vec<u8>, Option<Broken>, bool) {
    let mut all = Vec::new();
    loop {
        match core.poll_data(key, &cx()) {
            Poll::Ready(Some(Ok(data))) => all.extend_from_slice(&data),
            Poll::Ready(Some(Err(broken))) => return (all, Some(broken), false),
            Poll::Ready(None) => return (all, None, true),
            Poll::Pending => return (all, None, false),
        }
    }
}

fn respond(core: &mut Core, key: Key, body: &'static [u8]) {
    let head = Rc::new(Head::response(200));
    core.send_head(key, &head, false).unwrap();
    core.send_data(key, Bytes::from_static(body), true).unwrap();
    core.release(key);
    core.release(key);
}

#[test]
fn a_call_and_its_answer() {
    let mut core = server();
    core.receive(&[request(1, 0), frame(DATA, END_STREAM, 1, b"hello")].concat());
    let key = core.accept().unwrap();
    let head = core.head(key);
    assert_eq!((head.method(), head.path()), (&b"POST"[..], "/"));
    assert_eq!(read_all(&mut core, key), (b"hello".to_vec(), None, true));
    respond(&mut core, key, b"bye");
    assert_eq!(show(&take(&mut core)), ["HEADERS 1 4", "DATA 1 1 3"]);
    assert_eq!(core.stream_counts(), (0, 0));
}

#[test]
fn written_data_are_sent_like_others() {
    let mut core = server();
    let window = [&frame(SETTINGS, 0, 0, b"\0\x04\0\0\0\x05")[..], &request(1, END_STREAM)].concat();
    core.receive(&window);
    let key = core.accept().unwrap();
    let _ = core.head(key);
    core.send_head(key, &Rc::new(Head::response(200)), false).unwrap();
    core.send_written(key, 0, false, |_| ()).unwrap();
    core.send_written(key, 3, false, |out| out.extend_from_slice(b"abc")).unwrap();
    // Two of these have to wait for the window.
    core.send_written(key, 4, true, |out| out.extend_from_slice(b"defg")).unwrap();
    assert_eq!(core.send_written(key, 1, true, |_| unreachable!()), Err(Broken::ByUs(Reason::STREAM_CLOSED)));
    let sent = take(&mut core);
    assert_eq!(show(&sent), ["SETTINGS 1", "HEADERS 1 4", "DATA 1 0 3", "DATA 1 0 2"]);
    assert!(sent.ends_with(b"de"));
    check(&mut core, &frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\x09"), &["DATA 1 1 2"]);
}

#[test]
fn who_discards_data_hears_of_their_end() {
    let mut core = Core::client(Config { stream_window_bytes: 8, ..Config::default() });
    core.receive(&[frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, ACK, 0, &[])].concat());
    let head = Rc::new(Head::request("POST", "http", "a", "/"));
    let Poll::Ready(Ok(key)) = core.poll_open(&head, true, &cx()) else { panic!("not opened") };
    take(&mut core);
    core.receive(&[frame(HEADERS, END_HEADERS, 1, b"\x88"), frame(DATA, 0, 1, b"taken")].concat());
    core.stop_reading(key);
    // The window is given back, so it never fills.
    check(&mut core, &[], &["WINDOW 1 5"]);
    check(&mut core, &frame(DATA, 0, 1, b"ab"), &[]);
    check(&mut core, &frame(DATA, 0, 1, b"cdefgh"), &["WINDOW 1 8"]);
    let Poll::Ready(Ok(head)) = core.poll_head(key, &cx()) else { panic!("no head") };
    assert_eq!(head.status(), 200);
    assert_eq!(read_all(&mut core, key), (Vec::new(), None, false));
    core.receive(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0, 1, b'a', 1, b'b']));
    assert_eq!(read_all(&mut core, key), (Vec::new(), None, true));
    assert_eq!(core.take_trailers(key).unwrap().get("a"), Some(&b"b"[..]));
}

#[test]
fn wrong_frames_end_the_connection() {
    let open = request(1, 0);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (frame(DATA, 0, 0, b"x"), "GOAWAY 0 PROTOCOL_ERROR"),
        (frame(DATA, 0, 1, b"x"), "GOAWAY 0 PROTOCOL_ERROR"),
        (frame(HEADERS, END_HEADERS, 2, REQUEST), "GOAWAY 0 PROTOCOL_ERROR"),
        (frame(HEADERS, END_HEADERS, 0, REQUEST), "GOAWAY 0 PROTOCOL_ERROR"),
        (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff"), "GOAWAY 0 COMPRESSION_ERROR"),
        (frame(HEADERS, END_HEADERS | PADDED, 1, b"\x09\x83"), "GOAWAY 0 PROTOCOL_ERROR"),
        (frame(CONTINUATION, END_HEADERS, 1, REQUEST), "GOAWAY 0 PROTOCOL_ERROR"),
        ([frame(HEADERS, 0, 1, REQUEST), frame(PING, 0, 0, &[0; 8])].concat(), "GOAWAY 0 PROTOCOL_ERROR"),
        ([frame(HEADERS, 0, 1, REQUEST), frame(0xff, 0, 1, b"")].concat(), "GOAWAY 0 PROTOCOL_ERROR"),
        ([request(5, 0), request(3, 0)].concat(), "GOAWAY 5 PROTOCOL_ERROR"),
        (frame(PING, 0, 0, b"short"), "GOAWAY 0 FRAME_SIZE_ERROR"),
        (frame(PING, 0, 1, &[0; 8]), "GOAWAY 0 PROTOCOL_ERROR"),
        (frame(SETTINGS, 0, 1, b""), "GOAWAY 0 PROTOCOL_ERROR"),
        (frame(SETTINGS, 0, 0, b"odd"), "GOAWAY 0 FRAME_SIZE_ERROR"),
        (frame(SETTINGS, ACK, 0, &[0; 6]), "GOAWAY 0 FRAME_SIZE_ERROR"),
        (frame(SETTINGS, 0, 0, b"\0\x02\0\0\0\x02"), "GOAWAY 0 PROTOCOL_ERROR"),
        (frame(SETTINGS, 0, 0, b"\0\x04\x80\0\0\0"), "GOAWAY 0 FLOW_CONTROL_ERROR"),
        (frame(SETTINGS, 0, 0, b"\0\x05\0\0\0\x01"), "GOAWAY 0 PROTOCOL_ERROR"),
        (frame(RST_STREAM, 0, 1, &[0; 4]), "GOAWAY 0 PROTOCOL_ERROR"),
        ([open.clone(), frame(RST_STREAM, 0, 1, b"")].concat(), "GOAWAY 1 FRAME_SIZE_ERROR"),
        (frame(WINDOW_UPDATE, 0, 0, &[0; 4]), "GOAWAY 0 PROTOCOL_ERROR"),
        (frame(WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255]), "GOAWAY 0 FLOW_CONTROL_ERROR"),
        (frame(WINDOW_UPDATE, 0, 3, &[0, 0, 0, 1]), "GOAWAY 0 PROTOCOL_ERROR"),
        (frame(PUSH_PROMISE, 0, 1, &[0; 4]), "GOAWAY 0 PROTOCOL_ERROR"),
        (frame(PRIORITY, 0, 0, &[0; 5]), "GOAWAY 0 PROTOCOL_ERROR"),
        (b"\0\x40\x01\0\0\0\0\0\x01".to_vec(), "GOAWAY 0 FRAME_SIZE_ERROR"),
        (frame(GOAWAY, 0, 1, &[0; 8]), "GOAWAY 0 PROTOCOL_ERROR"),
    ];
    for (input, expected) in cases {
        let mut core = server();
        core.receive(&input);
        let output = show(&take(&mut core));
        assert_eq!(output.last().map(String::as_str), Some(expected), "{:?}", show(&input));
        assert!(core.is_over());
        core.receive(&request(9, 0));
        assert_eq!(core.output_len(), 0, "nothing is answered any more");
    }
    let mut core = Core::server(Config::default());
    core.receive(b"GET / HTTP/1.1\r\n");
    assert!(core.is_over());
    let mut core = Core::server(Config::default());
    core.receive(&[&PREFACE[..], &frame(PING, 0, 0, &[0; 8])].concat());
    assert!(core.is_over(), "settings come first");
}

#[test]
fn wrong_streams_are_reset() {
    let literal = |name: &str, value: &str| {
        [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
    };
    let with = |extra: &[u8]| frame(HEADERS, END_HEADERS, 1, &[REQUEST, extra].concat());
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (with(&literal("Big", "x")), "RST 1 PROTOCOL_ERROR"),
        (with(&literal("connection", "close")), "RST 1 PROTOCOL_ERROR"),
        (with(&literal("te", "gzip")), "RST 1 PROTOCOL_ERROR"),
        (with(&literal(":other", "x")), "RST 1 PROTOCOL_ERROR"),
        (with(&literal("a", "line\nbreak")), "RST 1 PROTOCOL_ERROR"),
        (with(b"\x83"), "RST 1 PROTOCOL_ERROR"),
        (with(&[literal("a", "b"), vec![0x81]].concat()), "RST 1 PROTOCOL_ERROR"),
        (with(&literal("content-length", "no")), "RST 1 PROTOCOL_ERROR"),
        (frame(HEADERS, END_HEADERS, 1, b"\x83\x86"), "RST 1 PROTOCOL_ERROR"),
        (frame(HEADERS, END_HEADERS, 1, b"\x83\x86\x04\0"), "RST 1 PROTOCOL_ERROR"),
        (frame(HEADERS, END_HEADERS, 1, b"\x88"), "RST 1 PROTOCOL_ERROR"),
        ([request(1, END_STREAM), frame(DATA, 0, 1, b"x")].concat(), "RST 1 STREAM_CLOSED"),
        ([request(1, END_STREAM), request(1, END_STREAM)].concat(), "RST 1 STREAM_CLOSED"),
        ([request(1, 0), request(1, END_STREAM)].concat(), "RST 1 PROTOCOL_ERROR"),
        ([request(1, 0), frame(HEADERS, END_HEADERS, 1, b"")].concat(), "RST 1 PROTOCOL_ERROR"),
        ([request(1, 0), frame(WINDOW_UPDATE, 0, 1, &[0; 4])].concat(), "RST 1 PROTOCOL_ERROR"),
        (
            [request(1, 0), frame(WINDOW_UPDATE, 0, 1, &[0x7f, 255, 255, 255])].concat(),
            "RST 1 FLOW_CONTROL_ERROR",
        ),
        (frame(PRIORITY, 0, 1, &[0; 4]), "RST 1 FRAME_SIZE_ERROR"),
        (
            [with(&literal("content-length", "3")), frame(DATA, END_STREAM, 1, b"xy")].concat(),
            "RST 1 PROTOCOL_ERROR",
        ),
        (
            [with(&literal("content-length", "3")), frame(DATA, 0, 1, b"wxyz")].concat(),
            "RST 1 PROTOCOL_ERROR",
        ),
    ];
    for (input, expected) in cases {
        let mut core = server();
        check(&mut core, &input, &[expected]);
        check(&mut core, &frame(PING, 0, 0, &[0; 8]), &["PING 1"]);
    }
}

#[test]
fn closed_streams_are_told_from_idle_ones() {
    let mut core = server();
    core.receive(&request(1, END_STREAM));
    let key = core.accept().unwrap();
    respond(&mut core, key, b"");
    take(&mut core);
    check(&mut core, &frame(DATA, 0, 1, b"late"), &["RST 1 STREAM_CLOSED"]);
    check(&mut core, &frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), &[]);
    check(&mut core, &frame(RST_STREAM, 0, 1, &[0; 4]), &[]);
    // Ended by us while the client may have had something under way: that is no mistake.
    core.receive(&request(3, 0));
    let key = core.accept().unwrap();
    core.reset(key, Reason::CANCEL);
    take(&mut core);
    check(&mut core, &request(3, END_STREAM), &["RST 3 STREAM_CLOSED"]);
    // Ended by the client itself.
    check(&mut core, &request(1, END_STREAM), &["GOAWAY 3 STREAM_CLOSED"]);
}

/// `etcdctl` 3.4 puts the whole URL of the endpoint where HTTP/2 wants a host (K28 once).
#[test]
fn any_authority_is_taken() {
    for authority in ["http://127.0.0.1:2379", "/unix/socket", "", "a b%"] {
        let mut core = server();
        let mut block = vec![0x83, 0x86, 0x84, 0x01, authority.len() as u8];
        block.extend_from_slice(authority.as_bytes());
        core.receive(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block));
        let key = core.accept().expect("accepted");
        assert_eq!(core.head(key).authority(), Some(authority.as_bytes()));
    }
}

#[test]
fn streams_are_limited() {
    let mut core = server_with(Config { max_concurrent_streams: 2, ..Config::default() });
    core.receive(&[request(1, 0), request(3, 0)].concat());
    check(&mut core, &request(5, 0), &["RST 5 REFUSED_STREAM"]);
    let first = core.accept().unwrap();
    core.release(first);
    core.release(first);
    assert_eq!(show(&take(&mut core)), ["RST 1 CANCEL"]);
    check(&mut core, &request(7, 0), &[]);
    assert_eq!(core.stream_counts(), (2, 0));
}

#[test]
fn going_away_lets_streams_finish() {
    let mut core = server();
    core.receive(&request(1, END_STREAM));
    core.go_away();
    assert_eq!(show(&take(&mut core)), ["GOAWAY 2147483647 NO_ERROR", "PING 0"]);
    // Under way before the client heard of it.
    core.receive(&request(3, END_STREAM));
    check(&mut core, &frame(PING, ACK, 0, &GOING_PING), &["GOAWAY 3 NO_ERROR"]);
    core.receive(&[request(5, 0), frame(DATA, 0, 5, b"x")].concat());
    assert!(!core.is_over());
    while let Some(key) = core.accept() {
        respond(&mut core, key, b"");
    }
    assert!(core.is_over());
}

#[test]
fn a_reset_breaks_what_had_not_arrived() {
    let mut core = server();
    core.receive(&[request(1, 0), frame(DATA, 0, 1, b"half")].concat());
    core.receive(&[request(3, 0), frame(DATA, END_STREAM, 3, b"whole")].concat());
    core.receive(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]));
    core.receive(&frame(RST_STREAM, 0, 3, &[0, 0, 0, 8]));
    let (half, whole) = (core.accept().unwrap(), core.accept().unwrap());
    let cancel = Broken::ByPeer(Reason::CANCEL);
    assert_eq!(read_all(&mut core, half), (vec![], Some(cancel), false));
    assert_eq!(read_all(&mut core, whole), (b"whole".to_vec(), None, true));
    assert_eq!(core.poll_reset(whole, &cx()), Poll::Ready(cancel));
    assert_eq!(core.send_head(whole, &Rc::new(Head::response(200)), true), Err(cancel));
    assert_eq!(core.stream_counts(), (0, 2));
    for key in [half, half, whole, whole] {
        core.release(key);
    }
    assert_eq!(core.stream_counts(), (0, 0));
}

/// CVE-2023-44487: streams opened and taken back at once, while their handlers run.
#[test]
fn rapid_resets_end_the_connection() {
    let mut core = server();
    let mut id = 1;
    while !core.is_over() {
        core.receive(&[request(id, END_STREAM), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])].concat());
        id += 2;
        assert!(id < 40_000);
    }
    assert_eq!(show(&take(&mut core)).last().unwrap(), &format!("GOAWAY {} ENHANCE_YOUR_CALM", id - 2));
    // Handlers that end in time may be taken back for ever.
    let mut core = server();
    for id in (1..100_000).step_by(2) {
        core.receive(&[request(id, END_STREAM), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])].concat());
        let key = core.accept().unwrap();
        core.release(key);
        core.release(key);
    }
    assert!(!core.is_over());
}

#[test]
fn header_floods_are_bounded() {
    // CONTINUATION frames without end, empty or not.
    for part in [&b""[..], &[0x83; 10_000]] {
        let mut core = server();
        core.receive(&frame(HEADERS, 0, 1, b""));
        let continued = frame(CONTINUATION, 0, 1, part);
        let count = (0..1000)
            .take_while(|_| {
                !core.is_over() && {
                    core.receive(&continued);
                    true
                }
            })
            .count();
        assert!(count < 300, "{count}");
        assert!(show(&take(&mut core)).last().unwrap().ends_with("ENHANCE_YOUR_CALM"));
    }
    // A list above the limit is answered with 431.
    let mut core = server();
    let mut block = vec![0x40, 1, b'a', 0x7f, 0xa1, 0x1e];
    block.extend(vec![b'v'; 4000]);
    block.extend(vec![0xbe; 1000]);
    check(&mut core, &frame(HEADERS, END_HEADERS, 1, &block), &["HEADERS 1 5", "RST 1 NO_ERROR"]);
}

/// Who makes us answer and does not read is not read from any more.
#[test]
fn answers_that_are_not_read_stop_the_reading() {
    for flood in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[0; 6]), frame(DATA, 0, 1, b"")] {
        let mut core = server();
        core.receive(&request(1, END_STREAM));
        let mut rounds = 0;
        while core.wants_input() {
            core.receive(&flood);
            rounds += 1;
            assert!(rounds < 200_000);
        }
        assert!(core.held_bytes() < 2 << 20 && !core.is_over());
        take(&mut core);
        assert!(core.wants_input());
    }
}

/// Two settings frames of 15 bytes would touch every stream.
#[test]
fn windows_of_many_streams_are_not_changed_for_ever() {
    let mut core = server();
    (0..5_000).for_each(|number| core.receive(&request(2 * number + 1, 0)));
    let settings =
        [frame(SETTINGS, 0, 0, b"\0\x04\0\0\0\x01"), frame(SETTINGS, 0, 0, b"\0\x04\0\0\0\x02")].concat();
    let rounds = (0..10_000).take_while(|_| {
        core.receive(&settings);
        take(&mut core);
        !core.is_over()
    });
    assert!((100..2_000).contains(&rounds.count()));
}

/// Tiny frames that nobody reads cost no more than their bytes.
#[test]
fn small_frames_do_not_pile_up() {
    let mut core = server();
    core.receive(&request(1, 0));
    let tiny = frame(DATA, 0, 1, b"x");
    for _ in 0..1 << 20 {
        core.receive(&tiny);
    }
    assert!(core.held_bytes() < 3 << 20, "{}", core.held_bytes());
    check(&mut core, &tiny, &["RST 1 FLOW_CONTROL_ERROR"]);
    // Nobody has it any more, so the connection's window comes back.
    assert_eq!(core.held_bytes(), 0);
}

#[test]
fn what_a_stalled_reader_costs() {
    let mut core = server();
    core.receive(&request(1, END_STREAM));
    let key = core.accept().unwrap();
    core.send_head(key, &Rc::new(Head::response(200)), false).unwrap();
    let mut sent = 0;
    while let Poll::Ready(Ok(room)) = core.poll_room(key, &cx()) {
        let part = room.min(10_000);
        core.send_data(key, Bytes::from(vec![0; part]), false).unwrap();
        sent += part;
        take(&mut core);
    }
    assert_eq!(sent, 65_535 + (256 << 10));
    check(&mut core, &frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]), &[]);
    let more = [frame(WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0])].concat();
    check(&mut core, &more, &["DATA 1 0 9"]);
    assert_eq!(core.poll_room(key, &cx()), Poll::Ready(Ok(9)));
}

#[test]
fn window_settings_apply_to_open_streams() {
    let mut core = server();
    core.receive(&frame(SETTINGS, 0, 0, b"\0\x04\0\0\0\x0a"));
    core.receive(&request(1, END_STREAM));
    take(&mut core);
    let key = core.accept().unwrap();
    respond(&mut core, key, b"twenty bytes of data");
    assert_eq!(show(&take(&mut core)), ["HEADERS 1 4", "DATA 1 0 10"]);
    // Below zero, back to one, and enough.
    check(&mut core, &frame(SETTINGS, 0, 0, b"\0\x04\0\0\0\x02"), &["SETTINGS 1"]);
    check(&mut core, &frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]), &["DATA 1 0 1"]);
    check(&mut core, &frame(SETTINGS, 0, 0, b"\0\x04\0\0\x01\0"), &["SETTINGS 1", "DATA 1 1 9"]);
    assert_eq!(core.stream_counts(), (0, 0));
}

/// Client and server joined by their bytes, delivered in pieces of chosen sizes.
struct Pair {
    client: Core,
    server: Core,
    cuts: Vec<usize>,
    at: usize,
}

impl Pair {
    fn new(client: Config, server: Config, cuts: Vec<usize>) -> Self {
        Self { client: Core::client(client), server: Core::server(server), cuts, at: 0 }
    }

    /// Moves what is there, both ways. False if there was nothing.
    fn exchange(&mut self) -> bool {
        let (up, down) = (take(&mut self.client), take(&mut self.server));
        for (bytes, up) in [(&up, true), (&down, false)] {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                self.at += 1;
                let (part, behind) = rest.split_at(self.cuts[self.at % self.cuts.len()].min(rest.len()));
                if up { &mut self.server } else { &mut self.client }.receive(part);
                rest = behind;
            }
        }
        !up.is_empty() || !down.is_empty()
    }
}

fn config(stream: u32, connection: u32, frame: u32) -> Config {
    let (stream_window_bytes, connection_window_bytes, max_frame_bytes) = (stream, connection, frame);
    Config { stream_window_bytes, connection_window_bytes, max_frame_bytes, ..Config::default() }
}

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + seed * 7 + at / 251) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    /// Whatever the windows, and however the bytes are cut, every stream gets its bytes in order and
    /// its trailers, and nothing is left.
    #[test]
    fn every_byte_arrives(
        windows in prop::collection::vec(1_u32..200_000, 4),
        frames in prop::collection::vec(16_384_u32..100_000, 2),
        bodies in prop::collection::vec((0_usize..150_000, 0_usize..150_000), 1..6),
        cuts in prop::collection::vec(1_usize..40_000, 1..8),
    ) {
        let mut pair =
            Pair::new(config(windows[0], windows[1], frames[0]), config(windows[2], windows[3], frames[1]), cuts);
        let head = Rc::new(Head::request("POST", "http", "me", "/x"));
        let answer = Rc::new(Head::response(200));
        let trailers = Rc::new(Head::trailers().with(Field::new("grpc-status", "0")));
        let mut calls = Vec::new();
        for (index, (up, _)) in bodies.iter().enumerate() {
            let Poll::Ready(Ok(key)) = pair.client.poll_open(&head, false, &cx()) else { panic!("opens") };
            pair.client.send_data(key, pattern(index, *up).into(), true).unwrap();
            calls.push((key, Vec::new(), false));
        }
        let mut served: Vec<(Key, Vec<u8>, bool)> = Vec::new();
        loop {
            let moved = pair.exchange();
            while let Some(key) = pair.server.accept() {
                served.push((key, Vec::new(), false));
            }
            for (index, (key, got, done)) in served.iter_mut().enumerate() {
                if *done {
                    continue;
                }
                let (data, broken, end) = read_all(&mut pair.server, *key);
                prop_assert_eq!(broken, None);
                got.extend(data);
                if end {
                    prop_assert_eq!(&*got, &pattern(index, bodies[index].0));
                    pair.server.send_head(*key, &answer, false).unwrap();
                    pair.server.send_data(*key, pattern(index + 9, bodies[index].1).into(), false).unwrap();
                    pair.server.send_trailers(*key, &trailers).unwrap();
                    pair.server.release(*key);
                    pair.server.release(*key);
                    *done = true;
                }
            }
            for (key, got, done) in calls.iter_mut().filter(|(.., done)| !done) {
                let (data, broken, end) = read_all(&mut pair.client, *key);
                prop_assert_eq!(broken, None);
                got.extend(data);
                *done = end;
            }
            if !moved {
                break;
            }
        }
        for (index, (key, got, done)) in calls.iter().enumerate() {
            prop_assert!(done, "stream {} of {:?}", index, pair.client.stream_counts());
            prop_assert_eq!(got, &pattern(index + 9, bodies[index].1));
            let trailers = pair.client.take_trailers(*key).expect("trailers");
            prop_assert_eq!(trailers.get("grpc-status"), Some(&b"0"[..]));
            pair.client.release(*key);
            pair.client.release(*key);
        }
        prop_assert_eq!((pair.client.stream_counts(), pair.server.stream_counts()), ((0, 0), (0, 0)));
        prop_assert_eq!(pair.server.held_bytes() + pair.client.held_bytes(), 0);
    }

    /// A byte at a time gives what the whole gives.
    #[test]
    fn cuts_do_not_matter(bodies in prop::collection::vec(0_usize..40, 1..5), junk in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut input = Vec::new();
        for (index, len) in bodies.iter().enumerate() {
            let id = 2 * index as u32 + 1;
            input.extend(frame(HEADERS, 0, id, &REQUEST[..2]));
            input.extend(frame(CONTINUATION, END_HEADERS, id, &REQUEST[2..]));
            input.extend(frame(DATA, END_STREAM, id, &pattern(index, *len)));
        }
        input.extend(&junk);
        let run = |pieces: std::slice::Chunks<'_, u8>| {
            let mut core = server();
            pieces.for_each(|piece| core.receive(piece));
            let mut bodies = Vec::new();
            while let Some(key) = core.accept() {
                bodies.push(read_all(&mut core, key));
            }
            (bodies, take(&mut core), core.is_over())
        };
        prop_assert_eq!(run(input.chunks(1)), run(input.chunks(input.len())));
    }
}
