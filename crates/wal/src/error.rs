//! What can go wrong with the log, worded for the operator.

use std::io;
use std::path::{Path, PathBuf};

use types::LogPosition;

use crate::format::ScanError;

/// A failure of the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused an operation.
    #[error("wal: cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: "write", "sync", ...
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no segment in the directory.
    #[error("wal: no segment in {}", dir.display())]
    NoSegments {
        /// The log directory.
        dir: PathBuf,
    },
    /// Creation found a log.
    #[error("wal: {} already holds a log", dir.display())]
    Exists {
        /// The log directory.
        dir: PathBuf,
    },
    /// No segment starts at or before the wanted entry.
    #[error("wal: file not found which matches the snapshot index '{index}' in {}", dir.display())]
    NoSegmentFor {
        /// The log directory.
        dir: PathBuf,
        /// Index of the wanted snapshot.
        index: u64,
    },
    /// A segment is missing in the middle.
    #[error("wal: segment {missing} is missing in {}", dir.display())]
    MissingSegment {
        /// The log directory.
        dir: PathBuf,
        /// Sequence number of the gap.
        missing: u64,
    },
    /// Another process has the segment.
    #[error("wal: {} is locked by another process", path.display())]
    Locked {
        /// The segment.
        path: PathBuf,
    },
    /// The segment holds bytes that are no intact log.
    #[error("wal: {}: damaged at byte {offset}: {source}: restore the member from a peer or a snapshot", path.display())]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Start of the first bad frame.
        offset: u64,
        /// What is wrong with it.
        source: Damage,
    },
    /// The wanted snapshot has another term in the log.
    #[error("wal: snapshot mismatch: wanted index {} of term {}, the log has term {found}", wanted.index, wanted.term)]
    SnapshotMismatch {
        /// The wanted snapshot.
        wanted: LogPosition,
        /// The term in the log.
        found: u64,
    },
    /// The log has no record of the wanted snapshot.
    #[error("wal: snapshot not found: no record of index {} term {}", wanted.index, wanted.term)]
    SnapshotNotFound {
        /// The wanted snapshot.
        wanted: LogPosition,
    },
    /// A snapshot record must say who the members are.
    #[error("wal: a snapshot record of index {index} needs a configuration")]
    MissingConfState {
        /// Index of the record.
        index: u64,
    },
    /// An earlier write or sync failed: what is on disk is unknown.
    #[error("wal: {} failed earlier and cannot be written any more", dir.display())]
    Poisoned {
        /// The log directory.
        dir: PathBuf,
    },
}

/// What is wrong with a frame or record.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// Frame, checksum or record.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The payload is not what the record type says.
    #[error("bad payload: {0}")]
    Payload(#[from] crate::format::DecodeError),
    /// The metadata differs from that of an earlier segment.
    #[error("conflicting metadata found")]
    Metadata,
    /// An entry leaves a hole behind the one before.
    #[error("slice bounds out of range: entry {index} follows entry {last}")]
    Hole {
        /// Index of the entry.
        index: u64,
        /// Last index before it.
        last: u64,
    },
}

pub(crate) trait Context<T> {
    /// Says what was done to which path when it failed.
    fn context(self, action: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source })
    }
}
