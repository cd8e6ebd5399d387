//! The disk as the engines see it: positioned reads and writes, syncs, renames, locks, maps.
//!
//! Durability contract, which [`crate::sim::SimDisk`] enforces and the engines rely on:
//! - written bytes survive a crash only after `sync_data` or `sync_all` of their file returned;
//! - until then any part of them, in units of 512-byte sectors, may or may not be there;
//! - a new length (`set_len`, `allocate`, writing past the end) is durable after a sync of the file;
//! - a created, renamed or removed name is durable after `sync_dir` of its directory;
//! - after a failed sync nothing is known about the file: the caller must not go on with it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Existing file, reading only.
    Read,
    /// Existing file, reading and writing.
    ReadWrite,
    /// Reading and writing, created with these permission bits if absent (umask applies).
    CreateIfMissing(u32),
    /// Reading and writing, must be absent; created with these permission bits.
    CreateNew(u32),
    /// Reading and writing, created if absent, emptied if present.
    Truncate(u32),
}

/// Kinds of advisory lock that etcd uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// `flock(2)`, exclusive: the bolt file.
    FlockExclusive,
    /// `flock(2)`, shared: the bolt file opened for reading.
    FlockShared,
    /// Open-file-description write lock of the whole file, falling back to `flock` only where the
    /// system does not know it: WAL segments.
    OfdExclusive,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// Name without directory. Names that are not UTF-8 are listed lossily.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Length in bytes; 0 for directories.
    pub len: u64,
}

/// A file system.
pub trait Disk: Send + Sync + 'static {
    /// Opens or creates a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Creates a directory and its missing parents with these permission bits.
    fn create_dir_all(&self, path: &Path, permissions: u32) -> io::Result<()>;
    /// Renames a file or directory, replacing a file of the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with all that is in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The entries of a directory, sorted by name.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Whether something of that name exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Makes names created, renamed or removed in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The parent of `path`, `.` where it has none: what to pass to [`Disk::sync_dir`].
    fn parent_of(&self, path: &Path) -> PathBuf {
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        }
    }
}

/// What offset, length and address of a read or write must be multiples of on a file that avoids
/// the cache.
pub const DIRECT_BLOCK_LEN: u64 = 4096;

/// An open file. All positions are absolute; there is no cursor.
pub trait File: Send + Sync {
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`, extending the file if needed.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Current length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends the file; new bytes are zero.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space up to `len` bytes, extending the file with zeros; never shortens it.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Makes content and length durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
    /// Makes content, length and other metadata durable (`fsync`).
    fn sync_all(&self) -> io::Result<()>;
    /// Asks that reads and writes through this handle go around the system's cache. From now on offset,
    /// length and address of each must be multiples of [`DIRECT_BLOCK_LEN`]. A hint: where the file
    /// system cannot do it, nothing changes.
    fn avoid_cache(&self);
    /// Tries to lock the file; `false` when another holder has it. Released when the file is dropped.
    fn try_lock(&self, kind: LockKind) -> io::Result<bool>;
    /// Maps the first `len` bytes for reading. `len` may exceed the file: such bytes must not be
    /// touched before the file has grown over them. Later writes show up in the map.
    fn map(&self, len: usize) -> io::Result<Arc<dyn Mapping>>;
}

/// A read-only view of a file that shows later writes.
pub trait Mapping: Send + Sync {
    /// Number of mapped bytes.
    fn len(&self) -> usize;
    /// Whether nothing is mapped.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// A part of the view.
    ///
    /// # Panics
    /// If the part leaves the view.
    ///
    /// # Safety
    /// The bytes must lie inside the file, and nobody may write to them while the slice lives.
    /// bolt keeps the second promise by copy-on-write: a page that a reader can reach is never
    /// written.
    unsafe fn slice(&self, offset: usize, len: usize) -> &[u8];
    /// Tells the system that the resident pages of this view are not needed for now. They come
    /// back on the next touch. A hint; does nothing where it is not supported.
    fn release_resident(&self);
    /// Keeps the first `len` bytes, which must lie inside the file, in memory: what is not there is read
    /// now, and none of it leaves before the view ends. Replaces an earlier lock of this view.
    ///
    /// # Errors
    /// The system's limit for locked memory.
    fn lock(&self, len: usize) -> io::Result<()>;
    /// Ends [`Mapping::lock`].
    fn unlock(&self);
}
