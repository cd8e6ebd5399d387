//! A connection to the client port, from its first byte on.
//!
//! ```text
//! mode, content
//!   0 bytes         what the client sends
//!   1 bytes         the same behind the HTTP/2 preface and an empty SETTINGS frame
//!   2 steps...      behind those, frames that are right in themselves:
//!     0 method:u8 headers:u8         opens the next stream with a call of a method of ours;
//!                                    bits of headers: 0 deadline, 1 gzip, 2 needs a leader,
//!                                    3 another path, 4 token
//!     1 message:string               a gRPC message on that stream
//!     2 message:string               the same, and the end of the stream
//!     3 reason:u8                    takes the call back
//!     4 kind:u8 flags:u8 payload:string     any frame on that stream
//!     5 bytes:string                 any bytes
//! ```
//!
//! Promise: however a client talks, a connection whose client has gone ends.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use api::grpc::{Metrics, Options, Peer, serve_io};
use api::http::HttpSide;
use api::services::EtcdService;
use prost::Message as _;
use proto::etcdserverpb as pb;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, LocalOptions};

use crate::Seed;
use crate::input::{Input, Output};
use crate::still_member::{StillMember, member};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Far longer than any input takes.
const PATIENCE: Duration = Duration::from_secs(20);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let bytes = match input.u8() % 3 {
        0 => input.rest().to_vec(),
        1 => [PREFACE, input.rest()].concat(),
        _ => Frames { bytes: PREFACE.to_vec(), stream: 0 }.all(&mut input),
    };
    let runtime = Builder::new_current_thread().enable_time().build_local(LocalOptions::default());
    runtime.expect("a runtime").block_on(talk(bytes));
}

/// Sends it all, closes this side, and reads until the other side is closed as well.
async fn talk(bytes: Vec<u8>) {
    let (client, server) = tokio::io::duplex(16 << 10);
    let serving = tokio::task::spawn_local(async move {
        let texts = || Box::new(String::new);
        let service = EtcdService::new(member().clone(), Arc::new(HttpSide::new(texts(), texts())));
        let metrics = Metrics::new(EtcdService::<StillMember>::methods());
        serve_io(server, Peer::default(), Rc::new(service), &Options::default(), &metrics).await;
    });
    let (mut reader, mut writer) = tokio::io::split(client);
    let sending = async {
        // The server may hang up at any time.
        let _ = writer.write_all(&bytes).await;
        let _ = writer.shutdown().await;
    };
    let receiving = async {
        let mut sink = Vec::new();
        let _ = reader.read_to_end(&mut sink).await;
    };
    let all = async { tokio::join!(sending, receiving, serving).2 };
    let served = tokio::time::timeout(PATIENCE, all).await.expect("the connection ends");
    served.expect("serving does not panic");
}

/// Frames that are right in themselves.
struct Frames {
    bytes: Vec<u8>,
    /// The stream that was opened last.
    stream: u32,
}

impl Frames {
    fn all(mut self, input: &mut Input<'_>) -> Vec<u8> {
        while !input.is_empty() {
            match input.u8() % 6 {
                0 => self.open(input.u8(), input.u8()),
                1 => self.message(0, input.string()),
                2 => self.message(END_STREAM, input.string()),
                3 => self.frame(RST_STREAM, 0, &u32::from(input.u8()).to_be_bytes()),
                4 => self.frame(input.u8(), input.u8(), input.string()),
                _ => self.bytes.extend(input.string()),
            }
        }
        self.bytes
    }

    fn frame(&mut self, kind: u8, flags: u8, payload: &[u8]) {
        self.bytes.extend(&(payload.len() as u32).to_be_bytes()[1..]);
        self.bytes.extend([kind, flags]);
        self.bytes.extend(self.stream.to_be_bytes());
        self.bytes.extend(payload);
    }

    fn message(&mut self, flags: u8, message: &[u8]) {
        let framed = [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat();
        self.frame(DATA, flags, &framed);
    }

    fn open(&mut self, method: u8, headers: u8) {
        self.stream = if self.stream == 0 { 1 } else { self.stream + 2 };
        let methods = EtcdService::<StillMember>::methods();
        let method = methods[usize::from(method) % methods.len()];
        let path = match headers & 8 {
            0 => format!("/{}/{}", method.service, method.method),
            _ => format!("/{}", method.method),
        };
        // Fields 3 and 6 of the static table: POST, http. No compression.
        let mut block = vec![0x83, 0x86];
        let fields = [
            (true, ":path", &path[..]),
            (true, ":authority", "localhost"),
            (true, "content-type", "application/grpc"),
            (true, "te", "trailers"),
            (headers & 1 != 0, "grpc-timeout", "1m"),
            (headers & 2 != 0, "grpc-encoding", "gzip"),
            (headers & 4 != 0, "hasleader", "true"),
            (headers & 16 != 0, "token", "t"),
        ];
        for (_, name, value) in fields.iter().filter(|(wanted, ..)| *wanted) {
            block.push(0);
            for text in [name, value] {
                block.push(text.len() as u8);
                block.extend(text.as_bytes());
            }
        }
        self.frame(HEADERS, END_HEADERS, &block);
    }
}

/// A call of each shape, HTTP/1, and a connection that stops short.
pub fn seeds() -> Vec<Seed> {
    let method = |name: &str| {
        let methods = EtcdService::<StillMember>::methods();
        methods.iter().position(|method| method.method == name).unwrap_or_default() as u8
    };
    let range = pb::RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    let range = range.encode_to_vec();
    let put = pb::PutRequest { key: "k1".into(), value: "v".into(), ..Default::default() }.encode_to_vec();
    let create = pb::WatchCreateRequest {
        key: "k".into(),
        range_end: "l".into(),
        start_revision: 1,
        prev_kv: true,
        ..Default::default()
    };
    let watch =
        pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    let watch = watch.encode_to_vec();
    let steps = || Output::default().u8(2);
    let call = |name: &str, headers: u8, message: &[u8]| {
        steps().u8(0).u8(method(name)).u8(headers).u8(2).string(message)
    };
    let mut all_methods = steps();
    for (number, _) in EtcdService::<StillMember>::methods().iter().enumerate() {
        all_methods = all_methods.u8(0).u8(number as u8).u8(0).u8(2).string(b"");
    }
    let get = b"\0GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let version = b"\0POST /version HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc";
    vec![
        ("range", call("Range", 0, &range).0),
        ("put", call("Put", 1, &put).0),
        ("stream", call("RangeStream", 4, &range).0),
        ("status", call("Status", 16, b"").0),
        ("snapshot", call("Snapshot", 0, b"").0),
        ("gzip", call("Range", 2, &range).0),
        ("unknown", call("Range", 8, &range).0),
        ("watch", steps().u8(0).u8(method("Watch")).u8(4).u8(1).string(&watch).u8(1).string(&watch).0),
        ("taken-back", steps().u8(0).u8(method("Watch")).u8(0).u8(1).string(&watch).u8(3).u8(8).0),
        ("lock", call("Lock", 0, b"\x0a\x01a").0),
        ("observe", call("Observe", 0, b"\x0a\x01a").0),
        ("all-methods", all_methods.0),
        ("ping", steps().u8(4).u8(6).u8(0).string(&[0; 8]).0),
        ("http1", get.to_vec()),
        ("http1-body", version.to_vec()),
        ("preface-only", vec![1]),
        ("half-a-preface", b"\0PRI * HTTP/2.0\r\n".to_vec()),
        ("nothing", vec![0]),
    ]
}
