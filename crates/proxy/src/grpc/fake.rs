//! A cluster for tests: answers what it is told to.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use api::grpc::{
    Call, CallContext, Caller, Code, HttpBody, Listener, MethodInfo, Options, RequestBody, Requests,
    Responses, Service, Serving, Status, Workers,
};
use api::services::methods::{CLIENT_METHODS, id, path};
use client::Client;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use parking_lot::Mutex;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_request::RequestUnion;
use tokio::sync::watch;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone)]
struct Cluster {
    /// Revisions of the next answers; the last one stays.
    revisions: Arc<Mutex<VecDeque<i64>>>,
    /// Whether there is a leader.
    leader: watch::Sender<bool>,
    /// Watches that were begun: whether their stream asked for a leader.
    watches: watch::Sender<Vec<bool>>,
}

/// One member, on a thread of its own.
pub(crate) struct Fake {
    cluster: Cluster,
    serving: Serving,
    _workers: Arc<Workers>,
}

impl Fake {
    pub(crate) fn start() -> Self {
        let cluster = Cluster {
            revisions: Arc::new(Mutex::new(VecDeque::from([1]))),
            leader: watch::Sender::new(true),
            watches: watch::Sender::default(),
        };
        let workers = Arc::new(Workers::start(1, "fake").unwrap());
        let listener = Listener::tcp(([127, 0, 0, 1], 0).into()).unwrap();
        let serving = api::grpc::serve(&workers, listener, Options::default(), cluster.clone()).unwrap();
        Self { cluster, serving, _workers: workers }
    }

    pub(crate) fn address(&self) -> String {
        self.serving.local_addr().unwrap().to_string()
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(client::Options::new([self.address()])).await.unwrap()
    }

    /// The next answers have these revisions; the last one stays.
    pub(crate) fn revisions<const N: usize>(&self, revisions: [i64; N]) {
        *self.cluster.revisions.lock() = revisions.into();
    }

    /// The leader is gone.
    pub(crate) fn lose_leader(&self) {
        self.cluster.leader.send_replace(false);
    }

    /// Watches that were begun so far, once there are so many: whether their stream asked for a leader.
    pub(crate) async fn watches(&self, count: usize) -> Vec<bool> {
        let mut watches = self.cluster.watches.subscribe();
        let begun = watches.wait_for(|begun| begun.len() >= count);
        tokio::time::timeout(PATIENCE, begun).await.expect("not so many begin").unwrap().clone()
    }
}

impl Cluster {
    fn header(&self) -> Option<pb::ResponseHeader> {
        let mut revisions = self.revisions.lock();
        let revision = if revisions.len() > 1 { revisions.pop_front() } else { revisions.front().copied() };
        revision.map(|revision| pb::ResponseHeader { revision, ..Default::default() })
    }

    async fn watch(
        self,
        mut requests: Requests<pb::WatchRequest>,
        context: CallContext,
        responses: &mut Responses,
    ) -> Result<(), Status> {
        let mut leader = self.leader.subscribe();
        loop {
            let lost = async {
                match context.requires_leader() {
                    // The sender lives as long as we do.
                    true => drop(leader.wait_for(|there| !there).await),
                    false => std::future::pending().await,
                }
            };
            let request = tokio::select! {
                () = lost => return Err(Status::new(Code::Unavailable, "etcdserver: no leader")),
                request = requests.next() => request,
            };
            let Some(request) = request else { std::future::pending().await };
            if let Some(RequestUnion::CreateRequest(_)) = request?.request_union {
                self.watches.send_modify(|watches| watches.push(context.requires_leader()));
                let watch_id = self.watches.borrow().len() as i64;
                let header = self.header();
                responses
                    .send(&pb::WatchResponse { header, watch_id, created: true, ..Default::default() })
                    .await?;
            }
        }
    }
}

impl Service for Cluster {
    const METHODS: &'static [MethodInfo] = CLIENT_METHODS;

    fn grpc(self: &Rc<Self>, call: Call) {
        let cluster = Self::clone(self);
        match call.path() {
            path::RANGE => call.unary(id::RANGE, async move |_: pb::RangeRequest, _| {
                Ok(pb::RangeResponse { header: cluster.header(), ..Default::default() })
            }),
            path::TXN => call.unary(id::TXN, async move |_: pb::TxnRequest, _| {
                Ok(pb::TxnResponse { header: cluster.header(), ..Default::default() })
            }),
            path::LEASE_KEEP_ALIVE => call.bidi(
                id::LEASE_KEEP_ALIVE,
                async move |mut requests: Requests<pb::LeaseKeepAliveRequest>,
                            _,
                            responses: &mut Responses| {
                    while let Some(request) = requests.next().await {
                        let answer =
                            pb::LeaseKeepAliveResponse { id: request?.id, ttl: 60, ..Default::default() };
                        responses.send(&answer).await?;
                    }
                    Ok(())
                },
            ),
            path::WATCH => call.bidi(id::WATCH, async move |requests, context, responses: &mut Responses| {
                cluster.watch(requests, context, responses).await
            }),
            _ => call.refuse_unknown(|_| true),
        }
    }

    async fn http(self: Rc<Self>, _: Request<RequestBody>, _: Caller) -> Response<HttpBody> {
        Response::new(Empty::new().boxed_unsync())
    }
}
