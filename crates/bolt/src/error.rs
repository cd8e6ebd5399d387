//! What can go wrong, in words for an operator.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::format::{MetaError, PageError};

/// Why a database could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The operating system refused.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another holder kept the file locked for the whole time-out.
    #[error("{}: timeout: the file is locked by another process", path.display())]
    LockTimeout {
        /// The file.
        path: PathBuf,
    },
    /// The file may not be kept in memory.
    #[error(
        "{}: mlock error: {source}: raise the limit of locked memory above the size of the file", path.display()
    )]
    LockMemory {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No meta page is valid.
    #[error("{}: {source}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with the better one of them.
        source: MetaError,
    },
    /// The file ends before the last page that its meta page speaks of.
    #[error("{}: file size too small: {bytes} bytes of {needed}: the file was cut off", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// Bytes up to the high-water mark.
        needed: u64,
    },
    /// A page that the tree needs is damaged.
    #[error("{}: the database is damaged", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The page and what is wrong with it.
        source: PageError,
    },
    /// A new file was to get a page size that cannot be.
    #[error("invalid page size {page_size}")]
    PageSize {
        /// The size that was asked for.
        page_size: u32,
    },
}

/// Why an operation on an open database failed.
#[derive(Debug, Error)]
pub enum Error {
    /// A page is damaged.
    #[error("database file is damaged: {0}")]
    Corrupt(#[from] PageError),
    /// The operating system refused. After this no further write is accepted.
    #[error("database file: cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// An earlier write or sync failed, so nothing is known about what the disk holds.
    #[error("database file: an earlier write or sync failed, so no further write is accepted")]
    Poisoned,
    /// The database was opened for reading only.
    #[error("database is in read-only mode")]
    ReadOnly,
    /// Keys must not be empty.
    #[error("key required")]
    KeyRequired,
    /// A key is longer than 32,768 bytes.
    #[error("key too large")]
    KeyTooLarge,
    /// A value is longer than 2,147,483,646 bytes.
    #[error("value too large")]
    ValueTooLarge,
    /// A bucket's name must not be empty.
    #[error("bucket name required")]
    BucketNameRequired,
    /// There is no bucket of that name.
    #[error("bucket not found")]
    BucketNotFound,
    /// The key holds a bucket and not a value, or the other way round.
    #[error("incompatible value")]
    IncompatibleValue,
    /// The system gave no larger view of the grown file.
    #[error("database file: cannot map {bytes} bytes")]
    Map {
        /// Size of the view.
        bytes: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The file, grown, may not be kept in memory.
    #[error(
        "mlock error: {source}: raise the limit of locked memory above {bytes} bytes, the size of the file"
    )]
    LockMemory {
        /// Size of the file.
        bytes: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A copy's receiver failed.
    #[error("cannot write the copy of the database")]
    Copy(#[source] io::Error),
}
