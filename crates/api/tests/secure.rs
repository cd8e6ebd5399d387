//! Encrypted listeners, and listeners whose guests misbehave.

mod support {
    #![allow(dead_code)]
    pub mod client;
    pub use client::*;
}

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::grpc::{
    self, Call, CallContext, Caller, HttpBody, Listener, MethodId, MethodInfo, Options, Protocols,
    RequestBody, Security, Serving, Shape, Workers,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::etcdserverpb::{PutRequest, PutResponse};
use proto::mvccpb::KeyValue;
use support::*;
use tls::authority::{Authority, Leaf};
use tls::{Acceptor, ClientStream, Connector, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const WHO: &str = "/test.Test/Who";
const BIG_BYTES: usize = 32 << 20;
/// What the buffers of a connection hold.
const SOME_BYTES: usize = 1 << 20;

/// Who answers with the common name of the caller; HTTP with method, path and length of the body.
#[derive(Clone, Default)]
struct Test;

impl grpc::Service for Test {
    const METHODS: &'static [MethodInfo] =
        &[MethodInfo { service: "test.Test", method: "Who", shape: Shape::Unary }];

    fn grpc(self: &Rc<Self>, call: Call) {
        call.unary(MethodId(0), async |_: PutRequest, context: CallContext| {
            let name = context.peer.common_name.clone().unwrap_or_default();
            let kv = KeyValue { key: name.into(), ..Default::default() };
            Ok(PutResponse { header: None, prev_kv: Some(kv) })
        });
    }

    async fn http(self: Rc<Self>, request: Request<RequestBody>, caller: Caller) -> Response<HttpBody> {
        let (parts, body) = request.into_parts();
        if parts.uri.path() == "/stream" {
            let (frames, body) = tokio::sync::mpsc::channel(1);
            tokio::task::spawn_local(async move {
                for text in ["one", "two"] {
                    frames.send(Ok(Frame::data(Bytes::from_static(text.as_bytes())))).await.unwrap();
                    caller.stopping().await;
                }
            });
            let body = tokio_stream::wrappers::ReceiverStream::new(body);
            return Response::new(StreamBody::new(body).boxed_unsync());
        }
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let bytes = match parts.uri.path() {
            "/big" => BIG_BYTES,
            "/some" => SOME_BYTES,
            _ => 0,
        };
        if bytes > 0 {
            return Response::new(Full::from(vec![7; bytes]).boxed_unsync());
        }
        let text = format!("{} {} {} {}", parts.method, parts.uri.path(), body.len(), caller.peer().secure);
        let mut response = Response::new(Full::from(text).boxed_unsync());
        response.headers_mut().insert("x-host", parts.uri.host().unwrap_or("none").parse().unwrap());
        response
    }
}

struct Fixture {
    _workers: Arc<Workers>,
    serving: Serving,
    rejected: Arc<Mutex<Vec<String>>>,
    connector: Connector,
    _dir: tempfile::TempDir,
}

fn quiet() -> tls::Report {
    Arc::new(|_| {})
}

fn start(options: Options, plain_too: bool) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca").unwrap();
    let settings = |name: &str| {
        let issued = authority.issue(&Leaf::new(name, &["localhost", "127.0.0.1"])).unwrap();
        let (cert_file, key_file) = issued.write(dir.path(), name).unwrap();
        let trusted_ca_file = authority.write(dir.path(), "ca").unwrap();
        Settings { cert_file, key_file, trusted_ca_file, ..Settings::default() }
    };
    let acceptor = Acceptor::new(&settings("server"), &["h2", "http/1.1"], quiet()).unwrap();
    let rejected = Arc::new(Mutex::new(Vec::new()));
    let sink = rejected.clone();
    let on_rejected = Arc::new(move |_: &str, rejected: &tls::Rejected| {
        sink.lock().unwrap().push(rejected.reason.clone());
    });
    let options = Options { security: Some(Security { acceptor, plain_too, on_rejected }), ..options };
    let workers = Arc::new(Workers::start(2, "test").unwrap());
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let serving = grpc::serve(&workers, listener, options, Test).unwrap();
    let connector = Connector::new(&settings("alice"), &["h2", "http/1.1"], quiet()).unwrap();
    Fixture { _workers: workers, serving, rejected, connector, _dir: dir }
}

impl Fixture {
    fn address(&self) -> SocketAddr {
        self.serving.local_addr().unwrap()
    }

    async fn connect(&self) -> ClientStream<TcpStream> {
        let socket = TcpStream::connect(self.address()).await.unwrap();
        self.connector.connect(socket, "localhost").await.unwrap()
    }

    /// A call over an encrypted connection of its own; the name that the server knows us by.
    async fn who(&self) -> String {
        let client = Client::over(self.connect().await).await;
        let answer = client.unary(WHO, &PutRequest::default()).await.only::<PutResponse>();
        String::from_utf8(answer.prev_kv.unwrap().key.to_vec()).unwrap()
    }
}

#[tokio::test]
async fn calls_know_who_calls() {
    let fixture = start(Options::default(), false);
    assert_eq!(fixture.who().await, "alice");
    let mut socket = TcpStream::connect(fixture.address()).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // An alert, or just the end.
    let _ = socket.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    // The reason is reported behind the end of the connection.
    while fixture.rejected.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(*fixture.rejected.lock().unwrap(), ["tls: first record does not look like a TLS handshake"]);
}

#[tokio::test]
async fn http_is_spoken_in_both_versions() {
    let fixture = start(Options::default(), false);
    let mut first = fixture.connect().await;
    first.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    first.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("GET /health 0 true"), "{answer}");

    let io = TokioIo::new(fixture.connect().await);
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let ask =
        Request::post("https://a.example/v3/kv").body(Full::new(Bytes::from(vec![7; 100_000]))).unwrap();
    let answer = send.send_request(ask).await.unwrap();
    assert_eq!(
        (answer.status(), &answer.headers()["x-host"]),
        (StatusCode::OK, &"a.example".parse().unwrap())
    );
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "POST /v3/kv 100000 true");
    // More than sockets and windows hold: what waits in the buffers of TLS must not be forgotten.
    let big = Request::get("https://a.example/big").body(Full::default()).unwrap();
    let big =
        within(async { send.send_request(big).await.unwrap().into_body().collect().await }).await.unwrap();
    assert_eq!(big.to_bytes().len(), BIG_BYTES);
    let head = Request::head("https://a.example/health").body(Full::default()).unwrap();
    assert!(
        send.send_request(head).await.unwrap().into_body().collect().await.unwrap().to_bytes().is_empty()
    );
}

/// What is being sent when the server stops arrives as a whole, and streams come to a proper end.
#[tokio::test]
async fn a_stop_cuts_no_answer_short() {
    let fixture = start(Options::default(), false);
    let io = TokioIo::new(fixture.connect().await);
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let mut ask = async |path: &str| {
        let request = Request::get(format!("https://a.example{path}")).body(Full::<Bytes>::default());
        within(send.send_request(request.unwrap())).await.unwrap().into_body()
    };
    let (big, mut stream) = (ask("/big").await, ask("/stream").await);
    let first = within(stream.frame()).await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "one");
    let stopping = fixture.serving.shutdown(Duration::from_secs(60));
    let reading = async {
        let rest = stream.collect().await.expect("the stream ends well").to_bytes();
        assert_eq!(rest, "two");
        big.collect().await.expect("the answer comes to its end").to_bytes().len()
    };
    let ((), length) = within(async { tokio::join!(stopping, reading) }).await;
    assert_eq!(length, BIG_BYTES);
}

/// The server has written all and closes, the client reads on and says so frame by frame: what lies in
/// the buffers between them must not be lost.
#[tokio::test]
async fn a_stop_leaves_clients_the_time_to_take_their_answers() {
    const HEADERS: [u8; 3] = [0x82, 0x87, 0x04];
    const DATA: u8 = 0;
    let fixture = start(Options::default(), false);
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(32 << 10).unwrap();
    let socket = socket.connect(fixture.address()).await.unwrap();
    let mut stream = fixture.connector.connect(socket, "localhost").await.unwrap();
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let window = 1_u32 << 30;
    hello.extend([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4]);
    hello.extend(window.to_be_bytes());
    hello.extend([0, 0, 4, 8, 0, 0, 0, 0, 0]);
    hello.extend(window.to_be_bytes());
    hello.extend([0, 0, 12, 1, 5, 0, 0, 0, 1]);
    hello.extend(HEADERS);
    hello.extend(b"\x05/some\x01\x01a");
    stream.write_all(&hello).await.unwrap();
    let mut received = 0;
    let mut header = [0; 9];
    within(stream.read_exact(&mut header)).await.unwrap();
    let reading = async {
        loop {
            let mut payload = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
            stream.read_exact(&mut payload).await.expect("the answer comes to its end");
            if header[3] == DATA {
                received += payload.len();
                let mut taken = vec![0, 0, 4, 8, 0, 0, 0, 0, 0];
                taken.extend(u32::try_from(payload.len().max(1)).unwrap().to_be_bytes());
                stream.write_all(&taken).await.expect("the server listens to the end");
            }
            if let Err(error) = stream.read_exact(&mut header).await {
                assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
                break;
            }
        }
        stream.shutdown().await.unwrap();
    };
    within(async { tokio::join!(fixture.serving.shutdown(Duration::from_secs(60)), reading) }).await;
    assert_eq!(received, SOME_BYTES);
}

#[tokio::test]
async fn one_port_takes_both() {
    let fixture = start(Options::default(), true);
    assert_eq!(fixture.who().await, "alice");
    let client = Client::connect(fixture.address()).await;
    let answer = client.unary(WHO, &PutRequest::default()).await.only::<PutResponse>();
    assert_eq!(answer.prev_kv.unwrap().key, "");
    let mut plain = TcpStream::connect(fixture.address()).await.unwrap();
    plain.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("GET /x 0 false"), "{answer}");
}

/// Five times as many guests as there is room for, who connect and then say nothing, half a
/// handshake, or hello and nothing more: who has something to ask gets in at once.
#[tokio::test]
async fn silent_guests_make_room() {
    let fixture = start(Options { max_connections: 40, ..Options::default() }, false);
    let faithful = Client::over(fixture.connect().await).await;
    faithful.unary(WHO, &PutRequest::default()).await.only::<PutResponse>();
    let mut guests = Vec::new();
    for number in 0..200 {
        let mut guest = TcpStream::connect(fixture.address()).await.unwrap();
        if number % 2 == 0 {
            guest.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await.unwrap();
        }
        guests.push(guest);
    }
    let mut shaken = Vec::new();
    for _ in 0..60 {
        let mut stream = fixture.connect().await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        shaken.push(stream);
    }
    for _ in 0..20 {
        let asked = tokio::time::timeout(PATIENCE, fixture.who()).await.expect("there is room");
        assert_eq!(asked, "alice");
    }
    assert!(fixture.serving.connections() <= 41);
    // Who had asked before was not thrown out.
    faithful.unary(WHO, &PutRequest::default()).await.only::<PutResponse>();
}

#[tokio::test]
async fn clients_that_ping_too_often_are_sent_away() {
    let ping = async |options: Options, secure: bool, expected: bool| {
        let fixture = start(options, true);
        let mut socket: Box<dyn Both> = match secure {
            true => Box::new(fixture.connect().await),
            false => Box::new(TcpStream::connect(fixture.address()).await.unwrap()),
        };
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut received = Vec::new();
        let mut answered = 0;
        for number in 0..8_u8 {
            let frame = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, number];
            if socket.write_all(&frame).await.is_err() {
                break;
            }
            // Wait for the answer, so that each ping is one of its own.
            while !received.windows(17).any(|part| part[3] == 6 && part[4] == 1 && part[16] == number) {
                let mut bytes = [0; 4096];
                match tokio::time::timeout(PATIENCE, socket.read(&mut bytes)).await.expect("an answer") {
                    Ok(count) if count > 0 => received.extend_from_slice(&bytes[..count]),
                    _ => break,
                }
            }
            answered += usize::from(!received.windows(14).any(|part| part == b"too_many_pings"));
        }
        let sent_away = received.windows(14).any(|part| part == b"too_many_pings");
        assert_eq!(sent_away, expected);
        answered
    };
    // The first is free, two strikes are forgiven.
    assert_eq!(ping(Options::default(), false, true).await, 3);
    let lenient = Options { keepalive_min_time: Duration::ZERO, ..Options::default() };
    ping(lenient, false, false).await;
    // As upstream has it where gRPC and HTTP share an encrypted port.
    ping(Options::default(), true, false).await;
    ping(Options { protocols: Protocols::Grpc, ..Options::default() }, true, true).await;
}

trait Both: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Both for T {}

/// Garbage behind a good handshake, and header lists without end.
#[tokio::test]
async fn garbage_and_endless_headers_hurt_nobody() {
    let fixture = start(Options::default(), true);
    let mut random = 7_u64;
    for round in 0..60 {
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 56) as u8
        })
        .take(2_000)
        .collect();
        if round % 3 == 0 {
            bytes.splice(..0, *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
        }
        // The server may end it at any moment.
        let _ = fixture.connect().await.write_all(&bytes).await;
    }
    // HTTP/1: a header that does not end.
    let mut stream = fixture.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nx: ").await.unwrap();
    let endless = async { while stream.write_all(&[b'a'; 16 << 10]).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, endless).await.expect("the connection is closed");
    // HTTP/2: the same in CONTINUATION frames.
    let mut stream = fixture.connect().await;
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\0\0\0\0\x01\x00";
    stream.write_all(hello).await.unwrap();
    let endless = async {
        let mut frame = vec![0, 0x20, 0, 9, 0, 0, 0, 0, 1];
        frame.resize(9 + 0x2000, 0);
        while stream.write_all(&frame).await.is_ok() {}
    };
    tokio::time::timeout(PATIENCE, endless).await.expect("the connection is closed");
    assert_eq!(fixture.who().await, "alice");
}
