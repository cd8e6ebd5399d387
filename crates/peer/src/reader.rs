//! Reading a peer's stream: dial, decode, hand over, and dial again when it ends.
//!
//! A dial at most every 100 ms, as etcd does. A stream that is silent for the read timeout is
//! given up: a living peer sends a link heartbeat three times in that time.
//!
//! **Source**: etcd `server/etcdserver/api/rafthttp/stream.go` (streamReader).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message as _;
use tokio::time::{Instant, sleep_until, timeout};
use types::MemberId;

use crate::codec::{AppendDecoder, DecodeError, Decoder, MessageDecoder, is_link_heartbeat};
use crate::context::Shared;
use crate::identity::{CLUSTER_ID, PreconditionFailed, RAFT_TO, has_streams, text};
use crate::link::{Link, LinkError, full, read_body};
use crate::log::Fields;
use crate::metrics::PeerMetrics;
use crate::outbox::StreamKind;
use crate::status::{Failure, PeerStatus};
use crate::url::{PeerUrl, UrlPicker};

/// Time from one dial to the next.
const REDIAL: Duration = Duration::from_millis(100);
/// Longest text of a refusal that is read.
const MAX_REFUSAL_BYTES: usize = 4096;

/// Whom etcd counts link heartbeats under: they have no sender.
const NOBODY: MemberId = MemberId(0);

/// Why there is no stream. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("unsupported stream type")]
    Unsupported,
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    #[error("peer {peer} failed to find local node {local}")]
    Unknown { peer: MemberId, local: MemberId },
    #[error(transparent)]
    Precondition(#[from] PreconditionFailed),
    #[error("unhandled http status {0}")]
    Status(u16),
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    #[error("EOF")]
    Eof,
    #[error("silent for {0:?}")]
    Silent(Duration),
    #[error("{0}")]
    Broken(#[from] hyper::Error),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Reads one kind of stream from one peer until it is dropped.
pub(crate) struct StreamReader {
    pub(crate) kind: StreamKind,
    pub(crate) peer: MemberId,
    pub(crate) shared: Arc<Shared>,
    pub(crate) picker: Arc<UrlPicker>,
    pub(crate) status: Arc<PeerStatus>,
    pub(crate) metrics: Arc<PeerMetrics>,
    /// Received messages are thrown away.
    pub(crate) paused: Arc<AtomicBool>,
}

impl StreamReader {
    pub(crate) async fn run(self) {
        self.shared.log().info("started stream reader with remote peer", &self.fields());
        let mut link = Link::new(self.shared.config.dialer.clone(), self.shared.stream_limits());
        loop {
            let next_dial = Instant::now() + REDIAL;
            match self.dial(&mut link).await {
                Ok(body) => self.read(body).await,
                Err(DialError::Unsupported) => {}
                Err(error) => self.status.deactivate(self.failure("dial"), error),
            }
            link.close();
            sleep_until(next_dial).await;
        }
    }

    async fn dial(&self, link: &mut Link) -> Result<Incoming, DialError> {
        let url = self.picker.pick();
        let result = self.dial_url(link, &url).await;
        if result.is_err() {
            self.picker.unreachable(&url);
        }
        result
    }

    async fn dial_url(&self, link: &mut Link, url: &PeerUrl) -> Result<Incoming, DialError> {
        let identity = &self.shared.config.identity;
        let path = format!("{}/{}", self.kind.path(), identity.id);
        let request = || {
            identity
                .request(Method::GET, url, &path)
                .header(RAFT_TO, self.peer.to_string())
                .body(full(""))
                .expect("parts of a request were checked when they were made")
        };
        let response = link.send(url, request).await?;
        if !has_streams(response.headers()) {
            return Err(DialError::Unsupported);
        }
        let local = identity.id;
        match response.status() {
            StatusCode::OK => Ok(response.into_body()),
            StatusCode::GONE => {
                self.shared.handler().removed_from_cluster();
                Err(DialError::Removed)
            }
            StatusCode::NOT_FOUND => Err(DialError::Unknown { peer: self.peer, local }),
            StatusCode::PRECONDITION_FAILED => {
                let cluster = text(response.headers(), &CLUSTER_ID).to_owned();
                let patience = self.shared.config.read_timeout;
                let body = read_body(response.into_body(), MAX_REFUSAL_BYTES, patience, url).await?;
                Err(self.refused(&body, cluster))
            }
            status => Err(DialError::Status(status.as_u16())),
        }
    }

    fn refused(&self, body: &[u8], cluster: String) -> DialError {
        let failed = PreconditionFailed::read(body);
        match failed {
            PreconditionFailed::Incompatible => self.shared.log().warn(
                "request sent was ignored by remote peer due to server version incompatibility",
                &[
                    ("local-member-id", self.shared.id().into()),
                    ("remote-peer-id", self.peer.into()),
                    ("error", failed.to_string().into()),
                ],
            ),
            PreconditionFailed::ClusterMismatch => self.shared.log().warn(
                "request sent was ignored by remote peer due to cluster ID mismatch",
                &[
                    ("remote-peer-id", self.peer.into()),
                    ("remote-peer-cluster-id", cluster.into()),
                    ("local-member-id", self.shared.id().into()),
                    ("local-member-cluster-id", self.shared.config.identity.cluster_id.into()),
                    ("error", failed.to_string().into()),
                ],
            ),
            PreconditionFailed::Unknown(_) => {}
        }
        failed.into()
    }

    /// Reads a stream to its end.
    async fn read(&self, body: Incoming) {
        self.status.activate();
        self.shared.log().info("established TCP streaming connection with remote peer", &self.fields());
        let end = match self.kind {
            StreamKind::Append => self.pump(body, &mut AppendDecoder::new(self.shared.id(), self.peer)).await,
            StreamKind::Message => self.pump(body, &mut MessageDecoder::default()).await,
        };
        let mut fields = self.fields().to_vec();
        fields.push(("error", end.to_string().into()));
        self.shared.log().warn("lost TCP streaming connection with remote peer", &fields);
        if !matches!(end, StreamEnd::Eof) {
            self.status.deactivate(self.failure("read"), end);
        }
    }

    async fn pump(&self, mut body: Incoming, decoder: &mut impl Decoder) -> StreamEnd {
        let patience = self.shared.config.read_timeout;
        loop {
            let frame = match timeout(patience, body.frame()).await {
                Err(_) => return StreamEnd::Silent(patience),
                Ok(None) => return StreamEnd::Eof,
                Ok(Some(Err(error))) => return error.into(),
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(bytes) = frame.into_data() else { continue };
            self.metrics.received_bytes.add(bytes.len() as u64);
            decoder.feed(&bytes);
            if let Err(error) = self.hand_over_all(decoder) {
                self.metrics.received_failures.inc();
                return error.into();
            }
        }
    }

    fn hand_over_all(&self, decoder: &mut impl Decoder) -> Result<(), DecodeError> {
        while let Some(message) = decoder.next()? {
            if is_link_heartbeat(&message) {
                self.shared.metrics.peer(NOBODY).received_bytes.add(message.encoded_len() as u64);
                continue;
            }
            if self.paused.load(Ordering::Relaxed) {
                continue;
            }
            let kind = message.r#type();
            if let Err(error) = self.shared.deliver(message) {
                self.shared.note_undelivered(kind, self.peer, self.status.is_active(), error);
            }
        }
        Ok(())
    }

    fn failure(&self, action: &'static str) -> Failure {
        Failure { source: self.kind.name(), action }
    }

    fn fields(&self) -> [Field; 3] {
        [
            ("stream-reader-type", self.kind.name().into()),
            ("local-member-id", self.shared.id().into()),
            ("remote-peer-id", self.peer.into()),
        ]
    }
}

type Field = (&'static str, crate::log::Field<'static>);

impl Drop for StreamReader {
    fn drop(&mut self) {
        let fields: &Fields<'_> = &self.fields();
        self.shared.log().info("stopped stream reader with remote peer", fields);
    }
}
