//! The stored form of a lease in bucket `lease`.
//!
//! ```text
//! key:   lease id as u64be
//! value: leasepb.Lease { ID = 1 i64, TTL = 2 i64, RemainingTTL = 3 i64 }
//! ```
//!
//! Attached keys are not stored: they are found again from the records of the `key` bucket.
//!
//! **Source**: etcd `server/storage/schema/lease.go`.

use bytes::Bytes;
use prost::Message;
use types::LeaseId;

/// What is stored of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Id of the lease, never 0.
    pub id: LeaseId,
    /// Granted TTL.
    pub ttl_seconds: i64,
    /// Checkpointed rest of the TTL; 0 = none, the full TTL counts.
    pub remaining_ttl_seconds: i64,
}

/// A stored lease that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("lease record under key {key:02x?} does not decode")]
pub struct DecodeError {
    /// Key of the record in bucket `lease`.
    pub key: Vec<u8>,
    /// What the decoder said.
    #[source]
    pub source: prost::DecodeError,
}

/// Key of a lease in bucket `lease`.
pub fn record_key(id: LeaseId) -> Bytes {
    Bytes::copy_from_slice(&id.0.to_be_bytes())
}

/// Value of a lease in bucket `lease`.
pub fn encode_record(record: &Record) -> Bytes {
    let message = proto::leasepb::Lease {
        id: record.id.0,
        ttl: record.ttl_seconds,
        remaining_ttl: record.remaining_ttl_seconds,
    };
    message.encode_to_vec().into()
}

/// Reads a record of bucket `lease`. The id is the value's; the key only names a broken record.
pub fn decode_record(key: &[u8], value: &[u8]) -> Result<Record, DecodeError> {
    let message =
        proto::leasepb::Lease::decode(value).map_err(|source| DecodeError { key: key.to_vec(), source })?;
    Ok(Record {
        id: LeaseId(message.id),
        ttl_seconds: message.ttl,
        remaining_ttl_seconds: message.remaining_ttl,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Record of lease 1111111111111111, TTL 7200, as etcd 3.5.30 wrote it (fixture `clean-3.5.30`).
    const KEY: &[u8] = &[0x00, 0x03, 0xf2, 0x8c, 0xb7, 0x15, 0x71, 0xc7];
    const VALUE: &[u8] = &[0x08, 0xc7, 0xe3, 0xd5, 0xb8, 0xcb, 0xd1, 0xfc, 0x01, 0x10, 0xa0, 0x38];

    #[test]
    fn bytes_are_upstreams() {
        let record =
            Record { id: LeaseId(1_111_111_111_111_111), ttl_seconds: 7200, remaining_ttl_seconds: 0 };
        assert_eq!(decode_record(KEY, VALUE).unwrap(), record);
        assert_eq!(encode_record(&record), VALUE);
        assert_eq!(record_key(record.id), KEY);
        assert_eq!(record_key(LeaseId(-1))[..], [0xff; 8]);
    }

    #[test]
    fn a_broken_record_is_an_error_that_names_its_key() {
        let error = decode_record(KEY, b"\x08").unwrap_err();
        assert!(error.to_string().contains("00, 03, f2"), "{error}");
    }
}
