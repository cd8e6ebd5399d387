//! Serving the peer port: connections, and which endpoint gets which request.
//!
//! A connection that is silent between two requests is closed after the read timeout, as Go's
//! peers expect. Streams end only when their body does.
//!
//! **Source**: etcd `server/etcdserver/api/etcdhttp/peer.go`, `rafthttp/http.go`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prost::Message as _;
use proto::raftpb;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use types::MemberId;

use crate::codec::MAX_MESSAGE_BYTES;
use crate::endpoints;
use crate::identity::{CLUSTER_ID, PEER_URLS, RAFT_TO, SERVER_FROM, SERVER_VERSION, text as header};
use crate::net::{Acceptor, BoxIo, Timed};
use crate::outbox::StreamKind;
use crate::reply::{Reply, empty, not_found, text, typed, wrong_method};
use crate::transport::{Inner, Told};
use crate::{prober, snapshot};

/// Connections at a time per listener: four or five per member are normal.
const MAX_CONNECTIONS: usize = 1024;
/// Handshakes at a time per listener. They count apart, so that who gets no further than this keeps
/// no peer out that is connected already, and hardly one that comes.
const MAX_HANDSHAKES: usize = 8192;
/// Pauses after a failed accept, which usually means that file descriptors ran out.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Accepts connections until the runtime ends.
pub(crate) async fn serve(inner: Arc<Inner>, acceptor: Acceptor) {
    inner.shared.log().info("serving peer traffic", &[("address", acceptor.name.clone().into())]);
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let arriving = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        // The semaphores are never closed.
        let Ok(arrival) = arriving.clone().acquire_owned().await else { return };
        match acceptor.accept().await {
            Ok(accepted) => {
                let (inner, free) = (inner.clone(), free.clone());
                tokio::spawn(async move {
                    let remote = accepted.remote.clone();
                    let Some(io) = accepted.secure().await else { return };
                    let Ok(_permit) = free.acquire_owned().await else { return };
                    drop(arrival);
                    serve_connection(inner, io, remote).await;
                });
            }
            Err(error) => {
                inner.shared.log().warn(
                    "failed to accept a peer connection",
                    &[("address", acceptor.name.clone().into()), ("error", error.to_string().into())],
                );
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn serve_connection(inner: Arc<Inner>, io: BoxIo, remote: String) {
    let config = &inner.shared.config;
    let io = TokioIo::new(Timed::new(io, config.write_timeout));
    let service = service_fn(|request| {
        let (inner, remote) = (inner.clone(), remote.clone());
        async move { Ok::<_, Infallible>(answer(&inner, request, &remote).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.read_timeout)
        .title_case_headers(true)
        .serve_connection(io, service)
        .await;
    if let Err(error) = served {
        inner.shared.log().debug(
            "a peer connection ended",
            &[("remote-addr", remote.clone().into()), ("error", error.to_string().into())],
        );
    }
}

async fn answer(inner: &Arc<Inner>, request: Request<Incoming>, remote: &str) -> Response<Reply> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/raft" => pipeline(inner, request, remote).await,
        prober::PATH => typed(HeaderValue::from_static("text/plain; charset=utf-8"), prober::answer()),
        snapshot::PATH => receive_snapshot(inner, request, remote).await,
        _ if path.starts_with("/raft/stream/") => stream(inner, &request),
        _ if path.starts_with("/raft/") => not_found(),
        _ => endpoints::answer(&inner.shared, request).await,
    }
}

/// One message in a request.
async fn pipeline(inner: &Arc<Inner>, request: Request<Incoming>, remote: &str) -> Response<Reply> {
    let mut response = match check_post(inner, &request) {
        Err(refusal) => refusal,
        Ok(()) => take_message(inner, request.into_body(), remote).await,
    };
    add_cluster_id(inner, response.headers_mut());
    response
}

async fn take_message(inner: &Inner, body: Incoming, remote: &str) -> Response<Reply> {
    let shared = &inner.shared;
    let refuse = |line: &str, error: &dyn std::fmt::Display, reason: &str| {
        shared
            .log()
            .warn(line, &[("local-member-id", shared.id().into()), ("error", error.to_string().into())]);
        shared.metrics.request_failed(remote);
        text(StatusCode::BAD_REQUEST, reason)
    };
    let patience = shared.config.read_timeout;
    let bytes = match read_whole(body, MAX_MESSAGE_BYTES, patience).await {
        Ok(bytes) => bytes,
        Err(error) => return refuse("failed to read Raft message", &error, "error reading raft message"),
    };
    let len = bytes.len() as u64;
    let message = match raftpb::Message::decode(bytes) {
        Ok(message) => message,
        Err(error) => {
            return refuse("failed to unmarshal Raft message", &error, "error unmarshalling raft message");
        }
    };
    let from = MemberId(message.from());
    shared.metrics.peer(from).received_bytes.add(len);
    match shared.deliver(message) {
        Ok(()) => empty(StatusCode::NO_CONTENT),
        Err(error) => {
            shared.log().warn(
                "failed to process Raft message",
                &[("local-member-id", shared.id().into()), ("error", error.to_string().into())],
            );
            let mut response = text(StatusCode::INTERNAL_SERVER_ERROR, "error processing raft message");
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            response
        }
    }
}

async fn receive_snapshot(inner: &Arc<Inner>, request: Request<Incoming>, remote: &str) -> Response<Reply> {
    let mut response = match check_post(inner, &request) {
        Err(refusal) => {
            inner.shared.metrics.snapshot_refused();
            refusal
        }
        Ok(()) => snapshot::receive::receive(&inner.shared, request.into_body(), remote).await,
    };
    add_cluster_id(inner, response.headers_mut());
    response
}

/// Whether a post may go on; makes its sender a remote if nobody knows him.
#[expect(clippy::result_large_err, reason = "the error is the answer, made once per request")]
fn check_post(inner: &Inner, request: &Request<Incoming>) -> Result<(), Response<Reply>> {
    if request.method() != Method::POST {
        return Err(wrong_method(&Method::POST));
    }
    let shared = &inner.shared;
    if let Err(refusal) = shared.config.identity.check(request.headers(), shared.log()) {
        return Err(text(StatusCode::PRECONDITION_FAILED, refusal.text()));
    }
    if let Ok(from) = header(request.headers(), &SERVER_FROM).parse() {
        add_remote(inner, from, request.headers());
    }
    Ok(())
}

/// A sender who is no member yet is answered at the URLs he gives.
fn add_remote(inner: &Inner, from: MemberId, headers: &HeaderMap) {
    let urls = header(headers, &PEER_URLS);
    if urls.is_empty() || inner.shared.handler().is_removed(from) {
        return;
    }
    let urls: Vec<_> = urls.split(',').collect();
    if let Err(error) = inner.add_remote(from, &urls, Told::ByHimself) {
        inner.shared.log().warn(
            "ignored the URLs of an unknown peer",
            &[("remote-peer-id", from.into()), ("error", error.to_string().into())],
        );
    }
}

fn stream(inner: &Arc<Inner>, request: &Request<Incoming>) -> Response<Reply> {
    let mut response = open_stream(inner, request);
    let version = inner.shared.config.identity.compat.server_version().to_string();
    if let Ok(version) = HeaderValue::from_str(&version) {
        response.headers_mut().insert(SERVER_VERSION, version);
    }
    add_cluster_id(inner, response.headers_mut());
    response
}

fn open_stream(inner: &Arc<Inner>, request: &Request<Incoming>) -> Response<Reply> {
    let shared = &inner.shared;
    if request.method() != Method::GET {
        return wrong_method(&Method::GET);
    }
    if let Err(refusal) = shared.config.identity.check(request.headers(), shared.log()) {
        return text(StatusCode::PRECONDITION_FAILED, refusal.text());
    }
    let path = request.uri().path();
    let Some((kind, from)) = stream_of(path) else {
        return text(StatusCode::NOT_FOUND, "invalid path");
    };
    let local =
        [("local-member-id", shared.id().into()), ("remote-peer-id-stream-handler", shared.id().into())];
    let warn = |line: &str, name: &'static str, value: crate::log::Field<'_>| {
        let [first, second] = local.clone();
        shared.log().warn(line, &[first, second, (name, value)]);
    };
    let Ok(from) = from.parse::<MemberId>() else {
        warn("failed to parse path into ID", "path", from.into());
        return text(StatusCode::NOT_FOUND, "invalid from");
    };
    if shared.handler().is_removed(from) {
        let line = "rejected stream from remote peer because it was removed";
        warn(line, "remote-peer-id-from", from.into());
        return text(StatusCode::GONE, "removed member");
    }
    let Some(peer) = inner.peer(from) else {
        add_remote(inner, from, request.headers());
        warn("failed to find remote peer in cluster", "remote-peer-id-from", from.into());
        return text(StatusCode::NOT_FOUND, "error sender not found");
    };
    let to = header(request.headers(), &RAFT_TO);
    if to != shared.id().to_string() {
        warn("ignored streaming request; ID mismatch", "remote-peer-id-header", to.into());
        return text(StatusCode::PRECONDITION_FAILED, "to field mismatch");
    }
    Response::new(peer.attach(kind).boxed_unsync())
}

/// The stream that a path means, and who asks for it.
fn stream_of(path: &str) -> Option<(StreamKind, &str)> {
    let (stream, from) = path.rsplit_once('/')?;
    let kind = [StreamKind::Append, StreamKind::Message].into_iter().find(|kind| kind.path() == stream)?;
    Some((kind, from))
}

pub(crate) fn add_cluster_id(inner: &Inner, headers: &mut HeaderMap) {
    let id = inner.shared.config.identity.cluster_id.to_string();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(CLUSTER_ID, id);
    }
}

/// Why a request's body was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("{0}")]
    Broken(#[from] hyper::Error),
    #[error("no data for the time of the read timeout")]
    Silent,
    #[error("http: request body too large")]
    TooLong,
}

/// A whole body of at most `limit` bytes; each piece has to arrive within `patience`.
pub(crate) async fn read_whole(
    mut body: Incoming,
    limit: u64,
    patience: Duration,
) -> Result<Bytes, BodyError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = timeout(patience, body.frame()).await.map_err(|_| BodyError::Silent)? {
        if let Ok(data) = frame?.into_data() {
            if (whole.len() + data.len()) as u64 > limit {
                return Err(BodyError::TooLong);
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}
