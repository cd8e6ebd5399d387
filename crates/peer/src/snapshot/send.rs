//! The sending side.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use proto::raftpb;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use types::MemberId;

use super::{PATH, PIECE_BYTES, PIECES, human};
use crate::codec::{Batch, encode_message};
use crate::context::Shared;
use crate::handler::OutgoingSnapshot;
use crate::link::{Link, LinkLimits};
use crate::log::Field;
use crate::metrics::PeerMetrics;
use crate::pipeline::{PostError, check_answer};
use crate::status::{Failure, PeerStatus};
use crate::url::{PeerUrl, UrlPicker};

/// A transfer on which nothing moves for so long is given up. The other side syncs the whole file
/// before it answers.
const STALLED: Duration = Duration::from_secs(120);

/// Why a snapshot did not arrive.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("cannot make a snapshot: {0}")]
    Open(String),
    #[error(transparent)]
    Post(#[from] PostError),
    #[error("no progress for {STALLED:?}")]
    Stalled,
}

/// Sends snapshots to one peer.
#[derive(Clone)]
pub(crate) struct SnapshotSender {
    pub(crate) peer: MemberId,
    pub(crate) shared: Arc<Shared>,
    pub(crate) picker: Arc<UrlPicker>,
    pub(crate) status: Arc<PeerStatus>,
    pub(crate) metrics: Arc<PeerMetrics>,
}

/// Says that a transfer ended, also when it is cancelled.
struct InFlight<'s>(&'s SnapshotSender);

impl<'s> InFlight<'s> {
    fn begin(sender: &'s SnapshotSender) -> Self {
        sender.metrics.snapshot_send_inflights.add(1);
        Self(sender)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.metrics.snapshot_send_inflights.add(-1);
    }
}

impl SnapshotSender {
    /// Sends what the member has for this message, and tells raft how it went.
    pub(crate) async fn run(self, message: raftpb::Message) {
        let started = Instant::now();
        let snapshot = match self.open(message).await {
            Ok(snapshot) => snapshot,
            Err(error) => return self.failed(&[], error),
        };
        let fields = self.fields(&snapshot);
        let bytes = snapshot.bytes;
        self.shared.log().info("sending database snapshot", &fields);
        let in_flight = InFlight::begin(&self);
        let url = self.picker.pick();
        let result = self.post(&url, snapshot).await;
        drop(in_flight);
        match result {
            Ok(()) => {
                self.status.activate();
                self.shared.handler().report_snapshot(self.peer, true);
                self.shared.log().info("sent database snapshot", &fields);
                self.metrics.sent_bytes.add(bytes);
                self.metrics.snapshot_send_success.inc();
                self.metrics.snapshot_send_duration.observe(started.elapsed());
            }
            Err(error) => {
                self.picker.unreachable(&url);
                self.failed(&fields, error);
            }
        }
    }

    async fn open(&self, message: raftpb::Message) -> Result<OutgoingSnapshot, SendError> {
        let shared = self.shared.clone();
        let open = move || shared.handler().open_snapshot(message);
        match tokio::task::spawn_blocking(open).await {
            Ok(result) => result.map_err(SendError::Open),
            Err(error) => Err(SendError::Open(error.to_string())),
        }
    }

    fn failed(&self, fields: &[(&'static str, Field<'static>)], error: SendError) {
        let mut fields = fields.to_vec();
        if fields.is_empty() {
            fields.push(("remote-peer-id", self.peer.into()));
        }
        fields.push(("error", error.to_string().into()));
        self.shared.log().warn("failed to send database snapshot", &fields);
        if matches!(error, SendError::Post(PostError::Removed)) {
            self.shared.handler().removed_from_cluster();
        }
        // A snapshot that could not be made says nothing about the peer.
        if !matches!(error, SendError::Open(_)) {
            self.status.deactivate(Failure { source: "sendMsgSnap", action: "post" }, error);
            self.shared.handler().report_unreachable(self.peer);
        }
        self.shared.handler().report_snapshot(self.peer, false);
        self.metrics.sent_failures.inc();
        self.metrics.snapshot_send_failures.inc();
    }

    async fn post(&self, url: &PeerUrl, snapshot: OutgoingSnapshot) -> Result<(), SendError> {
        // A slow disk over there holds writes up for longer than a broken link should be kept.
        let limits = LinkLimits { write: STALLED, response: Duration::MAX };
        let mut link = Link::new(self.shared.config.dialer.clone(), limits);
        let moved = Arc::new(AtomicU64::new(0));
        let body = parking_lot::Mutex::new(Some(content(snapshot, moved.clone())));
        let identity = &self.shared.config.identity;
        let request = || {
            // The connection is new, so it is asked once.
            let body = body.lock().take().map_or_else(|| crate::link::full(""), BodyExt::boxed_unsync);
            identity
                .request(Method::POST, url, PATH)
                .header(http::header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
                .body(body)
                .expect("parts of a request were checked when they were made")
        };
        let exchange = async {
            let response = link.send(url, request).await.map_err(PostError::from)?;
            Ok(check_answer(response, &self.shared, self.peer, url, PATH).await?)
        };
        let mut exchange = std::pin::pin!(exchange);
        loop {
            let before = moved.load(Ordering::Relaxed);
            match timeout(STALLED, &mut exchange).await {
                Ok(result) => return result,
                Err(_) if moved.load(Ordering::Relaxed) == before => return Err(SendError::Stalled),
                Err(_) => {}
            }
        }
    }

    fn fields(&self, snapshot: &OutgoingSnapshot) -> [(&'static str, Field<'static>); 4] {
        let metadata = snapshot.message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
        [
            ("snapshot-index", metadata.map_or(0, raftpb::SnapshotMetadata::index).into()),
            ("remote-peer-id", self.peer.into()),
            ("bytes", snapshot.bytes.into()),
            ("size", human(snapshot.bytes).into()),
        ]
    }
}

/// A body that is read on a thread of its own while it is sent.
struct Content {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    moved: Arc<AtomicU64>,
}

fn content(snapshot: OutgoingSnapshot, moved: Arc<AtomicU64>) -> Content {
    let (to_body, pieces) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || read_pieces(snapshot, &to_body));
    Content { pieces, moved }
}

/// Reads until the end, or until nobody takes the pieces any more.
fn read_pieces(mut snapshot: OutgoingSnapshot, to_body: &mpsc::Sender<io::Result<Bytes>>) {
    let mut head = Batch::new();
    encode_message(&snapshot.message, &mut head);
    for piece in head.take() {
        if to_body.blocking_send(Ok(piece)).is_err() {
            return;
        }
    }
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let piece = match snapshot.content.read(&mut piece) {
            Ok(0) => return,
            Ok(len) => {
                piece.truncate(len);
                Ok(Bytes::from(piece))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let failed = piece.is_err();
        if to_body.blocking_send(piece).is_err() || failed {
            return;
        }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    /// An error breaks the connection, so that the other side does not take a part for the whole.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let piece = self.pieces.poll_recv(cx);
        piece.map(|piece| {
            self.moved.fetch_add(1, Ordering::Relaxed);
            piece.map(|piece| piece.map(Frame::data))
        })
    }
}
