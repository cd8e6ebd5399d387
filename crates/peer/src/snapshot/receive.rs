//! The receiving side.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use env::{Disk, File, OpenMode};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use proto::raftpb::{self, MessageType};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use types::MemberId;

use super::{PIECES, human};
use crate::codec::{Decoder, MessageDecoder};
use crate::context::{Shared, Undelivered};
use crate::handler::StepError;
use crate::metrics::{PeerMetrics, SavedDatabase};
use crate::reply::{Reply, empty, text};

/// Longest message in front of the database: configuration and v2 store, not the data.
const MAX_MESSAGE_BYTES: u64 = 64 << 20;
/// Bytes of a database that are written between two syncs. One sync at the end would keep the disk,
/// and with it everybody's log, busy for as long as the whole database takes.
const SYNC_BYTES: u64 = 4 << 20;
/// Times that a snapshot is offered to a raft thread whose queue is full.
const OFFERS: u32 = 50;
/// Time between two offers.
const OFFER_AGAIN: std::time::Duration = std::time::Duration::from_millis(100);

/// Why a database was not saved.
#[derive(Debug, thiserror::Error)]
enum SaveError {
    #[error("{0}")]
    Body(#[from] hyper::Error),
    #[error("no data for the time of the read timeout")]
    Silent,
    #[error("{action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("the thread that writes it ended")]
    Writer,
}

/// Answers `POST /raft/snapshot`. The sender was checked already.
pub(crate) async fn receive(shared: &Arc<Shared>, body: Incoming, remote: &str) -> Response<Reply> {
    let mut body = Pieces { body, shared: shared.clone() };
    let (message, rest) = match read_message(&mut body).await {
        Ok(parts) => parts,
        Err(reason) => {
            shared.log().warn(
                "failed to decode Raft message",
                &[("local-member-id", shared.id().into()), ("error", reason.clone().into())],
            );
            shared.metrics.request_failed(remote);
            shared.metrics.peer(MemberId(0)).snapshot_receive_failures.inc();
            return text(StatusCode::BAD_REQUEST, &format!("failed to decode raft message ({reason})"));
        }
    };
    let from = MemberId(message.from());
    let metrics = shared.metrics.peer(from);
    if message.r#type() != MessageType::MsgSnap {
        shared.log().warn(
            "unexpected Raft message type",
            &[
                ("local-member-id", shared.id().into()),
                ("remote-snapshot-sender-id", from.into()),
                ("message-type", message.r#type().as_str_name().into()),
            ],
        );
        metrics.snapshot_receive_failures.inc();
        return text(StatusCode::BAD_REQUEST, "wrong raft message type");
    }
    metrics.snapshot_receive_inflights.add(1);
    let _in_flight = InFlight(metrics.clone());
    Reception { shared, metrics: &metrics, from, started: Instant::now() }.run(message, rest, body).await
}

struct InFlight(Arc<PeerMetrics>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.snapshot_receive_inflights.add(-1);
    }
}

struct Reception<'r> {
    shared: &'r Arc<Shared>,
    metrics: &'r PeerMetrics,
    from: MemberId,
    started: Instant,
}

impl Reception<'_> {
    async fn run(&self, message: raftpb::Message, rest: Bytes, body: Pieces) -> Response<Reply> {
        // What raft would refuse is not worth the transfer.
        if let Err(error) = self.shared.admit(&message) {
            return self.refuse(error);
        }
        let index = snapshot_index(&message);
        self.log("receiving database snapshot", index, None);
        let bytes = match self.save(index, rest, body).await {
            Ok(bytes) => bytes,
            Err(error) => {
                self.metrics.snapshot_receive_failures.inc();
                self.log("failed to save incoming database snapshot", index, Some(error.to_string()));
                let reason = format!("failed to save KV snapshot ({error})");
                return text(StatusCode::INTERNAL_SERVER_ERROR, &reason);
            }
        };
        self.metrics.received_bytes.add(bytes);
        self.shared.log().info(
            "received and saved database snapshot",
            &[
                ("local-member-id", self.shared.id().into()),
                ("remote-snapshot-sender-id", self.from.into()),
                ("incoming-snapshot-index", index.into()),
                ("incoming-snapshot-size-bytes", bytes.into()),
                ("incoming-snapshot-size", human(bytes).into()),
                ("download-took", self.started.elapsed().into()),
            ],
        );
        if let Err(error) = self.deliver(message).await {
            return self.refuse(error);
        }
        self.metrics.snapshot_receive_success.inc();
        self.metrics.snapshot_receive_duration.observe(self.started.elapsed());
        empty(StatusCode::NO_CONTENT)
    }

    /// A whole database is not thrown away because of a moment's load.
    async fn deliver(&self, message: raftpb::Message) -> Result<(), Undelivered> {
        for _ in 1..OFFERS {
            match self.shared.deliver_snapshot(message.clone()) {
                Err(Undelivered::Step(StepError::Full)) => tokio::time::sleep(OFFER_AGAIN).await,
                other => return other,
            }
        }
        self.shared.deliver_snapshot(message)
    }

    fn refuse(&self, error: Undelivered) -> Response<Reply> {
        self.metrics.snapshot_receive_failures.inc();
        self.shared.log().warn(
            "failed to process Raft message",
            &[
                ("local-member-id", self.shared.id().into()),
                ("remote-snapshot-sender-id", self.from.into()),
                ("error", error.to_string().into()),
            ],
        );
        text(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed to process raft message ({error})"))
    }

    fn log(&self, line: &str, index: u64, error: Option<String>) {
        let mut fields = vec![
            ("local-member-id", self.shared.id().into()),
            ("remote-snapshot-sender-id", self.from.into()),
            ("incoming-snapshot-index", index.into()),
        ];
        match error {
            None => self.shared.log().info(line, &fields),
            Some(error) => {
                fields.push(("error", error.into()));
                self.shared.log().warn(line, &fields);
            }
        }
    }

    /// Writes the body to its file; answers its length.
    async fn save(&self, index: u64, first: Bytes, mut body: Pieces) -> Result<u64, SaveError> {
        let (to_writer, pieces) = mpsc::channel(PIECES);
        let config = &self.shared.config;
        let target = Target::new(config.disk.clone(), &config.snapshot_dir, index);
        let writer = tokio::task::spawn_blocking(move || target.write(pieces));
        let started = Instant::now();
        let fed = feed(&to_writer, first, &mut body).await;
        // Without an end the writer removes what it wrote.
        drop(to_writer);
        let (bytes, sync) = fed.and(writer.await.map_err(|_| SaveError::Writer)?)?;
        self.shared.metrics.database_saved(SavedDatabase { total: started.elapsed(), sync });
        Ok(bytes)
    }
}

/// Passes a body on. Succeeds also if the writer gave up: it knows why.
async fn feed(to_writer: &mpsc::Sender<Piece>, first: Bytes, body: &mut Pieces) -> Result<(), SaveError> {
    let mut piece = Some(first);
    while let Some(data) = piece {
        if to_writer.send(Piece::Data(data)).await.is_err() {
            return Ok(());
        }
        piece = body.next().await?;
    }
    // Only this makes the file count.
    let _ = to_writer.send(Piece::End).await;
    Ok(())
}

fn snapshot_index(message: &raftpb::Message) -> u64 {
    let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
    metadata.map_or(0, raftpb::SnapshotMetadata::index)
}

/// The request's body.
struct Pieces {
    body: Incoming,
    shared: Arc<Shared>,
}

impl Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>, SaveError> {
        loop {
            let patience = self.shared.config.read_timeout;
            let Some(frame) = timeout(patience, self.body.frame()).await.map_err(|_| SaveError::Silent)?
            else {
                return Ok(None);
            };
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
    }
}

/// The message in front, and the first bytes behind it.
async fn read_message(body: &mut Pieces) -> Result<(raftpb::Message, Bytes), String> {
    let mut decoder = MessageDecoder::with_limit(MAX_MESSAGE_BYTES);
    loop {
        match decoder.next() {
            Ok(Some(message)) => return Ok((message, decoder.into_rest())),
            Ok(None) => {}
            Err(error) => return Err(error.to_string()),
        }
        match body.next().await {
            Ok(Some(piece)) => decoder.feed(&piece),
            Ok(None) => return Err("unexpected EOF".to_owned()),
            Err(error) => return Err(error.to_string()),
        }
    }
}

enum Piece {
    Data(Bytes),
    /// The body is whole.
    End,
}

/// Where a database goes.
struct Target {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    temporary: PathBuf,
    path: PathBuf,
}

impl Target {
    fn new(disk: Arc<dyn Disk>, dir: &Path, index: u64) -> Self {
        /// Two receptions never share a temporary file.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let temporary = dir.join(format!("tmp{:x}-{number}-{index:016x}", std::process::id()));
        Self { disk, dir: dir.to_owned(), temporary, path: dir.join(wal::snap::db_file_name(index)) }
    }

    /// Returns the length, and the time of the last sync.
    fn write(self, pieces: mpsc::Receiver<Piece>) -> Result<(u64, Duration), SaveError> {
        let result = self.write_temporary(pieces).and_then(|written| {
            self.take_name()?;
            Ok(written)
        });
        if result.is_err() {
            // It may not even exist; a left-over is removed at the next start.
            let _ = self.disk.remove_file(&self.temporary);
        }
        result
    }

    fn write_temporary(&self, mut pieces: mpsc::Receiver<Piece>) -> Result<(u64, Duration), SaveError> {
        let path = &self.temporary;
        let file: Arc<dyn File> =
            self.disk.open(path, OpenMode::CreateNew(0o600)).map_err(at("create", path))?;
        let (mut len, mut synced) = (0, 0);
        loop {
            match pieces.blocking_recv() {
                Some(Piece::Data(bytes)) => {
                    file.write_at(&bytes, len).map_err(at("write", path))?;
                    len += bytes.len() as u64;
                    if len - synced >= SYNC_BYTES {
                        file.sync_data().map_err(at("sync", path))?;
                        synced = len;
                    }
                }
                Some(Piece::End) => break,
                None => return Err(SaveError::Silent),
            }
        }
        let started = Instant::now();
        file.sync_all().map_err(at("sync", path))?;
        Ok((len, started.elapsed()))
    }

    /// A database of the same index that is there already is kept: raft may be using it.
    fn take_name(&self) -> Result<(), SaveError> {
        if self.disk.exists(&self.path).map_err(at("look for", &self.path))? {
            return self.disk.remove_file(&self.temporary).map_err(at("remove", &self.temporary));
        }
        self.disk.rename(&self.temporary, &self.path).map_err(at("rename to", &self.path))?;
        self.disk.sync_dir(&self.dir).map_err(at("sync directory", &self.dir))
    }
}

fn at<'p>(action: &'static str, path: &'p Path) -> impl Fn(io::Error) -> SaveError + 'p {
    move |source| SaveError::Io { action, path: path.to_owned(), source }
}
