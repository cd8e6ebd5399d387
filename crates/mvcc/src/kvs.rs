//! Results of reads as bytes.

use bytes::{BufMut, Bytes, BytesMut};
use prost::{DecodeError, Message};
use proto::mvccpb::KeyValue;

use crate::record::{self, RecordFields, put_varint, split_delimited, varint_len};

/// Tag of `RangeResponse.kvs` (field 2, length-delimited).
const KVS_TAG: u8 = 0x12;

/// Encoded `KeyValue` messages in a row, ready to be part of a `RangeResponse`.
///
/// ```text
/// 0x12 | length varint | KeyValue     repeated
/// ```
/// So the most frequent answer needs no further step, and others re-tag the messages. Many messages
/// lie in several pieces of memory, which become free one by one as they are sent; a message never
/// spans two of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedKvs {
    /// Full pieces, in front of `last`.
    full: Vec<Bytes>,
    last: Bytes,
    len: usize,
}

impl EncodedKvs {
    /// Number of messages.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The messages as the repeated field 2, which is what `RangeResponse` wants, piece by piece.
    pub fn range_response_field(&self) -> impl Iterator<Item = &Bytes> {
        self.full.iter().chain([&self.last])
    }

    /// Length of [`EncodedKvs::range_response_field`] in bytes.
    pub fn range_response_len(&self) -> usize {
        self.range_response_field().map(Bytes::len).sum()
    }

    fn messages(&self) -> impl Iterator<Item = (&Bytes, &[u8])> {
        self.range_response_field().flat_map(|piece| {
            let mut rest: &[u8] = piece;
            std::iter::from_fn(move || {
                let (message, behind) = split_delimited(rest.get(1..)?)?;
                rest = behind;
                Some((piece, message))
            })
        })
    }

    /// The raw messages.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.messages().map(|(_, message)| message)
    }

    /// The messages, decoded. Keys and values share the memory of the result. Fails if a stored
    /// record is damaged: records are read without looking into them.
    pub fn decode(&self) -> Result<Vec<KeyValue>, DecodeError> {
        self.messages().map(|(piece, message)| KeyValue::decode(piece.slice_ref(message))).collect()
    }

    /// The key of the last message.
    pub fn last_key(&self) -> Option<&[u8]> {
        self.iter().last().map(|message| record::key_of(message).unwrap_or_default())
    }

    /// Length of what [`EncodedKvs::write_field`] appends.
    pub fn field_len(&self, number: u32) -> usize {
        let tag = varint_len(u64::from(number << 3 | 2));
        self.range_response_len() + self.len * tag - self.len
    }

    /// Appends the messages as repeated field `number`.
    pub fn write_field(&self, number: u32, out: &mut BytesMut) {
        if number << 3 | 2 == u32::from(KVS_TAG) {
            return self.range_response_field().for_each(|piece| out.put_slice(piece));
        }
        out.reserve(self.field_len(number));
        self.iter().for_each(|message| record::put_bytes_field(out, number, message));
    }
}

impl<'a> FromIterator<&'a KeyValue> for EncodedKvs {
    fn from_iter<I: IntoIterator<Item = &'a KeyValue>>(messages: I) -> Self {
        let mut builder = KvsBuilder::default();
        messages.into_iter().for_each(|message| builder.push_record(&message.encode_to_vec()));
        builder.finish()
    }
}

/// Collects messages.
#[derive(Debug, Default)]
pub(crate) struct KvsBuilder {
    full: Vec<Bytes>,
    last: BytesMut,
    len: usize,
    /// Messages that will come, for one good guess of the size.
    expected: usize,
}

/// Memory of a piece, unless a single message is longer.
const PIECE_LEN: usize = 256 << 10;

impl KvsBuilder {
    pub(crate) fn new(expected: usize) -> Self {
        Self { expected, ..Self::default() }
    }

    /// Messages so far.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds a stored record as it is.
    pub(crate) fn push_record(&mut self, message: &[u8]) {
        self.begin(message.len());
        self.last.put_slice(message);
    }

    /// Adds a message made of fields.
    pub(crate) fn push_fields(&mut self, fields: &RecordFields<'_>) {
        self.begin(record::encoded_len(fields));
        record::write(&mut self.last, fields);
    }

    fn begin(&mut self, message_len: usize) {
        let one = message_len + 1 + varint_len(message_len as u64);
        if self.last.len() + one > PIECE_LEN && !self.last.is_empty() {
            self.full.push(std::mem::take(&mut self.last).freeze());
        }
        if self.last.is_empty() {
            let rest = self.expected.saturating_sub(self.len).max(1);
            self.last.reserve(one.saturating_mul(rest).min(PIECE_LEN.max(one)));
        }
        self.len += 1;
        self.last.put_u8(KVS_TAG);
        put_varint(&mut self.last, message_len as u64);
    }

    pub(crate) fn finish(self) -> EncodedKvs {
        EncodedKvs { full: self.full, last: self.last.freeze(), len: self.len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::etcdserverpb::{DeleteRangeResponse, RangeResponse};

    #[test]
    fn fields_are_those_of_responses() {
        let kvs: Vec<KeyValue> = (0..300)
            .map(|number: usize| KeyValue {
                key: vec![b'k'; number].into(),
                value: vec![b'v'; number * number].into(),
                mod_revision: number as i64,
                ..KeyValue::default()
            })
            .collect();
        let encoded: EncodedKvs = kvs.iter().collect();
        assert_eq!(encoded.decode().unwrap(), kvs);
        assert_eq!(encoded.last_key().unwrap(), &kvs[299].key);
        let response = RangeResponse { kvs: kvs.clone(), ..RangeResponse::default() };
        let pieces: Vec<&[u8]> = encoded.range_response_field().map(|piece| &piece[..]).collect();
        assert!(pieces.len() > 1, "the example fills several pieces");
        assert_eq!(pieces.concat(), response.encode_to_vec());
        let response = DeleteRangeResponse { prev_kvs: kvs, ..DeleteRangeResponse::default() };
        let mut out = BytesMut::new();
        encoded.write_field(3, &mut out);
        assert_eq!(out, response.encode_to_vec());
        assert_eq!(out.len(), encoded.field_len(3));
        assert_eq!(EncodedKvs::default().iter().count(), 0);
    }
}
