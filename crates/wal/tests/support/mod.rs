//! Helpers shared by the integration tests.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use env::{Disk, OpenMode};
use types::LogPosition;
use types::raft::{Entry, HardState};

pub const START: LogPosition = LogPosition { index: 0, term: 0 };

/// Unfolds a fixture segment, see `fixtures/README.md`.
pub fn fixture(name: &str) -> Vec<u8> {
    let path = fixture_path(&format!("{name}.rle"));
    let folded = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut rest = &folded[..];
    let mut unfolded = Vec::new();
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap()) as usize;
    while !rest.is_empty() {
        let (count, tail) = rest.split_at(4);
        let (literal, tail) = tail.split_at(number(count));
        let (run, tail) = tail.split_at(4);
        unfolded.extend_from_slice(literal);
        unfolded.resize(unfolded.len() + number(run), tail[0]);
        rest = &tail[1..];
    }
    unfolded
}

pub fn fixture_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub fn put_file(disk: &dyn Disk, path: &Path, content: &[u8], len: u64) {
    let file = disk.open(path, OpenMode::Truncate(0o600)).unwrap();
    file.write_at(content, 0).unwrap();
    if len > content.len() as u64 {
        file.set_len(len).unwrap();
    }
    file.sync_all().unwrap();
}

pub fn entry(index: u64, term: u64, data: impl Into<bytes::Bytes>) -> Entry {
    Entry { index, term, data: data.into(), ..Entry::default() }
}

pub fn state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term, vote, commit }
}

pub fn sim() -> (Arc<dyn Disk>, env::sim::SimDisk) {
    let disk = env::sim::SimDisk::new();
    (Arc::new(disk.clone()), disk)
}
