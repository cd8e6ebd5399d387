//! Stored records as bytes: `mvccpb.KeyValue` written and read without a message in between.
//!
//! A record in the `key` bucket *is* the encoded `KeyValue` that clients get, so the plain read
//! path copies it and never decodes it. This module holds the few places that need a field.
//!
//! ```text
//! KeyValue { key=1 bytes, create_revision=2, mod_revision=3, version=4 varints, value=5 bytes, lease=6 varint }
//! ```
//! Zero fields are left out (proto3). A tombstone holds only `key`. A record of zero bytes is legal:
//! `etcdutl snapshot restore --bump-revision` writes one, it reads as the empty key.

use bytes::{BufMut, Bytes, BytesMut};
use types::BytesArena;

/// The fields of a record, borrowed from its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordFields<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Revision that created the key.
    pub create_revision: i64,
    /// Revision of this record.
    pub mod_revision: i64,
    /// Number of puts since the creation.
    pub version: i64,
    /// The value.
    pub value: &'a [u8],
    /// Attached lease, 0 for none.
    pub lease: i64,
}

/// A record that is not an encoded `KeyValue`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record is not a key-value message: {reason} at byte {offset} of {len}")]
pub struct MalformedRecord {
    /// What was wrong.
    pub reason: &'static str,
    /// Where.
    pub offset: usize,
    /// Length of the record.
    pub len: usize,
}

/// Reads all fields of a record.
pub fn parse(bytes: &[u8]) -> Result<RecordFields<'_>, MalformedRecord> {
    let mut fields = RecordFields::default();
    let mut reader = Reader { bytes, at: 0 };
    while reader.at < bytes.len() {
        let tag = reader.varint()?;
        match (tag >> 3, tag & 7) {
            (1, 2) => fields.key = reader.bytes()?,
            (2, 0) => fields.create_revision = reader.varint()? as i64,
            (3, 0) => fields.mod_revision = reader.varint()? as i64,
            (4, 0) => fields.version = reader.varint()? as i64,
            (5, 2) => fields.value = reader.bytes()?,
            (6, 0) => fields.lease = reader.varint()? as i64,
            (0, _) => return Err(reader.malformed("field number 0")),
            (1..=6, _) => return Err(reader.malformed("wrong wire type")),
            (_, wire_type) => reader.skip(wire_type)?,
        }
    }
    Ok(fields)
}

/// Reads only the key: the first field of every record that etcd or we write.
pub fn key_of(bytes: &[u8]) -> Result<&[u8], MalformedRecord> {
    let mut reader = Reader { bytes, at: 0 };
    if bytes.first() == Some(&0x0a) {
        reader.at = 1;
        let key = reader.bytes()?;
        // Another key field behind it would win; only a stranger writes that.
        if bytes.get(reader.at) != Some(&0x0a) {
            return Ok(key);
        }
    }
    parse(bytes).map(|fields| fields.key)
}

/// Encodes a put in memory of its own.
pub fn encode(fields: &RecordFields<'_>) -> Bytes {
    let mut record = BytesMut::with_capacity(encoded_len(fields));
    write(&mut record, fields);
    record.freeze()
}

/// Encodes a put in memory of `arena`.
pub fn encode_in(arena: &mut BytesArena, fields: &RecordFields<'_>) -> Bytes {
    arena.build(encoded_len(fields), |out| write(out, fields))
}

/// Appends an encoded record to `out`.
pub fn write(out: &mut impl BufMut, fields: &RecordFields<'_>) {
    if !fields.key.is_empty() {
        put_bytes_field(out, 1, fields.key);
    }
    for (number, value) in [(2, fields.create_revision), (3, fields.mod_revision), (4, fields.version)] {
        put_varint_field(out, number, value);
    }
    if !fields.value.is_empty() {
        put_bytes_field(out, 5, fields.value);
    }
    put_varint_field(out, 6, fields.lease);
}

/// Length of what [`write()`] appends.
pub fn encoded_len(fields: &RecordFields<'_>) -> usize {
    bytes_field_len(fields.key)
        + varint_field_len(fields.create_revision)
        + varint_field_len(fields.mod_revision)
        + varint_field_len(fields.version)
        + bytes_field_len(fields.value)
        + varint_field_len(fields.lease)
}

/// Encodes the stored form of a tombstone in memory of `arena`.
pub fn encode_tombstone_in(arena: &mut BytesArena, key: &[u8]) -> Bytes {
    encode_in(arena, &RecordFields { key, ..RecordFields::default() })
}

/// Encodes what a watcher sees of a deletion.
pub fn encode_deleted(key: &[u8], mod_revision: i64) -> Bytes {
    encode(&RecordFields { key, mod_revision, ..RecordFields::default() })
}

/// Appends a length-delimited field, empty or not.
pub fn put_bytes_field(out: &mut impl BufMut, number: u32, bytes: &[u8]) {
    put_varint(out, u64::from(number << 3 | 2));
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// Appends a varint.
pub fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Number of bytes of a varint.
pub const fn varint_len(value: u64) -> usize {
    ((63 - (value | 1).leading_zeros()) / 7 + 1) as usize
}

fn put_varint_field(out: &mut impl BufMut, number: u32, value: i64) {
    if value != 0 {
        put_varint(out, u64::from(number << 3));
        put_varint(out, value as u64);
    }
}

fn bytes_field_len(bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { 1 + varint_len(bytes.len() as u64) + bytes.len() }
}

fn varint_field_len(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value as u64) }
}

/// Reads one length-delimited item off the front of `bytes`: its content and what follows it.
pub(crate) fn split_delimited(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader { bytes, at: 0 };
    let content = reader.bytes().ok()?;
    Some((content, &bytes[reader.at..]))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn malformed(&self, reason: &'static str) -> MalformedRecord {
        MalformedRecord { reason, offset: self.at, len: self.bytes.len() }
    }

    fn varint(&mut self) -> Result<u64, MalformedRecord> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let Some(byte) = self.bytes.get(self.at) else { return Err(self.malformed("cut number")) };
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed("number too long"))
    }

    fn bytes(&mut self) -> Result<&'a [u8], MalformedRecord> {
        let len = self.varint()?;
        let rest = &self.bytes[self.at..];
        if len > rest.len() as u64 {
            return Err(self.malformed("field longer than the record"));
        }
        self.at += len as usize;
        Ok(&rest[..len as usize])
    }

    fn skip(&mut self, wire_type: u64) -> Result<(), MalformedRecord> {
        let fixed = match wire_type {
            0 => return self.varint().map(drop),
            2 => return self.bytes().map(drop),
            1 => 8,
            5 => 4,
            _ => return Err(self.malformed("unknown wire type")),
        };
        if self.bytes.len() - self.at < fixed {
            return Err(self.malformed("cut field"));
        }
        self.at += fixed;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message;
    use proto::mvccpb::KeyValue;

    proptest! {
        #[test]
        fn bytes_are_those_of_prost(
            key in prop::collection::vec(any::<u8>(), 0..200), value in prop::collection::vec(any::<u8>(), 0..200),
            numbers in any::<[i64; 4]>(), zero in 0usize..5,
        ) {
            let mut numbers = numbers;
            if let Some(number) = numbers.get_mut(zero) { *number = 0 }
            let [create_revision, mod_revision, version, lease] = numbers;
            let fields = RecordFields { key: &key, create_revision, mod_revision, version, value: &value, lease };
            let kv = KeyValue {
                key: key.clone().into(), create_revision, mod_revision, version, value: value.clone().into(), lease,
            };
            let record = encode(&fields);
            prop_assert_eq!(&record[..], &kv.encode_to_vec()[..]);
            prop_assert_eq!(record.len(), encoded_len(&fields));
            prop_assert_eq!(parse(&record).unwrap(), fields);
            prop_assert_eq!(key_of(&record).unwrap(), &key[..]);
        }

        #[test]
        fn junk_never_panics_and_agrees_with_prost(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let (Ok(fields), Ok(kv)) = (parse(&bytes), KeyValue::decode(&bytes[..])) {
                prop_assert_eq!(fields.key, &kv.key[..]);
                prop_assert_eq!(fields.lease, kv.lease);
                prop_assert_eq!(key_of(&bytes).unwrap(), &kv.key[..]);
            }
        }
    }

    #[test]
    fn the_zero_byte_record_is_the_empty_key() {
        assert_eq!(parse(b"").unwrap(), RecordFields::default());
        assert_eq!(key_of(b"").unwrap(), b"");
    }
}
