//! The Watch service: streams of callers at one end, as few watches at the cluster as can be at the
//! other.
//!
//! ```text
//! stream (any worker) ──Add, Cancel──▶ hub (first worker) ──Open, Close──▶ watch at the cluster
//!        ◀──────────── outlet ◀──────── groups ◀───────────── responses ───────┘
//! ```
//!
//! Before a watch is added the cluster is asked, with the caller's token, whether he may read the range;
//! the answer also says which revision is now. So a watch can be answered at once, and can join one
//! that somebody else began.
//!
//! As in etcd's proxy the ids of watches are counted from 0 whatever the caller proposes, responses
//! come in one piece, and a request for progress is not supported. Who asked for a leader is cut off when
//! the member behind his watch has none (in etcd's proxy he is not): such watches have a stream of their
//! own to the cluster, which asks for a leader as well.
//!
//! **Source**: etcd `server/proxy/grpcproxy/watch.go`.

mod body;
mod groups;
mod hub;
mod outlet;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use api::grpc::{CallContext, Code, Requests, Responses, Status};
use bytes::{Bytes, BytesMut};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_request::RequestUnion;
use server::log;

use super::Proxy;
use super::leader::NO_LEADER;
use super::payloads::Payloads;
use body::{Body, View};
use groups::{Range, StreamId, Watch};
use outlet::{End, Outlet};

pub(crate) use hub::{Hub, Input, Inputs};

/// What is encoded before it is handed to the connection.
const SEND_BYTES: usize = 256 << 10;

/// `Watch.Watch`.
pub(crate) async fn watch(
    proxy: &Proxy,
    context: &CallContext,
    requests: Requests<pb::WatchRequest>,
    responses: &mut Responses,
) -> Result<(), Status> {
    static STREAMS: AtomicU64 = AtomicU64::new(0);
    let stream = Stream {
        proxy,
        context,
        id: StreamId(STREAMS.fetch_add(1, Ordering::Relaxed)),
        outlet: Arc::default(),
        token: context.token().map(Into::into),
        payloads: Payloads::of(context, proxy.has_payload_log),
    };
    tokio::select! {
        ended = stream.take_requests(requests) => ended,
        ended = stream.send_responses(responses) => ended,
    }
}

struct Stream<'a> {
    proxy: &'a Proxy,
    context: &'a CallContext,
    id: StreamId,
    outlet: Arc<Outlet>,
    token: Option<Arc<str>>,
    payloads: Payloads,
}

impl Stream<'_> {
    async fn take_requests(&self, mut requests: Requests<pb::WatchRequest>) -> Result<(), Status> {
        let mut next_id = 0;
        while let Some(request) = requests.next().await {
            let request = request.inspect_err(|status| self.payloads.receives_no_more(Some(status)))?;
            self.payloads.received(&request);
            match request.request_union {
                Some(RequestUnion::CreateRequest(request)) => match self.examine(&request).await {
                    Ok(header) => {
                        self.tell(Input::Add(self.watch(next_id, header, request)));
                        next_id += 1;
                    }
                    Err(reason) => self.refuse(reason),
                },
                Some(RequestUnion::CancelRequest(request)) => {
                    self.tell(Input::Cancel(self.id, request.watch_id));
                    log::debug!("cancel watcher", "watcherId" => request.watch_id);
                }
                Some(RequestUnion::ProgressRequest(_)) => {
                    log::error!("not supported request type by gRPC proxy", "request" => "progress_request:{}");
                }
                None => {}
            }
        }
        self.payloads.receives_no_more(None);
        // The caller only receives from now on.
        std::future::pending().await
    }

    /// Whether the watch may be; with the header of the answer. The error goes to the caller.
    async fn examine(&self, request: &pb::WatchCreateRequest) -> Result<pb::ResponseHeader, String> {
        let (key, end) = (&request.key, &request.range_end);
        if request.start_revision < 0 {
            return Err("etcdserver: mvcc: required revision has been compacted".to_owned());
        }
        // Only a caller with a token has permissions of his own; for the others the watch itself will
        // be refused, and only the revision is of interest.
        let (key, range_end, everything) = match (&self.token, key.is_empty()) {
            (Some(_), false) => (key.clone(), end.clone(), true),
            (Some(_), true) => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"), true),
            (None, false) => (key.clone(), Bytes::new(), false),
            (None, true) => (Bytes::from_static(b"\0"), Bytes::new(), false),
        };
        let look = pb::RangeRequest {
            key,
            range_end,
            serializable: true,
            count_only: everything,
            keys_only: !everything,
            limit: 1,
            ..Default::default()
        };
        let upstream = &self.proxy.upstream;
        let client = upstream.client_for(self.context);
        let answer = upstream.range(&client, look).await.map_err(|error| error.to_string())?;
        let (key, end) = (&request.key[..], &request.range_end[..]);
        match end.is_empty() || end > key || end == b"\0" {
            true => Ok(answer.header.unwrap_or_default()),
            false => Err(String::new()),
        }
    }

    fn watch(&self, id: i64, header: pb::ResponseHeader, request: pb::WatchCreateRequest) -> Watch {
        let view = View::of(&request);
        let key = String::from_utf8_lossy(&request.key).into_owned();
        let end = String::from_utf8_lossy(&request.range_end).into_owned();
        log::debug!("create watcher", "key" => key, "end" => end, "watcherId" => id);
        Watch {
            stream: self.id,
            id,
            range: Range {
                key: request.key,
                range_end: request.range_end,
                needs_leader: self.context.requires_leader(),
            },
            start_revision: request.start_revision,
            header,
            progress: request.progress_notify,
            view,
            token: self.token.clone(),
            outlet: self.outlet.clone(),
        }
    }

    fn refuse(&self, cancel_reason: String) {
        let refusal = pb::WatchResponse {
            header: Some(pb::ResponseHeader::default()),
            created: true,
            canceled: true,
            cancel_reason,
            ..Default::default()
        };
        self.tell(Input::Refuse(self.outlet.clone(), Body::new(&refusal)));
    }

    fn tell(&self, input: Input) {
        // The hub runs as long as the proxy.
        let _ = self.proxy.hub.send(input);
    }

    async fn send_responses(&self, responses: &mut Responses) -> Result<(), Status> {
        responses.send_headers()?;
        loop {
            let taken = poll_fn(|cx| {
                if let Poll::Ready(taken) = self.outlet.poll_take(cx) {
                    return Poll::Ready(Some(taken));
                }
                responses.poll_gone(cx).map(|()| None)
            });
            let Some(taken) = taken.await else { return Err(Status::canceled()) };
            let taken = taken.map_err(|end| match end {
                End::Overrun => {
                    log::error!(
                        "failed to put a watch response on the watcher's proxy stream channel,err is timeout"
                    );
                    Status::new(Code::Unavailable, "grpc proxy: the watch stream fell too far behind")
                }
                End::NoLeader => Status::new(Code::Unavailable, NO_LEADER),
            })?;
            let (mut frames, mut count) = (BytesMut::new(), 0);
            for (watch_id, body) in taken {
                body.write(watch_id, &mut frames);
                count += 1;
                if frames.len() >= SEND_BYTES {
                    self.send(responses, frames.split().freeze(), count).await?;
                    count = 0;
                }
            }
            if count > 0 {
                self.send(responses, frames.freeze(), count).await?;
            }
        }
    }

    async fn send(&self, responses: &mut Responses, frames: Bytes, count: u64) -> Result<(), Status> {
        let sent = responses.send_frames(frames.clone(), count).await;
        self.payloads.sent(&frames, &sent);
        sent
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.tell(Input::Gone(self.id));
    }
}
