//! One accepted connection: telling HTTP/2 from HTTP/1, driving it, ending it.
//!
//! As upstream's port multiplexer does, a connection that starts with the HTTP/2 preface carries
//! gRPC only; everything else goes to the HTTP/1 service, which answers garbage with 400.
//!
//! Windows: a stream may have 1 MiB and a connection 16 MiB under way, in frames of any size: a
//! client that creates thousands of watches at once sends a burst of tiny ones.
//!
//! Stopping: GOAWAY first; unary calls that run are awaited, streams are not (a watch would last
//! for ever); answers that are not gRPC are awaited too, as the streams among them end by themselves.
//! When the last answer has left, the connection is closed: over HTTP/2 our side first, the rest when the
//! client has taken what lay in the buffers of the system and closes too (see [`linger`]).
//!
//! **Source**: `server/embed/serve.go` of etcd; cmux.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http2::Reason;
use http2::server::Connection;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::call::{Call, Heads};
use super::caller::{Caller, Takeover};
use super::keepalive::{Keepalive, PingPolicy};
use super::leftover::Leftover;
use super::lifecycle::{Phase, Ticket};
use super::metadata::Peer;
use super::metrics::Shard;
use super::observe::Observation;
use super::web::{self, RequestBody};
use super::{Options, Protocols, Service};

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// What a stream may hold whose reader is slow.
const SEND_BUFFER_BYTES: usize = 256 << 10;
const HEADER_LIST_BYTES: u32 = 256 << 10;
/// How long a connection may take to say its first bytes or to send an HTTP/1 header: upstream's
/// header read timeout.
pub(crate) const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a client may be silent that has been told that this is the end. grpc-go's server waits as long
/// in all.
const LINGER_QUIET: Duration = Duration::from_secs(1);
/// How long it may go on to take its answers: less than a member's patience at a stop.
const LINGER: Duration = Duration::from_secs(5);

/// What all calls of a connection share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) max_receive_bytes: usize,
    pub(crate) peer: Rc<Peer>,
    pub(crate) metrics: Arc<Shard>,
    pub(crate) heads: Heads,
    pub(crate) observation: Option<Observation>,
    /// What a stopping connection waits for: unary calls whose handlers run, and answers that are not
    /// gRPC.
    pub(crate) in_flight: Cell<usize>,
    /// Notified when the connection begins to stop: streams that are not gRPC end then.
    pub(crate) stopping: Stopping,
}

/// An answer that is in flight.
#[derive(Debug)]
pub(crate) struct InFlight(Rc<Shared>);

impl InFlight {
    pub(crate) fn begin(shared: &Rc<Shared>) -> Self {
        shared.in_flight.set(shared.in_flight.get() + 1);
        Self(shared.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

/// Whether a connection has begun to stop.
#[derive(Debug, Default)]
pub(crate) struct Stopping {
    begun: Cell<bool>,
    changed: tokio::sync::Notify,
}

impl Stopping {
    fn begin(&self) {
        self.begun.set(true);
        self.changed.notify_waiters();
    }

    pub(crate) async fn begun(&self) {
        let mut changed = pin!(self.changed.notified());
        changed.as_mut().enable();
        if !self.begun.get() {
            changed.await;
        }
    }
}

/// Serves a connection to its end. Errors of the connection end it and are nobody's business.
pub(crate) async fn serve_connection<IO, S>(
    mut io: IO,
    peer: Peer,
    service: Rc<S>,
    options: &Options,
    metrics: Arc<Shard>,
    ticket: Ticket,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service,
{
    let sniffed = ticket.unless_ended(timeout(FIRST_BYTES_TIMEOUT, sniff(&mut io))).await;
    let Some(Ok(Ok((protocol, first_bytes)))) = sniffed else { return };
    let shared = Rc::new(Shared {
        max_receive_bytes: options.max_receive_bytes,
        peer: Rc::new(peer),
        metrics,
        heads: Heads::new(),
        observation: options.observation.clone(),
        in_flight: Cell::new(0),
        stopping: Stopping::default(),
    });
    match protocol {
        // As upstream has it: in plain text HTTP/2 is gRPC, encrypted it carries everything.
        Protocol::Http2 if options.protocols != Protocols::Http || shared.peer.secure => {
            serve_http2(io, &first_bytes, service, options, shared, ticket).await;
        }
        Protocol::Http1 if options.protocols != Protocols::Grpc => {
            serve_http1(Replay { first_bytes, io }, shared, service, ticket).await;
        }
        _ => {}
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// Reads until it is clear whether the preface comes. An early end of stream is an error.
async fn sniff<IO: AsyncRead + Unpin>(io: &mut IO) -> io::Result<(Protocol, Bytes)> {
    let mut bytes = BytesMut::with_capacity(256);
    loop {
        if io.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let common = bytes.len().min(PREFACE.len());
        if bytes[..common] != PREFACE[..common] {
            return Ok((Protocol::Http1, bytes.freeze()));
        }
        if common == PREFACE.len() {
            return Ok((Protocol::Http2, bytes.freeze()));
        }
    }
}

/// A stream whose first bytes were read already.
pub(crate) struct Replay<IO> {
    pub(crate) first_bytes: Bytes,
    pub(crate) io: IO,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Replay<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first_bytes.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let len = self.first_bytes.len().min(buffer.remaining());
        buffer.put_slice(&self.first_bytes[..len]);
        self.first_bytes.advance(len);
        if self.first_bytes.is_empty() {
            self.first_bytes = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Replay<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

async fn serve_http2<IO, S>(
    io: IO,
    first_bytes: &[u8],
    service: Rc<S>,
    options: &Options,
    shared: Rc<Shared>,
    ticket: Ticket,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: Service,
{
    let config = http2::Config {
        stream_window_bytes: STREAM_WINDOW_BYTES,
        connection_window_bytes: CONNECTION_WINDOW_BYTES,
        max_concurrent_streams: options.max_concurrent_streams,
        max_header_list_bytes: HEADER_LIST_BYTES,
        send_buffer_bytes: SEND_BUFFER_BYTES,
        ..http2::Config::default()
    };
    let mut connection = Connection::new(io, first_bytes, config);
    let mut keepalive = Keepalive::new(options);
    let mut pings = PingPolicy::new(options, shared.peer.secure);
    let mut sent = Phase::Serving;
    poll_fn(|cx| {
        let mut accepted = false;
        loop {
            match connection.poll_accept(cx) {
                Poll::Ready(Some(request)) => {
                    ticket.spoke();
                    accepted = true;
                    match options.protocols {
                        Protocols::Both if !shared.peer.secure || web::is_grpc(&request.head) => {}
                        Protocols::Grpc => {}
                        _ => {
                            let (service, caller) = (service.clone(), Caller::new(&shared, None));
                            let in_flight = InFlight::begin(&shared);
                            tokio::task::spawn_local(web::answer(request, service, caller, in_flight));
                            continue;
                        }
                    }
                    if let Some(call) = Call::accept(request, &shared) {
                        service.grpc(call);
                    }
                    continue;
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            // The state may have changed through what follows: then the connection has to be
            // polled again before this returns.
            let wanted = match ticket.phase(cx) {
                Phase::Draining if sent < Phase::Draining => Phase::Draining,
                Phase::Draining if accepted => {
                    // Tasks of calls that were just accepted have not been in flight yet.
                    cx.waker().wake_by_ref();
                    Phase::Draining
                }
                Phase::Draining if shared.in_flight.get() == 0 && !connection.has_unsent_ends() => {
                    Phase::Closing
                }
                phase => phase,
            };
            if wanted > sent {
                match wanted {
                    Phase::Closing => connection.shut_down(Reason::NO_ERROR),
                    _ => {
                        shared.stopping.begin();
                        connection.go_away();
                    }
                }
                sent = wanted;
                continue;
            }
            if pings.are_too_many(&mut connection) {
                connection.shut_down_saying(Reason::ENHANCE_YOUR_CALM, b"too_many_pings");
                continue;
            }
            return keepalive.poll_dead(&mut connection, cx);
        }
    })
    .await;
    // Who never asked has no answer to lose, and gives its place away at once; so does who is sent away. Whether
    // a client still lives is of no interest any more.
    if sent != Phase::Serving && ticket.has_spoken() {
        let _ = timeout(LINGER, linger(&mut connection, &ticket)).await;
    }
}

/// Waits until the client closes too, or is silent: a connection that is closed while the client still
/// acknowledges is reset, and with it goes what the client had not taken of its answers.
async fn linger<IO: AsyncRead + AsyncWrite + Unpin>(connection: &mut Connection<IO>, ticket: &Ticket) {
    loop {
        let next = poll_fn(|cx| match ticket.phase(cx) {
            Phase::Closing => Poll::Ready(false),
            _ => connection.poll_discard(cx),
        });
        match timeout(LINGER_QUIET, next).await {
            Ok(true) => tokio::task::yield_now().await,
            Ok(false) | Err(_) => return,
        }
    }
}

async fn serve_http1<IO, S>(io: IO, shared: Rc<Shared>, service: Rc<S>, ticket: Ticket)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service,
{
    let spoke = Rc::new(Cell::new(false));
    let speaks = spoke.clone();
    let takeover = Takeover::default();
    let caller = Caller::new(&shared, Some(takeover.clone()));
    let leftover = Leftover::default();
    let bodies = leftover.clone();
    let handler = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        speaks.set(true);
        let (service, caller) = (service.clone(), caller.clone());
        let request = request.map(|incoming| RequestBody::Http1(bodies.of(incoming)));
        async move { Ok::<_, std::convert::Infallible>(service.http(request, caller).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(FIRST_BYTES_TIMEOUT)
        .serve_connection(TokioIo::new(io), handler)
        .with_upgrades();
    let mut connection = pin!(connection);
    let mut draining = false;
    poll_fn(|cx| {
        let phase = ticket.phase(cx);
        if phase == Phase::Closing {
            return Poll::Ready(());
        }
        if phase == Phase::Draining && !draining {
            draining = true;
            shared.stopping.begin();
            leftover.close();
            connection.as_mut().graceful_shutdown();
        }
        let served = connection.as_mut().poll(cx).map(|_| ());
        if served.is_pending() {
            leftover.poll(cx);
        }
        if spoke.get() {
            ticket.spoke();
        }
        served
    })
    .await;
    // The connection goes on as something else, if the service said so.
    let next = takeover.take();
    if let Some(next) = next {
        ticket.unless_ended(next).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sniffing_waits_for_no_more_than_it_needs() {
        let check = async |chunks: &[&[u8]], expected: Option<Protocol>| {
            let mut script = tokio_test_reader(chunks);
            let found = sniff(&mut script).await.ok();
            assert_eq!(found.as_ref().map(|(protocol, _)| *protocol), expected, "{chunks:?}");
        };
        check(&[b"GET / HTTP/1.1\r\n"], Some(Protocol::Http1)).await;
        check(&[PREFACE], Some(Protocol::Http2)).await;
        check(&[b"PRI * HT", b"TP/2.0\r\n\r\nSM\r\n\r\n", b"rest"], Some(Protocol::Http2)).await;
        check(&[b"PRI * HT", b"TP/1"], Some(Protocol::Http1)).await;
        check(&[b"P"], None).await;
        check(&[], None).await;
    }

    /// Yields the chunks one read at a time.
    fn tokio_test_reader(chunks: &[&[u8]]) -> impl AsyncRead + Unpin {
        struct Script(std::collections::VecDeque<Vec<u8>>);
        impl AsyncRead for Script {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                if let Some(chunk) = self.0.pop_front() {
                    buffer.put_slice(&chunk);
                }
                Poll::Ready(Ok(()))
            }
        }
        Script(chunks.iter().map(|chunk| chunk.to_vec()).collect())
    }
}
