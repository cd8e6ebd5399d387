//! Decoders for the few messages of the log. They accept what etcd 3.4 to 3.7 write: scalars
//! present or absent, lists packed or not, unknown fields skipped; anything else is an error.

use bytes::Bytes;
use types::raft::{ConfState, Entry, EntryKind, HardState, Snapshot};
use types::{ClusterId, LogPosition, MemberId};

use super::{Metadata, Record, RecordKind, WalSnapshot};

/// Bytes that are not the expected message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends inside a field.
    #[error("the message ends inside a field")]
    Truncated,
    /// A number of more than 64 bits, field number 0, or a wire type that does not exist.
    #[error("malformed field")]
    Malformed,
    /// A known field has the wrong wire type.
    #[error("field {0} has the wrong wire type")]
    WireType(u64),
    /// The record type is none that we know.
    #[error("unexpected record type {0}")]
    RecordType(u64),
    /// Fields that another type of record has: its type, which no checksum covers, was changed.
    #[error("the fields are those of another type of record")]
    OtherType,
    /// The entry type is none that we know.
    #[error("unexpected entry type {0}")]
    EntryType(u64),
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for (position, byte) in self.rest.iter().enumerate() {
            if position == 9 && *byte > 1 {
                return Err(DecodeError::Malformed);
            }
            value |= u64::from(byte & 0x7f) << (7 * position);
            if *byte < 0x80 {
                self.rest = &self.rest[position + 1..];
                return Ok(value);
            }
        }
        Err(DecodeError::Truncated)
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], DecodeError> {
        if len > self.rest.len() as u64 {
            return Err(DecodeError::Truncated);
        }
        let (taken, rest) = self.rest.split_at(len as usize);
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(DecodeError::Malformed),
        };
        match tag >> 3 {
            0 => Err(DecodeError::Malformed),
            field => Ok(Some((field, value))),
        }
    }
}

impl<'a> Value<'a> {
    fn number(self, field: u64) -> Result<u64, DecodeError> {
        match self {
            Self::Number(number) => Ok(number),
            _ => Err(DecodeError::WireType(field)),
        }
    }

    fn bytes(self, field: u64) -> Result<&'a [u8], DecodeError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(DecodeError::WireType(field)),
        }
    }

    fn numbers(self, field: u64, list: &mut Vec<u64>) -> Result<(), DecodeError> {
        match self {
            Self::Number(number) => list.push(number),
            Self::Bytes(packed) => {
                let mut packed = Fields { rest: packed };
                while !packed.rest.is_empty() {
                    list.push(packed.varint()?);
                }
            }
            Self::Fixed => return Err(DecodeError::WireType(field)),
        }
        Ok(())
    }
}

/// Calls `take` for each field of a message.
fn each_field<'a>(
    message: &'a [u8],
    mut take: impl FnMut(u64, Value<'a>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let mut fields = Fields { rest: message };
    while let Some((field, value)) = fields.next()? {
        take(field, value)?;
    }
    Ok(())
}

/// `walpb.Record`.
pub fn decode_record(message: &[u8]) -> Result<Record<'_>, DecodeError> {
    let (mut kind, mut crc, mut data) = (0, 0, &[][..]);
    each_field(message, |field, value| {
        match field {
            1 => kind = value.number(field)?,
            2 => crc = value.number(field)? as u32,
            3 => data = value.bytes(field)?,
            _ => {}
        }
        Ok(())
    })?;
    let kind = RecordKind::from_number(kind).ok_or(DecodeError::RecordType(kind))?;
    Ok(Record { kind, crc, data })
}

/// `raftpb.Entry`; the payload is copied, so that the read buffer is not kept alive.
pub fn decode_entry(message: &[u8]) -> Result<Entry, DecodeError> {
    let (mut entry, mut data) = (Entry::default(), &[][..]);
    each_field(message, |field, value| {
        match field {
            1 => entry.kind = decode_entry_kind(value.number(field)?)?,
            2 => entry.term = value.number(field)?,
            3 => entry.index = value.number(field)?,
            4 => data = value.bytes(field)?,
            _ => {}
        }
        Ok(())
    })?;
    // A hard state taken for an entry: its term stands where the kind should be.
    if entry.kind != EntryKind::Normal && data.is_empty() {
        return Err(DecodeError::OtherType);
    }
    entry.data = Bytes::copy_from_slice(data);
    Ok(entry)
}

/// The index of an encoded entry, without copying its payload.
pub fn entry_index(message: &[u8]) -> Result<u64, DecodeError> {
    let mut index = 0;
    each_field(message, |field, value| {
        if field == 3 {
            index = value.number(field)?;
        }
        Ok(())
    })?;
    Ok(index)
}

fn decode_entry_kind(number: u64) -> Result<EntryKind, DecodeError> {
    Ok(match number {
        0 => EntryKind::Normal,
        1 => EntryKind::ConfChange,
        2 => EntryKind::ConfChangeV2,
        _ => return Err(DecodeError::EntryType(number)),
    })
}

/// `raftpb.HardState`. Strict about unknown fields: an entry has one more, its payload.
pub fn decode_hard_state(message: &[u8]) -> Result<HardState, DecodeError> {
    let mut state = HardState::default();
    each_field(message, |field, value| {
        match field {
            1 => state.term = value.number(field)?,
            2 => state.vote = value.number(field)?,
            3 => state.commit = value.number(field)?,
            _ => return Err(DecodeError::OtherType),
        }
        Ok(())
    })?;
    // An empty entry taken for a hard state: its kind, 0, stands where the term should be.
    if state.term == 0 && !state.is_empty() {
        return Err(DecodeError::OtherType);
    }
    Ok(state)
}

fn decode_conf_state(message: &[u8]) -> Result<ConfState, DecodeError> {
    let mut state = ConfState::default();
    each_field(message, |field, value| match field {
        1 => value.numbers(field, &mut state.voters),
        2 => value.numbers(field, &mut state.learners),
        3 => value.numbers(field, &mut state.voters_outgoing),
        4 => value.numbers(field, &mut state.learners_next),
        5 => {
            state.auto_leave = value.number(field)? != 0;
            Ok(())
        }
        _ => Ok(()),
    })?;
    Ok(state.sorted())
}

/// `walpb.Snapshot`.
pub fn decode_wal_snapshot(message: &[u8]) -> Result<WalSnapshot, DecodeError> {
    let mut snapshot = WalSnapshot::default();
    each_field(message, |field, value| {
        match field {
            1 => snapshot.position.index = value.number(field)?,
            2 => snapshot.position.term = value.number(field)?,
            3 => snapshot.conf_state = Some(decode_conf_state(value.bytes(field)?)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(snapshot)
}

/// `etcdserverpb.Metadata`.
pub fn decode_metadata(message: &[u8]) -> Result<Metadata, DecodeError> {
    let mut metadata = Metadata::default();
    each_field(message, |field, value| {
        match field {
            1 => metadata.member = MemberId(value.number(field)?),
            2 => metadata.cluster = ClusterId(value.number(field)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(metadata)
}

/// `raftpb.Snapshot`.
pub fn decode_raft_snapshot(message: &[u8]) -> Result<Snapshot, DecodeError> {
    let mut snapshot = Snapshot::default();
    each_field(message, |field, value| {
        match field {
            1 => snapshot.data = Bytes::copy_from_slice(value.bytes(field)?),
            2 => {
                let (conf_state, position) = decode_snapshot_metadata(value.bytes(field)?)?;
                (snapshot.conf_state, snapshot.position) = (conf_state, position);
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(snapshot)
}

fn decode_snapshot_metadata(message: &[u8]) -> Result<(ConfState, LogPosition), DecodeError> {
    let (mut conf_state, mut position) = (ConfState::default(), LogPosition::default());
    each_field(message, |field, value| {
        match field {
            1 => conf_state = decode_conf_state(value.bytes(field)?)?,
            2 => position.index = value.number(field)?,
            3 => position.term = value.number(field)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((conf_state, position))
}

/// `snappb.Snapshot`: checksum and encoded `raftpb.Snapshot`, not yet compared.
pub fn decode_snapshot_envelope(message: &[u8]) -> Result<(u32, &[u8]), DecodeError> {
    let (mut crc, mut data) = (0, &[][..]);
    each_field(message, |field, value| {
        match field {
            1 => crc = value.number(field)? as u32,
            2 => data = value.bytes(field)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((crc, data))
}

#[cfg(test)]
mod tests {
    use super::super::encode::*;
    use super::*;

    #[test]
    fn messages_survive_a_round_trip() {
        let entry = Entry { index: 300, term: 7, kind: EntryKind::ConfChange, data: "payload".into() };
        assert_eq!(decode_entry(&encode_entry(&entry)).unwrap(), entry);
        assert_eq!(entry_index(&encode_entry(&entry)).unwrap(), 300);
        let state = HardState { term: 1, vote: u64::MAX, commit: 0 };
        assert_eq!(decode_hard_state(&encode_hard_state(&state)).unwrap(), state);
        let position = LogPosition { index: 9, term: 2 };
        let conf_state = ConfState::new(vec![2, 1], vec![3]);
        let mark = WalSnapshot { position, conf_state: Some(conf_state.clone()) };
        assert_eq!(decode_wal_snapshot(&encode_wal_snapshot(&mark)).unwrap(), mark);
        let snapshot = Snapshot { position, conf_state, data: "{}".into() };
        assert_eq!(decode_raft_snapshot(&encode_raft_snapshot(&snapshot)).unwrap(), snapshot);
    }

    #[test]
    fn zero_scalars_are_written_and_absent_ones_are_read() {
        assert_eq!(encode_hard_state(&HardState::default()), [8, 0, 16, 0, 24, 0]);
        assert_eq!(encode_wal_snapshot(&WalSnapshot::default()), [8, 0, 16, 0]);
        assert_eq!(encode_entry(&Entry::default()), [8, 0, 16, 0, 24, 0]);
        assert_eq!(encode_conf_state(&ConfState::new(vec![5], vec![])), [8, 5, 0x28, 0]);
        assert_eq!(decode_hard_state(&[]).unwrap(), HardState::default());
        assert_eq!(decode_entry(&[]).unwrap(), Entry::default());
    }

    #[test]
    fn entries_and_hard_states_are_not_taken_for_each_other() {
        let state = encode_hard_state(&HardState { term: 1, vote: 7, commit: 3 });
        assert_eq!(decode_entry(&state).unwrap_err(), DecodeError::OtherType);
        for (kind, data) in [(EntryKind::Normal, ""), (EntryKind::Normal, "x"), (EntryKind::ConfChange, "x")]
        {
            let entry = Entry { index: 3, term: 1, kind, data: data.into() };
            assert_eq!(decode_hard_state(&encode_entry(&entry)).unwrap_err(), DecodeError::OtherType);
        }
    }

    #[test]
    fn packed_lists_and_unknown_fields_are_read() {
        let state = decode_conf_state(&[0x0a, 2, 7, 5, 0x10, 9, 0x7a, 1, 0xff, 0x79, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(state.unwrap(), ConfState::new(vec![5, 7], vec![9]));
    }

    #[test]
    fn malformed_messages_are_refused() {
        let cases: [(&[u8], DecodeError); 6] = [
            (&[0x08], DecodeError::Truncated),
            (&[0x1a, 5, 1], DecodeError::Truncated),
            (&[0x00, 1], DecodeError::Malformed),
            (&[0x0b], DecodeError::Malformed),
            (&[0x0a, 0], DecodeError::WireType(1)),
            (&[0x08, 9], DecodeError::RecordType(9)),
        ];
        for (message, error) in cases {
            assert_eq!(decode_record(message).unwrap_err(), error, "{message:?}");
        }
        assert_eq!(decode_record(&[0xff; 11]).unwrap_err(), DecodeError::Malformed);
    }
}
