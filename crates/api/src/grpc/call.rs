//! One call: the checks on its headers, and the three shapes a handler can have.
//!
//! A dispatcher matches [`Call::path`] and hands the call to [`Call::unary`],
//! [`Call::server_stream`] or [`Call::bidi`] with an async closure. A unary call runs at once, in the task
//! of its connection, and becomes one of its own if it has to wait; a stream is a task from its beginning. A
//! task is as large as that method's own future and no larger.
//!
//! - A handler is not begun after the caller's deadline. It is dropped when the deadline passes and,
//!   if it asked for that, when the caller takes the call back. Work that must finish does not live
//!   in a handler.
//! - A streamed answer waits for HTTP/2 capacity, so a caller that does not read costs at most the
//!   stream's send buffer.
//!
//! **Source**: order and texts of the header checks are those of `google.golang.org/grpc`
//! `internal/transport/http2_server.go` and `server.go`.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http2::server::Request;
use http2::{Field, Head};
use prost::Message;
use tokio::time::{Instant, Sleep, sleep_until};

use super::connection::Shared;
use super::inner::{InnerCall, Sink, Source};
use super::message::{Accept, MessageReader, Pieces, Reply, decode};
use super::metadata::{CallContext, parse_timeout};
use super::metrics::{MethodId, Shard};
use super::observe::Watched;
use super::status::{Code, Status, ok_trailers};

/// What stands before each answer: the status of HTTP, and the content type.
fn response_head(http_status: u16) -> Head {
    Head::response(http_status).with(Field::new("content-type", "application/grpc"))
}

/// The heads of every good answer. Each connection remembers how it writes them.
#[derive(Clone, Debug)]
pub(crate) struct Heads {
    pub(crate) response: Rc<Head>,
    pub(crate) ok: Rc<Head>,
}

impl Heads {
    pub(crate) fn new() -> Self {
        Self { response: Rc::new(response_head(200)), ok: Rc::new(ok_trailers()) }
    }
}

/// A call whose headers were accepted and whose handler is not chosen yet.
pub struct Call {
    context: CallContext,
    body: Source,
    respond: Sink,
    gzip: bool,
    shared: Rc<Shared>,
}

impl Call {
    /// Checks the headers. A call that is refused has been answered already.
    pub(crate) fn accept(request: Request, shared: &Rc<Shared>) -> Option<Self> {
        let Request { head, body, respond } = request;
        let (body, respond) = (Source::Http2(body), Sink::Http2(respond));
        match check_head(&head) {
            Ok((deadline, gzip)) => Some(Self {
                context: CallContext { headers: head, deadline, peer: shared.peer.clone() },
                body,
                respond,
                gzip,
                shared: shared.clone(),
            }),
            Err((http_status, status)) => {
                send_headers_only(respond, http_status, &status);
                None
            }
        }
    }

    /// A call that begins inside the server.
    pub(crate) fn inner(context: CallContext, shared: &Rc<Shared>) -> (Self, InnerCall) {
        let (body, respond, inner) = InnerCall::open();
        (Self { context, body, respond, gzip: false, shared: shared.clone() }, inner)
    }

    /// The path, `/<package>.<Service>/<Method>`.
    pub fn path(&self) -> &str {
        let path = self.context.headers.path();
        path.split_once('?').map_or(path, |(path, _)| path)
    }

    /// The call's metadata, for dispatchers that choose by it.
    pub fn context(&self) -> &CallContext {
        &self.context
    }

    /// Answers with a status and nothing else.
    pub fn refuse(self, status: &Status) {
        send_headers_only(self.respond, 200, status);
    }

    /// Answers a path that names no method. `known_service` is asked with the service's name.
    pub fn refuse_unknown(self, known_service: impl FnOnce(&str) -> bool) {
        let path = self.path();
        let text = match path.strip_prefix('/').unwrap_or(path).rsplit_once('/') {
            None => format!("malformed method name: {path:?}"),
            Some((service, method)) if known_service(service) => {
                format!("unknown method {method} for service {service}")
            }
            Some((service, _)) => format!("unknown service {service}"),
        };
        self.refuse(&Status::new(Code::Unimplemented, text));
    }

    /// One message in, one out. The handler also goes on when the caller takes the call back:
    /// right for everything that ends by itself soon.
    pub fn unary<Req, Res, H>(self, method: MethodId, handler: H)
    where
        Req: Message + Default + 'static,
        Res: Reply + 'static,
        H: AsyncFnOnce(Req, CallContext) -> Result<Res, Status> + 'static,
    {
        begin(self.run_unary::<false, _, _, _>(method, handler));
    }

    /// As [`Call::unary`], but the handler is dropped when the caller takes the call back.
    pub fn unary_cancelable<Req, Res, H>(self, method: MethodId, handler: H)
    where
        Req: Message + Default + 'static,
        Res: Reply + 'static,
        H: AsyncFnOnce(Req, CallContext) -> Result<Res, Status> + 'static,
    {
        begin(self.run_unary::<true, _, _, _>(method, handler));
    }

    async fn run_unary<const CANCELABLE: bool, Req, Res, H>(self, method: MethodId, handler: H)
    where
        Req: Message + Default + 'static,
        Res: Reply + 'static,
        H: AsyncFnOnce(Req, CallContext) -> Result<Res, Status> + 'static,
    {
        let Self { context, body, mut respond, gzip, shared } = self;
        let running = Running::start(&shared, method, true);
        let watched = Watched::begin(shared.observation.as_ref(), &context);
        let accept = Accept { max_bytes: shared.max_receive_bytes, gzip };
        let mut timer = Timer::new(context.deadline);
        let outcome = if timer.is_over() {
            Some(Err(Status::deadline_exceeded()))
        } else {
            let mut work = pin!(async {
                let message = read_only_message(body, accept).await?;
                running.metrics().received(method);
                running.metrics().bytes_received(message.len());
                if let Some(watched) = &watched {
                    watched.keep(&message);
                }
                handler(decode(message)?, context).await
            });
            poll_fn(|cx| {
                if let Some(watched) = &watched {
                    watched.poll_begins();
                }
                if let Poll::Ready(outcome) = work.as_mut().poll(cx) {
                    return Poll::Ready(Some(outcome));
                }
                if timer.poll_expired(cx) {
                    return Poll::Ready(Some(Err(Status::deadline_exceeded())));
                }
                if CANCELABLE && respond.poll_gone(cx).is_ready() {
                    return Poll::Ready(None);
                }
                Poll::Pending
            })
            .await
        };
        let outcome = outcome.map(|outcome| outcome.map(Reply::into_pieces));
        if let Some(watched) = watched {
            match &outcome {
                Some(outcome) => watched.end_unary(outcome),
                None => watched.end_stream(Some(&Status::canceled())),
            }
        }
        let Some(outcome) = outcome else { return running.end(Code::Canceled) };
        // The library counts an answer for every unary call, whatever it says.
        running.metrics().sent(method);
        match outcome {
            Ok(pieces) => {
                let bytes = match &pieces {
                    Pieces::Whole(frame) => frame.len(),
                    Pieces::Several(pieces) => pieces.iter().map(Bytes::len).sum(),
                };
                running.metrics().frames_sent(bytes, 1);
                let pieces = match pieces {
                    Pieces::Whole(frame) if frame.len() <= TURN_BYTES => {
                        // The message waits in the stream for its window if it must: it is in
                        // memory anyway.
                        respond.send_all(&shared.heads, frame);
                        return running.end(Code::Ok);
                    }
                    Pieces::Whole(frame) => vec![frame],
                    Pieces::Several(pieces) => pieces,
                };
                // Piece by piece as there is room, so that the other calls of this thread get their
                // turns in between.
                let turn = if bytes > LARGE_BYTES { LARGE_TURN_BYTES } else { TURN_BYTES };
                let state = State::Fresh(respond);
                let mut responses = Responses { state, method, shared: shared.clone() };
                for piece in pieces {
                    if responses.send_in_turns(piece, turn).await.is_err() {
                        break;
                    }
                }
                running.end(responses.finish(Ok(())));
            }
            Err(status) => {
                send_headers_only(respond, 200, &status);
                running.end(status.code);
            }
        }
    }

    /// One message in, any number out.
    pub fn server_stream<Req, H>(self, method: MethodId, handler: H)
    where
        Req: Message + Default + 'static,
        H: AsyncFnOnce(Req, CallContext, &mut Responses) -> Result<(), Status> + 'static,
    {
        self.spawn_stream(
            method,
            async move |mut requests: RawRequests, context, responses: &mut Responses| {
                let message = match requests.reader.next().await {
                    Some(message) => message?,
                    None => return Err(Status::new(Code::Internal, "unexpected EOF")),
                };
                requests.shared.metrics.received(method);
                requests.shared.metrics.bytes_received(message.len());
                drop(requests);
                handler(decode(message)?, context, responses).await
            },
        );
    }

    /// Any number of messages in, any number out, independently.
    pub fn bidi<Req, H>(self, method: MethodId, handler: H)
    where
        Req: Message + Default + 'static,
        H: AsyncFnOnce(Requests<Req>, CallContext, &mut Responses) -> Result<(), Status> + 'static,
    {
        self.spawn_stream(method, async move |raw: RawRequests, context, responses: &mut Responses| {
            let requests = Requests { raw, method, message: std::marker::PhantomData };
            handler(requests, context, responses).await
        });
    }

    fn spawn_stream<H>(self, method: MethodId, handler: H)
    where
        H: AsyncFnOnce(RawRequests, CallContext, &mut Responses) -> Result<(), Status> + 'static,
    {
        let Self { context, body, respond, gzip, shared } = self;
        tokio::task::spawn_local(async move {
            let running = Running::start(&shared, method, false);
            let watched = Watched::begin(shared.observation.as_ref(), &context);
            let accept = Accept { max_bytes: shared.max_receive_bytes, gzip };
            let requests = RawRequests { reader: MessageReader::new(body, accept), shared: shared.clone() };
            let mut responses = Responses { state: State::Fresh(respond), method, shared: shared.clone() };
            let mut timer = Timer::new(context.deadline);
            let outcome = if timer.is_over() {
                Err(Status::deadline_exceeded())
            } else {
                let mut handler = pin!(handler(requests, context, &mut responses));
                poll_fn(|cx| match handler.as_mut().poll(cx) {
                    Poll::Pending if timer.poll_expired(cx) => Poll::Ready(Err(Status::deadline_exceeded())),
                    poll => poll,
                })
                .await
            };
            if let Some(watched) = watched {
                watched.end_stream(outcome.as_ref().err());
            }
            running.end(responses.finish(outcome));
        });
    }
}

/// Runs a call as far as it gets without waiting, while its request is still in the cache. Many get to their
/// end by that; who has to wait becomes a task.
fn begin(call: impl Future<Output = ()> + 'static) {
    let mut call = Box::pin(call);
    // Nobody need be woken: a task is polled once more when it begins.
    if call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
        tokio::task::spawn_local(call);
    }
}

/// The status of HTTP, and gRPC's.
type Refusal = (u16, Status);

/// The header checks in grpc-go's order. Returns the deadline and whether gzip was announced.
fn check_head(head: &Head) -> Result<(Option<Instant>, bool), Refusal> {
    let content_type = head.get("content-type").unwrap_or_default();
    if content_type != b"application/grpc" && !is_grpc_content_type(content_type) {
        let text = format!("invalid gRPC request content-type {:?}", String::from_utf8_lossy(content_type));
        return Err((415, Status::new(Code::InvalidArgument, text)));
    }
    let deadline = match head.get("grpc-timeout") {
        None => None,
        Some(value) => match parse_timeout(value) {
            // A timeout beyond what the clock can say is no timeout.
            Ok(timeout) => Instant::now().checked_add(timeout),
            Err(reason) => {
                let text = format!("malformed grpc-timeout: {reason}");
                return Err((400, Status::new(Code::Internal, text)));
            }
        },
    };
    if head.method() != b"POST" {
        let method = String::from_utf8_lossy(head.method());
        let text = format!("Received a HEADERS frame with :method {method:?} which should be POST");
        return Err((405, Status::new(Code::Internal, text)));
    }
    let gzip = match head.get("grpc-encoding") {
        None | Some(b"identity" | b"") => false,
        Some(b"gzip") => true,
        Some(other) => {
            let text = format!(
                "grpc: Decompressor is not installed for grpc-encoding {:?}",
                String::from_utf8_lossy(other)
            );
            return Err((200, Status::new(Code::Unimplemented, text)));
        }
    };
    Ok((deadline, gzip))
}

fn is_grpc_content_type(content_type: &[u8]) -> bool {
    match content_type.strip_prefix(b"application/grpc") {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';')),
        None => false,
    }
}

/// Reads the message of a call that has exactly one.
async fn read_only_message(body: Source, accept: Accept) -> Result<Bytes, Status> {
    match MessageReader::new(body, accept).next().await {
        Some(message) => message,
        None => Err(Status::new(Code::Internal, "unexpected EOF")),
    }
}

/// A "trailers-only" answer. Errors mean that the caller has gone: nobody is left to tell.
fn send_headers_only(respond: Sink, http_status: u16, status: &Status) {
    respond.refuse(response_head(http_status), status);
}

/// Bytes of a stream, or of a usual answer, that are handed to the connection at once. Less would let
/// streams of events fall behind on a busy worker, whose turns are long.
const TURN_BYTES: usize = 256 << 10;
/// The same of answers above [`LARGE_BYTES`], which would hold up everybody else for long.
const LARGE_TURN_BYTES: usize = 64 << 10;
const LARGE_BYTES: usize = 1 << 20;

/// The caller's deadline; the timer starts when a handler first has to wait.
struct Timer {
    deadline: Option<Instant>,
    sleep: Option<std::pin::Pin<Box<Sleep>>>,
}

impl Timer {
    fn new(deadline: Option<Instant>) -> Self {
        Self { deadline, sleep: None }
    }

    /// Whether the deadline was over before the handler began: then it does not begin.
    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = self.deadline else { return false };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        sleep.as_mut().poll(cx).is_ready()
    }
}

/// Counts a call while its handler runs, also when its task is dropped.
struct Running<'a> {
    shared: &'a Shared,
    method: MethodId,
    unary: bool,
    code: Code,
    /// When it began, if its time is counted.
    started: Option<std::time::Instant>,
}

impl<'a> Running<'a> {
    fn start(shared: &'a Shared, method: MethodId, unary: bool) -> Self {
        shared.metrics.started(method);
        if unary {
            shared.in_flight.set(shared.in_flight.get() + 1);
        }
        let started = shared.metrics.times_calls().then(std::time::Instant::now);
        Self { shared, method, unary, code: Code::Canceled, started }
    }

    fn metrics(&self) -> &Shard {
        &self.shared.metrics
    }

    fn end(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.shared.metrics.handled(self.method, self.code);
        if let Some(started) = self.started {
            self.shared.metrics.took(self.method, started.elapsed());
        }
        if self.unary {
            self.shared.in_flight.set(self.shared.in_flight.get() - 1);
        }
    }
}

struct RawRequests {
    reader: MessageReader,
    shared: Rc<Shared>,
}

/// The caller's side of a stream.
pub struct Requests<Req> {
    raw: RawRequests,
    method: MethodId,
    message: std::marker::PhantomData<fn() -> Req>,
}

impl<Req: Message + Default> Requests<Req> {
    /// The next message; `None` when the caller has closed its side. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Req, Status>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Requests::next`], for handlers that wait for several things.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Req, Status>>> {
        let message = ready!(self.raw.reader.poll_next(cx));
        // As upstream's counters do, the read that finds the end counts as well.
        self.raw.shared.metrics.received(self.method);
        if let Some(Ok(message)) = &message {
            self.raw.shared.metrics.bytes_received(message.len());
        }
        Poll::Ready(message.map(|message| decode(message?)))
    }
}

enum State {
    /// Nothing sent yet: an early failure becomes a trailers-only answer.
    Fresh(Sink),
    Streaming(Sink),
    /// The caller has gone.
    Gone,
}

/// The server's side of a stream.
pub struct Responses {
    state: State,
    method: MethodId,
    shared: Rc<Shared>,
}

impl Responses {
    /// Sends one message, waiting until the caller's windows have room for it.
    pub async fn send(&mut self, reply: &impl Reply) -> Result<(), Status> {
        let mut buffer = BytesMut::new();
        reply.write_framed(&mut buffer);
        self.send_frames(buffer.freeze(), 1).await
    }

    /// Sends `count` messages that are framed already, one behind the other.
    pub async fn send_frames(&mut self, frames: Bytes, count: u64) -> Result<(), Status> {
        let whole = frames.len();
        self.send_in_turns(frames, TURN_BYTES).await?;
        self.shared.metrics.sent_many(self.method, count);
        self.shared.metrics.frames_sent(whole, count);
        Ok(())
    }

    /// Hands bytes to the connection as there is room, at most so many in one turn of the worker.
    async fn send_in_turns(&mut self, mut frames: Bytes, turn: usize) -> Result<(), Status> {
        let stream = self.stream()?;
        let mut sent = 0;
        while !frames.is_empty() {
            let Ok(room) = poll_fn(|cx| stream.poll_room(cx)).await else {
                self.state = State::Gone;
                return Err(Status::canceled());
            };
            let part = frames.split_to(room.min(frames.len()).min(turn));
            sent += part.len();
            if stream.send_data(part).is_err() {
                self.state = State::Gone;
                return Err(Status::canceled());
            }
            if sent >= turn {
                // Goes on after the runtime has looked at its sockets: a fast reader of a large
                // answer must not keep this thread from everybody else.
                sent = 0;
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Sends the response headers now, for callers that wait for them before anything else.
    pub fn send_headers(&mut self) -> Result<(), Status> {
        self.stream().map(|_| ())
    }

    /// Whether the caller has taken the call back; registers the task to hear of it.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.state {
            State::Fresh(stream) | State::Streaming(stream) => stream.poll_gone(cx),
            State::Gone => Poll::Ready(()),
        }
    }

    fn stream(&mut self) -> Result<&mut Sink, Status> {
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Fresh(mut stream) => match stream.send_head(&self.shared.heads) {
                Ok(()) => State::Streaming(stream),
                Err(_) => State::Gone,
            },
            begun => begun,
        };
        match &mut self.state {
            State::Streaming(stream) => Ok(stream),
            _ => Err(Status::canceled()),
        }
    }

    fn finish(mut self, outcome: Result<(), Status>) -> Code {
        let code = outcome.as_ref().err().map_or(Code::Ok, |status| status.code);
        if matches!(self.state, State::Fresh(_)) && outcome.is_ok() {
            // An empty answer still has a head of its own. If it cannot be sent, nobody waits for it.
            let _ = self.stream();
        }
        match (self.state, outcome) {
            (State::Fresh(respond), Err(status)) => send_headers_only(respond, 200, &status),
            (State::Streaming(stream), outcome) => stream.finish(&self.shared.heads, outcome),
            _ => {}
        }
        code
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::sync::oneshot;
    use tokio::task::LocalSet;

    use super::*;

    #[test]
    fn who_need_not_wait_becomes_no_task() {
        let done = Rc::new(Cell::new(false));
        let call = done.clone();
        // There is no runtime: a spawn would panic.
        begin(async move { call.set(true) });
        assert!(done.get());
    }

    #[tokio::test]
    async fn who_waits_goes_on_where_it_was() {
        let work = async {
            let ((go, wait), (tell, told)) = (oneshot::channel::<u8>(), oneshot::channel::<u8>());
            let begun = Rc::new(Cell::new(0));
            let call = begun.clone();
            begin(async move {
                call.set(call.get() + 1);
                let number = wait.await.expect("it is sent");
                tell.send(number).expect("it is awaited");
            });
            assert_eq!(begun.get(), 1, "at once");
            go.send(7).expect("it waits");
            assert_eq!(told.await, Ok(7));
            assert_eq!(begun.get(), 1, "once");
        };
        LocalSet::new().run_until(work).await;
    }
}
