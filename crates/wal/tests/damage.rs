//! Damaged bytes: an error, or a log that ends earlier where the rule for torn writes allows it.
//! Never a panic, never other content.

mod support;

use std::path::Path;
use std::sync::Arc;

use env::sim::{SimDisk, Survival};
use env::{Disk, Random, SeededRandom};
use proptest::prelude::*;
use support::{START, entry, fixture, put_file, sim, state};
use wal::format::read_records;
use wal::{Batch, Error, Options, Wal, snap};

const DIR: &str = "wal";
const SMALL: Options = Options { segment_bytes: 4096, no_sync: false };

fn sample() -> (SimDisk, Vec<types::raft::Entry>) {
    let (shared, disk) = sim();
    let mut log = Wal::create(shared, Path::new(DIR), b"meta", SMALL).unwrap();
    let entries: Vec<_> = (1..=14).map(|index| entry(index, 1, vec![index as u8; 700])).collect();
    for added in entries.chunks(1) {
        log.append(&Batch { entries: added, hard_state: Some(state(1, 1, added[0].index)) }).unwrap();
        log.sync().unwrap();
    }
    drop(log);
    disk.sync_dir(Path::new(DIR)).unwrap();
    (disk, entries)
}

#[test]
fn a_flipped_bit_is_an_error_or_ends_the_last_segment_early() {
    let (disk, entries) = sample();
    let dir = Path::new(DIR);
    let names = wal::segments(&disk, dir).unwrap();
    assert_eq!(names.len(), 3);
    let (mut errors, mut shorter) = (0, 0);
    for name in &names {
        let last = name == names.last().unwrap();
        let path = dir.join(name.file_name());
        let len = disk.open(&path, env::OpenMode::Read).unwrap().len().unwrap();
        let mut random = SeededRandom::new(name.sequence);
        for offset in (0..len).step_by(3) {
            let bit = random.below(8) as u8;
            disk.flip_bit(&path, offset, bit);
            let what = format!("bit {bit} of byte {offset} in {}", name.file_name());
            match wal::read(&disk, dir, START) {
                Err(Error::Damaged { path: at, offset: frame, .. }) => {
                    errors += 1;
                    // A lost end is noticed at the head of the next segment at the latest.
                    let here = at == path && frame <= offset;
                    assert!(here || at > path, "{what}: reported at {frame} of {}", at.display());
                }
                Err(Error::SnapshotNotFound { .. }) => assert!(offset < 100, "{what}"),
                Err(error) => panic!("{what}: {error}"),
                Ok(replayed) => {
                    assert!(replayed.entries.len() <= entries.len(), "{what}");
                    assert_eq!(replayed.entries, entries[..replayed.entries.len()], "{what}");
                    if replayed.entries.len() < entries.len() {
                        assert!(last && replayed.torn, "{what}: entries are missing");
                        shorter += 1;
                    }
                }
            }
            disk.flip_bit(&path, offset, bit);
        }
    }
    assert!(errors > 1000 && shorter > 0, "{errors} errors, {shorter} shorter");
    assert_eq!(wal::read(&disk, dir, START).unwrap().entries, entries, "all flips were undone");
}

#[test]
fn a_damaged_log_is_left_untouched() {
    let (disk, _) = sample();
    let dir = Path::new(DIR);
    let name = wal::segments(&disk, dir).unwrap()[2].file_name();
    disk.flip_bit(&dir.join(&name), 500, 1);
    let before = disk.operations();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let error = Wal::open(shared, dir, START, SMALL).err().unwrap();
    let text = error.to_string();
    assert!(text.starts_with(&format!("wal: wal/{name}: damaged at byte ")), "{text}");
    assert!(text.contains("checksum mismatch"), "{text}");
    assert_eq!(disk.operations(), before);
}

/// The cases that upstream's server was seen to repair, and those it refuses.
#[test]
fn torn_ends_are_repaired_as_upstream_does() {
    let clean = fixture("clean-0000000000000000-0000000000000000.wal");
    let name = "0000000000000000-0000000000000000.wal";
    let records = read_records(&clean).records.len();
    // Start of the last frame: cut the segment shorter until one record less is read.
    let last_frame = (0..clean.len()).rev().step_by(8).map(|at| at & !7).find(|at| {
        let read = read_records(&clean[..*at]);
        read.end.error.is_none() && read.records.len() == records - 1
    });
    let last_frame = last_frame.unwrap();
    let open = |content: &[u8], len: u64| {
        let (disk, _) = sim();
        disk.create_dir_all(Path::new(DIR), 0o700).unwrap();
        put_file(&*disk, &Path::new(DIR).join(name), content, len);
        let result = Wal::open(disk.clone(), Path::new(DIR), START, Options::default());
        result.map(|(log, replayed)| (disk, log, replayed))
    };
    let mut zeroed = clean.clone();
    zeroed[last_frame + 8..].fill(0);
    let mut absurd = clean.clone();
    absurd[last_frame..last_frame + 8].copy_from_slice(&u64::to_le_bytes(1 << 40));
    let torn: [(&str, &[u8], u64); 4] = [
        ("cut record", &clean[..clean.len() - 5], 0),
        ("cut length field", &clean[..last_frame + 3], 0),
        ("absurd length", &absurd, 64_000_000),
        ("zeroed body", &zeroed, 64_000_000),
    ];
    for (what, content, len) in torn {
        let (disk, log, replayed) = open(content, len).unwrap_or_else(|error| panic!("{what}: {error}"));
        let copy = replayed.repaired.unwrap_or_else(|| panic!("{what}: not repaired"));
        assert_eq!(copy, Path::new(DIR).join(format!("{name}.broken")), "{what}");
        let copied = disk.open(&copy, env::OpenMode::Read).unwrap();
        assert_eq!(copied.len().unwrap(), len.max(content.len() as u64), "{what}");
        let mut bytes = vec![0; content.len()];
        copied.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == content, "{what}: the copy differs");
        assert_eq!(log.position().1, last_frame as u64, "{what}");
    }
    let mut flipped = clean.clone();
    flipped[last_frame + 20] ^= 1;
    assert!(
        matches!(open(&flipped, 64_000_000), Err(Error::Damaged { .. })),
        "a flipped byte is no torn write"
    );
    let mut junk = clean.clone();
    junk.extend_from_slice(&[0x21, 0, 0, 0, 0, 0, 0, 0]);
    junk.extend_from_slice(&[0xee; 0x21]);
    assert!(matches!(open(&junk, 64_000_000), Err(Error::Damaged { .. })), "junk is no torn write");
}

#[test]
fn broken_snapshot_files_are_put_aside() {
    let (disk, sim) = sim();
    let dir = Path::new("snap");
    disk.create_dir_all(dir, 0o700).unwrap();
    let file = |name: &str| std::fs::read(support::fixture_path(name)).unwrap();
    let names = [
        "0000000000000002-00000000000000c9.snap",
        "0000000000000002-0000000000000192.snap",
        "0000000000000003-000000000000025b.snap",
    ];
    for name in names {
        put_file(&*disk, &dir.join(name), &file(name), 0);
    }
    for name in ["tmp123", "db.tmp.9", "0000000000000100.snap.db", "00000000000000ff.snap.db", "other"] {
        put_file(&*disk, &dir.join(name), b"x", 0);
    }
    put_file(&*disk, &dir.join("0000000000000009-0000000000000009.snap"), b"", 0);
    sim.flip_bit(&dir.join(names[2]), 4000, 3);
    let valid = snap::list(&*disk, dir).unwrap();
    assert_eq!(valid.len(), 4);
    let loaded = snap::load_newest(&*disk, dir, &valid).unwrap();
    let (path, snapshot) = loaded.found.unwrap();
    assert_eq!((path, snapshot.position.index), (dir.join(names[1]), 402));
    let reasons: Vec<_> = loaded.broken.iter().map(|(_, reason)| reason.to_string()).collect();
    assert_eq!(reasons[0], "empty snapshot file");
    assert!(reasons[1].starts_with("checksum mismatch"), "{reasons:?}");
    assert!(disk.exists(&dir.join(format!("{}.broken", names[2]))).unwrap());
    // A file without a record in the log is passed over, and kept.
    let loaded = snap::load_newest(&*disk, dir, &[valid[3]]).unwrap();
    assert_eq!(loaded.found.unwrap().1.position.index, 201);

    assert_eq!(snap::remove_left_overs(&*disk, dir).unwrap().len(), 2);
    assert_eq!(
        snap::remove_db_files_below(&*disk, dir, 0x100).unwrap(),
        [dir.join("00000000000000ff.snap.db")]
    );
    assert_eq!(wal::purge(&*disk, dir, ".snap", 1).unwrap(), [dir.join(names[0])]);
}

#[test]
fn a_snapshot_file_is_durable_once_saved() {
    let (disk, sim) = sim();
    let dir = Path::new("snap");
    disk.create_dir_all(dir, 0o700).unwrap();
    disk.sync_dir(Path::new(".")).unwrap();
    let content = std::fs::read(support::fixture_path("0000000000000003-000000000000025b.snap")).unwrap();
    let snapshot = snap::decode(&content).unwrap();
    let path = snap::save(&*disk, dir, &snapshot).unwrap();
    let after = sim.crash(Survival::Nothing);
    assert_eq!(snap::load(&after, &path).unwrap().unwrap(), snapshot);
    sim.fail_after(sim.operations() + 2, env::sim::Fault::OneError);
    let mut other = snapshot;
    other.position.index += 1;
    assert!(snap::save(&*disk, dir, &other).is_err());
    assert_eq!(snap::list(&*disk, dir).unwrap().len(), 1, "a file that failed is removed");
    assert!(matches!(snap::save(&*disk, dir, &Default::default()), Err(snap::Error::Empty)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let read = read_records(&bytes);
        prop_assert!(read.end.offset <= bytes.len() as u64);
        let _ = snap::decode(&bytes);
        let _ = wal::format::decode_entry(&bytes);
        let _ = wal::format::decode_wal_snapshot(&bytes);
    }

    #[test]
    fn mutated_segments_never_panic(edits in prop::collection::vec((0usize..4000, any::<u8>()), 1..6)) {
        let mut segment = fixture("segments-0000000000000002-0000000000000061.wal");
        segment.truncate(4000);
        for (at, byte) in edits {
            segment[at] = byte;
        }
        let _ = read_records(&segment);
    }
}
