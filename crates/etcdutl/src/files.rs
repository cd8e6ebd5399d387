//! The files of a member, and opening them without disturbing one that runs.
//!
//! ```text
//! <data-dir>/member/snap/db        database
//! <data-dir>/member/snap/*.snap    raft snapshots
//! <data-dir>/member/wal/*.wal      log (or --wal-dir)
//! ```
//!
//! A running server holds an exclusive lock on its database. Every command asks for a lock, shared for
//! reading and exclusive for writing, so none of them ever looks at files that change under it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backend::Backend;
use env::Disk;
use env::real::RealDisk;

use crate::failure::Failure;

/// Address space for the map of a database, as upstream's default has it.
pub const DEFAULT_MAP_BYTES: u64 = 10 << 30;

/// The file system of the machine.
pub fn disk() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

/// The files of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberFiles {
    /// Data directory.
    pub data_dir: PathBuf,
    /// Directory of the log.
    pub wal_dir: PathBuf,
}

impl MemberFiles {
    /// The files in a data directory, the log elsewhere if `wal_dir` is not empty.
    pub fn new(data_dir: &str, wal_dir: &str) -> Self {
        let data_dir = PathBuf::from(data_dir);
        let wal_dir = match wal_dir {
            "" => data_dir.join("member").join("wal"),
            wal_dir => PathBuf::from(wal_dir),
        };
        Self { data_dir, wal_dir }
    }

    /// Directory of the database and the snapshots.
    pub fn snap_dir(&self) -> PathBuf {
        self.data_dir.join("member").join("snap")
    }

    /// The database.
    pub fn db(&self) -> PathBuf {
        self.snap_dir().join("db")
    }
}

/// What the system said, in Go's words, which a simulated disk does not have.
pub fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::StorageFull => "no space left on device".to_owned(),
        _ => types::os_reason(error),
    }
}

/// A failed operation on a file: `open nosuch.db: no such file or directory`.
pub fn refused<'a>(action: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Failure + 'a {
    move |error| Failure::error(format!("{action} {}: {}", path.display(), reason(&error)))
}

/// Fails unless something of this name exists.
pub fn must_exist(path: &Path) -> Result<(), Failure> {
    std::fs::metadata(path).map(drop).map_err(refused("stat", path))
}

/// How long to wait for the lock of a file; zero waits for ever.
pub fn lock_timeout(timeout: Duration) -> Option<Duration> {
    (!timeout.is_zero()).then_some(timeout)
}

/// Opens a database for reading. It may be open for reading elsewhere as well.
pub fn open_to_read(disk: Arc<dyn Disk>, path: &Path, timeout: Duration) -> Result<bolt::Db, Failure> {
    let options = bolt::Options {
        read_only: true,
        lock_timeout: lock_timeout(timeout),
        on_lock_wait: Some(Box::new(say_waiting)),
        ..bolt::Options::default()
    };
    bolt::Db::open(disk, path, options).map_err(open_failure)
}

/// Opens the store of a member.
pub fn open_backend(
    disk: Arc<dyn Disk>,
    path: &Path,
    timeout: Duration,
    read_only: bool,
) -> Result<Backend, Failure> {
    let options = backend::Options {
        read_only,
        // Reading needs no room to grow.
        initial_map_bytes: if read_only { 0 } else { DEFAULT_MAP_BYTES },
        lock_timeout: lock_timeout(timeout),
        on_lock_wait: Some(Arc::new(say_waiting)),
        ..backend::Options::default()
    };
    Backend::open(disk, path, options).map_err(|error| match error {
        backend::Error::Open(error) => open_failure(error),
        error => error.into(),
    })
}

fn say_waiting() {
    crate::log::warn("db file is flocked by another process, or taking too long", &[]);
}

/// Says what is wrong with a database; the bare texts are upstream's.
pub fn open_failure(error: bolt::OpenError) -> Failure {
    match error {
        bolt::OpenError::Invalid { source, .. } => Failure::error(source),
        bolt::OpenError::LockTimeout { path } => Failure::error(format!(
            "{}: another process has the file open: stop the member first, then try again",
            path.display()
        )),
        bolt::OpenError::Io { path, action, source } => {
            Failure::error(format!("{}: cannot {action}: {}", path.display(), reason(&source)))
        }
        error => Failure::error(crate::failure::chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_may_lie_elsewhere() {
        assert_eq!(MemberFiles::new("d", "").wal_dir, Path::new("d/member/wal"));
        let files = MemberFiles::new("d", "w");
        assert_eq!(
            (files.wal_dir.as_path(), files.db()),
            (Path::new("w"), PathBuf::from("d/member/snap/db"))
        );
    }

    #[test]
    fn a_missing_file_is_named_as_go_names_it() {
        let failure = must_exist(Path::new("/nosuch/file")).unwrap_err();
        assert_eq!(failure, Failure::new(1, "stat /nosuch/file: no such file or directory"));
    }

    #[test]
    fn a_database_in_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let running = bolt::Db::open(disk(), &path, bolt::Options::default()).unwrap();
        let text = |failure: Failure| failure.text.unwrap();
        let refused = open_to_read(disk(), &path, Duration::from_millis(60)).err().unwrap();
        assert!(text(refused).contains("another process has the file open"));
        drop(running);
        let reader = open_to_read(disk(), &path, Duration::from_millis(60)).unwrap();
        let second = open_to_read(disk(), &path, Duration::from_millis(60));
        assert!(second.is_ok(), "readers share");
        let refused = open_backend(disk(), &path, Duration::from_millis(60), false).err().unwrap();
        assert!(text(refused).contains("another process has the file open"));
        drop(reader);
    }
}
