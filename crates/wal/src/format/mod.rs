//! The bytes of the log: framing, checksum chain, records. Pure; usable without a directory.
//!
//! ```text
//! frame:   length field  i64le   low 56 bits: length of the record without padding
//!                                top byte:    0, or 0x80 | padding (1..=7)
//!          record        walpb.Record
//!          padding       zeros up to a multiple of 8
//!
//! Record { type = 1: i64, crc = 2: u32, data = 3: bytes }        data is absent in crc records
//!
//! type 1  metadata    etcdserverpb.Metadata, kept as bytes
//!      2  entry       raftpb.Entry
//!      3  state       raftpb.HardState
//!      4  crc         the chain's value at the end of the previous segment
//!      5  snapshot    walpb.Snapshot
//! ```
//!
//! - A frame starts 8-aligned, so its length field never straddles a 512-byte sector.
//! - A segment opens with a crc and a metadata record and has no more of either. The checksum does
//!   not cover the type, so readers hold records to what their type may look like.
//! - A zero length field ends the log: preallocated space is zero.
//! - The checksum is a CRC-32C that runs over the `data` of all records in sequence; each record
//!   stores the value after its own data. A crc record restates it at the head of a segment, so a
//!   reader can start there.
//! - All scalars are written, zero or not, as etcd 3.5 and 3.6 do; readers accept absent ones.
//!
//! **Source**: etcd `server/storage/wal/{encoder,decoder,wal}.go`, `raft/raftpb`.

mod decode;
mod encode;
mod scan;

pub use decode::{
    DecodeError, decode_entry, decode_hard_state, decode_metadata, decode_raft_snapshot, decode_record,
    decode_snapshot_envelope, decode_wal_snapshot, entry_index,
};
pub use encode::{
    Encoder, encode_conf_state, encode_entry, encode_hard_state, encode_metadata, encode_raft_snapshot,
    encode_snapshot_envelope, encode_wal_snapshot,
};
pub use scan::{End, Records, Scan, ScanError, Source, read_records};

use types::LogPosition;
use types::raft::ConfState;

/// Length of the length field.
pub const FRAME_HEADER_LEN: usize = 8;
/// The unit in which a disk loses writes.
pub const SECTOR_LEN: u64 = 512;

/// Type of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// Cluster and member id; the same bytes at the head of every segment.
    Metadata,
    /// A raft entry.
    Entry,
    /// Term, vote and commit; the last one counts.
    State,
    /// Seed of the checksum chain.
    Crc,
    /// A snapshot was taken or received up to here.
    Snapshot,
}

impl RecordKind {
    /// The number on disk.
    pub const fn number(self) -> u8 {
        match self {
            Self::Metadata => 1,
            Self::Entry => 2,
            Self::State => 3,
            Self::Crc => 4,
            Self::Snapshot => 5,
        }
    }

    /// The kind of a number on disk.
    pub const fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            1 => Self::Metadata,
            2 => Self::Entry,
            3 => Self::State,
            4 => Self::Crc,
            5 => Self::Snapshot,
            _ => return None,
        })
    }
}

/// A decoded record whose data still lies in the read buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Type of the record.
    pub kind: RecordKind,
    /// Stored value of the checksum chain.
    pub crc: u32,
    /// Payload; empty for crc records.
    pub data: &'a [u8],
}

/// A snapshot record: where the log may be entered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalSnapshot {
    /// Last entry that the snapshot covers; index 0 is the start of the log.
    pub position: LogPosition,
    /// Members at that entry. Absent at index 0 and in logs of etcd 3.4.
    pub conf_state: Option<ConfState>,
}

/// What the log is of: the payload of metadata records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Id of the member that owns the log.
    pub member: types::MemberId,
    /// Id of its cluster.
    pub cluster: types::ClusterId,
}

/// Splits a length field into record length and padding, as upstream's reader does.
pub const fn parse_length_field(field: i64) -> (u64, u64) {
    let record_len = field as u64 & !(0xff << 56);
    let padding = if field < 0 { (field as u64 >> 56) & 7 } else { 0 };
    (record_len, padding)
}

/// The length field and padding of a record of `record_len` bytes.
pub const fn length_field(record_len: usize) -> (u64, usize) {
    let padding = (8 - record_len % 8) % 8;
    let mark = if padding == 0 { 0 } else { 0x80 | padding as u64 };
    (record_len as u64 | mark << 56, padding)
}

/// Whether a record that does not check out looks like a torn write: at least one of its pieces,
/// cut at the sector boundaries of the file, is all zero. `body` is record and padding, `offset`
/// its place in the file.
pub fn is_torn(body: &[u8], offset: u64) -> bool {
    let first = ((SECTOR_LEN - offset % SECTOR_LEN) as usize).min(body.len());
    let (head, rest) = body.split_at(first);
    let zero = |piece: &[u8]| !piece.is_empty() && piece.iter().all(|byte| *byte == 0);
    zero(head) || rest.chunks(SECTOR_LEN as usize).any(zero)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_fields_carry_the_padding_in_the_top_byte() {
        assert_eq!(length_field(4).0.to_le_bytes(), [4, 0, 0, 0, 0, 0, 0, 0x84]);
        assert_eq!(length_field(8), (8, 0));
        for len in 1..40 {
            let (field, padding) = length_field(len);
            assert_eq!(parse_length_field(field as i64), (len as u64, padding as u64));
        }
    }

    #[test]
    fn a_piece_of_zeros_between_sector_boundaries_is_a_torn_write() {
        let mut body = vec![1; 1200];
        assert!(!is_torn(&body, 8));
        body[504..1016].fill(0);
        assert!(is_torn(&body, 8), "a whole sector");
        assert!(!is_torn(&body, 16), "zeros across a boundary, but no whole piece");
        let mut body = vec![0; 600];
        body[592..].fill(1);
        assert!(is_torn(&body, 8), "the first piece");
        assert!(!is_torn(&[], 8));
    }
}
