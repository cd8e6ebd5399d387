//! Single messages by `POST /raft`: for a peer without streams, and for members that are not known
//! yet.
//!
//! **Source**: etcd `server/etcdserver/api/rafthttp/pipeline.go`.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode};
use hyper::body::Incoming;
use prost::Message as _;
use proto::raftpb;
use tokio::sync::{Mutex, mpsc};
use types::MemberId;

use crate::context::Shared;
use crate::identity::{CLUSTER_ID, PreconditionFailed, text};
use crate::link::{Link, LinkError, full, read_body};
use crate::metrics::PeerMetrics;
use crate::status::{Failure, PeerStatus};
use crate::url::{PeerUrl, UrlPicker};

/// Connections that are used at the same time.
pub(crate) const CONNECTIONS: usize = 4;
/// Messages that may wait: a second or so without network in ordinary traffic.
pub(crate) const QUEUE_MESSAGES: usize = 64;
/// Longest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 << 10;

pub(crate) const NAME: &str = "pipeline";
const PATH: &str = "/raft";

/// Why a post failed. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Precondition(#[from] PreconditionFailed),
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    #[error("unexpected http status {status} while posting to {url:?}")]
    Status { status: StatusCode, url: String },
}

/// Where messages for the pipeline wait.
pub(crate) type Queue = mpsc::Sender<raftpb::Message>;

/// Posts messages of one queue over one connection until it is dropped.
pub(crate) struct Pipeline {
    pub(crate) peer: MemberId,
    pub(crate) shared: Arc<Shared>,
    pub(crate) picker: Arc<UrlPicker>,
    pub(crate) status: Arc<PeerStatus>,
    pub(crate) metrics: Arc<PeerMetrics>,
    /// Shared with the other connections.
    pub(crate) queue: Arc<Mutex<mpsc::Receiver<raftpb::Message>>>,
}

impl Pipeline {
    pub(crate) async fn run(self) {
        let mut link = Link::new(self.shared.config.dialer.clone(), self.shared.request_limits());
        loop {
            let next = self.queue.lock().await.recv().await;
            let Some(message) = next else { return };
            self.send(&mut link, &message).await;
        }
    }

    async fn send(&self, link: &mut Link, message: &raftpb::Message) {
        let bytes = Bytes::from(message.encode_to_vec());
        let len = bytes.len() as u64;
        match self.post(link, bytes).await {
            Ok(()) => {
                self.status.activate();
                self.metrics.sent_bytes.add(len);
            }
            Err(error) => {
                if matches!(error, PostError::Removed) {
                    self.shared.handler().removed_from_cluster();
                }
                self.status.deactivate(Failure { source: NAME, action: "write" }, error);
                self.metrics.sent_failures.inc();
                self.shared.handler().report_unreachable(self.peer);
            }
        }
    }

    async fn post(&self, link: &mut Link, bytes: Bytes) -> Result<(), PostError> {
        let url = self.picker.pick();
        let result = self.post_to(link, &url, bytes).await;
        if result.is_err() {
            link.close();
            self.picker.unreachable(&url);
        }
        result
    }

    async fn post_to(&self, link: &mut Link, url: &PeerUrl, bytes: Bytes) -> Result<(), PostError> {
        let identity = &self.shared.config.identity;
        let request = || {
            identity
                .request(Method::POST, url, PATH)
                .header(http::header::CONTENT_TYPE, HeaderValue::from_static("application/protobuf"))
                .body(full(bytes.clone()))
                .expect("parts of a request were checked when they were made")
        };
        let response = link.send(url, request).await?;
        check_answer(response, &self.shared, self.peer, url, PATH).await
    }
}

/// What the answer to a posted message means.
pub(crate) async fn check_answer(
    response: Response<Incoming>,
    shared: &Shared,
    peer: MemberId,
    url: &PeerUrl,
    path: &str,
) -> Result<(), PostError> {
    let status = response.status();
    let cluster = text(response.headers(), &CLUSTER_ID).to_owned();
    let patience = shared.config.read_timeout;
    let body = read_body(response.into_body(), MAX_ANSWER_BYTES, patience, url).await?;
    match status {
        StatusCode::NO_CONTENT => Ok(()),
        StatusCode::FORBIDDEN => Err(PostError::Removed),
        StatusCode::PRECONDITION_FAILED => {
            let failed = PreconditionFailed::read(&body);
            match failed {
                PreconditionFailed::Incompatible => {
                    shared.log().error("request sent was ignored by peer", &[("remote-peer-id", peer.into())])
                }
                PreconditionFailed::ClusterMismatch => shared.log().error(
                    "request sent was ignored due to cluster ID mismatch",
                    &[
                        ("remote-peer-id", peer.into()),
                        ("remote-peer-cluster-id", cluster.into()),
                        ("local-member-cluster-id", shared.config.identity.cluster_id.into()),
                    ],
                ),
                PreconditionFailed::Unknown(_) => {}
            }
            Err(failed.into())
        }
        status => Err(PostError::Status { status, url: format!("{url}{path}") }),
    }
}
