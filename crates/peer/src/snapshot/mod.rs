//! Whole databases from a leader to a follower that is too far behind: `POST /raft/snapshot`.
//!
//! ```text
//! body, chunked: u64be length, raftpb.Message (MsgSnap), then the database to the end
//! ```
//!
//! The database passes in pieces on both sides: memory stays the same for any size. Received, it
//! is in `<index:016x>.snap.db`, synced, before raft hears of it; a transfer that breaks leaves
//! nothing (a `tmp…` file after a crash, which the next start removes).
//!
//! **Source**: etcd `server/etcdserver/api/rafthttp/{snapshot_sender,http}.go`, `api/snap/db.go`.

pub(crate) mod receive;
pub(crate) mod send;

/// Bytes that are read from a snapshot at a time.
const PIECE_BYTES: usize = 128 << 10;
/// Pieces that may wait between a disk and a socket.
const PIECES: usize = 4;
/// Where snapshots are posted to.
pub(crate) const PATH: &str = "/raft/snapshot";

/// A size as operators read it: `1.2 MB`.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut unit = 0;
    let mut size = bytes as f64;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    if bytes < 10 || unit == 0 {
        return format!("{bytes} B");
    }
    let digits = usize::from(size < 10.0);
    format!("{size:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_read_well() {
        let shown: Vec<_> = [0, 999, 1000, 20_480, 2_500_000, u64::MAX].map(super::human).into();
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "20 kB", "2.5 MB", "18 EB"]);
    }
}
