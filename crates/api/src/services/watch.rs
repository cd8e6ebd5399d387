//! The Watch service: a stream of the hub at one end, an HTTP/2 stream at the other.
//!
//! - Responses that are ready together leave together, in one frame where they fit.
//! - While the caller does not read, nothing is taken from the hub's stream: its bounded queue fills
//!   and the hub sets the watchers aside.
//! - The caller closing its side ends nothing; taking the call back ends the stream.
//!
//! **Source**: etcd `server/etcdserver/api/v3rpc/watch.go`.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use mvcc::watch::{Batch, CreateError, Filters, Outgoing, Stream, WatchId, WatchRequest};
use mvcc::{EventKind, watch};
use prost::Message;
use proto::{etcdserverpb as pb, mvccpb};
use types::KeyRange;

use super::access;
use super::signal::Signal;
use crate::error::Error;
use crate::grpc::{CallContext, PREFIX_LEN, Requests, Responses, write_prefix};
use crate::member::{Headers, Member, WatchSent};

/// A response of at least this much more than the largest request is sent in fragments.
const FRAGMENT_OVERHEAD_BYTES: usize = 512 * 1024;
/// What is encoded before it is handed to the connection.
const SEND_BYTES: usize = 256 * 1024;
/// About what stands in a response before its events.
const HEAD_BYTES: usize = 64;
/// Requests handled before their answers go out.
const REQUESTS_PER_ROUND: usize = 256;
/// Id in the answer to a request that created nothing.
const NO_WATCH: WatchId = -1;

/// `Watch.Watch`.
pub async fn watch<M: Member>(
    member: &M,
    context: &CallContext,
    requests: Requests<pb::WatchRequest>,
    responses: &mut Responses,
) -> Result<(), Error> {
    let signal = Signal::default();
    let notified = signal.clone();
    let stream = member.hub().stream(move || notified.raise());
    let out = Outbox::new(member.config().max_request_bytes + FRAGMENT_OVERHEAD_BYTES);
    let mut session =
        Session { member, context, stream, signal, requests: Some(requests), checking: None, out };
    loop {
        session.next_work(responses).await?;
        session.send_ready(responses).await?;
    }
}

struct Session<'a, M> {
    member: &'a M,
    context: &'a CallContext,
    stream: Stream,
    signal: Signal,
    /// `None` when the caller has closed its side.
    requests: Option<Requests<pb::WatchRequest>>,
    /// The create request whose permission is being looked up; later requests wait for it.
    checking: Option<Checking<'a>>,
    out: Outbox,
}

/// A create request, and whether the caller may have it.
struct Checking<'a> {
    request: pb::WatchCreateRequest,
    verdict: Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>,
}

impl<'a, M: Member> Session<'a, M> {
    /// Waits until there may be something to send, handling what the caller asks meanwhile.
    async fn next_work(&mut self, responses: &mut Responses) -> Result<(), Error> {
        let mut handled = 0;
        poll_fn(|cx| {
            if !self.finish_check(cx) {
                return self.poll_ready(cx, responses, handled);
            }
            while let Some(requests) = &mut self.requests
                && handled < REQUESTS_PER_ROUND
            {
                match requests.poll_next(cx) {
                    Poll::Ready(Some(Ok(request))) => {
                        handled += 1;
                        self.handle(request);
                        if !self.finish_check(cx) {
                            break;
                        }
                    }
                    Poll::Ready(Some(Err(status))) if status.code == crate::grpc::Code::Canceled => {
                        return Poll::Ready(Err(Error::WatchCanceled));
                    }
                    Poll::Ready(Some(Err(status))) => {
                        self.member.count_broken_stream("watch");
                        return Poll::Ready(Err(Error::Status(status)));
                    }
                    Poll::Ready(None) => self.requests = None,
                    Poll::Pending => break,
                }
            }
            self.poll_ready(cx, responses, handled)
        })
        .await
    }

    fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
        responses: &mut Responses,
        handled: usize,
    ) -> Poll<Result<(), Error>> {
        if self.signal.poll_lower(cx).is_ready() || handled > 0 || !self.out.buffer.is_empty() {
            return Poll::Ready(Ok(()));
        }
        responses.poll_gone(cx).map(|()| Err(Error::WatchCanceled))
    }

    fn handle(&mut self, request: pb::WatchRequest) {
        use pb::watch_request::RequestUnion;
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.check(request),
            Some(RequestUnion::CancelRequest(request)) => {
                // Nothing is said about an id that is not in use.
                self.stream.cancel(request.watch_id);
            }
            Some(RequestUnion::ProgressRequest(_)) => self.stream.request_progress(),
            None => {}
        }
    }

    /// Begins a create request. A start in the past of everything is refused before permissions are
    /// looked at.
    fn check(&mut self, mut request: pb::WatchCreateRequest) {
        if request.key.is_empty() {
            request.key = Bytes::from_static(b"\0");
        }
        if request.start_revision < 0 || !self.member.shared().auth().is_enabled() {
            return self.create(request);
        }
        let (member, context) = (self.member, self.context);
        let (key, range_end) = (request.key.clone(), request.range_end.clone());
        let verdict = Box::pin(async move { access::may_read(member, context, &key, &range_end).await });
        self.checking = Some(Checking { request, verdict });
    }

    /// Goes on with the create request that was being checked. False while it still is.
    fn finish_check(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(checking) = &mut self.checking else { return true };
        let Poll::Ready(verdict) = checking.verdict.as_mut().poll(cx) else { return false };
        let Some(Checking { request, .. }) = self.checking.take() else { return true };
        match verdict {
            Ok(()) => self.create(request),
            Err(error) => self.refuse(go_status(&error)),
        }
        true
    }

    fn create(&mut self, request: pb::WatchCreateRequest) {
        if let Err(error) = self.stream.create(hub_request(request)) {
            self.refuse(error.to_string());
        }
    }

    fn refuse(&mut self, cancel_reason: String) {
        // Answers stand in the order of the requests.
        self.encode_ready();
        let refusal = pb::WatchResponse {
            header: Some(self.member.header()),
            watch_id: NO_WATCH,
            created: true,
            canceled: true,
            cancel_reason,
            ..Default::default()
        };
        self.out.push(&refusal, b"");
    }

    fn encode_ready(&mut self) {
        let mut taken = std::mem::take(&mut self.out.taken);
        self.stream.take_into(&mut taken);
        for outgoing in taken.drain(..) {
            self.out.push_outgoing(self.member, outgoing);
        }
        self.out.taken = taken;
    }

    /// Sends all that is ready. What becomes ready meanwhile raises the signal again.
    async fn send_ready(&mut self, responses: &mut Responses) -> Result<(), Error> {
        let mut taken = std::mem::take(&mut self.out.taken);
        self.stream.take_into(&mut taken);
        let mut waiting = taken.drain(..);
        loop {
            self.out.make_room(waiting.as_slice());
            while self.out.buffer.len() < SEND_BYTES
                && let Some(outgoing) = waiting.next()
            {
                self.out.push_outgoing(self.member, outgoing);
            }
            let Some((frames, count)) = self.out.take() else { break };
            let (sent, start) = (std::mem::take(&mut self.out.sent), Instant::now());
            responses.send_frames(frames, count).await.map_err(|_| Error::WatchCanceled)?;
            self.member.count_sent(&sent, start.elapsed());
        }
        drop(waiting);
        self.out.taken = taken;
        Ok(())
    }
}

/// A refusal as Go prints a status. Whatever went wrong while permissions were looked at means no.
fn go_status(error: &Error) -> String {
    let error = match error {
        Error::InvalidAuthToken | Error::AuthOldRevision | Error::UserEmpty => error,
        _ => &Error::PermissionDenied,
    };
    let status = error.status();
    format!("rpc error: code = {} desc = {}", status.code.name(), status.message)
}

/// A create request as the hub wants it.
fn hub_request(request: pb::WatchCreateRequest) -> WatchRequest {
    WatchRequest {
        id: (request.watch_id != 0).then_some(request.watch_id),
        range: KeyRange::from_wire(request.key, request.range_end),
        start_revision: request.start_revision,
        filters: Filters::from_wire(request.filters),
        prev_kv: request.prev_kv,
        progress_notify: request.progress_notify,
        fragment: request.fragment,
    }
}

/// Encoded responses on their way out.
struct Outbox {
    buffer: BytesMut,
    count: u64,
    /// What it is, for the metrics.
    sent: WatchSent,
    /// Responses of at least this size are cut if the watcher allows it.
    fragment_bytes: usize,
    /// Kept for its room.
    taken: Vec<Outgoing>,
}

impl Outbox {
    fn new(fragment_bytes: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            count: 0,
            sent: WatchSent::default(),
            fragment_bytes,
            taken: Vec::new(),
        }
    }

    /// One allocation for what is sent next: a buffer that grows as it is filled is copied again and again.
    fn make_room(&mut self, waiting: &[Outgoing]) {
        let mut bytes = 0;
        for outgoing in waiting {
            if bytes >= SEND_BYTES {
                break;
            }
            if let Outgoing::Events { batch, .. } = outgoing {
                bytes += PREFIX_LEN + HEAD_BYTES + batch.encoded().len();
            }
        }
        self.buffer.reserve(bytes);
    }

    fn take(&mut self) -> Option<(Bytes, u64)> {
        if self.buffer.is_empty() {
            return None;
        }
        Some((self.buffer.split().freeze(), std::mem::take(&mut self.count)))
    }

    fn push_outgoing<M: Member>(&mut self, member: &M, outgoing: Outgoing) {
        let plain = pb::WatchResponse::default();
        if !matches!(outgoing, Outgoing::Events { .. } | Outgoing::Progress { .. }) {
            self.sent.controls += 1;
        }
        let response = match outgoing {
            Outgoing::Events { id, revision, fragment, batch } => {
                self.sent.batches += 1;
                self.sent.events += batch.len() as u64;
                let head =
                    pb::WatchResponse { header: Some(member.header_at(revision)), watch_id: id, ..plain };
                return self.push_events(head, fragment, &batch);
            }
            Outgoing::Created { id, revision } => pb::WatchResponse {
                header: Some(member.header_at(revision)),
                watch_id: id,
                created: true,
                ..plain
            },
            Outgoing::Compacted { id, compact_revision } => pb::WatchResponse {
                header: Some(member.header_at(0)),
                watch_id: id,
                canceled: true,
                compact_revision,
                ..plain
            },
            Outgoing::Progress { id, revision } => {
                self.sent.progress += 1;
                pb::WatchResponse { header: Some(member.header_at(revision)), watch_id: id, ..plain }
            }
            Outgoing::Cancelled { id, revision } => pb::WatchResponse {
                header: Some(member.header_at(revision)),
                watch_id: id,
                canceled: true,
                ..plain
            },
        };
        self.push(&response, b"");
    }

    /// Cuts greedily: a part takes events as long as it stays below the bound, and one at least.
    fn push_events(&mut self, mut head: pb::WatchResponse, fragment: bool, batch: &Batch) {
        let whole = head.encoded_len() + batch.encoded().len();
        if !fragment || whole < self.fragment_bytes || batch.len() < 2 {
            return self.push(&head, batch.encoded());
        }
        head.fragment = true;
        let head_len = head.encoded_len();
        let (mut from, mut to) = (0, 0);
        for entry in batch.entries() {
            if to > from && head_len + (to - from) + entry.len() >= self.fragment_bytes {
                self.push(&head, &batch.encoded()[from..to]);
                from = to;
            }
            to += entry.len();
        }
        head.fragment = false;
        self.push(&head, &batch.encoded()[from..to]);
    }

    /// Appends one framed message: the head, then entries of field 11, which is the last one.
    fn push(&mut self, head: &pb::WatchResponse, events: &[u8]) {
        let len = head.encoded_len() + events.len();
        self.buffer.reserve(PREFIX_LEN + len);
        write_prefix(&mut self.buffer, len);
        head.encode_raw(&mut self.buffer);
        self.buffer.put_slice(events);
        self.count += 1;
    }
}

/// One watcher inside the server, for the lock and election services.
pub(super) struct Watcher {
    stream: Stream,
    signal: Signal,
    /// Events taken and not given out yet.
    events: std::collections::VecDeque<WatchedEvent>,
}

/// What a [`Watcher`] sees.
pub(super) struct WatchedEvent {
    pub(super) kind: EventKind,
    pub(super) kv: mvccpb::KeyValue,
    /// Revision of the response that carried it.
    pub(super) revision: i64,
}

impl Watcher {
    pub(super) fn new<M: Member>(
        member: &M,
        range: KeyRange,
        start_revision: i64,
    ) -> Result<Self, CreateError> {
        let signal = Signal::default();
        let notified = signal.clone();
        let stream = member.hub().stream(move || notified.raise());
        stream.create(WatchRequest { start_revision, ..WatchRequest::new(range) })?;
        Ok(Self { stream, signal, events: Default::default() })
    }

    /// The next event.
    pub(super) async fn next(&mut self) -> Result<WatchedEvent, Error> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            poll_fn(|cx| self.signal.poll_lower(cx)).await;
            for outgoing in self.stream.take() {
                match outgoing {
                    Outgoing::Events { revision, batch, .. } => self.decode(revision, &batch)?,
                    Outgoing::Compacted { .. } => return Err(Error::Compacted),
                    _ => {}
                }
            }
        }
    }

    fn decode(&mut self, revision: i64, batch: &watch::Batch) -> Result<(), Error> {
        let response = pb::WatchResponse::decode(batch.encoded().clone())
            .map_err(|error| Error::Other(format!("etcdserver: a stored event does not decode: {error}")))?;
        for event in response.events {
            let kind = match event.r#type() {
                mvccpb::event::EventType::Put => EventKind::Put,
                mvccpb::event::EventType::Delete => EventKind::Delete,
            };
            self.events.push_back(WatchedEvent { kind, kv: event.kv.unwrap_or_default(), revision });
        }
        Ok(())
    }
}
