//! The JSON gateway over a member without disk: calls, limits, streams, WebSocket, turned off.

mod support {
    pub mod client;
    pub mod member;
    pub use client::*;
}

use api::member::Config;
use support::member::{Fixture, start, start_with};
use support::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct Page {
    status: u16,
    head: String,
    body: String,
}

async fn connect(fixture: &Fixture) -> TcpStream {
    TcpStream::connect(fixture.serving.local_addr().unwrap()).await.unwrap()
}

/// Reads until this has come.
async fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        text.push(char::from(within(socket.read_u8()).await.unwrap()));
    }
    text
}

async fn post(fixture: &Fixture, path: &str, headers: &str, body: &str) -> Page {
    let mut socket = connect(fixture).await;
    let length = body.len();
    let text = format!(
        "POST {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    );
    socket.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(socket.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Page { status, head: head.to_owned(), body: body.to_owned() }
}

#[tokio::test]
async fn calls_pass_the_same_checks() {
    let fixture = start();
    let put = post(&fixture, "/v3/kv/put", "", r#"{"key":"YQ==","value":"MQ=="}"#).await;
    assert_eq!(put.status, 200, "{}", put.body);
    assert!(put.head.contains("content-type: application/json"));
    assert!(put.head.contains("grpc-metadata-content-type: application/grpc"));
    let range = post(&fixture, "/v3beta/kv/range", "", r#"{"key":"YQ=="}"#).await;
    assert!(range.body.contains(r#""value":"MQ=="}],"count":"1"}"#), "{}", range.body);
    let refused = post(&fixture, "/v3/kv/put", "", "{}").await;
    let text = r#"{"code":3,"message":"etcdserver: key is not provided"}"#;
    assert_eq!((refused.status, refused.body.as_str()), (400, text));
    fixture.member.raft.lock().leader = None;
    let header = "grpc-metadata-hasleader: true\r\n";
    let refused = post(&fixture, "/v3/kv/range", header, r#"{"key":"YQ=="}"#).await;
    assert_eq!(
        (refused.status, refused.body.as_str()),
        (503, r#"{"code":14,"message":"etcdserver: no leader"}"#)
    );
}

#[tokio::test]
async fn a_body_without_end_is_refused() {
    let fixture = start();
    let mut socket = connect(&fixture).await;
    socket
        .write_all(b"POST /v3/kv/put HTTP/1.1\r\nhost: h\r\ncontent-length: 99999999999\r\n\r\n{\"key\":\"")
        .await
        .unwrap();
    let (mut reader, mut writer) = socket.into_split();
    let sending = tokio::spawn(async move { while writer.write_all(&[b'A'; 1 << 16]).await.is_ok() {} });
    let mut start = [0; 12];
    within(reader.read_exact(&mut start)).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 429");
    drop(reader);
    within(sending).await.unwrap();
}

#[tokio::test]
async fn streams_end_with_their_client_and_with_the_server() {
    let fixture = start();
    let body = r#"{"create_request":{"key":"YQ=="}}"#;
    let open = async || {
        let mut socket = connect(&fixture).await;
        let text =
            format!("POST /v3/watch HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        socket.write_all(text.as_bytes()).await.unwrap();
        let head = read_until(&mut socket, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("transfer-encoding: chunked"), "{head}");
        let line = read_until(&mut socket, "}\n").await;
        assert!(line.contains(r#""created":true"#), "{line}");
        socket
    };
    drop(open().await);
    let mut socket = open().await;
    let stopping = fixture.serving.shutdown(std::time::Duration::from_secs(60));
    within(stopping).await;
    let mut rest = String::new();
    within(socket.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, "\r\n0\r\n\r\n", "the stream was ended as a whole");
}

/// Before, nobody looked at the connection any more once a message was wrong.
#[tokio::test]
async fn a_stream_with_a_wrong_message_ends_with_its_client() {
    let fixture = start();
    let mut socket = connect(&fixture).await;
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let head = "POST /v3/watch HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n";
    let first = chunk(r#"{"create_request":{"key":"YQ=="}}"#);
    socket.write_all(format!("{head}{first}").as_bytes()).await.unwrap();
    let line = read_until(&mut socket, "}\n").await;
    assert!(line.contains(r#""created":true"#), "{line}");
    socket.write_all(chunk(r#"{"create_request":5}"#).as_bytes()).await.unwrap();
    // The watch goes on as it was.
    put(&fixture).await;
    let line = read_until(&mut socket, "}\n").await;
    assert!(line.contains(r#""events":"#), "{line}");
    drop(socket);
    gone(&fixture).await;
}

async fn put(fixture: &Fixture) {
    let put = post(fixture, "/v3/kv/put", "", r#"{"key":"YQ==","value":"MQ=="}"#).await;
    assert_eq!(put.status, 200, "{}", put.body);
}

/// Returns when no connection is left.
async fn gone(fixture: &Fixture) {
    within(async {
        while fixture.serving.connections() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Before, the connection was reset behind the refusal, which could overtake it.
#[tokio::test]
async fn a_refused_body_may_come_to_its_end() {
    let fixture = start();
    let mut socket = connect(&fixture).await;
    let rest = vec![b' '; 200 << 10];
    for path in ["/v3/kv/put", "/v3/nosuch", "/nosuch"] {
        let length = rest.len() + 4;
        let head = format!("POST {path} HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\nnope");
        socket.write_all(head.as_bytes()).await.unwrap();
        let head = read_until(&mut socket, "\r\n\r\n").await;
        let status = if path == "/v3/kv/put" { "400" } else { "404" };
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        within(socket.read_exact(&mut vec![0; length.parse().unwrap()])).await.unwrap();
        socket.write_all(&rest).await.unwrap();
    }
    // As many bytes as nobody reads: the answer comes, and the end of the connection behind it.
    let head = "POST /v3/kv/put HTTP/1.1\r\nhost: h\r\ncontent-length: 99999999\r\n\r\nnope";
    socket.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = socket.into_split();
    let sending = tokio::spawn(async move { while writer.write_all(&[b' '; 1 << 16]).await.is_ok() {} });
    let mut start = [0; 12];
    within(reader.read_exact(&mut start)).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 400");
    within(sending).await.unwrap();
    gone(&fixture).await;
}

#[tokio::test]
async fn it_can_be_turned_off() {
    let fixture = start_with(Config::default(), |http| http.json_gateway = false);
    let page = post(&fixture, "/v3/kv/range", "", "{}").await;
    assert_eq!((page.status, page.body.as_str()), (404, "404 page not found\n"));
}
