//! The gateway over WebSocket: each message of the client is a JSON value, each line of the answer a
//! message to it.
//!
//! The handshake is a GET; the method behind it counts as POST. A token comes as the second
//! subprotocol (`Bearer, <token>`) or in a cookie named `token`, because a page in a browser cannot
//! set headers here. When the call has ended the connection is closed.
//!
//! A method that takes one message is answered at once; upstream waits for the client to close the
//! connection first, and so never gets to answer.
//!
//! **Source**: `tmc/grpc-websocket-proxy`, as etcd sets it up; `gorilla/websocket` for refusals.

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gateway::routes::{self, Route};
use gateway::values::Values;
use gateway::websocket::{self, CLOSE_NORMAL, CLOSE_TOO_BIG, Event, FrameError, Frames, accept_key};
use http::header::{
    AUTHORIZATION, CONNECTION, COOKIE, HeaderName, HeaderValue, ORIGIN, REFERER, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http2::Head;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Begun, metadata, most_text_bytes, to_json, to_line};
use crate::grpc::{Caller, Code, HttpBody, InnerCall, InnerRequests, RequestBody, Status};
use crate::http::{body, error, unescape_path};
use crate::member::Member;
use crate::services::EtcdService;

/// Bytes of the random number in a handshake, in base64.
const KEY_LEN: usize = 24;
/// Bytes of the client's that are read at once.
const READ_BYTES: usize = 16 << 10;
/// Answers to pings that wait behind an answer of the call.
const WORDS: usize = 4;
/// A client that takes nothing for so long while there is something for it has gone.
const WRITE_PATIENCE: Duration = Duration::from_secs(60);

/// Whether a request wants to go on as a WebSocket.
pub(super) fn is_wanted<B>(request: &Request<B>) -> bool {
    lists(request.headers(), &CONNECTION, "upgrade") && lists(request.headers(), &UPGRADE, "websocket")
}

/// Whether a header's lists have a word.
fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
}

/// Answers the handshake; the connection goes on with the call.
pub(super) fn accept<M: Member>(
    service: &Rc<EtcdService<M>>,
    path: &str,
    mut request: Request<RequestBody>,
    caller: &Caller,
) -> Response<HttpBody> {
    let key = request.headers().get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
    let status = match key {
        _ if request.method() != Method::GET => Err(StatusCode::METHOD_NOT_ALLOWED),
        _ if !lists(request.headers(), &SEC_WEBSOCKET_VERSION, "13") => Err(StatusCode::BAD_REQUEST),
        Some(key) if key.len() == KEY_LEN && key.ends_with("==") => Ok(accept_key(key)),
        _ => Err(StatusCode::BAD_REQUEST),
    };
    let accepted = match status {
        Ok(accepted) => accepted,
        Err(status) => {
            let mut refusal = error(status, status.canonical_reason().unwrap_or_default());
            refusal.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            return refusal;
        }
    };
    let mut response = Response::new(body(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.extend(HeaderValue::from_str(&accepted).ok().map(|value| (SEC_WEBSOCKET_ACCEPT, value)));
    if subprotocol(request.headers()).starts_with("Bearer") {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("Bearer"));
    }
    let route = routes::find(&unescape_path(path));
    let forwarded = forwarded(request.headers());
    let upgrade = hyper::upgrade::on(&mut request);
    let (service, call_maker) = (service.clone(), caller.clone());
    caller.take_over(async move {
        // A connection that was lost meanwhile has nobody at its other end.
        if let Ok(upgraded) = upgrade.await {
            let io = TokioIo::new(upgraded);
            let Some(route) = route else { return refuse(io).await };
            let head = metadata::pairs(Head::request("POST", "http", "", &route.method), &forwarded);
            let call = Begun { route, head, deadline: None }.call(&service, &call_maker);
            serve(io, route, call, most_text_bytes(call_maker.max_receive_bytes())).await;
        }
    });
    response
}

fn subprotocol(headers: &HeaderMap) -> &str {
    headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The headers that the call gets.
fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut forwarded = HeaderMap::new();
    for name in [ORIGIN, REFERER] {
        if let Some(value) = headers.get(&name) {
            forwarded.insert(name, value.clone());
        }
    }
    let from_protocol = subprotocol(headers).split_once("Bearer,").map(|(_, token)| token.trim_matches(' '));
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let from_cookie = cookies
        .flat_map(|cookies| cookies.split(';'))
        .find_map(|cookie| cookie.trim().strip_prefix("token="));
    if let Some(token) = from_cookie.or(from_protocol)
        && let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}"))
    {
        forwarded.insert(AUTHORIZATION, value);
    }
    forwarded
}

/// The path names nothing.
async fn refuse(mut io: impl AsyncWrite + Unpin) {
    let json = gateway::answer::error(Code::NotFound as u8, "Not Found");
    let bytes = [websocket::text(&json), websocket::close(CLOSE_NORMAL)].concat();
    let _ = write(&mut io, &bytes).await;
}

/// What the reading side has to say to the client.
enum Word {
    /// The answer to a ping.
    Frame(Vec<u8>),
    /// The last bytes of the connection.
    Last(Vec<u8>),
}

/// Why reading ended.
enum ReadingEnd {
    /// The client has gone.
    Gone,
    /// The last word has been handed over.
    Said,
}

/// Carries messages both ways until the call or the connection ends. Reading and writing go on side by
/// side: a call that cannot answer takes no more requests either, so who reads must not wait for who
/// writes. Between them lie the call's own queues and [`WORDS`] small frames.
async fn serve(
    io: impl AsyncRead + AsyncWrite,
    route: &'static Route,
    mut call: InnerCall,
    most_bytes: usize,
) {
    let (reader, writer) = tokio::io::split(io);
    let (words, said) = mpsc::channel(WORDS);
    let incoming = Incoming {
        route,
        values: Values::default(),
        requests: call.requests(),
        frames: Frames::new(most_bytes),
        most_bytes,
    };
    let mut reading = pin!(read_all(reader, incoming, words));
    let mut writing = pin!(write_all(writer, route, call, said));
    tokio::select! {
        end = &mut reading => if let ReadingEnd::Said = end {
            writing.await;
        },
        () = &mut writing => {}
    }
}

/// Takes what the client sends until it has gone or the connection must end.
async fn read_all(
    mut reader: impl AsyncRead + Unpin,
    mut incoming: Incoming,
    words: mpsc::Sender<Word>,
) -> ReadingEnd {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    loop {
        match reader.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return ReadingEnd::Gone,
            Ok(_) => incoming.frames.push(&buffer),
        }
        buffer.clear();
        if let Err(last) = incoming.take(&words).await {
            // If nobody writes any more, that has ended everything already.
            let _ = words.send(Word::Last(last)).await;
            return ReadingEnd::Said;
        }
    }
}

/// Sends answers of the call and words of the reading side until one of them ends.
async fn write_all(
    mut writer: impl AsyncWrite + Unpin,
    route: &'static Route,
    mut call: InnerCall,
    mut words: mpsc::Receiver<Word>,
) {
    let last = loop {
        let bytes = tokio::select! {
            biased;
            word = words.recv() => match word {
                Some(Word::Frame(bytes)) => bytes,
                Some(Word::Last(bytes)) => break bytes,
                // Reading has ended everything.
                None => return,
            },
            wire = call.next() => match text_of(&call, route, wire).await {
                Some(Ok(text)) => websocket::text(without_newline(&text)),
                Some(Err(status)) => break [error_text(route, &status), websocket::close(CLOSE_NORMAL)].concat(),
                None => break websocket::close(CLOSE_NORMAL),
            },
        };
        if write(&mut writer, &bytes).await.is_err() {
            return;
        }
    };
    // Whoever has gone does not need it.
    let _ = write(&mut writer, &last).await;
    let _ = timeout(WRITE_PATIENCE, writer.shutdown()).await;
}

/// Writes all of it, if the client takes some from time to time.
async fn write(writer: &mut (impl AsyncWrite + Unpin), mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match timeout(WRITE_PATIENCE, writer.write(bytes)).await?? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => bytes = &bytes[written..],
        }
    }
    timeout(WRITE_PATIENCE, writer.flush()).await?
}

/// An answer's text, or how the call ended: `None` for well.
async fn text_of(call: &InnerCall, route: &Route, wire: Option<Bytes>) -> Option<Result<Bytes, Status>> {
    match wire {
        Some(wire) if route.responses_stream => Some(to_line(route, wire).await),
        Some(wire) => Some(to_json(route, wire).await.map(Bytes::from)),
        None => call.outcome().err().map(Err),
    }
}

fn without_newline(line: &Bytes) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

fn error_text(route: &Route, status: &Status) -> Vec<u8> {
    let code = status.code as u8;
    match route.responses_stream {
        true => websocket::text(without_newline(&gateway::answer::error_line(code, &status.message).into())),
        false => websocket::text(&gateway::answer::error(code, &status.message)),
    }
}

/// What comes from the client.
struct Incoming {
    route: &'static Route,
    frames: Frames,
    values: Values,
    /// Of a value that is not whole yet.
    most_bytes: usize,
    /// Gone when there are to be no more.
    requests: Option<InnerRequests>,
}

impl Incoming {
    /// Takes what has arrived; as an error the frames that end the connection.
    async fn take(&mut self, words: &mpsc::Sender<Word>) -> Result<(), Vec<u8>> {
        loop {
            match self.frames.next_event().map_err(FrameError::close_code).map_err(websocket::close)? {
                None => return Ok(()),
                Some(Event::Ping(payload)) => {
                    let _ = words.send(Word::Frame(websocket::pong(&payload))).await;
                }
                Some(Event::Close(code)) => return Err(websocket::close(code.unwrap_or(CLOSE_NORMAL))),
                // Behind the last request nothing is looked at any more.
                Some(Event::Message(_)) if self.requests.is_none() => {}
                Some(Event::Message(text)) => {
                    self.values.push(&text);
                    self.values.push(b"\n");
                    self.send().await;
                    if self.requests.is_none() {
                        self.values = Values::default();
                    }
                    if self.values.held() > self.most_bytes {
                        return Err(websocket::close(CLOSE_TOO_BIG));
                    }
                }
            }
        }
    }

    /// Sends on what is whole. A wrong value ends the requests, as an end of the body does.
    async fn send(&mut self) {
        while let Some(requests) = &mut self.requests {
            let message = match self.values.next_value() {
                Ok(None) => return,
                Ok(Some(value)) => gateway::decode(self.route.request, &value).ok(),
                Err(_) => None,
            };
            let goes_on = match message {
                Some(message) => requests.send(&message).await.is_ok() && self.route.requests_stream,
                None => false,
            };
            if !goes_on && let Some(requests) = self.requests.take() {
                requests.close();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::{LocalSet, spawn_local};

    use super::*;
    use crate::grpc::loopback::answered_with;

    /// More than the queues of a call and the pipe hold.
    const REQUESTS: usize = 10_000;
    const ANSWER_BYTES: usize = 1000;

    /// A client's frame with a request.
    fn request() -> Vec<u8> {
        let text = format!(r#"{{"create_request":{{"key":"{}"}}}}"#, "YWFh".repeat(20));
        let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
        frame.extend_from_slice(text.as_bytes());
        frame
    }

    /// A call that answers each request at some length.
    fn call() -> InnerCall {
        let cancel_reason = "x".repeat(ANSWER_BYTES);
        answered_with(&proto::etcdserverpb::WatchResponse { cancel_reason, ..Default::default() })
    }

    fn watch() -> &'static Route {
        routes::find("/v3/watch").unwrap()
    }

    /// Before, who read the client waited for the call, the call for room for its answers, and the
    /// answers for who read the client.
    #[tokio::test(start_paused = true)]
    async fn answers_leave_while_requests_come() {
        let work = async {
            let (client, server) = tokio::io::duplex(1 << 10);
            spawn_local(serve(server, watch(), call(), 1 << 20));
            let (mut from, mut to) = tokio::io::split(client);
            spawn_local(async move {
                for _ in 0..REQUESTS {
                    to.write_all(&request()).await.unwrap();
                }
                to.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.unwrap();
                // Stays until the other side has ended it.
                std::future::pending::<()>().await;
            });
            let mut received = vec![0; 1 << 16];
            let mut bytes = 0;
            while let Ok(count @ 1..) = from.read(&mut received).await {
                bytes += count;
            }
            assert!(bytes > REQUESTS / 2 * ANSWER_BYTES, "{bytes}");
        };
        timeout(Duration::from_secs(30), LocalSet::new().run_until(work)).await.expect("it goes on");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_left() {
        let work = async {
            let (client, server) = tokio::io::duplex(1 << 10);
            let serving = spawn_local(serve(server, watch(), call(), 1 << 20));
            let (_unread, mut to) = tokio::io::split(client);
            while to.write_all(&request()).await.is_ok() {}
            serving.await.unwrap();
        };
        timeout(2 * WRITE_PATIENCE, LocalSet::new().run_until(work)).await.expect("it ends");
    }
}
