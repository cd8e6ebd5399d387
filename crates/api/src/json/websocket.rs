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

use std::rc::Rc;

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
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::stream::next_line;
use super::{Begun, metadata, most_text_bytes, to_json};
use crate::grpc::{Caller, Code, HttpBody, InnerCall, InnerRequests, RequestBody, Status};
use crate::http::{body, error, unescape_path};
use crate::member::Member;
use crate::services::EtcdService;

/// Bytes of the random number in a handshake, in base64.
const KEY_LEN: usize = 24;
/// Bytes of the client's that are read at once.
const READ_BYTES: usize = 16 << 10;

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
    let _ = io.write_all(&[websocket::text(&json), websocket::close(CLOSE_NORMAL)].concat()).await;
}

/// Carries messages both ways until the call or the connection ends.
async fn serve(
    io: TokioIo<hyper::upgrade::Upgraded>,
    route: &'static Route,
    call: InnerCall,
    most_bytes: usize,
) {
    let (mut reader, mut writer) = tokio::io::split(io);
    let mut call = call;
    let mut incoming = Incoming {
        route,
        values: Values::default(),
        requests: call.requests(),
        frames: Frames::new(most_bytes),
        most_bytes,
    };
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    let last = loop {
        let answers = tokio::select! {
            read = reader.read_buf(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    incoming.frames.push(&buffer);
                    buffer.clear();
                    match incoming.take().await {
                        Ok(answers) => answers,
                        Err(last) => break last,
                    }
                }
            },
            text = next_text(&mut call, route) => match text {
                Some(Ok(text)) => websocket::text(without_newline(&text)),
                Some(Err(status)) => break [error_text(route, &status), websocket::close(CLOSE_NORMAL)].concat(),
                None => break websocket::close(CLOSE_NORMAL),
            },
        };
        if writer.write_all(&answers).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    };
    // Whoever has gone does not need it.
    let _ = writer.write_all(&last).await;
    let _ = writer.shutdown().await;
}

/// The next answer, or how the call ended: `None` for well.
async fn next_text(call: &mut InnerCall, route: &Route) -> Option<Result<Bytes, Status>> {
    if route.responses_stream {
        return next_line(call, route).await;
    }
    match call.next().await {
        Some(wire) => Some(to_json(route, &wire).map(Bytes::from)),
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
    /// Frames to send back; as an error those that end the connection.
    async fn take(&mut self) -> Result<Vec<u8>, Vec<u8>> {
        let mut answers = Vec::new();
        loop {
            match self.frames.next_event().map_err(FrameError::close_code).map_err(websocket::close)? {
                None => return Ok(answers),
                Some(Event::Ping(payload)) => answers.extend(websocket::pong(&payload)),
                Some(Event::Close(code)) => {
                    answers.extend(websocket::close(code.unwrap_or(CLOSE_NORMAL)));
                    return Err(answers);
                }
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
