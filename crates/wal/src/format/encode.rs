//! Encoders. The hot one, [`Encoder::entry`], writes frame, record and entry in one go into a
//! buffer that is reused, with one copy of the payload.

use types::raft::{ConfState, Entry, EntryKind, HardState, Snapshot};

use super::{Metadata, RecordKind, WalSnapshot, length_field};

/// Length of the longest varint.
const VARINT_LEN: usize = 10;

/// A few bytes on the stack.
struct Head<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Head<N> {
    fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    fn byte(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    fn field(&mut self, tag: u8, value: u64) {
        self.byte(tag);
        self.varint(value);
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Appends framed records to a buffer and carries the checksum chain along.
#[derive(Debug, Default)]
pub struct Encoder {
    buffer: Vec<u8>,
    crc: u32,
}

impl Encoder {
    /// An encoder that continues the chain from `crc`.
    pub fn new(crc: u32) -> Self {
        Self { buffer: Vec::new(), crc }
    }

    /// Value of the chain after all records so far.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// The frames encoded since the last [`Encoder::clear`].
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Empties the buffer, keeping at most `keep` bytes of its memory. The chain goes on.
    pub fn clear(&mut self, keep: usize) {
        self.buffer.clear();
        if self.buffer.capacity() > keep {
            self.buffer.shrink_to(keep);
        }
    }

    /// A metadata record.
    pub fn metadata(&mut self, metadata: &[u8]) {
        self.record(RecordKind::Metadata, metadata, &[]);
    }

    /// An entry record.
    pub fn entry(&mut self, entry: &Entry) {
        let head = entry_head(entry);
        self.record(RecordKind::Entry, head.as_slice(), &entry.data);
    }

    /// A hard state record.
    pub fn state(&mut self, state: &HardState) {
        let encoded = hard_state_fields(state);
        self.record(RecordKind::State, encoded.as_slice(), &[]);
    }

    /// A crc record that restates the chain's value.
    pub fn crc_record(&mut self) {
        let mut head = Head::<{ 2 + 1 + VARINT_LEN }>::new();
        head.field(0x08, RecordKind::Crc.number().into());
        head.field(0x10, self.crc.into());
        self.frame(head.as_slice(), &[], &[]);
    }

    /// A snapshot record.
    pub fn snapshot(&mut self, snapshot: &WalSnapshot) {
        let encoded = encode_wal_snapshot(snapshot);
        self.record(RecordKind::Snapshot, &encoded, &[]);
    }

    /// A record whose data is `head` followed by `tail`.
    fn record(&mut self, kind: RecordKind, head: &[u8], tail: &[u8]) {
        self.crc = crc32c::crc32c_append(crc32c::crc32c_append(self.crc, head), tail);
        let mut fields = Head::<{ 2 + 1 + VARINT_LEN + 1 + VARINT_LEN }>::new();
        fields.field(0x08, kind.number().into());
        fields.field(0x10, self.crc.into());
        fields.field(0x1a, (head.len() + tail.len()) as u64);
        self.frame(fields.as_slice(), head, tail);
    }

    fn frame(&mut self, fields: &[u8], head: &[u8], tail: &[u8]) {
        let record_len = fields.len() + head.len() + tail.len();
        let (field, padding) = length_field(record_len);
        self.buffer.reserve(8 + record_len + padding);
        self.buffer.extend_from_slice(&field.to_le_bytes());
        self.buffer.extend_from_slice(fields);
        self.buffer.extend_from_slice(head);
        self.buffer.extend_from_slice(tail);
        self.buffer.extend_from_slice(&[0; 8][..padding]);
    }
}

fn entry_head(entry: &Entry) -> Head<{ 2 + 3 * (1 + VARINT_LEN) }> {
    let mut head = Head::new();
    head.field(
        0x08,
        match entry.kind {
            EntryKind::Normal => 0,
            EntryKind::ConfChange => 1,
            EntryKind::ConfChangeV2 => 2,
        },
    );
    head.field(0x10, entry.term);
    head.field(0x18, entry.index);
    if !entry.data.is_empty() {
        head.field(0x22, entry.data.len() as u64);
    }
    head
}

fn hard_state_fields(state: &HardState) -> Head<{ 3 * (1 + VARINT_LEN) }> {
    let mut head = Head::new();
    head.field(0x08, state.term);
    head.field(0x10, state.vote);
    head.field(0x18, state.commit);
    head
}

fn put_varint(buffer: &mut Vec<u8>, value: u64) {
    let mut head = Head::<VARINT_LEN>::new();
    head.varint(value);
    buffer.extend_from_slice(head.as_slice());
}

fn put_field(buffer: &mut Vec<u8>, tag: u8, value: u64) {
    buffer.push(tag);
    put_varint(buffer, value);
}

fn put_bytes(buffer: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    put_field(buffer, tag, bytes.len() as u64);
    buffer.extend_from_slice(bytes);
}

/// `raftpb.Entry`.
pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    let mut buffer = entry_head(entry).as_slice().to_vec();
    buffer.extend_from_slice(&entry.data);
    buffer
}

/// `raftpb.HardState`.
pub fn encode_hard_state(state: &HardState) -> Vec<u8> {
    hard_state_fields(state).as_slice().to_vec()
}

/// `raftpb.ConfState`, lists unpacked, `auto_leave` always there.
pub fn encode_conf_state(state: &ConfState) -> Vec<u8> {
    let mut buffer = Vec::new();
    let lists = [
        (0x08, &state.voters),
        (0x10, &state.learners),
        (0x18, &state.voters_outgoing),
        (0x20, &state.learners_next),
    ];
    for (tag, list) in lists {
        for id in list {
            put_field(&mut buffer, tag, *id);
        }
    }
    put_field(&mut buffer, 0x28, state.auto_leave.into());
    buffer
}

/// `walpb.Snapshot`.
pub fn encode_wal_snapshot(snapshot: &WalSnapshot) -> Vec<u8> {
    let mut buffer = Vec::new();
    put_field(&mut buffer, 0x08, snapshot.position.index);
    put_field(&mut buffer, 0x10, snapshot.position.term);
    if let Some(conf_state) = &snapshot.conf_state {
        put_bytes(&mut buffer, 0x1a, &encode_conf_state(conf_state));
    }
    buffer
}

/// `etcdserverpb.Metadata`.
pub fn encode_metadata(metadata: &Metadata) -> Vec<u8> {
    let mut buffer = Vec::new();
    put_field(&mut buffer, 0x08, metadata.member.0);
    put_field(&mut buffer, 0x10, metadata.cluster.0);
    buffer
}

/// `raftpb.Snapshot`; metadata and its configuration are always there.
pub fn encode_raft_snapshot(snapshot: &Snapshot) -> Vec<u8> {
    let mut metadata = Vec::new();
    put_bytes(&mut metadata, 0x0a, &encode_conf_state(&snapshot.conf_state));
    put_field(&mut metadata, 0x10, snapshot.position.index);
    put_field(&mut metadata, 0x18, snapshot.position.term);
    let mut buffer = Vec::with_capacity(snapshot.data.len() + metadata.len() + 24);
    if !snapshot.data.is_empty() {
        put_bytes(&mut buffer, 0x0a, &snapshot.data);
    }
    put_bytes(&mut buffer, 0x12, &metadata);
    buffer
}

/// `snappb.Snapshot` around an encoded `raftpb.Snapshot`: the content of a `.snap` file.
pub fn encode_snapshot_envelope(raft_snapshot: &[u8]) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(raft_snapshot.len() + 16);
    put_field(&mut buffer, 0x08, crc32c::crc32c(raft_snapshot).into());
    put_bytes(&mut buffer, 0x12, raft_snapshot);
    buffer
}
