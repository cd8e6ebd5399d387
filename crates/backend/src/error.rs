//! What can go wrong below the buckets.

use std::io;
use std::path::PathBuf;

use types::ParseRevisionError;

/// A failed operation of the backend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is damaged, or reading or writing it failed.
    #[error("backend: {0}")]
    Bolt(#[from] bolt::Error),
    /// The file could not be opened.
    #[error("backend: {0}")]
    Open(#[from] bolt::OpenError),
    /// The `key` bucket holds something that is not a record.
    #[error("backend: bucket \"key\": {0}")]
    RecordKey(#[source] ParseRevisionError),
    /// The `key` bucket holds a nested bucket.
    #[error("backend: bucket \"key\" holds a nested bucket where a record is expected")]
    NestedBucket,
    /// A value of a known key has a form that etcd never writes.
    #[error("backend: bucket {bucket:?}: key {key:?} has a malformed value of {len} bytes")]
    MalformedValue {
        /// Name of the bucket.
        bucket: &'static str,
        /// The key.
        key: String,
        /// Length of the value.
        len: usize,
    },
    /// A file operation beside the database failed.
    #[error("backend: cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An earlier failure left it open which file is the database.
    #[error(
        "backend: an earlier failure while the file was replaced leaves its state unknown; restart the member"
    )]
    Failed,
}
