//! Segments of the log, by themselves and as the only segment of a directory.
//!
//! ```text
//! mode, content         mode: bits 0 and 1 choose the content, bit 7 puts zeros behind the segment
//!   0 bytes             the segment as it is
//!   1 records...        sound frames and checksums behind a sound head:
//!                       kind:u8 data:string each; kinds 0 to 4 are those of the log, 5 is an entry
//!                       of the next index, 6 a frame that is cut off here
//!   2 bytes             a few sound records, and the bytes behind them
//!   3 as 1, without the head
//! ```
//!
//! Promises: reading ends with the records up to the first bad one, and reads the same from those
//! alone; a sound beginning is returned unchanged. Opening the directory gives a log or an error
//! that changes nothing; a log that was opened takes an entry and has it at the next replay.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use env::sim::SimDisk;
use env::{Disk, OpenMode};
use prost::Message as _;
use proto::walpb;
use types::LogPosition;
use types::raft::{ConfState, Entry, EntryKind, HardState};
use wal::format::{
    Encoder, RecordKind, WalSnapshot, decode_entry, decode_hard_state, decode_metadata, decode_wal_snapshot,
    encode_entry, encode_hard_state, encode_metadata, encode_wal_snapshot, entry_index, length_field,
    read_records,
};
use wal::{Batch, Options, Wal};

use crate::Seed;
use crate::input::{Input, Output};

const START: LogPosition = LogPosition { index: 0, term: 0 };
/// Small enough that the entry appended at the end sometimes closes the segment.
const OPTIONS: Options = Options { segment_bytes: 4096, no_sync: false };

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mode = input.u8();
    let mut segment = match mode & 3 {
        0 => input.rest().to_vec(),
        1 => Frames::new(true).all(&mut input),
        2 => [&sound().0[..], input.rest()].concat(),
        _ => Frames::new(false).all(&mut input),
    };
    if mode & 0x80 != 0 {
        segment.resize(segment.len().next_multiple_of(512) + 2048, 0);
    }
    records(&segment, mode & 3 == 2);
    directory(&segment);
}

/// Builds frames whose lengths and checksums are right.
struct Frames {
    bytes: Vec<u8>,
    crc: u32,
    entries: u64,
}

impl Frames {
    fn new(head: bool) -> Self {
        let mut frames = Self { bytes: Vec::new(), crc: 0, entries: 0 };
        if head {
            frames.frame(RecordKind::Crc, &[]);
            frames.frame(RecordKind::Metadata, b"\x08\x01\x10\x02");
            frames.frame(RecordKind::Snapshot, &encode_wal_snapshot(&WalSnapshot::default()));
        }
        frames
    }

    fn all(mut self, input: &mut Input<'_>) -> Vec<u8> {
        while !input.is_empty() {
            let kind = input.u8() % 7;
            let data = input.string();
            match kind {
                0 => self.frame(RecordKind::Metadata, data),
                1 => self.frame(RecordKind::Entry, data),
                2 => self.frame(RecordKind::State, data),
                3 => self.frame(RecordKind::Crc, data),
                4 => self.frame(RecordKind::Snapshot, data),
                5 => {
                    self.entries += 1;
                    let data = Bytes::copy_from_slice(data);
                    let entry = Entry { index: self.entries, term: 1, kind: EntryKind::Normal, data };
                    self.frame(RecordKind::Entry, &encode_entry(&entry));
                }
                _ => {
                    let kept = self.bytes.len().saturating_sub(data.len());
                    self.bytes.truncate(kept);
                }
            }
        }
        self.bytes
    }

    fn frame(&mut self, kind: RecordKind, data: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, data);
        let record = walpb::Record {
            r#type: Some(kind.number().into()),
            crc: Some(self.crc),
            data: (!data.is_empty()).then(|| Bytes::copy_from_slice(data)),
        };
        let record = record.encode_to_vec();
        let (field, padding) = length_field(record.len());
        self.bytes.extend(field.to_le_bytes());
        self.bytes.extend(&record);
        self.bytes.resize(self.bytes.len() + padding, 0);
    }
}

/// A few sound records, and what they are.
fn sound() -> &'static (Vec<u8>, Vec<Entry>) {
    static SOUND: LazyLock<(Vec<u8>, Vec<Entry>)> = LazyLock::new(|| {
        let mut encoder = Encoder::new(0);
        encoder.crc_record();
        encoder.metadata(b"\x08\x01\x10\x02");
        encoder.snapshot(&WalSnapshot::default());
        let entry = |index: u64| {
            let data = vec![index as u8; 40 * index as usize].into();
            Entry { index, term: 1, kind: EntryKind::Normal, data }
        };
        let entries: Vec<_> = (1..=4).map(entry).collect();
        for entry in &entries {
            encoder.entry(entry);
        }
        encoder.state(&HardState { term: 1, vote: 1, commit: 3 });
        (encoder.bytes().to_vec(), entries)
    });
    &SOUND
}

fn records(segment: &[u8], begins_sound: bool) {
    let read = read_records(segment);
    let end = read.end.offset as usize;
    // Not a multiple of 8 where a frame says that it has no padding: upstream's reader takes it, too.
    assert!(end <= segment.len(), "the end lies at {end}");
    let again = read_records(&segment[..end]);
    assert!(again.end.error.is_none(), "good records alone: {:?}", again.end.error);
    assert_eq!(again.records, read.records);
    assert_eq!((again.end.offset, again.end.crc), (read.end.offset, read.end.crc));
    if begins_sound {
        let expected = read_records(&sound().0).records;
        assert!(read.records.starts_with(&expected), "the sound records come back");
    }
    for (kind, data) in &read.records {
        payload(*kind, data);
    }
}

/// What decodes survives being encoded.
fn payload(kind: RecordKind, data: &[u8]) {
    match kind {
        RecordKind::Entry => {
            let Ok(entry) = decode_entry(data) else { return };
            assert_eq!(entry_index(data), Ok(entry.index));
            assert_eq!(decode_entry(&encode_entry(&entry)), Ok(entry));
        }
        RecordKind::State => {
            let Ok(state) = decode_hard_state(data) else { return };
            assert_eq!(decode_hard_state(&encode_hard_state(&state)), Ok(state));
        }
        RecordKind::Snapshot => {
            let Ok(snapshot) = decode_wal_snapshot(data) else { return };
            assert_eq!(decode_wal_snapshot(&encode_wal_snapshot(&snapshot)), Ok(snapshot));
        }
        RecordKind::Metadata => {
            let Ok(metadata) = decode_metadata(data) else { return };
            assert_eq!(decode_metadata(&encode_metadata(&metadata)), Ok(metadata));
        }
        RecordKind::Crc => {}
    }
}

fn directory(segment: &[u8]) {
    let disk = SimDisk::new();
    let dir = Path::new("wal");
    disk.create_dir_all(dir, 0o700).expect("an empty disk");
    let path = dir.join("0000000000000000-0000000000000000.wal");
    let file = disk.open(&path, OpenMode::CreateNew(0o600)).expect("an empty directory");
    file.write_at(segment, 0).expect("a healthy disk");
    drop(file);

    let _ = wal::valid_snapshots(&disk, dir);
    let newest = wal::newest_valid_snapshot(&disk, dir, |_| true);
    if let Ok(Some(snapshot)) = newest
        && snapshot.position != START
    {
        let _ = wal::read(&disk, dir, snapshot.position);
    }
    let before = disk.operations();
    let read = wal::read(&disk, dir, START);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (mut log, replayed) = match (Wal::open(shared, dir, START, OPTIONS), read) {
        (Ok((log, replayed)), Ok(read)) => {
            assert_eq!((&read.entries, read.hard_state), (&replayed.entries, replayed.hard_state));
            (log, replayed)
        }
        (Err(_), Err(_)) => {
            assert_eq!(disk.operations(), before, "a log that cannot be opened is not changed");
            return;
        }
        (opened, read) => panic!("opened: {:?}, read: {read:?}", opened.map(|(_, replayed)| replayed)),
    };
    let index = replayed.entries.len() as u64 + 1;
    let added = Entry { index, term: u64::MAX, kind: EntryKind::Normal, data: vec![7; 1000].into() };
    let batch = Batch { entries: std::slice::from_ref(&added), hard_state: None };
    log.append(&batch).expect("a healthy disk");
    log.sync().expect("a healthy disk");
    drop(log);
    let after = wal::read(&disk, dir, START).expect("a log that was opened and appended to");
    assert!(!after.torn, "the torn end was cut off");
    assert_eq!(after.entries.last(), Some(&added));
    assert_eq!(after.entries[..index as usize - 1], replayed.entries);
    assert_eq!(after.hard_state, replayed.hard_state);
}

/// A segment of etcd's, its records one by one, and each other mode.
pub fn seeds() -> Vec<Seed> {
    let segment = fixture();
    let theirs = read_records(&segment).records;
    let mut records = Output::default().u8(0x81);
    let small = theirs.iter().filter(|(kind, data)| *kind != RecordKind::Crc && data.len() < 1000);
    for (kind, data) in small.skip(1).take(12) {
        records = records.u8(kind.number() - 1).string(data);
    }
    let conf_state = Some(ConfState::new(vec![1], vec![2]));
    let snapshot = WalSnapshot { position: LogPosition { index: 2, term: 1 }, conf_state };
    let state = encode_hard_state(&HardState { term: 1, vote: 1, commit: 2 });
    let own = Output::default().u8(0x81).u8(5).string(b"first").u8(5).string(b"second");
    let own = own.u8(2).string(&state).u8(4).string(&encode_wal_snapshot(&snapshot)).u8(5).string(b"third");
    let cut = Output(own.0.clone()).u8(6).string(&[0; 13]);
    let whole = &segment[..segment.len().min(2000)];
    vec![
        ("segment", [&[0x80], whole].concat()),
        ("records", records.0),
        ("own", own.0),
        ("cut", cut.0),
        ("junk-behind", [&[2], &b"\x21\0\0\0\0\0\0\0 not a record"[..]].concat()),
        ("head-only", vec![1]),
        ("nothing", vec![3]),
    ]
}

/// Unfolds the fixture: count, literal bytes, count, repeated byte.
fn fixture() -> Vec<u8> {
    let mut input = Input::new(include_bytes!("../tests/fixtures/segment.wal.rle"));
    let mut segment = Vec::new();
    while !input.is_empty() {
        let literal = input.u32();
        segment.extend(input.bytes(literal as usize));
        let run = input.u32();
        let byte = input.u8();
        segment.resize(segment.len() + run as usize, byte);
    }
    segment
}
