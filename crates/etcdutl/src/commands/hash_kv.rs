//! `hashkv`: the hash of the history in a file, the number that `etcdctl endpoint hashkv` shows for a
//! running member.
//!
//! The file is opened for reading only. Upstream opens it for writing and changes it, so that a
//! snapshot file does not restore any more.
//!
//! **Source**: etcd `etcdutl/etcdutl/hashkv_command.go`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use env::Disk;
use mvcc::Store;

use super::Invocation;
use crate::failure::Failure;
use crate::files;
use crate::print::{self, write_stdout};
use crate::progress::Watched;

/// A hash and what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// The hash.
    pub hash: u32,
    /// The revision it covers.
    pub hash_revision: i64,
    /// The compaction point; -1 for none.
    pub compact_revision: i64,
}

/// Carries the command out.
pub fn run(invocation: &Invocation) -> Result<(), Failure> {
    let format = print::format(&invocation.flags.text("write-out"))?;
    let file = PathBuf::from(invocation.arg_text(0));
    files::must_exist(&file)?;
    let (revision, timeout) = (invocation.flags.int("rev"), super::timeout(&invocation.flags));
    let found = hash_kv(files::disk(), &file, revision, timeout)?;
    write_stdout(&print::hash_kv(format, &found)?);
    Ok(())
}

/// Hashes the history up to a revision; 0 means all of it.
fn hash_kv(disk: Arc<dyn Disk>, file: &Path, revision: i64, timeout: Duration) -> Result<HashKv, Failure> {
    let backend = files::open_backend(disk, file, timeout, true)?;
    let _progress = Watched::start("hashing", 0, || 0);
    let (store, _) = Store::open(backend)?;
    let found = store.hash_kv(revision)?;
    Ok(HashKv {
        hash: found.hash,
        hash_revision: found.hash_revision,
        compact_revision: found.compact_revision,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_files::snapshot;

    #[test]
    fn the_fixture_has_the_hashes_of_the_member_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("s.db");
        std::fs::write(&file, snapshot()).unwrap();
        let hash = |revision| {
            hash_kv(files::disk(), &file, revision, Duration::from_secs(1))
                .map_err(|failure| failure.text.unwrap())
        };
        let newest = hash(0).unwrap();
        assert_eq!((newest.hash_revision, newest.compact_revision), (567, 475));
        assert_eq!(newest, hash(567).unwrap());
        for (revision, expected) in crate::test_files::HASHES {
            assert_eq!(hash(revision).unwrap().hash, expected, "revision {revision}");
        }
        assert_eq!(hash(400).unwrap_err(), "mvcc: required revision has been compacted");
        assert_eq!(hash(568).unwrap_err(), "mvcc: required revision is a future revision");
        assert_eq!(std::fs::read(&file).unwrap(), snapshot(), "only read");
    }
}
