//! Rewriting the file without its holes.
//!
//! Every bucket, known or not, is copied in key order into `db.tmp.<n>` beside the database, which
//! is then renamed over it. Readers and appends go on; commits wait. etcd stops both. A failure up
//! to the rename leaves the old file in use and removes the new one; after the rename a failure
//! leaves it open which file a restart will find, so no further commit is accepted.

use std::path::{Path, PathBuf};

use bolt::ReadTx;
use env::OpenMode;

use crate::{Backend, Error};

/// Sizes before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defragmented {
    /// Size of the old file in bytes.
    pub before_bytes: u64,
    /// Size of the new file in bytes.
    pub after_bytes: u64,
}

impl Backend {
    /// Commits, then rewrites the file without free pages. See the module text for what goes on
    /// meanwhile.
    pub fn defragment(&self) -> Result<Defragmented, Error> {
        let mut db = self.shared.db.lock();
        self.commit_locked(&mut db)?;
        let before_bytes = db.stats().size_bytes;
        let temporary = self.temporary_path()?;
        let copied = self.copy_to_new_file(&db.read(), &temporary);
        let renamed = copied.and_then(|()| self.adopt(&mut db, &temporary, false));
        if renamed.is_err() && self.shared.disk.exists(&temporary).unwrap_or(false) {
            // The old file is still in use; a left-over is removed at the next start at the latest.
            let _ = self.shared.disk.remove_file(&temporary);
        }
        renamed?;
        Ok(Defragmented { before_bytes, after_bytes: db.stats().size_bytes })
    }

    fn temporary_path(&self) -> Result<PathBuf, Error> {
        for number in 0.. {
            let path = self.shared.disk.parent_of(&self.shared.path).join(format!("db.tmp.{number}"));
            let taken = self.shared.disk.exists(&path);
            if !taken.map_err(|source| Error::Io { action: "look for", path: path.clone(), source })? {
                return Ok(path);
            }
        }
        unreachable!("a directory does not hold every number")
    }

    fn copy_to_new_file(&self, from: &ReadTx, path: &Path) -> Result<(), Error> {
        // One sync at the end instead of one per transaction: nobody reads the file before.
        let options = bolt::Options {
            no_sync: true,
            lock_memory: false,
            initial_map_bytes: 0,
            read_only: false,
            ..self.shared.options.bolt()
        };
        let to = bolt::Db::open(self.shared.disk.clone(), path, options)?;
        bolt::compact_into(from, &to)?;
        drop(to);
        let sync = || self.shared.disk.open(path, OpenMode::ReadWrite)?.sync_all();
        sync().map_err(|source| Error::Io { action: "sync", path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use env::sim::SimDisk;

    use crate::{Backend, Options};

    /// Before, the limit had to have room for both files.
    #[test]
    fn locked_memory_is_that_of_one_file() {
        let disk = SimDisk::new();
        let options = Options { lock_memory: true, ..Options::default() };
        let backend = Backend::open(Arc::new(disk.clone()), Path::new("db"), options).unwrap();
        let before = disk.locked_bytes();
        assert!(before > 0);
        disk.limit_locked_bytes(before);
        backend.defragment().unwrap();
        let after = disk.locked_bytes();
        assert!(after > 0 && after <= before, "{after} of {before}");
    }
}
