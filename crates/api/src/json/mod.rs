//! The JSON gateway: what lies below `/v3/`.
//!
//! A request becomes a call that begins inside the server ([`Caller::call`]), so it passes the same
//! checks, limits and counters as one of gRPC; the crate `gateway` knows the forms. No connection of
//! the server to itself, so nothing of the server's own certificate can be taken for the caller's.
//!
//! - A body is read as far as its first value, for methods that take one message; the rest is dropped.
//! - A body that is longer than any acceptable message is refused before its end.
//! - Streams are chunked, a line for each message. They end when the client goes, when the call ends,
//!   or when the server begins to stop.
//!
//! **Source**: etcd `server/embed/serve.go` (`createMux`, `accessController`); `grpc-gateway/v2`
//! `runtime` for statuses, headers and the order of checks.

mod metadata;
mod stream;
mod websocket;

use std::rc::Rc;

use bytes::Bytes;
use gateway::EncodeError;
use gateway::routes::{self, Route};
use gateway::schema::MessageId;
use gateway::values::Values;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use http2::Head;
use tokio::time::Instant;

use crate::grpc::{Caller, Code, HttpBody, InnerCall, RequestBody, Service, Status};
use crate::http::{body, error, unescape_path};
use crate::member::Member;
use crate::services::EtcdService;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const GRPC_CONTENT_TYPE: HeaderName = HeaderName::from_static("grpc-metadata-content-type");
const METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");
/// Text of a message is at most this many times as long as the message: a third more for base64, and
/// six times that if every character is escaped.
const TEXT_FACTOR: usize = 8;
/// Longest answer that becomes text on the connection's own thread.
const TURN_BYTES: usize = 256 << 10;

/// Answers a request for `path`, which begins with [`routes::PREFIX`].
pub(crate) async fn answer<M: Member>(
    service: &Rc<EtcdService<M>>,
    path: &str,
    request: Request<RequestBody>,
    caller: Caller,
) -> Response<HttpBody> {
    let access = &service.http_side().access;
    if let Some(refusal) = access.refuse(&request, caller.peer().secure) {
        return refusal;
    }
    if names_a_certificate(&**service.member(), &caller) {
        let text =
            "CommonName of client sending a request against gateway will be ignored and not used as expected";
        return error(StatusCode::BAD_REQUEST, text);
    }
    let origin = request.headers().clone();
    let mut response = match *request.method() {
        Method::OPTIONS => Response::new(body("")),
        _ if websocket::is_wanted(&request) && caller.can_upgrade() => {
            let response = websocket::accept(service, path, request, &caller);
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                return response;
            }
            response
        }
        _ => route(service, path, request, caller).await,
    };
    access.add_cors(&origin, response.headers_mut());
    response
}

/// A certificate says nothing here, so whoever shows one that would name a user is told so.
fn names_a_certificate<M: Member>(member: &M, caller: &Caller) -> bool {
    let peer = caller.peer();
    peer.secure
        && member.config().client_cert_auth
        && member.shared().auth().is_enabled()
        && peer.common_name.as_ref().is_some_and(|name| !name.is_empty())
}

async fn route<M: Member>(
    service: &Rc<EtcdService<M>>,
    path: &str,
    request: Request<RequestBody>,
    caller: Caller,
) -> Response<HttpBody> {
    let Some(route) = routes::find(&unescape_path(path)) else {
        return refusal(&Status::new(Code::NotFound, "Not Found"));
    };
    if request.method() != Method::POST || is_overridden(&request) {
        return refusal(&Status::new(Code::Unimplemented, "Method Not Allowed"));
    }
    let begun = match metadata::of_request(route, request.headers(), &request, &caller) {
        Ok((head, deadline)) => Begun { route, head, deadline },
        Err(status) => return refusal(&status),
    };
    if begun.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        return refusal(&Status::deadline_exceeded());
    }
    let mut body = request.into_body();
    if route.requests_stream {
        return stream::both_ways(service, begun, body, caller).await;
    }
    let message = match only_message(route, &mut body, caller.max_receive_bytes()).await {
        Ok(message) => message,
        Err(status) => return refusal(&status),
    };
    let call = begun.call(service, &caller);
    if route.responses_stream {
        return stream::responses(call, route, message, caller).await;
    }
    let json = match only_answer(call, &message).await {
        Ok(wire) => to_json(route, wire).await,
        Err(status) => Err(status),
    };
    match json {
        Ok(json) => {
            let mut response = typed(StatusCode::OK, body_of(json));
            let kind = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(GRPC_CONTENT_TYPE, kind);
            response
        }
        Err(status) => refusal(&status),
    }
}

/// Forms may name another method than the one they are sent by. No route has any but POST.
fn is_overridden<B>(request: &Request<B>) -> bool {
    let form = b"application/x-www-form-urlencoded";
    let is_form = request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == form);
    let other = request.headers().get(METHOD_OVERRIDE).map(HeaderValue::as_bytes).unwrap_or_default();
    is_form && !other.is_empty() && !other.eq_ignore_ascii_case(b"POST")
}

/// A call whose headers were read.
struct Begun {
    route: &'static Route,
    head: Head,
    deadline: Option<Instant>,
}

impl Begun {
    fn call<M: Member>(self, service: &Rc<EtcdService<M>>, caller: &Caller) -> InnerCall {
        let (call, inner) = caller.call(self.head, self.deadline);
        service.grpc(call);
        inner
    }
}

/// Longest text that may become a message of `max_receive_bytes`.
fn most_text_bytes(max_receive_bytes: usize) -> usize {
    max_receive_bytes.saturating_mul(TEXT_FACTOR)
}

fn too_long(held: usize, max_receive_bytes: usize) -> Status {
    let text = format!("grpc: received message larger than max ({held} vs. {max_receive_bytes})");
    Status::new(Code::ResourceExhausted, text)
}

fn invalid(error: impl std::fmt::Display) -> Status {
    Status::new(Code::InvalidArgument, error.to_string())
}

/// The message that the first value of a body describes; an empty body is the empty message.
async fn only_message(
    route: &Route,
    body: &mut RequestBody,
    max_receive_bytes: usize,
) -> Result<Vec<u8>, Status> {
    let mut values = Values::default();
    let value = loop {
        match body.frame().await {
            Some(Ok(frame)) => values.push(frame.data_ref().map(Bytes::as_ref).unwrap_or_default()),
            Some(Err(error)) => return Err(invalid(error)),
            None => break values.finish().map_err(invalid)?,
        }
        if let Some(value) = values.next_value().map_err(invalid)? {
            break Some(value);
        }
        if values.held() > most_text_bytes(max_receive_bytes) {
            return Err(too_long(values.held(), max_receive_bytes));
        }
    };
    let message = match value {
        Some(value) => gateway::decode(route.request, &value).map_err(invalid)?,
        None => Vec::new(),
    };
    // Whatever else comes is read, so that the connection can go on.
    while let Some(Ok(_)) = body.frame().await {}
    Ok(message)
}

async fn only_answer(mut call: InnerCall, message: &[u8]) -> Result<Bytes, Status> {
    send_only(&mut call, message).await;
    let answer = call.next().await;
    match answer {
        Some(answer) => Ok(answer),
        None => Err(call.outcome().err().unwrap_or_else(Status::canceled)),
    }
}

/// Sends the message of a call that takes one. If nobody reads it, the outcome says why.
async fn send_only(call: &mut InnerCall, message: &[u8]) {
    if let Some(mut requests) = call.requests()
        && requests.send(message).await.is_ok()
    {
        requests.close();
    }
}

async fn to_json(route: &Route, wire: Bytes) -> Result<Vec<u8>, Status> {
    encode(gateway::answer::message, route.response, wire).await
}

async fn to_line(route: &Route, wire: Bytes) -> Result<Bytes, Status> {
    encode(gateway::answer::line, route.response, wire).await.map(Bytes::from)
}

/// How an answer is written.
type Encoder = fn(MessageId, &[u8]) -> Result<Vec<u8>, EncodeError>;

/// A large answer leaves this thread, and its other calls, alone.
async fn encode(encoder: Encoder, id: MessageId, wire: Bytes) -> Result<Vec<u8>, Status> {
    let encoded = match wire.len() {
        ..=TURN_BYTES => encoder(id, &wire),
        // It fails when the server ends.
        _ => tokio::task::spawn_blocking(move || encoder(id, &wire)).await.map_err(|_| Status::canceled())?,
    };
    encoded.map_err(|error| Status::new(Code::Internal, error.to_string()))
}

/// The answer that a status makes before anything was sent.
fn refusal(status: &Status) -> Response<HttpBody> {
    let json = gateway::answer::error(status.code as u8, &status.message);
    let mut response = typed(http_status(status), body_of(json));
    if status.code == Code::Unauthenticated
        && let Ok(message) = HeaderValue::from_str(&status.message)
    {
        response.headers_mut().insert(WWW_AUTHENTICATE, message);
    }
    response
}

fn http_status(status: &Status) -> StatusCode {
    let number = gateway::answer::http_status(status.code as u8);
    StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn body_of(json: Vec<u8>) -> HttpBody {
    body(json)
}

fn typed(status: StatusCode, body: HttpBody) -> Response<HttpBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use prost::Message as _;
    use proto::{etcdserverpb as pb, mvccpb};

    use super::*;

    #[tokio::test]
    async fn others_get_their_turn_while_a_large_answer_becomes_text() {
        let check = async |value_bytes: usize, order: [&str; 2]| {
            let kv = mvccpb::KeyValue { value: vec![7; value_bytes].into(), ..Default::default() };
            let answer = pb::RangeResponse { kvs: vec![kv], ..Default::default() };
            let route = routes::find("/v3/kv/range").unwrap();
            let seen = RefCell::new(Vec::new());
            let encoding = async {
                let json = to_json(route, answer.encode_to_vec().into()).await.unwrap();
                seen.borrow_mut().push("text");
                json
            };
            let (json, ()) = tokio::join!(encoding, async { seen.borrow_mut().push("others") });
            assert!(json.starts_with(b"{\"kvs\":[{\"value\":\"BwcH") && json.len() > value_bytes);
            assert_eq!(*seen.borrow(), order);
        };
        check(1000, ["text", "others"]).await;
        check(4 << 20, ["others", "text"]).await;
    }
}
