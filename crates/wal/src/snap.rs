//! `.snap` files: what a raft snapshot is of, beside the backend that holds its data.
//!
//! ```text
//! <dir>/<term:016x>-<index:016x>.snap    snappb.Snapshot { crc = 1: CRC-32C of data, data = 2 }
//!                                        data = raftpb.Snapshot { data = 1: v2 store JSON,
//!                                                                 metadata = 2 }
//! <dir>/<index:016x>.snap.db             a received backend that awaits its turn
//! ```
//!
//! A file counts only if the log has a record of the same term and index, and the record is
//! written after the file: a crash in between leaves a file that nobody loads.
//!
//! **Source**: etcd `server/etcdserver/api/snap/{snapshotter,db}.go`.

use std::io;
use std::path::{Path, PathBuf};

use env::{Disk, OpenMode};
use types::LogPosition;
use types::raft::Snapshot;

use crate::format::{
    DecodeError, decode_raft_snapshot, decode_snapshot_envelope, encode_raft_snapshot,
    encode_snapshot_envelope,
};
use crate::segment::parse_hex;

/// A failure with a snapshot file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused an operation.
    #[error("snap: cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The snapshot covers nothing.
    #[error("snap: a snapshot of index 0 cannot be saved")]
    Empty,
}

/// Why a file was not used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// No bytes.
    #[error("empty snapshot file")]
    EmptyFile,
    /// No checksum or no content.
    #[error("no checksum or no content")]
    NoContent,
    /// The content is not what was written.
    #[error("checksum mismatch (stored {stored:08x}, computed {computed:08x})")]
    Checksum {
        /// What the file says.
        stored: u32,
        /// What its data gives.
        computed: u32,
    },
    /// Not a snapshot.
    #[error("not a snapshot: {0}")]
    Decode(#[from] DecodeError),
}

/// A snapshot found by [`load_newest`], and the broken files passed over on the way.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The newest usable snapshot and its file.
    pub found: Option<(PathBuf, Snapshot)>,
    /// Files that were renamed to `<file>.broken`, with the reason.
    pub broken: Vec<(PathBuf, Unusable)>,
}

fn at<T>(result: io::Result<T>, action: &'static str, path: &Path) -> Result<T, Error> {
    result.map_err(|source| Error::Io { action, path: path.to_owned(), source })
}

/// Name of the file of a snapshot.
pub fn file_name(position: LogPosition) -> String {
    format!("{:016x}-{:016x}.snap", position.term, position.index)
}

/// Reads a file name; `None` if it is not that of a snapshot.
pub fn parse_file_name(name: &str) -> Option<LogPosition> {
    let (term, index) = name.strip_suffix(".snap")?.split_once('-')?;
    Some(LogPosition { index: parse_hex(index)?, term: parse_hex(term)? })
}

/// Name of a received backend.
pub fn db_file_name(index: u64) -> String {
    format!("{index:016x}.snap.db")
}

/// Reads the name of a received backend.
pub fn parse_db_file_name(name: &str) -> Option<u64> {
    name.strip_suffix(".snap.db").and_then(parse_hex)
}

/// Content of a `.snap` file.
pub fn encode(snapshot: &Snapshot) -> Vec<u8> {
    encode_snapshot_envelope(&encode_raft_snapshot(snapshot))
}

/// Reads the content of a `.snap` file.
pub fn decode(file: &[u8]) -> Result<Snapshot, Unusable> {
    if file.is_empty() {
        return Err(Unusable::EmptyFile);
    }
    let (stored, data) = decode_snapshot_envelope(file)?;
    if stored == 0 || data.is_empty() {
        return Err(Unusable::NoContent);
    }
    let computed = crc32c::crc32c(data);
    if computed != stored {
        return Err(Unusable::Checksum { stored, computed });
    }
    Ok(decode_raft_snapshot(data)?)
}

/// Writes and syncs the file of a snapshot. A file that cannot be written is removed.
pub fn save(disk: &dyn Disk, dir: &Path, snapshot: &Snapshot) -> Result<PathBuf, Error> {
    save_encoded(disk, dir, snapshot.position, &encode(snapshot))
}

/// The same with what [`encode`] made of the snapshot.
pub fn save_encoded(
    disk: &dyn Disk,
    dir: &Path,
    position: LogPosition,
    content: &[u8],
) -> Result<PathBuf, Error> {
    if position.index == 0 {
        return Err(Error::Empty);
    }
    let path = dir.join(file_name(position));
    let file = at(disk.open(&path, OpenMode::Truncate(0o666)), "create", &path)?;
    let written = file.write_at(content, 0).and_then(|()| file.sync_all());
    if let Err(source) = written {
        let _ = disk.remove_file(&path);
        return Err(Error::Io { action: "write", path, source });
    }
    at(disk.sync_dir(dir), "sync", dir)?;
    Ok(path)
}

/// Stores a backend that came with a snapshot of `index`, as `<index>.snap.db`: written under a
/// temporary name, synced, renamed. Returns its path and length. A file that is there already is
/// kept: it came with the same snapshot.
pub fn save_db(
    disk: &dyn Disk,
    dir: &Path,
    index: u64,
    content: &mut dyn std::io::Read,
) -> Result<(PathBuf, u64), Error> {
    let path = dir.join(db_file_name(index));
    let building = dir.join(format!("tmp{index:016x}"));
    let file = at(disk.open(&building, OpenMode::Truncate(0o600)), "create", &building)?;
    let mut len = 0;
    let written = (|| {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match content.read(&mut buffer)? {
                0 => return file.sync_all(),
                count => {
                    file.write_at(&buffer[..count], len)?;
                    len += count as u64;
                }
            }
        }
    })();
    if let Err(source) = written {
        let _ = disk.remove_file(&building);
        return Err(Error::Io { action: "write", path: building, source });
    }
    if at(disk.exists(&path), "look up", &path)? {
        at(disk.remove_file(&building), "remove", &building)?;
    } else {
        at(disk.rename(&building, &path), "rename", &building)?;
    }
    at(disk.sync_dir(dir), "sync", dir)?;
    Ok((path, len))
}

/// The snapshots in `dir`, newest first; other names are passed over.
pub fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<LogPosition>, Error> {
    let entries = at(disk.list(dir), "list", dir)?;
    let mut found: Vec<_> = entries
        .iter()
        .filter(|entry| !entry.is_dir)
        .filter_map(|entry| parse_file_name(&entry.name))
        .collect();
    // By name: by term, then index.
    found.sort_by_key(|position| std::cmp::Reverse((position.term, position.index)));
    Ok(found)
}

/// Reads one file.
pub fn load(disk: &dyn Disk, path: &Path) -> Result<Result<Snapshot, Unusable>, Error> {
    let file = at(disk.open(path, OpenMode::Read), "open", path)?;
    let mut content = vec![0; at(file.len(), "read", path)? as usize];
    let count = at(file.read_at(&mut content, 0), "read", path)?;
    Ok(decode(&content[..count]))
}

/// Loads the newest snapshot that is among `valid` (records of the log), renaming broken files to
/// `<file>.broken`.
pub fn load_newest(disk: &dyn Disk, dir: &Path, valid: &[LogPosition]) -> Result<Loaded, Error> {
    let mut loaded = Loaded::default();
    for position in list(disk, dir)? {
        let path = dir.join(file_name(position));
        match load(disk, &path)? {
            Ok(snapshot) if valid.contains(&snapshot.position) => {
                loaded.found = Some((path, snapshot));
                break;
            }
            Ok(_) => {}
            Err(reason) => {
                let mut target = path.as_os_str().to_owned();
                target.push(".broken");
                at(disk.rename(&path, Path::new(&target)), "rename", &path)?;
                loaded.broken.push((path, reason));
            }
        }
    }
    Ok(loaded)
}

/// Removes what an earlier process left half done: `tmp*` and `db.tmp*`. For the start only.
pub fn remove_left_overs(disk: &dyn Disk, dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let half_done = |name: &str| name.starts_with("tmp") || name.starts_with("db.tmp");
    remove_if(disk, dir, half_done)
}

/// Removes received backends older than `index`: their snapshots were applied or overtaken.
pub fn remove_db_files_below(disk: &dyn Disk, dir: &Path, index: u64) -> Result<Vec<PathBuf>, Error> {
    remove_if(disk, dir, |name| parse_db_file_name(name).is_some_and(|of| of < index))
}

fn remove_if(disk: &dyn Disk, dir: &Path, chosen: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, Error> {
    let mut removed = Vec::new();
    for entry in at(disk.list(dir), "list", dir)? {
        if !entry.is_dir && chosen(&entry.name) {
            let path = dir.join(&entry.name);
            at(disk.remove_file(&path), "remove", &path)?;
            removed.push(path);
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use env::sim::{Fault, SimDisk, Survival};

    fn received(disk: &SimDisk) -> Option<Vec<u8>> {
        let file = disk.open(Path::new("00000000000000ff.snap.db"), OpenMode::Read).ok()?;
        let mut content = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut content, 0).unwrap();
        Some(content)
    }

    #[test]
    fn a_received_database_is_there_whole_or_not_at_all() {
        let content: Vec<u8> = (0..200_000u32).map(|number| number as u8).collect();
        let clean = SimDisk::new();
        let (path, len) = save_db(&clean, Path::new("."), 255, &mut content.as_slice()).unwrap();
        assert_eq!((path.as_path(), len), (Path::new("./00000000000000ff.snap.db"), 200_000));
        for at in 1..=clean.operations() {
            let disk = SimDisk::new();
            disk.fail_after(at, Fault::PowerLoss);
            save_db(&disk, Path::new("."), 255, &mut content.as_slice()).unwrap_err();
            let after = received(&disk.crash(Survival::Random(at)));
            assert!(after.is_none_or(|after| after == content), "power loss at operation {at}");
        }
    }
}
