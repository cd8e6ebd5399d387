//! Streams over HTTP: a line for each answer, in a body whose length nobody knows.
//!
//! The head of the answer waits for the first message: an error before it still has a status of its
//! own. Behind it one task of this thread carries lines from the call to the body, and for methods
//! that take a stream a second one carries values from the request's body to the call. Both end with
//! the response's body.

use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use gateway::routes::Route;
use gateway::values::Values;
use http::header::HeaderValue;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::{Begun, GRPC_CONTENT_TYPE, http_status, most_text_bytes, send_only, to_line, typed};
use crate::grpc::{Caller, HttpBody, InnerCall, InnerRequests, RequestBody, Status};
use crate::member::Member;
use crate::services::EtcdService;

/// Lines that wait for the connection: a slow client is the handler's to know.
const LINES: usize = 4;

/// What is read of a body behind a wrong value.
const DISCARDED_BYTES: usize = 256 << 10;

/// A task that ends with its owner.
pub(super) struct Guard(AbortHandle);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Answers a method that takes any number of messages.
pub(super) async fn both_ways<M: Member>(
    service: &Rc<EtcdService<M>>,
    begun: Begun,
    body: RequestBody,
    caller: Caller,
) -> Response<HttpBody> {
    let route = begun.route;
    let mut call = begun.call(service, &caller);
    let (gone, client) = client();
    let pump = call.requests().map(|requests| {
        let most = most_text_bytes(caller.max_receive_bytes());
        let carry = carry_requests(route, body, requests, most, gone);
        Guard(tokio::task::spawn_local(carry).abort_handle())
    });
    answer(call, route, pump, client, caller).await
}

/// Answers a method that takes one message.
pub(super) async fn responses(
    mut call: InnerCall,
    route: &'static Route,
    message: Vec<u8>,
    caller: Caller,
) -> Response<HttpBody> {
    send_only(&mut call, &message).await;
    let (_, client) = client();
    answer(call, route, None, client, caller).await
}

/// Says that the client has gone. Dropped without that it says nothing.
struct Gone(oneshot::Sender<()>);

/// Hears that the client has gone.
struct Client(oneshot::Receiver<()>);

fn client() -> (Gone, Client) {
    let (sender, receiver) = oneshot::channel();
    (Gone(sender), Client(receiver))
}

impl Gone {
    fn say(self) {
        // Who has ended does not need to hear it.
        let _ = self.0.send(());
    }
}

impl Client {
    /// Returns when it is gone, if that can be told from its request.
    async fn gone(&mut self) {
        if self.0.is_terminated() || (&mut self.0).await.is_err() {
            std::future::pending().await
        }
    }
}

/// Values become messages until one is wrong or the body ends; as upstream has it, both just end the
/// requests. Behind a wrong one the body is read on: over HTTP/1 its end is all that tells that the
/// client has gone.
async fn carry_requests(
    route: &'static Route,
    mut body: RequestBody,
    requests: InnerRequests,
    most_bytes: usize,
    gone: Gone,
) {
    carry_values(route, &mut body, requests, most_bytes).await;
    let mut left = DISCARDED_BYTES;
    loop {
        match body.frame().await {
            None => return,
            Some(Ok(frame)) if frame.data_ref().map_or(0, Bytes::len) <= left => {
                left -= frame.data_ref().map_or(0, Bytes::len);
            }
            // Who says so much that nobody listens to is as good as gone.
            Some(Ok(_) | Err(_)) => return gone.say(),
        }
    }
}

async fn carry_values(
    route: &'static Route,
    body: &mut RequestBody,
    mut requests: InnerRequests,
    most_bytes: usize,
) {
    let mut values = Values::default();
    loop {
        let frame = body.frame().await;
        let value = match &frame {
            Some(Ok(frame)) => {
                values.push(frame.data_ref().map(Bytes::as_ref).unwrap_or_default());
                values.next_value()
            }
            Some(Err(_)) => return,
            None => values.finish(),
        };
        let mut next = value;
        while let Ok(Some(value)) = next {
            let Ok(message) = gateway::decode(route.request, &value) else { return requests.close() };
            if requests.send(&message).await.is_err() {
                return;
            }
            next = if frame.is_some() { values.next_value() } else { values.finish() };
        }
        if next.is_err() || frame.is_none() || values.held() > most_bytes {
            return requests.close();
        }
    }
}

async fn answer(
    mut call: InnerCall,
    route: &'static Route,
    pump: Option<Guard>,
    mut client: Client,
    caller: Caller,
) -> Response<HttpBody> {
    let first = tokio::select! {
        biased;
        first = next_line(&mut call, route) => first,
        () = client.gone() => Some(Err(Status::canceled())),
        () = caller.stopping() => Some(Err(Status::canceled())),
    };
    let (status, begins_well) = match &first {
        Some(Err(status)) => (http_status(status), false),
        Some(Ok(_)) | None => (StatusCode::OK, true),
    };
    let is_empty = first.is_none();
    let (lines, receiver) = mpsc::channel(LINES);
    tokio::task::spawn_local(async move {
        let _pump = pump;
        carry_lines(call, route, first, lines, client, caller).await;
    });
    let frames = ReceiverStream::new(receiver).map(|line: Bytes| Ok::<_, Infallible>(Frame::data(line)));
    let body = StreamBody::new(frames).boxed_unsync();
    if is_empty {
        return Response::new(body);
    }
    let mut response = typed(status, body);
    if begins_well {
        response.headers_mut().insert(GRPC_CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    }
    response
}

/// The next line, or how the call ended: `None` for well.
async fn next_line(call: &mut InnerCall, route: &Route) -> Option<Result<Bytes, Status>> {
    match call.next().await {
        Some(wire) => Some(to_line(route, wire).await),
        None => call.outcome().err().map(Err),
    }
}

async fn carry_lines(
    mut call: InnerCall,
    route: &'static Route,
    first: Option<Result<Bytes, Status>>,
    lines: mpsc::Sender<Bytes>,
    mut client: Client,
    caller: Caller,
) {
    let mut next = first;
    loop {
        match next {
            None => return,
            Some(Ok(line)) => {
                if lines.send(line).await.is_err() {
                    return;
                }
            }
            Some(Err(status)) => {
                let line = gateway::answer::error_line(status.code as u8, &status.message);
                // If nobody is there to read it, nobody misses it.
                let _ = lines.send(line.into()).await;
                return;
            }
        }
        next = tokio::select! {
            biased;
            () = lines.closed() => return,
            () = client.gone() => return,
            next = next_line(&mut call, route) => next,
            () = caller.stopping() => return,
        };
    }
}
