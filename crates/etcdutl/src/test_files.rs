//! What etcd 3.5.30 wrote, for tests.

use std::io::Read as _;
use std::path::Path;

use env::sim::SimDisk;
use env::{Disk, OpenMode};

fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).expect("the fixture unpacks");
    bytes
}

/// A snapshot saved from a running member: 413 keys at revision 567, compacted at 475.
pub fn snapshot() -> Vec<u8> {
    unpack(include_bytes!("../tests/fixtures/snapshot-3.5.30.db.gz"))
}

/// HashKV of the member at some revisions, as it answered itself.
pub const HASHES: [(i64, u32); 3] = [(475, 2_405_999_062), (476, 2_473_975_559), (500, 3_687_950_397)];

/// The database of a killed member: applied up to index 603.
pub fn killed_db() -> Vec<u8> {
    unpack(include_bytes!("../tests/fixtures/killed/db.gz"))
}

/// Its log: entries 1 to 624.
pub fn killed_wal() -> Vec<u8> {
    unpack(include_bytes!("../tests/fixtures/killed/wal.gz"))
}

/// Name of its newest raft snapshot.
pub const KILLED_SNAP: &str = "0000000000000003-000000000000025b.snap";
/// Name of its log segment.
pub const SEGMENT: &str = "0000000000000000-0000000000000000.wal";

/// Puts a file on a disk, durably.
pub fn place(disk: &SimDisk, path: &str, bytes: &[u8]) {
    let path = Path::new(path);
    disk.create_dir_all(&disk.parent_of(path), 0o700).unwrap();
    let file = disk.open(path, OpenMode::Truncate(0o600)).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync_all().unwrap();
    disk.sync_dir(&disk.parent_of(path)).unwrap();
}

/// The killed member in `d`.
pub fn killed() -> SimDisk {
    let disk = SimDisk::new();
    place(&disk, "d/member/snap/db", &killed_db());
    let snap = include_bytes!("../tests/fixtures/killed/0000000000000003-000000000000025b.snap");
    place(&disk, &format!("d/member/snap/{KILLED_SNAP}"), snap);
    place(&disk, &format!("d/member/wal/{SEGMENT}"), &killed_wal());
    disk
}
