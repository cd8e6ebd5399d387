//! The gRPC layer by itself, over loopback sockets: framing, limits, texts, streams, stopping.

mod support {
    pub mod client;
    pub use client::*;
}

use std::cell::Cell;
use std::io::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use api::grpc::{
    self, Call, CallContext, Code, HttpBody, Listener, MethodId, MethodInfo, Options, Protocols, Requests,
    Responses, Serving, Shape, Status, Workers,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use proto::etcdserverpb::{PutRequest, PutResponse, WatchRequest, WatchResponse};
use proto::mvccpb::KeyValue;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ECHO: &str = "/test.Test/Echo";
const COUNT: &str = "/test.Test/Count";
const CHAT: &str = "/test.Test/Chat";
const NEVER: &str = "/test.Test/Never";

const fn method(method: &'static str, shape: Shape) -> MethodInfo {
    MethodInfo { service: "test.Test", method, shape }
}

/// Echo answers with the request; Count streams the value as often as the lease says; Chat answers
/// each message; Never waits.
#[derive(Clone, Default)]
struct Test {
    abandoned: Arc<std::sync::atomic::AtomicUsize>,
    sent: Arc<std::sync::atomic::AtomicUsize>,
}

fn echoed(request: &PutRequest) -> PutResponse {
    let kv = KeyValue { key: request.key.clone(), value: request.value.clone(), ..Default::default() };
    PutResponse { header: None, prev_kv: Some(kv) }
}

struct OnDrop(Arc<std::sync::atomic::AtomicUsize>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

impl grpc::Service for Test {
    const METHODS: &'static [MethodInfo] = &[
        method("Echo", Shape::Unary),
        method("Count", Shape::ServerStream),
        method("Chat", Shape::Bidi),
        method("Never", Shape::Unary),
    ];

    fn grpc(self: &Rc<Self>, call: Call) {
        match call.path() {
            ECHO => call.unary(MethodId(0), async |request: PutRequest, context: CallContext| {
                if request.key == "fail" {
                    return Err(Status::new(Code::DataLoss, "50% lost\n"));
                }
                assert!(context.peer.address.is_some());
                Ok(echoed(&request))
            }),
            COUNT => {
                let sent = self.sent.clone();
                call.server_stream(
                    MethodId(1),
                    async move |request: PutRequest, _, responses: &mut Responses| {
                        for _ in 0..request.lease {
                            responses.send(&echoed(&request)).await?;
                            sent.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        }
                        match &request.key[..] {
                            b"fail" => Err(Status::new(Code::Aborted, "counted enough")),
                            _ => Ok(()),
                        }
                    },
                )
            }
            CHAT => call.bidi(
                MethodId(2),
                async |mut requests: Requests<WatchRequest>, _, responses: &mut Responses| {
                    let mut count = 0;
                    while let Some(request) = requests.next().await {
                        request?;
                        count += 1;
                        responses.send(&WatchResponse { watch_id: count, ..Default::default() }).await?;
                    }
                    Ok(())
                },
            ),
            NEVER => {
                let guard = OnDrop(self.abandoned.clone());
                call.unary_cancelable(MethodId(3), async move |_: PutRequest, _| {
                    let _guard = guard;
                    std::future::pending::<Result<PutResponse, Status>>().await
                })
            }
            _ => call.refuse_unknown(|service| service == "test.Test"),
        }
    }

    async fn http(
        self: Rc<Self>,
        request: Request<api::grpc::RequestBody>,
        _: grpc::Caller,
    ) -> Response<HttpBody> {
        let text = format!("{} {}\n", request.method(), request.uri().path());
        Response::new(Full::from(text).boxed_unsync())
    }
}

struct Fixture {
    workers: Arc<Workers>,
    serving: Serving,
    service: Test,
}

fn start_with(options: Options) -> Fixture {
    let workers = Arc::new(Workers::start(2, "test").unwrap());
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let service = Test::default();
    let serving = grpc::serve(&workers, listener, options, service.clone()).unwrap();
    Fixture { workers, serving, service }
}

fn start() -> Fixture {
    start_with(Options::default())
}

impl Fixture {
    fn address(&self) -> SocketAddr {
        self.serving.local_addr().unwrap()
    }
}

fn put(key: &str, value: impl Into<Bytes>) -> PutRequest {
    PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), value: value.into(), ..Default::default() }
}

async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn unary_calls_answer() {
    let fixture = start();
    let client = Client::connect(fixture.address()).await;
    let answer = client.unary(ECHO, &put("k", "v")).await;
    assert_eq!(answer.http_status, 200);
    assert_eq!(answer.headers["content-type"], "application/grpc");
    assert_eq!(answer.only::<PutResponse>().prev_kv.unwrap().value, "v");

    let answer = client.unary(ECHO, &put("fail", "")).await;
    assert_eq!((answer.code(), answer.text()), (15, "50%25 lost%0A".to_owned()));
    assert!(answer.trailers.is_empty(), "an early failure is a trailers-only answer");

    eventually("the calls are counted", || {
        let echo = fixture.serving.metrics().snapshot()[0];
        (echo.started, echo.received, echo.sent, echo.handled[0], echo.handled[15]) == (2, 2, 2, 1, 1)
    })
    .await;
}

#[tokio::test]
async fn large_messages_cross_frames_both_ways() {
    let fixture = start();
    let client = Client::connect(fixture.address()).await;
    let value = Bytes::from(vec![7; 1_500_000]);
    let message = frame(&put("k", value.clone()));
    let answer = client.call(request(ECHO), vec![message.clone()]).await;
    assert_eq!(answer.only::<PutResponse>().prev_kv.unwrap().value, value);
    // The same in odd pieces, the prefix cut as well.
    let mut rest = message;
    let mut pieces = vec![rest.split_to(1), rest.split_to(3), rest.split_to(2)];
    while !rest.is_empty() {
        pieces.push(rest.split_to(9_999.min(rest.len())));
    }
    let answer = client.call(request(ECHO), pieces).await;
    assert_eq!(answer.only::<PutResponse>().prev_kv.unwrap().value, value);
}

#[tokio::test]
async fn broken_calls_get_upstreams_texts() {
    let fixture = start();
    let client = Client::connect(fixture.address()).await;
    let good = || vec![frame(&put("k", "v"))];
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        raw_frame(1, &encoder.finish().unwrap())
    };
    let head = || request(ECHO);
    let bare = |path: &str| Request::post(format!("http://test{path}"));
    let cases = vec![
        (
            head(),
            vec![raw_frame(0, &vec![0; 2_097_153])],
            200,
            8,
            "grpc: received message larger than max (2097153 vs. 2097152)",
        ),
        (head(), vec![raw_frame(0, b"\xff\xff")], 200, 13, "grpc: error unmarshalling request: "),
        (
            head(),
            vec![raw_frame(1, b"x")],
            200,
            13,
            "grpc: compressed flag set with identity or empty encoding",
        ),
        (head(), vec![raw_frame(9, b"x")], 200, 13, "grpc: received unexpected payload format 9"),
        (head(), vec![Bytes::from_static(b"\0\0\0\0\x05ab")], 200, 13, "unexpected EOF"),
        (head(), vec![], 200, 13, "unexpected EOF"),
        (
            head().header("grpc-encoding", "deflate"),
            good(),
            200,
            12,
            "grpc: Decompressor is not installed for grpc-encoding \"deflate\"",
        ),
        (
            head().header("grpc-encoding", "gzip"),
            vec![gzip(&vec![0; 2_097_153])],
            200,
            8,
            "grpc: received message after decompression larger than max 2097152",
        ),
        (
            head().header("grpc-encoding", "gzip"),
            vec![raw_frame(1, b"junk")],
            200,
            13,
            "grpc: failed to read decompressed data: ",
        ),
        (
            head().header("grpc-timeout", "5x"),
            good(),
            400,
            13,
            "malformed grpc-timeout: transport: timeout unit is not recognized: \"5x\"",
        ),
        (
            head().method("GET"),
            good(),
            405,
            13,
            "Received a HEADERS frame with :method \"GET\" which should be POST",
        ),
        (
            bare(ECHO).header("content-type", "text/plain"),
            good(),
            415,
            3,
            "invalid gRPC request content-type \"text/plain\"",
        ),
        (
            bare(ECHO).header("content-type", "application/grpcx"),
            good(),
            415,
            3,
            "invalid gRPC request content-type \"application/grpcx\"",
        ),
        (bare(ECHO), good(), 415, 3, "invalid gRPC request content-type \"\""),
        (request("/test.Test/Nothing"), good(), 200, 12, "unknown method Nothing for service test.Test"),
        (request("/other.Service/X"), good(), 200, 12, "unknown service other.Service"),
        (request("/nonsense"), good(), 200, 12, "malformed method name: \"/nonsense\""),
    ];
    for (head, pieces, http_status, code, text) in cases {
        let answer = client.call(head, pieces).await;
        assert_eq!((answer.http_status.as_u16(), answer.code()), (http_status, code), "{text}");
        assert!(answer.text().starts_with(text), "{:?} against {text:?}", answer.text());
    }
    let answer = client.call(head().header("grpc-encoding", "gzip"), vec![gzip(&[])]).await;
    assert_eq!(answer.only::<PutResponse>(), echoed(&PutRequest::default()));
    let answer = client.call(bare(ECHO).header("content-type", "application/grpc+proto"), good()).await;
    assert_eq!(answer.code(), 0);
}

#[tokio::test]
async fn deadlines_and_cancellation_end_a_handler() {
    let fixture = start();
    let client = Client::connect(fixture.address()).await;
    let abandoned = || fixture.service.abandoned.load(std::sync::atomic::Ordering::SeqCst);
    let answer = client.call(request(NEVER).header("grpc-timeout", "20m"), vec![frame(&put("", ""))]).await;
    assert_eq!((answer.code(), answer.text()), (4, "context deadline exceeded".to_owned()));
    eventually("the handler is dropped at the deadline", || abandoned() == 1).await;

    // A deadline that is over when the call arrives: the answer is not looked for.
    for (path, counted) in [(ECHO, 0), (CHAT, 2)] {
        let answer = client.call(request(path).header("grpc-timeout", "0n"), vec![frame(&put("", ""))]).await;
        assert_eq!((answer.code(), answer.text()), (4, "context deadline exceeded".to_owned()));
        eventually("the call is counted", || {
            let method = fixture.serving.metrics().snapshot()[counted];
            (method.started, method.received, method.handled[4]) == (1, 0, 1)
        })
        .await;
    }

    let mut send = client.send.clone().ready().await.unwrap();
    let (response, mut body) = send.send_request(request(NEVER).body(()).unwrap(), false).unwrap();
    body.send_data(frame(&put("", "")), true).unwrap();
    eventually("the call has begun", || fixture.serving.metrics().snapshot()[3].received == 2).await;
    body.send_reset(h2::Reason::CANCEL);
    drop(response);
    eventually("the handler is dropped with the call", || abandoned() == 2).await;
}

#[tokio::test]
async fn streams_end_with_their_status() {
    let fixture = start();
    let client = Client::connect(fixture.address()).await;
    let answer = client.unary(COUNT, &PutRequest { lease: 3, ..put("k", "v") }).await;
    assert_eq!((answer.messages.len(), answer.code()), (3, 0));
    let answer = client.unary(COUNT, &PutRequest { lease: 2, ..put("fail", "v") }).await;
    assert_eq!((answer.messages.len(), answer.code(), answer.text()), (2, 10, "counted enough".into()));
    let answer = client.unary(COUNT, &put("k", "")).await;
    assert_eq!((answer.messages.len(), answer.code()), (0, 0));
}

/// `h2` closes connections on which many small frames lie unread; a client that creates thousands
/// of watches at once sends such a burst, and upstream does not mind.
#[tokio::test]
async fn ten_thousand_small_messages_may_be_pipelined() {
    let fixture = start();
    let client = Client::connect(fixture.address()).await;
    let mut send = client.send.clone().ready().await.unwrap();
    let (response, mut body) = send.send_request(request(CHAT).body(()).unwrap(), false).unwrap();
    for number in 0..10_000 {
        body.send_data(frame(&WatchRequest::default()), number == 9_999).unwrap();
    }
    let answer = within(collect(within(response).await.unwrap())).await.unwrap();
    assert_eq!((answer.messages.len(), answer.code()), (10_000, 0));
}

#[tokio::test]
async fn thousands_of_streams_share_a_connection() {
    let fixture = start();
    let client = Client::connect(fixture.address()).await;
    let mut streams = Vec::new();
    for _ in 0..5_000 {
        let mut send = client.send.clone().ready().await.unwrap();
        let (response, mut body) = send.send_request(request(CHAT).body(()).unwrap(), false).unwrap();
        body.send_data(frame(&WatchRequest::default()), false).unwrap();
        streams.push((response, body));
    }
    let mut open = Vec::new();
    for (response, body) in streams {
        let mut incoming = Incoming::new(within(response).await.unwrap().into_body());
        assert_eq!(incoming.next::<WatchResponse>().await.unwrap().watch_id, 1);
        open.push((incoming, body));
    }
    assert_eq!(client.unary(ECHO, &put("k", "v")).await.code(), 0);
    drop(open);
    eventually("all streams end", || {
        fixture.serving.metrics().snapshot()[2].handled.iter().sum::<u64>() == 5_000
    })
    .await;
}

/// A caller that does not read holds back its stream, and the server buffers a bounded part only.
#[tokio::test]
async fn a_slow_reader_costs_bounded_memory() {
    let fixture = start();
    let client = Client::connect(fixture.address()).await;
    let mut send = client.send.clone().ready().await.unwrap();
    let (response, mut body) = send.send_request(request(COUNT).body(()).unwrap(), false).unwrap();
    let wanted = PutRequest { lease: 1_000_000, ..put("k", vec![1; 1024]) };
    body.send_data(frame(&wanted), true).unwrap();
    let mut stalled = within(response).await.unwrap().into_body();
    let sent = || fixture.service.sent.load(std::sync::atomic::Ordering::SeqCst);
    // HTTP/2's initial window: the server may send no more than this.
    eventually("the window is full", || stalled.flow_control().used_capacity() == 65_535).await;
    // Others go on meanwhile.
    assert_eq!(Client::connect(fixture.address()).await.unary(ECHO, &put("k", "v")).await.code(), 0);
    assert!((32..2_000).contains(&sent()), "{} KiB went out unread", sent());
    drop(stalled);
    drop(body);
    eventually("the stream ends", || fixture.serving.metrics().snapshot()[1].handled[1] == 1).await;
}

async fn raw_exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset instead of an end of stream is an end as well.
    let _ = within(socket.read_to_end(&mut answer)).await;
    answer
}

#[tokio::test]
async fn both_protocols_and_garbage_share_the_port() {
    let fixture = start();
    let address = fixture.address();
    let answer = raw_exchange(address, b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("GET /health\n"), "{answer}");

    let garbage = raw_exchange(address, &[0x16, 3, 1, 0, 200, 1, 0, 0, 0xff, b'\n', b'\r', b'\n']).await;
    assert!(garbage.starts_with(b"HTTP/1.1 400 "), "{garbage:?}");
    assert!(
        raw_exchange(address, b"PRI * HTTP/1.1\r\nconnection: close\r\n\r\n").await.starts_with(b"HTTP/1.1 ")
    );

    // A preface and then junk: a frame far above the limit, a SETTINGS frame of an odd length.
    for junk in [&b"\xff\xff\xff\0\0\0\0\0\0junk"[..], b"\0\0\x05\x04\0\0\0\0\0abcde", b"\0\0\0\0\0\0\0\0\0"]
    {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend_from_slice(junk);
        raw_exchange(address, &bytes).await;
    }
    drop(TcpStream::connect(address).await.unwrap());
    assert_eq!(Client::connect(address).await.unary(ECHO, &put("k", "v")).await.code(), 0);
    eventually("broken connections go away", || fixture.serving.connections() == 0).await;
}

#[tokio::test]
async fn a_listener_can_offer_one_protocol_only() {
    let http = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let grpc_only = start_with(Options { protocols: Protocols::Grpc, ..Default::default() });
    assert_eq!(raw_exchange(grpc_only.address(), http).await, b"");
    assert_eq!(Client::connect(grpc_only.address()).await.unary(ECHO, &put("k", "v")).await.code(), 0);
    let http_only = start_with(Options { protocols: Protocols::Http, ..Default::default() });
    assert!(!raw_exchange(http_only.address(), http).await.is_empty());
    assert_eq!(raw_exchange(http_only.address(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await, b"");
}

#[tokio::test]
async fn connections_and_streams_are_limited() {
    let fixture = start_with(Options { max_connections: 1, max_concurrent_streams: 1, ..Default::default() });
    let first = Client::connect(fixture.address()).await;
    let mut send = first.send.clone().ready().await.unwrap();
    let (_response, mut body) = send.send_request(request(CHAT).body(()).unwrap(), false).unwrap();
    body.send_data(frame(&WatchRequest::default()), false).unwrap();
    eventually("the stream runs", || fixture.serving.metrics().snapshot()[2].received == 1).await;
    assert_eq!(first.send.current_max_send_streams(), 1);

    // The second connection waits in the backlog until the first has gone.
    let address = fixture.address();
    let second =
        tokio::spawn(async move { Client::connect(address).await.unary(ECHO, &put("k", "v")).await });
    assert_eq!(fixture.serving.connections(), 1);
    drop((first, send, _response, body));
    assert_eq!(within(second).await.unwrap().code(), 0);
}

#[tokio::test]
async fn stopping_waits_for_unary_calls_and_not_for_streams() {
    let fixture = start();
    let client = Client::connect(fixture.address()).await;
    let stream = Client::connect(fixture.address()).await;
    let mut send = stream.send.clone().ready().await.unwrap();
    let (response, mut body) = send.send_request(request(CHAT).body(()).unwrap(), false).unwrap();
    body.send_data(frame(&WatchRequest::default()), false).unwrap();
    let mut incoming = within(response).await.unwrap().into_body();
    within(incoming.data()).await.unwrap().unwrap();

    let begun = Cell::new(false);
    let slow = async {
        begun.set(true);
        client.try_call(request(NEVER).header("grpc-timeout", "300m"), vec![frame(&put("", ""))]).await
    };
    let stop = async {
        eventually("the slow call runs", || fixture.serving.metrics().snapshot()[3].received == 1).await;
        fixture.serving.shutdown(PATIENCE).await;
        assert_eq!(fixture.serving.connections(), 0);
    };
    let (answer, ()) = within(async { tokio::join!(slow, stop) }).await;
    assert!(begun.get());
    assert_eq!(answer.unwrap().code(), 4, "the call was let finish");
    assert!(TcpStream::connect(fixture.address()).await.is_err(), "the listener is closed");
    while let Some(Ok(_)) = within(incoming.data()).await {}
    assert_eq!(fixture.workers.count(), 2);
}

#[tokio::test]
async fn a_silent_peer_is_pinged_and_dropped() {
    let interval = Duration::from_millis(20);
    let options = Options { keepalive_interval: interval, keepalive_timeout: interval, ..Default::default() };
    let fixture = start_with(options);
    // Speaks the preface and an empty SETTINGS frame, then never answers a ping.
    let mut socket = TcpStream::connect(fixture.address()).await.unwrap();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut answer = Vec::new();
    let _ = within(socket.read_to_end(&mut answer)).await;
    assert!(!answer.is_empty());
    // One that answers is pinged again and again, and stays.
    let mut socket = TcpStream::connect(fixture.address()).await.unwrap();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut pings = 0;
    while pings < 10 {
        let mut head = [0; 9];
        within(socket.read_exact(&mut head)).await.unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        within(socket.read_exact(&mut payload)).await.unwrap();
        let (ping, acknowledged) = (head[3] == 6, head[4] & 1 == 1);
        if ping && !acknowledged {
            pings += 1;
            head[4] |= 1;
            socket.write_all(&[&head[..], &payload].concat()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn statuses_without_a_head_are_http() {
    // HTTP/1 pipelining and keep-alive on one connection.
    let fixture = start();
    let bytes = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\nGET /b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = String::from_utf8(raw_exchange(fixture.address(), bytes).await).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2);
    assert_eq!(StatusCode::OK.as_u16(), 200);
}
