//! What etcd 3.5.30 wrote, for tests.

use std::io::Read as _;

/// A snapshot saved from a running member: 413 keys at revision 567, compacted at 475.
pub fn snapshot() -> Vec<u8> {
    let mut bytes = Vec::new();
    let packed = include_bytes!("../tests/fixtures/snapshot-3.5.30.db.gz");
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut bytes).expect("the fixture unpacks");
    bytes
}

/// HashKV of the member at some revisions, as it answered itself.
pub const HASHES: [(i64, u32); 3] = [(475, 2_405_999_062), (476, 2_473_975_559), (500, 3_687_950_397)];
