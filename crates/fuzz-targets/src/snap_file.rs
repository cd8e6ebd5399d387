//! `.snap` files.
//!
//! ```text
//! 0, bytes     a file as it is
//! 1, bytes     the bytes as content of an envelope with the right checksum
//! ```
//!
//! Promise: a file decodes or not; what decodes survives being encoded.

use wal::format::encode_snapshot_envelope;
use wal::snap;

use crate::Seed;

/// Runs one input.
pub fn run(data: &[u8]) {
    let Some((mode, bytes)) = data.split_first() else { return };
    let file = match mode & 1 {
        0 => bytes.to_vec(),
        _ => encode_snapshot_envelope(bytes),
    };
    let Ok(snapshot) = snap::decode(&file) else { return };
    let again = snap::encode(&snapshot);
    assert_eq!(snap::decode(&again).expect("an encoded snapshot decodes"), snapshot);
}

/// A file of etcd's, and a small one whose content alone is given.
pub fn seeds() -> Vec<Seed> {
    let file = include_bytes!("../tests/fixtures/0000000000000002-00000000000000c9.snap");
    let small = types::raft::Snapshot {
        position: types::LogPosition { index: 201, term: 2 },
        conf_state: types::raft::ConfState::new(vec![7, 9], vec![11]),
        data: "{\"Root\":{}}".into(),
    };
    vec![
        ("file", [&[0], &file[..]].concat()),
        ("content", [&[1], &wal::format::encode_raft_snapshot(&small)[..]].concat()),
    ]
}
