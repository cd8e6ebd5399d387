//! Logs and snapshot files of etcd 3.5.30: we read them, and write the same bytes.

mod support;

use std::path::Path;
use std::sync::Arc;

use env::Disk;
use env::real::RealDisk;
use support::{START, entry, fixture, fixture_path, put_file, sim, state};
use types::LogPosition;
use types::raft::ConfState;
use wal::format::{
    Encoder, RecordKind, decode_entry, decode_hard_state, decode_metadata, decode_wal_snapshot,
    encode_metadata, read_records,
};
use wal::{Batch, Options, Wal, WalSnapshot, snap};

const MEMBER: u64 = 17402000849597972512;
const CLUSTER: u64 = 9514108606023028502;
const CLEAN: &str = "clean-0000000000000000-0000000000000000.wal";
const KILLED: &str = "killed-0000000000000000-0000000000000000.wal";
const SEGMENTS: [&str; 3] = [
    "0000000000000000-0000000000000000.wal",
    "0000000000000001-0000000000000033.wal",
    "0000000000000002-0000000000000061.wal",
];

/// Decodes every record and encodes it again; the frames must be the same bytes.
fn assert_same_bytes(segment: &[u8], seed: u32, end_crc: u32) {
    let read = read_records(segment);
    assert!(read.end.error.is_none(), "{:?}", read.end.error);
    assert_eq!((read.end.offset, read.end.crc), (segment.len() as u64, end_crc));
    let mut encoder = Encoder::new(seed);
    for (kind, data) in read.records {
        match kind {
            RecordKind::Crc => encoder.crc_record(),
            RecordKind::Metadata => {
                let metadata = decode_metadata(&data).unwrap();
                assert_eq!((metadata.member.0, metadata.cluster.0), (MEMBER, CLUSTER));
                encoder.metadata(&encode_metadata(&metadata));
            }
            RecordKind::Entry => encoder.entry(&decode_entry(&data).unwrap()),
            RecordKind::State => encoder.state(&decode_hard_state(&data).unwrap()),
            RecordKind::Snapshot => encoder.snapshot(&decode_wal_snapshot(&data).unwrap()),
        }
    }
    assert_eq!(encoder.crc(), end_crc);
    assert!(encoder.bytes() == segment, "the encoded frames differ");
}

#[test]
fn our_encoder_writes_upstreams_bytes() {
    assert_same_bytes(&fixture(CLEAN), 0, 1024853001);
    assert_same_bytes(&fixture(KILLED), 0, 1567929175);
    let crcs = [0, 1754047267, 3987315960, 1324121847];
    for (number, name) in SEGMENTS.iter().enumerate() {
        assert_same_bytes(&fixture(&format!("segments-{name}")), crcs[number], crcs[number + 1]);
    }
}

#[test]
fn a_cleanly_stopped_log_replays() {
    let (disk, _) = sim();
    let dir = Path::new("wal");
    disk.create_dir_all(dir, 0o700).unwrap();
    put_file(&*disk, &dir.join(&CLEAN[6..]), &fixture(CLEAN), 64_000_000);
    let replayed = wal::read(&*disk, dir, START).unwrap();
    assert_eq!(replayed.entries.len(), 578);
    let last = replayed.entries.last().unwrap();
    assert_eq!((last.index, last.term), (578, 2));
    assert_eq!(replayed.hard_state, state(2, MEMBER, 578));
    assert_eq!(replayed.snapshots, [WalSnapshot::default()]);
    assert!(!replayed.torn);
    assert_eq!(wal::valid_snapshots(&*disk, dir).unwrap(), [WalSnapshot::default()]);
}

#[test]
fn a_killed_log_replays_from_each_snapshot() {
    let (disk, _) = sim();
    let dir = Path::new("wal");
    disk.create_dir_all(dir, 0o700).unwrap();
    put_file(&*disk, &dir.join(&KILLED[7..]), &fixture(KILLED), 64_000_000);
    let valid = wal::valid_snapshots(&*disk, dir).unwrap();
    let positions: Vec<_> =
        valid.iter().map(|snapshot| (snapshot.position.index, snapshot.position.term)).collect();
    assert_eq!(positions, [(0, 0), (201, 2), (402, 2), (603, 3)]);
    assert_eq!(valid[3].conf_state, Some(ConfState::new(vec![MEMBER], vec![])));
    for snapshot in &valid {
        let replayed = wal::read(&*disk, dir, snapshot.position).unwrap();
        assert_eq!(replayed.entries.len() as u64, 624 - snapshot.position.index);
        assert_eq!(replayed.entries[0].index, snapshot.position.index + 1);
    }
    let newest = wal::newest_valid_snapshot(&*disk, dir, |_| true).unwrap().unwrap();
    assert_eq!(newest, valid[3]);
    let older = wal::newest_valid_snapshot(&*disk, dir, |snapshot| snapshot.position.index < 402).unwrap();
    assert_eq!(older.unwrap(), valid[1]);

    let wrong_term = wal::read(&*disk, dir, LogPosition { index: 201, term: 3 });
    assert!(matches!(wrong_term, Err(wal::Error::SnapshotMismatch { found: 2, .. })), "{wrong_term:?}");
    let unknown = wal::read(&*disk, dir, LogPosition { index: 200, term: 2 });
    assert!(matches!(unknown, Err(wal::Error::SnapshotNotFound { .. })), "{unknown:?}");
}

#[test]
fn a_log_of_several_segments_is_continued_in_place() {
    let temp = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let dir = temp.path();
    for name in SEGMENTS {
        let len = if name == SEGMENTS[2] { 64_000_000 } else { 0 };
        put_file(&*disk, &dir.join(name), &fixture(&format!("segments-{name}")), len);
    }
    let from = LogPosition { index: 82, term: 2 };
    let (mut log, replayed) = Wal::open(disk.clone(), dir, from, Options::default()).unwrap();
    assert_eq!(replayed.entries.len(), 104 - 82);
    assert_eq!(replayed.hard_state, state(2, MEMBER, 104));
    assert_eq!(log.position().1, 5600856);
    assert_eq!(log.last_index(), 104);
    let locked = Wal::open(disk.clone(), dir, from, Options::default());
    assert!(matches!(locked, Err(wal::Error::Locked { .. })), "the segments in use are locked");
    let added = [entry(105, 2, "one more")];
    log.append(&Batch { entries: &added, hard_state: Some(state(2, MEMBER, 105)) }).unwrap();
    log.sync().unwrap();
    drop(log);
    let replayed = wal::read(&*disk, dir, START).unwrap();
    assert_eq!(replayed.entries.len(), 105);
    assert_eq!(replayed.entries[104], added[0]);

    // The older snapshot lies in the first segment, whose chain starts there.
    let replayed = wal::read(&*disk, dir, LogPosition { index: 41, term: 2 }).unwrap();
    assert_eq!(replayed.entries.len(), 105 - 41);
}

#[test]
fn snapshot_files_are_read_and_written_alike() {
    let content = |name: &str| std::fs::read(fixture_path(name)).unwrap();
    for (name, index, term) in [
        ("0000000000000002-00000000000000c9.snap", 201, 2),
        ("0000000000000002-0000000000000192.snap", 402, 2),
        ("0000000000000003-000000000000025b.snap", 603, 3),
    ] {
        let file = content(name);
        let snapshot = snap::decode(&file).unwrap();
        assert_eq!(snapshot.position, LogPosition { index, term });
        assert_eq!(snapshot.conf_state, ConfState::new(vec![MEMBER], vec![]));
        assert!(snapshot.data.starts_with(b"{\"Root\""));
        assert_eq!(snap::file_name(snapshot.position), name);
        assert!(snap::encode(&snapshot) == file, "{name} is encoded otherwise");
    }
}
